"""Seamless noise, made once per process from a fixed seed. Each image uses random windows of it."""

from collections.abc import Sequence
from functools import cache, lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from minicity.world.sampling import Dice

Field = npt.NDArray[np.float32]

TILE = 512
_SIGMAS = {"fine": (0.5, 0.5), "mid": (1.4, 1.4), "coarse": (5.0, 5.0), "grain": (0.0, 0.0), "streak": (7.0, 0.4)}
_OCTAVES = (64.0, 24.0, 9.0, 3.5)


@cache
def noise(kind: str) -> Field:
    """Return periodic noise, (TILE, TILE) float32 with mean 0 and standard deviation 1.

    Args:
        kind: key of `_SIGMAS`, or `cloud` for a sum of octaves that is wider than high.
    """
    rng = np.random.default_rng(20231209)
    if kind == "cloud":
        total = sum(weight * _smooth(rng, (weight * 0.4, weight)) for weight in _OCTAVES)
        return _normalized(np.asarray(total))
    return _smooth(rng, _SIGMAS[kind])


@cache
def flakes(size: float) -> Field:
    """Return soft spots about `size` pixels wide, (TILE, TILE) float32 in 0..1."""
    rng = np.random.default_rng(20231210)
    spots = (rng.random((TILE, TILE)) < 0.004 / size).astype(np.float32)
    soft = _blurred(spots, (size * 0.5, size * 0.42))
    return np.minimum(soft / soft.max() * 1.6, 1.0).astype(np.float32)


def window(kind: str, size: tuple[int, int], dice: Dice) -> Field:
    """Return a random window (H, W) of `noise(kind)`. It is a view and must not be written to."""
    return _look(_repeated(kind, _room(size)), size, dice)


def snow_window(spot: float, size: tuple[int, int], dice: Dice) -> Field:
    """Return a random window (H, W) of `flakes(spot)`. It is a view and must not be written to."""
    return _look(_repeated_flakes(spot, _room(size)), size, dice)


def spread(field: Field) -> Field:
    """Repeat (H, W) in three channels. Arithmetic on equal shapes is several times as fast as with broadcasting."""
    return np.asarray(cv2.merge((field, field, field)))


def look_up(regions: npt.NDArray[np.uint8], values: Sequence[float]) -> Field:
    """Return (H, W) float32, the value of the region of each pixel."""
    table = np.zeros(256, dtype=np.float32)
    table[: len(values)] = values
    return np.asarray(cv2.LUT(regions, table))


def _room(size: tuple[int, int]) -> tuple[int, int]:
    """Return how often a tile must be repeated so that windows of `size` fit at every offset."""
    return 1 + -(-size[0] // TILE), 1 + -(-size[1] // TILE)


@lru_cache(maxsize=16)
def _repeated(kind: str, times: tuple[int, int]) -> Field:
    return np.tile(noise(kind), times)


@lru_cache(maxsize=16)
def _repeated_flakes(spot: float, times: tuple[int, int]) -> Field:
    return np.tile(flakes(spot), times)


def _look(field: Field, size: tuple[int, int], dice: Dice) -> Field:
    row, column = dice.below(TILE), dice.below(TILE)
    return field[row : row + size[0], column : column + size[1]]


def _smooth(rng: np.random.Generator, sigmas: tuple[float, float]) -> Field:
    return _normalized(_blurred(rng.standard_normal((TILE, TILE)).astype(np.float32), sigmas))


def _blurred(field: Field, sigmas: tuple[float, float]) -> Field:
    if max(sigmas) == 0:
        return field
    margin = int(4 * max(sigmas)) + 1
    padded = np.pad(field, margin, mode="wrap")
    blurred = cv2.GaussianBlur(padded, (0, 0), sigmaX=max(sigmas[1], 0.1), sigmaY=max(sigmas[0], 0.1))
    return np.ascontiguousarray(blurred[margin:-margin, margin:-margin])


def _normalized(field: npt.NDArray[np.floating]) -> Field:
    return ((field - field.mean()) / field.std()).astype(np.float32)
