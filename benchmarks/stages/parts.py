"""The parts of a training step one by one: backbone, pixel decoder, decoder, criterion, optimizer."""

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from clouds.engine.optimizer import build_gradient_clipper, build_optimizer
from clouds.modeling.points import seeded_points
from stages.bench import PRECISIONS, Bench, relative_error
from stages.inputs import Inputs


def measure_backbone(bench: Bench, inputs: Inputs) -> None:
    """Measure the frozen backbone in every precision, and with weights kept in bfloat16; the peer is the default."""
    backbone, pixels, images = inputs.model.backbone, inputs.pixels, inputs.sizes.batch
    peer = "backbone/default"
    with torch.no_grad():
        with bench.precision("fp32"):
            exact = backbone(pixels)

        def error(maps: dict[str, Tensor]) -> float:
            return max(relative_error(maps[name], exact[name]) for name in exact)

        for name in PRECISIONS:
            run = partial(backbone, pixels)
            with bench.precision(name):
                bench.time(f"backbone/{name}", run, peer=peer, images=images, error=error(run()))
        half, halved = copy.deepcopy(backbone).to(torch.bfloat16), pixels.bfloat16()
        for name, layout in (("contiguous", torch.contiguous_format), ("channels last", torch.channels_last)):
            run = partial(half.to(memory_format=layout), halved.contiguous(memory_format=layout))
            bench.time(f"backbone/bf16 weights, {name}", run, peer=peer, images=images, error=error(run()))
        if bench.device.type == "cuda" and bench.left() > 200:  # compilation takes a minute or two
            run = partial(torch.compile(half), halved.contiguous(memory_format=torch.channels_last))
            bench.time("backbone/bf16 weights, channels last, compiled", run, peer=peer, images=images)


def measure_pixel_decoder(bench: Bench, inputs: Inputs) -> None:
    """Measure the pixel decoder."""
    decoder, features = inputs.model.sem_seg_head.pixel_decoder, inputs.features

    def forward() -> list[Tensor]:
        mask_features, maps = decoder(features)
        return [mask_features, *maps]

    measure_part(bench, "pixel decoder", forward, inputs.sizes.batch)
    inputs.model.zero_grad(set_to_none=True)


def measure_decoder(bench: Bench, inputs: Inputs) -> None:
    """Measure the transformer decoder."""
    decoder, (mask_features, maps) = inputs.model.sem_seg_head.predictor, inputs.decoded

    def forward() -> list[Tensor]:
        outputs = decoder(maps, mask_features, None, inputs.model.void)
        return [tensor for output in outputs for tensor in (output.class_logits, output.mask_factors.embeddings)]

    measure_part(bench, "decoder", forward, inputs.sizes.batch)
    inputs.model.zero_grad(set_to_none=True)


def measure_part(bench: Bench, part: str, forward: Callable[[], Sequence[Tensor]], images: int) -> None:
    """Measure forward, and forward with backward, in three precisions; the peer is the default."""

    def both() -> None:
        outputs = forward()
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])

    for name in ("default", "tf32", "bf16"):
        with bench.precision(name):
            bench.time(f"{part}/{name}", forward, peer=f"{part}/default", images=images)
            bench.time(f"{part}/{name}, backward", both, peer=f"{part}/default, backward", images=images)


def measure_criterion(bench: Bench, inputs: Inputs) -> None:
    """Measure matching and losses of all decoder outputs, with their synchronizations and kernels."""
    model, predictions, targets = inputs.model, inputs.predictions, inputs.targets

    def losses() -> dict[str, Tensor]:
        return model.criterion(predictions, targets, seeded_points(range(len(targets)), bench.device))

    def both() -> None:
        torch.stack([*losses().values()]).sum().backward()

    images, masks = len(targets), sum(len(target.labels) for target in targets)
    bench.time("criterion", losses, images=images, masks=masks)
    bench.time("criterion, backward", both, peer="criterion", images=images)
    bench.note_host("criterion/host", losses)


def measure_optimizer(bench: Bench, inputs: Inputs) -> None:
    """Measure gradient clipping and the AdamW step; the peer is AdamW without clipping."""
    optimizer, clip = build_optimizer(inputs.cfg, inputs.model), build_gradient_clipper(inputs.cfg)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)

    def update() -> None:
        clip(iter(parameters))
        optimizer.step()

    weights = sum(parameter.numel() for parameter in parameters)
    bench.time("optimizer/step", optimizer.step, weights=weights)
    bench.time("optimizer/clip and step", update, peer="optimizer/step")
    inputs.model.zero_grad(set_to_none=True)
