"""Losses of the miniature SAM (Kirillov et al., Segment Anything, ICCV 2023, section 3 and appendix A).

Letters: P prompts, M mask outputs of a prompt (three), H x W pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

FOCAL_WEIGHT = 20.0


def focal_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) with gamma 2 and without alpha.

    Args:
        logits: (..., H, W).
        truth: (..., H, W) float 0 or 1; broadcasts with the logits.

    Returns:
        (...), the mean over the pixels.
    """
    signed = logits * (1 - 2 * truth)  # positive where the prediction is wrong
    return (torch.sigmoid(signed).square() * F.softplus(signed)).mean(dim=(-2, -1))


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - Dice coefficient of the soft mask, smoothed by one pixel.

    Args:
        logits: (..., H, W).
        truth: (..., H, W) float 0 or 1; broadcasts with the logits.

    Returns:
        (...), one value per mask.
    """
    soft = torch.sigmoid(logits)
    shared = (soft * truth).sum(dim=(-2, -1))
    return 1 - (2 * shared + 1) / (soft.sum(dim=(-2, -1)) + truth.sum(dim=(-2, -1)) + 1)


def mask_iou(masks: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of bool masks (..., H, W), which broadcast; 1 if both are empty."""
    intersection = (masks & truth).sum(dim=(-2, -1)).float()
    union = (masks | truth).sum(dim=(-2, -1)).float()
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


def prompt_loss(logits: Tensor, quality: Tensor, truth: Tensor) -> Tensor:
    """SAM's loss: only the best mask output learns the mask, and all of them learn to predict their quality.

    Args:
        logits: (P, M, H, W).
        quality: (P, M), predicted intersection over union.
        truth: (P, H, W) bool.

    Returns:
        Scalar, the mean over the prompts.
    """
    target = truth[:, None]
    each = FOCAL_WEIGHT * focal_loss(logits, target.float()) + dice_loss(logits, target.float())
    iou = mask_iou(logits.detach() > 0, target)
    return each.min(dim=1).values.mean() + F.mse_loss(quality, iou)
