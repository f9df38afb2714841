"""The set loss of Mask2Former on points (Cheng et al., CVPR 2022, section 3.3).

Letters: B images, Q queries, K classes, M matched masks of the batch, P points.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.d2 import comm
from clouds.modeling.layers import full_precision
from clouds.modeling.matcher import HungarianMatcher, Matching, Uniform, sample_points
from clouds.modeling.structures import Prediction, Target


def uniform_points(image: int, rows: int, points: int) -> Tensor:
    """The default source of points: torch's global generator."""
    return torch.rand(rows, points, 2)


def seeded_points(seeds: Sequence[int], device: torch.device) -> Uniform:
    """A source of points with one generator an image: what it draws depends neither on the images beside it nor on
    how the batch is split. Drawn where it is used; another kind of device draws other numbers.

    Args:
        seeds: one an image, in [0, 2**63).
        device: of the predictions.
    """
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def draw(image: int, rows: int, points: int) -> Tensor:
        return torch.rand(rows, points, 2, generator=generators[image], device=device)

    return draw


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of (M, P) logits and targets in [0, 1]: mean over points, sum over masks."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1).sum()


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 <p, t> + 1) / (|p| + |t| + 1) of (M, P) logits and targets, summed over masks."""
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities * targets).sum(dim=1)
    total = probabilities.sum(dim=1) + targets.sum(dim=1)
    return (1 - (overlap + 1) / (total + 1)).sum()


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of each entry over all processes.

    A loss is a sum over the images divided by a sum over the images. With the latter replaced by its mean over the
    processes, the mean over the processes of such losses, and of their gradients (which is what data-parallel training
    takes), is that of the whole batch.
    """
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(values)
        values = values / comm.get_world_size()
    return values


class SetCriterion(nn.Module):
    """Match the queries of every decoder output to the targets; weigh class, mask and dice losses."""

    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        no_object_weight: float,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
        deep_supervision: bool = True,
    ) -> None:
        """
        Args:
            num_classes: K, without void.
            matcher: assigns queries to targets.
            class_weight: of the cross-entropy.
            mask_weight: of the binary cross-entropy of masks.
            dice_weight: of the dice loss.
            no_object_weight: weight of the void class inside the cross-entropy.
            num_points: P, points a mask loss looks at.
            oversample_ratio: candidates drawn for one point that is kept for its uncertainty (PointRend, k).
            importance_sample_ratio: share of points kept for their uncertainty (PointRend, beta).
            deep_supervision: whether the outputs before the last one count too.
        """
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.weights = {"loss_ce": class_weight, "loss_mask": mask_weight, "loss_dice": dice_weight}
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
        """
        Args:
            predictions: the decoder's outputs, the result last.
            targets: one an image.
            uniform: the source of points; for each output and image it is asked for matching points, candidates and
                random points, in that order.

        Returns:
            Weighted scalars `loss_{ce,mask,dice}` of the result and `loss_*_<i>` of the i-th output before it. With
            several processes, all of which must call this together, their mean over the processes is the loss of the
            whole batch.

        Raises:
            FloatingPointError: a prediction is not finite; raised in all processes together, in those whose own
                predictions are finite without a message.
        """
        predictions = [Prediction(output.class_logits.float(), output.mask_logits.float()) for output in predictions]
        masks = [target.masks.float() for target in targets]
        *auxiliary, result = predictions
        outputs = {"": result}
        if self.deep_supervision:
            outputs |= {f"_{i}": output for i, output in enumerate(auxiliary)}
        sums: dict[str, dict[str, Tensor]] = {}
        class_weights: list[Tensor] = []
        failure: FloatingPointError | None = None
        for suffix, prediction in outputs.items():
            try:
                matching = self.matcher(prediction, targets, masks, uniform)
            except FloatingPointError as error:
                failure = error  # raised below, once the other processes, which come by there too, know of it
                break
            class_sum, class_weight = self.class_loss(prediction, targets, matching)
            sums[suffix] = {"loss_ce": class_sum, **self.mask_losses(prediction, masks, matching, uniform)}
            class_weights.append(class_weight)

        # All that has to be summed over the processes, in one exchange and one transfer from the device.
        own = self.empty_weight.new_zeros(2 + len(outputs))
        own[0] = float(failure is not None)
        own[1] = sum(len(target.labels) for target in targets)
        for i, class_weight in enumerate(class_weights, start=2):
            own[i] = class_weight
        failed, num_masks, *weights = mean_over_processes(own).tolist()
        if failed:
            raise failure or FloatingPointError
        num_masks = max(num_masks, 1 / comm.get_world_size())  # a batch without any mask counts as one

        losses: dict[str, Tensor] = {}
        for (suffix, terms), weight in zip(sums.items(), weights, strict=True):
            divisors = {"loss_ce": weight, "loss_mask": num_masks, "loss_dice": num_masks}
            losses |= {name + suffix: self.weights[name] * (term / divisors[name]) for name, term in terms.items()}
        return losses

    def class_loss(
        self, prediction: Prediction, targets: Sequence[Target], matching: Sequence[Matching]
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy, a query without target should say void: its weighted sum and the sum of its weights."""
        logits = prediction.class_logits
        wanted = torch.full(logits.shape[:2], self.num_classes, dtype=torch.int64, device=logits.device)
        for row, target, (queries, matched) in zip(wanted, targets, matching, strict=True):
            row[queries] = target.labels[matched]
        total = F.cross_entropy(logits.transpose(1, 2), wanted, self.empty_weight, reduction="sum")
        return total, self.empty_weight[wanted].sum()

    def mask_losses(
        self, prediction: Prediction, masks: Sequence[Tensor], matching: Sequence[Matching], uniform: Uniform
    ) -> dict[str, Tensor]:
        """Mask and dice loss on points that are drawn where the matched masks are undecided, and some anywhere."""
        logits = torch.cat([rows[queries] for rows, (queries, _) in zip(prediction.mask_logits, matching, strict=True)])
        wanted = torch.cat([rows[matched] for rows, (_, matched) in zip(masks, matching, strict=True)])
        with torch.no_grad():
            points = self._uncertain_points(logits, [len(queries) for queries, _ in matching], uniform)
            point_targets = sample_points(wanted, points)
        point_logits = sample_points(logits, points)
        return {
            "loss_mask": mask_loss(point_logits, point_targets),
            "loss_dice": dice_loss(point_logits, point_targets),
        }

    def _uncertain_points(self, logits: Tensor, counts: Sequence[int], uniform: Uniform) -> Tensor:
        """(M, P, 2) points: the least certain of many candidates, then uniform ones (PointRend, section 3.1)."""

        def draw(points: int) -> Tensor:
            drawn = [uniform(image, count, points) for image, count in enumerate(counts)]
            return torch.cat(drawn).to(device=logits.device, dtype=logits.dtype)

        candidates = draw(self.num_candidates)
        certainty = sample_points(logits, candidates).abs()
        least = certainty.topk(self.num_uncertain, dim=1, largest=False).indices
        uncertain = candidates.gather(1, least[..., None].expand(-1, -1, 2))
        return torch.cat([uncertain, draw(self.num_points - self.num_uncertain)], dim=1)
