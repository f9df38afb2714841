"""The Triton kernels in Triton's interpreter, against the reference in float64; `test_ops.py` runs this file."""

import math
import os
import warnings

import pytest
import torch
from torch import Tensor

from clouds.d2 import ShapeSpec
from clouds.modeling.pixel_decoder import MSDeformAttnPixelDecoder
from clouds.modeling.pixel_decoder.ops import find_implementation, kernel, reference
from tests.modeling.pixel_decoder.inputs import Shapes, inputs, with_gradients
from tests.parity import golden

assert os.environ["TRITON_INTERPRET"] == "1"

# Shapes, then heads, channels of a head, queries and points. A program computes 16 queries.
ONE_PIXEL = ([(1, 1), (2, 3)], 1, 32, 5, 3)  # in a level
UNEVEN = ([(5, 4)], 2, 5, 33, 1)  # channels that are no power of two, queries that do not fill the blocks
LEVELS = ([(3, 5), (6, 4), (7, 9)], 2, 8, 16, 2)
# With type, tolerance and "deterministic". The interpreter takes seconds for each.
CASES = [
    *((*case, torch.float32, 1e-6, False) for case in (ONE_PIXEL, UNEVEN, LEVELS)),
    (*UNEVEN, torch.float32, 1e-6, True),
    (*LEVELS, torch.bfloat16, 5e-3, False),
    (*ONE_PIXEL, torch.bfloat16, 5e-3, True),
]


@pytest.fixture(params=[False, True], ids=["atomic", "deterministic"])
def deterministic(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    torch.use_deterministic_algorithms(request.param)
    yield request.param
    torch.use_deterministic_algorithms(False)


def single(leaves: list[Tensor], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Round the values to `dtype`, locations and weights to float32."""
    return [leaves[0].to(dtype), *(leaf.float() for leaf in leaves[1:])]


def assert_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for x, y in zip(ours, theirs, strict=True):
        assert (x.double() - y).norm() <= tolerance * y.norm()


@pytest.mark.parametrize(
    ("shapes", "heads", "dim", "queries", "points", "dtype", "tolerance", "deterministic"),
    CASES,
    indirect=["deterministic"],
)
def test_output_and_gradients_equal_the_reference(
    shapes: Shapes,
    heads: int,
    dim: int,
    queries: int,
    points: int,
    dtype: torch.dtype,
    tolerance: float,
    deterministic: bool,
) -> None:
    leaves = single(inputs(shapes, heads=heads, dim=dim, queries=queries, points=points), dtype)
    leaves[1][0, 0, 0, 0, 0] = torch.tensor([1e9, -1e9])
    leaves[1][0, -1, 0, 0, 0] = torch.tensor([0.0, 1.0])
    expected = with_gradients(reference.ms_deform_attn, shapes, [leaf.double() for leaf in leaves])
    ours = with_gradients(kernel.ms_deform_attn, shapes, leaves)
    assert [x.dtype for x in ours] == [dtype, dtype, torch.float32, torch.float32]
    assert_close(ours, expected, tolerance)


def test_deterministic_sums_have_no_order(deterministic: bool) -> None:
    shapes, queries = [(2, 3)], 40
    leaves = single(inputs(shapes, batch=1, dim=4, queries=queries))
    order = torch.randperm(queries)
    permuted = [leaves[0], *(leaf[:, order] for leaf in leaves[1:])]
    wanted = torch.randn(1, queries, 8)
    gradients = []
    for (value, locations, weights), grad in ((leaves, wanted), (permuted, wanted[:, order])):
        gradients.append(kernel.backward(grad, value, [2, 3], locations, weights)[0])
    torch.testing.assert_close(*gradients)
    assert torch.equal(*gradients) is deterministic, "float sums depend on the order, or this test proves nothing"


def test_nan_shows_and_only_where_it_is(deterministic: bool) -> None:
    shapes = [(2, 3), (4, 4)]
    leaves = single(inputs(shapes))
    clean = kernel.ms_deform_attn(leaves[0], shapes, *leaves[1:]).unflatten(2, (2, -1))
    leaves[1][1, 2, 1, 0, 0, 0] = math.nan
    output, by_value, by_locations, by_weights = with_gradients(kernel.ms_deform_attn, shapes, leaves)
    output = output.unflatten(2, (2, -1))
    assert output[1, 2, 1].isnan().all()
    clean[1, 2, 1] = output[1, 2, 1]
    torch.testing.assert_close(output, clean, rtol=0, atol=0, equal_nan=True)
    assert by_value.isfinite().all()
    assert by_locations[1, 2, 1, 0, 0].isnan().any()
    assert by_weights[1, 2, 1, 0, 0].isnan()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_gives_none_that_is(bad: float, deterministic: bool) -> None:
    value, locations, weights = single(inputs([(1, 1)], batch=1, queries=1))
    locations.fill_(0.5)
    grad = torch.ones(1, 1, 6)
    grad[0, 0, 0] = bad
    by_value, _, by_weights = kernel.backward(grad, value, [1, 1], locations, weights)
    assert not by_value[0, 0, 0, 0].isfinite()
    assert not by_weights[0, 0, 0].isfinite().any()


def test_a_gradient_of_zeros_gives_zeros(deterministic: bool) -> None:
    leaves = single(inputs([(2, 2)], batch=1, queries=2))
    for gradient in kernel.backward(torch.zeros(1, 2, 6), leaves[0], [2, 2], *leaves[1:]):
        assert (gradient == 0).all()


def test_is_an_operator() -> None:
    value, locations, weights = (
        leaf.requires_grad_() for leaf in single(inputs([(2, 2)], batch=1, heads=1, queries=1, points=1))
    )
    arguments = (value, [2, 2], locations, weights)
    static = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(torch.ops.clouds.ms_deform_attn_triton.default, arguments, test_utils=static)


def test_compiles_to_one_graph_by_the_choice_of_cuda() -> None:
    shapes = [(2, 3), (1, 1)]
    leaves = single(inputs(shapes, batch=1, queries=3))
    assert find_implementation("auto", "cuda") is kernel.ms_deform_attn

    def attend(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        return find_implementation("auto", "cuda")(value * 2, shapes, locations, weights).relu()

    with warnings.catch_warnings(action="error"):
        compiled = with_gradients(torch.compile(attend, backend="aot_eager", fullgraph=True), shapes, leaves)
    for x, y in zip(compiled, with_gradients(attend, shapes, leaves), strict=True):
        torch.testing.assert_close(x, y)


def test_the_config_key_forces_it(monkeypatch: pytest.MonkeyPatch) -> None:
    strides, channels = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}, 32
    encoder = "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_"
    layers = ("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1)
    small = ("MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, f"{encoder}N_HEADS", 2, f"{encoder}N_POINTS", 1, *layers)
    shapes = {name: ShapeSpec(channels=channels, stride=stride) for name, stride in strides.items()}
    features = {name: torch.randn(1, channels, 32 // stride, 32 // stride) for name, stride in strides.items()}
    launched = []
    real = kernel._launch
    monkeypatch.setattr(kernel, "_launch", lambda *args, **options: launched.append(args[0]) or real(*args, **options))
    results = []
    for name in ("triton", "grid_sample"):
        torch.manual_seed(0)
        cfg = golden.golden_config("rn_closed", *small, "MODEL.SEM_SEG_HEAD.DEFORMABLE_ATTENTION", name)
        mask_features, maps = MSDeformAttnPixelDecoder(cfg, shapes)(features)
        mask_features.square().mean().backward()
        results.append([mask_features, *maps])
    assert launched == [kernel._forward, kernel._backward]
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
