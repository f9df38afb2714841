"""Camera, clipping and drawing order, compared with their definitions."""

from itertools import pairwise

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from minicity.world.camera import NEAR, Camera, clip_near
from minicity.world.render import back_to_front

angles = st.floats(-0.2, 0.2)
cameras = st.builds(Camera, st.floats(1.0, 3.0), angles, angles, angles, st.floats(100.0, 600.0), st.just((128, 256)))
coordinates = st.floats(-30, 30)


@given(cameras, st.tuples(st.floats(-5, 5), st.floats(0, 5), st.floats(8, 80)))
def test_inverse_depth_of_a_plane_is_that_of_its_points(camera, point):
    world = np.array([point])
    viewed = camera.view(world)
    pixel = camera.to_pixels(viewed)[0]
    for normal in ((0.0, 1.0, 0.0), (1.0, 0.0, 0.2)):
        a, b, c = camera.inverse_depth(world, np.array([normal]))[0]
        if (a, b, c) != (0, 0, 0):
            assert np.isclose(a + b * pixel[0] + c * pixel[1], 1 / viewed[0, 2], rtol=1e-6, atol=1e-9)


def test_camera_looks_ahead_upright():
    camera = Camera(1.5, 0.0, 0.0, 0.0, 300.0, (128, 256))
    ahead, right, high = camera.to_pixels(camera.view(np.array([(0, 1.5, 10), (2, 1.5, 10), (0, 3.5, 10)], float)))
    assert np.allclose(ahead, (127.5, 63.5))
    assert np.allclose(right, (127.5 + 60, 63.5))
    assert np.allclose(high, (127.5, 63.5 - 60))
    downwards = Camera(1.5, 0.1, 0.1, 0.0, 300.0, (128, 256))
    moved = downwards.to_pixels(downwards.view(np.array([(0, 1.5, 10)], float)))[0]
    assert moved[1] < 63.5, "looking down lifts what is straight ahead"
    assert moved[0] < 127.5, "looking right moves it to the left"
    assert downwards.horizon < 63.5


@given(st.lists(st.tuples(coordinates, coordinates, st.floats(-5, 5)), min_size=3, max_size=8))
def test_clipping_keeps_the_part_beyond_the_near_plane(points):
    polygon = np.array(points)
    clipped = clip_near(polygon)
    assert (clipped[:, 2] >= NEAR - 1e-9).all()
    kept = polygon[polygon[:, 2] >= NEAR]
    for corner in kept:
        assert (np.abs(clipped - corner).max(axis=1) < 1e-9).any()
    if (polygon[:, 2] < NEAR).all():
        assert len(clipped) == 0


boxes = st.tuples(st.floats(-20, 20), st.floats(0.5, 60), st.floats(0.5, 12), st.floats(0.5, 12)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@settings(max_examples=60)
@given(st.lists(boxes, min_size=2, max_size=10))
def test_the_nearer_of_two_boxes_is_drawn_later(candidates):
    apart: list[tuple[float, ...]] = []
    for box in candidates:
        if all(box[0] >= o[2] or box[2] <= o[0] or box[1] >= o[3] or box[3] <= o[1] for o in apart):
            apart.append(box)
    assume(len(apart) > 1)
    order = back_to_front(np.array(apart))
    assert sorted(order) == list(range(len(apart)))
    rank = {number: position for position, number in enumerate(order)}
    for angle in np.linspace(-1.4, 1.4, 57):
        hits = sorted((d, n) for n, box in enumerate(apart) if (d := _distance(box, angle)) is not None)
        for (_, nearer), (_, farther) in pairwise(hits):
            assert rank[nearer] > rank[farther]


def _distance(box: tuple[float, ...], angle: float) -> float | None:
    """Return the distance at which a ray from the origin enters a box; None if it misses or only touches the box."""
    x0, z0, x1, z1 = box
    enter, leave = 0.0, np.inf
    for low, high, step in ((x0, x1, np.sin(angle)), (z0, z1, np.cos(angle))):
        if abs(step) < 1e-12:
            if not low < 0 < high:
                return None
            continue
        a, b = sorted((low / step, high / step))
        enter, leave = max(enter, a), min(leave, b)
    return enter if leave > enter + 1e-6 else None
