"""`clouds experiment`: plans that are run, killed, continued, selected and submitted, on tiny data."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from clouds.commands import train
from clouds.commands.experiment import main, parse_seeds
from clouds.commands.report import main as report
from clouds.errors import UserError
from clouds.experiments import run as command
from clouds.experiments.experiment import set_up
from clouds.experiments.jobs import Job
from clouds.experiments.plan_file import read_plan
from clouds.experiments.runner import run_jobs
from tests.engine.conftest import write_images
from tests.engine.test_end_to_end import write_config

pytestmark = pytest.mark.slow

PLAN = """\
title: A tiny experiment
output: out
seeds: 2
settings: {SOLVER.MAX_ITER: 2, TEST.EVAL_PERIOD: 0}
prepare:
  note: {command: "python note.py {output}/base.json"}
rows:
  first: {title: first row, config: tiny.yaml, needs: [note]}
  second: {title: second row, config: tiny.yaml, after: first, settings: {SOLVER.BASE_LR: 0.001}}
compare: [[second, first]]
unseen: [plugin_val]
baselines: "{output}/base.json"
headings: {plugin_val: val}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `plan.yaml`."""
    write_images(tmp_path / "data/train", 4, seed=1)
    write_images(tmp_path / "data/val", 2, seed=2)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write_config(tmp_path / "tiny.yaml", plugin="plugin_of_experiment")
    (tmp_path / "note.py").write_text(
        'import pathlib, sys\npathlib.Path(sys.argv[1]).write_text(\'{"constant": {"plugin_val": 12.5}}\')\n'
    )
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def in_this_process(most: int = 100) -> Callable[..., None]:
    """A function in place of `run_jobs` that trains here, which has imported torch already; at most `most` jobs."""

    def run(jobs: Sequence[Job], **_: object) -> None:
        waiting = [job for job in jobs if not job.is_done]
        for job in waiting[:most]:
            if job.command[1:4] == ("-m", "clouds", "train"):
                job.begin()
                assert train.main(list(job.command[4:])) == 0
                job.finish(1.0)
            else:
                run_jobs([job])
        if waiting[most:]:
            raise UserError(f"{waiting[most].name} failed: as the test wants it.")

    return run


def trained(place: Path) -> dict[str, int]:
    return {
        path.parent.relative_to(place / "out").as_posix(): path.stat().st_mtime_ns
        for path in place.glob("out/*/seed*/model_final.pth")
    }


def test_a_plan_is_run_continued_and_reported(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "run_jobs", in_this_process(3))
    assert main(["plan.yaml"]) == 2
    assert capsys.readouterr().err.endswith("error: first 2 failed: as the test wants it.\n")
    assert trained(place).keys() == {"first/seed1", "second/seed1"}
    assert "second row: only the seeds 1." in (place / "out/table.txt").read_text()
    assert (place / "out/report.html").is_file(), "of those that are done"

    assert main(["plan.yaml", "--list"]) == 0
    lines = [line.split()[:4] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["note", "done", "1/1", "out/prepare/note"],
        ["first", "1", "done", "2/2"],
        ["second", "1", "done", "2/2"],
        ["first", "2", "open", "0/2"],
        ["second", "2", "open", "0/2"],
    ]

    before = trained(place)
    monkeypatch.setattr(command, "run_jobs", in_this_process())
    assert main(["plan.yaml"]) == 0
    assert len(trained(place)) == 4
    assert before.items() <= trained(place).items(), "jobs that are done are not repeated"
    second = (place / "out/second/seed2/log.txt").read_text()
    assert "first/seed2/model_final.pth" in second

    table = (place / "out/table.txt").read_text()
    for line in ("constant", "first row", "second row", "Rows of trainings are means over the seeds 1, 2."):
        assert f"\n{line}" in table
    assert "12.50" in table
    assert "  second row — less — first row" in table
    scores = json.loads((place / "out/scores.json").read_text())
    assert {key: list(runs) for key, runs in scores["trained"].items()} == {"first": ["1", "2"], "second": ["1", "2"]}

    # The resolved plan alone is the same experiment.
    capsys.readouterr()
    assert main(["out/plan.yaml", "--list"]) == 0
    assert capsys.readouterr().out.count(" done ") == 5
    assert report([str(place / "out/first/seed1"), str(place / "out/second/seed1")]) == 0


def test_killed_it_continues(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The last training is interrupted by SIGTERM, then by SIGKILL, which only the experiment gets."""
    monkeypatch.setattr(command, "run_jobs", in_this_process(4))
    assert main(["plan.yaml"]) == 2
    monkeypatch.undo()
    monkeypatch.chdir(place)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(place / "data"))
    before = trained(place)
    console = place / "out/second/seed2/console.txt"
    for number, code, begun in ((signal.SIGTERM, 75, 1), (signal.SIGKILL, -signal.SIGKILL, 2)):
        argv = [sys.executable, "-m", "clouds", "experiment", "plan.yaml", "--workers", "1"]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
            while not console.is_file() or console.read_text().count("$ ") < begun:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(number)
            error = process.communicate()[1]
        assert process.returncode == code, error
        assert number != signal.SIGTERM or "jobs that are done stay done, and the same command goes on" in error
    assert main(["plan.yaml", "--workers", "1"]) == 0, capsys.readouterr().err
    assert len(trained(place)) == 4
    assert before.items() <= trained(place).items()
    assert "second row — less — first row" in (place / "out/table.txt").read_text()


def test_flags_change_the_plan(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--rows", "first", "--seeds", "3,5", "--output", "other", "SOLVER.MAX_ITER", "7"]
    assert main(["plan.yaml", "--dry-run", *flags]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["note", "open", "0/1", "other/prepare/note"],
        ["first", "3", "open", "0/7", "other/first/seed3"],
        ["first", "5", "open", "0/7", "other/first/seed5"],
    ]
    assert not (place / "other").exists()
    assert parse_seeds("3") == (1, 2, 3)


def changed(place: Path, *pairs: tuple[str, str]) -> None:
    text = PLAN
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    (place / "plan.yaml").write_text(text)


@pytest.mark.parametrize(
    ("pairs", "argv", "message"),
    [
        ((("SOLVER.MAX_ITER: 2", "SOLVER.MAX_ITERS: 2"),), [], "SOLVER.MAX_ITER"),
        ((("unseen: [plugin_val]\n", ""),), [], "Every test set (plugin_val) is of a domain that a row trains on"),
        (
            (("unseen: [plugin_val]", "unseen: [night_val]"),),
            [],
            "unseen in the plan names night_val, which is no test",
        ),
        (
            (("BASE_LR: 0.001", "BASE_LR: 0.001, TEST.PROTOCOL: published_short_edge"),),
            [],
            "first and second differ in the protocol",
        ),
        ((("BASE_LR: 0.001", "BASE_LR: 0.001, DATASETS.TEST: [gta5_val]"),), [], "first and second differ in DATASETS"),
        (
            (("compare:", "select: {by: cityscapes_val, among: [first]}\ncompare:"),),
            [],
            "which the row first is not eval",
        ),
        ((), ["--only", "third 1"], "--only names 'third 1', which is no job of the plan"),
        ((), ["--only", "second 1"], "second 1 needs first 1, which is not done: run it first"),
        ((), ["--report"], "No training in"),
        ((), ["--rows", "third"], "--rows names third"),
        ((), ["--sbatch=--time=1"], "--sbatch"),
        ((), ["SOLVER.MAX_ITER"], "SOLVER.MAX_ITER has no value"),
    ],
    ids=str,
)
def test_a_mistake_is_told_before_anything_runs(
    place: Path, pairs: tuple, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(place, *pairs)
    assert main(["plan.yaml", *argv]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (place / "out").exists()


def test_rows_that_were_selected(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best row of each group has its score in its title; one that a test domain has chosen is marked."""
    monkeypatch.setattr(command, "run_jobs", in_this_process())
    changed(
        place,
        ("compare:", "select: {by: plugin_val, among: [first, second]}\ncompare:"),
        ("first row,", "first row, group: A,"),
        ("second row,", "second row, group: B,"),
    )
    assert main(["plan.yaml", "--seeds", "1"]) == 0
    table = (place / "out/table.txt").read_text()
    score = json.loads((place / "out/scores.json").read_text())["trained"]["first"]["1"]["plugin_val"]["mIoU"]
    assert f"\nfirst row (selected: {score:.2f} on plugin_val) †" in table
    assert "\n† first row (selected: " in table
    assert "selected on plugin_val, a test domain." in table
    assert "second row (selected: " in table


SBATCH = """\
#!/bin/bash
# Runs the tasks of a job at once, again as long as they ask for it.
echo "$@" >> {log}
number=$(($(cat {count} 2> /dev/null || echo 100) + 1))
echo $number > {count}
tasks=none
for word in "$@"; do
    case $word in --array=*) tasks=${{word#--array=}} ;; esac
    script=$word
done
for task in ${{tasks//,/ }}; do
    rm -f {again}
    SLURM_JOB_ID=$number SLURM_ARRAY_TASK_ID=$task bash "$script" >&2 || true
    if [ -f {again} ]; then
        SLURM_JOB_ID=$number SLURM_ARRAY_TASK_ID=$task bash "$script" >&2 || true
    fi
done
echo "$number;cluster"
"""


def fake(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


@pytest.fixture
def slurm(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an `sbatch` that runs the tasks, and a `scontrol` that lets it run one again."""
    folder = place / "bin"
    folder.mkdir()
    names = {name: folder / name for name in ("log", "count", "again")}
    fake(folder, "sbatch", SBATCH.format(**names))
    fake(folder, "scontrol", f'#!/bin/bash\necho "scontrol $@" >> {names["log"]}\ntouch {names["again"]}\n')
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_job_arrays(slurm: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task gets its job, a stopped one is requeued, and arrays depend on those that they start from."""
    program = fake(slurm, "program", f"""\
#!/bin/bash
echo "$@" >> {slurm}/calls
if [ "${{*: -2:1}} ${{*: -1}}" == "--only second 2" ] && [ ! -f {slurm}/stopped ]; then
    touch {slurm}/stopped
    exit 75
fi
""")  # fmt: skip
    monkeypatch.setattr(sys, "executable", str(program))
    assert main(["plan.yaml", "--slurm", "jobs", "--sbatch", "--gres=gpu:1 --time=24:00:00"]) == 0
    subprocess.run(["bash", "jobs/submit.sh"], check=True, env=os.environ)
    jobs = place / "jobs"
    start = f"-m clouds experiment {jobs}/plan.yaml"
    assert (slurm / "calls").read_text().splitlines() == [
        f"{start} --only note",
        f"{start} --only first 1",
        f"{start} --only first 2",
        f"{start} --only second 1",
        f"{start} --only second 2",
        f"{start} --only second 2",
        f"{start} --report",
    ]
    options = "--parsable --gres=gpu:1 --time=24:00:00"
    depends = "--kill-on-invalid-dep=yes --dependency"
    assert (slurm / "log").read_text().splitlines() == [
        f"{options} {jobs}/prepare_note.sh",
        f"{options} --array=0,1 {depends}=afterok:101 {jobs}/train_first.sh",
        f"{options} --array=0,1 {depends}=aftercorr:102 {jobs}/train_second.sh",
        "scontrol requeue 103",
        f"{options} {depends}=afterany:101:102:103 {jobs}/report.sh",
    ]


def test_a_job_array_trains_what_is_left(slurm: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(command, "run_jobs", in_this_process(4))
        assert main(["plan.yaml"]) == 2
    (place / "out/report.html").unlink()
    assert main(["plan.yaml", "--slurm", "jobs"]) == 0
    assert sorted(path.name for path in (place / "jobs").glob("*.sh")) == ["report.sh", "submit.sh", "train_second.sh"]
    subprocess.run(["bash", "jobs/submit.sh"], check=True, env=os.environ)
    assert (slurm / "log").read_text().startswith(f"--parsable --array=1 {place}/jobs/train_second.sh\n")
    assert len(trained(place)) == 4
    assert all(job.is_done for job in set_up(read_plan(place / "plan.yaml")).jobs)
    assert (place / "out/report.html").is_file()
