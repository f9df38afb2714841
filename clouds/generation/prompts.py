"""Prompt files: one prompt a line."""

import difflib
import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

from clouds.errors import UserError

logger = logging.getLogger(__name__)

MOST_WORDS = 300  # no text encoder of today reads more; a longer line is another kind of file
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def find_prompts(name: str) -> Path:
    """The prompt file of that name: a path, or the published stem, `prompt_llama70b` for `prompt_llama70b.txt`.

    Raises:
        UserError: there is neither; the nearest names that exist are given.
    """
    path = Path(name).expanduser()
    stem = path.with_name(f"{path.name}.txt")
    if path.is_file():
        return path
    if stem.is_file():
        return stem
    if path.is_dir():
        raise UserError(f"--input {name} is a folder; name a text file with a prompt a line.")
    folder = path.parent
    there = sorted(file.name for file in folder.glob("*.txt")) if folder.is_dir() else []
    near = ", ".join(difflib.get_close_matches(stem.name, there, n=3, cutoff=0)) or "none"
    raise UserError(f"There is no prompt file {stem} (--input {name}); text files in {folder.absolute()}: {near}.")


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file in its order, without surrounding spaces and blank lines.

    Raises:
        UserError: the file cannot be read, is not UTF-8 text, has no prompt or a line that is too long for one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"Prompt file {path} cannot be read ({error.strerror}); check its permissions.") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"Prompt file {path} is not UTF-8 text: see line {line}, byte {error.start}; save it as UTF-8."
        ) from error
    prompts = []
    for place, words in enumerate(text.splitlines(), 1):
        if found := _CONTROL.search(words):
            raise UserError(
                f"Prompt file {path} has the control character {found.group()!r} in line {place}; is it a text file?"
            )
        if (count := len(words.split())) > MOST_WORDS:
            raise UserError(
                f"Prompt file {path} has {count} words in line {place}, and a prompt at most {MOST_WORDS}; "
                "put one prompt a line."
            )
        if prompt := words.strip():
            prompts.append(prompt)
    if not prompts:
        raise UserError(f"Prompt file {path} has no prompt; put one a line.")
    twice = [prompt for prompt, count in Counter(prompts).items() if count > 1]
    if twice:
        logger.warning(f"{path}: {len(twice)} prompt(s) occur more than once, the first is {twice[0]!r}.")
    return prompts


def cut_text(tokenizer: Any, prompt: str) -> str:
    """The end of the prompt that a tokenizer of transformers cuts off, as it stands there; empty if there is none.

    The tokenizer takes `model_max_length` tokens, the marks of beginning and end included.
    """
    limit = tokenizer.model_max_length
    special = tokenizer.num_special_tokens_to_add()
    found = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = found["offset_mapping"]
    room = max(0, limit - special)
    return prompt[offsets[room][0] :].strip() if len(offsets) > room else ""
