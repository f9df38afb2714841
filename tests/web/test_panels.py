"""Parts of the page of `clouds serve`: class names, percentages, tables, legend, maps."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clouds.web.panels import area_table, class_names, heat_map, legend, percentages, reduced

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("road\nsky", ["road", "sky"]),
        ("  road, street \r\n\n sky\n", ["road, street", "sky"]),
        ("", None),
        (" \n ", None),
    ],
)
def test_class_names(text: str, names: list[str] | None) -> None:
    assert class_names(text) == names


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=30))
@settings(max_examples=30)
def test_percentages_sum_to_100(pixels: list[int]) -> None:
    shares = [each / sum(pixels) for each in pixels]
    rounded = percentages(shares)
    assert round(sum(rounded), 6) == 100
    assert all(round(10 * each, 6) == round(10 * each) for each in rounded)
    assert all(abs(each - 100 * share) < 0.1 + 1e-9 for each, share in zip(rounded, shares, strict=True))


def test_percentages() -> None:
    assert percentages([1 / 3, 1 / 3, 1 / 3]) == [33.4, 33.3, 33.3]
    assert percentages([1.0]) == [100.0]
    assert percentages([0.99996, 0.00004]) == [100.0, 0.0]


def test_area_table() -> None:
    table = area_table({"road": 0.25, "sky": 0.0, "<b>": 0.75}, (RED, GREEN, BLUE))
    rows = re.findall(r'background: (rgb\([^)]*\))"></span>([^<]*)</th><td>([^<]*)', table)
    assert rows == [("rgb(0, 0, 255)", "&lt;b&gt;", "75.0 %"), ("rgb(255, 0, 0)", "road", "25.0 %")]
    assert table.index("75.0 %") < table.index("Total") < table.index("100.0 %")


def test_legend() -> None:
    shown = legend(("road,street", "a & b"), (RED, GREEN))
    assert re.findall(r"background: ([^\"]*)\"></span>([^<]*)</li>", shown) == [
        ("rgb(255, 0, 0)", "road"),
        ("rgb(0, 255, 0)", "a &amp; b"),
    ]


def test_heat_map() -> None:
    values = np.array([[0, 0.5, 1]], dtype=np.float32)
    drawn = heat_map(values)
    assert (drawn.shape, drawn.dtype) == ((1, 3, 3), np.uint8)
    assert drawn[0].tolist() == [[68, 1, 84], [33, 145, 140], [253, 231, 37]]  # viridis


@pytest.mark.parametrize(
    ("size", "pixels", "expected"),
    [((30, 20), 600, (30, 20)), ((30, 20), 150, (15, 10)), ((1000, 1), 10, (100, 1)), ((31, 20), 150, (15, 9))],
)
def test_reduced(size: tuple[int, int], pixels: int, expected: tuple[int, int]) -> None:
    assert reduced(Image.new("RGB", size), pixels).size == expected
