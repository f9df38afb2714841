"""The wide styles, on which the miniatures are trained, exclude the validation domains."""

from dataclasses import fields

import pytest
from minicity.world.styles import STYLES
from minicity.world.wide import AIRS, LIGHTS, SENSORS, WIDE_STYLES

UNSEEN = [style for name, style in STYLES.items() if name != "minicity_sim"]


def apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[1] < other[0] or other[1] < one[0]


def ranges_apart(one: object, other: object) -> list[str]:
    """Return the names of the ranges in which two records of one type are disjoint."""
    pairs = {field.name: (getattr(one, field.name), getattr(other, field.name)) for field in fields(one)}
    numeric = {name: pair for name, pair in pairs.items() if isinstance(pair[0], tuple) and len(pair[0]) == 2}
    return [name for name, pair in numeric.items() if apart(*pair)]


def test_every_combination_is_a_style():
    assert len({style.name for style in WIDE_STYLES}) == len(LIGHTS) * len(AIRS) * len(SENSORS) == len(WIDE_STYLES)
    assert not {style.name for style in WIDE_STYLES} & STYLES.keys()


@pytest.mark.parametrize("domain", UNSEEN, ids=lambda style: style.name)
def test_no_sensor_equals_one_of_a_validation_domain(domain):
    for style in WIDE_STYLES:
        assert ranges_apart(style.sensor, domain.sensor), f"{style.name} has the sensor of {domain.name}"


@pytest.mark.parametrize(
    ("domain", "part", "name"),
    [
        ("minicity_night", "light", "ambient"),
        ("minicity_rain", "air", "rain"),
        ("minicity_rain", "air", "wet"),
        ("minicity_fog", "air", "visibility"),
        ("minicity_snow", "air", "snow"),
        ("minicity_snow", "air", "flakes"),
    ],
)
def test_no_style_has_the_property_that_makes_a_domain(domain, part, name):
    its_own = getattr(getattr(STYLES[domain], part), name)
    for style in WIDE_STYLES:
        assert apart(getattr(getattr(style, part), name), its_own), f"{style.name} has the {name} of {domain}"
