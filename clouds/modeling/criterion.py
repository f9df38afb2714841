"""Set loss of Mask2Former on sampled points (Cheng et al., CVPR 2022, section 3.3).

Letters: B images, Q queries, K classes, M matched masks of the batch, P points.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.modeling.distributed import mean_over_processes
from clouds.modeling.layers import full_precision
from clouds.modeling.matcher import HungarianMatcher, Matching, Uniform, sample_points
from clouds.modeling.structures import Prediction, Target


class MatchedOutput(NamedTuple):
    """Output of one decoder layer beside what it should be, after the matching of queries and targets.

    Attributes:
        class_logits: (B, Q, K + 1) float, void last.
        classes: (B, Q) int64, class of the matched target; K, void, for a query without target.
        class_weights: (K + 1,) float, weight of each class in the cross-entropy.
        mask_logits: (M, h, w) float, mask logits of the matched queries.
        masks: (M, H, W) float, 0 or 1, masks of their targets on the canvas.
        point_logits: (M, P) float, mask logits of the matched queries at sampled points.
        point_targets: (M, P) float in [0, 1], masks of their targets at the same points.
        num_masks: scalar float, number of targets of all images; M is smaller if an image has more targets than Q.
    """

    class_logits: Tensor
    classes: Tensor
    class_weights: Tensor
    mask_logits: Tensor
    masks: Tensor
    point_logits: Tensor
    point_targets: Tensor
    num_masks: Tensor


Term = tuple[Tensor, Tensor]
"""A loss before normalization: its sum over queries or masks, and its normalizer; scalars."""


def class_loss(output: MatchedOutput) -> Term:
    """Weighted cross-entropy of the classes, summed over queries; normalized by the sum of their weights."""
    logits = output.class_logits.transpose(1, 2)
    total = F.cross_entropy(logits, output.classes, output.class_weights, reduction="sum")
    return total, output.class_weights[output.classes].sum()


def mask_loss(output: MatchedOutput) -> Term:
    """Binary cross-entropy, averaged over points, summed over masks; normalized by the number of masks."""
    losses = F.binary_cross_entropy_with_logits(output.point_logits, output.point_targets, reduction="none")
    return losses.mean(dim=1).sum(), output.num_masks


def dice_loss(output: MatchedOutput) -> Term:
    """Dice loss 1 - (2 <p, t> + 1) / (|p| + |t| + 1), summed over masks; normalized by the number of masks."""
    probabilities = output.point_logits.sigmoid()
    overlap = 2 * (probabilities * output.point_targets).sum(dim=1)
    total = probabilities.sum(dim=1) + output.point_targets.sum(dim=1)
    return (1 - (overlap + 1) / (total + 1)).sum(), output.num_masks


LOSSES: dict[str, Callable[[MatchedOutput], Term]] = {
    "loss_ce": class_loss,
    "loss_mask": mask_loss,
    "loss_dice": dice_loss,
}
"""Every loss by its name in the logs. To add one, add an entry here and a weight in `CLOUDS.from_config`."""


def uniform_points(image: int, rows: int, points: int) -> Tensor:
    """Draw (rows, points, 2) numbers from torch's global generator: the default source of points."""
    return torch.rand(rows, points, 2)


def seeded_points(seeds: Sequence[int], device: torch.device) -> Uniform:
    """Build a source of points with one generator per image.

    The numbers of an image depend neither on the other images nor on how the batch is split among processes. They do
    depend on the type of the device, on which they are drawn.

    Args:
        seeds: one seed per image, in [0, 2**63).
        device: device of the predictions.
    """
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def draw(image: int, rows: int, points: int) -> Tensor:
        return torch.rand(rows, points, 2, generator=generators[image], device=device)

    return draw


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
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        self.empty_weight: Tensor
        self.register_buffer("empty_weight", empty_weight)

    @full_precision
    def forward(
        self, predictions: Sequence[Prediction], targets: Sequence[Target], uniform: Uniform = uniform_points
    ) -> dict[str, Tensor]:
        """Compute all losses. With several processes, all must call this together.

        Args:
            predictions: the decoder's outputs, the result last.
            targets: one target per image, its masks on the canvas.
            uniform: source of random points; for each output and image it is asked for matching points, candidates and
                random points, in this order.

        Returns:
            Weighted scalars `loss_{ce,mask,dice}` of the result and `loss_*_<i>` of the i-th output before it. Their
            mean over the processes is the loss of the whole batch (see `clouds.modeling.distributed`).

        Raises:
            FloatingPointError: a prediction is not finite, in this process or in another one.
        """
        predictions = [Prediction(output.class_logits.float(), output.mask_logits.float()) for output in predictions]
        masks = [target.masks.float() for target in targets]
        num_masks = self.empty_weight.new_tensor(float(sum(len(target.labels) for target in targets)))
        *auxiliary, result = predictions
        outputs = {"": result}
        if self.deep_supervision:
            outputs |= {f"_{i}": output for i, output in enumerate(auxiliary)}
        names = {f"{name}{suffix}": name for suffix in outputs for name in self.weights}
        terms: dict[str, Term] = {}
        failure: FloatingPointError | None = None
        for suffix, prediction in outputs.items():
            try:
                matching = self.matcher(prediction, targets, masks, uniform)
            except FloatingPointError as error:
                failure = error  # raised by the exchange below, in all processes
                break
            matched = self.matched(prediction, targets, masks, matching, num_masks, uniform)
            terms |= {f"{name}{suffix}": LOSSES[name](matched) for name in self.weights}

        own = self.empty_weight.new_zeros(len(names))
        if failure is None:
            own = torch.stack([normalizer for _, normalizer in terms.values()])
        normalizers = mean_over_processes(own, failure)
        # A normalizer of 0 belongs to a sum over nothing, which is 0.
        return {
            name: self.weights[names[name]] * (total / (normalizer or 1.0))
            for (name, (total, _)), normalizer in zip(terms.items(), normalizers, strict=True)
        }

    def matched(
        self,
        prediction: Prediction,
        targets: Sequence[Target],
        masks: Sequence[Tensor],
        matching: Sequence[Matching],
        num_masks: Tensor,
        uniform: Uniform,
    ) -> MatchedOutput:
        """Put each query's prediction beside its target; masks at points where the matched masks are uncertain."""
        classes = torch.full(
            prediction.class_logits.shape[:2], self.num_classes, dtype=torch.int64, device=num_masks.device
        )
        for row, target, (queries, matched) in zip(classes, targets, matching, strict=True):
            row[queries] = target.labels[matched]
        logits = torch.cat([rows[queries] for rows, (queries, _) in zip(prediction.mask_logits, matching, strict=True)])
        wanted = torch.cat([rows[matched] for rows, (_, matched) in zip(masks, matching, strict=True)])
        with torch.no_grad():
            points = self._uncertain_points(logits, [len(queries) for queries, _ in matching], uniform)
            point_targets = sample_points(wanted, points)
        return MatchedOutput(
            class_logits=prediction.class_logits,
            classes=classes,
            class_weights=self.empty_weight,
            mask_logits=logits,
            masks=wanted,
            point_logits=sample_points(logits, points),
            point_targets=point_targets,
            num_masks=num_masks,
        )

    def _uncertain_points(self, logits: Tensor, counts: Sequence[int], uniform: Uniform) -> Tensor:
        """Draw (M, P, 2) points: the least certain of many candidates, then uniform ones (PointRend, section 3.1).

        Args:
            logits: (M, h, w) mask logits of the matched queries.
            counts: number of matched queries per image.
            uniform: source of random points.
        """

        def draw(points: int) -> Tensor:
            drawn = [uniform(image, count, points) for image, count in enumerate(counts)]
            return torch.cat(drawn).to(device=logits.device, dtype=logits.dtype)

        candidates = draw(self.num_candidates)
        certainty = sample_points(logits, candidates).abs()
        least = certainty.topk(self.num_uncertain, dim=1, largest=False).indices
        uncertain = candidates.gather(1, least[..., None].expand(-1, -1, 2))
        return torch.cat([uncertain, draw(self.num_points - self.num_uncertain)], dim=1)
