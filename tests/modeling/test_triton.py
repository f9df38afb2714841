"""The Triton kernels compile for a GPU, which needs none: the interpreter accepts more than the compiler does."""

import importlib
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")

LABELS = "clouds.modeling.inference.kernel:_label"
ATTENTION = "clouds.modeling.pixel_decoder.ops.kernel:"
TYPES = {
    **dict.fromkeys(("order", "y_lower", "y_upper", "x_lower", "x_upper"), "*i64"),
    **dict.fromkeys(("logits", "weights", "rest", "y_weight", "x_weight"), "*fp32"),
    **dict.fromkeys(("locations", "by_value", "by_locations", "by_weights", "scale"), "*fp32"),
    **dict.fromkeys(("value", "output", "grad"), "*bf16"),
    **dict.fromkeys(("h", "w", "width", "steps", "S", "Q"), "i32"),
    "labels": "*u8",
    "levels": "*i32",
    "threshold": "fp32",
}
FACTORS = {"factor_y": 4, "factor_x": 4, "BLOCK_Q": 16, "DROPS": True, "NEAR": 1e-5}
SMALL = {"M": 1, "D": 16, "L": 1, "P": 1, "BLOCK_D": 16, "BLOCK_Q": 16}
CASES = [
    (LABELS, {**FACTORS, "K": 3, "BLOCK_K": 16, "BLOCK_X": 16, "RESIZED": True}, {}),
    (LABELS, {**FACTORS, "K": 200, "BLOCK_K": 256, "BLOCK_X": 16, "RESIZED": False}, {}),
    # Triton makes constants of integers that are 1.
    (LABELS, {**FACTORS, "K": 3, "BLOCK_K": 16, "BLOCK_X": 16, "RESIZED": False, "h": 1, "w": 1, "steps": 1}, {}),
    (f"{ATTENTION}_forward", SMALL, {}),
    (f"{ATTENTION}_forward", {**SMALL, "S": 1, "Q": 1}, {}),
    (f"{ATTENTION}_backward", {**SMALL, "DETERMINISTIC": False}, {}),
    (f"{ATTENTION}_backward", {**SMALL, "DETERMINISTIC": True}, {"by_value": "*i64"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "constants", "types"), CASES)
def test_a_kernel_compiles(
    kernel: str, constants: dict[str, Any], types: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # the default; without it, Triton warns
    module, _, name = kernel.partition(":")
    function = getattr(importlib.import_module(module), name)
    names = function.arg_names
    signature = {name: "constexpr" if name in constants else (TYPES | types)[name] for name in names}
    source = triton.compiler.ASTSource(
        function, signature, {(names.index(name),): value for name, value in constants.items()}
    )
    target = triton.backends.compiler.GPUTarget("cuda", 80, 32)
    assert triton.compile(source, target=target).asm["cubin"]
