"""Prompt files, valid and invalid, and prompts that are too long for a text encoder."""

import logging
import re
from pathlib import Path

import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.data.classes import CITYSCAPES_CLASSES, short_name
from clouds.errors import UserError
from clouds.generation.prompts import find_prompts, read_prompts, truncated_text
from tests.generation.pipelines import LENGTH, tokenizer

ROOT = Path(__file__).resolve().parents[2]
WORDS = tokenizer()


def write(folder: Path, data: bytes) -> Path:
    path = folder / "prompts.txt"
    path.write_bytes(data)
    return path


def test_by_stem_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, b"a street\n")
    monkeypatch.chdir(tmp_path)
    assert find_prompts("prompts").resolve() == path
    assert find_prompts("prompts.txt").resolve() == path
    assert find_prompts(str(tmp_path / "prompts")) == path
    with pytest.raises(UserError, match=r"no prompt file prompt\.txt .*: prompts\.txt\.$"):
        find_prompts("prompt")
    with pytest.raises(UserError, match="is a folder"):
        find_prompts(str(tmp_path))


def test_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeff  a street \r\n\r\n  \r\nune rue mouillée\n".encode())
    assert read_prompts(path) == ["a street", "une rue mouillée"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "has no prompt"),
        (b"\n  \n", "has no prompt"),
        (b"a street\n\xff\xfe\n", "is not UTF-8 text: see line 2, byte 9"),
        (b"a street\n" + b"word " * 2000, "has 2000 words in line 2"),
        (b"a\x00b", r"control character '\\x00' in line 1"),
    ],
)
def test_bad_files(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_prompts(write(tmp_path, data))


def test_twice_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(read_prompts(write(tmp_path, b"a\nb\na\n"))) == 3
    assert "1 prompt(s) occur more than once, the first is 'a'" in caplog.text


@given(st.lists(st.sampled_from(["a", "bus", "street", "xy"]), min_size=1, max_size=40))
def test_cut(words: list[str]) -> None:
    prompt = " ".join(words)
    cut = truncated_text(WORDS, prompt)
    assert prompt.endswith(cut)
    kept = prompt.removesuffix(cut).strip()
    assert len(WORDS(kept).input_ids) <= LENGTH
    fits = len(WORDS(prompt).input_ids) <= LENGTH
    assert fits == (cut == "")
    if cut:
        assert len(WORDS(f"{kept} a").input_ids) > LENGTH


def test_our_prompts() -> None:
    prompts = read_prompts(ROOT / "prompt_llama70b.txt")
    assert len(prompts) == len(set(prompts)) == 100
    encode = open_clip.SimpleTokenizer().encode
    assert max(len(encode(prompt)) for prompt in prompts) <= 75


@pytest.mark.parametrize("name", CITYSCAPES_CLASSES, ids=short_name)
def test_our_prompts_name_every_class(name: str) -> None:
    also = {
        "road": "street|avenue|highway",
        "building": "house|shop",
        "vegetation": "tree|hedge",
        "terrain": "grass|field|hill|lawn",
        "sky": "cloud",
        "person": "people|pedestrian",
        "rider": "cyclist",
        "train": "tram",
    }
    pattern = re.compile("|".join([re.escape(short_name(name)), *also.get(short_name(name), "^$").split("|")]))
    assert sum(bool(pattern.search(prompt)) for prompt in read_prompts(ROOT / "prompt_llama70b.txt")) >= 5


@pytest.mark.parametrize(
    "words",
    [
        *("rain|drizzle", "snow|blizzard", "fog|mist|haze", "sun|bright|clear", "cloud|overcast|grey", "storm"),
        *("night", "dusk|sunset|evening", "dawn|morning", "noon|midday|daylight|afternoon"),
    ],
)
def test_our_prompts_have_every_weather_and_time(words: str) -> None:
    assert sum(bool(re.search(words, prompt)) for prompt in read_prompts(ROOT / "prompt_llama70b.txt")) >= 3
