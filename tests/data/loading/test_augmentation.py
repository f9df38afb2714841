import colorsys
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clouds.config import get_config
from clouds.data.loading.augmentation import (
    RequiredClass,
    TrainAugmentation,
    Window,
    build_train_augmentation,
    color_jitter,
    draw_window,
    has_dominant_class,
    pad,
    resize_label_window,
    resize_window,
    scaled_size,
)
from tests.data.conftest import label_map, smooth_image

sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))


@given(size=sizes, box=sizes, scale=st.floats(0.25, 3))
def test_scaled_size_fits_the_box_and_keeps_the_aspect(size, box, scale) -> None:
    height, width = scaled_size(size, box, scale)
    factor = min(box[0] * scale / size[0], box[1] * scale / size[1])
    assert abs(height - size[0] * factor) <= 1 and abs(width - size[1] * factor) <= 1
    assert height <= max(1, box[0] * scale + 0.5) and width <= max(1, box[1] * scale + 0.5)


def test_scaled_size_of_the_sources() -> None:
    assert scaled_size((1052, 1914), (1052, 1914), 0.5) == (526, 957)
    # Images of GTA5 with less height are fitted by their width.
    assert scaled_size((1046, 1914), (1052, 1914), 1.0) == (1046, 1914)
    assert scaled_size((760, 1280), (760, 1280), 2.0) == (1520, 2560)


@given(scaled=sizes, crop=sizes, seed=st.integers(0, 2**32 - 1))
def test_window_lies_inside_and_is_as_large_as_can_be(scaled, crop, seed) -> None:
    window = draw_window(np.random.default_rng(seed), scaled, crop)
    assert (window.height, window.width) == (min(scaled[0], crop[0]), min(scaled[1], crop[1]))
    assert 0 <= window.top <= scaled[0] - window.height
    assert 0 <= window.left <= scaled[1] - window.width


def test_crop_offsets_are_independent_and_reach_the_borders() -> None:
    rng = np.random.default_rng(0)
    windows = [draw_window(rng, (60, 80), (50, 50)) for _ in range(4000)]
    tops, lefts = np.array([w.top for w in windows]), np.array([w.left for w in windows])
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.05
    assert (tops.min(), tops.max(), lefts.min(), lefts.max()) == (0, 10, 0, 30)


def test_what_is_drawn_after_the_window_does_not_depend_on_sizes() -> None:
    first, second = np.random.default_rng(3), np.random.default_rng(3)
    draw_window(first, (10, 10), (50, 50))
    draw_window(second, (90, 90), None)
    assert first.random() == second.random()


@pytest.mark.parametrize("scale", [0.5, 0.77, 1.0, 1.31, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_window_of_the_resize_equals_resize_then_crop(scale: float, seed: int) -> None:
    image, label = smooth_image(seed, 131, 217), label_map(seed, 131, 217)
    height, width = scaled_size((131, 217), (131, 217), scale)
    window = draw_window(np.random.default_rng(seed), (height, width), (96, 96))
    rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)

    whole = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))[rows, columns].astype(int)
    part = resize_window(image, window)
    assert part.shape == (window.height, window.width, 3) and part.dtype == np.uint8
    assert np.abs(part - whole).max() <= 1
    assert (part != whole).mean() < 0.02

    whole_label = np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))[rows, columns]
    part_label = resize_label_window(label, window)
    assert part_label.dtype == np.uint8
    assert (part_label == whole_label).mean() > 0.995


@settings(max_examples=50)
@given(size=sizes, target=sizes, seed=st.integers(0, 99))
def test_labels_are_taken_from_the_pixel_under_each_center(size, target, seed) -> None:
    label = np.random.default_rng(seed).integers(0, 19, size, dtype=np.uint8)
    resized = resize_label_window(label, Window(*target, 0, 0, *target))
    rows, columns = ([floor(Fraction(2 * i + 1, 2) * size[k] / target[k]) for i in range(target[k])] for k in (0, 1))
    assert (resized == label[np.ix_(rows, columns)]).all()


def published_rule(label: np.ndarray, max_share: float) -> bool:
    """Whether detectron2's and mmsegmentation's random crops take a crop."""
    labels, counts = np.unique(label, return_counts=True)
    counts = counts[labels != 255]
    return len(counts) > 1 and counts.max() < counts.sum() * max_share


@given(
    shares=st.dictionaries(st.sampled_from([0, 1, 5, 18, 254, 255]), st.integers(1, 40), max_size=4),
    max_share=st.floats(0, 1, exclude_min=True, exclude_max=True) | st.sampled_from([0.25, 0.5, 0.75]),
    seed=st.integers(0, 99),
)
def test_a_dominant_class_is_that_of_the_published_rule(shares, max_share, seed) -> None:
    values = np.repeat(np.array([*shares], np.uint8), np.array([*shares.values()], int))
    label = np.random.default_rng(seed).permutation(np.append(values, 255).astype(np.uint8))[None]
    assert has_dominant_class(label, max_share) != published_rule(label, max_share)


SKY_AND_STREET = np.where(np.arange(80)[:, None] < 56, 10, label_map(4, 80, 128))


def test_a_crop_with_a_dominant_class_is_drawn_again() -> None:
    image, label = smooth_image(1, 80, 128), SKY_AND_STREET
    without, limited = TrainAugmentation(crop=(32, 32)), TrainAugmentation(crop=(32, 32), max_class_share=0.75)
    dominated = {False: 0, True: 0}
    for seed in range(200):
        plain = without(image, label, np.random.default_rng(seed))
        view = limited(image, label, np.random.default_rng(seed))
        again = limited(image, label, np.random.default_rng(seed))
        assert all((first == second).all() for first, second in zip(view, again, strict=True)), "it follows the seed"
        if published_rule(plain[1], 0.75):
            assert (view[0] == plain[0]).all() and (view[1] == plain[1]).all(), "the first crop is good enough"
        for limit, (_, target) in ((False, plain), (True, view)):
            dominated[limit] += not published_rule(target, 0.75)
    assert dominated[False] > 80
    assert dominated[True] < 4  # .54 ** 10 of 200


def test_the_tenth_crop_stays() -> None:
    class Counting(np.random.Generator):
        draws = 0

        def random(self, *args: object, **kwargs: object):
            Counting.draws += 1
            return super().random(*args, **kwargs)

    sky = np.full((40, 64), 10, np.uint8)
    rng = Counting(np.random.PCG64(0))
    _, target = TrainAugmentation(crop=(32, 32), max_class_share=0.75)(smooth_image(1), sky, rng)
    assert target.shape == (32, 32)
    assert Counting.draws == 2 * 10, "row and column of ten crops"


def test_a_required_class_and_the_limit_hold_together() -> None:
    image, label = smooth_image(1, 80, 128), SKY_AND_STREET.copy()
    label[:, 100:][label[:, 100:] != 10] = 7
    augmentation = TrainAugmentation(crop=(32, 32), max_class_share=0.75)
    both = 0
    for seed in range(100):
        _, target = augmentation(image, label, np.random.default_rng(seed), RequiredClass(7, 20))
        both += published_rule(target, 0.75) and int((target == 7).sum() >= 20)
    assert both > 70


def test_padding_is_black_and_ignored_and_below_and_to_the_right() -> None:
    image, label = smooth_image(1), label_map(1)
    pixels, target = TrainAugmentation(box=None, crop=(50, 70))(image, label, np.random.default_rng(0))
    assert pixels.shape == (50, 70, 3) and target.shape == (50, 70)
    assert (pixels[:40, :64] == np.asarray(image)).all() and (target[:40, :64] == label).all()
    assert (pixels[40:] == 0).all() and (pixels[:, 64:] == 0).all()
    assert (target[40:] == 255).all() and (target[:, 64:] == 255).all()


def test_padding_happens_before_the_jitter() -> None:
    augmentation = TrainAugmentation(crop=(60, 90), jitter=1.0)
    corners = {
        int(augmentation(smooth_image(1), label_map(1), np.random.default_rng(seed))[0][-1, -1, 0])
        for seed in range(20)
    }
    assert 0 in corners and max(corners) > 5  # brightened where that was drawn


def test_pad_leaves_what_is_large_enough() -> None:
    array = label_map(0)
    assert pad(array, (40, 10), 255) is array


def test_flip_mirrors_both_half_of_the_time() -> None:
    image, label = smooth_image(2), label_map(2)
    augmentation = TrainAugmentation(flip=True)
    flipped = 0
    for seed in range(200):
        pixels, target = augmentation(image, label, np.random.default_rng(seed))
        if (target == label[:, ::-1]).all():
            assert (pixels == np.asarray(image)[:, ::-1]).all()
            flipped += 1
        else:
            assert (target == label).all() and (pixels == np.asarray(image)).all()
    assert 70 < flipped < 130


def test_same_generator_same_view_and_others_differ() -> None:
    augmentation = TrainAugmentation(box=(40, 64), crop=(32, 32), jitter=1.0, flip=True)
    views = [augmentation(smooth_image(3), label_map(3), np.random.default_rng([5, d]))[0] for d in (1, 1, 2)]
    assert (views[0] == views[1]).all()
    assert (views[0] != views[2]).any()


class _Scripted:
    """A random generator with prescribed numbers."""

    def __init__(self, coins: list[bool], uniforms: list[float], angle: int) -> None:
        self.coins, self.uniforms, self.angle = coins, iter(uniforms), angle

    def random(self, count: int) -> np.ndarray:
        return np.where(np.array(self.coins), 0.0, 1.0)[:count]

    def uniform(self, low: float, high: float) -> float:
        value = next(self.uniforms)
        assert low <= value <= high
        return value

    def integers(self, low: int, high: int) -> int:
        assert low <= self.angle < high
        return self.angle


def jittered(image: np.ndarray, *, on: str, offset: float = 0, gain: float = 1, chroma: float = 1, angle: int = 0):
    order = ("brightness", "contrast first", "contrast", "saturation", "hue")
    return color_jitter(image, _Scripted([step in on.split(",") for step in order], [offset, gain, chroma], angle))


def test_jitter_brightness_and_contrast_are_the_published_arithmetic() -> None:
    image = np.asarray(smooth_image(4))
    exact = image.astype(np.float64)
    assert (jittered(image, on="") == image).all()
    for offset in (-31.7, 20.4):
        expected = np.clip(exact + offset, 0, 255).astype(np.uint8)
        assert (jittered(image, on="brightness", offset=offset) == expected).all()
    for gain in (0.5, 1.49):
        expected = np.clip(exact * gain, 0, 255).astype(np.uint8)
        assert (jittered(image, on="contrast", gain=gain) == expected).all()
        assert (jittered(image, on="contrast,contrast first", gain=gain) == expected).all()


def test_jitter_order_of_contrast_and_saturation() -> None:
    image = np.full((1, 1, 3), (200, 150, 150), dtype=np.uint8)
    # Contrast first clips the red and keeps the pixel pink; after the saturation is halved it clips all three to white.
    late = jittered(image, on="contrast,saturation", gain=1.5, chroma=0.5)[0, 0]
    early = jittered(image, on="contrast,contrast first,saturation", gain=1.5, chroma=0.5)[0, 0]
    assert late.tolist() == [255, 255, 255]
    assert early[0] == 255 and 235 < early[1] < 245


@pytest.mark.parametrize("angle", [-18, -7, 0, 11, 18])
@pytest.mark.parametrize("chroma", [0.5, 1.0, 1.4])
def test_jitter_hue_and_saturation_agree_with_colorsys(angle: int, chroma: float) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(40, 256, (5, 5, 3), dtype=np.uint8)
    image[0, 0] = (255, 0, 10)  # hue 179 of 180: turning it wraps around
    actual = jittered(image, on="saturation,hue", chroma=chroma, angle=angle)
    for pixel, result in zip(image.reshape(-1, 3), actual.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        expected = colorsys.hsv_to_rgb((hue + angle / 180) % 1, min(1, saturation * chroma), value)
        # 8-bit hue has steps of 2 degrees, up to 2/60 of the chroma.
        assert np.abs(result - 255 * np.array(expected)).max() <= 6


def test_jitter_draws_the_published_ranges() -> None:
    gray = np.full((1, 1, 3), 100, dtype=np.uint8)  # has no hue nor saturation: brightness and contrast alone are seen
    values = np.array([int(color_jitter(gray, np.random.default_rng(seed))[0, 0, 0]) for seed in range(3000)])
    assert values.min() < 40 and values.max() > 190
    assert values.min() >= int((100 - 32) * 0.5) and values.max() <= (100 + 32) * 1.5
    assert 0.20 < (values == 100).mean() < 0.30  # neither of the two


def test_config_decides_the_steps() -> None:
    cfg = get_config()
    assert build_train_augmentation(cfg) == TrainAugmentation((1052, 1914), (0.5, 2.0), (768, 768), True, True)
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75
    assert build_train_augmentation(cfg).max_class_share == 0.75
    cfg.INPUT.RESIZE.ENABLED = cfg.INPUT.CROP.ENABLED = cfg.INPUT.COLOR_AUG_SSD = cfg.INPUT.FLIP = False
    plain = build_train_augmentation(cfg)
    assert plain.max_class_share == 1, "a whole image is not drawn again"
    image, label = smooth_image(5), label_map(5)
    pixels, target = plain(image, label, np.random.default_rng(0))
    assert (pixels == np.asarray(image)).all() and (target == label).all()


def test_jitter_strength_scales_the_ranges() -> None:
    gray = np.full((1, 1, 3), 100, dtype=np.uint8)

    def spread(strength: float) -> tuple[int, int]:
        values = [int(color_jitter(gray, np.random.default_rng(seed), strength)[0, 0, 0]) for seed in range(1000)]
        return min(values), max(values)

    (weak_low, weak_high), (low, high) = spread(0.5), spread(1.0)
    assert low < weak_low < 100 < weak_high < high
    assert spread(0.0) == (100, 100)
    color = np.full((1, 1, 3), (200, 40, 90), dtype=np.uint8)
    spreads = [np.ptp(color_jitter(color, np.random.default_rng(seed), 2.0).astype(int)) for seed in range(300)]
    assert min(spreads) < 12, "at strength 2 some images lose nearly all color"
