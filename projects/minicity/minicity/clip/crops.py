"""Captioned crops of a rendered scene, from which the miniature CLIP learns words.

A crop shows one object, or a piece of road, sky or other stuff, in its surroundings. Its caption names it first.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from minicity.world.caption import with_article
from minicity.world.classes import Label
from minicity.world.records import Rendered, SceneObject
from minicity.world.sampling import Dice

WORDS: dict[Label, tuple[str, ...]] = {
    Label.ROAD: ("road",),
    Label.SIDEWALK: ("sidewalk", "pavement"),
    Label.BUILDING: ("building", "building", "house", "edifice"),
    Label.WALL: ("wall", "wall", "stone wall", "brick wall"),
    Label.FENCE: ("fence",),
    Label.POLE: ("pole",),
    Label.TRAFFIC_LIGHT: ("traffic light",),
    Label.TRAFFIC_SIGN: ("traffic sign",),
    Label.VEGETATION: ("tree", "vegetation", "bushes"),
    Label.TERRAIN: ("terrain", "grass", "dirt"),
    Label.SKY: ("sky", "clouds"),
    Label.PERSON: ("person",),
    Label.RIDER: ("rider",),
    Label.CAR: ("car",),
    Label.TRUCK: ("truck",),
    Label.BUS: ("bus",),
    Label.TRAIN: ("train",),
    Label.MOTORCYCLE: ("motorcycle",),
    Label.BICYCLE: ("bicycle", "bicycle", "bike"),
}
"""Words for each class in captions, among the synonyms in `clouds.data.classes`. Repeated words are more likely."""

_STUFF = (
    Label.ROAD,
    Label.SIDEWALK,
    Label.BUILDING,
    Label.WALL,
    Label.FENCE,
    Label.VEGETATION,
    Label.TERRAIN,
    Label.SKY,
)
OPENINGS = (
    "A photo of {}",
    "This is a photo of {}",
    "There is {} in the scene",
    "A close view of {}",
    "A picture of {}",
)
"""Beginnings of captions."""
_RELATIONS = ("next to", "in front of", "beside")
_UNCOUNTABLE = ("vegetation", "bushes", "terrain", "grass", "dirt", "clouds")
_MIN_SIDE, _MIN_AREA = 8, 40  # pixels of an object
_MIN_WINDOW = 40  # pixels
_MIN_STUFF_SHARE = 0.4  # of the pixels of a window on stuff
_MIN_NAMED_SHARE = 0.05  # of the pixels of a window, for other classes to be named
_TRIES = 6

Window = tuple[int, int, int]
"""Square window: x and y of its upper left corner, side; pixels."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom; pixels, right and bottom exclusive."""


@dataclass(frozen=True)
class Crop:
    """A crop with its caption.

    Attributes:
        pixels: (S, S, 3) uint8 RGB.
        caption: one English sentence.
        label: class that the caption names first.
        box: box of the object in the image of the scene; for stuff, the whole window.
    """

    pixels: npt.NDArray[np.uint8]
    caption: str
    label: Label
    box: Box


def captioned_crops(rendered: Rendered, when: str, count: int, size: int, rng: np.random.Generator) -> list[Crop]:
    """Cut crops from the image of a scene, about equally many of each class that it shows.

    Args:
        rendered: rendered scene.
        when: words for weather and time of day, for captions; may be empty.
        count: number of crops. Fewer are returned if no window on a class is found.
        size: side S of the crops in pixels. Windows of 40 pixels up to the image's height are resized to it.
        rng: chooses windows and words.
    """
    dice = Dice(rng)
    objects: dict[Label, list[SceneObject]] = {}
    for item in rendered.objects:
        x0, y0, x1, y1 = item.box
        if max(x1 - x0, y1 - y0) >= _MIN_SIDE and item.area >= _MIN_AREA:
            objects.setdefault(item.label, []).append(item)
    present = np.bincount(rendered.label.ravel(), minlength=len(Label)) >= _MIN_AREA
    classes = [label for label in Label if label in objects or (label in _STUFF and present[label])]
    crops = []
    for turn in range(count):
        label = classes[turn % len(classes)]
        as_stuff = label in _STUFF and (label not in objects or dice.chance(0.7))
        if as_stuff:
            window = _stuff_window(rendered.label, label, dice)
            box = _box(window) if window else None
        else:
            box = dice.pick(objects[label]).box
            window = _object_window(box, rendered.label.shape, dice)
        if window and box:
            crops.append(_cut(rendered, window, box, label, when, size, dice))
    return crops


def _object_window(box: Box, shape: tuple[int, ...], dice: Dice) -> Window:
    """Return a square window around an object, which is not always in its middle."""
    x0, y0, x1, y1 = box
    extent = max(x1 - x0, y1 - y0)
    side = extent * dice.uniform((1.05, 1.9))
    slack = max(side - extent, 0.0) / 2
    middle = [(low + high) / 2 + slack * dice.uniform((-0.8, 0.8)) for low, high in ((x0, x1), (y0, y1))]
    return _inside((middle[0], middle[1]), side, shape)


def _stuff_window(labels: npt.NDArray[np.uint8], label: Label, dice: Dice) -> Window | None:
    """Return a square window of which the class covers a large share, or None if a few tries find none."""
    places = np.flatnonzero(labels == label)
    for attempt in range(_TRIES):
        y, x = divmod(int(places[dice.below(len(places))]), labels.shape[1])
        side = dice.uniform((_MIN_WINDOW, 128)) if attempt < _TRIES // 2 else _MIN_WINDOW
        window = _inside((x, y), side, labels.shape)
        if (_view(labels, window) == label).mean() >= _MIN_STUFF_SHARE:
            return window
    return None


def _inside(middle: tuple[float, float], side: float, shape: tuple[int, ...]) -> Window:
    """Return the window with this middle and side, moved and shrunk to lie inside the image."""
    whole = int(np.clip(side, _MIN_WINDOW, shape[0]))
    x, y = (
        int(np.clip(at - whole / 2, 0, limit - whole)) for at, limit in zip(middle, (shape[1], shape[0]), strict=True)
    )
    return x, y, whole


def _box(window: Window) -> Box:
    x, y, side = window
    return x, y, x + side, y + side


def _view(pixels: npt.NDArray[np.uint8], window: Window) -> npt.NDArray[np.uint8]:
    x, y, side = window
    return pixels[y : y + side, x : x + side]


def _cut(rendered: Rendered, window: Window, box: Box, label: Label, when: str, size: int, dice: Dice) -> Crop:
    method = cv2.INTER_AREA if window[2] > size else cv2.INTER_LINEAR
    pixels = cv2.resize(_view(rendered.image, window), (size, size), interpolation=method)
    shares = np.bincount(_view(rendered.label, window).ravel(), minlength=len(Label)) / window[2] ** 2
    others = [other for other in Label if other != label and shares[other] >= _MIN_NAMED_SHARE]
    others.sort(key=lambda other: -shares[other])
    text = dice.pick(OPENINGS).format(_name(label, dice))
    if others and dice.chance(0.75):
        names = [_name(other, dice) for other in others[:3]]
        text += f" {dice.pick(_RELATIONS)} {' and '.join(names)}"
    if when and dice.chance(0.5):
        text += f" {when}"
    return Crop(np.asarray(pixels, dtype=np.uint8), text + ".", label, box)


def _name(label: Label, dice: Dice) -> str:
    word = dice.pick(WORDS[label])
    return word if word in _UNCOUNTABLE else with_article(word)
