"""Losses of the miniature CLIP.

Letters: B images, N names, D width of the space that images and texts share.
"""

import math

from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor, same: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy (Radford et al., 2021) with the targets of UniCL (Yang et al., 2022).

    Captions repeat, so every image with an equal caption counts as a match.

    Args:
        image_features: (B, D) unit-norm.
        text_features: (B, D) unit-norm, features of the images' captions.
        logit_scale: scalar, the inverse temperature.
        same: (B, B) bool, true where two captions are equal (and so on the diagonal).

    Returns:
        Scalar, the mean over both directions.
    """
    logits = logit_scale * image_features @ text_features.T
    targets = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def naming_loss(image_features: Tensor, name_features: Tensor, logit_scale: Tensor, correct: Tensor) -> Tensor:
    """Negative log of the probability that all correct names have together: MIL-NCE (Miech et al., 2020, equation 1).

    An image may have any one of its names, so no single name is the target.

    Args:
        image_features: (B, D) unit-norm.
        name_features: (N, D) unit-norm.
        logit_scale: scalar, the inverse temperature.
        correct: (B, N) bool, the names of each image, at least one.

    Returns:
        Scalar, the mean over the images.
    """
    logits = logit_scale * image_features @ name_features.T
    return (logits.logsumexp(dim=1) - logits.masked_fill(~correct, -math.inf).logsumexp(dim=1)).mean()
