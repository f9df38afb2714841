"""Ceilings of the device: matrix products, memory, and the upload from the host."""

from functools import partial

import torch

from stages.bench import Bench
from stages.inputs import Inputs


def measure_hardware(bench: Bench, inputs: Inputs) -> None:
    """Measure what bounds every other stage. The peers: full float32, and an upload from pageable memory."""
    side, size = (256, 2**20) if bench.smoke else (8192, 2**30)
    operands = [torch.randn(side, side, device=bench.device) for _ in range(2)]
    exact = "hardware/product, fp32"
    for name in ("fp32", "tf32", "bf16"):
        multiply = partial(torch.mm, *(each.bfloat16() if name == "bf16" else each for each in operands))
        with bench.precision("fp32" if name == "fp32" else "tf32"):
            bench.time(f"hardware/product, {name}", multiply, peer=exact, seconds=0.4, flop=2 * side**3)
    source = torch.zeros(size, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    bench.time("hardware/copy on the device", partial(target.copy_, source), seconds=0.3, bytes=2 * size)
    if bench.device.type == "cuda":
        pageable = torch.zeros(size // 16, dtype=torch.uint8)
        for name, host in (("pageable", pageable), ("pinned", pageable.pin_memory())):
            upload = partial(host.to, bench.device, non_blocking=True)
            bench.time(
                f"hardware/upload, {name}", upload, peer="hardware/upload, pageable", seconds=0.3, bytes=len(host)
            )
