"""Jobs: order, failure, continuation."""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import pytest

from clouds.errors import UserError, WriteError
from clouds.experiments import runner
from clouds.experiments.jobs import Job, digest
from clouds.experiments.runner import run_jobs, worker_devices
from clouds.utils.signals import Stopped


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_POLL", 0.02)


def job(tmp_path: Path, name: str, code: str, *needs: str, inputs: str = "") -> Job:
    """A job that runs Python code, in which `here` is the folder of all jobs."""
    command = (sys.executable, "-S", "-c", f"here = {str(tmp_path)!r}\n{code}")
    return Job(name, command, tmp_path / name, needs, inputs=inputs)


APPEND = "open(here + '/order', 'a').write({!r})"


@pytest.mark.parametrize("workers", [1, 3])
def test_jobs_run_once_and_after_what_they_need(tmp_path: Path, workers: int) -> None:
    jobs = [
        job(tmp_path, "c", APPEND.format("c"), "a", "b"),
        job(tmp_path, "a", APPEND.format("a")),
        job(tmp_path, "b", f"import time; time.sleep(0.2); {APPEND.format('b')}", "a"),
    ]
    run_jobs(jobs, workers=workers)
    assert (tmp_path / "order").read_text() == "abc"
    assert all(each.is_done and each.seconds >= 0 for each in jobs)
    run_jobs(jobs, workers=workers)
    assert (tmp_path / "order").read_text() == "abc"


def test_another_command_in_a_folder_is_another_job(tmp_path: Path) -> None:
    run_jobs([job(tmp_path, "a", APPEND.format("a"))])
    other = job(tmp_path, "a", APPEND.format("A"))
    assert not other.is_done
    run_jobs([other])
    (tmp_path / "a/model_final.pth").touch()
    run_jobs([other])
    assert (tmp_path / "order").read_text() == "aA"
    assert (tmp_path / "a/model_final.pth").exists()
    # It finds an empty folder: a training with other settings cannot be continued.
    run_jobs([job(tmp_path, "a", APPEND.format("A"), inputs="x")])
    assert not (tmp_path / "a/model_final.pth").exists()
    assert (tmp_path / "a.2/model_final.pth").exists()
    assert (tmp_path / "a.1/console.txt").exists()


def test_an_interrupted_job_keeps_its_folder(tmp_path: Path) -> None:
    one = job(tmp_path, "a", APPEND.format("a"))
    one.begin()
    (one.folder / "checkpoint").touch()
    assert not one.is_done
    run_jobs([one])
    assert (one.folder / "checkpoint").exists()
    assert one.is_done


def test_a_failure_ends_only_the_jobs_that_need_it(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "bad", "raise SystemExit('error: no such thing.')"),
        job(tmp_path, "after", APPEND.format("x"), "bad"),
        job(tmp_path, "later", APPEND.format("x"), "after"),
        job(tmp_path, "good", APPEND.format("g")),
    ]
    message = r"bad failed, and 2 that need it did not start: no such thing \(.*bad/console\.txt has it all\)\."
    with pytest.raises(UserError, match=message):
        run_jobs(jobs)
    assert (tmp_path / "order").read_text() == "g"
    assert [each.name for each in jobs if each.is_done] == ["good"]
    assert "$ " in (tmp_path / "bad/console.txt").read_text()


def test_several_failures_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^2 jobs failed: a \(it printed nothing \(.*\)\), and b\.$"):
        run_jobs([job(tmp_path, name, "raise SystemExit(3)") for name in "ab"])


def test_a_job_that_was_stopped_ends_the_others(tmp_path: Path) -> None:
    """It has saved its work, so the experiment was asked to stop as well, through this job."""
    slow = job(tmp_path, "slow", f"import time; time.sleep(60); {APPEND.format('x')}")
    with pytest.raises(Stopped, match="stopped was stopped by a signal: the same command goes on with it"):
        run_jobs([slow, job(tmp_path, "stopped", "raise SystemExit(75)")], workers=2)
    assert not (tmp_path / "order").exists()


def test_a_job_of_a_killed_experiment_is_waited_for(tmp_path: Path) -> None:
    """It goes on when the experiment is killed, and still has the lock on its output."""
    one = job(tmp_path, "a", f"import time; print('begun', flush=True); time.sleep(1); {APPEND.format('1')}")
    process = one.start(os.environ, None)  # as the killed experiment did
    while "begun" not in one.console.read_text():
        time.sleep(0.01)
    assert one.is_elsewhere
    run_jobs([job(tmp_path, "a", f"import time; print('begun', flush=True); time.sleep(1); {APPEND.format('1')}")])
    assert process.wait() == 0
    assert (tmp_path / "order").read_text() == "11", "one after the other: --resume makes the second one short"
    assert not one.is_elsewhere


DEVICES = "import os, time; open(here + '/order', 'a').write(os.environ['CUDA_VISIBLE_DEVICES'] + ' '); time.sleep(0.5)"


@pytest.mark.parametrize(
    ("named", "per_job", "expected"),
    [
        (None, 1, ["0", "1", "2", "3"]),
        (None, 2, ["0,1", "2,3"]),
        (None, 3, ["0,1,2"]),
        ("4,GPU-7,5,6", 2, ["4,GPU-7", "5,6"]),
    ],
)
def test_workers_have_gpus_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None, per_job: int, expected: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    devices = worker_devices(per_job)
    assert devices == expected
    names = [str(index) for index in range(len(devices))]
    run_jobs([job(tmp_path, name, DEVICES) for name in names], workers=len(devices), devices=devices)
    assert sorted((tmp_path / "order").read_text().split()) == sorted(expected)


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match="--gpus-per-job is 3, but this machine has 2"):
        worker_devices(3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert worker_devices(3) == []


def test_the_started_command_may_differ_from_the_one_that_is_recorded(tmp_path: Path) -> None:
    """A training continues with another number of GPUs."""
    one = job(tmp_path, "a", APPEND.format("1"))
    other = dataclasses.replace(one, started=job(tmp_path, "a", APPEND.format("2")).command)
    run_jobs([other])
    assert one.is_done
    assert (tmp_path / "order").read_text() == "2"


def test_a_failure_without_words_names_the_signal(tmp_path: Path) -> None:
    killed = job(tmp_path, "a", "import os, signal\nprint('step 7', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)")
    for _ in range(2):  # given again, it says it again
        with pytest.raises(UserError, match="a failed: it was ended by SIGKILL, and at last: step 7 "):
            run_jobs([killed])
    silent = job(tmp_path, "b", "raise SystemExit(3)")
    with pytest.raises(UserError, match=r"b failed: it printed nothing \("):
        run_jobs([silent])


def test_a_training_whose_evaluation_was_lost_is_completed(tmp_path: Path) -> None:
    """Its process ended well, but the record has no evaluation: the command is given again, with --resume."""
    losses, scores = '{"iteration": 3, "total_loss": 1}', '{"iteration": 4, "val/sem_seg/mIoU": 30}'
    code = f"open(here + '/a/metrics.json', 'a').write({scores!r} + chr(10)); {APPEND.format('a')}"
    training = dataclasses.replace(job(tmp_path, "a", code), is_evaluated=True)
    training.begin()
    training.finish(1.0)
    (training.folder / "metrics.json").write_text(losses + "\n")
    assert not training.is_done
    run_jobs([training])
    assert training.is_done
    run_jobs([training])
    assert (tmp_path / "order").read_text() == "a"
    assert (training.folder / "metrics.json").read_text() == f"{losses}\n{scores}\n"


@pytest.mark.parametrize(
    "content",
    ["", "[1]", "null", '{"command"', "[" * 100_000, '{"seconds": "long"}', '{"seconds": NaN}', "\udcff", "1e999"],
)
def test_a_damaged_state_belongs_to_nobody(tmp_path: Path, content: str) -> None:
    one = job(tmp_path, "a", APPEND.format("a"))
    one.begin()
    (one.folder / "checkpoint").touch()
    (one.folder / "job.json").write_bytes(content.encode(errors="surrogateescape"))
    assert not one.is_done
    run_jobs([one])
    assert one.is_done
    assert not (one.folder / "checkpoint").exists()
    assert (tmp_path / "a.1/checkpoint").exists()


def test_seconds_of_another_type_are_none(tmp_path: Path) -> None:
    one = job(tmp_path, "a", "")
    one.begin()
    state = json.loads((one.folder / "job.json").read_text())
    for seconds in ("long", [], {}, None, True, -1.5):
        (one.folder / "job.json").write_text(json.dumps(state | {"seconds": seconds}))
        assert not one.is_done
        assert one.steps_done() == 0


def test_what_cannot_be_started_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(WriteError, match=r"a cannot be written \(another file has its name\): move that file away"):
        run_jobs([job(tmp_path, "a", "")])
    (tmp_path / "b/console.txt").mkdir(parents=True)
    with pytest.raises(WriteError, match=r"console\.txt cannot be written \(a folder has its name\)"):
        run_jobs([job(tmp_path, "b", "")])
    with pytest.raises(UserError, match=r"c failed: it cannot be started: no-such-program \(No such file"):
        run_jobs([Job("c", ("no-such-program",), tmp_path / "c")])


def test_a_need_that_is_no_job(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jobs: a needs nothing of the kind, which never gets done"):
        run_jobs([job(tmp_path, "a", "", "nothing of the kind")])


def test_progress_is_read_from_the_files(tmp_path: Path) -> None:
    training = Job("t", ("x",), tmp_path / "t", steps=50)
    assert training.steps_done() == 0
    (tmp_path / "t").mkdir()
    (tmp_path / "t/metrics.json").write_text('{"iteration": 19}\n{"iteration": 39}\n{"itera')
    assert training.steps_done() == 39
    for row in ('{"iteration": "a"}', '{"iteration": 1e400}', '{"iteration": -3}', '{"iteration": [1]}', '{"a": 1}'):
        (tmp_path / "t/metrics.json").write_text(row)
        assert training.steps_done() == 0
    training.finish(1.0)
    assert training.steps_done() == 50
    painting = Job("p", ("x",), tmp_path / "p", steps=9)
    (tmp_path / "p/images").mkdir(parents=True)
    (tmp_path / "p/images/im_0_p0.png").touch()
    assert painting.steps_done() == 1


def test_digest_sees_texts_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/one").write_text("1")
    before = digest("text", tmp_path / "folder")
    assert before == digest("text", tmp_path / "folder") != digest("other", tmp_path / "folder")
    assert digest("text", tmp_path / "folder/one") != digest("text")
    (tmp_path / "folder/README.md").write_text("a card")
    assert digest("text", tmp_path / "folder") == before
    (tmp_path / "folder/one").write_text("2")
    assert digest("text", tmp_path / "folder") != before
