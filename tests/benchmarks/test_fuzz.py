"""`make fuzz` in miniature, and what it must find: tracebacks, bad messages, hangs, crashes, writes outside."""

import os
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from clouds.errors import UserError
from clouds.utils.atomic import write_atomically

Module = Callable[[str], ModuleType]


def hang(folder: Path) -> None:
    while True:
        time.sleep(1)


def crash(folder: Path) -> None:
    os.abort()


def traceback(folder: Path) -> None:
    raise KeyError("iteration")


def write_above(folder: Path) -> None:
    (folder.parent / "outside").write_text("x")


def write_through_a_link(folder: Path) -> None:
    (folder / "link").symlink_to(folder.parent)
    (folder / "link" / "outside").write_text("x")


def rename_above(folder: Path) -> None:
    (folder / "inside").write_text("x")
    (folder / "inside").rename(folder.parent / "outside")


def make_a_folder_above(folder: Path) -> None:
    (folder.parent / "outside").mkdir()


def run_a_program(folder: Path) -> None:
    subprocess.run(["true"], check=True)


def long_message(folder: Path) -> None:
    error = UserError(f"{folder}: short")
    error.args = (f"{folder}: {'long ' * 200}",)
    raise error


def message_of_two_lines(folder: Path) -> None:
    error = UserError("short")
    error.args = (f"{folder}: one\ntwo",)
    raise error


def message_about_nothing(folder: Path) -> None:
    raise UserError("It does not work: repair it.")


def accept(folder: Path) -> None:
    (folder / "inside").mkdir()
    (folder / "inside" / "x.txt").write_text("x")
    (folder / "inside" / "x.txt").rename(folder / "y.txt")


def refuse(folder: Path) -> None:
    raise UserError(f"{folder / 'x.txt'} is damaged: repair it.")


def refuse_to_write(folder: Path) -> None:
    (folder / "x.txt").mkdir()
    write_atomically(folder / "x.txt", "x")


def refuse_a_key(folder: Path) -> None:
    raise UserError("SOLVER.MAX_ITER must be 1 or more, not 0.")


EXPECTED = {
    hang: "hang",
    crash: "crash",
    traceback: "traceback",
    write_above: "outside",
    write_through_a_link: "outside",
    rename_above: "outside",
    make_a_folder_above: "outside",
    run_a_program: "outside",
    long_message: "message",
    message_of_two_lines: "message",
    message_about_nothing: "message",
    accept: "accepted",
    refuse: "refused",
    refuse_to_write: "refused",
    refuse_a_key: "refused",
}


def test_what_is_found(module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz, kind = module("fuzz"), module("fuzzing.inputs.kind")
    for read in EXPECTED:
        planted = kind.Kind(lambda folder, rng: None, lambda folder, _, read=read: read(folder), kind.KEYS)
        monkeypatch.setitem(module("fuzzing.inputs").KINDS, read.__name__, planted)
    pool = module("fuzzing.pool")
    cases = [pool.Case(read.__name__, 0, number) for read in EXPECTED for number in (0, 1)]
    outcomes = list(pool.run_cases(cases, workers=2, timeout=1, failures=tmp_path / "failures"))
    found = {outcome.case: outcome.verdict.what for outcome in outcomes}
    assert found == {case: EXPECTED[globals()[case.kind]] for case in cases}
    kept = {path.name for path in (tmp_path / "failures").iterdir()}
    assert kept == {str(case) for case in cases if found[case] not in ("accepted", "refused")}
    assert "KeyError: 'iteration'" in (tmp_path / "failures/traceback-0-1/verdict.txt").read_text()
    assert "in hang" in (tmp_path / "failures/hang-0-0/verdict.txt").read_text()
    listed = fuzz.failure_list([outcome for outcome in outcomes if not outcome.verdict.is_right])
    assert "2 traceback: KeyError in outside clouds" in listed
    assert "--only traceback --seed 0 --case 0" in listed


def test_a_case_is_repeated_exactly(module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = module("fuzzing.pool")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("configs", "images", "labels", "prompts", "datasets"):
        folders = [tmp_path / f"{name}{turn}" / "x" for turn in range(2)]
        for folder in folders:
            folder.mkdir(parents=True)
            module("fuzzing.inputs").KINDS[name].write(folder, random.Random("case"))
        first, second = ({path.name: path.read_bytes() for path in folder.rglob("*.*")} for folder in folders)
        assert first == second
        assert first
    assert str(pool.Case("images", 3, 7)) == "images-3-7"


def test_mutations_end_and_change(module: Module) -> None:
    mutation = module("fuzzing.mutation")
    tree: dict[str, Any] = {"a": [1, {"b": "text"}], "c": {"d": None, "e": 2.5}, "f": True}
    rng = random.Random(0)
    kept = repr(tree)
    mutated = [mutation.mutate_tree(rng, tree, 2) for _ in range(500)]
    assert repr(tree) == kept
    data = bytes(range(256)) * 4
    assert sum(mutation.mutate_bytes(rng, data) != data for _ in range(200)) > 190
    assert all(isinstance(mutation.mutate_bytes(rng, b"", 3), bytes) for _ in range(200))
    assert len({mutation.json_bytes(rng, each) for each in mutated}) > 300


@pytest.mark.slow
def test_no_input_fails(module: Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first inputs of `make fuzz`."""
    words = ["--inputs", "200", "--workers", "2", "--failures", str(tmp_path / "failures")]
    code = module("fuzz").main(words)
    printed = capsys.readouterr().out
    assert re.search(r"^\| \*\*all\*\* \| 200 \| ", printed, re.MULTILINE), printed
    assert code == 0, printed
    assert [*tmp_path.iterdir()] == []


def test_one_input_is_read_again(module: Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--only", "prompts", "--case", "3", "--failures", str(tmp_path)]
    before = tempfile.gettempdir()
    assert module("fuzz").main(words) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(("accepted", "refused"))
    assert str(tmp_path / "repeated" / "prompts-0-3") in printed
    assert tempfile.gettempdir() == before
