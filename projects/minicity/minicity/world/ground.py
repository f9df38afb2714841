"""Ground: road, markings, rails, sidewalks and verges, painted flat, then lit, shadowed and textured per pixel."""

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from minicity.world.camera import Array, Camera
from minicity.world.canvas import SHIFT, Canvas, Color
from minicity.world.classes import Label
from minicity.world.sampling import Dice
from minicity.world.street import BEHIND, PARKING_WIDTH, Street
from minicity.world.textures import TILE, Field, look_up, noise, spread

FAR = 400.0
_SURFACES = (Label.ROAD, Label.SIDEWALK, Label.TERRAIN)
_ROUGHNESS = {Label.ROAD: 0.055, Label.SIDEWALK: 0.05, Label.TERRAIN: 0.20}
_SNOW_SHARE = {Label.ROAD: 0.1, Label.SIDEWALK: 0.85, Label.TERRAIN: 1.8}


@dataclass(frozen=True)
class Lot:
    """Ground beyond the sidewalk on one side of the street.

    Attributes:
        side: 1 for the right side, -1 for the left.
        z0: start in meters.
        z1: end in meters.
        paved: whether it is paved.
        reach: depth of the paving in meters.
    """

    side: int
    z0: float
    z1: float
    paved: bool
    reach: float


@dataclass(frozen=True)
class GroundPaint:
    """Colors of the surfaces, RGB 0..255. `wear`, 0..1, fades the markings."""

    asphalt: Color
    paving: Color
    soil: Color
    lines: Color
    middle_line: Color
    wear: float


class _Brush:
    """Collects the polygons of an image, to project them all at once."""

    def __init__(self, street: Street, paint: GroundPaint, regions: tuple[int, int, int]) -> None:
        self.street, self.paint = street, paint
        self.road, self.walk, self.soil = regions
        self._shapes: list[tuple[Array, Color, int]] = []

    def fill(self, outline: Array, color: Color, region: int) -> None:
        """Add a polygon, (N, 2) world x and z."""
        self._shapes.append((outline, color, region))

    def band(self, u: tuple[float, float], z: tuple[float, float], color: Color, region: int) -> None:
        """Add the strip between two lines along the street."""
        self.fill(self.street.band(*u, *z), color, region)

    def paint_on(self, canvas: Canvas) -> None:
        """Fill all polygons, in the order in which they were added."""
        shapes = canvas.ground_pixels([shape[0] for shape in self._shapes])
        for pixels, (_, color, region) in zip(shapes, self._shapes, strict=True):
            if len(pixels) > 2:
                cv2.fillPoly(canvas.pixels, [pixels], (*color, region), cv2.LINE_8, SHIFT)


def paint_ground(canvas: Canvas, street: Street, lots: list[Lot], paint: GroundPaint, dice: Dice) -> None:
    """Paint everything below the horizon in flat colors."""
    plane = tuple(canvas.camera.ground_plane)
    road, walk, soil = (canvas.region(label, -1, plane, (1 / FAR, 10.0)) for label in _SURFACES)
    below = (canvas.camera.ground_inverse_depth > 1 / FAR).astype(np.uint8)
    cv2.copyTo(np.full_like(canvas.pixels, (*(int(channel) for channel in paint.soil), soil)), below, canvas.pixels)
    brush = _Brush(street, paint, (road, walk, soil))
    last = min(street.end + 14, 260.0)
    for lot in lots:
        if lot.paved:
            inner = (street.right if lot.side > 0 else street.left).facade
            u = (lot.side * (inner - 0.1), lot.side * (inner + lot.reach))
            brush.band(u, (max(lot.z0, BEHIND), lot.z1), _shade(paint.paving, 0.94), walk)
    for side in street.sides:
        s, whole = side.sign, (BEHIND, last)
        if side.verge:
            brush.band((s * side.road, s * side.walk[0]), whole, _shade(paint.soil, 1.05), soil)
        brush.band((s * side.walk[0], s * side.facade), whole, paint.paving, walk)
        brush.band((s * (side.road - 0.02), s * (side.road + 0.22)), whole, _shade(paint.paving, 1.18), walk)
    if street.junction:
        z0, z1 = street.junction
        for edge in ((z0 - 2.2, z0), (z1, z1 + 2.2)):
            brush.band((-90, 90), edge, paint.paving, walk)
    brush.band((-street.left.road, street.right.road), (BEHIND, last), paint.asphalt, road)
    if street.junction:
        brush.band((-90, 90), street.junction, paint.asphalt, road)
    _repairs(brush, dice)
    _gutters(brush)
    if street.median:
        half = street.median / 2
        until = street.junction[0] - 3 if street.junction else last
        brush.band((-half, half), (BEHIND, until), _shade(paint.paving, 1.15), walk)
        brush.band((-half + 0.25, half - 0.25), (BEHIND, until), paint.soil, soil)
    _paving_joints(brush)
    _markings(brush, last)
    _rails(brush, last)
    brush.paint_on(canvas)


def _repairs(brush: _Brush, dice: Dice) -> None:
    for _ in range(dice.integer((2, 5))):
        u, z = dice.uniform((-brush.street.left.road, brush.street.right.road - 1)), dice.uniform((3, 40))
        outline = brush.street.band(
            u, min(u + dice.uniform((0.6, 2.5)), brush.street.right.road), z, z + dice.uniform((1.0, 9.0))
        )
        brush.fill(outline, _shade(brush.paint.asphalt, dice.uniform((0.82, 1.1))), brush.road)
    for _ in range(dice.integer((0, 3))):
        x, _ = brush.street.to_world(
            dice.uniform((-brush.street.left.road + 0.6, brush.street.right.road - 0.6)), z := dice.uniform((4, 22))
        )
        angles = np.linspace(0, 2 * np.pi, 14)
        brush.fill(
            np.stack([x + 0.36 * np.cos(angles), z + 0.36 * np.sin(angles)], axis=1),
            _shade(brush.paint.asphalt, 0.6),
            brush.road,
        )


def _gutters(brush: _Brush) -> None:
    until = brush.street.junction[0] if brush.street.junction else 70.0
    for side in brush.street.sides:
        outline = brush.street.band(side.sign * (side.road - 0.28), side.sign * side.road, BEHIND, until)
        brush.fill(outline, _shade(brush.paint.asphalt, 0.82), brush.road)


def _paving_joints(brush: _Brush) -> None:
    """Add the joints between slabs near the camera."""
    color = _shade(brush.paint.paving, 0.84)
    for side in brush.street.sides:
        inner, outer = side.walk
        for z in np.arange(2.0, 16.0, 1.6):
            if not brush.street.blocked(z, z):
                brush.fill(brush.street.band(side.sign * inner, side.sign * outer, z, z + 0.06), color, brush.walk)


def _markings(brush: _Brush, last: float) -> None:
    lines = _mix(brush.paint.lines, brush.paint.asphalt, brush.paint.wear)
    middle = _mix(brush.paint.middle_line, brush.paint.asphalt, brush.paint.wear)

    def line(u: float, z0: float, z1: float, color: Color, width: float = 0.14) -> None:
        brush.fill(brush.street.band(u - width / 2, u + width / 2, z0, z1), color, brush.road)

    spans = [(BEHIND, last)]
    if brush.street.junction:
        z0, z1 = brush.street.junction
        spans = [(BEHIND, z0 - 4.8), (z1 + 4.8, last)]
    for z0, z1 in spans:
        if brush.street.median:
            line(-brush.street.median / 2 - 0.3, z0, z1, lines)
            line(brush.street.median / 2 + 0.3, z0, z1, lines)
        elif brush.street.lanes > 1:
            line(-0.14, z0, z1, middle)
            line(0.14, z0, z1, middle)
        dashed = [
            brush.street.lane(d, i) + d * brush.street.lane_width / 2
            for d in (-1, 1)
            for i in range(brush.street.lanes - 1)
        ]
        if brush.street.lanes == 1 and not brush.street.median:
            dashed.append(0.0)
        for u in dashed:
            for z in np.arange(z0, min(z1, 70.0), 7.5):
                line(u, z, min(z + 3.2, z1), middle if u == 0 else lines, 0.15)
        for side in brush.street.sides:
            line(
                side.sign * (side.road - side.parking * PARKING_WIDTH - (0.0 if side.parking else 0.4)),
                z0,
                z1,
                lines,
                0.12,
            )
            if side.parking:
                for z in np.arange(max(z0, 1.0), min(z1, 35.0), 6.0):
                    brush.fill(
                        brush.street.band(side.sign * (side.road - PARKING_WIDTH), side.sign * side.road, z, z + 0.12),
                        lines,
                        brush.road,
                    )
    if brush.street.junction:
        for z, stop in (
            (brush.street.junction[0] - 3.6, brush.street.junction[0] - 4.9),
            (brush.street.junction[1] + 0.6, None),
        ):
            for u in np.arange(-brush.street.left.road + 0.4, brush.street.right.road - 0.5, 1.1):
                brush.fill(brush.street.band(u, u + 0.55, z, z + 3.0), lines, brush.road)
            if stop is not None:
                brush.fill(
                    brush.street.band(brush.street.median / 2, brush.street.right.road - 0.2, stop, stop + 0.4),
                    lines,
                    brush.road,
                )


def _rails(brush: _Brush, last: float) -> None:
    if brush.street.tram is None:
        return
    for u in (brush.street.tram, -brush.street.tram):
        brush.fill(brush.street.band(u - 1.15, u + 1.15, BEHIND, last), _shade(brush.paint.asphalt, 0.9), brush.road)
        for offset in (-0.72, 0.72):
            brush.fill(
                brush.street.band(u + offset - 0.09, u + offset + 0.09, BEHIND, last),
                _shade(brush.paint.asphalt, 0.5),
                brush.road,
            )
            brush.fill(
                brush.street.band(u + offset - 0.03, u + offset + 0.03, BEHIND, last), (168, 166, 160), brush.road
            )


def shade_ground(
    canvas: Canvas, shadows: npt.NDArray[np.uint8], darkness: float, texture: float, wet: float, dice: Dice
) -> None:
    """Apply light, shadows, grain and lying snow to the painted ground, in place.

    Args:
        canvas: canvas with the painted ground and no objects.
        shadows: (H, W) uint8, 255 where no direct light arrives.
        darkness: share of the light that a full shadow removes.
        texture: factor of the grain.
        wet: wetness 0..1, which darkens road and sidewalk.
        dice: chooses the position of the grain.
    """
    camera, lighting = canvas.camera, canvas.lighting
    tilt = camera.size[1] * abs(math.tan(camera.roll)) / 2
    top = int(np.clip(camera.horizon - tilt - 1, 0, camera.size[0] - 2))
    regions = np.ascontiguousarray(canvas.pixels[top:, :, 3])

    def by_label(table: dict[Label, float]) -> Field:
        return look_up(regions, [table.get(region.label, 0.0) for region in canvas.regions])

    depth = (1.0 / np.maximum(camera.ground_inverse_depth[top:], np.float32(1 / FAR))).astype(np.float32)
    x, z = _ground_coordinates(camera, top, depth)
    grain = _perspective_noise(_grain(), x, z, 40.0, dice)
    fade = 0.35 + 0.65 / (1.0 + (depth * (1 / 18.0)) ** 2)
    light = 1.0 + by_label(_ROUGHNESS) * np.float32(texture) * grain * fade
    light *= 1.0 - np.float32(darkness / 255.0) * shadows[top:]
    if wet:
        light *= by_label({Label.ROAD: 1 - 0.45 * wet, Label.SIDEWALK: 1 - 0.45 * wet, Label.TERRAIN: 1.0})
    colors = canvas.pixels[top:, :, :3].astype(np.float32)
    if lighting.snow:
        patches = 0.55 * _perspective_noise(noise("coarse"), x, z, 9.0, dice) + 0.15 * grain
        cover = np.clip((patches + by_label(_SNOW_SHARE)) * 1.3 + (lighting.snow - 0.8) * 2.0, 0.0, 0.95)
        colors += spread(cover) * (np.float32(240.0) - colors)
    factors = [np.float32(value) for value in lighting.ambient + lighting.sun_color * max(float(lighting.sun[1]), 0.0)]
    if lighting.beam:
        # Headlights light the camera's lane more than the edges.
        reach = -depth * np.float32(1 / lighting.beam_reach) - (x / (2.5 + 0.35 * depth)) ** 2
        beam = np.float32(1.6 * lighting.beam) * np.exp(reach)
        colors *= cv2.merge([light * (beam + factor) for factor in factors])
    else:
        colors *= cv2.merge([light * factor for factor in factors])
    lit = cv2.merge([np.minimum(colors, 255.0).astype(np.uint8), regions])
    cv2.copyTo(lit, regions, canvas.pixels[top:])


def _ground_coordinates(camera: Camera, top: int, depth: Field) -> tuple[Field, Field]:
    """Return world x and z in meters of the ground at each pixel from row `top` on."""
    height, width = camera.size
    right = ((np.arange(width) - camera.center[0]) / camera.focal).astype(np.float32)[None]
    down = ((np.arange(top, height) - camera.center[1]) / camera.focal).astype(np.float32)[:, None]
    axes = camera.axes.astype(np.float32)
    x = depth * (axes[0, 0] * right + (axes[0, 1] * down + axes[0, 2]))
    z = depth * (axes[2, 0] * right + (axes[2, 1] * down + axes[2, 2]))
    return x, z


@lru_cache(maxsize=1)
def _grain() -> Field:
    return noise("fine") + np.float32(0.7) * noise("coarse")


def _perspective_noise(tile: Field, x: Field, z: Field, per_meter: float, dice: Dice) -> Field:
    """Sample noise that lies on the ground. The size of the tile is a power of two, so that a bit mask wraps it."""
    columns = (x * np.float32(per_meter) + np.float32(dice.below(TILE))).astype(np.int32) & (TILE - 1)
    rows = (z * np.float32(per_meter) + np.float32(dice.below(TILE))).astype(np.int32) & (TILE - 1)
    picked: Field = tile.ravel()[rows * TILE + columns]
    return picked


def _shade(color: Color, factor: float) -> Color:
    red, green, blue = (min(channel * factor, 255.0) for channel in color)
    return red, green, blue


def _mix(a: Color, b: Color, share: float) -> Color:
    red, green, blue = (x * (1 - share) + y * share for x, y in zip(a, b, strict=True))
    return red, green, blue
