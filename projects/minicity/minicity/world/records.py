"""A rendered scene: image, label map, depth, caption and visible objects."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from minicity.world.classes import Label


@dataclass(frozen=True)
class SceneObject:
    """The visible part of an object, or of the part of an object that has its own class.

    Attributes:
        label: class.
        noun: word for it, such as `parked car`; empty for background objects.
        box: (x0, y0, x1, y1) in pixels; x1 and y1 are exclusive.
        area: number of visible pixels.
        distance: meters.
        thing: index of the object. Parts of one object, such as a bicycle and its rider, share it.
    """

    label: Label
    noun: str
    box: tuple[int, int, int, int]
    area: int
    distance: float
    thing: int


@dataclass(frozen=True)
class Rendered:
    """A rendered scene with its ground truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        label: (H, W) uint8 train ids 0..18.
        depth: (H, W) float32, meters along the viewing direction; inf in the sky.
        caption: one English sentence.
        objects: visible objects, nearest first.
    """

    image: npt.NDArray[np.uint8]
    label: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    caption: str
    objects: tuple[SceneObject, ...]
