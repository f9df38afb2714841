"""The dry run, and the check of the first iteration, with a small network and real files."""

import functools
import itertools
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from clouds.commands import train
from clouds.config import load_config
from clouds.engine import dry_run, preflight, trainer, training
from clouds.engine.preflight import Memory, Need, amount, count_evaluations, verdict
from clouds.engine.run import record
from clouds.engine.run.output_folder import LOCKS
from tests.engine.conftest import CLASSES, COLORS, write_images
from tests.engine.joint import JOINT, JOINT_MODULE, JointTrainer
from tests.engine.test_end_to_end import config  # noqa: F401

State = dict[Path, tuple[int, int, bytes]]


def state(folder: Path) -> State:
    """Return time of change, size and content of everything in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        found[path] = (stat.st_mtime_ns, stat.st_size, path.read_bytes() if path.is_file() else b"")
    return found


def table(output: str) -> list[str]:
    """Return the rows of the table in the output of a command."""
    rows = output.rpartition("Dry run\n")[2].splitlines()
    return list(itertools.takewhile(lambda row: row.startswith("  "), rows))


def logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> str:
    """Return the log since the last call, which goes to stdout or to pytest."""
    text = capfd.readouterr().out + caplog.text
    caplog.clear()
    return text


SHORT = ("SOLVER.MAX_ITER", "3", "TEST.EVAL_PERIOD", "0")


@pytest.fixture
def words(config: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:  # noqa: F811
    """Function of flags and config keys that returns the command line of a run in ``tmp_path/run``."""
    caplog.set_level("INFO")
    file = config()

    def line(*given: str) -> list[str]:
        first = next((number for number, word in enumerate(given) if "." in word), len(given))
        return ["--config-file", file, *given[:first], "OUTPUT_DIR", str(tmp_path / "run"), *given[first:]]

    return line


def test_a_dry_run_measures_and_writes_nothing(words, tmp_path, caplog, capfd):
    run = tmp_path / "run"
    before = set(Path.cwd().iterdir())
    assert train.main(words("--dry-run", "MODEL.SAVE_PSEUDO_LABELS", "True", "SOLVER.CHECKPOINT_PERIOD", "10")) == 0
    assert not run.exists()
    assert set(Path.cwd().iterdir()) == before
    output = logged(caplog, capfd)
    assert "sha256" not in output, "the digest of weights is that of a whole run"
    rows = table(output)
    assert re.fullmatch(r"  memory +[\d.]+ [MG]B of [\d.]+ GB  memory of the process, at its peak", rows[0])
    assert re.fullmatch(r"  time +0:\d\d:\d\d  30 iterations of \d+\.\d{3} s", rows[1])
    assert re.fullmatch(r"  time +0:\d\d:\d\d  4 x 3 images of plugin_val, \d+\.\d{3} s each", rows[2])
    disk = [row for row in rows if row.startswith("  disk")]
    assert re.search(rf"[\d.]+ [kM]B  {run}/pseudo_labels/plugin_val: label maps of plugin_val$", disk[0])
    assert re.search(rf"{run}: checkpoints: up to 2 and the final one, [\d.]+ [kM]B each$", disk[1])
    assert [row for row in rows if re.match(r"  free +[\d.]+ [GT]B  on the disk of ", row)]
    assert rows[-1].startswith(f"  writes                      {run}: run.json, config.yaml, log.txt, ")


@pytest.mark.slow
def test_the_files_that_are_named_are_written(words, tmp_path, caplog, capfd, monkeypatch):
    monkeypatch.setattr(dry_run, "git_state", lambda: ({}, b"a change"))
    monkeypatch.setattr(record, "git_state", lambda: ({"commit": "abc", "dirty": True}, b"a change"))
    run, seen = tmp_path / "run", set()
    for flags, iterations in (((), "3"), (("--resume",), "6"), (("--eval-only", "--resume"), "6")):
        opts = (*SHORT, "SOLVER.MAX_ITER", iterations, "DATALOADER.ON_ERROR", "skip")
        assert train.main(words(*flags, "--dry-run", *opts)) == 0
        [row] = [row for row in table(logged(caplog, capfd)) if row.startswith("  writes")]
        named = row.rpartition(": ")[2].split(", ")
        assert train.main(words(*flags, *opts)) == 0
        (run / "skipped.jsonl").touch()  # written when an image is skipped
        new = {path.name for path in run.iterdir()} - seen - {*LOCKS, *(path.name for path in run.glob("model_*"))}
        assert {name for name in new if not any(map(functools.partial(fnmatch, name), named))} == set()
        assert all(list(run.glob(name)) for name in named)
        seen |= new


def test_the_size_of_a_checkpoint_is_that_of_the_file(words, tmp_path, caplog, capfd):
    run = tmp_path / "run"
    assert train.main(words("--dry-run", *SHORT)) == 0
    said = re.search(r"the final one, ([\d.]+) MB each", logged(caplog, capfd))
    assert train.main(words(*SHORT)) == 0
    size = (run / "model_final.pth").stat().st_size
    assert float(said[1]) == pytest.approx(size / 1e6, rel=0.15), "small tensors have a large share of names"
    assert float(said[1]) * 1e6 <= size


@pytest.mark.slow
def test_an_earlier_run_stays_and_is_named(words, tmp_path, caplog, capfd):
    run = tmp_path / "run"
    assert train.main(words(*SHORT)) == 0
    before = state(run)
    caplog.clear()

    assert train.main(words("--dry-run", *SHORT)) == 0
    assert re.search(rf"  moves +\d+ files  of the earlier run to {run}/previous", logged(caplog, capfd))
    assert state(run) == before

    assert train.main(words("--dry-run", "--resume", *SHORT, "SOLVER.MAX_ITER", "9")) == 0
    output = logged(caplog, capfd)
    assert "Resumed at iteration 3" in output
    assert "6 iterations of" in output
    assert "  moves" not in output
    assert state(run) == before

    assert train.main(words("--dry-run", "--resume", *SHORT)) == 0, "a run that has ended is evaluated"
    assert not [row for row in table(logged(caplog, capfd)) if "iterations of" in row]
    assert state(run) == before

    assert train.main(words("--dry-run", "--eval-only", "--resume", *SHORT, "TEST.SHOWN_IMAGES", "3")) == 0
    output = logged(caplog, capfd)
    assert "model_final.pth" in output
    assert "1 x 3 images of plugin_val" in output
    assert "metrics_eval.json, evaluations" in output
    assert re.search(r"  disk +1\.2 MB  .*/run: files of the evaluations", output)
    assert state(run) == before


@pytest.mark.slow
def test_two_processes(words, tmp_path, capfd):
    assert train.main(words("--num-gpus", "2", "--dry-run")) == 0
    assert not (tmp_path / "run").exists()
    output = capfd.readouterr().out
    assert "memory of 2 processes" in output
    assert "4 x 3 images of plugin_val" in output


def test_joint_training_labels_generated_images(config, tiny_root, tmp_path, monkeypatch, caplog, capfd):  # noqa: F811
    caplog.set_level("INFO")
    file, run = config(), tmp_path / "run"
    (tmp_path / "plugin_for_dry_run.py").write_text(f"{CLASSES=}\n{COLORS=}\n{JOINT_MODULE}")
    if not (tiny_root / "generated").exists():
        write_images(tiny_root / "generated", 5, seed=2)
    batches = []

    class Watched(JointTrainer):
        def label(self, batch):
            batches.append([bool(each.get("is_generated")) for each in batch])
            return super().label(batch)

    words = [str(word) for word in (*JOINT, "OUTPUT_DIR", run, "DATASETS.MODULES", ("plugin_for_dry_run",))]
    args = train.parse_arguments(["--config-file", file, "--dry-run", *words])
    training.start(load_config(args.config_file, args.opts), args, Watched)
    assert batches == [[True, False, True, False]] * 2
    assert not run.exists()
    assert not (tmp_path / "output").exists()
    assert re.search(r"disk +[\d.]+ [kM]B  output/sam_cache: embeddings of SAM", logged(caplog, capfd))


def test_embeddings_of_sam_are_as_large_as_those_of_the_dry_run(tmp_path):
    sam = {"ENABLED": True, "MINIBATCH": True, "CACHE_DIR": tmp_path / "sam"}
    cfg = load_config(None, [word for key, value in sam.items() for word in (f"MODEL.CLOUDS.SAM.{key}", str(value))])
    loader = SimpleNamespace(records=[{"is_generated": True}] * 3 + [{}])
    (tmp_path / "dry").mkdir()

    def size(cache=None):
        (need,) = preflight.cache_need(cfg, loader, cache)
        return need.size

    assert size() == size(tmp_path / "dry") == 6 * 10.7e6, "SAM 3 has the largest; each image has a mirror image"
    (tmp_path / "dry/a.sam").write_bytes(bytes(200))
    assert size(tmp_path / "dry") == 1200
    (tmp_path / "sam").mkdir()
    (tmp_path / "sam/b.sam").write_bytes(bytes(300))
    assert size(tmp_path / "dry") == 900
    assert size() == 1500


def test_a_folder_that_cannot_be_made_is_one_sentence(config, tmp_path, sentence):  # noqa: F811
    (tmp_path / "file").write_text("")
    said = sentence(train.main, "--config-file", config(), "--dry-run", "OUTPUT_DIR", str(tmp_path / "file/run"))
    assert (
        said
        == f"{tmp_path}/file is a file, so {tmp_path}/file/run (OUTPUT_DIR) cannot be a folder: set OUTPUT_DIR anew."
    )


def test_a_training_that_runs_there_is_told(words, tmp_path, sentence):
    run = tmp_path / "run"
    run.mkdir()
    assert train.main(words("--dry-run")) == 0
    assert not list(run.iterdir())
    with FileLock(run / LOCKS[0]):
        said = sentence(train.main, *words("--dry-run"))
        assert said.startswith(f"Another training is running in {run} (OUTPUT_DIR)")
    assert train.main(words("--dry-run")) == 0


def test_the_first_iteration_stops_a_training_without_room(words, tmp_path, sentence, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(preflight, "free_space", lambda path: 50_000)
    assert re.fullmatch(
        rf"The disk of {run} has 50\.0 kB free, and the run needs at least [\d.]+ MB there "
        r"\(checkpoints: up to 3 and the final one, [\d.]+ MB each\): make room, or set OUTPUT_DIR to another disk or "
        r"SOLVER.CHECKPOINTS_KEPT lower, or train all the same with --force\.",
        sentence(train.main, *words(*SHORT)),
    )
    assert not list(run.glob("*.pth"))
    rows = (run / "metrics.json").read_text() if (run / "metrics.json").exists() else ""
    assert not rows, "no second iteration"


def test_force_and_what_is_only_likely(words, tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setattr(preflight, "free_space", lambda path: 50_000)
    assert train.main(words("--force", *SHORT)) == 0
    assert "The training goes on because of --force" in logged(caplog, capfd)
    # Enough for the final checkpoint, but not for those of every ten minutes.
    free = 1.5 * (tmp_path / "run/model_final.pth").stat().st_size
    monkeypatch.setattr(preflight, "free_space", lambda path: free)
    assert train.main(words(*SHORT)) == 0
    assert re.search(r"WARNING.*the run may need up to [\d.]+ MB there \(checkpoints: up to 3 ", logged(caplog, capfd))


def test_a_signal_ends_the_dry_run(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "stop_requested", lambda: "SIGTERM")
    assert train.main(words("--dry-run", *SHORT)) == 75
    assert capsys.readouterr().err.splitlines()[-1] == "The dry run was stopped; it has written nothing."
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("period", "last", "done", "expected"),
    [(10, 30, 0, 4), (10, 30, 10, 2), (10, 31, 0, 5), (0, 30, 0, 1), (10, 30, 30, 1)],
)
def test_evaluations_are_counted(tiny_cfg, period, last, done, expected):
    tiny_cfg.TEST.EVAL_PERIOD, tiny_cfg.SOLVER.MAX_ITER = period, last
    assert count_evaluations(tiny_cfg, done) == expected


def test_disks_are_checked_together(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "free_space", lambda path: 100)
    full = [Need(tmp_path / "a", "checkpoints", 90, 60), Need(tmp_path / "b", "embeddings", 70)]
    memory = Memory("memory of the process", 10, 100)
    failure, *warnings = verdict(full, memory)
    assert not failure
    assert warnings == [
        f"The disk of {tmp_path}/a has 0.1 kB free, and the run may need up to 0.2 kB there (checkpoints, embeddings)"
    ]
    assert verdict(full[1:], memory) == ("",)
    failure, *warnings = verdict([*full, Need(tmp_path, "more", 50, 50)], memory)
    assert failure.startswith(f"The disk of {tmp_path}/a has 0.1 kB free, and the run needs at least 0.1 kB")
    assert "97 B" not in failure


def test_scarce_memory_is_a_warning():
    assert verdict([], Memory("memory of the process", 94, 100)) == ("",)
    failure, warning = verdict([], Memory("memory of the process", 96, 100))
    assert not failure
    assert warning.startswith("memory of the process: 0.1 kB of 0.1 kB are used")
    assert verdict([], Memory("memory of the process", 96, None)) == ("",)


@pytest.mark.parametrize(("size", "text"), [(0, "0.0 kB"), (1.5e6, "1.5 MB"), (2e9, "2.0 GB"), (3.04e12, "3.0 TB")])
def test_amounts_have_units(size, text):
    assert amount(size) == text
