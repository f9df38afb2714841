"""Meshes of people, bicycles and motorcycles. Limbs and tubes are strokes, which look right from every side.

Figures face +z. Color slots of people: `skin`, `hair`, `top`, `legs`, `shoes`, `bag`, `canopy`; of machines: `frame`,
`paint`, `trim`, `tyre`, `hub`, `plate`, `headlight`, `taillight`. Part 0 is the pedestrian or machine, part 1 the
rider.
"""

import math
from functools import cache

import numpy as np

from minicity.world.mesh import FINE, Mesh, MeshBuilder, circle

STANDING = ("stand", "talk", "phone")
WALKING = ("walk0", "walk1", "walk2", "run")
EXTRAS = ("none", "none", "bag", "backpack", "skirt", "coat", "hat", "umbrella")

Joint = tuple[float, float, float]


@cache
def pedestrian(pose: str, extra: str) -> Mesh:
    """Return a person on foot, 1.75 m tall.

    Args:
        pose: one of `STANDING` or `WALKING`.
        extra: one of `EXTRAS`.
    """
    stride = {"walk0": 0.45, "walk1": 0.30, "walk2": -0.40, "run": 0.75}.get(pose, 0.04)
    builder = MeshBuilder()
    hips, shoulders = 0.92, 1.42
    for side in (-1, 1):
        swing = stride * side
        knee = (side * 0.10, hips - 0.45 * math.cos(swing), 0.45 * math.sin(swing))
        back = 0.25 * max(-swing, 0.0) * 2
        ankle = (side * 0.10, knee[1] - 0.42 * math.cos(back), knee[2] - 0.42 * math.sin(back) + 0.1 * swing)
        _leg(builder, (side * 0.09, hips, 0.0), knee, ankle)
    if extra == "backpack":
        builder.stroke([(0, 1.08, -0.2), (0, 1.34, -0.2)], 0.28, "bag")
    _torso(builder, (0.0, hips, 0.0), (0.0, shoulders, 0.0))
    if extra == "coat":
        for x in (-0.07, 0.07):
            builder.stroke([(x, 0.62, 0), (x, 1.2, 0)], 0.3, "top")
    if extra == "skirt":
        builder.polygon([(-0.12, 1.0, 0), (0.12, 1.0, 0), (0.27, 0.52, 0), (-0.27, 0.52, 0)], "bag", flat=True)
        builder.polygon([(0, 1.0, -0.12), (0, 1.0, 0.12), (0, 0.52, 0.25), (0, 0.52, -0.25)], "bag", flat=True)
    for side in (-1, 1):
        swing = -0.8 * stride * side
        elbow = (side * 0.27, 1.15, 0.27 * math.sin(swing))
        hand = (side * 0.27, 0.92, 0.45 * math.sin(swing) + 0.06)
        if (pose == "phone" and side > 0) or (extra == "umbrella" and side > 0):
            elbow, hand = (0.28, 1.16, 0.1), (0.2, 1.36, 0.28)
        if pose == "talk" and side < 0:
            hand = (-0.3, 1.12, 0.3)
        _arm(builder, (side * 0.2, shoulders - 0.02, 0.0), elbow, hand)
    if extra == "bag":
        builder.stroke([(0.32, 0.62, 0.0), (0.32, 0.78, 0.05)], 0.24, "bag")
        builder.stroke([(0.2, 1.42, 0), (0.32, 0.8, 0)], 0.04, "bag", fine=FINE)
    _head(builder, (0.0, 1.63, 0.02), hat="bag" if extra == "hat" else None)
    if extra == "umbrella":
        _umbrella(builder)
    return builder.build()


@cache
def bicycle(ridden: bool, phase: int = 0) -> Mesh:
    """Return a bicycle.

    Args:
        ridden: whether it has a rider.
        phase: position of the pedals in quarter turns.
    """
    builder = MeshBuilder()
    rear, front = (0.0, 0.34, -0.52), (0.0, 0.34, 0.54)
    crank, saddle, neck = (0.0, 0.30, -0.06), (0.0, 0.88, -0.22), (0.0, 0.86, 0.36)
    for hub in (rear, front):
        builder.stroke(circle(hub, 0.33, 18, closed=True), 0.055, "tyre")
        spokes = np.array([[hub, tip] for tip in circle(hub, 0.31, 6)])
        builder.strokes(spokes, 0.012, "hub", fine=FINE)
    tubes = [(rear, crank), (rear, saddle), (crank, saddle), (crank, neck), (saddle, neck), (neck, front)]
    builder.strokes(np.array(tubes), 0.05, "frame")
    builder.stroke([neck, (0, 1.02, 0.38)], 0.04, "frame")
    builder.stroke([(-0.27, 1.04, 0.34), (0, 1.03, 0.42), (0.27, 1.04, 0.34)], 0.045, "trim")
    builder.stroke([(0, 0.94, -0.36), (0, 0.95, -0.12)], 0.10, "trim")
    builder.stroke([(0, 0.62, -0.86), (0, 0.70, -0.70)], 0.05, "taillight", fine=FINE)
    builder.stroke([(0, 0.86, 0.46), (0, 0.86, 0.5)], 0.07, "headlight", fine=FINE)
    if ridden:
        turn = phase * math.pi / 2
        pedals = [(s * 0.11, 0.30 + s * 0.16 * math.cos(turn), -0.06 + s * 0.16 * math.sin(turn)) for s in (-1, 1)]
        _seated(
            builder,
            hips=(0.0, 1.0, -0.22),
            shoulders=(0.0, 1.48, 0.08),
            feet=pedals,
            hands=(0.25, 1.06, 0.36),
            hat=None,
        )
    return builder.build()


@cache
def motorcycle(ridden: bool, kind: str) -> Mesh:
    """Return a motorcycle.

    Args:
        ridden: whether it has a rider.
        kind: `bike`, with tank and engine, or `scooter`, with a leg shield.
    """
    builder = MeshBuilder()
    radius = 0.31 if kind == "bike" else 0.24
    rear, front = (0.0, radius, -0.68), (0.0, radius, 0.70)
    for hub in (rear, front):
        builder.stroke(circle(hub, radius - 0.05, 16, closed=True), 0.14, "tyre")
        builder.stroke([hub, hub], 0.22, "hub")
    if kind == "bike":
        builder.stroke([rear, (0, 0.45, 0)], 0.10, "trim")
        builder.stroke([(0, 0.36, -0.14), (0, 0.40, 0.2)], 0.34, "trim")
        builder.stroke([(0.12, 0.28, 0.1), (0.16, 0.3, -0.75)], 0.10, "hub")
        builder.stroke([(0, 0.74, -0.05), (0, 0.80, 0.26)], 0.30, "paint")
        builder.stroke([(0, 0.78, -0.72), (0, 0.72, -0.15)], 0.18, "trim")
        builder.stroke([(0, 0.66, -0.55), (0, 0.62, -0.2)], 0.16, "paint")
        builder.stroke([front, (0, 0.95, 0.42)], 0.09, "hub")
        builder.stroke([(0, 0.68, 0.62), (0, 0.66, 0.85)], 0.10, "paint")
    else:
        builder.stroke([(0, 0.52, -0.75), (0, 0.58, -0.3)], 0.36, "paint")
        builder.stroke([(0, 0.78, -0.7), (0, 0.78, -0.15)], 0.16, "trim")
        builder.stroke([(0, 0.3, -0.3), (0, 0.3, 0.32)], 0.18, "paint")
        for x in (-0.12, 0.12):
            builder.stroke([(x, 0.35, 0.36), (x, 0.85, 0.46)], 0.16, "paint")
        builder.stroke([front, (0, 0.9, 0.5)], 0.09, "trim")
    builder.stroke([(-0.36, 1.02, 0.3), (0, 1.0, 0.42), (0.36, 1.02, 0.3)], 0.06, "trim")
    builder.strokes(np.array([[(s * 0.34, 1.02, 0.3), (s * 0.4, 1.2, 0.32)] for s in (-1, 1)]), 0.07, "trim", fine=FINE)
    builder.stroke([(0, 0.86, 0.52), (0, 0.86, 0.56)], 0.2, "headlight")
    builder.stroke([(-0.06, 0.72, -0.84), (0.06, 0.72, -0.84)], 0.1, "taillight")
    builder.stroke([(-0.06, 0.56, -0.86), (0.06, 0.56, -0.86)], 0.12, "plate", fine=FINE)
    if ridden:
        feet = [(s * 0.2, 0.34, -0.02) for s in (-1, 1)]
        _seated(
            builder, hips=(0.0, 0.92, -0.3), shoulders=(0.0, 1.4, -0.08), feet=feet, hands=(0.34, 1.04, 0.3), hat="bag"
        )
    return builder.build()


def _seated(
    builder: MeshBuilder, *, hips: Joint, shoulders: Joint, feet: list[Joint], hands: Joint, hat: str | None
) -> None:
    """Add a rider as part 1."""
    builder.part = 1
    for side, foot in zip((-1, 1), feet, strict=True):
        hip = (side * 0.1, hips[1], hips[2])
        knee = (side * 0.15, (hip[1] + foot[1]) / 2 + 0.10, (hip[2] + foot[2]) / 2 + 0.26)
        _leg(builder, hip, knee, (foot[0], foot[1] + 0.06, foot[2]))
    _torso(builder, hips, shoulders)
    for side in (-1, 1):
        hand = (side * hands[0], hands[1], hands[2])
        shoulder = (side * 0.2, shoulders[1] - 0.02, shoulders[2])
        elbow = (side * 0.3, (shoulder[1] + hand[1]) / 2 - 0.06, (shoulder[2] + hand[2]) / 2 - 0.04)
        _arm(builder, shoulder, elbow, hand)
    _head(builder, (0.0, shoulders[1] + 0.21, shoulders[2] + 0.07), hat=hat)


def _leg(builder: MeshBuilder, hip: Joint, knee: Joint, ankle: Joint) -> None:
    builder.stroke([hip, knee], 0.17, "legs")
    builder.stroke([knee, ankle], 0.13, "legs")
    builder.stroke([(ankle[0], ankle[1] - 0.04, ankle[2]), (ankle[0], ankle[1] - 0.05, ankle[2] + 0.14)], 0.09, "shoes")


def _torso(builder: MeshBuilder, hips: Joint, shoulders: Joint) -> None:
    for x in (-0.08, 0.08):
        low, high = (x * 0.9, hips[1] + 0.08, hips[2]), (x, shoulders[1] - 0.1, shoulders[2])
        builder.stroke([low, high], 0.25, "top")
    builder.stroke([(-0.16, shoulders[1] - 0.04, shoulders[2]), (0.16, shoulders[1] - 0.04, shoulders[2])], 0.14, "top")


def _arm(builder: MeshBuilder, shoulder: Joint, elbow: Joint, hand: Joint) -> None:
    builder.stroke([shoulder, elbow, hand], 0.10, "top")
    builder.stroke([hand, hand], 0.09, "skin")


def _head(builder: MeshBuilder, at: Joint, *, hat: str | None) -> None:
    x, y, z = at
    builder.stroke([(x, y - 0.16, z - 0.02), (x, y, z)], 0.11, "skin")
    builder.stroke([(x, y - 0.02, z), (x, y + 0.03, z)], 0.21, "skin")
    builder.stroke([(x, y + 0.07, z - 0.03), (x, y + 0.07, z - 0.01)], 0.22, hat or "hair")
    builder.stroke([(x, y + 0.02, z - 0.07), (x, y + 0.02, z - 0.07)], 0.2, hat or "hair")
    if hat is None:
        builder.stroke([(x, y - 0.02, z + 0.05), (x, y + 0.01, z + 0.05)], 0.15, "skin", fine=FINE)


def _umbrella(builder: MeshBuilder) -> None:
    """Add an umbrella in the raised hand, with twelve flat panels in alternating slots."""
    builder.stroke([(0.2, 1.3, 0.25), (0.14, 2.1, 0.16)], 0.03, "trim")
    top = (0.14, 2.2, 0.16)
    rim = [
        (0.14 + 0.62 * math.cos(a), 1.86 + 0.03 * math.cos(3 * a), 0.16 + 0.62 * math.sin(a))
        for a in np.linspace(0, 2 * math.pi, 13)
    ]
    for i in range(12):
        builder.polygon([top, rim[i], rim[i + 1]], "bag" if i % 2 else "canopy", flat=True)
