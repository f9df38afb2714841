"""Prompt files, and the unfinished files of their writer."""

import contextlib
import json
import random
import tempfile
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path
from unittest import mock

from clouds.errors import UserError
from clouds.generation import prompt_file
from clouds.generation.prompts import find_prompts, read_prompts
from clouds.generation.settings import ChatSettings
from clouds.generation.writing import Turn
from fuzzing.inputs.kind import Kind
from fuzzing.mutation import hostile_text, json_bytes, mutate_bytes, mutate_file, mutate_tree

_UNFINISHED = "written.txt.unfinished"
_SHIPPED = Path(__file__).resolve().parents[3] / "prompt_llama70b.txt"


@cache
def _lines() -> list[str]:
    return _SHIPPED.read_text(encoding="utf-8").splitlines()


def _write(folder: Path, rng: random.Random) -> str:
    """Write prompts.txt or what an interrupted writer has left, and return the name of the file."""
    name = rng.choice(("prompts.txt", _UNFINISHED))
    if name == _UNFINISHED:
        rows = [json.loads(line) for line in _unfinished().splitlines()]
        rows = mutate_tree(rng, rows, rng.choice((0, 1, 1, 2)))
        rows = rows if isinstance(rows, list) else [rows]
        content = b"".join(json_bytes(rng, row).replace(b"\n", b" ") + b"\n" for row in rows)
        content = mutate_bytes(rng, content, rng.choice((0, 0, 1, 2)))
    else:
        lines = rng.sample(_lines(), rng.choice((0, 1, 3, 20)))
        for _ in range(rng.choice((0, 1, 1, 3))):
            line = hostile_text(rng) if rng.random() < 0.5 or not lines else rng.choice(lines) + hostile_text(rng)
            lines.insert(rng.randrange(len(lines) + 1), line)
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
        content = mutate_bytes(rng, content, rng.choice((0, 1, 1, 3)))
    (folder / name).write_bytes(content)
    if rng.random() < 0.03:
        mutate_file(rng, folder / name)
    return name


@cache
def _unfinished() -> bytes:
    """Return a valid unfinished file, as the writer leaves it."""
    folder = Path(tempfile.mkdtemp(prefix="prompts-"))
    with contextlib.suppress(UserError):  # it is not finished
        _continue(folder, [Turn(0, _lines()[:2], Counter()), Turn(3, _lines()[2:3], Counter())])
    return (folder / _UNFINISHED).read_bytes()


def _continue(folder: Path, turns: list[Turn]) -> None:
    """Continue to write prompts, with a chat model that answers with `turns`."""
    with (
        mock.patch.object(prompt_file, "ChatModel"),
        mock.patch.object(prompt_file, "write_prompts", return_value=turns),
        mock.patch("open_clip.SimpleTokenizer"),
        mock.patch.object(prompt_file, "tqdm"),
    ):
        prompt_file.write_prompt_file(folder / "written.txt", ChatSettings("somewhere"), num_prompts=4)


def _has_control(text: str) -> bool:
    return any(unicodedata.category(letter) == "Cc" and letter != "\t" for letter in text)


def _read(folder: Path, name: str) -> None:
    if name == _UNFINISHED:
        _continue(folder, [Turn(9, _lines()[5:9], Counter())])
        prompts = read_prompts(find_prompts(str(folder / "written")))
    else:
        prompts = read_prompts(find_prompts(str(folder / "prompts")))
    if broken := [prompt for prompt in prompts if len(prompt.splitlines()) != 1 or _has_control(prompt)]:
        raise AssertionError(f"a prompt of several lines or with control characters was accepted: {broken[0]!r:.200}")


KIND = Kind(_write, _read)
