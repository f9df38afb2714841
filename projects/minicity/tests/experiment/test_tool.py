"""The experiment from the first drawing to the report, as small as it gets."""

import json
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from minicity.experiment import run as experiment

from clouds.commands.main import main as clouds
from clouds.experiments.jobs import Job
from clouds.experiments.runner import run_jobs
from clouds.utils.signals import stop_requested
from tests.commands import ROOT, script

write_stable_diffusion = script("tests/generation/pipelines.py").write_stable_diffusion

command = script("projects/minicity/tools/experiment.py")
main = command.main
SMALL = ["INPUT.CROP_SIZE", "(64,64)", "INPUT.TEST_SHORT_EDGE", "64", "DATALOADER.NUM_WORKERS", "0"]
SMALL += ["MODEL.CLOUDS.SAM.SIZE_THRESHOLD", "50", "MODEL.CLOUDS.PANEL_PERIOD", "1"]
SMALL += ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"]


def run_here(jobs: Sequence[Job], **_: object) -> None:
    """Run the commands of jobs in this process, which has imported torch already."""
    for job in jobs:
        if not job.is_done:
            job.begin()
            if job.command[1:3] == ("-m", "clouds"):
                assert clouds(list(job.command[3:])) == 0
            else:
                assert script(job.command[1]).main(list(job.command[2:])) == 0
            job.finish(1.0)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    monkeypatch.chdir(ROOT)
    return tmp_path


def flags(place: Path) -> list[str]:
    (place / "prompts.txt").write_text("a busy street\na street at night\n")
    sizes = ["--num-train", "4", "--num-val", "2", "--images", "2", "--steps", "2", "--workers", "2"]
    model = ["--model", str(write_stable_diffusion(place / "model")), "--prompts", str(place / "prompts.txt")]
    return ["minicity", "--output", str(place / "out"), *sizes, *model]


def test_experiment(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    argv = [*flags(place), "--rows", "joint", *SMALL]
    assert main(argv) == 0
    table = (place / "out/table.txt").read_text()
    for row in ("constant", "color and position", "CLIP, frozen", "+ SAM's refinement"):
        assert f"\n{row}" in table
    for words in ("unseen mean", "full_resolution", "less — CLIP, frozen"):
        assert words in table
    scores = json.loads((place / "out/scores.json").read_text())["trained"]
    assert {key: list(runs) for key, runs in scores.items()} == {"frozen": ["1"], "joint": ["1"]}
    # The second started where the first ended, and trained on the generated images.
    warmup, joint = (torch.load(place / f"out/{key}/seed1/model_final.pth")["model"] for key in ("frozen", "joint"))
    assert warmup.keys() == joint.keys()
    assert not all(torch.equal(value, joint[name]) for name, value in warmup.items())
    log = (place / "out/joint/seed1/log.txt").read_text()
    assert "frozen/seed1/model_final.pth" in log
    assert "sd_minicity_2" in log
    report = (place / "out/report.html").read_text()
    titles = (
        "Results",
        "Classes",
        "Predictions",
        "Generated images",
        "Pseudo-labels",
        "Training",
        "How it was measured",
    )
    for title in titles:
        assert f">{title}</h2>" in report
    assert "a street at night" in report
    assert report.count("data:image/") > 6 * 2 * 4
    assert not re.search(r"(src|href)=.(?!data:|#)", report)

    # Given again, nothing is trained again.
    weights = {path: path.stat().st_mtime_ns for path in place.glob("out/*/seed1/model_final.pth")}
    assert len(weights) == 2
    assert main(argv) == 0
    assert {path: path.stat().st_mtime_ns for path in weights} == weights


@pytest.mark.parametrize(
    ("flags", "ablation", "seeds", "output"),
    [
        ([], None, 1, "output/experiment"),
        (["--full"], "full", 3, "output/experiment_full"),
        (["--adapters"], "adapters", 3, "output/experiment_adapters"),
        (["--adapters", "--seeds", "2", "--output", "x"], "adapters", 2, "x"),
    ],
)
def test_each_ablation_has_its_seeds_and_folder(flags: list[str], ablation: str, seeds: int, output: str) -> None:
    args = command.parse_arguments(["minicity", *flags])
    assert (args.ablation, args.seeds, args.output) == (ablation, seeds, Path(output))
    assert args.ablation in experiment.ROWS


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["SOLVER.MAX_ITERS", "2"], "SOLVER.MAX_ITER"),
        (["--model", "no/such/folder"], "There is no no/such/folder"),
        (["--rows", "frozen,jiont"], "--rows names jiont"),
        (["DATASETS.TEST", "('minicity_sim_val',)"], "leave DATASETS.TEST out"),
    ],
)
def test_a_mistake_is_told_before_anything_is_drawn(
    place: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags(place), *argv]) == 2
    assert message in capsys.readouterr().err
    assert not (place / "data").exists()


def test_stopped_it_says_how_to_go_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask_and_run(*args: Any, **kwargs: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        while stop_requested() is None:
            time.sleep(0.01)
        run_jobs(*args, **kwargs)

    monkeypatch.setattr(experiment, "run_jobs", ask_and_run)
    assert main([*flags(place), *SMALL]) == 75
    said = "Stopped by SIGTERM: jobs that are done stay done, and the same command goes on with the others."
    assert capsys.readouterr().err.splitlines()[-1] == said
