"""Prompt files: one prompt per line."""

import difflib
import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

from clouds.errors import UserError

logger = logging.getLogger(__name__)

MAX_LINE_WORDS = 300  # more than any text encoder reads: a longer line means that the file holds something else
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def find_prompts(name: str) -> Path:
    """Return the path of a prompt file.

    Args:
        name: path, or path without `.txt`, as in the published command: `prompt_llama70b`.

    Raises:
        UserError: the file does not exist; the message lists the text files with the most similar names.
    """
    path = Path(name).expanduser()
    stem = path.with_name(f"{path.name}.txt")
    if path.is_file():
        return path
    if stem.is_file():
        return stem
    if path.is_dir():
        raise UserError(f"--input {name} is a folder; name a text file with one prompt per line.")
    folder = path.parent
    there = sorted(file.name for file in folder.glob("*.txt")) if folder.is_dir() else []
    near = ", ".join(difflib.get_close_matches(stem.name, there, n=3, cutoff=0)) or "none"
    raise UserError(f"There is no prompt file {stem} (--input {name}); text files in {folder.absolute()}: {near}.")


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a file in their order, without surrounding spaces and blank lines.

    Raises:
        UserError: the file cannot be read, is not UTF-8 text, has no prompt, or has a line that is too long.
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
    for number, words in enumerate(text.splitlines(), 1):
        if found := _CONTROL.search(words):
            raise UserError(
                f"Prompt file {path} has the control character {found.group()!r} in line {number}; is it a text file?"
            )
        if (count := len(words.split())) > MAX_LINE_WORDS:
            raise UserError(
                f"Prompt file {path} has {count} words in line {number}, and a prompt has at most {MAX_LINE_WORDS}; "
                "put one prompt on each line."
            )
        if prompt := words.strip():
            prompts.append(prompt)
    if not prompts:
        raise UserError(f"Prompt file {path} has no prompt; put one prompt on each line.")
    twice = [prompt for prompt, count in Counter(prompts).items() if count > 1]
    if twice:
        logger.warning(f"{path}: {len(twice)} prompt(s) occur more than once, the first is {twice[0]!r}.")
    return prompts


def truncated_text(tokenizer: Any, prompt: str) -> str:
    """Return the end of a prompt that a transformers tokenizer cuts off; empty if it reads the whole prompt.

    The tokenizer keeps `model_max_length` tokens, including those for the start and the end of the text.
    """
    limit = tokenizer.model_max_length
    special = tokenizer.num_special_tokens_to_add()
    found = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = found["offset_mapping"]
    room = max(0, limit - special)
    return prompt[offsets[room][0] :].strip() if len(offsets) > room else ""
