import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from clouds.self_training.regions import (
    CENTER_RADIUS,
    SELECTION_MODES,
    Prompts,
    Regions,
    choose_points,
    find_regions,
    merge_masks,
    select_best,
)


def blocks(seed: int, *, size: int = 40, classes: int = 4, specks: float = 0.05) -> np.ndarray:
    """Return a label map of random size: blocks of classes and of no class (255), with single pixels in them."""
    rng = np.random.default_rng(seed)
    height, width, side = (*rng.integers(1, size, 2), rng.integers(2, 12))
    names = np.array([*range(classes), 255], np.uint8)
    labels = rng.choice(names, (height // side + 1, width // side + 1))
    labels = labels.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]
    return np.where(rng.random(labels.shape) < specks, rng.choice(names, labels.shape), labels)


def definition(labels: np.ndarray, min_area: int) -> list[tuple[int, np.ndarray]]:
    """Return (class, mask) of each region, in order, from the definition."""
    found = []
    for c in np.unique(labels[labels != 255]).tolist():
        numbered, count = ndimage.label(labels == c)
        masks = [numbered == index for index in range(1, count + 1)]
        found += [(c, mask) for mask in masks if mask.sum() > min_area]
    return found


def eroded(mask: np.ndarray, size: int) -> np.ndarray:
    return ndimage.binary_erosion(mask, np.ones((size, size))) if size else mask


def choose(regions: Regions, mode: str = "random", *, n: int = 5, erosion: int = 0, seed: int = 0) -> Prompts:
    return choose_points(regions, num_points=n, mode=mode, erosion=erosion, rng=np.random.default_rng(seed))


def at(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    return mask[points[:, 1].astype(int), points[:, 0].astype(int)]


def disc(shape: tuple[int, int], y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.indices(shape)
    return np.hypot(rows - y, columns - x) < radius


class TestFindRegions:
    @given(seed=st.integers(0, 10_000), min_area=st.integers(0, 60))
    def test_it_is_the_definition(self, seed: int, min_area: int) -> None:
        labels = blocks(seed)
        regions = find_regions(labels, min_area=min_area)
        wanted = definition(labels, min_area)
        assert regions.ids.shape == labels.shape
        assert regions.ids.dtype == np.int32
        assert regions.classes.tolist() == [c for c, _ in wanted]
        assert regions.areas.tolist() == [mask.sum() for _, mask in wanted]
        ids = np.zeros_like(regions.ids)
        for index, (_, mask) in enumerate(wanted):
            ids[mask] = index + 1
        np.testing.assert_array_equal(regions.ids, ids)

    @given(seed=st.integers(0, 10_000), min_area=st.integers(0, 60))
    def test_regions_are_connected_of_one_class_large_and_all_there_is(self, seed: int, min_area: int) -> None:
        labels = blocks(seed)
        regions = find_regions(labels, min_area=min_area)
        for index in range(len(regions)):
            mask = regions.ids == index + 1
            assert ndimage.label(mask)[1] == 1
            assert (labels[mask] == regions.classes[index]).all()
            assert mask.sum() == regions.areas[index] > min_area
            # No neighbor has its class: the region is a whole component.
            beside = ndimage.binary_dilation(mask) & ~mask
            assert (labels[beside] != regions.classes[index]).all()
        rest = np.where(regions.ids, 255, labels)
        assert definition(rest, min_area) == []
        assert (labels[regions.ids > 0] != 255).all()

    @given(seed=st.integers(0, 10_000))
    def test_pixels_by_rank(self, seed: int) -> None:
        regions = find_regions(blocks(seed), min_area=3)
        for index, area in enumerate(regions.areas):
            wanted = np.flatnonzero(regions.ids == index + 1)
            ranks = np.random.default_rng(seed).permutation(area)
            np.testing.assert_array_equal(regions.pixels(index, ranks), wanted[ranks])

    def test_the_threshold_is_strict(self) -> None:
        labels = np.full((10, 20), 255, np.uint8)
        labels[:5, :5], labels[:5, 10:15], labels[9, 10] = 3, 3, 3
        labels[5, 10] = 3
        assert find_regions(labels, min_area=25).areas.tolist() == [26]
        assert find_regions(labels, min_area=24).areas.tolist() == [25, 26]

    def test_corners_do_not_connect(self) -> None:
        board = np.indices((6, 6)).sum(axis=0).astype(np.uint8) % 2
        assert find_regions(board, min_area=0).areas.tolist() == [1] * 36
        assert len(find_regions(board, min_area=1)) == 0

    def test_a_spiral_is_one_region(self) -> None:
        spiral = np.zeros((41, 41), np.uint8)
        y = x = 20
        for turn in range(20):
            dy, dx = [(0, 1), (1, 0), (0, -1), (-1, 0)][turn % 4]
            for _ in range(2 * (turn // 2 + 1)):
                y, x = y + dy, x + dx
                spiral[y, x] = 1
        regions = find_regions(spiral, min_area=0)
        assert regions.classes.tolist() == [0, 1]
        assert regions.areas.tolist() == [41 * 41 - spiral.sum(), spiral.sum()]

    def test_another_label_may_stand_for_none(self) -> None:
        labels = np.array([[0, 0, 255, 255]], np.uint8)
        assert find_regions(labels, min_area=0, ignore=0).classes.tolist() == [255]


class TestChoosePoints:
    @given(
        seed=st.integers(0, 10_000),
        mode=st.sampled_from(SELECTION_MODES),
        n=st.integers(1, 8),
        erosion=st.integers(0, 5),
        min_area=st.integers(0, 30),
    )
    def test_points_lie_in_their_eroded_region(self, seed: int, mode: str, n: int, erosion: int, min_area: int) -> None:
        regions = find_regions(blocks(seed), min_area=min_area)
        prompts = choose(regions, mode, n=n, erosion=erosion, seed=seed)
        assert prompts.points.shape == (len(prompts.region), n, 2)
        assert prompts.points.dtype == np.float32
        np.testing.assert_array_equal(prompts.classes, regions.classes[prompts.region])
        assert (np.diff(prompts.region) > 0).all()
        for points, region in zip(prompts.points, prompts.region, strict=True):
            assert at(eroded(regions.ids == region + 1, erosion), points).all()
            assert len(np.unique(points, axis=0)) == n

    @given(seed=st.integers(0, 10_000), n=st.integers(1, 12), erosion=st.integers(0, 5))
    def test_a_region_with_too_few_pixels_has_no_prompt_and_every_other_has_one(
        self, seed: int, n: int, erosion: int
    ) -> None:
        regions = find_regions(blocks(seed), min_area=0)
        left = [eroded(regions.ids == index + 1, erosion) for index in range(len(regions))]
        enough = [index for index, mask in enumerate(left) if mask.sum() >= n]
        assert choose(regions, n=n, erosion=erosion).region.tolist() == enough
        # Ten pixels of one piece are never farther apart than the radius.
        if n <= CENTER_RADIUS:
            pieces = [np.bincount(ndimage.label(mask)[0].ravel(), minlength=2)[1:].max() for mask in left]
            enough = [index for index, size in enumerate(pieces) if size >= n]
            assert choose(regions, "center", n=n, erosion=erosion).region.tolist() == enough

    @pytest.mark.parametrize("mode", SELECTION_MODES)
    def test_the_generator_decides(self, mode: str) -> None:
        regions = find_regions(blocks(3, size=200), min_area=20)
        one, same, other = (choose(regions, mode, erosion=3, seed=seed) for seed in (7, 7, 8))
        np.testing.assert_array_equal(one.points, same.points)
        assert (one.points != other.points).any()

    def test_every_pixel_is_as_likely(self) -> None:
        labels = np.full((4, 9), 255, np.uint8)
        labels[1:3, 1:4] = labels[2:4, 3:7] = 0
        regions = find_regions(labels, min_area=0)
        rng = np.random.default_rng(0)
        count = np.zeros(labels.shape)
        for _ in range(2000):
            ((points,), _, _) = choose_points(regions, num_points=3, mode="random", erosion=0, rng=rng)
            np.add.at(count, (points[:, 1].astype(int), points[:, 0].astype(int)), 1)
        share = count[labels == 0] / 2000
        np.testing.assert_allclose(share, 3 / (labels == 0).sum(), atol=0.04)
        assert count[labels == 255].sum() == 0

    def test_center_is_within_ten_pixels_of_the_centroid(self) -> None:
        labels = np.full((120, 160), 255, np.uint8)
        labels[10:110, 20:150] = 1
        labels[30:40, 30:40] = 2  # a hole that moves the centroid
        regions = find_regions(labels, min_area=1000)
        around = disc(labels.shape, *ndimage.center_of_mass(regions.ids == 1), radius=10)
        points = choose(regions, "center").points[0]
        assert at(around, points).all()
        # As many points as the disc has pixels, that is, all of them.
        everywhere = choose(regions, "center", n=int(around.sum())).points[0]
        assert at(around, everywhere).all()

    def test_center_of_a_ring_is_on_the_ring_next_to_the_centroid(self) -> None:
        ring = disc((200, 200), 100, 100, 80) & ~disc((200, 200), 100, 97, 40)
        regions = find_regions(np.where(ring, 4, 255).astype(np.uint8), min_area=0)
        y, x = ndimage.center_of_mass(ring)
        assert not ring[round(y), round(x)]
        rows, columns = np.nonzero(ring)
        least = np.hypot(rows - y, columns - x).min()
        for seed in range(20):
            (points,) = choose(regions, "center", seed=seed).points
            assert at(ring, points).all()
            assert np.hypot(points[:, 0] - x, points[:, 1] - y).max() < least + 10
            assert np.hypot(*(points[:, None] - points).T).max() < 20, "together"

    def test_center_of_a_region_at_the_border_of_the_map(self) -> None:
        labels = np.full((30, 30), 255, np.uint8)
        labels[:4, :4] = labels[28:, 27:] = 0
        prompts = choose(find_regions(labels, min_area=0), "center", n=6)
        assert prompts.region.tolist() == [0, 1]

    def test_erosion_may_break_a_region_and_center_takes_the_larger_piece(self) -> None:
        labels = np.full((40, 90), 255, np.uint8)
        labels[5:20, 5:25], labels[5:35, 50:85], labels[10:12, 25:50] = 1, 1, 1
        regions = find_regions(labels, min_area=0)
        assert len(regions) == 1
        for seed in range(10):
            assert (choose(regions, "center", erosion=5, seed=seed).points[..., 0] > 50).all()
            assert (choose(regions, "largest_component", erosion=5, seed=seed).points[..., 0] > 50).all()
        columns = np.concatenate([choose(regions, erosion=5, seed=seed).points[..., 0] for seed in range(20)])
        assert columns.min() < 25 < 50 < columns.max()

    def test_largest_component_is_the_largest_of_its_class_and_not_the_last(self) -> None:
        labels = np.full((60, 100), 255, np.uint8)
        labels[5:30, 5:35], labels[40:50, 5:15], labels[40:55, 60:75] = 2, 2, 2  # the largest comes first
        labels[5:15, 50:60], labels[5:35, 70:95] = 7, 7  # the largest comes last
        labels[0, 0] = 9
        regions = find_regions(labels, min_area=0)
        prompts = choose(regions, "largest_component")
        assert prompts.classes.tolist() == [2, 7], "and the pixel of class 9 is too few"
        assert regions.areas[prompts.region].tolist() == [25 * 30, 30 * 25]
        assert choose(regions).classes.tolist() == [2, 2, 2, 7, 7]

    @pytest.mark.parametrize("mode", SELECTION_MODES)
    @pytest.mark.parametrize("erosion", [0, 3])
    def test_nothing_but_void(self, mode: str, erosion: int) -> None:
        regions = find_regions(np.full((20, 30), 255, np.uint8), min_area=0)
        assert len(regions) == 0
        assert not regions.ids.any()
        prompts = choose(regions, mode, erosion=erosion)
        assert prompts.points.shape == (0, 5, 2)
        assert len(prompts.classes) == len(prompts.region) == 0
        target = merge_masks(torch.zeros(0, 20, 30).bool(), prompts.classes.tolist(), rm_intersection=True)
        assert target.labels.shape == (0,)
        assert target.labels.dtype == torch.int64
        assert target.masks.shape == (0, 20, 30)

    def test_bad_settings_are_named(self) -> None:
        regions = find_regions(np.zeros((4, 4), np.uint8), min_area=0)
        with pytest.raises(ValueError, match=r"^mode is 'centre'.*center"):
            choose(regions, "centre")
        with pytest.raises(ValueError, match=r"^num_points is 0"):
            choose(regions, n=0)


def random_masks(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prompts, height, width = (int(torch.randint(1, 9, (), generator=generator)) for _ in range(3))
    masks = torch.rand(prompts, height, width, generator=generator) < 0.4
    return masks, torch.randint(0, 4, (prompts,), generator=generator)


class TestMergeMasks:
    @given(seed=st.integers(0, 10_000), rm_intersection=st.booleans())
    def test_it_is_the_definition(self, seed: int, rm_intersection: bool) -> None:
        masks, classes = random_masks(seed)
        before = masks.clone()
        target = merge_masks(masks, classes.tolist(), rm_intersection=rm_intersection)
        assert masks.equal(before), "what was given is left alone"
        assert target.labels.tolist() == sorted(set(classes.tolist()))
        for label, mask in zip(target.labels, target.masks, strict=True):
            wanted = masks[classes == label].any(dim=0)
            if rm_intersection:
                wanted &= ~masks[classes != label].any(dim=0)
            assert mask.equal(wanted)

    def test_overlap_within_a_class_is_a_union_and_between_classes_a_hole(self) -> None:
        masks = torch.tensor([[[1, 1, 0, 0, 0]], [[0, 1, 1, 0, 0]], [[0, 0, 1, 1, 0]]]).bool()
        target = merge_masks(masks, [5, 5, 2], rm_intersection=True)
        assert target.labels.tolist() == [2, 5]
        assert target.masks[:, 0].int().tolist() == [[0, 0, 0, 1, 0], [1, 1, 0, 0, 0]]

    def test_a_region_without_points_has_no_mask_and_no_mask_changes_class(self) -> None:
        labels = np.full((40, 60), 255, np.uint8)
        labels[2:20, 2:20], labels[25:27, 2:50] = 0, 0  # the second is too thin for the erosion
        labels[2:20, 25:50], labels[30:38, 2:50] = 7, 13
        regions = find_regions(labels, min_area=20)
        prompts = choose(regions, erosion=3)
        assert prompts.region.tolist() == [0, 2, 3]
        masks = torch.from_numpy(np.stack([regions.ids == region + 1 for region in prompts.region]))
        target = merge_masks(masks, prompts.classes.tolist(), rm_intersection=True)
        assert target.labels.tolist() == [0, 7, 13]
        for label, mask in zip(target.labels, target.masks, strict=True):
            assert (labels[mask.numpy()] == label.item()).all()
        assert target.masks.sum(dim=(1, 2)).tolist() == [18 * 18, 18 * 25, 8 * 48]

    def test_the_best_of_each_prompt(self) -> None:
        masks = torch.rand(4, 3, 6, 7) < 0.5
        quality = torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.8, 0.1], [-3.0, -2.0, -1.0], [0.5, 0.1, 0.2]])
        best = select_best(masks, quality)
        assert best.shape == (4, 6, 7)
        for index, chosen in enumerate([1, 0, 2, 0]):
            assert best[index].equal(masks[index, chosen])
        assert select_best(masks[:0], quality[:0]).shape == (0, 6, 7)
