"""Hungarian matching of queries and targets on sampled points (Mask2Former, section 3.3).

Letters: L decoder outputs, B images, Q queries, N targets of an image after padding, K classes, P points, M matched
pairs of the batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from clouds.modeling.distributed import finite_on_host
from clouds.modeling.layers import full_precision
from clouds.modeling.points import sample_points
from clouds.modeling.structures import Prediction, Target
from clouds.utils.transfer import upload


class PaddedTargets(NamedTuple):
    """Targets of a batch, padded to the largest number N of targets of an image.

    Attributes:
        labels: (B, N) int64 in [0, K); 0 where padded.
        masks: (B, N, H, W) float, 0 or 1; 0 where padded.
        counts: number of targets of each image.
    """

    labels: Tensor
    masks: Tensor
    counts: list[int]


def pad_targets(targets: Sequence[Target]) -> PaddedTargets:
    """Gather the targets of a batch, whose masks have one size."""
    counts = [len(target.labels) for target in targets]
    masks = targets[0].masks.new_zeros((len(targets), max(counts), *targets[0].masks.shape[1:]), dtype=torch.float32)
    for padded, target, count in zip(masks, targets, counts, strict=True):
        padded[:count] = target.masks
    return PaddedTargets(pad_sequence([target.labels for target in targets], batch_first=True), masks, counts)


class Matching(NamedTuple):
    """Matched pairs of a query and a target, for L outputs. Each has the pairs of the first image, then of the second.

    An image has min(Q, number of its targets) pairs, in ascending order of their queries.

    Attributes:
        queries: (L, M) int64, index of the query in the flattened (B, Q).
        targets: (L, M) int64, index of the target in the flattened (B, N).
        pairs: (B * N, L) int64, index of the pair of each target in the flattened (L, M); 0 if it has none.
    """

    queries: Tensor
    targets: Tensor
    pairs: Tensor


class PointSums(NamedTuple):
    """Sums over points of N target masks t and Q mask logits x, from which the costs of all pairs follow.

    Attributes:
        products: (..., N, Q), sums of t x.
        softplus: (..., 1, Q), sums of softplus(x).
        overlaps: (..., N, Q), sums of t sigmoid(x).
        probabilities: (..., 1, Q), sums of sigmoid(x).
    """

    products: Tensor
    softplus: Tensor
    overlaps: Tensor
    probabilities: Tensor


def point_sums(masks: Tensor, logits: Tensor) -> PointSums:
    """Sum over P points of target masks (B, N, P) in [0, 1] and mask logits (B, Q, P)."""
    probabilities = logits.sigmoid()
    return PointSums(
        products=torch.bmm(masks, logits.mT),
        softplus=F.softplus(logits).sum(dim=2)[:, None],
        overlaps=torch.bmm(masks, probabilities.mT),
        probabilities=probabilities.sum(dim=2)[:, None],
    )


def pairwise_mask_cost(sums: PointSums, points: int) -> Tensor:
    """Compute the binary cross-entropy (..., N, Q) of each target and query, averaged over points."""
    # -log(sigmoid(x)) t - log(1 - sigmoid(x)) (1 - t) = softplus(x) - x t, since softplus(-x) = softplus(x) - x.
    return (sums.softplus - sums.products) / points


def pairwise_dice_cost(sums: PointSums, masks: Tensor) -> Tensor:
    """Compute the dice loss (..., N, Q) of each target and query, as in the criterion, with sums (..., N, 1) of t."""
    return 1 - (2 * sums.overlaps + 1) / (sums.probabilities + masks + 1)


class HungarianMatcher:
    """Finds the one-to-one assignment of queries to targets with the lowest cost; its weights are those of the loss."""

    def __init__(self, *, cost_class: float, cost_mask: float, cost_dice: float, num_points: int) -> None:
        """
        Args:
            cost_class: weight of the negative class probability.
            cost_mask: weight of the binary cross-entropy of masks.
            cost_dice: weight of the dice loss.
            num_points: P, number of points, drawn once per output and image and shared by all its masks.
        """
        self.cost_class = cost_class
        self.cost_mask = cost_mask
        self.cost_dice = cost_dice
        self.num_points = num_points

    @torch.no_grad()
    @full_precision
    def __call__(self, predictions: Sequence[Prediction], targets: PaddedTargets, points: Tensor) -> Matching:
        """Match queries and targets. With several processes, all must call this together.

        The host waits for the device once, for the costs of all outputs and images.

        Args:
            predictions: L decoder outputs for B images.
            targets: targets of the images.
            points: (L, B, P, 2) float in [-1, 1].

        Raises:
            FloatingPointError: a prediction is not finite, in this process or in another one.
        """
        message = "the network's output is not finite (in the matching cost)"
        costs = finite_on_host(self.costs(predictions, targets, points), message)
        return assign(costs.numpy(), targets.counts, points.device)

    def costs(self, predictions: Sequence[Prediction], targets: PaddedTargets, points: Tensor) -> Tensor:
        """Compute the costs (L, B, N, Q) of all pairs; those of padded targets have no meaning."""
        layers, images, count, _ = points.shape
        masks = sample_points(targets.masks, points.transpose(0, 1).flatten(1, 2)).unflatten(2, (layers, count))
        # One output at a time, since mask logits at points, (B, Q, P), are by far the largest tensor.
        sums = [
            point_sums(masks[:, :, layer], sample_points(output.mask_logits.float(), points[layer]))
            for layer, output in enumerate(predictions)
        ]
        stacked = PointSums(*map(torch.stack, zip(*sums, strict=True)))
        probabilities = torch.stack([output.class_logits for output in predictions]).float().softmax(dim=3)
        labels = targets.labels[None, :, :, None].expand(layers, images, -1, probabilities.shape[2])
        return (
            self.cost_mask * pairwise_mask_cost(stacked, count)
            - self.cost_class * probabilities.mT.gather(2, labels)
            + self.cost_dice * pairwise_dice_cost(stacked, masks.sum(dim=3).movedim(2, 0)[..., None])
        )


def assign(costs: NDArray[np.float32], counts: Sequence[int], device: torch.device) -> Matching:
    """Solve the assignment problems of all outputs and images, and copy all indices to a device at once.

    Args:
        costs: (L, B, N, Q) finite costs.
        counts: number of targets of each image; the rows behind them are padding.
        device: device of the indices.
    """
    from scipy.optimize import linear_sum_assignment

    layers, images, padded, queries = costs.shape
    matched = np.zeros((2, layers, sum(min(queries, count) for count in counts)), dtype=np.int64)
    pairs = np.zeros((images * padded, layers), dtype=np.int64)
    for layer in range(layers):
        solved = [linear_sum_assignment(cost[:count].T) for cost, count in zip(costs[layer], counts, strict=True)]
        matched[0, layer] = np.concatenate([image * queries + rows for image, (rows, _) in enumerate(solved)])
        matched[1, layer] = np.concatenate([image * padded + columns for image, (_, columns) in enumerate(solved)])
        pairs[matched[1, layer], layer] = layer * matched.shape[2] + np.arange(matched.shape[2])
    packed = upload(torch.from_numpy(np.concatenate([matched.ravel(), pairs.ravel()])), device)
    indices, inverse = packed.split([matched.size, pairs.size])
    matched_queries, matched_targets = indices.view(matched.shape)
    return Matching(matched_queries, matched_targets, inverse.view(pairs.shape))
