"""Prompt files: one prompt per line."""

import logging
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from clouds.errors import UserError
from clouds.generation.plan import MAX_PROMPTS
from clouds.utils.paths import user_path
from clouds.utils.resources import find_file, similar_file

logger = logging.getLogger(__name__)

MAX_LINE_WORDS = 300  # more than any text encoder reads: a longer line means that the file holds something else
MAX_LINE_CHARACTERS = 3000
# Separators of lines in Unicode, but not in files: one prompt that contains one stays one prompt.
_SEPARATORS = re.compile("[\x85\u2028\u2029]")
# A byte order mark inside the text comes from files that were joined.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")


def find_prompts(name: str) -> Path:
    """Return the path of a prompt file.

    Args:
        name: path, or path without `.txt`, as in the published command: `prompt_llama70b`. A file that comes with this
            package has its name in the repository.

    Raises:
        UserError: the file does not exist; the message names the text file with the most similar name.
    """
    text = f"{name}.txt"
    for path in (find_file(name), find_file(text)):
        if path.is_file():
            return path
    if user_path(name).is_dir():
        raise UserError(f"--input {name} is a folder; name a text file with one prompt per line.")
    raise UserError(f"There is no prompt file {user_path(text)} (--input {name}){similar_file(text)}.")


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a file in their order, without surrounding spaces and blank lines.

    A line ends with a line feed, before which a carriage return is dropped. Other line separators of Unicode become
    spaces.

    Raises:
        UserError: the file cannot be read, is not UTF-8 text, has no prompt or too many, or has a line that is too long
            or contains a control character.
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
    for number, words in enumerate(text.split("\n"), 1):
        prompt = _SEPARATORS.sub(" ", words).strip()
        _check_line(path, number, prompt)
        if prompt:
            prompts.append(prompt)
    if not prompts:
        raise UserError(f"Prompt file {path} has no prompt; put one prompt on each line.")
    if len(prompts) > MAX_PROMPTS:
        raise UserError(f"Prompt file {path} has {len(prompts):,} prompts, and a set has at most {MAX_PROMPTS:,}.")
    # Text encoders read the composed and the decomposed form of a letter alike.
    counts = Counter(unicodedata.normalize("NFC", prompt) for prompt in prompts)
    twice = [prompt for prompt, count in counts.items() if count > 1]
    if twice:
        logger.warning(f"{path}: {len(twice)} prompt(s) occur more than once, the first is {twice[0]!r}.")
    return prompts


def _check_line(path: Path, number: int, prompt: str) -> None:
    if found := _CONTROL.search(prompt):
        raise UserError(
            f"Prompt file {path} has the control character {found.group()!r} in line {number}; is it a text file?"
        )
    for count, bound, unit in (
        (len(prompt), MAX_LINE_CHARACTERS, "characters"),
        (len(prompt.split()), MAX_LINE_WORDS, "words"),
    ):
        if count > bound:
            raise UserError(
                f"Prompt file {path} has {count} {unit} in line {number}, and a prompt has at most {bound}; put one "
                "prompt on each line."
            )


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
