"""Random values from the ranges of a style."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Range = tuple[float, float]
Hsv = tuple[Range, Range, Range]
"""A range of colors: hue in degrees (may exceed 360), saturation 0..1, value 0..1."""

_BLOCK = 1024


class Dice:
    """Random draws from ranges, weights and colors.

    A scene needs some two thousand numbers, one at a time. Drawing them in blocks is ten times as fast.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._numbers: list[float] = []

    def number(self) -> float:
        """Draw a number in [0, 1)."""
        if not self._numbers:
            self._numbers = self.rng.random(_BLOCK).tolist()
        return self._numbers.pop()

    def uniform(self, bounds: Range) -> float:
        """Draw a number in [low, high)."""
        return bounds[0] + (bounds[1] - bounds[0]) * self.number()

    def below(self, count: int) -> int:
        """Draw an integer in [0, count)."""
        return int(self.number() * count)

    def integer(self, bounds: tuple[int, int]) -> int:
        """Draw an integer in [low, high], both included."""
        return bounds[0] + self.below(bounds[1] + 1 - bounds[0])

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.number() < probability

    def pick(self, options: Sequence[T]) -> T:
        """Choose one of the options, all equally likely."""
        return options[self.below(len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """Return the options in random order."""
        return sorted(options, key=lambda _: self.number())

    def weighted(self, weights: Mapping[str, float]) -> str:
        """Choose one of the names, with probability proportional to its weight."""
        mark = self.number() * sum(weights.values())
        for name, weight in weights.items():
            mark -= weight
            if mark < 0:
                return name
        return name

    def color(self, boxes: Sequence[Hsv]) -> tuple[float, float, float]:
        """Draw a color from one of the ranges; RGB 0..255."""
        hue, saturation, value = (self.uniform(bounds) for bounds in self.pick(boxes))
        red, green, blue = colorsys.hsv_to_rgb((hue % 360) / 360, saturation, value)
        return 255 * red, 255 * green, 255 * blue
