"""From class and mask logits to a label map at full size.

The answers of a trained network name a class with few of the queries and "no object" with the others, and can be
computed in less time than random ones. They come from a miniature that is trained on synthetic scenes for a minute.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from scenes import CLASSES, image, label_map
from torch import Tensor
from torch.nn import functional as F

from clouds.modeling.inference import image_labels
from clouds.modeling.structures import Prediction
from rows import FORMULATION, OURS, Sizes
from rows.networks import build_ours, published_labels

QUERIES, SCENES, SIZE = 100, 16, (128, 256)


def prepare(sizes: Sizes) -> dict[str, Any]:
    """Make the answers for an image of the given size: of a trained miniature, or without iterations random ones."""
    size = sizes["height"], sizes["width"]
    if sizes["iterations"]:
        classes, masks = trained_answers(size, sizes["iterations"])
    else:
        generator = torch.Generator().manual_seed(0)
        classes = torch.randn(QUERIES, CLASSES + 1, generator=generator)
        masks = torch.randn(QUERIES, size[0] // 4, size[1] // 4, generator=generator)
    return {"classes": classes.numpy(), "masks": masks.numpy()}


def trained_answers(size: tuple[int, int], iterations: int) -> tuple[Tensor, Tensor]:
    """Train a miniature and return its class logits (Q, K + 1) and mask logits (Q, h, w) for a scene it has not seen.

    It sees scenes of 128 x 256, in which a class always has the same color, and its mask logits are enlarged.
    """
    _, model = build_ours(miniature=True, queries=QUERIES, trainable=True)
    maps = [label_map(SIZE, seed, regions=4, fray=2) for seed in range(SCENES + 1)]
    images = [torch.from_numpy(image(each, 0)).permute(2, 0, 1).contiguous() for each in maps]
    optimizer = torch.optim.AdamW((each for each in model.parameters() if each.requires_grad), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=iterations)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    for _ in range(iterations):
        chosen = rng.integers(0, SCENES, 2)
        batch = [{"image": images[scene], "sem_seg": torch.from_numpy(maps[scene])} for scene in chosen]
        optimizer.zero_grad()
        torch.stack([*model(batch).values()]).sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        classes, masks, _ = model.eval().predict([{"image": images[SCENES]}], SIZE)
    masks = F.interpolate(masks, (size[0] // 4, size[1] // 4), mode="bilinear", align_corners=False)
    return classes[0], masks[0]


def inputs(sizes: Sizes) -> tuple[Tensor, Tensor, tuple[int, int]]:
    classes, masks = (torch.from_numpy(sizes[name]) for name in ("classes", "masks"))
    return classes, masks, (sizes["height"], sizes["width"])


def ours(sizes: Sizes) -> Callable[[], Tensor]:
    classes, masks, size = inputs(sizes)
    prediction = Prediction(classes[None], masks[None])
    return torch.no_grad()(lambda: image_labels(prediction, size, [size], [size])[0])


def theirs(sizes: Sizes) -> Callable[[], Tensor]:
    return torch.no_grad()(partial(published_labels, *inputs(sizes)))


SIDES = {OURS: ours, FORMULATION: theirs}


def check(results: Mapping[str, Any]) -> str:
    """Compare the label maps; they may differ where two classes have equal scores up to rounding."""
    different = int((results[OURS] != results[FORMULATION]).sum())
    pixels = results[OURS].size
    assert different <= max(3, 1e-5 * pixels), f"{different} of {pixels} labels differ"
    return f"{different:,} of {pixels:,} labels differ, by ties of rounding (limit 1e-5)"
