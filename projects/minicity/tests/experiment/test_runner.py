"""The plan of the experiment, how its jobs run and go on, and its statistics."""

import itertools
import json
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minicity.experiment import runner as experiment
from minicity.experiment.rows import COMPARED, FULL, SMALLEST, with_images
from minicity.experiment.runner import (
    Job,
    Variant,
    digest,
    last_line,
    paired_difference,
    plan,
    read_scores,
    run_jobs,
    spread,
    unseen_mean,
)

from clouds.errors import UserError

CONFIGS = Path(__file__).resolve().parents[4] / "projects/minicity/configs"


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "_POLL", 0.02)


@pytest.mark.parametrize("variants", [SMALLEST, FULL], ids=["smallest", "full"])
def test_every_row_comes_after_the_one_it_begins_with(variants: tuple[Variant, ...]) -> None:
    keys = [variant.key for variant in variants]
    assert len(set(keys)) == len(keys)
    for number, variant in enumerate(variants):
        assert (CONFIGS / variant.config).is_file()
        assert variant.after is None or variant.after in keys[:number]
    groups = [variant.group for variant in variants]
    assert all(groups)
    assert sum(one != other for one, other in itertools.pairwise(groups)) == len(set(groups)) - 1
    assert {key for pair in COMPARED for key in pair} <= {variant.key for variant in FULL}


def test_fewer_generated_images_are_what_the_rows_say_and_learn_from() -> None:
    rows = {row.key: row for row in with_images(FULL, 60)}
    assert [row.images for row in rows.values() if row.images] == [60] * 3
    assert rows.keys() == {row.key for row in FULL} - {"joint_few", "joint_many"}
    settings = dict(zip(rows["joint"].training[::2], rows["joint"].training[1::2], strict=True))
    assert float(settings["DATASETS.TARGET_FACTOR"]) * 60 == pytest.approx(100)
    assert {row.key: row.title for row in with_images(FULL, 1000)}["joint_many"] == "joint training, 480 images"


def planned(tmp_path: Path, seeds: list[int], **inputs: str) -> list[Job]:
    variants = (Variant("a", "A", "a.yaml"), Variant("b", "B", "b.yaml", ("X", "1"), after="a", images=7))
    return plan(
        variants,
        seeds,
        root=Path("/code"),
        output=tmp_path,
        configs=Path("/configs"),
        generate=("--steps", "3"),
        generated_folder=Path("/sd"),
        iterations={"a": 10, "b": 5},
        inputs={"generation": "", "a": "", "b": "", **inputs},
        settings=("Y", "2"),
    )


def test_plan(tmp_path: Path) -> None:
    jobs = {job.name: job for job in planned(tmp_path, [1, 2])}
    assert list(jobs) == ["sd_minicity_7", "a 1", "b 1", "a 2", "b 2"]
    assert jobs["sd_minicity_7"].command[1:] == (
        *("/code/generate_txt_im.py", "--folder", "sd_minicity_7", "--num-images", "7", "--steps", "3"),
    )
    assert jobs["sd_minicity_7"].folder == Path("/sd/sd_minicity_7")
    assert jobs["b 2"].needs == ("a 2", "sd_minicity_7")
    assert (jobs["a 1"].needs, jobs["a 1"].steps, jobs["b 1"].steps) == ((), 10, 5)
    command = jobs["b 2"].command
    assert command[1:5] == ("/code/train_net.py", "--config-file", "/configs/b.yaml", "--resume")
    settings = dict(zip(command[5::2], command[6::2], strict=True))
    assert settings == {
        "X": "1",
        "Y": "2",
        "SEED": "2",
        "OUTPUT_DIR": str(tmp_path / "b/seed2"),
        "MODEL.WEIGHTS": str(tmp_path / "a/seed2/model_final.pth"),
        "DATASETS.TRAIN": "('minicity_sim_train', 'sd_minicity_7')",
        "DATASETS.TARGET_FACTOR": str(100 / 7),
    }


def test_what_a_command_only_names_decides_too_whether_it_is_done(tmp_path: Path) -> None:
    done = {each.name: each for each in planned(tmp_path, [1])}
    for changed, others in (
        ({"a": "x"}, ["sd_minicity_7"]),
        ({"b": "x"}, ["sd_minicity_7", "a 1"]),
        ({"generation": "x"}, ["a 1"]),
    ):
        again = {each.name: each for each in planned(tmp_path, [1], **changed)}
        assert [name for name in done if again[name].inputs == done[name].inputs] == others
    done["a 1"].begin()
    done["a 1"].finish(1.0)
    assert planned(tmp_path, [1])[1].is_done
    assert not planned(tmp_path, [1], a="x")[1].is_done


def test_digest_sees_texts_and_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/one").write_text("1")
    before = digest("text", tmp_path / "folder")
    assert before == digest("text", tmp_path / "folder") != digest("other", tmp_path / "folder")
    assert digest("text", tmp_path / "folder/one") != digest("text")
    (tmp_path / "folder/README.md").write_text("a card")
    assert digest("text", tmp_path / "folder") == before
    (tmp_path / "folder/one").write_text("2")
    assert digest("text", tmp_path / "folder") != before


def job(tmp_path: Path, name: str, code: str, *needs: str) -> Job:
    """Runs Python code, which finds the folder of all jobs as the working folder's name `here`."""
    return Job(name, (sys.executable, "-c", f"here = {str(tmp_path)!r}\n{code}"), tmp_path / name, needs)


APPEND = "open(here + '/order', 'a').write({!r})"


@pytest.mark.parametrize("workers", [1, 3])
def test_jobs_run_after_what_they_need_and_once(tmp_path: Path, workers: int) -> None:
    jobs = [
        job(tmp_path, "c", APPEND.format("c"), "a", "b"),
        job(tmp_path, "a", APPEND.format("a")),
        job(tmp_path, "b", f"import time; time.sleep(0.3); {APPEND.format('b')}", "a"),
    ]
    run_jobs(jobs, workers=workers)
    assert (tmp_path / "order").read_text() == "abc"
    assert all(each.is_done and each.seconds >= 0 for each in jobs)
    run_jobs(jobs, workers=workers)
    assert (tmp_path / "order").read_text() == "abc"
    # Another command in the same folder is another job.
    other = job(tmp_path, "a", APPEND.format("A"))
    assert not other.is_done
    run_jobs([other], workers=workers)
    (tmp_path / "a/model_final.pth").touch()
    run_jobs([job(tmp_path, "a", APPEND.format("A"))], workers=workers)
    assert (tmp_path / "order").read_text() == "abcA"
    assert (tmp_path / "a/model_final.pth").exists()
    # It finds an empty folder: going on with a training of other settings would be neither.
    run_jobs([job(tmp_path, "a", APPEND.format("B"))], workers=workers)
    assert not (tmp_path / "a/model_final.pth").exists()
    assert (tmp_path / "a.2/model_final.pth").exists()
    assert (tmp_path / "a.1/console.txt").exists()


def test_a_failure_is_told_ends_the_others_and_keeps_what_is_done(tmp_path: Path) -> None:
    good = job(tmp_path, "good", "")
    bad = job(tmp_path, "bad", "import sys; sys.exit('error: no such thing.')", "good")
    slow = job(tmp_path, "slow", f"import time; time.sleep(60); {APPEND.format('x')}", "good")
    with pytest.raises(UserError, match=r"bad failed: no such thing \(.*bad/console\.txt has it all\)\."):
        run_jobs([good, slow, bad], workers=2)
    assert good.is_done
    assert not slow.is_done
    assert not (tmp_path / "order").exists()
    assert "$ " in (tmp_path / "bad/console.txt").read_text()


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


def test_scores_are_those_of_the_last_evaluation(tmp_path: Path) -> None:
    rows = [
        {"iteration": 5, "minicity_sim_val/sem_seg/mIoU": 1.0},
        {"iteration": 9, "minicity_sim_val/sem_seg/mIoU": 40.0, "minicity_fog_val/sem_seg/mIoU": 20.0}
        | {"minicity_fog_val/sem_seg/IoU-road": 70.0, "minicity_rain_val/sem_seg/mIoU": 10.0, "total_loss": 3.0},
    ]
    (tmp_path / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = read_scores(tmp_path)
    assert scores["minicity_fog_val"] == {"mIoU": 20.0, "IoU-road": 70.0}
    assert unseen_mean(scores) == 15.0
    with pytest.raises(UserError, match="has no evaluation"):
        read_scores(tmp_path / "elsewhere")
    assert last_line(tmp_path / "no") is None


values = st.floats(-100, 100)


@given(st.lists(values, min_size=2, max_size=8), st.floats(-10, 10))
def test_a_constant_difference_has_no_error(numbers: list[float], gain: float) -> None:
    seeds = dict(enumerate(numbers))
    found = paired_difference("x", {seed: value + gain for seed, value in seeds.items()}, seeds)
    assert found.mean == pytest.approx(gain, abs=1e-9)
    assert found.error == pytest.approx(0, abs=1e-9)
    assert found.count == len(numbers)


def test_statistics_by_hand() -> None:
    found = spread([1.0, 2.0, 6.0])
    assert (found.mean, found.std, found.count) == (3.0, pytest.approx(math.sqrt((4 + 1 + 9) / 2)), 3)
    assert math.isnan(spread([5.0]).std)
    difference = paired_difference("x", {1: 3.0, 2: 5.0, 3: 10.0, 9: 0.0}, {1: 2.0, 2: 3.0, 3: 4.0})
    assert (difference.mean, difference.count) == (3.0, 3)
    assert difference.error == pytest.approx(math.sqrt((4 + 1 + 9) / 2) / math.sqrt(3))
