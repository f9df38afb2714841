"""What CLIP itself says about a mask, and how that is combined with what the decoder says.

Letters: B images, Q queries, K classes, C channels, H x W feature map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from clouds.data.classes import split_synonyms
from clouds.modeling.layers import full_precision


@full_precision
def mask_pool(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Mean feature under each mask.

    Args:
        features: (B, C, H, W).
        mask_logits: (B, Q, h, w); a pixel belongs to a mask where its logit, resized to H x W, is positive.

    Returns:
        (B, Q, C) float32; 0 where a mask is empty. No gradient flows into the mask logits.
    """
    features = features.float()
    masks = F.interpolate(mask_logits.detach().float(), size=features.shape[-2:], mode="bilinear", align_corners=False)
    masks = (masks > 0).to(features.dtype)
    masks = masks / (masks.sum(dim=(-1, -2), keepdim=True) + 1e-8)
    return torch.einsum("bchw,bqhw->bqc", features, masks)


def seen_classes(test_names: Sequence[str], train_names: Sequence[str]) -> Tensor:
    """(K,) bool: which test classes share at least one name with a training class."""
    trained = {name for class_name in train_names for name in split_synonyms(class_name)}
    return torch.tensor([not trained.isdisjoint(split_synonyms(class_name)) for class_name in test_names])


def geometric_ensemble(
    in_logits: Tensor,
    out_logits: Tensor,
    seen: Tensor,
    *,
    alpha: float,
    beta: float,
    valid: Tensor | None = None,
) -> Tensor:
    """Class probabilities p_in^(1-a) p_out^a with a = alpha for seen classes and beta for the others (FC-CLIP, eq. 7).

    Computed with log-probabilities, so that an underflow of one class cannot spoil the others.

    Args:
        in_logits: (B, Q, K + 1) of the decoder, void last; the void probability is kept as the decoder has it.
        out_logits: (B, Q, K + 1) of CLIP, void last (unused: CLIP knows no void).
        seen: (K,) bool.
        alpha: weight of CLIP for seen classes, in [0, 1].
        beta: weight of CLIP for unseen classes, in [0, 1].
        valid: (B, Q) bool; where False, CLIP has no say (its pooled mask is empty).

    Returns:
        (B, Q, K + 1) log-probabilities.
    """
    weight = torch.where(seen, alpha, beta).to(in_logits)
    if valid is not None:
        weight = weight * valid.unsqueeze(-1)
    log_in = in_logits[..., :-1].log_softmax(dim=-1)
    log_out = out_logits[..., :-1].log_softmax(dim=-1)
    probabilities = ((1 - weight) * log_in + weight * log_out).softmax(dim=-1)
    void = in_logits.softmax(dim=-1)[..., -1:]
    return torch.log(torch.cat([probabilities * (1 - void), void], dim=-1) + 1e-8)
