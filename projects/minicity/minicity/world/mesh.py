"""Meshes of polygons and strokes.

A mesh is a flat list of primitives. A primitive is one or more polygons with the same number of corners, or one or more
polylines of one width, in one color slot. Frame of a mesh: x to the right, y up, z forward, origin on the ground below
the middle; meters.
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
"""Size in pixels below which an object is drawn without fine details."""
EMISSIVE = frozenset({"headlight", "taillight", "lamp", "lit", "led", "lamp_red", "lamp_amber", "lamp_green"})
"""Color slots that shine when the lights are on."""
SNOW_FREE = EMISSIVE | {"glass", "skin", "hair", "tyre"}
"""Color slots without snow."""


@dataclass(frozen=True)
class Mesh:
    """F primitives over N points.

    Attributes:
        points: (N, 3) meters.
        starts: (F,) first point of each primitive. Its points end before the first point of the next one.
        corners: (F,) number of points of each polygon of the primitive.
        slots: names of the color slots.
        slot: (F,) index of the color slot in `slots`.
        normals: (F, 3) unit-norm; zeros for two-sided primitives.
        centers: (F, 3) centers of the primitives.
        widths: (F,) width of strokes in meters; 0 for filled polygons.
        parts: (F,) index of the label of the object that the primitive belongs to.
        groups: (F,) convex piece of the primitive. Pieces are drawn from far to near, primitives of a piece in order.
        fine: (F,) size of the object in pixels below which the primitive is not drawn.
        low: (3,) lower corner of the bounding box.
        high: (3,) upper corner of the bounding box.
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
        """(F,) A primitive faces a camera at c if normal.c is greater than its offset."""
        return np.asarray((self.normals * self.centers).sum(axis=1))

    @cached_property
    def piece_centers(self) -> Array:
        """(F, 3) center of the convex piece of each primitive."""
        counts = np.maximum(np.bincount(self.groups), 1)
        sums = np.stack([np.bincount(self.groups, weights=axis) for axis in self.centers.T], axis=1)
        return np.asarray((sums / counts[:, None])[self.groups])

    @cached_property
    def two_sided(self) -> npt.NDArray[np.bool_]:
        """(F,) bool, whether a primitive is two-sided."""
        return np.asarray(~self.normals.any(axis=1))

    @cached_property
    def emissive(self) -> npt.NDArray[np.bool_]:
        """(F,) bool, whether a primitive shines when the lights are on."""
        return np.array([name in EMISSIVE for name in self.slots])[self.slot]

    @cached_property
    def snowy(self) -> npt.NDArray[np.bool_]:
        """(F,) bool, whether snow covers a primitive."""
        return np.array([name not in SNOW_FREE for name in self.slots])[self.slot]


@dataclass
class MeshBuilder:
    """Collects the primitives of a mesh.

    Attributes:
        center: point inside the current convex piece. Normals point away from it.
        part: part of the primitives that are added next.
        group: convex piece of the primitives that are added next.
    """

    center: Point = (0.0, 0.0, 0.0)
    part: int = 0
    group: int = 0
    _points: list[Array] = field(default_factory=list)
    _rows: list[tuple[int, str, Array, float, int, int, float]] = field(default_factory=list)

    def polygon(self, points: Sequence[Point] | Array, slot: str, *, flat: bool = False, fine: float = 0.0) -> None:
        """Add a filled polygon (corners, 3); see `polygons`."""
        self.polygons(np.asarray(points, dtype=float)[None], slot, flat=flat, fine=fine)

    def polygons(self, points: Array, slot: str, *, flat: bool = False, fine: float = 0.0) -> None:
        """Add filled polygons that lie in one plane and do not overlap.

        Args:
            points: (n, corners, 3).
            slot: name of the color slot.
            flat: whether the polygons are two-sided and not shaded by their direction.
            fine: size of the object in pixels below which they are not drawn.
        """
        if not len(points):
            return
        normal = np.zeros(3) if flat else self._outward(points[0])
        self._add(points, slot, normal, 0.0, fine)

    def stroke(self, points: Sequence[Point] | Array, width: float, slot: str, *, fine: float = 0.0) -> None:
        """Add a two-sided polyline (corners, 3) with round ends, `width` meters wide."""
        self._add(np.asarray(points, dtype=float)[None], slot, np.zeros(3), width, fine)

    def strokes(self, points: Array, width: float, slot: str, *, fine: float = 0.0) -> None:
        """Add polylines (n, corners, 3); see `stroke`."""
        if len(points):
            self._add(np.asarray(points, dtype=float), slot, np.zeros(3), width, fine)

    def box(self, low: Point, high: Point, slot: str, *, roof: str | None = None, new_piece: bool = True) -> None:
        """Add a box without floor.

        Args:
            low: (3,) lower corner.
            high: (3,) upper corner.
            slot: name of the color slot.
            roof: name of the color slot of the top; default `slot`.
            new_piece: whether the box starts a convex piece, to which polygons added next belong.
        """
        self.group += new_piece
        self.center = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
        (x0, y0, z0), (x1, y1, z1) = low, high
        for x in (x0, x1):
            self.polygon([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)], slot)
        for z in (z0, z1):
            self.polygon([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], slot)
        self.polygon([(x0, y1, z0), (x0, y1, z1), (x1, y1, z1), (x1, y1, z0)], roof or slot)

    def build(self) -> Mesh:
        """Return the mesh."""
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
        # Newell's method, written out because numpy.cross takes longer than everything else.
        (x, y, z), (u, v, w) = polygon.T, np.concatenate([polygon[1:], polygon[:1]]).T
        normal = np.array([((y - v) * (z + w)).sum(), ((z - w) * (x + u)).sum(), ((x - u) * (y + v)).sum()])
        normal /= max(math.sqrt(float(normal @ normal)), 1e-9)
        return normal if normal @ (polygon.mean(axis=0) - self.center) > 0 else -normal


def circle(center: Point, radius: float, corners: int = 14, *, closed: bool = False) -> Array:
    """Return (corners, 3) points of a circle in the y-z plane, as of a wheel. `closed` repeats the first point."""
    angles = np.linspace(0, 2 * math.pi, corners + 1)[: corners + 1 if closed else corners]
    return np.asarray(center) + radius * np.stack([np.zeros_like(angles), np.sin(angles), np.cos(angles)], axis=1)


def rectangles(
    origin: Point, across: Point, up: Point, left: Array, bottom: Array, width: float, height: float
) -> Array:
    """Return equal rectangles on a plane.

    Args:
        origin: (3,) point of the plane.
        across: (3,) unit vector along the width.
        up: (3,) unit vector along the height.
        left: (n,) left edges in meters along `across`.
        bottom: (n,) bottom edges in meters along `up`.
        width: width in meters.
        height: height in meters.

    Returns:
        (n, 4, 3) corners.
    """
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)])
    s = left.reshape(-1, 1, 1) + corners[None, :, :1]
    t = bottom.reshape(-1, 1, 1) + corners[None, :, 1:]
    return np.asarray(origin) + s * np.asarray(across) + t * np.asarray(up)
