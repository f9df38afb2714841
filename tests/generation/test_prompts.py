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
    with pytest.raises(UserError, match=r"no prompt file prompt\.txt .* is prompts\.txt\.$"):
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
        (b"a street\n" + b"word " * 590, "has 590 words in line 2"),
        (b"a street\n" + b"x" * 3001, "has 3001 characters in line 2"),
        (b"a\x00b", r"control character '\\x00' in line 1"),
        (b"a street\nbus\x0bin rain\n", r"control character '\\x0b' in line 2"),
        (b"bus\x0cin rain\n", r"control character '\\x0c' in line 1"),
        (b"bus\x1ein rain\n", r"control character '\\x1e' in line 1"),
        (b"bus\rsnow\r", r"control character '\\r' in line 1"),
        ("bus\x9bsnow".encode(), r"control character '\\x9b' in line 1"),
        ("bus\n\ufeffsnow\n".encode(), r"control character '\\ufeff' in line 2"),
        ("a street\n".encode("utf-16"), "is not UTF-8 text: see line 1, byte 0"),
        ("a street\n".encode("utf-16-le"), r"control character '\\x00' in line 1"),
        (b"bus\n" * (10**6 + 1), "has 1,000,001 prompts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_files(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_prompts(write(tmp_path, data))


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_line_separator_of_unicode_does_not_make_two_prompts(tmp_path: Path, separator: str) -> None:
    path = write(tmp_path, f"a street{separator}in rain{separator}\nbus\n".encode())
    assert read_prompts(path) == ["a street in rain", "bus"]


@given(st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=4))
def test_a_file_has_at_most_a_prompt_per_line(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = write(tmp_path_factory.getbasetemp(), "\n".join(lines).encode(errors="replace"))
    try:
        prompts = read_prompts(path)
    except UserError:
        return
    assert len(prompts) <= sum(line.count("\n") + 1 for line in lines)
    assert all(prompt.splitlines() == [prompt] for prompt in prompts)


def test_twice_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(read_prompts(write(tmp_path, b"a\nb\na\n"))) == 3
        assert len(read_prompts(write(tmp_path, "caf\u00e9\ncafe\u0301\n".encode()))) == 2
    assert "1 prompt(s) occur more than once, the first is 'a'" in caplog.text
    assert "1 prompt(s) occur more than once, the first is 'caf\u00e9'" in caplog.text


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
