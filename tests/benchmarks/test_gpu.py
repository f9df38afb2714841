"""The GPU benchmark: all stages in miniature, and the record of measurements."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "benchmarks/gpu.py"


@pytest.fixture
def bench(module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return module("stages.bench").Bench(seconds=100, smoke=True, stream=io.StringIO())


def run(*flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, SCRIPT, *flags],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_every_stage_in_miniature(module: Callable[[str], ModuleType], tmp_path: Path) -> None:
    result = run("--smoke", "--json", str(tmp_path / "new/gpu.json"))
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    text = (tmp_path / "new/gpu.json").read_text()
    report = json.loads(text)
    assert report["failures"] == []
    assert report["command"].endswith("--seconds 600 --smoke")
    assert report["card"] is None
    assert {"python", "torch", "timm"} <= report["versions"].keys()
    assert not re.search(r"[\s\"'=:]/[\w.-]+/", text), "the report holds a path of this machine"

    measurements = {each["name"]: each for each in report["measurements"]}
    assert all(each["seconds"] > 0 for each in measurements.values())
    assert {name.split("/")[0].split(",")[0] for name in measurements} == {
        *(stage.replace("_", " ") for stage in module("stages").STAGES),
        "label maps",
    }
    lines = result.stdout.splitlines()
    assert len(lines) == len(measurements)
    assert all(line[9:].startswith(name) for line, name in zip(lines, measurements, strict=True))

    peers = {name: each["peer"] for name, each in measurements.items() if "peer" in each}
    for name, peer in peers.items():
        share = measurements[name].get("images", 1) / measurements[peer].get("images", 1)
        ratio = share * measurements[peer]["seconds"] / measurements[name]["seconds"]
        assert measurements[name]["ratio"] == pytest.approx(ratio)
    for name in ("step", "evaluation"):
        assert peers[f"{name}/default"] == f"{name}/HF Mask2Former/default"
    assert peers["joint/mobile/default"] == "joint/none/default"
    for name in ("triton", "embedding_bag"):
        assert measurements[f"attention/train/{name}"]["error"] < 1e-5
        assert peers[f"attention/train/{name}, backward"] == "attention/train/grid_sample, backward"
    assert measurements["attention/train/triton, bf16 values"]["error"] < 1e-2
    assert {measurements[f"label maps/{each}/triton"]["different"] for each in ("decided", "random")} == {0}
    assert measurements["backbone/fp32"]["error"] == 0 < measurements["backbone/bf16"]["error"] < 0.1


def test_ratio_is_per_image(bench: object) -> None:
    bench.note("one", seconds=2.0, images=1)
    bench.time("four", lambda: None, peer="one", images=4)
    bench.time("other", lambda: None, peer="absent")
    four, other = bench.measurements[1:]
    assert four["ratio"] == pytest.approx(4 * 2.0 / four["seconds"])
    assert "ratio" not in other
    with pytest.raises(ValueError, match="taken"):
        bench.note("one")


def test_failed_measurements_are_recorded(bench: object, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError("cannot read /somewhere/on/this/machine/file.bin")

    bench.time("bad", fail)
    bench.time("good", lambda: None)
    assert bench.failures == [{"name": "bad", "error": "RuntimeError: cannot read file.bin"}]
    assert [each["name"] for each in bench.measurements] == ["good"]
    assert "Traceback" in capsys.readouterr().err


def test_a_stage_that_fails_or_has_no_time_left(
    module: Callable[[str], ModuleType], bench: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, stages, inputs = module("gpu"), module("stages"), module("stages.inputs")
    given = inputs.Inputs(bench.device, tmp_path, smoke=True)
    monkeypatch.setitem(stages.STAGES, "absent", ("stages.no_such_module", "measure"))
    gpu.run_stage("absent", bench, given)
    gpu.run_stage("optimizer", bench, given)
    assert [each["name"] for each in bench.failures] == ["absent"]
    assert {"optimizer/step", "optimizer/clip and step"} == {each["name"] for each in bench.measurements}
    monkeypatch.setattr(bench, "left", lambda: 5.0)
    gpu.run_stage("criterion", bench, given)
    assert bench.measurements[-1] == {"name": "criterion/skipped", "seconds_left": 5.0}


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("no file /a/b/c.py here", "no file c.py here"),
        ("'/tmp/x/y.json'", "'y.json'"),
        ("1/2 of a/b", "1/2 of a/b"),
        ("https://host/a/b", "https://host/a/b"),
    ],
)
def test_paths_are_shortened(module: Callable[[str], ModuleType], text: str, short: str) -> None:
    assert module("stages.bench").without_folders(text) == short


def test_unknown_stage(module: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    assert module("gpu").parse_arguments(["--stages", "step,joint"]).stages == ["step", "joint"]
    with pytest.raises(SystemExit, match="2"):
        module("gpu").parse_arguments(["--stages", "step,stepp"])
    assert "'stepp' is no stage" in capsys.readouterr().err
