"""Jobs: order, failure, continuation."""

import sys
from pathlib import Path

import pytest

from clouds.errors import UserError
from clouds.experiments import runner
from clouds.experiments.runner import Job, digest, run_jobs


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


def test_a_failure_ends_the_others_and_keeps_what_is_done(tmp_path: Path) -> None:
    good = job(tmp_path, "good", "")
    bad = job(tmp_path, "bad", "raise SystemExit('error: no such thing.')", "good")
    slow = job(tmp_path, "slow", f"import time; time.sleep(60); {APPEND.format('x')}", "good")
    with pytest.raises(UserError, match=r"bad failed: no such thing \(.*bad/console\.txt has it all\)\."):
        run_jobs([good, slow, bad], workers=2)
    assert good.is_done
    assert not slow.is_done
    assert not (tmp_path / "order").exists()
    assert "$ " in (tmp_path / "bad/console.txt").read_text()


def test_a_need_that_is_no_job(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jobs: a needs nothing of the kind, which never gets done"):
        run_jobs([job(tmp_path, "a", "", "nothing of the kind")])


def test_progress_is_read_from_the_files(tmp_path: Path) -> None:
    training = Job("t", ("x",), tmp_path / "t", steps=50)
    assert training.steps_done() == 0
    (tmp_path / "t").mkdir()
    (tmp_path / "t/metrics.json").write_text('{"iteration": 19}\n{"iteration": 39}\n{"itera')
    assert training.steps_done() == 39
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
