"""What a miniature CLIP knows without a segmenter: classes of crops, captions of streets, classes of pixels.

Legend: D the width of the space that text and images share, K classes, N names of them, H x W a picture, h x w the map.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from clouds.data.classes import CITYSCAPES_CLASSES
from clouds.evaluation.confusion import Scores, confusion_matrix, score
from clouds.modeling.backbone.clip import CLIP
from minicity.clip.training import clip_input
from minicity.diffusion.pool import draw_captioned
from minicity.sam.pool import draw_streets
from minicity.world.pool import Pixels
from minicity.world.wide import measured_sets

Floats = npt.NDArray[np.float32]


@torch.inference_mode()
def predict_classes(
    encode_image: Callable[[Tensor], Tensor], class_embeddings: Tensor, names_per_class: Sequence[int], images: Pixels
) -> npt.NDArray[np.int64]:
    """Zero-shot classes: the class with the name that is most alike.

    Args:
        encode_image: (B, 3, h, w) normalised images to (B, D) unit-norm features.
        class_embeddings: (N, D) unit-norm, one for each name, class by class.
        names_per_class: how many of the N names each class has.
        images: (M, h, w, 3) uint8 RGB.

    Returns:
        (M,) indices of classes.
    """
    found = []
    for part in np.array_split(images, max(1, len(images) // 256)):
        likeness = encode_image(clip_input(part, class_embeddings.device)) @ class_embeddings.T
        best = [names.max(dim=1).values for names in likeness.split(list(names_per_class), dim=1)]
        found.append(torch.stack(best, dim=1).argmax(dim=1).cpu().numpy())
    return np.concatenate(found)


@dataclass(frozen=True)
class Retrieval:
    """Share of the queries, 0..1, whose own partner is among the first one or five of all; ``chance`` for the first."""

    first: float
    first_five: float
    chance: float


def retrieval(queries: Floats, candidates: Floats, texts: Sequence[str]) -> Retrieval:
    """How often what belongs together is found.

    Args:
        queries: (N, D) unit-norm.
        candidates: (N, D) unit-norm, the partner of each in the same place.
        texts: N captions; the partners of equal captions are equally right.
    """
    likeness = queries @ candidates.T
    same = np.array([[one == other for other in texts] for one in texts])
    own = np.where(same, likeness, -np.inf).max(axis=1, keepdims=True)
    rank = ((likeness >= own) & ~same).sum(axis=1)  # what cannot be told apart is not found
    return Retrieval(float((rank < 1).mean()), float((rank < 5).mean()), float(same.mean(axis=1).mean()))


@torch.inference_mode()
def features(clip: CLIP, images: Pixels, texts: list[str]) -> tuple[Floats, Floats]:
    """What a CLIP makes of pictures and of texts.

    Args:
        clip: towers.
        images: (N, H, W, 3) uint8 RGB, H and W multiples of 32.
        texts: N.

    Returns:
        Both (N, D) unit-norm.
    """
    parts = np.array_split(images, max(1, len(images) // 32))
    maps = [clip(clip_input(part, clip.logit_scale.device))["clip_vis_dense"] for part in parts]
    seen = torch.cat([clip.embed_whole(dense) for dense in maps])
    read = clip.encode_text(texts)
    return F.normalize(seen, dim=-1).cpu().numpy(), F.normalize(read, dim=-1).cpu().numpy()


@torch.inference_mode()
def dense_scores(clip: CLIP, classifier: Any, images: Pixels, labels: Pixels) -> Scores:
    """Zero-shot classes of pixels: each element of the last map is embedded alone and compared with the classes' names.

    Args:
        clip: towers.
        classifier: of the K classes: ``embeddings`` (N, D) unit-norm and ``names_per_class``.
        images: (M, H, W, 3) uint8 RGB, H and W multiples of 32.
        labels: (M, H, W) uint8 train ids, 0..K-1 or 255.
    """
    num_classes = len(classifier.names_per_class)
    device = classifier.embeddings.device
    matrix = torch.zeros(num_classes + 1, num_classes + 1, dtype=torch.int64)
    for image, label in zip(images, labels, strict=True):
        dense = clip(clip_input(image[None], device))["clip_vis_dense"]
        height, width = dense.shape[-2:]
        alone = torch.eye(height * width, device=device).view(1, height * width, height, width) * 2 - 1
        likeness = F.normalize(clip.embed_masks(dense, alone)[0], dim=-1) @ classifier.embeddings.T
        best = [names.max(dim=1).values for names in likeness.split(list(classifier.names_per_class), dim=1)]
        scores = torch.stack(best).view(1, num_classes, height, width)
        found = F.interpolate(scores, label.shape, mode="bilinear")[0].argmax(dim=0).cpu()
        matrix += confusion_matrix(found, torch.from_numpy(label).long(), num_classes)
    return score(matrix.numpy())


def tables(clip: CLIP, num_scenes: int, seed: int) -> Iterator[str]:
    """Lines of Markdown for a card: retrieval and zero-shot pixels on new streets of each of `measured_sets`.

    Args:
        clip: towers.
        num_scenes: a row.
        seed: of the streets; not that of a training.
    """
    yield "## Retrieval"
    yield ""
    yield f"Of {num_scenes} new streets a row, at 128 x 256, and their captions each finds its own among all; in %."
    yield ""
    yield "| | caption of a street: first | first five | street of a caption: first | first five | chance, first |"
    yield "|---|---|---|---|---|---|"
    for row, styles in measured_sets().items():
        drawn = draw_captioned(styles, seed, range(num_scenes))
        seen, read = features(clip, drawn.images, drawn.captions)
        ways = retrieval(seen, read, drawn.captions), retrieval(read, seen, drawn.captions)
        cells = [*(share for way in ways for share in (way.first, way.first_five)), ways[0].chance]
        yield f"| {row} | " + " | ".join(f"{100 * cell:.1f}" for cell in cells) + " |"
    yield ""
    yield "## Zero-shot accuracy of pixels"
    yield ""
    yield f"Of {num_scenes} new streets a row, at 256 x 512 pixels: each element of the last map, 32 pixels a side,"
    yield "against the names of the 19 classes; in %."
    yield ""
    yield "| | pixels right | mean of classes | mIoU |"
    yield "|---|---|---|---|"
    classifier = clip.text_classifier(CITYSCAPES_CLASSES)
    for row, styles in measured_sets().items():
        streets = draw_streets(styles, seed, range(num_scenes))
        found = dense_scores(clip, classifier, streets.images, streets.labels)
        yield f"| {row} | {found.pacc:.1f} | {found.macc:.1f} | {found.miou:.1f} |"
