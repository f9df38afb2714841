"""Geometric ensemble of the decoder's classes with CLIP's classes of each mask (FC-CLIP, Yu et al., NeurIPS 2023).

Student and teacher both use it.

Letters: B images, Q queries, K classes, h x w mask logits, D dimension of CLIP's space.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from clouds.data.classes import split_synonyms
from clouds.modeling.backbone.base import TextTower
from clouds.modeling.structures import Prediction


def seen_classes(test_names: Sequence[str], train_names: Sequence[str]) -> Tensor:
    """Return (K,) bool: whether each test class shares at least one name with a training class."""
    trained = {name for class_name in train_names for name in split_synonyms(class_name)}
    return torch.tensor([not trained.isdisjoint(split_synonyms(class_name)) for class_name in test_names])


def ensemble_with_clip(
    prediction: Prediction,
    features: dict[str, Tensor],
    tower: TextTower,
    classes: Sequence[str],
    train_classes: Sequence[str],
    void: Tensor,
    *,
    alpha: float,
    beta: float,
    valid_masks_only: bool = False,
) -> Prediction:
    """Classify each mask of a prediction with CLIP and combine the result with the decoder's classes.

    Args:
        prediction: (B, Q, K + 1) class logits and (B, Q, h, w) mask logits of the decoder.
        features: the backbone's maps (B, C, h', w') by name.
        tower: embeds masks and class names.
        classes: K class names, synonyms separated by commas.
        train_classes: class names seen in training.
        void: (1, D) embedding of "no object".
        alpha: weight of CLIP for classes seen in training, in [0, 1].
        beta: weight of CLIP for the other classes, in [0, 1].
        valid_masks_only: keep the decoder's classes where a mask is empty at the size of the tower's feature.

    Returns:
        The prediction with (B, Q, K + 1) log-probabilities as class logits.
    """
    dense = features[tower.dense_feature]
    masks = F.interpolate(prediction.mask_logits, size=dense.shape[-2:], mode="bilinear", align_corners=False)
    clip_logits = tower.text_classifier(classes).logits(tower.embed_masks(dense, masks), void, tower.logit_scale)
    class_logits = geometric_ensemble(
        prediction.class_logits,
        clip_logits,
        seen_classes(classes, train_classes).to(dense.device),
        alpha=alpha,
        beta=beta,
        valid=(masks > 0).flatten(2).any(dim=-1) if valid_masks_only else None,
    )
    return prediction._replace(class_logits=class_logits)


def geometric_ensemble(
    in_logits: Tensor,
    out_logits: Tensor,
    seen: Tensor,
    *,
    alpha: float,
    beta: float,
    valid: Tensor | None = None,
) -> Tensor:
    """Compute p_in^(1-a) p_out^a with a = alpha for seen classes and a = beta for the others (FC-CLIP, eq. 7).

    The computation uses log-probabilities, so that an underflow of one class does not affect the others.

    Args:
        in_logits: (B, Q, K + 1) of the decoder, void last; its void probability is kept.
        out_logits: (B, Q, K + 1) of CLIP, void last; CLIP's void logit is ignored.
        seen: (K,) bool.
        alpha: weight of CLIP for seen classes, in [0, 1].
        beta: weight of CLIP for unseen classes, in [0, 1].
        valid: (B, Q) bool; where False, the result is the decoder's. Default: True everywhere.

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
