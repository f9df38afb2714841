"""The rows of the CPU benchmark in miniature, the comparison of their sides, and the tables of RESULTS.md."""

import copy
import importlib
import json
import multiprocessing
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))
try:
    NAMES = [*importlib.import_module("rows").ROWS]
finally:
    sys.path.remove(str(FOLDER))
IN_PROCESS = [name for name in NAMES if name != "start/first_iteration"]  # which starts a program


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def results_of(module: Callable[[str], ModuleType], name: str, folder: Path) -> tuple[ModuleType, dict[str, Any]]:
    """Run all sides of a row once, in this process; the published code is absent."""
    rows, measure = module("rows"), module("rows.measure")
    row = rows.ROWS[name]
    measured = module(f"rows.{row.module}")
    sizes = {**row.full, **row.miniature, "folder": folder}
    if hasattr(measured, "prepare"):
        sizes |= measured.prepare(sizes)
    results = {side: measure.as_numpy(measured.SIDES[side](sizes)()) for side in row.sides if side != rows.PUBLISHED}
    return measured, results


def changed(value: Any) -> Any:
    """Return a result with other numbers."""
    if isinstance(value, dict):
        return {key: changed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [changed(each) for each in value]
    if isinstance(value, np.ndarray):
        return ~value if value.dtype == bool else value + np.asarray(7, value.dtype)
    return value if isinstance(value, str) else 2 * value + 1


@pytest.mark.parametrize("name", IN_PROCESS)
def test_sides_agree_and_a_difference_is_found(
    module: Callable[[str], ModuleType], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PEER", raising=False)
    measured, results = results_of(module, name, tmp_path)
    assert len(results) == 2
    assert measured.check(copy.deepcopy(results))
    peer = [*results][1]
    with pytest.raises(AssertionError):
        measured.check({**results, peer: changed(results[peer])})


def test_transformers_computes_our_gradients(module: Callable[[str], ModuleType]) -> None:
    """Every weight of the head is mapped to its counterpart: equal losses give equal gradients."""
    networks, rows, head = module("rows.networks"), module("rows"), module("rows.transformers_head")
    batch = networks.batch_of({"batch": 2, "side": 64})
    gradients = {}
    for side in (rows.OURS, rows.TRANSFORMERS):
        net = networks.network(side, miniature=True)
        pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        losses = net.losses(net.predictions(net.features(pixels)), networks.targets_of(batch))
        losses.sum().backward()
        if side == rows.OURS:
            named = net.model.sem_seg_head.named_parameters()
            gradients = {
                theirs: gradient for name, parameter in named for theirs, gradient in head.renamed(name, parameter.grad)
            }
        else:
            named = {name: parameter.grad for name, parameter in net.model.named_parameters()}
            assert named.keys() == gradients.keys()
            for name, gradient in named.items():
                torch.testing.assert_close(gradient, gradients[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("folder", ["", "."])
def test_published_code_that_is_absent(
    module: Callable[[str], ModuleType], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEER", folder and str(tmp_path / folder))
    published = module("rows.published")
    published.checkout.cache_clear()
    with pytest.raises(module("rows.measure").NotMeasured, match="checkout"):
        published.published_modules()


def run(module: Callable[[str], ModuleType], folder: Path, only: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the command with sides in forked processes, which import nothing again, and return RESULTS.md.

    The sides must not compute gradients: torch cannot in a fork of a process that has done so.
    """
    bench = module("bench")
    monkeypatch.setattr(bench, "get_context", lambda _: multiprocessing.get_context("fork"))
    monkeypatch.delenv("PEER", raising=False)
    files = ["--json", str(folder / "new/bench.json"), "--results", str(folder / "RESULTS.md")]
    assert bench.main(["--miniature", "--only", only, *files]) == 0
    return (folder / "RESULTS.md").read_text()


@pytest.mark.slow
def test_the_command_writes_tables_and_keeps_what_people_wrote(
    module: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written = "# Title\n\nBefore.\n\n<!-- evaluator begin -->\nold table\n<!-- evaluator end -->\nA remark.\n\n"
    (tmp_path / "RESULTS.md").write_text(f"{written}<!-- other begin -->\nanother table\n<!-- other end -->\n")
    text = run(module, tmp_path, "evaluator,pixel_decoder", monkeypatch)
    assert text.startswith("# Title\n\nBefore.\n")
    assert "old table" not in text
    assert "A remark." in text
    assert "another table" in text
    assert "| `evaluator/image`: label map of 64 x 128 to confusion matrix" in text
    assert "confusion matrices are equal." in text
    assert re.search(r"transformers \| ours / peer|\(b\) transformers", text)
    assert "published code is not measured: PEER names no checkout of the published code." in text
    assert "bench.py --miniature --only pixel_decoder,evaluator`" in text

    record = json.loads((tmp_path / "new/bench.json").read_text())
    result = record["rows"]["evaluator/image"]
    ours, theirs = (each["processor"][0] for each in result["sides"].values())
    assert result["ratios"]["published formulation"] == pytest.approx(ours / theirs)
    assert str(tmp_path) not in text + json.dumps(record)
    assert capsys.readouterr().out.count("published formulation") == 2

    kept = text.partition("<!-- evaluator begin -->")[2].partition("<!-- evaluator end -->")[0]
    again = run(module, tmp_path, "data", monkeypatch)
    assert kept in again
    summary = module("rows.results").between(again, "summary")
    assert [line.split("`")[1] for line in summary.splitlines()[2:]] == [
        "pixel_decoder/forward",
        "evaluator/image",
        "data/mapper",
        "data/synthia",
    ]


def test_unknown_section(module: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    assert module("bench").parse_arguments(["--only", "evaluator"]).only == ["evaluator/image", "evaluator/scores"]
    with pytest.raises(SystemExit, match="2"):
        module("bench").parse_arguments(["--only", "labels/random"])
    assert "'labels/random' is no section" in capsys.readouterr().err


def test_what_is_left_is_shown_where_a_target_is_missed(module: Callable[[str], ModuleType]) -> None:
    results = module("rows.results")
    side = {"processor": [2.0, 1.9, 2.1], "wall": [3.0, 3.0, 3.0], "memory": 100.0, "rounds": 5}
    result = {
        "title": "a step",
        "sides": {"CLOUDS": side, "transformers": {**side, "processor": [1.0, 1.0, 1.0]}},
        "ratios": {"transformers": 2.0},
        "memory_ratios": {"transformers": 1.0},
        "agreement": "losses agree",
        "left": {"of": "memory", "parts": [["convolution", 0.4], ["addmm", 0.25]]},
    }
    assert results.missed("training/step", result) == "time"
    assert results.missed("training/step", {**result, "ratios": {"transformers": 0.7}}) == "memory"
    assert results.verdict("training/step", result) == "time missed, memory missed"
    within = {**result, "ratios": {"transformers": 0.7}, "memory_ratios": {}}
    assert results.verdict("training/step", within) == "time met, memory not measured"
    assert not results.missed("training/step", within)
    notes = results.notes_of("training/step", result)
    assert notes[-1].endswith("at the peak of memory: `convolution` 40%, `addmm` 25%.")
    table = results.table_of(["training/step"], {"training/step": result})
    assert "2 s (1.9-2.1; wall 3; n 5)" in table
    assert "100, 100 MiB, **1.00**" in table
    assert "not measured" in table


def test_profiles_name_operations_or_functions(module: Callable[[str], ModuleType]) -> None:
    measure = module("rows.measure")
    a = torch.randn(400, 400)
    assert measure.largest_parts(lambda: [a @ a for _ in range(20)])[0][0] == "mm"

    def busy() -> int:
        return sum(i * i for i in range(200_000))

    names = [name for name, _ in measure.largest_parts(busy)]
    assert any("genexpr" in name for name in names)


def test_the_largest_tensors_at_the_peak(module: Callable[[str], ModuleType]) -> None:
    def call() -> torch.Tensor:
        torch.ones(3000, 1000).cos()  # freed before the peak
        return torch.ones(4000, 1000).exp().add(1)

    [(first, share), (second, _), *_] = module("rows.measure").largest_tensors(call)
    assert {first, second} == {"exp", "add"}  # the ones are freed before the sum is made
    assert 0.3 < share <= 0.5


def test_processor_time_has_that_of_programs(module: Callable[[str], ModuleType]) -> None:
    measure = module("rows.measure")
    before = measure.processor_time()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    assert measure.processor_time() - before > 0.005


def test_memory_is_the_rise_of_the_peak(module: Callable[[str], ModuleType]) -> None:
    memory = module("rows.measure").Memory()
    if memory.peak() is None:
        pytest.skip("this system does not tell the peak of memory")
    torch.ones(16 * 2**20)  # 64 MiB
    assert 60 < memory.peak() < 200


@pytest.mark.slow
def test_the_first_iteration_of_a_training(
    module: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured = module("rows.start")

    def in_this_process(words: list[str], env: dict[str, str], **_: Any) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", words[1:])
        monkeypatch.setenv("DETECTRON2_DATASETS", env["DETECTRON2_DATASETS"])
        with pytest.raises(SystemExit):
            module("rows.first_iteration").main()
        return SimpleNamespace(stdout=capsys.readouterr().out, stderr="")

    monkeypatch.setattr(measured, "subprocess", SimpleNamespace(run=in_this_process))
    sizes = {"folder": tmp_path, "miniature": True}
    measured.prepare(sizes)
    starts = {side: build(sizes) for side, build in measured.SIDES.items()}
    results = {side: start() for side, start in starts.items()}
    assert min(results.values()) > 0
    stages = dict(starts["CLOUDS"].parts())
    assert sum(stages.values()) == pytest.approx(1)
    assert min(stages.values()) > 0
    assert len(stages) == 4
    assert measured.check(results)
    with pytest.raises(AssertionError):
        measured.check({**results, "CLOUDS": 2 * results["CLOUDS"]})
