"""Embeddings of images and texts by a CLIP."""

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from minicity.training.images import clip_input
from minicity.training.towers import Towers

Floats = npt.NDArray[np.float32]


@torch.inference_mode()
def embed(clip: Towers, images: npt.NDArray[np.uint8], texts: list[str]) -> tuple[Floats, Floats]:
    """Embed N images and N texts in the space of width D that they share.

    Args:
        clip: image and text tower.
        images: (N, H, W, 3) uint8 RGB, H and W multiples of 32.
        texts: N texts.

    Returns:
        Features of the images and of the texts, both (N, D) unit-norm.
    """
    batches = np.array_split(images, max(1, len(images) // 32))
    maps = [clip(clip_input(batch, clip.logit_scale.device))["clip_vis_dense"] for batch in batches]
    image_features = torch.cat([clip.embed_whole(dense) for dense in maps])
    text_features = clip.encode_text(texts)
    return F.normalize(image_features, dim=-1).cpu().numpy(), F.normalize(text_features, dim=-1).cpu().numpy()
