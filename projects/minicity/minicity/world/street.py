"""Plan of a street: lanes, curbs, sidewalks, a junction, and the position of the camera.

Street coordinates: u meters to the right of the middle of the road, z meters ahead. Traffic keeps to the right.
"""

import math
from dataclasses import dataclass

import numpy as np

from minicity.world.camera import Array, Camera
from minicity.world.classes import Label
from minicity.world.sampling import Dice
from minicity.world.style import Style

PARKING_WIDTH = 2.2
BEHIND = -6.0
"""Start of the street (z in meters), behind the camera, so that it reaches the lower edge of the image."""


@dataclass(frozen=True)
class Side:
    """One side of the street.

    Attributes:
        sign: 1 for the right side, -1 for the left.
        road: |u| of the curb.
        parking: whether it has parking spaces.
        verge: width of the verge in meters; 0 for none.
        facade: |u| of the outer edge of the sidewalk.
    """

    sign: int
    road: float
    parking: bool
    verge: float
    facade: float

    @property
    def walk(self) -> tuple[float, float]:
        """|u| of the two edges of the sidewalk."""
        return self.road + self.verge, self.facade


@dataclass(frozen=True)
class Street:
    """Plan of a street.

    Attributes:
        lanes: number of lanes in each direction.
        lane_width: meters.
        median: width of the median in meters; 0 for none.
        left: left side.
        right: right side.
        curvature: 1/m; positive bends to the right.
        viewpoint: u of the camera.
        junction: z where a crossing road begins and ends; None for none.
        end: z of the end of the street.
        tram: u of the lane with rails; None for none.
    """

    lanes: int
    lane_width: float
    median: float
    left: Side
    right: Side
    curvature: float
    viewpoint: float
    junction: tuple[float, float] | None
    end: float
    tram: float | None

    @property
    def sides(self) -> tuple[Side, Side]:
        """Left and right side."""
        return self.left, self.right

    def to_world(self, u: float, z: float) -> tuple[float, float]:
        """Return the world x in meters and the heading of the street in radians at (u, z)."""
        return u - self.viewpoint + 0.5 * self.curvature * z * z, math.atan(self.curvature * z)

    def lane(self, direction: int, index: int) -> float:
        """Return u of the middle of a lane.

        Args:
            direction: 1 for traffic in the direction of the camera, -1 for oncoming traffic.
            index: index of the lane; 0 is the innermost.
        """
        return direction * (self.median / 2 + (index + 0.5) * self.lane_width)

    def band(self, u0: float, u1: float, z0: float, z1: float) -> Array:
        """Return the outline (N, 2), world x and z, of the strip from u0 to u1 between z0 and z1."""
        # A bend needs corners in between, closer together near the camera.
        if abs(self.curvature) * (z1 - z0) ** 2 <= 0.2:
            a, b = (0.5 * self.curvature * z * z - self.viewpoint for z in (z0, z1))
            return np.array([(u0 + a, z0), (u0 + b, z1), (u1 + b, z1), (u1 + a, z0)])
        steps = int((z1 - z0) / 8) + 1
        z = z0 + (z1 - z0) * np.linspace(0.0, 1.0, min(steps, 16) + 1) ** 1.7
        bend = 0.5 * self.curvature * z * z - self.viewpoint
        outline = np.empty((2 * len(z), 2))
        outline[: len(z), 0], outline[len(z) :, 0] = u0 + bend, (u1 + bend)[::-1]
        outline[: len(z), 1], outline[len(z) :, 1] = z, z[::-1]
        return outline

    def blocked(self, z0: float, z1: float, margin: float = 0.0) -> bool:
        """Return whether the crossing road, widened by `margin` meters, overlaps [z0, z1]."""
        return self.junction is not None and z0 < self.junction[1] + margin and z1 > self.junction[0] - margin


def sample_street(style: Style, dice: Dice, featured: frozenset[Label]) -> Street:
    """Draw a street. It has a tram lane if the train class is in `featured`."""
    plan = style.plan
    lanes = dice.integer(plan.lanes)
    lane_width = dice.uniform(plan.lane_width)
    tram = Label.TRAIN in featured
    median = dice.uniform((1.2, 3.0)) if dice.chance(plan.median) and not tram else 0.0
    own_lane = dice.below(lanes)
    middle = median / 2 + (own_lane + 0.5) * lane_width

    def side(sign: int) -> Side:
        parking = dice.chance(plan.parking)
        road = median / 2 + lanes * lane_width + parking * PARKING_WIDTH
        verge = dice.uniform((0.8, 2.4)) if dice.chance(plan.verge) else 0.0
        return Side(sign, road, parking, verge, road + verge + dice.uniform(plan.sidewalk))

    junction = None
    if dice.chance(plan.junction):
        start = dice.uniform(plan.junction_at)
        junction = (start, start + dice.uniform((6.5, 11.0)))
    tram_lane = None
    if tram:
        tram_lane = -(median / 2 + 0.5 * lane_width)
    return Street(
        lanes=lanes,
        lane_width=lane_width,
        median=median,
        left=side(-1),
        right=side(1),
        curvature=dice.uniform(plan.curvature) * dice.pick((-1, 1)),
        viewpoint=middle + dice.uniform((-0.5, 0.5)),
        junction=junction,
        end=dice.uniform(plan.end),
        tram=tram_lane,
    )


def sample_camera(style: Style, dice: Dice, size: tuple[int, int]) -> Camera:
    """Draw a camera for images of `size` (H, W). The field of view of the style is horizontal."""
    optics = style.optics
    view = math.radians(dice.uniform(optics.field_of_view))
    return Camera(
        height=dice.uniform(optics.height),
        pitch=math.radians(dice.uniform(optics.pitch)),
        yaw=math.radians(dice.uniform(optics.yaw)),
        roll=math.radians(dice.uniform(optics.roll)),
        focal=size[1] / 2 / math.tan(view / 2),
        size=size,
    )
