"""The command ``clouds``: its overview, its words, and the usage that a command prints under it."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import clouds
from clouds.commands.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]


def test_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for argv in ([], ["--help"], ["-h"]):
        assert main(argv) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] == printed[2]
    assert re.findall(r"^  (\w+) +\S.*$", printed[0], re.MULTILINE) == list(COMMANDS)
    assert max(map(len, printed[0].splitlines())) < 80
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"clouds {clouds.__version__}\n"


@pytest.mark.parametrize(("word", "nearest"), [("trian", "train"), ("evaluate", "eval"), ("--num-gpus", "prompts")])
def test_an_unknown_word(word: str, nearest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word, "--help"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: The command line names {word!r}, which does not exist; the nearest that do: ")
    assert nearest in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("word", COMMANDS)
@pytest.mark.parametrize("program", ["/bin/clouds", "/bin/clouds.exe", str(ROOT / "clouds/__main__.py")])
def test_help_shows_the_command_that_was_typed(
    word: str, program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [program, word, "--help"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: clouds {word} [-h]")
    assert "%(" not in out
    assert "tools/" not in out

    monkeypatch.setattr(sys, "argv", [program, word, "--no-such-flag"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith(f"; see clouds {word} --help\n")


def test_eval_is_train_with_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr("clouds.commands.train.run", lambda cfg, args: given.append(args.eval_only))
    for word in ("train", "eval"):
        assert main([word, "--config-file", "configs/warmup/gta/train_gta.yaml"]) == 0
    assert given == [False, True]


def test_only_the_module_of_the_command_is_imported(tmp_path: Path) -> None:
    """Neither the other commands nor anything heavy."""
    code = """
import sys
from clouds.commands.main import main
try:
    main(["compare", "--help"])
except SystemExit:
    pass
loaded = [name for name in sys.modules if name.startswith("clouds.commands.")]
assert sorted(loaded) == ["clouds.commands.compare_runs", "clouds.commands.entry", "clouds.commands.main"], loaded
assert not {"numpy", "torch", "yaml"} & set(sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment, timeout=120)
    command = [sys.executable, "-m", "clouds", "trai"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the nearest that do: train" in done.stderr


def test_the_installed_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"clouds": f"{main.__module__}:{main.__name__}"}
