"""docs/CONFIG.md is what its generator writes, and it has every key with its range and meaning."""

import runpy
from pathlib import Path

from clouds.config.defaults import IGNORED_KEYS, IGNORED_SECTIONS
from clouds.config.reference import meanings, reference
from clouds.config.schema import RULES
from tests.config.keys import KNOWN

FILE = Path(__file__).resolve().parents[2] / "docs" / "CONFIG.md"


def test_the_document_is_up_to_date():
    written = FILE.read_text(encoding="utf-8")
    assert written == reference(), "write it again: python -m clouds.config.reference > docs/CONFIG.md"


def test_the_module_writes_the_document(capsys):
    runpy.run_path(reference.__code__.co_filename, run_name="__main__")
    assert capsys.readouterr().out == reference()


def test_every_key_is_in_one_row():
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(KNOWN)
    for key, row in zip(KNOWN, rows, strict=True):
        cells = row.strip("| ").split(" | ")
        assert len(cells) == 5
        assert cells[2] == f"`{KNOWN[key]!r}`"
        assert cells[3] == (RULES[key].wanted if key in RULES else "True or False")


def test_ignored_keys_are_named():
    text = reference()
    assert all(f"`{key}`" in text for key in IGNORED_KEYS)
    assert all(f"`{section}.*`" in text for section in IGNORED_SECTIONS)


def test_meanings_are_the_comments():
    found = meanings()
    assert found["SOLVER.MAX_ITER"] == "number of iterations"  # on the line of the key
    assert found["MODEL.CLOUDS.SAM.CACHE_SIZE"].startswith("GB; above this size the least")  # above the key
    assert found["MODEL.CLOUDS.SAM.CACHE_SIZE"].endswith("images take 21 GB.")
    assert found["MODEL.CLOUDS.SAM.MINIBATCH"].startswith("switch")  # not the comment above its section
