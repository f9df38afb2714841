"""Objects of a scene, their colors, and the scene under construction."""

import math
from dataclasses import dataclass

from minicity.world.canvas import Color, Palette
from minicity.world.classes import Label
from minicity.world.furniture import LEAF_TONES
from minicity.world.mesh import Mesh
from minicity.world.sampling import Dice
from minicity.world.street import Street
from minicity.world.style import Style

_VEHICLES = frozenset({Label.CAR, Label.TRUCK, Label.BUS, Label.TRAIN})


@dataclass(frozen=True)
class Thing:
    """An object of a scene: a placed mesh.

    Attributes:
        noun: word for it; empty for background objects.
        mesh: the mesh.
        position: world coordinates in meters.
        yaw: radians.
        scale: factors along the axes of the mesh.
        palette: RGB 0..255 by color slot.
        labels: class of each part of the mesh.
    """

    noun: str
    mesh: Mesh
    position: tuple[float, float, float]
    yaw: float
    scale: tuple[float, float, float]
    palette: Palette
    labels: tuple[Label, ...]


class PaintBox:
    """Draws the colors of objects from the ranges of a style. Each call draws new ones."""

    def __init__(self, style: Style, dice: Dice) -> None:
        self.style, self.dice = style, dice
        self.lights_on = style.light.lights_on

    def color(self, material: str) -> Color:
        """Draw a color of a material, a key of `Look.paints`."""
        return self.dice.color(self.style.look.paints[material])

    def vehicle(self) -> Palette:
        """Draw the colors of a vehicle, bicycle or motorcycle."""
        paint = self.color("paint")
        second = self.color("second") if self.dice.chance(0.7) else paint
        return {
            "paint": paint,
            "second": second,
            "frame": self.color("paint"),
            "glass": self.color("glass"),
            "trim": self._grey(22, 55),
            "tyre": self._grey(16, 40),
            "hub": self._grey(90, 190),
            "plate": self._grey(190, 235),
            "headlight": (255, 250, 225) if self.lights_on else (225, 226, 220),
            "taillight": (255, 44, 32) if self.lights_on else (165, 24, 24),
            "led": (255, 170, 60) if self.lights_on else (70, 58, 38),
        }

    def person(self) -> Palette:
        """Draw the colors of a person."""
        clothes = {slot: self.color("clothes") for slot in ("top", "legs", "bag", "canopy")}
        return {
            **clothes,
            "skin": self.color("skin"),
            "hair": self.color("hair"),
            "shoes": self._grey(20, 120),
            "trim": self._grey(30, 70),
        }

    def building(self) -> Palette:
        """Draw the colors of a building."""
        wall = self.color("wall")
        glass = self.color("glass")
        frame = self.dice.pick(
            (tuple(min(255.0, 1.25 * c) for c in wall), self._grey(60, 235), tuple(0.6 * c for c in wall))
        )
        return {
            "wall": wall,
            "trim": self.dice.pick((_scaled(wall, 0.8), _scaled(wall, 1.15), self.color("wall"))),
            "base": self.dice.pick((_scaled(wall, 0.7), self.color("wall"))),
            "frame": _scaled(frame, 1.0),
            "glass": glass,
            "lit": self.color("lit") if self.lights_on else _scaled(glass, 1.25),
            "door": self.color("door"),
            "shop": self.color("lit") if self.lights_on and self.dice.chance(0.6) else _scaled(glass, 0.9),
            "awning": self.color("awning"),
            "roof": self.color("roof"),
        }

    def wall(self) -> Palette:
        """Draw the colors of a wall."""
        stone = self.color("stone")
        return {
            "stone": stone,
            "tint": _scaled(stone, self.dice.uniform((0.78, 1.15))),
            "joint": _scaled(stone, self.dice.pick((0.72, 1.22))),
            "cap": _scaled(stone, self.dice.uniform((0.8, 1.2))),
        }

    def fence(self) -> Palette:
        """Draw the colors of a fence."""
        bar = self.color("bar")
        return {"bar": bar, "rail": _scaled(bar, self.dice.uniform((0.75, 1.1)))}

    def plant(self) -> Palette:
        """Draw the colors of a plant."""
        leaf = self.color("leaf")
        tones = {f"leaf{i}": _scaled(leaf, 0.50 + 0.20 * i) for i in range(LEAF_TONES)}
        return {**tones, "bark": self.color("bark")}

    def post(self) -> Palette:
        """Draw the colors of a pole, lamp, traffic light or traffic sign."""
        housing = self.dice.pick((self._grey(22, 55), (62.0, 66.0, 50.0), (190.0, 150.0, 40.0)))
        fade, bleach = self.dice.uniform((0.55, 1.0)), self.dice.uniform((0.0, 0.35))
        signs = {
            "sign_red": (205, 32, 38),
            "sign_white": (226, 226, 220),
            "sign_blue": (28, 80, 170),
            "sign_yellow": (240, 190, 30),
            "sign_dark": (28, 28, 30),
            "sign_board": self.dice.pick(((24, 96, 60), (28, 80, 170), (220, 190, 60), (225, 225, 220), (90, 60, 40))),
        }
        return {
            **{name: _scaled(_mixed(color, bleach), fade) for name, color in signs.items()},
            "metal": self.color("metal"),
            "band": self._grey(180, 235),
            "housing": housing,
            "lamp": (255, 232, 180) if self.lights_on else self._grey(150, 215),
            "lamp_red": (255, 40, 30),
            "lamp_amber": (255, 180, 30),
            "lamp_green": (60, 255, 130),
            "lamp_off": self._grey(30, 60),
        }

    def _grey(self, low: float, high: float) -> Color:
        value = self.dice.uniform((low, high))
        return value, value, value


class Site:
    """Scene under construction. Objects are placed in street coordinates."""

    def __init__(self, street: Street, style: Style, dice: Dice) -> None:
        self.street, self.style, self.dice = street, style, dice
        self.paint = PaintBox(style, dice)
        self.things: list[Thing] = []
        self._vehicles: list[tuple[float, float, float, float]] = []

    def put(
        self,
        noun: str,
        mesh: Mesh,
        at: tuple[float, float],
        palette: Palette,
        labels: tuple[Label, ...],
        *,
        yaw: float = 0.0,
        scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
        upright: bool = False,
    ) -> None:
        """Place an object.

        Args:
            noun: word for it; empty for background objects.
            mesh: the mesh.
            at: (u, z) in meters.
            palette: RGB 0..255 by color slot.
            labels: class of each part of the mesh.
            yaw: angle to the street in radians.
            scale: factors along the axes of the mesh.
            upright: whether the mesh is flat and faces the camera, as trees do.
        """
        x, heading = self.street.to_world(*at)
        turn = 0.0 if upright else heading + yaw
        self.things.append(Thing(noun, mesh, (x, 0.0, at[1]), turn, scale, palette, labels))
        if labels[0] in _VEHICLES:
            across = abs(math.sin(yaw)) > 0.7
            length, width = (float(mesh.high[axis] * scale[axis]) for axis in (2, 0))
            half_u, half_z = (length, width) if across else (width, length)
            self._vehicles.append((at[0] - half_u, at[0] + half_u, at[1] - half_z, at[1] + half_z))

    def is_free(self, u: tuple[float, float], z: tuple[float, float]) -> bool:
        """Return whether no vehicle overlaps the two ranges."""
        return all(u1 < u[0] or u0 > u[1] or z1 < z[0] or z0 > z[1] for u0, u1, z0, z1 in self._vehicles)


def _scaled(color: tuple[float, ...], factor: float) -> Color:
    red, green, blue = (min(255.0, factor * channel) for channel in color)
    return red, green, blue


def _mixed(color: tuple[float, ...], share: float) -> tuple[float, ...]:
    """Mix a color with light grey, as paint fades in the sun."""
    return tuple(channel + share * (170.0 - channel) for channel in color)
