"""Set loss of Mask2Former on sampled points (Cheng et al., CVPR 2022, section 3.3).

Letters: L decoder outputs, B images, Q queries, K classes, N targets of an image after padding, M matched pairs of the
batch, P points.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.modeling.distributed import mean_over_processes
from clouds.modeling.layers import full_precision, mask_products
from clouds.modeling.matcher import HungarianMatcher, Matching, PaddedTargets, pad_targets
from clouds.modeling.points import Points, Uniform, draw_points, sample_points, uncertain_points, uniform_points
from clouds.modeling.structures import Prediction, Target


class MatchedOutputs(NamedTuple):
    """Outputs of the decoder layers beside what they should be, after the matching of queries and targets.

    Attributes:
        class_logits: (L, B, Q, K + 1) float, void last.
        classes: (L, B, Q) int64, class of the matched target; K, void, for a query without target.
        class_weights: (K + 1,) float, weight of each class in the cross-entropy.
        mask_logits: (L, M, h, w) float, mask logits of the matched queries.
        masks: (B * N, H, W) float, 0 or 1, masks of all targets on the canvas; 0 where padded.
        targets: (L, M) int64, index in `masks` of the target of each matched query.
        point_logits: (L, M, P) float, mask logits of the matched queries at sampled points.
        point_targets: (L, M, P) float in [0, 1], masks of their targets at the same points.
        num_masks: scalar float, number of targets of all images; M is smaller if an image has more targets than Q, or
            if these images are a part of a batch, whose other images count, too.
        other_weights: sum of the class weights of the queries for the other images of the batch; 0 if there are none.
    """

    class_logits: Tensor
    classes: Tensor
    class_weights: Tensor
    mask_logits: Tensor
    masks: Tensor
    targets: Tensor
    point_logits: Tensor
    point_targets: Tensor
    num_masks: Tensor
    other_weights: float


Term = tuple[Tensor, Tensor]
"""A loss before normalization: its sum over queries or masks, (L,), and its normalizer, (L,) or scalar."""


def class_loss(outputs: MatchedOutputs) -> Term:
    """Weighted cross-entropy of the classes, summed over queries; normalized by the sum of their weights."""
    logits, classes = outputs.class_logits.flatten(0, 2), outputs.classes.flatten()
    losses = F.cross_entropy(logits, classes, outputs.class_weights, reduction="none")
    weights = outputs.class_weights[outputs.classes]
    return losses.view_as(outputs.classes).sum(dim=(1, 2)), weights.sum(dim=(1, 2)) + outputs.other_weights


def mask_loss(outputs: MatchedOutputs) -> Term:
    """Binary cross-entropy, averaged over points, summed over masks; normalized by the number of masks."""
    losses = F.binary_cross_entropy_with_logits(outputs.point_logits, outputs.point_targets, reduction="none")
    return losses.mean(dim=2).sum(dim=1), outputs.num_masks


def dice_loss(outputs: MatchedOutputs) -> Term:
    """Dice loss 1 - (2 <p, t> + 1) / (|p| + |t| + 1), summed over masks; normalized by the number of masks."""
    probabilities = outputs.point_logits.sigmoid()
    overlap = 2 * (probabilities * outputs.point_targets).sum(dim=2)
    total = probabilities.sum(dim=2) + outputs.point_targets.sum(dim=2)
    return (1 - (overlap + 1) / (total + 1)).sum(dim=1), outputs.num_masks


LOSSES: dict[str, Callable[[MatchedOutputs], Term]] = {
    "loss_ce": class_loss,
    "loss_mask": mask_loss,
    "loss_dice": dice_loss,
}
"""Every loss by its name in the logs. To add one, add an entry here and a weight in `CLOUDS.from_config`."""


class SetCriterion(nn.Module):
    """Matches the queries of every decoder output to the targets and computes the weighted losses of the pairs."""

    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        weights: Mapping[str, float],
        no_object_weight: float,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
        deep_supervision: bool = True,
    ) -> None:
        """
        Args:
            num_classes: K, number of classes without void.
            matcher: assigns queries to targets.
            weights: weight of each loss, by its name in `LOSSES`; a loss without a weight is not computed.
            no_object_weight: weight of the void class in the cross-entropy; the other classes have weight 1.
            num_points: P, number of points at which a mask is compared.
            oversample_ratio: candidates per point, among which the uncertain points are chosen (PointRend, k).
            importance_sample_ratio: share of the points that are uncertain ones; the others are random (PointRend,
                beta).
            deep_supervision: whether to supervise the outputs of all decoder layers, not only the last.
        """
        super().__init__()
        unknown = weights.keys() - LOSSES.keys()
        if unknown:
            raise ValueError(f"weights names {', '.join(sorted(unknown))}; the losses are {', '.join(LOSSES)}")
        self.num_classes = num_classes
        self.matcher = matcher
        self.weights = dict(weights)
        self.num_points = num_points
        self.num_candidates = int(num_points * oversample_ratio)
        self.num_uncertain = int(num_points * importance_sample_ratio)
        self.deep_supervision = deep_supervision
        self.no_object_weight = no_object_weight
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        self.empty_weight: Tensor
        self.register_buffer("empty_weight", empty_weight)

    @full_precision
    def forward(
        self,
        predictions: Sequence[Prediction],
        targets: Sequence[Target],
        uniform: Uniform = uniform_points,
        others: Sequence[int] = (),
    ) -> dict[str, Tensor]:
        """Compute all losses. With several processes, all must call this together.

        Args:
            predictions: the decoder's outputs, the result last.
            targets: one target per image, its masks on the canvas.
            uniform: source of the random points (see `draw_points`).
            others: number of targets of each other image of the batch in this process, if it is computed in parts.

        Returns:
            Weighted scalars `loss_{ce,mask,dice}` of the result and `loss_*_<i>` of the i-th output before it. Their
            mean over the processes, of their sums over the parts, is the loss of the whole batch (see
            `clouds.modeling.distributed`).

        Raises:
            FloatingPointError: a prediction is not finite, in this process or in another one.
        """
        *auxiliary, result = predictions
        outputs = [result, *auxiliary] if self.deep_supervision else [result]
        padded = pad_targets(targets)
        queries = result.class_logits.shape[1]
        points = draw_points(
            uniform,
            len(outputs),
            [min(queries, count) for count in padded.counts],
            matching=self.matcher.num_points,
            candidates=self.num_candidates,
            random=self.num_points - self.num_uncertain,
            like=padded.masks,
        )
        matching = self.matcher(outputs, padded, points.matching)
        mask_logits = matched_masks(outputs, matching)
        chosen = self.choose_points(mask_logits, points)
        del points  # the candidates are larger than what the losses keep for the backward pass
        matched = self.matched(outputs, padded, matching, mask_logits, chosen, others)
        terms = {name: LOSSES[name](matched) for name in self.weights}
        normalizers = mean_over_processes(
            torch.stack([normalizer.expand(len(outputs)) for _, normalizer in terms.values()])
        )
        # A normalizer of 0 belongs to a sum over nothing, which is 0.
        normalizers = normalizers.masked_fill(normalizers == 0, 1)
        losses = {
            name: (self.weights[name] * (total / normalizer)).unbind()
            for (name, (total, _)), normalizer in zip(terms.items(), normalizers, strict=True)
        }
        suffixes = ["", *(f"_{i}" for i in range(len(outputs) - 1))]
        return {f"{name}{suffix}": losses[name][i] for i, suffix in enumerate(suffixes) for name in self.weights}

    def choose_points(self, mask_logits: Tensor, points: Points) -> Tensor:
        """Return (L * M, P, 2) points of the matched masks (L, M, h, w): where they are uncertain, and random ones."""
        uncertain = uncertain_points(mask_logits.detach().flatten(0, 1), points.candidates, self.num_uncertain)
        return torch.cat([uncertain, points.random], dim=1)

    def matched(
        self,
        outputs: Sequence[Prediction],
        targets: PaddedTargets,
        matching: Matching,
        mask_logits: Tensor,
        points: Tensor,
        others: Sequence[int],
    ) -> MatchedOutputs:
        """Put each query's prediction beside its target, with masks at points (L * M, P, 2).

        The other images of the batch need no forward pass for what normalizes the losses: each of them has min(Q,
        number of targets) queries with a class, whose weight is 1; its other queries have void.
        """
        class_logits = torch.stack([output.class_logits for output in outputs]).float()
        labels = targets.labels.flatten()[matching.targets]
        classes = torch.full(class_logits.shape[:3], self.num_classes, dtype=torch.int64, device=labels.device)
        classes.flatten(1).scatter_(1, matching.queries, labels)
        point_logits = sample_points(mask_logits.flatten(0, 1)[:, None], points)
        queries = class_logits.shape[2]
        pairs = [min(queries, count) for count in others]
        return MatchedOutputs(
            class_logits=class_logits,
            classes=classes,
            class_weights=self.empty_weight,
            mask_logits=mask_logits,
            masks=targets.masks.flatten(0, 1),
            targets=matching.targets,
            point_logits=point_logits.view(*matching.queries.shape, self.num_points),
            point_targets=sample_targets(targets, matching, points),
            num_masks=labels.new_full((), sum(targets.counts) + sum(others), dtype=torch.float32),
            other_weights=sum(paired + (queries - paired) * self.no_object_weight for paired in pairs),
        )


def matched_masks(outputs: Sequence[Prediction], matching: Matching) -> Tensor:
    """Return the mask logits (L, M, h, w) float of the matched queries, the only ones that get a gradient."""
    factors = [output.mask_factors for output in outputs if output.mask_factors is not None]
    if not factors:
        matched = [
            output.mask_logits.flatten(0, 1).index_select(0, queries)
            for output, queries in zip(outputs, matching.queries, strict=True)
        ]
        return torch.stack(matched).float()
    features = factors[0].features
    embeddings = torch.stack([factor.embeddings for factor in factors])  # (L, B, Q, E)
    layers, images, queries, channels = embeddings.shape
    layer = torch.arange(layers, device=features.device)
    # One product for all outputs of an image, with the query of each target, so that images have equally many.
    rows = matching.queries.flatten()[matching.pairs] + layer * (images * queries)  # (B * N, L)
    selected = embeddings.view(-1, channels).index_select(0, rows.flatten())
    masks = mask_products(selected.view(images, -1, channels), features)
    order = matching.targets * layers + layer[:, None]  # (L, M)
    return masks.flatten(0, 1).index_select(0, order.flatten()).unflatten(0, order.shape)


@torch.no_grad()
def sample_targets(targets: PaddedTargets, matching: Matching, points: Tensor) -> Tensor:
    """Sample the target of each matched pair at the pair's own points.

    Every target is sampled at the points of its pairs, since a mask is much larger than the points at which it is
    sampled; a target without a pair is sampled in vain.

    Args:
        targets: targets of the batch.
        matching: matched pairs of L outputs.
        points: (L * M, P, 2) float.

    Returns:
        (L, M, P) float in [0, 1].
    """
    layers, count = len(matching.queries), points.shape[1]
    grids = points.index_select(0, matching.pairs.flatten()).view(-1, layers * count, 2)
    sampled = sample_points(targets.masks.flatten(0, 1)[:, None], grids).view(-1, layers, count)
    return sampled[matching.targets, torch.arange(layers, device=points.device)[:, None]]
