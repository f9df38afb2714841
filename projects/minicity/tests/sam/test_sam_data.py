"""Training data of the miniature SAM: object masks, views, prompts and the stored pool."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from minicity.sam.pool import LabeledScenes, draw_labeled_pool, object_map
from minicity.sam.prompts import (
    VIEW,
    choose_prompts,
    class_regions,
    random_view,
    shrink,
    whole_objects,
)
from minicity.world import pool as scene_pool
from minicity.world.classes import Label
from minicity.world.records import Rendered, SceneObject
from minicity.world.render import render_scene
from minicity.world.wide import WIDE_STYLES
from scipy import ndimage


def rendered_cars(boxes, apart=True):
    """Draw cars at these boxes, each in front of the next. Through a window of the first, the second is visible."""
    owner = np.full((20, 30), -1)
    for number, (x0, y0, x1, y1) in reversed(list(enumerate(boxes))):
        owner[y0:y1, x0:x1] = number
    x0, y0, _, _ = boxes[0]
    owner[y0 + 3 : y0 + 5, x0 + 6 : x0 + 8] = 1
    label = np.where(owner >= 0, Label.CAR, Label.ROAD).astype(np.uint8)
    depth = np.where(owner >= 0, 10 + 2 * owner * apart, 99).astype(np.float32)
    objects = []
    for number in range(len(boxes)):
        y, x = np.nonzero(owner == number)
        box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
        objects.append(SceneObject(Label.CAR, "car", box, len(x), 10.0 + number, number))
    return Rendered(np.zeros((20, 30, 3), np.uint8), label, depth, "Cars.", tuple(objects)), owner


class TestObjectMap:
    BOXES = [(5, 5, 15, 12), (10, 3, 22, 10), (21, 8, 28, 18)]

    def test_objects_that_hide_each_other_are_separated_by_depth(self):
        rendered, owner = rendered_cars(self.BOXES)
        assert (object_map(rendered) == owner + 1).all()

    def test_objects_that_cannot_be_separated_are_left_out(self):
        rendered, _ = rendered_cars(self.BOXES, apart=False)
        assert not object_map(rendered).any()
        # An object that is alone in its box needs no depth.
        rendered, owner = rendered_cars([*self.BOXES[:2], (24, 12, 29, 19)], apart=False)
        assert (object_map(rendered) == np.where(owner == 2, 3, 0)).all()

    def test_masks_have_box_area_and_class_of_their_object(self):
        known = every = 0
        for index in range(4):
            rendered = render_scene("minicity_sim", 5, index)
            found = object_map(rendered)
            for number, item in enumerate(rendered.objects, start=1):
                mask = found == number
                every += 1
                if mask.any():
                    known += 1
                    y, x = np.nonzero(mask)
                    assert (x.min(), y.min(), x.max() + 1, y.max() + 1) == item.box
                    assert mask.sum() == item.area
                    assert (rendered.label[mask] == item.label).all()
        assert known / every > 0.7


class TestViews:
    @given(some.arrays(np.uint8, (6, 8), elements=st.integers(0, 2)), st.integers(1, 6))
    def test_class_regions_are_large_connected_and_of_one_class(self, labels, min_area):
        candidates = class_regions(labels, min_area)
        for number, area in zip(candidates.numbers, candidates.areas, strict=True):
            mask = candidates.ids == number
            assert mask.sum() == area >= min_area
            assert len(np.unique(labels[mask])) == 1
            assert ndimage.label(mask)[1] == 1
        sizes = [np.bincount(ndimage.label(labels == label)[0].ravel())[1:] for label in np.unique(labels)]
        assert sorted(candidates.areas) == sorted(size for size in np.concatenate(sizes) if size >= min_area)

    @pytest.mark.parametrize("seed", range(6))
    def test_image_and_maps_stay_together(self, seed):
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.repeat(rng.integers(0, 200, (16, 32), np.uint8), 16, axis=0), 16, axis=1)
        image, seen, objects = random_view(np.stack([labels] * 3, axis=2), labels, labels + 1, rng, whole=0.3)
        assert image.shape == (*VIEW, 3)
        assert seen.shape == objects.shape == VIEW
        assert (objects == seen + 1).all()
        assert (np.abs(image[:, :, 0].astype(int) - seen) < 3).mean() > 0.7

    def test_shares_of_whole_scenes(self, scenes):
        whole = shrink(scenes.images[0], scenes.labels[0], scenes.objects[0])[1]
        rng = np.random.default_rng(0)
        seen = [random_view(scenes.images[0], scenes.labels[0], scenes.objects[0], rng, 0.5)[1] for _ in range(60)]
        counts = [sum(np.array_equal(each, other) for each in seen) for other in (whole, whole[:, ::-1])]
        assert 18 < sum(counts) < 42
        assert min(counts) > 5

    @pytest.mark.parametrize("num_points", [1, 4])
    def test_points_lie_in_their_regions(self, scenes, num_points):
        _, labels, objects = shrink(scenes.images[0], scenes.labels[0], scenes.objects[0])
        kinds = (whole_objects(objects, 32), class_regions(labels, 32))
        prompts = choose_prompts(kinds, 10, num_points, np.random.default_rng(0))
        assert prompts.points.shape == (10, num_points, 2)
        for mask, points in zip(prompts.masks, prompts.points, strict=True):
            x, y = points.astype(int).T
            assert mask[y, x].all()
            assert len({*zip(x, y, strict=True)}) == num_points
        for regions, part in zip(kinds, (prompts.masks[:5], prompts.masks[5:]), strict=True):
            every = {(regions.ids == number).tobytes() for number in regions.numbers}
            chosen = {mask.tobytes() for mask in part}
            assert len(chosen) == 5
            assert chosen <= every

    def test_large_regions_are_chosen_more_often_and_none_twice(self):
        labels = np.zeros((20, 30), np.uint8)
        labels[:4, :4] = 1
        nothing = whole_objects(np.zeros_like(labels), 1)
        first = [
            choose_prompts((class_regions(labels, 1),), 1, 1, np.random.default_rng(n)).masks[0, 0, 0]
            for n in range(200)
        ]
        assert 10 < sum(first) < 60  # expected: 1 in 7
        assert len(choose_prompts((nothing, class_regions(labels, 1)), 9, 30, np.random.default_rng(0)).masks) == 2

    def test_a_pool_is_drawn_once(self, scenes, tmp_path, monkeypatch):
        monkeypatch.setattr("minicity.world.pool.SCENES_PER_CHUNK", 2)
        pool = draw_labeled_pool(tmp_path, WIDE_STYLES, 3, 3, 1)
        monkeypatch.delattr("minicity.world.pool.render")
        again = draw_labeled_pool(tmp_path, WIDE_STYLES, 3, 3, 1)
        for field in dataclasses.fields(LabeledScenes):
            expected = getattr(scenes, field.name)
            assert (getattr(pool, field.name) == expected).all()
            assert (getattr(again, field.name) == expected).all()

    @pytest.mark.parametrize("change", ["styles", "renderer"])
    def test_other_styles_or_another_renderer_have_another_pool(self, change, tmp_path, monkeypatch):
        styles = [WIDE_STYLES[:1], WIDE_STYLES[1:2] if change == "styles" else WIDE_STYLES[:1]]
        before = draw_labeled_pool(tmp_path, styles[0], 3, 1, 1)
        drawn, render = [], scene_pool.render
        monkeypatch.setattr(scene_pool, "render", lambda *args: drawn.append(args) or render(*args))
        monkeypatch.setattr(scene_pool, "DRAWING_VERSION", scene_pool.DRAWING_VERSION + (change == "renderer"))
        after = draw_labeled_pool(tmp_path, styles[1], 3, 1, 1)
        assert len(drawn) == 1
        assert (before.images == after.images).all() == (change == "renderer")
