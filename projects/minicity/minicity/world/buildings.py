"""Meshes of buildings, walls and fences. They run along z; their street side is the plane x = 0 and faces -x.

Color slots of buildings: `wall`, `base`, `trim`, `frame`, `glass`, `lit`, `door`, `roof`, `shop`, `awning`; of walls:
`stone`, `tint`, `joint`, `cap`; of fences: `bar`, `rail`.
"""

from functools import cache

import numpy as np

from minicity.world.camera import Array
from minicity.world.mesh import FINE, Mesh, MeshBuilder, Point, rectangles

BAY = 2.7
"""Distance between windows in meters."""
FLOOR = 3.2
"""Height of a floor in meters."""
DEPTH = 11.0

BUILDINGS = ("flats", "brick", "ribbon", "glass", "shops", "house", "hall")
WALLS = ("brick", "stone", "panel", "plaster")
FENCES = ("iron", "picket", "board", "mesh")


@cache
def building(kind: str, floors: int, bays: int, variant: int) -> Mesh:
    """Return a building.

    Args:
        kind: one of `BUILDINGS`.
        floors: number of floors.
        bays: number of windows in a row of the street side.
        variant: seed of lit windows (visible when the lights are on), doors and balconies.
    """
    rng = np.random.default_rng((floors, bays, variant))
    length, height = bays * BAY, floors * FLOOR + (0.6 if kind != "house" else 0.2)
    builder = MeshBuilder()
    builder.box((0, 0, -length / 2), (DEPTH, height, length / 2), "wall", roof="roof")
    # The street side and both gables. A point on a side is origin + s across + t up.
    sides = (
        ((0, 0, -length / 2), (0, 0, 1), length),
        ((0, 0, -length / 2), (1, 0, 0), DEPTH),
        ((0, 0, length / 2), (1, 0, 0), DEPTH),
    )
    for index, (origin, across, width) in enumerate(sides):
        _side(_Face(builder, origin, across), kind, floors, width, height, rng, front=index == 0)
    if kind == "house":
        _pitched_roof(builder, length, height, chimney=float(rng.uniform(-0.3, 0.3)) * length)
    elif rng.random() < 0.5:
        z = float(rng.uniform(-0.3, 0.3)) * length
        builder.box((3, height, z - 1.5), (6, height + 2.2, z + 1.5), "trim")
    return builder.build()


class _Face:
    """One side of a building. Positions on it are meters from `origin`, along `across` and up."""

    def __init__(self, builder: MeshBuilder, origin: Point, across: Point) -> None:
        self.builder, self.origin, self.across = builder, origin, across

    def patches(self, left: Array, bottom: Array, w: float, h: float, slot: str, *, fine: float = 0.0) -> None:
        """Add equal rectangles of one color slot."""
        shapes = rectangles(self.origin, self.across, (0, 1, 0), left, bottom, w, h)
        self.builder.polygons(shapes, slot, fine=fine)

    def patch(self, left: float, bottom: float, w: float, h: float, slot: str, *, fine: float = 0.0) -> None:
        self.patches(np.array([left]), np.array([bottom]), w, h, slot, fine=fine)


def _side(
    face: _Face, kind: str, floors: int, width: float, height: float, rng: np.random.Generator, *, front: bool
) -> None:
    patch, patches = face.patch, face.patches
    bays = max(int(width / BAY), 1)
    pitch = width / bays
    first = 1 if kind in ("shops", "ribbon", "glass") else 0
    rows = np.arange(first, floors)
    if kind == "glass":
        patch(0.3, FLOOR, width - 0.6, height - FLOOR - 0.5, "glass")
        cells_s, cells_t = np.meshgrid(np.arange(bays * 2), np.arange(floors - 1))
        lit = rng.random(cells_s.size) < 0.3
        cells = cells_s.ravel()[lit] * pitch / 2 + 0.35, FLOOR + cells_t.ravel()[lit] * FLOOR + 0.3
        patches(*cells, pitch / 2 - 0.3, FLOOR - 0.9, "lit")
        patches(
            np.arange(bays * 2 + 1) * pitch / 2,
            np.full(bays * 2 + 1, FLOOR),
            0.12,
            height - FLOOR - 0.5,
            "frame",
            fine=FINE,
        )
        patches(np.full(floors, 0.0), np.arange(1, floors + 1) * FLOOR - 0.25, width, 0.3, "frame")
    elif kind == "ribbon":
        patches(np.full(len(rows), 0.4), rows * FLOOR + 1.0, width - 0.8, 1.5, "glass")
        s, t = (grid.ravel() for grid in np.meshgrid(np.arange(bays), rows))
        lit = rng.random(s.size) < 0.35
        patches(s[lit] * pitch + 0.45, t[lit] * FLOOR + 1.0, pitch - 0.3, 1.5, "lit")
        posts, levels = (grid.ravel() for grid in np.meshgrid(np.arange(1, bays), rows))
        patches(posts * pitch - 0.08, levels * FLOOR + 1.0, 0.16, 1.5, "frame", fine=FINE)
    elif kind == "hall":
        patches(np.arange(bays) * pitch + 0.6, np.full(bays, height - 1.9), pitch - 1.2, 0.9, "glass")
        patches(np.arange(1, 2 * bays) * pitch / 2, np.full(2 * bays - 1, 0.0), 0.08, height, "trim", fine=FINE)
        if front:
            patch(width * 0.3, 0.0, 4.0, min(4.0, height - 2.4), "door")
            patches(np.full(3, width * 0.3), np.arange(3) + 0.8, 4.0, 0.08, "trim", fine=FINE)
    else:
        s, t = (grid.ravel() for grid in np.meshgrid(np.arange(bays), rows))
        w, h = (1.15, 1.65) if kind != "house" else (1.25, 1.3)
        left, bottom = s * pitch + (pitch - w) / 2, t * FLOOR + (0.95 if kind != "house" else 1.0)
        patches(left - 0.12, bottom - 0.12, w + 0.24, h + 0.24, "frame")
        lit = rng.random(s.size) < 0.4
        patches(left[~lit], bottom[~lit], w, h, "glass")
        patches(left[lit], bottom[lit], w, h, "lit")
        patches(left + w / 2 - 0.04, bottom, 0.08, h, "frame", fine=FINE)
        if kind == "brick":
            patches(np.zeros(floors), np.arange(1, floors + 1) * FLOOR - 0.1, width, 0.22, "trim")
        if kind == "flats" and front and rng.random() < 0.6:
            balconies = (s % 3 == rng.integers(3)) & (t > 0)
            patches(left[balconies] - 0.5, bottom[balconies] - 0.75, w + 1.0, 1.0, "trim")
        if front and first == 0:
            _doors(face, pitch, bays, rng)
    if kind in ("shops", "ribbon", "glass"):
        _ground_floor(face, width, front=front)
    if kind in ("flats", "brick", "shops"):
        patch(0.0, 0.0, width, 0.5, "base")
        patch(0.0, height - 0.5, width, 0.5, "trim")


def _doors(face: _Face, pitch: float, bays: int, rng: np.random.Generator) -> None:
    bay = int(rng.integers(bays))
    face.patch(bay * pitch + pitch / 2 - 0.9, 0.0, 1.8, 2.75, "frame")
    face.patch(bay * pitch + pitch / 2 - 0.7, 0.0, 1.4, 2.5, "door")
    face.patch(bay * pitch + pitch / 2 - 0.5, 1.5, 1.0, 0.8, "glass", fine=FINE)


def _ground_floor(face: _Face, width: float, *, front: bool) -> None:
    """Add shop windows, doors, and awnings or a band for the name."""
    face.patch(0.0, 0.0, width, FLOOR - 0.15, "base")
    count = max(int(width / 4.5), 1)
    pitch = width / count
    left = np.arange(count) * pitch
    face.patches(left + 0.4, np.full(count, 0.5), pitch - 2.0, 1.9, "shop")
    face.patches(left + pitch - 1.4, np.zeros(count), 1.0, 2.4, "door")
    face.patches(left + 0.2, np.full(count, 2.5), pitch - 0.4, 0.5, "awning" if front else "trim")


def _pitched_roof(builder: MeshBuilder, length: float, height: float, chimney: float) -> None:
    ridge, over = height + 3.4, 0.5
    z0, z1 = -length / 2, length / 2
    builder.box((DEPTH * 0.6, height + 1, chimney - 0.4), (DEPTH * 0.6 + 0.9, ridge + 0.9, chimney + 0.4), "base")
    builder.group += 1
    builder.center = (DEPTH / 2, height, 0)
    for z in (z0, z1):
        builder.polygon([(0, height, z), (DEPTH, height, z), (DEPTH / 2, ridge, z)], "wall")
        window = [
            (DEPTH / 2 - 0.6, height + 0.7, z),
            (DEPTH / 2 + 0.6, height + 0.7, z),
            (DEPTH / 2 + 0.6, height + 1.8, z),
            (DEPTH / 2 - 0.6, height + 1.8, z),
        ]
        builder.polygon(window, "glass", fine=FINE)
    for eave in (-over, DEPTH + over):
        y = height - 0.3
        builder.polygon(
            [(eave, y, z0 - over), (eave, y, z1 + over), (DEPTH / 2, ridge, z1 + over), (DEPTH / 2, ridge, z0 - over)],
            "roof",
        )
        for z in (z0 - over, z1 + over):
            builder.stroke([(eave, y, z), (DEPTH / 2, ridge, z)], 0.18, "trim")


@cache
def wall(kind: str, length: int, variant: int) -> Mesh:
    """Return a free-standing wall, 2 m high.

    Args:
        kind: one of `WALLS`.
        length: length in meters.
        variant: seed of stones and stains.
    """
    rng = np.random.default_rng((length, variant))
    half, height, thick = length / 2, 2.0, 0.35
    builder = MeshBuilder()
    builder.box((0, 0, -half), (thick, height, half), "stone", roof="cap")
    fronts: list[tuple[Point, Point, float]] = [
        ((-0.005, 0, -half), (0, 0, 1), length),
        ((thick + 0.005, 0, -half), (0, 0, 1), length),
    ]
    for origin, across, width in fronts:
        if kind in ("brick", "stone"):
            rise = 0.2 if kind == "brick" else 0.4
            courses = np.arange(1, round(height / rise)) * rise
            builder.strokes(
                _lines(origin, across, np.zeros(len(courses)), courses, width, 0.0), 0.035, "joint", fine=FINE
            )
            step = 0.5 if kind == "brick" else 0.8
            s, t = (g.ravel() for g in np.meshgrid(np.arange(step, width - 0.1, step), np.arange(round(height / rise))))
            jitter = np.where(t % 2, step / 2, 0.0) + (rng.uniform(-0.2, 0.2, s.size) if kind == "stone" else 0.0)
            joints = _lines(origin, across, np.minimum(s + jitter, width), t * rise, 0.0, rise)
            builder.strokes(joints, 0.035, "joint", fine=FINE)
            blocks = rng.integers(0, s.size, s.size // 5)
            tinted = rectangles(
                origin, across, (0, 1, 0), (s - step / 2)[blocks], (t * rise)[blocks], step * 0.8, rise * 0.8
            )
            builder.polygons(np.unique(tinted, axis=0), "tint", fine=FINE)
        elif kind == "panel":
            posts = np.arange(0, width + 0.1, 2.0)
            builder.polygons(
                rectangles(origin, across, (0, 1, 0), posts - 0.12, np.zeros(len(posts)), 0.24, height), "cap"
            )
            builder.strokes(_lines(origin, across, np.zeros(2), np.array([0.7, 1.35]), width, 0.0), 0.05, "joint")
        else:
            left = rng.uniform(0, max(width - 2, 0.1), 3)
            stains = rectangles(
                origin, across, (0, 1, 0), np.sort(left), np.zeros(3), 0.9, float(rng.uniform(0.3, 0.8))
            )
            builder.polygons(stains[::2], "tint")
        builder.polygons(
            rectangles(origin, across, (0, 1, 0), np.zeros(1), np.array([height - 0.14]), width, 0.18), "cap"
        )
    return builder.build()


@cache
def fence(kind: str, length: int) -> Mesh:
    """Return a fence, 1 m high, with open gaps.

    Args:
        kind: one of `FENCES`.
        length: length in meters.
    """
    half = length / 2
    builder = MeshBuilder()

    def vertical(spacing: float, width: float, slot: str, top: float = 1.0) -> None:
        at = np.arange(-half, half + 1e-6, spacing)
        builder.strokes(np.array([[(0, 0.02, z), (0, top, z)] for z in at]), width, slot)

    def horizontal(levels: list[float], width: float, slot: str) -> None:
        builder.strokes(np.array([[(0, y, -half), (0, y, half)] for y in levels]), width, slot)

    if kind == "iron":
        vertical(0.25, 0.04, "bar")
        vertical(2.5, 0.10, "rail", 1.06)
        horizontal([0.15, 0.88], 0.05, "rail")
    elif kind == "picket":
        horizontal([0.3, 0.75], 0.10, "rail")
        vertical(0.28, 0.15, "bar")
    elif kind == "board":
        vertical(2.0, 0.14, "rail", 1.05)
        horizontal([0.16, 0.42, 0.68, 0.92], 0.17, "bar")
    else:
        span = 0.5
        at = np.arange(-half, half - span + 1e-6, span)
        builder.strokes(np.array([[(0, 0.05, z), (0, 0.95, z + span)] for z in at]), 0.015, "bar")
        builder.strokes(np.array([[(0, 0.95, z), (0, 0.05, z + span)] for z in at]), 0.015, "bar")
        vertical(2.5, 0.08, "rail", 1.04)
        horizontal([0.97], 0.05, "rail")
    return builder.build()


def _lines(
    origin: Point,
    across: Point,
    left: Array,
    bottom: Array,
    along: float,
    rise: float,
) -> Array:
    """Return line segments (n, 2, 3) on a vertical plane."""
    starts = np.asarray(origin) + left[:, None] * np.asarray(across) + bottom[:, None] * np.array([0.0, 1.0, 0.0])
    return np.stack([starts, starts + along * np.asarray(across) + np.array([0.0, rise, 0.0])], axis=1)
