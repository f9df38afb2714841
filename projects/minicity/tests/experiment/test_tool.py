"""The experiment from the first drawing to the report, as small as it gets."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from minicity.paths import PROJECT

from clouds.commands.main import main as clouds
from clouds.experiments import run as command
from clouds.experiments.jobs import Job
from tests.commands import ROOT, script

write_stable_diffusion = script("tests/generation/pipelines.py").write_stable_diffusion

tool = script("projects/minicity/tools/experiment.py")
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


def small_plan(place: Path) -> Path:
    """The plan of the README with few images, and another generator."""
    (place / "prompts.txt").write_text("a busy street\na street at night\n")
    text = (PROJECT / "configs/plans/readme.yaml").read_text().replace("../", f"{PROJECT}/configs/")
    plan = yaml.safe_load(text.replace("sd_minicity_120", "sd_minicity_2"))
    plan["prepare"]["scenes"]["command"] += " --num-train 4 --num-val 2"
    plan["prepare"]["images"] |= {
        "command": f"clouds generate --folder sd_minicity_2 --num-images 2 --steps 2 "
        f"--model {write_stable_diffusion(place / 'model')} --input {place / 'prompts.txt'}",
        "inputs": [str(place / "model"), str(place / "prompts.txt")],
    }
    (place / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    return place / "plan.yaml"


@pytest.mark.slow
def test_experiment(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run_jobs", run_here)
    argv = ["experiment", str(small_plan(place)), "--output", str(place / "out"), "--seeds", "1", "--rows", "joint"]
    argv += SMALL
    assert clouds(argv) == 0
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
    assert "a street at night" in report
    assert not re.search(r"(src|href)=.(?!data:|#)", report)

    # Given again, nothing is trained again.
    weights = {path: path.stat().st_mtime_ns for path in place.glob("out/*/seed1/model_final.pth")}
    assert len(weights) == 2
    assert clouds(argv) == 0
    assert {path: path.stat().st_mtime_ns for path in weights} == weights


@pytest.mark.parametrize(
    ("flags", "jobs", "output"),
    [
        ([], 3 + 4, "output/experiment"),
        (["--readme"], 3 + 5 * 6, "output/experiment_readme"),
        (["--full", "--seeds", "1"], 5 + 11, "output/experiment_full"),
        (["--adapters", "--rows", "lora,frozen", "SOLVER.MAX_ITER", "7"], 2 + 3 * 2, "output/experiment_adapters"),
    ],
)
def test_each_plan_has_its_rows_seeds_and_folder(
    place: Path, flags: list[str], jobs: int, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["minicity", *flags, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == jobs
    assert f"{output}/frozen/seed1" in "\n".join(lines)
    if "SOLVER.MAX_ITER" in flags:
        assert sum("/7 " in line for line in lines) == 6
