"""Jobs of an experiment."""

from pathlib import Path

import pytest

from clouds.errors import UserError
from clouds.experiments.jobs import Job
from clouds.experiments.plan import Variant, build_jobs, load_configs


@pytest.fixture
def variants(tmp_path: Path) -> list[Variant]:
    (tmp_path / "a.yaml").write_text("SOLVER: {MAX_ITER: 10}\n")
    (tmp_path / "b.yaml").write_text("_BASE_: a.yaml\nSOLVER: {MAX_ITER: 5}\n")
    return [
        Variant("a", "A", tmp_path / "a.yaml"),
        Variant("b", "B", tmp_path / "b.yaml", ("SOLVER.BASE_LR", "0.5"), after="a", needs=("images",)),
    ]


def planned(tmp_path: Path, variants: list[Variant], *settings: str, images: str = "") -> dict[str, Job]:
    jobs = build_jobs(
        variants,
        [1, 2],
        configs=load_configs(variants, settings),
        root=tmp_path,
        output=tmp_path / "out",
        settings=settings,
        prepared=[Job("images", ("paint",), tmp_path / "images", inputs=images)],
    )
    return {job.name: job for job in jobs}


def test_jobs(tmp_path: Path, variants: list[Variant]) -> None:
    jobs = planned(tmp_path, variants, "TEST.EVAL_PERIOD", "7")
    assert list(jobs) == ["images", "a 1", "b 1", "a 2", "b 2"]
    assert jobs["b 2"].needs == ("a 2", "images")
    assert (jobs["a 1"].needs, jobs["a 1"].steps, jobs["b 1"].steps) == ((), 10, 5)
    command = jobs["b 2"].command
    assert command[1:7] == ("-m", "clouds", "train", "--config-file", str(tmp_path / "b.yaml"), "--resume")
    assert dict(zip(command[7::2], command[8::2], strict=True)) == {
        "SOLVER.BASE_LR": "0.5",
        "TEST.EVAL_PERIOD": "7",
        "SEED": "2",
        "OUTPUT_DIR": str(tmp_path / "out/b/seed2"),
        "MODEL.WEIGHTS": str(tmp_path / "out/a/seed2/model_final.pth"),
    }
    assert jobs["b 2"].folder == tmp_path / "out/b/seed2"


def changed(before: dict[str, Job], after: dict[str, Job]) -> list[str]:
    return [name for name in before if before[name].inputs != after[name].inputs]


def test_inputs_cover_configs_weights_and_what_a_job_needs(tmp_path: Path, variants: list[Variant]) -> None:
    before = planned(tmp_path, variants)
    assert changed(before, planned(tmp_path, variants)) == []
    assert changed(before, planned(tmp_path, variants, images="x")) == ["images", "b 1", "b 2"]
    (tmp_path / "b.yaml").write_text("_BASE_: a.yaml\nSOLVER: {MAX_ITER: 6}\n")
    assert changed(before, planned(tmp_path, variants)) == ["b 1", "b 2"]
    (tmp_path / "a.yaml").write_text("SOLVER: {MAX_ITER: 11}\n")
    assert changed(before, planned(tmp_path, variants)) == ["a 1", "b 1", "a 2", "b 2"]

    (tmp_path / "clip.json").write_text("{}")
    (tmp_path / "a.yaml").write_text("MODEL: {CLOUDS: {CLIP_MODEL_NAME: clip.json}}\n")
    before = planned(tmp_path, variants)
    (tmp_path / "clip.json").write_text('{"embed_dim": 8}')
    assert changed(before, planned(tmp_path, variants)) == ["a 1", "b 1", "a 2", "b 2"]


def test_a_misspelt_setting_is_reported(variants: list[Variant]) -> None:
    with pytest.raises(UserError, match=r"SOLVER\.MAX_ITER"):
        load_configs(variants, ["SOLVER.MAX_ITERS", "3"])
