"""A training step and a prediction as stages, one for each part of the network, that are measured one by one.

A stage is the part's own module on the output of the stage before. Between two stages, tensors are detached, so that
each has a backward pass of its own; gradients go from stage to stage as in a training step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map_only

from clouds.clouds import CLOUDS
from clouds.data.classes import split_synonyms
from clouds.engine.analysis.parameters import CRITERION, DECODER, LABEL_MAP, PIXEL_DECODER, TOWER
from clouds.modeling.inference import label_map
from clouds.modeling.points import seeded_points
from clouds.modeling.structures import ImageDict, batch_targets
from clouds.modeling.text_classifier import TextClassifier

Forward = Callable[[Any], Any]
Meter = Callable[[Callable[[], Any]], tuple[Any, Any]]
"""Function of a call that returns what it measures, and the result of the call."""


@dataclass
class Pass:
    """Measurements of a pass through the stages, by the name of the stage.

    Attributes:
        forward: measurement of each forward pass.
        backward: measurement of each backward pass; empty for a prediction.
        training: whether they are those of a training step, not of a prediction.
    """

    training: bool
    forward: dict[str, Any] = field(default_factory=dict)
    backward: dict[str, Any] = field(default_factory=dict)


def random_batch(count: int, size: tuple[int, int], classes: int) -> list[ImageDict]:
    """Return `count` random images of `size` (H, W), whose label maps have all classes in vertical stripes."""
    height, width = size
    labels = (torch.arange(width) * classes // width).to(torch.uint8).expand(height, width)
    present = sorted(set(labels[0].tolist()))
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sample = {"image": image, "sem_seg": labels, "sem_seg_classes": present}
    return [{**sample, "height": height, "width": width, "seed": number} for number in range(count)]


def random_text(model: CLOUDS, classes: Sequence[str]) -> TextClassifier | None:
    """Return random embeddings of class names for a head that uses text; its cost does not depend on their values."""
    if not model.sem_seg_head.uses_text:
        return None
    counts = tuple(len(split_synonyms(name)) for name in classes)
    return TextClassifier(
        F.normalize(torch.rand(sum(counts), model.text_tower.embed_dim, device=model.device), dim=-1), counts
    )


def training_stages(model: CLOUDS, batch: Sequence[ImageDict]) -> dict[str, Forward]:
    """Return the stages of a training step by name."""
    canvas, text = model.canvas(batch), random_text(model, model.train_classes)
    return _network_stages(model, batch, canvas, text) | {
        CRITERION: lambda predictions: model.criterion(
            predictions,
            batch_targets(batch, canvas, model.device),
            seeded_points([x["seed"] for x in batch], model.device),
        )
    }


def inference_stages(model: CLOUDS, image: ImageDict) -> dict[str, Forward]:
    """Return the stages of the prediction of a label map by name."""
    canvas, text = model.canvas([image]), random_text(model, model.test_classes)
    size = (image["image"].shape[-2], image["image"].shape[-1])
    output = (image["height"], image["width"])
    return _network_stages(model, [image], canvas, text) | {
        LABEL_MAP: lambda predictions: label_map(
            predictions[-1].class_logits[0], predictions[-1].mask_logits[0], canvas, size, output
        )
    }


def _network_stages(
    model: CLOUDS, batch: Sequence[ImageDict], canvas: tuple[int, int], text: TextClassifier | None
) -> dict[str, Forward]:
    images, head = [x["image"] for x in batch], model.sem_seg_head
    return {
        TOWER: lambda _: model.backbone(model.preprocess(images, canvas)),
        PIXEL_DECODER: head.pixel_decoder,
        DECODER: lambda decoded: head.predictor(decoded[1], decoded[0], text, model.void, model.backbone.queries),
    }


def run_training(stages: Mapping[str, Forward], meter: Meter) -> Pass:
    """Run the forward passes of all stages, then their backward passes; the parameters keep their gradients."""
    measured, outputs, inputs = Pass(training=True), dict[str, Any](), dict[str, Any]()
    value: Any = None
    for name, forward in stages.items():
        inputs[name] = _detached(value)
        measured.forward[name], value = meter(partial(forward, inputs[name]))
        outputs[name] = value
    grads: list[Tensor | None] = []
    for name in reversed(list(stages)):
        ends = _tensors(outputs.pop(name))
        given = grads or [torch.ones_like(end) for end in ends]
        pairs = [(end, grad) for end, grad in zip(ends, given, strict=True) if end.requires_grad and grad is not None]
        if pairs:
            backward = partial(torch.autograd.backward, [end for end, _ in pairs], [grad for _, grad in pairs])
            measured.backward[name], _ = meter(backward)
        grads = [leaf.grad for leaf in _tensors(inputs.pop(name))]
        if not any(grad is not None for grad in grads):
            break  # all parts before are frozen
    return measured


@torch.no_grad()
def run_inference(stages: Mapping[str, Forward], meter: Meter) -> Pass:
    """Run all stages without gradients."""
    measured = Pass(training=False)
    value: Any = None
    for name, forward in stages.items():
        measured.forward[name], value = meter(partial(forward, value))
    return measured


def _detached(value: Any) -> Any:
    """Return nested containers with detached tensors, which require a gradient where those in `value` do."""
    return tree_map_only(Tensor, lambda x: x.detach().requires_grad_(x.requires_grad), value)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
