"""Shapes: polygons and strokes in metres, each with the name of the colour it takes.

A mesh is a flat list of primitives. A primitive is one or more polygons with the same number of corners, or one or more
polylines of one width. Local frame: x to the right, y up, z forward, origin on the ground below the middle.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from minicity.world.camera import Array

Point = Sequence[float]

FINE = 30.0
"""Pixels: things smaller than this in the picture lose their fine details."""
EMISSIVE = frozenset({"headlight", "taillight", "lamp", "lit", "led", "lamp_red", "lamp_amber", "lamp_green"})
"""Colour slots that shine by themselves when the lights are on."""
SNOW_FREE = EMISSIVE | {"glass", "skin", "hair", "tyre"}
"""Colour slots on which no snow stays."""


@dataclass(frozen=True)
class Mesh:
    """F primitives over N points.

    Attributes:
        points: (N, 3) metres.
        starts: (F,) first point of every primitive; its points run to the next one's first.
        corners: (F,) points of one of its polygons.
        slots: names of the colours used; ``slot`` (F,) int indexes it.
        normals: (F, 3) unit, zero for what is seen from both sides.
        centers: (F, 3) of the primitives.
        widths: (F,) of strokes in metres, 0 for filled polygons.
        parts: (F,) int: which of the thing's labels it belongs to.
        groups: (F,) int: convex pieces, drawn far to near; inside a piece the order is the author's.
        fine: (F,) pixels: drawn only when the whole thing is at least that large in the picture.
        low, high: (3,) corners of the bounding box.
    """

    points: Array
    starts: npt.NDArray[np.int64]
    corners: npt.NDArray[np.int64]
    slots: tuple[str, ...]
    slot: npt.NDArray[np.int64]
    normals: Array
    centers: Array
    widths: Array
    parts: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    fine: Array
    low: Array
    high: Array

    @cached_property
    def offsets(self) -> Array:
        """(F,): a primitive shows its outer side to a camera at c when normal.c is greater."""
        return np.asarray((self.normals * self.centers).sum(axis=1))

    @cached_property
    def piece_centers(self) -> Array:
        """(F, 3): middle of the convex piece that the primitive belongs to."""
        counts = np.maximum(np.bincount(self.groups), 1)
        sums = np.stack([np.bincount(self.groups, weights=axis) for axis in self.centers.T], axis=1)
        return np.asarray((sums / counts[:, None])[self.groups])

    @cached_property
    def two_sided(self) -> npt.NDArray[np.bool_]:
        """(F,): seen from both sides."""
        return np.asarray(~self.normals.any(axis=1))

    @cached_property
    def emissive(self) -> npt.NDArray[np.bool_]:
        """(F,): shines when the lights are on."""
        return np.array([name in EMISSIVE for name in self.slots])[self.slot]

    @cached_property
    def snowy(self) -> npt.NDArray[np.bool_]:
        """(F,): snow stays on it."""
        return np.array([name not in SNOW_FREE for name in self.slots])[self.slot]


@dataclass
class MeshBuilder:
    """Collects primitives; ``center`` is a point inside the convex piece at work, to tell outside from inside."""

    center: Point = (0.0, 0.0, 0.0)
    part: int = 0
    group: int = 0
    _points: list[Array] = field(default_factory=list)
    _rows: list[tuple[int, str, Array, float, int, int, float]] = field(default_factory=list)

    def polygon(self, points: Sequence[Point] | Array, slot: str, *, flat: bool = False, fine: float = 0.0) -> None:
        """One filled polygon. ``flat``: seen from both sides, not shaded by its direction."""
        self.polygons(np.asarray(points, dtype=float)[None], slot, flat=flat, fine=fine)

    def polygons(self, points: Array, slot: str, *, flat: bool = False, fine: float = 0.0) -> None:
        """Filled polygons (n, corners, 3) that lie in one plane and do not overlap."""
        if not len(points):
            return
        normal = np.zeros(3) if flat else self._outward(points[0])
        self._add(points, slot, normal, 0.0, fine)

    def stroke(self, points: Sequence[Point] | Array, width: float, slot: str, *, fine: float = 0.0) -> None:
        """A polyline with round ends, ``width`` metres wide, seen from everywhere."""
        self._add(np.asarray(points, dtype=float)[None], slot, np.zeros(3), width, fine)

    def strokes(self, points: Array, width: float, slot: str, *, fine: float = 0.0) -> None:
        """Polylines (n, corners, 3)."""
        if len(points):
            self._add(np.asarray(points, dtype=float), slot, np.zeros(3), width, fine)

    def box(self, low: Point, high: Point, slot: str, *, roof: str | None = None, new_piece: bool = True) -> None:
        """A box, which is a convex piece of its own unless told otherwise: patches added next lie on it."""
        self.group += new_piece
        self.center = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
        (x0, y0, z0), (x1, y1, z1) = low, high
        for x in (x0, x1):
            self.polygon([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)], slot)
        for z in (z0, z1):
            self.polygon([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], slot)
        self.polygon([(x0, y1, z0), (x0, y1, z1), (x1, y1, z1), (x1, y1, z0)], roof or slot)

    def build(self) -> Mesh:
        starts = np.cumsum([0] + [len(points) for points in self._points])
        points = np.concatenate(self._points)
        slots = tuple(dict.fromkeys(row[1] for row in self._rows))
        corners, names, normals, widths, parts, groups, fine = zip(*self._rows, strict=True)
        return Mesh(
            points=points,
            starts=starts[:-1],
            corners=np.array(corners),
            slots=slots,
            slot=np.array([slots.index(name) for name in names]),
            normals=np.array(normals),
            centers=np.array([chunk.mean(axis=0) for chunk in self._points]),
            widths=np.array(widths),
            parts=np.array(parts),
            groups=np.array(groups),
            fine=np.array(fine, dtype=float),
            low=points.min(axis=0),
            high=points.max(axis=0),
        )

    def _add(self, points: Array, slot: str, normal: Array, width: float, fine: float) -> None:
        self._points.append(points.reshape(-1, 3))
        self._rows.append((points.shape[1], slot, normal, width, self.part, self.group, fine))

    def _outward(self, polygon: Array) -> Array:
        # Newell's sum, by hand: numpy.cross takes longer than all the rest.
        (x, y, z), (u, v, w) = polygon.T, np.concatenate([polygon[1:], polygon[:1]]).T
        normal = np.array([((y - v) * (z + w)).sum(), ((z - w) * (x + u)).sum(), ((x - u) * (y + v)).sum()])
        normal /= max(math.sqrt(float(normal @ normal)), 1e-9)
        return normal if normal @ (polygon.mean(axis=0) - self.center) > 0 else -normal


def circle(center: Point, radius: float, corners: int = 14, *, closed: bool = False) -> Array:
    """(corners, 3) points of a circle in the plane of y and z, as wheels stand; ``closed`` repeats the first one."""
    angles = np.linspace(0, 2 * math.pi, corners + 1)[: corners + 1 if closed else corners]
    return np.asarray(center) + radius * np.stack([np.zeros_like(angles), np.sin(angles), np.cos(angles)], axis=1)


def rectangles(
    origin: Point, across: Point, up: Point, left: Array, bottom: Array, width: float, height: float
) -> Array:
    """(n, 4, 3) rectangles on a plane: ``left`` (n,) metres along ``across``, ``bottom`` (n,) along ``up``."""
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)])
    s = left.reshape(-1, 1, 1) + corners[None, :, :1]
    t = bottom.reshape(-1, 1, 1) + corners[None, :, 1:]
    return np.asarray(origin) + s * np.asarray(across) + t * np.asarray(up)
