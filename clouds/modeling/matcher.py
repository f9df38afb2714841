"""Hungarian matching of queries and targets on sampled points (Mask2Former, section 3.3).

Letters: B images, Q queries, N targets of an image, K classes, P points.
"""

from collections.abc import Callable, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from clouds.modeling.layers import full_precision
from clouds.modeling.structures import Prediction, Target

Uniform = Callable[[int, int, int], Tensor]
"""Source of random points: (image, rows, points) -> (rows, points, 2) float in [0, 1).

Each image of a batch has its own stream, so that its points do not depend on the other images.
"""

Matching = tuple[Tensor, Tensor]
"""Indices of the matched queries and of their targets, int64."""


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Sample maps bilinearly at points, with zeros outside (PointRend).

    Args:
        maps: (R, H, W) float.
        points: (R, P, 2), points of each map, or (1, P, 2), shared by all maps; (x, y) in [0, 1].

    Returns:
        (R, P) float.
    """
    grid = 2 * points - 1
    if len(points) == 1:
        return F.grid_sample(maps[None], grid[:, None], mode="bilinear", align_corners=False)[0, :, 0]
    return F.grid_sample(maps[:, None], grid[:, None], mode="bilinear", align_corners=False)[:, 0, 0]


def pairwise_mask_cost(logits: Tensor, masks: Tensor) -> Tensor:
    """Compute the mean binary cross-entropy (Q, N) of each query (Q, P) and each target (N, P) in [0, 1]."""
    # -log(sigmoid(x)) t - log(1 - sigmoid(x)) (1 - t) = softplus(x) - x t, since softplus(-x) = softplus(x) - x.
    return (F.softplus(logits).sum(dim=1, keepdim=True) - logits @ masks.T) / logits.shape[1]


def pairwise_dice_cost(logits: Tensor, masks: Tensor) -> Tensor:
    """Compute the dice loss (Q, N) of each query (Q, P) and each target (N, P) in [0, 1], as in the criterion."""
    probabilities = logits.sigmoid()
    overlap = 2 * probabilities @ masks.T
    total = probabilities.sum(dim=1)[:, None] + masks.sum(dim=1)[None]
    return 1 - (overlap + 1) / (total + 1)


class HungarianMatcher:
    """Finds the one-to-one assignment of queries to targets with the lowest cost; its weights are those of the loss."""

    def __init__(self, *, cost_class: float, cost_mask: float, cost_dice: float, num_points: int) -> None:
        """
        Args:
            cost_class: weight of the negative class probability.
            cost_mask: weight of the binary cross-entropy of masks.
            cost_dice: weight of the dice loss.
            num_points: P, number of points, drawn once per image and shared by all its masks.
        """
        self.cost_class = cost_class
        self.cost_mask = cost_mask
        self.cost_dice = cost_dice
        self.num_points = num_points

    @torch.no_grad()
    @full_precision
    def __call__(
        self, prediction: Prediction, targets: Sequence[Target], masks: Sequence[Tensor], uniform: Uniform
    ) -> list[Matching]:
        """Match queries and targets.

        Args:
            prediction: one decoder output for B images.
            targets: B targets with masks (N, H, W).
            masks: B float copies of the targets' masks, made once for all decoder outputs.
            uniform: source of random points.

        Returns:
            B pairs of min(Q, N) indices: matched queries in ascending order, and their targets.

        Raises:
            FloatingPointError: a prediction is not finite.
        """
        device = prediction.mask_logits.device
        costs = []
        for i, target in enumerate(targets):
            points = uniform(i, 1, self.num_points).to(device)
            logits = sample_points(prediction.mask_logits[i].float(), points)
            truth = sample_points(masks[i].float(), points)
            probabilities = prediction.class_logits[i].float().softmax(dim=-1)
            costs.append(
                self.cost_mask * pairwise_mask_cost(logits, truth)
                - self.cost_class * probabilities[:, target.labels]
                + self.cost_dice * pairwise_dice_cost(logits, truth)
            )
        # One transfer for the whole batch, since the host waits for the device in each.
        flat = torch.cat([cost.flatten() for cost in costs]).cpu()
        if not flat.isfinite().all():
            raise FloatingPointError("the network's output is not finite (in the matching cost)")
        pieces = flat.split([cost.numel() for cost in costs])
        matchings = []
        for piece, cost in zip(pieces, costs, strict=True):
            queries, matched = linear_sum_assignment(piece.view(cost.shape).numpy())
            matchings.append((torch.as_tensor(queries, device=device), torch.as_tensor(matched, device=device)))
        return matchings
