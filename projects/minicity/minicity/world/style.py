"""Style of a domain: the ranges from which each scene draws its values.

Lengths are in meters, angles in degrees. A color range is ((hue low, high), (saturation low, high), (value low, high)).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from minicity.world.classes import Label
from minicity.world.sampling import Hsv, Range

Weights = Mapping[str, float]
Paints = tuple[Hsv, ...]


@dataclass(frozen=True)
class Optics:
    """Camera: height above ground, angles, horizontal field of view."""

    height: Range
    pitch: Range
    yaw: Range
    roll: Range
    field_of_view: Range


@dataclass(frozen=True)
class Plan:
    """Street. Probabilities are per scene, for `parking` and `verge` per side of the street."""

    lanes: tuple[int, int]  # in each direction
    lane_width: Range
    sidewalk: Range
    parking: float
    verge: float
    median: float
    curvature: Range  # 1/m, to either side
    junction: float
    junction_at: Range
    end: Range
    setback: Range
    lot: Range
    floors: tuple[int, int]
    lots: Weights
    buildings: Weights
    trees: Weights
    walls: Weights
    fences: Weights
    lamps: Weights
    tree_spacing: Range
    lamp_spacing: Range
    yellow_lines: float


@dataclass(frozen=True)
class Crowd:
    """Traffic and people. `seen` is the probability that a scene places an object of the class in view."""

    pedestrians: tuple[int, int]
    crossing: tuple[int, int]
    parked: float  # share of occupied parking spaces
    gap: Range  # meters between the vehicles of a lane
    cyclists: tuple[int, int]
    signs: tuple[int, int]
    cars: Weights
    extras: Weights
    seen: Mapping[Label, float]


@dataclass(frozen=True)
class Look:
    """Colors of materials, and the strength of their texture."""

    paints: Mapping[str, Paints]
    texture: Range


@dataclass(frozen=True)
class Light:
    """Sun and ambient light as RGB factors, headlights of the camera's car, and whether lamps and windows shine."""

    elevation: Range
    sun: Range
    sun_tint: tuple[float, float, float]
    ambient: Range
    ambient_tint: tuple[float, float, float]
    shadow: Range  # share of the light that a shadow removes
    beam: Range = (0.0, 0.0)
    lights_on: bool = False


@dataclass(frozen=True)
class Air:
    """Weather: visibility, clouds, rain, wetness, falling flakes and snow cover."""

    visibility: Range  # meters at which 5 % of the contrast remains
    clouds: Range
    rain: Range = (0.0, 0.0)
    wet: Range = (0.0, 0.0)
    flakes: Range = (0.0, 0.0)
    snow: Range = (0.0, 0.0)


@dataclass(frozen=True)
class Sensor:
    """Image sensor: blur (sigma in pixels), noise (sigma in grey levels), vignette (loss in the corners), factors."""

    blur: Range
    noise: Range
    vignette: Range
    contrast: Range
    gain: Range
    saturation: Range


@dataclass(frozen=True)
class Style:
    """Style of a domain: its ranges, and the words of its captions for weather, time of day and streets."""

    name: str
    when: tuple[str, ...]
    optics: Optics
    plan: Plan
    crowd: Crowd
    look: Look
    light: Light
    air: Air
    sensor: Sensor
    streets: tuple[str, ...]
