"""MobileSAM's encoder: several images in one call, and the same images one by one, with equal settings."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from clouds.self_training.sam.frame import Frame
from clouds.self_training.sam.mobile_sam import STRIDE, mobile_network
from clouds.self_training.sam.segment_anything import SegmentAnything, set_image_size
from rows import ONE_BY_ONE, OURS, Sizes


def build_network(frame: int) -> Sam:
    """Build MobileSAM's network with random weights, equal in every process, for a frame of a side in pixels."""
    torch.manual_seed(0)
    network = mobile_network()
    set_image_size(network, frame, STRIDE)
    return network.eval()


def build_sam(frame: int) -> SegmentAnything:
    """Build our MobileSAM with the weights of `build_network`."""
    return SegmentAnything(build_network(frame), name="mobile", frame=Frame(frame))


def random_images(sizes: Sizes) -> list[Tensor]:
    """Draw `images` images (3, side, side) uint8."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, sizes["side"], sizes["side"])
    return [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(sizes["images"])]


def together(sizes: Sizes) -> Callable[[], list[Tensor]]:
    sam, images = build_sam(sizes["frame"]), random_images(sizes)
    return lambda: [embedding.features[0] for embedding in sam.encode(images)]


@torch.no_grad()
def encode_one(network: Sam, frame: Frame, image: Tensor) -> Tensor:
    """Encode one image as the published code does: resize, normalize, encode."""
    return network.image_encoder(frame.stack([image], torch.device("cpu")))[0]


def one_by_one(sizes: Sizes) -> Callable[[], list[Tensor]]:
    sam, images = build_sam(sizes["frame"]), random_images(sizes)
    return lambda: [encode_one(sam.network, sam.frame, image) for image in images]


SIDES: dict[str, Callable[[Sizes], Callable[[], Any]]] = {OURS: together, ONE_BY_ONE: one_by_one}


def check(results: Mapping[str, Any]) -> str:
    """Compare the embeddings."""
    pairs = zip(results[OURS], results[ONE_BY_ONE], strict=True)
    worst = max(float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)) for ours, theirs in pairs)
    assert worst < 1e-5, f"the embeddings differ by {worst:.1e}"
    return f"embeddings agree within {worst:.0e} (limit 1e-5)"
