"""MobileSAM's decoder: all prompts of an image to masks; the peer is one call of segment_anything's own predictor."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from segment_anything import SamPredictor
from torch import Tensor

from clouds.self_training.sam.frame import Frame
from rows import OURS, Sizes
from rows.sam_encode import build_network, build_sam, encode_one, random_images

POINTS = 5  # of a prompt


def prompts(sizes: Sizes) -> Tensor:
    """Draw points (P, 5, 2) in pixels of the image."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(sizes["prompts"], POINTS, 2, generator=generator) * (sizes["side"] - 1)


def ours(sizes: Sizes) -> Callable[[], Tensor]:
    sam, points = build_sam(sizes["frame"]), prompts(sizes)
    embedding = sam.encode(random_images({**sizes, "images": 1}))[0]
    return lambda: sam.predict(embedding, points)


def theirs(sizes: Sizes) -> Callable[[], Tensor]:
    """Call `SamPredictor.predict_torch` once for all prompts and take the best mask of each, as published."""
    network, frame, points = build_network(sizes["frame"]), Frame(sizes["frame"]), prompts(sizes)
    image = random_images({**sizes, "images": 1})[0]
    size = (image.shape[1], image.shape[2])
    # The predictor's own resizing is for NumPy images; its state after `set_image` is made by hand.
    network.image_encoder.img_size = sizes["frame"]
    predictor = SamPredictor(network)
    predictor.features = encode_one(network, frame, image)[None]
    predictor.original_size, predictor.input_size, predictor.is_image_set = size, frame.fit(size), True

    def predict() -> Tensor:
        inside = torch.ones(points.shape[:2], dtype=torch.int)
        masks, quality, _ = predictor.predict_torch(frame.to_frame(points, size), inside, multimask_output=True)
        return masks[torch.arange(len(masks)), quality.argmax(dim=1)]

    return predict


SIDES: dict[str, Callable[[Sizes], Callable[[], Any]]] = {OURS: ours, "segment_anything": theirs}


def check(results: Mapping[str, Any]) -> str:
    """Compare the masks; logits near zero may round to either side."""
    shared = float(np.equal(results[OURS], results["segment_anything"]).mean())
    assert shared > 0.9999, f"only {shared:.4%} of the pixels agree"
    return f"{shared:.4%} of the pixels of all masks agree (limit 99.99 %)"
