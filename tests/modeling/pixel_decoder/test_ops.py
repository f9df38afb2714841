"""All implementations of multi-scale deformable attention against the formula and against the reference."""

import importlib.util
import logging
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds.errors import UserError
from clouds.modeling.pixel_decoder.ops import choice, embedding_bag, find_implementation, reference
from tests.modeling.pixel_decoder.inputs import Shapes, inputs, with_gradients
from tests.parity import golden

on_cpu = pytest.mark.parametrize("name", ["auto", "embedding_bag", "grid_sample"])


@on_cpu
class TestFormula:
    def test_pixel_centers_return_the_values(self, name: str) -> None:
        shapes = [(2, 3), (1, 2)]
        value = torch.randn(1, 8, 2, 4)
        centres = torch.tensor([[(x + 0.5) / 3, (y + 0.5) / 2] for y in range(2) for x in range(3)])
        locations = centres.view(1, 6, 1, 1, 1, 2).expand(1, 6, 2, 2, 1, 2)
        weights = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2, 1).expand(1, 6, 2, 2, 1)
        torch.testing.assert_close(
            find_implementation(name, "cpu")(value, shapes, locations, weights), value[:, :6].flatten(2)
        )

    @pytest.mark.parametrize("far", [5.0, -5.0, 1e9, -1e9])
    def test_outside_is_zero(self, name: str, far: float) -> None:
        locations = torch.full((1, 3, 2, 1, 4, 2), far)
        weights = torch.full((1, 3, 2, 1, 4), 0.25)
        out = find_implementation(name, "cpu")(torch.ones(1, 4, 2, 4), [(2, 2)], locations, weights)
        assert (out == 0).all()

    @settings(max_examples=15)
    @given(seed=st.integers(0, 2**31))
    def test_equals_the_formula(self, name: str, seed: int) -> None:
        shapes, heads, queries, points = [(3, 4), (2, 2)], 2, 5, 2
        value, locations, weights = inputs(shapes, batch=1, heads=heads, queries=queries, points=points, seed=seed)
        expected = torch.zeros(queries, heads, value.shape[-1], dtype=torch.float64)
        start = 0
        for level, (h, w) in enumerate(shapes):
            for q, m, p in np.ndindex(queries, heads, points):
                x, y = locations[0, q, m, level, p].tolist()
                x, y = x * w - 0.5, y * h - 0.5
                for row in (math.floor(y), math.floor(y) + 1):
                    for column in (math.floor(x), math.floor(x) + 1):
                        if 0 <= row < h and 0 <= column < w:
                            share = (1 - abs(y - row)) * (1 - abs(x - column))
                            pixel = value[0, start + row * w + column, m]
                            expected[q, m] += weights[0, q, m, level, p] * share * pixel
            start += h * w
        out = find_implementation(name, "cpu")(value, shapes, locations, weights)[0]
        torch.testing.assert_close(out, expected.flatten(1), rtol=1e-12, atol=1e-12)


sizes = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=4)


class TestEmbeddingBag:
    @pytest.mark.slow
    def test_is_an_operator(self) -> None:
        shapes = [(3, 2), (1, 4)]
        value, locations, weights = (leaf.requires_grad_() for leaf in inputs(shapes))
        arguments = (value, [3, 2, 1, 4], locations, weights)
        torch.library.opcheck(torch.ops.clouds.ms_deform_attn_embedding_bag.default, arguments)

    @settings(max_examples=40)
    @given(sizes, st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**31))
    def test_output_and_gradients_equal_the_reference(
        self, shapes: Shapes, heads: int, dim: int, queries: int, points: int, seed: int
    ) -> None:
        leaves = inputs(shapes, heads=heads, dim=dim, queries=queries, points=points, seed=seed)
        expected = with_gradients(reference.ms_deform_attn, shapes, leaves)
        for ours, theirs in zip(with_gradients(embedding_bag.ms_deform_attn, shapes, leaves), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)

    def test_blocks_of_queries_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shapes = [(3, 5), (6, 4)]
        leaves = inputs(shapes, queries=11)
        whole = with_gradients(embedding_bag.ms_deform_attn, shapes, leaves)
        monkeypatch.setattr(embedding_bag, "BLOCK", 3 * 8)
        for ours, theirs in zip(with_gradients(embedding_bag.ms_deform_attn, shapes, leaves), whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)

    def test_gradients_are_those_of_the_output(self) -> None:
        shapes = [(3, 2), (1, 4)]
        leaves = [leaf.requires_grad_() for leaf in inputs(shapes, batch=1, queries=3)]
        assert torch.autograd.gradcheck(lambda v, x, w: embedding_bag.ms_deform_attn(v, shapes, x, w), leaves)

    def test_far_and_border_locations_have_the_gradients_of_the_reference(self) -> None:
        shapes = [(2, 3)]
        leaves = inputs(shapes, batch=1)
        for query, at in enumerate((1e9, -1e9, 0.0, 1.0)):
            leaves[1][0, query, 0] = at
        ours, theirs = (
            with_gradients(attend, shapes, leaves)
            for attend in (embedding_bag.ms_deform_attn, reference.ms_deform_attn)
        )
        for x, y in zip(ours, theirs, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)

    def test_nan_locations_show_and_only_where_they_are(self) -> None:
        shapes = [(2, 3), (4, 4)]
        leaves = inputs(shapes)
        clean = embedding_bag.ms_deform_attn(leaves[0], shapes, *leaves[1:]).unflatten(2, (2, -1))
        leaves[1][1, 2, 1, 0, 0, 0] = math.nan
        output, *gradients = with_gradients(embedding_bag.ms_deform_attn, shapes, leaves)
        output = output.unflatten(2, (2, -1))
        assert output[1, 2, 1].isnan().all()
        clean[1, 2, 1] = output[1, 2, 1]
        torch.testing.assert_close(output, clean, rtol=0, atol=0, equal_nan=True)
        assert gradients[2][1, 2, 1].isnan().any()

    def test_bfloat16_values_with_float32_locations(self) -> None:
        shapes = [(5, 6), (9, 7)]
        value, locations, weights = inputs(shapes, dim=8, queries=40)
        expected = with_gradients(reference.ms_deform_attn, shapes, (value, locations, weights))
        ours = with_gradients(
            embedding_bag.ms_deform_attn, shapes, (value.bfloat16(), locations.float(), weights.float())
        )
        assert [x.dtype for x in ours] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
        for x, y in zip(ours, expected, strict=True):
            assert (x.double() - y).norm() < 5e-3 * y.norm()

    def test_threads_change_no_bit(self) -> None:
        shapes = [(12, 16), (24, 32)]
        leaves = [leaf.float() for leaf in inputs(shapes, dim=8, heads=4, queries=960, points=4)]
        threads = torch.get_num_threads()
        results = []
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(with_gradients(embedding_bag.ms_deform_attn, shapes, leaves))
        torch.set_num_threads(threads)
        assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))

    def test_only_the_inputs_are_saved(self) -> None:
        shapes, saved = [(8, 8)], []
        leaves = [leaf.requires_grad_() for leaf in inputs(shapes, queries=64)]
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.data_ptr()) or x, lambda x: x):
            embedding_bag.ms_deform_attn(leaves[0], shapes, *leaves[1:])
        assert saved == [leaf.data_ptr() for leaf in leaves]

    def test_nothing_is_written_to_the_terminal(self) -> None:
        shapes = [(2, 2)]
        with warnings.catch_warnings(action="error"):
            with_gradients(embedding_bag.ms_deform_attn, shapes, inputs(shapes))


@pytest.mark.slow
def test_triton_agrees_with_the_reference() -> None:
    """Runs in a process of its own, because Triton chooses its interpreter when it is imported."""
    pytest.importorskip("triton")
    suite = str(Path(__file__).with_name("interpreted.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", suite]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


class TestChoice:
    KEY = "MODEL.SEM_SEG_HEAD.DEFORMABLE_ATTENTION"

    @pytest.mark.parametrize("name", ["embedding_bag", "grid_sample"])
    def test_the_config_key_forces_an_implementation(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        module = {"embedding_bag": embedding_bag, "grid_sample": reference}[name]
        real = module.ms_deform_attn
        monkeypatch.setattr(module, "ms_deform_attn", lambda *args: calls.append(name) or real(*args))
        monkeypatch.setattr(choice, "_FOUND", {})
        model = golden.build("rn_closed", self.KEY, name).eval()
        with torch.no_grad():
            model(golden.batch())
        assert calls == [name] * 2, "one call for each of the two layers"

    @pytest.mark.parametrize(
        ("name", "device", "reason"),
        [("embedding_bag", "cuda", "runs on a CPU only"), ("triton", "cpu", "runs on CUDA only")],
    )
    def test_an_implementation_for_another_device_is_refused(
        self, name: str, device: str, reason: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("triton")
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        with pytest.raises(UserError) as error:
            golden.build("rn_closed", self.KEY, name, "MODEL.DEVICE", device)
        assert str(error.value) == f"{self.KEY} is {name!r}: this implementation {reason}, and the device is {device}."

    def test_forced_triton_must_be_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"^MODEL\.SEM_SEG_HEAD\.DEFORMABLE_ATTENTION is 'triton': Triton is not "):
            golden.build("rn_closed", self.KEY, "triton", "MODEL.DEVICE", "cuda")

    @pytest.mark.parametrize("installed", [False, True])
    def test_cuda_takes_triton_where_it_is_installed(
        self, installed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        pytest.importorskip("triton")
        caplog.set_level(logging.INFO)
        if not installed:
            monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(choice, "_FOUND", {})
        for _ in range(2):
            chosen = find_implementation("auto", "cuda")
        assert (chosen is reference.ms_deform_attn) is not installed
        lines = [record.getMessage() for record in caplog.records if record.name == choice.__name__]
        missing = "Triton is not installed: the deformable attention is computed with grid_sample"
        assert lines == ([] if installed else [missing])

    def test_other_devices_take_the_reference(self) -> None:
        assert find_implementation("auto", "mps") is reference.ms_deform_attn

    def test_errors_of_triton_are_raised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(choice, "_FOUND", {})
        monkeypatch.setitem(sys.modules, "clouds.modeling.pixel_decoder.ops.kernel", None)
        with pytest.raises(ModuleNotFoundError, match="kernel"):
            find_implementation("auto", "cuda")

    def test_unknown_name(self) -> None:
        with pytest.raises(ValueError, match=r"^name is 'cuda'; it must be auto, triton"):
            find_implementation("cuda", "cpu")
