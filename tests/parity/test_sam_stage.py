"""From a label map to the refined target, compared with the published implementation.

Its points come from numpy's global generator and cannot be drawn again, so ours are checked for what they are, and the
masks that were made for its points go on into ours.
"""

import numpy as np
import pytest
import torch

from clouds.self_training.regions import choose_points, find_regions, merge_masks, select_best
from tests.parity.golden import arrays

SIZES = {"noerosion": 0, "erosion3": 3, "erosion5": 5}


@pytest.fixture(scope="module")
def stage() -> dict[str, np.ndarray]:
    return arrays("sam_stage")


@pytest.fixture(scope="module")
def regions(stage):
    return find_regions(stage["pseudo_label"], min_area=int(stage["size_threshold"]))


@pytest.fixture(params=SIZES)
def tag(request) -> str:
    return request.param


def best_masks(stage, tag) -> torch.Tensor:
    masks = np.unpackbits(stage[f"{tag}_sam_masks"], axis=-1, count=stage["pseudo_label"].shape[1]).astype(bool)
    return select_best(torch.from_numpy(masks), torch.from_numpy(stage[f"{tag}_sam_iou"]))


def prompted(stage, tag) -> np.ndarray:
    """Return the components that have points."""
    return np.flatnonzero(stage[f"{tag}_points_per_component"])


def test_regions(stage, regions):
    assert regions.classes.tolist() == stage["component_class"].tolist()
    for index, component in enumerate(stage["components"]):
        np.testing.assert_array_equal(regions.ids == index + 1, component.astype(bool))
    assert len(regions) == len(stage["components"])
    assert regions.areas.tolist() == stage["components"].sum(axis=(1, 2)).tolist()


def test_the_same_components_yield_as_many_points(stage, regions, tag):
    rng = np.random.default_rng(4321)
    prompts = choose_points(regions, num_points=5, mode="random", erosion=SIZES[tag], rng=rng)
    assert prompts.region.tolist() == prompted(stage, tag).tolist()
    assert prompts.points.shape == stage[f"{tag}_points"].shape
    # All points lie in their components.
    for points in (prompts.points, stage[f"{tag}_points"]):
        columns, rows = points.astype(int).transpose(2, 0, 1)
        assert (regions.ids[rows, columns] == prompts.region[:, None] + 1).all()


def test_best_masks(stage, tag):
    np.testing.assert_array_equal(best_masks(stage, tag).numpy(), stage[f"{tag}_best"])


def test_targets_with_intersections(stage, tag):
    classes = stage["component_class"][prompted(stage, tag)].tolist()
    target = merge_masks(best_masks(stage, tag), classes, rm_intersection=False)
    np.testing.assert_array_equal(target.labels.numpy(), stage[f"{tag}_keepint_fixed_labels"])
    np.testing.assert_array_equal(target.masks.numpy(), stage[f"{tag}_keepint_fixed_masks"])


def test_targets_without_intersections(stage, tag):
    """The published step also drops overlaps of masks of one class; the results agree on all other pixels."""
    best = best_masks(stage, tag)
    classes = torch.from_numpy(stage["component_class"][prompted(stage, tag)])
    target = merge_masks(best, classes.tolist(), rm_intersection=True)
    np.testing.assert_array_equal(target.labels.numpy(), stage[f"{tag}_rmint_fixed_labels"])
    alone = best.sum(dim=0) == 1
    np.testing.assert_array_equal((target.masks & alone).numpy(), stage[f"{tag}_rmint_fixed_masks"])
    # The additional pixels are claimed by two masks of that class and by no other class.
    for label, mask in zip(target.labels, target.masks, strict=True):
        more = mask & ~alone
        assert (best[classes == label].sum(dim=0)[more] >= 2).all()
        assert not best[classes != label].any(dim=0)[more].any()
    assert (target.masks & ~alone).any(), "the golden masks have such pixels"
