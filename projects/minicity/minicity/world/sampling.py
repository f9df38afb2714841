"""Drawing values from the ranges of a style."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Range = tuple[float, float]
Hsv = tuple[Range, Range, Range]
"""A box of colours: hue in degrees (may run over 360), saturation 0..1, value 0..1."""

_BLOCK = 1024


class Dice:
    """A random generator that speaks of ranges, weights and colours.

    A scene takes some two thousand numbers, one at a time: they are drawn in blocks, which is ten times as fast.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._numbers: list[float] = []

    def number(self) -> float:
        """A number in [0, 1)."""
        if not self._numbers:
            self._numbers = self.rng.random(_BLOCK).tolist()
        return self._numbers.pop()

    def uniform(self, bounds: Range) -> float:
        """A number in [low, high)."""
        return bounds[0] + (bounds[1] - bounds[0]) * self.number()

    def below(self, count: int) -> int:
        """A whole number in [0, count)."""
        return int(self.number() * count)

    def integer(self, bounds: tuple[int, int]) -> int:
        """A whole number in [low, high], both included."""
        return bounds[0] + self.below(bounds[1] + 1 - bounds[0])

    def chance(self, probability: float) -> bool:
        return self.number() < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all alike."""
        return options[self.below(len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """All options in a random order."""
        return sorted(options, key=lambda _: self.number())

    def weighted(self, weights: Mapping[str, float]) -> str:
        """One of the names, in proportion to its weight."""
        mark = self.number() * sum(weights.values())
        for name, weight in weights.items():
            mark -= weight
            if mark < 0:
                return name
        return name

    def colour(self, boxes: Sequence[Hsv]) -> tuple[float, float, float]:
        """RGB 0..255 from one of the boxes."""
        hue, saturation, value = (self.uniform(bounds) for bounds in self.pick(boxes))
        red, green, blue = colorsys.hsv_to_rgb((hue % 360) / 360, saturation, value)
        return 255 * red, 255 * green, 255 * blue
