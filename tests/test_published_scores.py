"""`docs/benchmarks.md`: sources, means, commands and protocols of the published scores."""

import re
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pytest

from clouds.config import load_config
from clouds.data.protocols import build_protocols
from tests.snippets import ROOT, commands

DOCUMENT = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
SCORES = ("C", "B", "M", "night", "fog", "rain", "snow", "test server")
PROTOCOLS = {path.stem for path in (ROOT / "configs/protocols").glob("*.yaml")}


@dataclass(frozen=True)
class Section:
    """Text below a heading, up to the next one.

    Attributes:
        chapter: heading of the second level.
        rows: rows of its tables, each as a dict of column and cell.
        commands: words of each command; the name is the comment above it.
    """

    chapter: str
    rows: list[dict[str, str]]
    commands: dict[str, list[str]]


def tables(text: str) -> list[dict[str, str]]:
    """Return the rows of all tables of a text."""
    rows = []
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        header, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        rows += [dict(zip(header, line, strict=True)) for line in lines]
    return rows


def sections() -> list[Section]:
    found, chapter = [], ""
    for part in re.split(r"^(?=##+ )", DOCUMENT, flags=re.MULTILINE):
        heading = part.partition("\n")[0]
        if heading.startswith("## "):
            chapter = heading.removeprefix("## ").strip("`")
        script = "".join(re.findall(r"^```sh\n(.*?)^```", part, re.DOTALL | re.MULTILINE))
        names = re.findall(r"^# (.*)$", script, re.MULTILINE)
        # A block may have one command that belongs to no row.
        found.append(Section(chapter, tables(part), dict(zip(names or [""], commands(script), strict=bool(names)))))
    return found


SECTIONS = sections()
ROWS = [(section, row) for section in SECTIONS for row in section.rows if "ours" in row]
COMMANDS = [(section.chapter, words) for section in SECTIONS for words in section.commands.values()]


def is_mean(numbers: list[str], mean: str) -> bool:
    """Whether a mean is that of some numbers, all rounded to the digits that they have."""
    units = [10.0 ** -len(number.partition(".")[2]) for number in (*numbers, mean)]
    tolerance = fmean(units[:-1]) / 2 + units[-1] / 2
    return abs(fmean(map(float, numbers)) - float(mean)) <= tolerance + 1e-9


def test_is_mean() -> None:
    assert is_mean(["60.2", "57.4", "67.0"], "61.5")
    assert is_mean(["60.2", "57.4", "67.0"], "61.6")  # of 60.24, 57.44, 67.04
    assert not is_mean(["60.2", "57.4", "67.0"], "61.7")
    assert not is_mean(["60.20", "57.40", "67.00"], "61.50")


def test_rows_have_sources_scores_and_means() -> None:
    sources = {row["source"]: row for row in tables(DOCUMENT) if "published in" in row}
    assert all(row["paper"] and row["published in"] for row in sources.values())
    assert len(ROWS) > 30
    for _, row in ROWS:
        assert row["source"] in sources, row
        assert set(row["seen"].split(", ")) <= {"a", "n", "c"}, row
        assert row["trained"] == "?" or re.fullmatch(r"0|[\d.-]+ M", row["trained"]), row
        numbers = [row[name] for name in SCORES if row.get(name, "–") != "–"]
        mean = row.get("mean", "–")
        assert numbers or mean != "–", row
        assert all(0 < float(number) < 100 for number in numbers)
        if len(numbers) == sum(name in row for name in SCORES) and mean != "–":
            assert is_mean(numbers, mean), row
    used = {row["source"] for _, row in ROWS}
    assert used == sources.keys()


def test_a_row_that_can_be_run_has_a_command() -> None:
    for section in SECTIONS:
        names = [row["method"] for row in section.rows if row.get("ours") == "not run"]
        assert [*section.commands] == names or not section.rows
    assert all(re.match(r"no config$|not run\b|\d", row["ours"]) for _, row in ROWS)


@pytest.mark.parametrize(("chapter", "words"), COMMANDS)
def test_commands_name_a_config_and_a_protocol(chapter: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`tests/test_snippets.py` parses the commands."""
    monkeypatch.chdir(ROOT)
    assert words[:3] in (["clouds", "train", "--config-file"], ["clouds", "submit", "--config-file"])
    assert Path(words[3]).is_file()
    if words[1] == "submit":  # its protocol is that of the server
        return
    names = [protocol.name for protocol in build_protocols(load_config(words[3], words[4:]))]
    assert "TEST.PROTOCOLS" in words
    assert set(names) <= PROTOCOLS
    assert chapter not in PROTOCOLS or names[0] == chapter


def test_all_protocols_are_explained() -> None:
    explained = {row["protocol"].strip("`") for row in tables(DOCUMENT) if "protocol" in row}
    assert explained == PROTOCOLS
