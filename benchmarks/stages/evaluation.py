"""Evaluation of test images one by one, from the upload to the confusion matrix."""

import os
from collections.abc import Callable
from functools import partial
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.evaluation.confusion import confusion_matrix
from clouds.evaluation.label_maps import predict_labels
from clouds.modeling.inference import cells
from clouds.modeling.inference.labels import reference_label_map
from clouds.utils.devices import has_triton
from stages.bench import Bench
from stages.inputs import Inputs
from stages.peers import PEER, build_peer, peer_labels


@torch.no_grad()
def measure_evaluation(bench: Bench, inputs: Inputs) -> None:
    """Measure one test image; the peer is HF Mask2Former, from the normalized image to the label map on the host."""
    height, width = inputs.sizes.test
    peer = partial(
        peer_labels,
        build_peer(smoke=bench.smoke).to(bench.device).eval(),
        torch.randn(1, 3, height, width, device=bench.device),
    )
    for name in ("default", "tf32", "bf16"):
        with bench.precision(name):
            bench.time(f"evaluation/{PEER}/{name}", peer, images=1)
    del peer

    run = partial(evaluate, inputs.model.eval(), *inputs.test_image(), bench)
    try:
        for name in ("default", "tf32", "bf16"):
            with bench.precision(name):
                bench.time(f"evaluation/{name}", run, peer=f"evaluation/{PEER}/{name}", images=1)
                bench.note_host(f"evaluation/{name}/host", run)
    finally:
        inputs.model.train()
    measure_label_maps(bench, inputs)


def evaluate(model: nn.Module, image: Tensor, truth: Tensor, bench: Bench) -> None:
    """Predict an image and count its pixels, as the evaluator does in the loop of `inference_on_dataset`."""
    height, width = truth.shape
    [labels] = predict_labels(model, [{"image": image, "height": height, "width": width}])
    confusion_matrix(labels, truth, 19).cpu()


def measure_label_maps(bench: Bench, inputs: Inputs) -> None:
    """Measure label maps from masks, of decided and of random answers; the peer is the reference in strips."""
    (height, width), queries = inputs.sizes.test, inputs.cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES
    size, generator = (height, width), torch.Generator().manual_seed(0)
    classes = torch.randn(queries, 20, generator=generator)
    masks = torch.randn(queries, height // 4, width // 4, generator=generator)
    for answers in ("decided", "random"):
        if answers == "decided":
            classes, masks = decided(classes, masks)
        given = classes.to(bench.device), masks.to(bench.device), size, size, size
        exact = reference_label_map(*given)
        for name, implementation in implementations(bench.device).items():
            run = partial(implementation, *given)
            name = f"label maps/{answers}/{name}"
            different = int((run() != exact).sum())
            bench.time(name, run, peer=f"label maps/{answers}/reference", seconds=0.5, different=different)


def implementations(device: torch.device) -> dict[str, Callable[..., Tensor]]:
    """Return the implementations of label maps that can run on a device, the reference first."""
    found: dict[str, Callable[..., Tensor]] = {"reference": reference_label_map}
    if device.type == "cpu":
        found["cells"] = cells.label_map
    if has_triton() and (device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"):
        found["triton"] = import_module("clouds.modeling.inference.kernel").label_map
    return found


def decided(classes: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return answers as of a trained network: a fifth of the queries name a class, with smooth masks."""
    named = torch.arange(0, len(classes), 5)
    classes = classes.clone()
    classes[:, -1] += 8.5
    classes[named, -1] -= 12
    classes[named, named % 19] += 5
    coarse = F.avg_pool2d(masks[None], 8)
    smooth = F.interpolate(coarse, masks.shape[-2:], mode="bilinear", align_corners=False)[0]
    return classes, 8 * smooth / smooth.std() - 4
