"""All commands: they answer --help without torch, and name the package that is missing."""

import ast
import contextlib
import errno
import importlib.metadata
import os
import re
import select
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from clouds.commands import entry
from clouds.commands.entry import DEPENDENCIES, EXTRAS, user_errors

ROOT = Path(__file__).resolve().parents[2]
GTA = str(ROOT / "configs/warmup/gta/train_gta.yaml")
SCRIPTS = [
    "train_net.py",
    "generate_txt_im.py",
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "tools").rglob("*.py")),
]
HEAVY = ("torch", "torchvision", "open_clip", "transformers", "diffusers", "cv2", "scipy", "matplotlib")


def python(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CLOUDS_D2": "bundled", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_and_errors_need_no_torch() -> None:
    """All scripts run in one process in which the heavy packages cannot be imported."""
    code = f"""
import os, runpy, sys
for name in {HEAVY}:
    sys.modules[name] = None
def run(script, *argv):
    sys.argv = [script, *argv]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        return stop.code
for script in {SCRIPTS}:
    assert run(script, "--help") == 0, script
    assert run(script, "--no-such-flag") == 2, script
assert run("train_net.py", "--config-file", {GTA!r}, "SOLVER.BASE_LRR", "1") == 2
assert run("tools/predict.py", "--config-file", {GTA!r}, "no.png", "--output", "x") == 2
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(SCRIPTS)
    for words in (
        "--eval-only",
        "Train or evaluate a CLOUDS network.",
        "Predict the label maps of images and videos.",
        "GT/LABELS/",
    ):
        assert words in done.stdout


@pytest.mark.parametrize(
    "arguments", [["train_net.py", "--help"], ["tools/predict.py", "--config-file", GTA, "a.png", "--output", "x"]]
)
def test_a_wrong_seam_is_one_sentence(arguments: list[str]) -> None:
    done = python(*arguments, CLOUDS_D2="detectron3")
    assert done.returncode == 2
    assert done.stderr.startswith("error: CLOUDS_D2=detectron3 in the environment is not known")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_without_an_environment_says_how_to_make_one(script: str) -> None:
    """-S hides the installed packages; the scripts at the root find clouds beside them, but not its dependencies."""
    work = ["--folder", "set", "--stats"] if script == "generate_txt_im.py" else ["--help"]
    done = python("-S", script, *work, PYTHONPATH="")
    missing = {"train_net.py": "yaml", "generate_txt_im.py": "numpy"}.get(script, "clouds")
    assert done.stderr.startswith(f"error: No module named '{missing}': install CLOUDS and its dependencies with: ")
    assert done.stderr.endswith("pip install -r requirements.txt -e .\n")
    assert done.returncode in (1, 2)


def test_a_missing_package_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    @user_errors
    def main(name: str) -> int:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    assert main("cv2") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: No module named 'cv2'") and "pip install -r requirements.txt -e ." in said
    for name, extra in EXTRAS.items():
        assert main(f"{name}.part") == 2
        said = capsys.readouterr().err
        assert said == f"error: No module named '{name}.part': install it with: pip install -e '.[{extra}]'\n"
    with pytest.raises(ModuleNotFoundError):
        main("my_streets")
    with pytest.raises(ModuleNotFoundError):
        main("clouds.no_such_module")


def test_the_declared_packages_are_the_known_ones() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    declared = {normalized(re.split(r"[<>=!~ ;\[]", line)[0]) for line in lines if line and line[0] not in "#-"}
    of_import = importlib.metadata.packages_distributions()
    found = {normalized(of_import[name][0]) for name in DEPENDENCIES}
    assert found == declared - {"kornia-rs"}  # its absence is handled


def test_every_extra_of_an_optional_package_installs_it() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, extra in EXTRAS.items():
        assert name in {re.split(r"[<>=\[]", requirement)[0] for requirement in extras[extra]}


def test_every_package_that_is_imported_is_declared() -> None:
    optional = {"detectron2", "kornia_rs", "triton", *EXTRAS}
    not_imported = {"accelerate", "torchvision"}  # diffusers, transformers, open_clip and timm import them
    imported = set()
    for path in (ROOT / "clouds").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module)
    roots = {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names) - {"clouds"}
    if "torch.utils.tensorboard" in imported:
        roots.add("tensorboard")
    assert roots - optional == DEPENDENCIES - not_imported


def normalized(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted.\n"),
        *(
            (OSError(number, os.strerror(number), "a\nb"), 2, f"error: a\\nb cannot be used ({os.strerror(number)}): ")
            for number in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENAMETOOLONG)
        ),
    ],
)
def test_what_the_machine_does_is_no_traceback(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    @user_errors
    def main() -> int:
        raise error

    assert main() == code
    printed = capsys.readouterr().err
    assert printed.startswith(said)
    assert printed.count("\n") == 1


def test_other_errors_keep_their_traceback() -> None:
    @user_errors
    def main(error: BaseException) -> int:
        raise error

    broken_elsewhere = BrokenPipeError(errno.EPIPE, "Broken pipe")
    missing = FileNotFoundError(errno.ENOENT, "No such file", "x")
    for error in (missing, broken_elsewhere, OSError("no number"), ValueError("a defect")):
        with pytest.raises(type(error)):
            main(error)


# A command as the scripts start it; the first word of the command line is what it does.
COMMAND = """
import logging, sys, time
from clouds.commands.entry import user_errors
@user_errors
def main():
    logging.basicConfig(stream=sys.stdout, level=logging.INFO)
    if sys.argv[1] == "wait":
        sys.stdout.write("ready\\n"); sys.stdout.flush(); time.sleep(100)
    for number in range(20000):
        logging.info(number) if sys.argv[1] == "log" else sys.stdout.write(f"{number} \\udcff \\u00fc\\n")
    sys.stderr.write("done\\n")
    return 0
sys.exit(main())
"""


def command(word: str, redirection: str = "") -> "subprocess.CompletedProcess[str]":
    line = f'set -o pipefail; "$0" -c "$1" {word} {redirection}'
    return subprocess.run(
        ["bash", "-c", line, sys.executable, COMMAND],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("word", "redirection", "code", "printed"),
    [
        ("print", "", 0, "done\n"),
        ("print", ">&-", 0, "done\n"),
        ("print", "2>&-", 0, ""),
        ("print", "| head -1", 141, ""),  # as other programs
        ("log", "| head -1", 0, "done\n"),  # a training goes on
    ],
)
def test_streams(word: str, redirection: str, code: int, printed: str) -> None:
    done = command(word, redirection)
    assert (done.returncode, done.stderr) == (code, printed)


def test_interrupt() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "wait"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert (process.wait(timeout=60), process.stderr.read()) == (130, "error: interrupted.\n")


@pytest.mark.parametrize("has_poll", [True, False])
def test_a_pipe_that_nobody_reads_is_found(has_poll: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_poll:  # Windows
        monkeypatch.delattr(select, "poll")
    with (tmp_path / "file").open("w", encoding="utf-8") as file:
        assert not entry._is_broken(file)
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as pipe:
        pipe.write("x")
        assert not entry._is_broken(pipe)
        pipe.write("x")
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            pipe.flush()
        assert entry._is_broken(pipe)
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
