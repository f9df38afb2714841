"""Meshes of poles, lamps, traffic lights, traffic signs and plants.

They face -z, against the traffic, and arms reach towards -x. Part 0 is the pole, part 1 the light or sign on it.
"""

import math
from functools import cache

import numpy as np

from minicity.world.camera import Array
from minicity.world.mesh import FINE, Mesh, MeshBuilder

SIGNS = ("ban", "limit", "warning", "stop", "arrow", "no_entry", "crossing", "direction", "diamond", "parking")
TREES = ("round", "wide", "poplar", "conifer", "palm", "bare", "bush")
LEAF_TONES = 5


@cache
def lamp_post(kind: str) -> Mesh:
    """Return a lamp post.

    Args:
        kind: `arm` (street lamp), `globe` (low lantern), `utility` (mast with cross-arms) or `bollard`.
    """
    builder = MeshBuilder()
    if kind == "bollard":
        builder.stroke([(0, 0.05, 0), (0, 0.95, 0)], 0.16, "metal")
        builder.stroke([(0, 0.75, 0), (0, 0.78, 0)], 0.17, "band", fine=FINE)
    elif kind == "globe":
        builder.stroke([(0, 0.1, 0), (0, 4.0, 0)], 0.13, "metal")
        builder.stroke([(0, 0.1, 0), (0, 0.7, 0)], 0.24, "metal")
        builder.stroke([(0, 4.15, 0), (0, 4.3, 0)], 0.44, "lamp")
    elif kind == "utility":
        builder.stroke([(0, 0, 0), (0, 8.6, 0)], 0.28, "metal")
        for y in (7.4, 8.1):
            builder.stroke([(-1.1, y, 0), (1.1, y, 0)], 0.13, "metal")
        builder.stroke([(0.25, 6.4, 0), (0.25, 6.9, 0)], 0.4, "metal")
    else:
        builder.stroke([(0, 0, 0), (0, 7.2, 0)], 0.17, "metal")
        builder.stroke([(0, 0, 0), (0, 1.1, 0)], 0.26, "metal")
        builder.stroke([(0, 7.2, 0), (-0.5, 7.9, 0), (-2.0, 8.1, 0)], 0.12, "metal")
        builder.stroke([(-1.9, 8.05, 0), (-2.5, 8.1, 0)], 0.22, "lamp")
    return builder.build()


@cache
def traffic_light(kind: str, state: int) -> Mesh:
    """Return a traffic light.

    Args:
        kind: `post`, with one housing, or `mast`, with two more on an arm over the road.
        state: 0 red, 1 amber, 2 green.
    """
    builder = MeshBuilder()
    tall = kind == "mast"
    builder.stroke([(0, 0, 0), (0, 6.3 if tall else 3.5, 0)], 0.19 if tall else 0.14, "metal")
    heads = [(0.0, 2.5)]
    if tall:
        builder.stroke([(0, 5.9, 0), (-5.2, 6.3, 0)], 0.14, "metal")
        heads += [(-2.9, 5.3), (-5.0, 5.4)]
    builder.part = 1
    for x, y in heads:
        builder.box((x - 0.24, y, -0.34), (x + 0.24, y + 1.28, -0.06), "housing")
        for index in range(3):
            lamp_y = y + 1.06 - 0.42 * index
            on = index == state
            disc = _disc(x, lamp_y, -0.345, 0.165)
            builder.polygon(disc, ("lamp_red", "lamp_amber", "lamp_green")[index] if on else "lamp_off")
            builder.stroke(
                [(x - 0.18, lamp_y + 0.19, -0.42), (x + 0.18, lamp_y + 0.19, -0.42)], 0.05, "housing", fine=FINE
            )
    return builder.build()


@cache
def traffic_sign(kind: str, height: float) -> Mesh:
    """Return a traffic sign, grey from behind.

    Args:
        kind: one of `SIGNS`.
        height: height of the lower edge of the plate in meters.
    """
    builder = MeshBuilder()
    wide = kind == "direction"
    r = 0.44
    y = height + r
    legs = (-0.9, 0.9) if wide else (0.0,)
    for x in legs:
        builder.stroke([(x, 0, 0), (x, y + 0.3, 0)], 0.09, "metal")
    builder.part = 1
    builder.center = (0.0, y, 0.0)
    outline = {
        "warning": _corners(3, y - 0.06, r * 1.2, math.pi / 2),
        "stop": _corners(8, y, r, math.pi / 8),
        "diamond": _corners(4, y, r * 1.1, 0.0),
        "crossing": _rectangle(0, y, 0.42, 0.42),
        "parking": _rectangle(0, y, 0.38, 0.46),
        "direction": _rectangle(0, y + 0.1, 1.4, 0.6),
    }.get(kind, _corners(14, y, r, 0.0))
    middle = outline.mean(axis=0)
    builder.polygon(outline + np.array((0, 0, 0.05)), "metal")

    def layer(scale: float, slot: str, depth: float) -> None:
        builder.polygon((outline - middle) * scale + middle - (0, 0, depth), slot)

    def glyph(x: float, dy: float, w: float, h: float, slot: str) -> None:
        builder.polygon(_rectangle(x, y + dy, w, h) - (0, 0, 0.08), slot, fine=FINE)

    if kind in ("ban", "limit"):
        layer(1.0, "sign_red", 0.05)
        layer(0.74, "sign_white", 0.06)
        if kind == "limit":
            glyph(-0.13, 0, 0.08, 0.17, "sign_dark")
            glyph(0.12, 0, 0.09, 0.17, "sign_dark")
        else:
            glyph(0, 0, 0.2, 0.09, "sign_dark")
    elif kind == "warning":
        layer(1.0, "sign_red", 0.05)
        layer(0.66, "sign_white", 0.06)
        glyph(0, -0.05, 0.04, 0.14, "sign_dark")
    elif kind == "stop":
        layer(1.0, "sign_white", 0.05)
        layer(0.9, "sign_red", 0.06)
        glyph(0, 0, 0.27, 0.08, "sign_white")
    elif kind == "no_entry":
        layer(1.0, "sign_red", 0.05)
        builder.polygon(_rectangle(0, y, 0.3, 0.09) - (0, 0, 0.08), "sign_white")
    elif kind in ("arrow", "crossing", "parking"):
        layer(1.0, "sign_white", 0.05)
        layer(0.9, "sign_blue", 0.06)
        if kind == "crossing":
            builder.polygon(_corners(3, y - 0.03, 0.33, math.pi / 2) - (0, 0, 0.07), "sign_white")
            glyph(0, -0.03, 0.05, 0.12, "sign_dark")
        else:
            glyph(-0.04, 0, 0.05, 0.24, "sign_white")
            glyph(0.08, 0.12, 0.1, 0.1, "sign_white")
    elif kind == "diamond":
        layer(1.0, "sign_white", 0.05)
        layer(0.75, "sign_yellow", 0.06)
    else:
        layer(1.0, "sign_white", 0.05)
        layer(0.95, "sign_board", 0.06)
        for dy, w in ((0.38, 0.8), (0.12, 0.6), (-0.14, 0.7)):
            glyph(-0.3, dy, w, 0.07, "sign_white")
        glyph(0.95, 0.1, 0.08, 0.35, "sign_white")
    return builder.build()


@cache
def tree(kind: str, variant: int) -> Mesh:
    """Return a flat plant in the plane z = 0, 1 m high. Its crown is a heap of ragged clumps of leaves.

    Color slots: `bark`, and `leaf0` (dark) to `leaf4` (light).

    Args:
        kind: one of `TREES`.
        variant: seed of the shape.
    """
    rng = np.random.default_rng((TREES.index(kind), variant))
    builder = MeshBuilder()
    if kind == "bare":
        _branch(builder, np.array([0.0, 0.0]), math.pi / 2, 0.30, 0.045, rng, 5)
        return builder.build()
    if kind == "palm":
        _palm(builder, rng)
        return builder.build()
    center, radius = {
        "round": ((0.0, 0.63), (0.33, 0.36)),
        "wide": ((0.0, 0.60), (0.50, 0.38)),
        "poplar": ((0.0, 0.54), (0.14, 0.46)),
        "conifer": ((0.0, 0.52), (0.25, 0.47)),
        "bush": ((0.0, 0.42), (0.75, 0.50)),
    }[kind]
    if kind != "bush":
        builder.stroke([(0, 0, 0), (float(rng.normal(0, 0.01)), center[1], 0)], 0.05, "bark")
        for side in (-1, 1):
            builder.stroke([(0, 0.28, 0), (side * radius[0] * 0.5, center[1], 0)], 0.025, "bark", fine=FINE)
    ragged = np.array([_clump(center, radius, 36, 0.10, rng)])
    cone = kind == "conifer"
    if cone:
        ragged = np.array([_spruce(rng)])
    builder.polygons(ragged, "leaf1", flat=True)
    count = 36
    angle, reach = rng.uniform(0, 2 * math.pi, count), np.sqrt(rng.uniform(0, 1, count)) * 0.82
    x, y = reach * np.cos(angle), reach * np.sin(angle)
    if cone:
        y = rng.uniform(-0.95, 0.75, count)
        x = rng.uniform(-1, 1, count) * (0.85 - y) / 2
    # Light comes from above: clumps at the top and left are lighter, and drawn over the lower ones.
    height = y - 0.3 * x + rng.normal(0, 0.25, count)
    for index in np.argsort(height):
        tone = int(np.clip((height[index] + 1.0) / 2.0 * LEAF_TONES, 0, LEAF_TONES - 1))
        where = (center[0] + radius[0] * x[index], center[1] + radius[1] * y[index])
        size = float(rng.uniform(0.16, 0.3))
        clump = _clump(where, (radius[0] * size * (1.5 if cone else 1.0), radius[1] * size), 10, 0.35, rng)
        builder.polygon(clump, f"leaf{tone}", flat=True, fine=(0.0, 45.0, 80.0)[index % 3])
    return builder.build()


def _palm(builder: MeshBuilder, rng: np.random.Generator) -> None:
    lean = float(rng.normal(0, 0.05))
    builder.stroke([(0, 0, 0), (lean * 0.4, 0.4, 0), (lean, 0.8, 0)], 0.045, "bark")
    for index, angle in enumerate(np.linspace(-0.5, math.pi + 0.5, 11)):
        tip = np.array([math.cos(angle) * 0.34, 0.8 + math.sin(angle) * 0.22 - 0.06])
        bend = np.array([math.cos(angle) * 0.2, 0.8 + math.sin(angle) * 0.2 + 0.05])
        frond = np.array([(lean, 0.8), bend + np.array((0, 0.04)), tip, bend - (0, 0.05)])
        builder.polygon(np.column_stack([frond, np.zeros(4)]), f"leaf{index % LEAF_TONES}", flat=True)


def _branch(
    builder: MeshBuilder, start: Array, angle: float, length: float, width: float, rng: np.random.Generator, depth: int
) -> None:
    end = start + length * np.array([math.cos(angle), math.sin(angle)])
    builder.stroke([(*start, 0), (*end, 0)], width, "bark", fine=FINE if depth < 3 else 0.0)
    if depth > 1:
        for turn in (-0.5, 0.5) if depth < 5 else (-0.55, 0.0, 0.55):
            shorter = length * float(rng.uniform(0.62, 0.82))
            _branch(builder, end, angle + turn + float(rng.normal(0, 0.15)), shorter, width * 0.6, rng, depth - 1)


def _clump(
    center: tuple[float, float], radius: tuple[float, float], corners: int, ragged: float, rng: np.random.Generator
) -> Array:
    angles = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    reach = 1 + ragged * rng.uniform(-1, 1, corners)
    return np.stack(
        [center[0] + radius[0] * reach * np.cos(angles), center[1] + radius[1] * reach * np.sin(angles), 0 * angles],
        axis=1,
    )


def _spruce(rng: np.random.Generator) -> Array:
    """Return a jagged triangle of six overhanging tiers."""
    side = []
    for tier in range(6):
        y = 0.08 + tier * 0.15
        side += [((1 - tier / 6.2) * 0.27 * float(rng.uniform(0.9, 1.1)), y), ((1 - tier / 6.2) * 0.15, y + 0.10)]
    right = np.array([*side, (0.0, 1.0)])
    outline = np.vstack([right, right[::-1] * (-1, 1)])
    return np.column_stack([outline, np.zeros(len(outline))])


def _disc(x: float, y: float, z: float, radius: float) -> Array:
    return _corners(10, y, radius, 0.0) + np.array((x, 0, z))


def _corners(count: int, y: float, radius: float, start: float) -> Array:
    angles = start + np.linspace(0, 2 * math.pi, count, endpoint=False)
    return np.stack([radius * np.cos(angles), y + radius * np.sin(angles), np.zeros(count)], axis=1)


def _rectangle(x: float, y: float, half_width: float, half_height: float) -> Array:
    return np.array(
        [(x + sx * half_width, y + sy * half_height, 0.0) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    )
