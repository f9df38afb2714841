"""Meshes of cars, trucks, buses and trams. They are cached: all scenes scale and paint the same few meshes.

Vehicles face +z. Color slots: `paint`, `second` (stripes, cargo), `glass`, `trim` (dark plastic), `tyre`, `hub`,
`plate`, and the emissive `headlight`, `taillight`, `led`.
"""

from functools import cache

import numpy as np

from minicity.world.camera import Array
from minicity.world.mesh import FINE, Mesh, MeshBuilder, circle, rectangles

# Corners of the outline of a car, from the rear bumper over the roof to the front bumper: z, y, half width, and the
# slot of the strip to the next corner. Indices: 0, 1 rear; 2, 3 trunk; 4, 5 roof; 6, 7 hood; 8, 9 front.
Outline = tuple[tuple[float, float, float, str], ...]
CARS: dict[str, Outline] = {
    "sedan": (
        (-2.20, 0.30, 0.86, "paint"),
        (-2.26, 0.60, 0.88, "paint"),
        (-2.16, 0.96, 0.84, "paint"),
        (-1.60, 1.00, 0.80, "glass"),
        (-0.95, 1.43, 0.60, "paint"),
        (0.30, 1.46, 0.60, "glass"),
        (1.08, 1.00, 0.80, "paint"),
        (2.06, 0.82, 0.82, "paint"),
        (2.24, 0.56, 0.86, "paint"),
        (2.18, 0.28, 0.84, "paint"),
    ),
    "hatchback": (
        (-1.88, 0.30, 0.84, "paint"),
        (-1.94, 0.60, 0.86, "paint"),
        (-1.90, 0.95, 0.83, "paint"),
        (-1.86, 1.00, 0.80, "glass"),
        (-1.45, 1.46, 0.62, "paint"),
        (0.20, 1.52, 0.62, "glass"),
        (1.02, 1.02, 0.80, "paint"),
        (1.78, 0.86, 0.80, "paint"),
        (1.96, 0.56, 0.84, "paint"),
        (1.92, 0.28, 0.82, "paint"),
    ),
    "suv": (
        (-2.20, 0.42, 0.92, "paint"),
        (-2.28, 0.72, 0.94, "paint"),
        (-2.24, 1.10, 0.92, "paint"),
        (-2.20, 1.16, 0.88, "glass"),
        (-1.90, 1.72, 0.72, "paint"),
        (0.25, 1.76, 0.72, "glass"),
        (0.98, 1.18, 0.88, "paint"),
        (2.08, 1.06, 0.90, "paint"),
        (2.26, 0.70, 0.94, "paint"),
        (2.22, 0.40, 0.92, "paint"),
    ),
    "van": (
        (-2.50, 0.35, 0.94, "paint"),
        (-2.56, 0.65, 0.96, "paint"),
        (-2.56, 1.10, 0.95, "paint"),
        (-2.54, 1.18, 0.93, "glass"),
        (-2.44, 1.96, 0.84, "paint"),
        (1.10, 1.98, 0.84, "glass"),
        (1.86, 1.20, 0.92, "paint"),
        (2.36, 1.02, 0.93, "paint"),
        (2.52, 0.66, 0.96, "paint"),
        (2.48, 0.35, 0.94, "paint"),
    ),
}


@cache
def car(kind: str) -> Mesh:
    """Return a car; `kind` is a key of `CARS`."""
    outline = CARS[kind]
    corners = np.array([row[:3] for row in outline])
    builder = MeshBuilder(center=(0.0, 0.7, 0.0))
    axle = 0.62 * corners[-1, 0]
    _undercarriage(builder, corners[:, 2].max() - 0.06, (corners[0, 0], corners[-1, 0]), (-axle, axle), 0.33)

    left = np.stack([-corners[:, 2], corners[:, 1], corners[:, 0]], axis=1)
    right = left * (-1, 1, 1)
    for side in (left, right):
        builder.polygon(side[[0, 1, 2, 3, 6, 7, 8, 9]], "paint")
        builder.polygon(side[3:7], "paint")
        for s0, s1 in ((0.08, 0.47), (0.53, 0.93)):
            if kind == "van" and s0 < 0.5:
                continue
            builder.polygon(_on_quad(side[3], side[6], side[5], side[4], (s0, s1), (0.10, 0.86)), "glass")
        belt = side[3] * (1, 0.86, 1), side[6] * (1, 0.86, 1)
        builder.stroke(belt, 0.03, "trim", fine=FINE)
    for i in range(len(outline) - 1):
        quad = (left[i], right[i], right[i + 1], left[i + 1])
        slot = outline[i][3]
        builder.polygon(quad, "paint")
        if slot == "glass":
            builder.polygon(_on_quad(*quad, (0.05, 0.95), (0.05, 0.92)), "glass")
    _rear_of_car(builder, left, right)
    _front_of_car(builder, left, right)
    for x in (-1, 1):
        for z in (-axle, axle):
            _wheel(builder, x * float(corners[:, 2].max() + 0.01), z, 0.34)
    return builder.build()


@cache
def bus(kind: str) -> Mesh:
    """Return a bus: `city`, with a low floor, or `coach`, with higher windows and luggage flaps."""
    half, height, length = 1.26, (3.1 if kind == "city" else 3.45), 11.6
    sill, top = (1.05, 2.55) if kind == "city" else (1.65, 3.0)
    builder = MeshBuilder()
    _undercarriage(builder, half - 0.1, (-length / 2, length / 2), (-3.0, 3.4), 0.5)
    builder.box((-half, 0.32, -length / 2), (half, height, length / 2), "paint", roof="paint")
    for x in (-half, half):
        across, z0 = (0.0, 0.0, 1.0), -length / 2
        builder.polygons(_side(x, z0 + 0.15, [0.0], 0.34, length - 0.3, 0.5), "second")
        builder.polygons(_side(x, z0 + 0.3, [0.0], sill - 0.04, length - 0.6, top - sill + 0.08), "trim")
        count = 8
        pitch = (length - 0.7) / count
        builder.polygons(_side(x, z0 + 0.4, pitch * np.arange(count), sill, pitch - 0.16, top - sill), "glass")
        builder.polygons(_side(x, z0 + 0.1, [0.0], top + 0.12, length - 0.2, 0.14), "second", fine=FINE)
        if kind == "city":
            for z in (3.9, -0.9):
                builder.polygons(rectangles((x, 0.4, z), across, (0, 1, 0), np.zeros(1), np.zeros(1), 1.2, 2.1), "trim")
                panes = rectangles((x, 0.5, z + 0.06), across, (0, 1, 0), np.array([0, 0.58]), np.zeros(2), 0.5, 1.9)
                builder.polygons(panes, "glass", fine=FINE)
        for z in (-3.0, 3.4):
            _wheel(builder, x * 1.005, z, 0.5)
    front, rear = length / 2, -length / 2
    builder.polygon(_patch(front, -1.16, 1.16, sill - 0.15, top + 0.1), "glass")
    builder.polygon(_patch(front, -0.8, 0.8, top + 0.16, height - 0.1), "trim")
    builder.polygon(_patch(front, -0.6, 0.6, top + 0.2, height - 0.14), "led")
    builder.polygon(_patch(rear, -1.0, 1.0, max(sill, 1.5), top), "glass")
    builder.polygon(_patch(rear, -0.9, 0.9, 0.6, 1.0), "trim", fine=FINE)
    for x in (-1, 1):
        builder.polygon(_patch(front, x * 0.75, x * 1.15, 0.62, 0.84), "headlight")
        builder.polygon(_patch(rear, x * 1.0, x * 1.2, 0.75, 1.25), "taillight")
        builder.stroke(
            [(x * 1.2, 2.5, front), (x * 1.55, 2.4, front + 0.2), (x * 1.55, 2.0, front + 0.2)], 0.12, "trim", fine=FINE
        )
    builder.polygon(_patch(front, -0.28, 0.28, 0.45, 0.58), "plate", fine=FINE)
    return builder.build()


@cache
def truck(kind: str) -> Mesh:
    """Return a truck: `box`, `trailer` (longer and higher), `tipper` (open ribbed body) or `tanker`."""
    length = {"box": 7.2, "trailer": 12.5, "tipper": 7.0, "tanker": 8.6}[kind]
    cab_height = {"box": 2.55, "trailer": 3.1, "tipper": 2.8, "tanker": 2.8}[kind]
    rear, front = -length / 2, length / 2
    back_of_cab = front - 2.0
    axles = (rear + 0.9, rear + 2.1, front - 1.1) if length > 8 else (rear + 1.4, front - 1.0)
    builder = MeshBuilder()
    _undercarriage(builder, 1.1, (rear, front), axles, 0.48)
    builder.box((-1.15, 0.75, back_of_cab), (1.15, cab_height, front), "paint")
    sill = cab_height - 1.15
    builder.polygon(_patch(front, -1.06, 1.06, sill, cab_height - 0.22), "glass")
    builder.polygon(_patch(front, -0.85, 0.85, 0.95, sill - 0.3), "trim")
    builder.polygons(
        rectangles((-0.8, 1.02, front), (1, 0, 0), (0, 1, 0), np.zeros(3), np.array([0, 0.2, 0.4]), 1.6, 0.08),
        "hub",
        fine=FINE,
    )
    builder.polygon(_patch(front, -1.15, 1.15, 0.5, 0.9), "trim")
    for x in (-1, 1):
        builder.polygon(_patch(front, x * 0.75, x * 1.1, 0.6, 0.84), "headlight")
        builder.polygons(_side(x * 1.15, back_of_cab + 0.75, [0.0], sill, 1.05, 0.85), "glass")
        builder.polygons(_side(x * 1.15, back_of_cab + 0.2, [0.0], 0.75, 1.7, 0.25), "trim", fine=FINE)
        builder.stroke(
            [(x * 1.2, sill + 0.7, front - 0.1), (x * 1.45, sill + 0.6, front), (x * 1.45, sill, front)],
            0.14,
            "trim",
            fine=FINE,
        )
        _wheel(builder, x * 1.17, axles[-1], 0.5)
    _cargo(builder, kind, rear, back_of_cab - 0.25)
    for x in (-1, 1):
        builder.polygons(_side(x * 1.16, rear + 0.1, [0.0], 0.62, back_of_cab - rear - 0.4, 0.28), "trim", fine=FINE)
        for z in axles[:-1]:
            _wheel(builder, x * 1.2, z, 0.5)
        builder.polygon(_patch(rear - 0.02, x * 0.75, x * 1.15, 0.66, 0.86), "taillight")
    builder.polygon(_patch(rear - 0.02, -0.3, 0.3, 0.64, 0.78), "plate", fine=FINE)
    return builder.build()


@cache
def tram(sections: int, nose: float) -> Mesh:
    """Return a tram.

    Args:
        sections: number of sections of 8 m.
        nose: length of its sloping ends in meters.
    """
    half, height, section = 1.22, 3.35, 8.0
    length = sections * section
    builder = MeshBuilder()
    for index in range(sections):
        z0 = -length / 2 + index * section
        z1 = z0 + section
        first, last = index == 0, index == sections - 1
        low, high = z0 + (nose if first else 0.15), z1 - (nose if last else 0.15)
        builder.box((-half + 0.15, 0.3, z0 + 0.02), (half - 0.15, height - 0.15, z1 - 0.02), "trim")
        builder.box((-half, 0.16, low), (half, height, high), "paint", roof="paint")
        for end, outer in ((low, z0), (high, z1)):
            if outer in (-length / 2, length / 2):
                _nose(builder, half, height, end, outer)
        for x in (-half, half):
            builder.polygons(_side(x, low, [0.0], 0.18, high - low, 0.5), "second")
            builder.polygons(_side(x, low, [0.0], 1.05, high - low, 1.55), "trim")
            pitch = (high - low) / 4
            builder.polygons(_side(x, low + 0.08, pitch * np.arange(4), 1.12, pitch - 0.16, 1.4), "glass")
            builder.polygons(_side(x, low, [0.0], 2.75, high - low, 0.16), "second")
            doors = _side(x, low + pitch * 1.05, [0.0, 0.68], 0.3, 0.6, 2.2)
            builder.polygons(doors, "second")
            builder.polygons(_side(x, low + pitch * 1.05 + 0.08, [0.0, 0.68], 0.7, 0.44, 1.7), "glass", fine=FINE)
            for z in (low + 1.6, high - 1.6):
                builder.polygon(circle((x * 1.002, 0.26, z), 0.26), "tyre", fine=FINE)
    middle = 0.0
    builder.stroke(
        [(0, height, middle - 0.6), (0, height + 0.7, middle + 0.5), (0, height + 1.35, middle - 0.3)], 0.07, "trim"
    )
    builder.stroke([(-0.8, height + 1.35, middle - 0.3), (0.8, height + 1.35, middle - 0.3)], 0.07, "trim")
    return builder.build()


def _nose(builder: MeshBuilder, half: float, height: float, inner: float, outer: float) -> None:
    """Add the sloping end of a tram, with windscreen, sign and lights."""
    z = outer
    lean = inner + 0.45 * (outer - inner)
    top = inner
    builder.group += 1
    builder.center = (0.0, 1.5, inner + (inner - outer))
    narrow = half * 0.82
    rim = [(0.16, inner * 0.25 + z * 0.75), (0.9, z), (1.2, z), (2.7, lean), (height, top)]
    for x, w in ((-1, half), (1, half)):
        side = [(x * narrow, y, depth) for y, depth in rim]
        builder.polygon([*side[:4], (x * w, height, inner), (x * w, 0.16, inner)], "paint")
        builder.polygon(
            [(x * narrow, 1.2, z), (x * narrow, 2.6, lean), (x * w, 2.6, inner), (x * w, 1.2, inner)], "glass"
        )
    slots = ("second", "paint", "glass", "trim")
    for (y0, d0), (y1, d1), slot in zip(rim[:-1], rim[1:], slots, strict=True):
        quad = np.array([(-narrow, y0, d0), (narrow, y0, d0), (narrow, y1, d1), (-narrow, y1, d1)])
        builder.polygon(quad, slot)
    sign = np.array([(-narrow, 2.7, lean), (narrow, 2.7, lean), (narrow, height, top), (-narrow, height, top)])
    builder.polygon(_on_quad(sign[0], sign[1], sign[2], sign[3], (0.2, 0.8), (0.15, 0.6)), "led")
    light = "headlight" if outer > inner else "taillight"
    for x in (-1, 1):
        builder.polygon(_patch(z, x * 0.6, x * 0.95, 0.72, 0.95), light)


def _cargo(builder: MeshBuilder, kind: str, rear: float, front: float) -> None:
    if kind == "tanker":
        ring = circle((0.0, 1.95, 0.0), 1.12, 12)[:, [2, 1, 0]]
        builder.group += 1
        builder.center = (0.0, 1.95, (rear + front) / 2)
        for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            builder.polygon([(*a[:2], rear), (*b[:2], rear), (*b[:2], front), (*a[:2], front)], "second")
        for z in (rear, front):
            builder.polygon(ring + np.array((0, 0, z)), "second")
            builder.polygon(ring * (0.55, 0.55, 1) + (0, 0.88, z), "hub", fine=FINE)
        for z in np.linspace(rear, front, 4):
            builder.stroke(np.vstack([ring, ring[:1]]) * 1.01 + (0, -0.02, z), 0.06, "trim", fine=FINE)
        return
    top = {"box": 3.3, "trailer": 4.0, "tipper": 2.5}[kind]
    builder.box((-1.22, 0.95, rear), (1.22, top, front), "second", roof="trim" if kind == "tipper" else "second")
    if kind == "tipper":
        for x in (-1.225, 1.225):
            ribs = np.arange(rear + 0.2, front, 0.7) - rear
            builder.polygons(_side(x, rear, ribs, 1.0, 0.14, top - 1.0), "trim", fine=FINE)
    else:
        for x in (-1.225, 1.225):
            builder.polygons(_side(x, rear + 0.8, [0.0], top - 1.5, (front - rear) * 0.7, 0.7), "paint")
            builder.polygons(_side(x, rear, [0.0], 0.95, front - rear, 0.12), "trim")
    builder.polygon(_patch(rear, -1.12, 1.12, 1.05, top - 0.1), "second")
    builder.stroke([(0, 1.05, rear), (0, top - 0.1, rear)], 0.05, "trim")
    for x in (-0.6, 0.6):
        builder.stroke([(x, 1.05, rear), (x, top - 0.1, rear)], 0.04, "hub", fine=FINE)


def _rear_of_car(builder: MeshBuilder, left: Array, right: Array) -> None:
    """Add lights, bumper and plate at the rear."""
    bumper, boot = ((left[i], right[i], right[i + 1], left[i + 1]) for i in (0, 1))
    builder.polygon(_on_quad(*bumper, (0.06, 0.94), (0.0, 0.45)), "trim")
    for span in ((0.02, 0.19), (0.81, 0.98)):
        builder.polygon(_on_quad(*boot, span, (0.30, 0.95)), "taillight")
    builder.polygon(_on_quad(*bumper, (0.36, 0.64), (0.5, 0.95)), "plate", fine=FINE)


def _front_of_car(builder: MeshBuilder, left: Array, right: Array) -> None:
    """Add lights, grille and plate. The outline runs downwards here, so fractions of height count from the top."""
    nose, bumper = ((left[i], right[i], right[i + 1], left[i + 1]) for i in (7, 8))
    builder.polygon(_on_quad(*bumper, (0.2, 0.8), (0.15, 0.8)), "trim")
    builder.polygon(_on_quad(*nose, (0.25, 0.75), (0.5, 1.0)), "trim", fine=FINE)
    for span in ((0.03, 0.22), (0.78, 0.97)):
        builder.polygon(_on_quad(*nose, span, (0.25, 0.95)), "headlight")
    builder.polygon(_on_quad(*bumper, (0.36, 0.64), (0.35, 0.65)), "plate", fine=FINE)


def _undercarriage(
    builder: MeshBuilder, half: float, ends: tuple[float, float], axles: tuple[float, ...], radius: float
) -> None:
    """Add a dark floor, and the wheels as seen from the front and rear."""
    center = builder.center
    z0, z1 = ends
    builder.box((-half + 0.1, 0.18, z0 + 0.15), (half - 0.1, 0.9, z1 - 0.15), "trim", new_piece=False)
    for z in axles:
        for x in (-half, half - 0.22):
            builder.box((x, 0, z - radius * 0.8), (x + 0.22, radius * 1.5, z + radius * 0.8), "tyre", new_piece=False)
    builder.center = center


def _wheel(builder: MeshBuilder, x: float, z: float, radius: float) -> None:
    builder.polygon(circle((x, radius, z), radius * 1.14), "trim")
    builder.polygon(circle((x * 1.001, radius, z), radius), "tyre")
    builder.polygon(circle((x * 1.002, radius, z), radius * 0.6, 10), "hub")


def _side(x: float, z0: float, offsets: "Array | list[float]", y: float, width: float, height: float) -> Array:
    left = np.asarray(offsets, dtype=float)
    return rectangles((x, y, z0), (0, 0, 1), (0, 1, 0), left, np.zeros(len(left)), width, height)


def _patch(z: float, x0: float, x1: float, y0: float, y1: float) -> Array:
    return np.array([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)])


def _on_quad(a: Array, b: Array, c: Array, d: Array, s: tuple[float, float], t: tuple[float, float]) -> Array:
    """Return the part of the quadrilateral a b c d within fractions `s` from a to b and `t` from a to d."""
    corners = [(s[0], t[0]), (s[1], t[0]), (s[1], t[1]), (s[0], t[1])]
    return np.array([(1 - u) * (1 - v) * a + u * (1 - v) * b + u * v * c + (1 - u) * v * d for u, v in corners])
