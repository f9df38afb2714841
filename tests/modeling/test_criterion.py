"""Matching and losses of all decoder outputs together: equal to those of each pair, in few operations."""

import math
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from clouds.d2 import comm
from clouds.modeling import criterion, matcher
from clouds.modeling.criterion import LOSSES, MatchedOutputs, SetCriterion, Term, mask_loss
from clouds.modeling.distributed import finite_on_host, mean_over_processes
from clouds.modeling.layers import mask_products
from clouds.modeling.matcher import (
    HungarianMatcher,
    Matching,
    PaddedTargets,
    pad_targets,
    pairwise_dice_cost,
    pairwise_mask_cost,
    point_sums,
)
from clouds.modeling.points import Points, draw_points, sample_points, seeded_points, smallest, uniform_points
from clouds.modeling.structures import MaskFactors, Prediction, Target

CLASSES = 5
WEIGHTS = {"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
CPU = torch.device("cpu")

seeds = st.integers(0, 2**31)


def build(points: int = 40, **changes: Any) -> SetCriterion:
    costs = HungarianMatcher(cost_class=2, cost_mask=5, cost_dice=5, num_points=points)
    ratios = {"oversample_ratio": 3, "importance_sample_ratio": 0.75}
    arguments = {"num_classes": CLASSES, "weights": WEIGHTS, "no_object_weight": 0.1, "num_points": points, **ratios}
    return SetCriterion(matcher=costs, **{**arguments, **changes})


def make_batch(
    targets: Sequence[int], *, outputs: int = 3, queries: int = 4, seed: int = 0, device: str = "cpu"
) -> tuple[list[Prediction], list[Target]]:
    """Random predictions, and images with these numbers of targets."""
    torch.manual_seed(seed)
    images = len(targets)
    predictions = [
        Prediction(
            torch.randn(images, queries, CLASSES + 1, device=device, requires_grad=True),
            (4 * torch.randn(images, queries, 6, 5, device=device)).requires_grad_(),
        )
        for _ in range(outputs)
    ]
    labels = [torch.randint(0, CLASSES, (count,), device=device) for count in targets]
    masks = [torch.rand(count, 24, 20, device=device) > 0.6 for count in targets]
    return predictions, [Target(*pair) for pair in zip(labels, masks, strict=True)]


def as_factors(predictions: list[Prediction]) -> list[Prediction]:
    """Predictions as the decoder makes them in training: mask logits without gradient, and their factors."""
    features = torch.randn(len(predictions[0].class_logits), 8, 6, 5, device=predictions[0].class_logits.device)
    features.requires_grad_()
    factored = []
    for logits, masks, _ in predictions:
        embeddings = torch.randn(*masks.shape[:2], 8, device=masks.device, requires_grad=True)
        products = mask_products(embeddings, features).detach()
        factored.append(Prediction(logits, products, MaskFactors(embeddings, features)))
    return factored


def multiplied(prediction: Prediction) -> Prediction:
    return Prediction(prediction.class_logits, mask_products(*prediction.mask_factors))


def slow_losses(criterion: SetCriterion, predictions: list[Prediction], targets: list[Target]) -> dict[str, Tensor]:
    """Compute the losses by their definition: an output, an image and a pair at a time; image i has the seed i."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(targets))]
    losses = {}
    supervised = {"": predictions[-1]}
    if criterion.deep_supervision:
        supervised |= {f"_{i}": prediction for i, prediction in enumerate(predictions[:-1])}
    for suffix, prediction in supervised.items():
        entropy, weights, mask, dice = [torch.zeros(()) for _ in range(4)]
        for image, (target, generator) in enumerate(zip(targets, generators, strict=True)):
            class_logits, mask_logits = prediction.class_logits[image], prediction.mask_logits[image]
            shared = torch.rand(criterion.matcher.num_points, 2, generator=generator)
            count = min(len(target.labels), len(class_logits))
            candidates = torch.rand(count, criterion.num_candidates, 2, generator=generator)
            random = torch.rand(count, criterion.num_points - criterion.num_uncertain, 2, generator=generator)

            costs = np.zeros((len(class_logits), len(target.labels)))
            for query, number in np.ndindex(*costs.shape):
                entropy_of_pair, dice_of_pair = pair_losses(mask_logits[query], target.masks[number], shared)
                probability = class_logits[query].softmax(0)[target.labels[number]]
                costs[query, number] = (5 * entropy_of_pair - 2 * probability + 5 * dice_of_pair).item()
            classes = torch.full((len(class_logits),), criterion.num_classes)
            for row, (query, number) in enumerate(zip(*linear_sum_assignment(costs), strict=True)):
                classes[query] = target.labels[number]
                certainty = value_at(mask_logits[query], candidates[row]).abs()
                uncertain = candidates[row][certainty.argsort()[: criterion.num_uncertain]]
                points = torch.cat([uncertain, random[row]])
                entropy_of_pair, dice_of_pair = pair_losses(mask_logits[query], target.masks[number], points)
                mask, dice = mask + entropy_of_pair, dice + dice_of_pair
            weight = criterion.empty_weight[classes]
            entropy = entropy - (weight * class_logits.log_softmax(1)[range(len(classes)), classes]).sum()
            weights = weights + weight.sum()
        masks = max(sum(len(target.labels) for target in targets), 1)
        losses |= {
            f"loss_ce{suffix}": 2 * entropy / weights,
            f"loss_mask{suffix}": 5 * mask / masks,
            f"loss_dice{suffix}": 5 * dice / masks,
        }
    return losses


def pair_losses(logits: Tensor, mask: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    x, t = value_at(logits, points), value_at(mask.float(), points)
    p = x.sigmoid()
    return F.binary_cross_entropy_with_logits(x, t), 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


def value_at(image: Tensor, points: Tensor) -> Tensor:
    """Sample (h, w) at (P, 2) points in [0, 1]."""
    return F.grid_sample(image[None, None], 2 * points[None, None] - 1, align_corners=False)[0, 0, 0]


class TestEqualsTheDefinition:
    @pytest.mark.parametrize(
        "changes",
        [{}, {"deep_supervision": False}, {"importance_sample_ratio": 0}, {"importance_sample_ratio": 1}],
        ids=["as configured", "last output", "random points", "uncertain points"],
    )
    @pytest.mark.parametrize("targets", [(3, 2), (0, 4), (0, 0), (9, 1, 4)], ids=str)
    def test_losses_and_gradients(self, targets: tuple[int, ...], changes: dict[str, Any]) -> None:
        criterion = build(**changes)
        predictions, truth = make_batch(targets)
        losses = criterion(predictions, truth, seeded_points(range(len(targets)), CPU))
        slow = slow_losses(criterion, predictions, truth)
        torch.testing.assert_close(losses, slow, rtol=1e-6, atol=1e-6)

        leaves = [leaf for prediction in predictions for leaf in prediction[:2]]
        totals = [torch.stack(list(each.values())).sum() for each in (losses, slow)]
        ours, exact = [torch.autograd.grad(total, leaves, materialize_grads=True) for total in totals]
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("supervised", [True, False])
    @pytest.mark.parametrize("targets", [(3, 2), (0, 4), (0, 0), (9, 1, 4)], ids=str)
    def test_gradients_of_mask_factors(self, targets: tuple[int, ...], supervised: bool) -> None:
        criterion = build(deep_supervision=supervised)
        predictions, truth = make_batch(targets)
        predictions = as_factors(predictions)
        losses, slow = [
            criterion(each, truth, seeded_points(range(len(targets)), CPU))
            for each in (predictions, [multiplied(prediction) for prediction in predictions])
        ]
        torch.testing.assert_close(losses, slow, rtol=1e-6, atol=1e-6)

        leaves = [predictions[0].mask_factors.features]
        leaves += [leaf for output in predictions for leaf in (output.class_logits, output.mask_factors.embeddings)]
        totals = [torch.stack(list(each.values())).sum() for each in (losses, slow)]
        ours, exact = [torch.autograd.grad(total, leaves, materialize_grads=True) for total in totals]
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-6)

    def test_images_without_seeds(self) -> None:
        predictions, truth = make_batch((3, 2))
        torch.manual_seed(7)
        first = build()(predictions, truth)
        torch.manual_seed(7)
        torch.testing.assert_close(build()(predictions, truth, uniform_points), first, rtol=0, atol=0)
        assert not torch.equal(build()(predictions, truth)["loss_mask"], first["loss_mask"])

    def test_only_matched_queries_get_a_gradient_of_masks(self) -> None:
        predictions, truth = make_batch((2, 1), outputs=1)
        (factored,) = as_factors(predictions)
        for prediction, leaf in ((predictions[0], predictions[0].mask_logits), (factored, factored.mask_factors[0])):
            build()([prediction], truth)["loss_mask"].backward()
            assert leaf.grad.flatten(2).any(dim=2).sum(dim=1).tolist() == [2, 1]


class Operations(TorchDispatchMode):
    """Counts the operations that a GPU would launch: all that make a new tensor or fill one, but no views.

    Attributes:
        launched: number of operations by name.
        transferred: number of copies from one device to another by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launched: Counter[str] = Counter()
        self.transferred: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.launched[name] += func.namespace == "aten" and not func.is_view
        if name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            self.transferred[name] += source.device != result.device
        return result


class TestOperations:
    """The numbers of the published configs, 8 images and 10 outputs, on tiny maps."""

    TARGETS = (3, 5, 1, 4, 2, 6, 0, 12)

    @pytest.mark.parametrize("factored", [True, False])
    def test_forward_and_backward_launch_few(self, factored: bool) -> None:
        predictions, truth = make_batch(self.TARGETS, outputs=10, queries=7)
        predictions = as_factors(predictions) if factored else predictions
        with Operations() as forward:
            losses = build()(predictions, truth, seeded_points(range(8), CPU))
        assert forward.launched.total() <= 200, forward.launched
        with Operations() as backward:
            torch.stack(list(losses.values())).sum().backward()
        assert (forward.launched + backward.launched).total() <= 400, backward.launched

    def test_host_waits_once_for_the_costs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a GPU without values, every other operation that the host must wait for is an error, such as `item`."""
        waited, sent = [], []

        def fetch(values: Tensor, message: str) -> SimpleNamespace:
            waited.append(tuple(values.shape))
            costs = np.random.default_rng(0).random(values.shape)
            return SimpleNamespace(numpy=lambda: costs)

        def send(tensor: Tensor, device: torch.device) -> Tensor:
            sent.append(tensor.device.type)
            return torch.empty_like(tensor, device=device)

        monkeypatch.setattr(matcher, "finite_on_host", fetch)
        monkeypatch.setattr(matcher, "upload", send)
        with FakeTensorMode():
            predictions, truth = make_batch(self.TARGETS, outputs=10, queries=7, device="cuda")
            predictions = as_factors(predictions)
            criterion = build().to("cuda")
            with Operations() as forward:
                losses = criterion(predictions, truth, lambda _, count: torch.rand(count, 2, device="cuda"))
        assert waited == [(10, 8, 12, 7)], "the costs of all outputs and images at once"
        assert sent == ["cpu"], "the indices of all pairs at once"
        assert not forward.transferred.total()
        assert {loss.device.type for loss in losses.values()} == {"cuda"}
        assert forward.launched.total() <= 200, forward.launched


class TestMatching:
    @settings(max_examples=20, deadline=None)
    @given(seed=seeds)
    def test_pairwise_costs_equal_the_losses_of_each_pair(self, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        logits, masks = torch.randn(1, 4, 9, generator=g) * 4, torch.rand(1, 3, 9, generator=g)
        sums = point_sums(masks, logits)
        costs = pairwise_mask_cost(sums, 9), pairwise_dice_cost(sums, masks.sum(dim=2, keepdim=True))
        for n, q in np.ndindex(3, 4):
            x, t = logits[0, q], masks[0, n]
            bce = F.binary_cross_entropy_with_logits(x, t)
            torch.testing.assert_close(costs[0][0, n, q], bce, rtol=1e-4, atol=1e-5)
            p = x.sigmoid()
            dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
            torch.testing.assert_close(costs[1][0, n, q], dice, rtol=1e-4, atol=1e-5)

    def match(self, prediction: Prediction, targets: PaddedTargets) -> Matching:
        costs = HungarianMatcher(cost_class=2, cost_mask=5, cost_dice=5, num_points=64)
        return costs([prediction], targets, torch.rand(1, len(targets.counts), 64, 2) * 2 - 1)

    def test_perfect_queries_find_their_targets(self) -> None:
        masks = torch.zeros(3, 8, 8, dtype=torch.bool)
        masks[0, :4], masks[1, 4:, :4], masks[2, 4:, 4:] = True, True, True
        order = torch.tensor([2, 0, 1])
        logits = torch.full((1, 5, 8, 8), -9.0)
        logits[0, 1:4] = (masks[order].float() - 0.5) * 18
        target = Target(torch.tensor([4, 0, 2]), masks)
        matching = self.match(Prediction(torch.zeros(1, 5, 7), logits), pad_targets([target]))
        assert matching.queries.tolist() == [[1, 2, 3]]
        assert matching.targets.tolist() == [order.tolist()]
        assert matching.targets[0, matching.pairs[:, 0]].tolist() == [0, 1, 2]

    def test_images_without_targets(self) -> None:
        empty = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 8, 8, dtype=torch.bool))
        matching = self.match(Prediction(torch.zeros(2, 5, 7), torch.zeros(2, 5, 8, 8)), pad_targets([empty, empty]))
        assert matching.queries.shape == matching.targets.shape == (1, 0)

    @pytest.mark.parametrize("broken", ["class_logits", "mask_logits"])
    def test_a_prediction_that_is_not_finite_is_named(self, broken: str) -> None:
        (prediction,), truth = make_batch((2, 1), outputs=1)
        values = getattr(prediction, broken).detach().clone()
        values[1, 3] = math.nan
        with pytest.raises(FloatingPointError, match=r"^the network's output is not finite \(in the matching cost\)$"):
            self.match(prediction._replace(**{broken: values}), pad_targets(truth))


class TestPoints:
    def test_shared_and_own_points_sample_alike(self) -> None:
        maps, points = torch.randn(3, 6, 5), torch.rand(1, 11, 2) * 2 - 1
        own = sample_points(maps[:, None], points.expand(3, -1, -1))
        torch.testing.assert_close(sample_points(maps[None], points)[0], own[:, 0])

    @settings(max_examples=30, deadline=None)
    @given(seed=seeds, rows=st.integers(0, 3), width=st.integers(1, 30), data=st.data())
    def test_smallest_on_every_device(self, seed: int, rows: int, width: int, data: st.DataObject) -> None:
        values = torch.rand(rows, width, generator=torch.Generator().manual_seed(seed))
        count = data.draw(st.integers(0, width))
        found = values.gather(1, smallest(values, count)).sort(dim=1).values
        assert torch.equal(found, values.topk(count, dim=1, largest=False).values)


class TestMemory:
    def test_large_numbers_are_freed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The numbers of an image before the next image, the candidates before the losses."""
        drawn, candidates = list[StorageWeakRef](), list[StorageWeakRef]()

        def uniform(image: int, count: int) -> Tensor:
            assert all(numbers.expired() for numbers in drawn)
            numbers = torch.rand(count, 2)
            drawn.append(StorageWeakRef(numbers.untyped_storage()))
            return numbers

        def draw(*args: Any, **kwargs: Any) -> Points:
            points = draw_points(*args, **kwargs)
            candidates.append(StorageWeakRef(points.candidates.untyped_storage()))
            return points

        def loss(outputs: MatchedOutputs) -> Term:
            assert [points.expired() for points in candidates] == [True]
            return mask_loss(outputs)

        monkeypatch.setattr(criterion, "draw_points", draw)
        monkeypatch.setitem(LOSSES, "loss_mask", loss)
        predictions, truth = make_batch((3, 0, 2), outputs=2)
        build()(predictions, truth, uniform)["loss_mask"].backward()
        assert len(drawn) == 3


class TestCriterion:
    def test_a_new_loss_is_one_entry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def count_loss(outputs: MatchedOutputs) -> Term:
            unmatched = (outputs.classes == 2).sum(dim=(1, 2))
            return unmatched * outputs.class_logits.sum(dim=(1, 2, 3)), outputs.num_masks

        monkeypatch.setitem(LOSSES, "loss_count", count_loss)
        criterion = build(num_classes=2, weights={"loss_ce": 1.0, "loss_count": 0.5})
        predictions = [Prediction(torch.ones(1, 3, 3, requires_grad=True), torch.randn(1, 3, 4, 4)) for _ in range(2)]
        target = Target(torch.tensor([1, 0]), torch.rand(2, 4, 4) > 0.5)
        losses = criterion(predictions, [target])
        assert list(losses) == ["loss_ce", "loss_count", "loss_ce_0", "loss_count_0"]
        assert losses["loss_count"].item() == pytest.approx(0.5 * 1 * 9 / 2)  # one query of three has no target
        losses["loss_count_0"].backward()
        assert predictions[0].class_logits.grad is not None

    def test_a_loss_can_compare_whole_masks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Queries with the masks of their targets have no area without overlap."""

        def area_loss(outputs: MatchedOutputs) -> Term:
            wanted = outputs.masks[outputs.targets]
            return ((outputs.mask_logits > 0) != wanted.bool()).float().sum(dim=(1, 2, 3)), outputs.num_masks

        monkeypatch.setitem(LOSSES, "loss_area", area_loss)
        _, truth = make_batch((2, 3))
        logits = torch.full((2, 4, 24, 20), -9.0)
        for image, target in zip(logits, truth, strict=True):
            image[1 : 1 + len(target.masks)] = 18 * target.masks.float() - 9
        predictions = [Prediction(torch.zeros(2, 4, CLASSES + 1), each) for each in (logits, -logits)]
        losses = build(weights={"loss_area": 1.0})(predictions, truth)
        assert losses["loss_area_0"] == 0
        assert losses["loss_area"] > 0

    def test_a_batch_without_masks_has_no_mask_losses(self) -> None:
        (prediction,), truth = make_batch((0,), outputs=1)
        losses = build()([prediction], truth)
        assert losses["loss_mask"] == losses["loss_dice"] == 0
        assert losses["loss_ce"] > 0

    def test_unknown_losses_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"^weights names loss_lovasz; the losses are loss_ce, "):
            build(weights={"loss_lovasz": 1.0})


def as_first_of_two(monkeypatch: pytest.MonkeyPatch, second: float) -> None:
    """Pretend that there is a second process, whose share of every sum is `second`."""
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: values.add_(second))


class TestExchange:
    def test_mean_over_processes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own = torch.tensor([1.0, 3.0])
        assert mean_over_processes(own).tolist() == [1, 3]
        as_first_of_two(monkeypatch, 2.0)
        assert mean_over_processes(own).tolist() == [1.5, 2.5]
        assert own.tolist() == [1, 3]

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_all_processes_learn_of_one_failure(self, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
        good = torch.tensor([[1.0, -1e38], [1e38, 0.0]])
        assert torch.equal(finite_on_host(good, "bad"), good)
        assert finite_on_host(torch.zeros(2, 0), "bad").shape == (2, 0)
        broken = torch.tensor([0.0, bad])
        with pytest.raises(FloatingPointError, match=r"^bad$"):
            finite_on_host(broken, "bad")
        as_first_of_two(monkeypatch, 0.0)
        with pytest.raises(FloatingPointError, match=r"^bad$"):
            finite_on_host(broken, "bad")
        as_first_of_two(monkeypatch, math.nan)  # the sum of 0 * x of the second process
        with pytest.raises(FloatingPointError) as caught:
            finite_on_host(good, "bad")
        assert caught.value.args == ()

    def test_a_failure_anywhere_ends_the_criterion_before_its_second_exchange(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        predictions, truth = make_batch((2, 1))
        exchanges: list[torch.Size] = []

        def all_reduce(values: Tensor) -> None:
            exchanges.append(values.shape)
            values += math.nan

        monkeypatch.setattr(comm, "get_world_size", lambda: 2)
        monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
        with pytest.raises(FloatingPointError):
            build()(predictions, truth)
        assert exchanges == [()]
