"""What a domain's style consists of: ranges from which a scene draws its own values.

Lengths are metres, angles degrees. Colours are boxes ((hue from, to), (saturation from, to), (value from, to)).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from minicity.world.classes import Label
from minicity.world.sampling import Hsv, Range

Weights = Mapping[str, float]
Paints = tuple[Hsv, ...]


@dataclass(frozen=True)
class Optics:
    """The camera: height above ground, angles, horizontal field of view."""

    height: Range
    pitch: Range
    yaw: Range
    roll: Range
    field_of_view: Range


@dataclass(frozen=True)
class Plan:
    """The street. Probabilities are per scene, or per side of the street for ``parking`` and ``verge``."""

    lanes: tuple[int, int]  # in each direction
    lane_width: Range
    sidewalk: Range
    parking: float
    verge: float
    median: float
    curvature: Range  # 1/m, either way
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
    """Who is about. ``seen``: probability that a scene gives a thing of the class a place in view."""

    pedestrians: tuple[int, int]
    crossing: tuple[int, int]
    parked: float  # share of parking spaces taken
    gap: Range  # metres between vehicles of a lane
    cyclists: tuple[int, int]
    signs: tuple[int, int]
    cars: Weights
    extras: Weights
    seen: Mapping[Label, float]


@dataclass(frozen=True)
class Look:
    """Materials and how strong their texture is."""

    paints: Mapping[str, Paints]
    texture: Range


@dataclass(frozen=True)
class Light:
    """Sun and sky light as RGB factors, own headlights, and lamps and windows that shine."""

    elevation: Range
    sun: Range
    sun_tint: tuple[float, float, float]
    ambient: Range
    ambient_tint: tuple[float, float, float]
    shadow: Range  # how much light a shadow takes
    beam: Range = (0.0, 0.0)
    lights_on: bool = False


@dataclass(frozen=True)
class Air:
    """What is between the camera and the scene, and what has fallen on it."""

    visibility: Range  # metres at which 5 % of the contrast is left
    clouds: Range
    rain: Range = (0.0, 0.0)
    wet: Range = (0.0, 0.0)
    flakes: Range = (0.0, 0.0)
    snow: Range = (0.0, 0.0)


@dataclass(frozen=True)
class Sensor:
    """Blur (sigma, pixels), noise (sigma, grey levels), vignette (share lost in the corners), then plain factors."""

    blur: Range
    noise: Range
    vignette: Range
    contrast: Range
    gain: Range
    saturation: Range


@dataclass(frozen=True)
class Style:
    """A domain: the ranges, and the words that captions use for its weather and time of day."""

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
