"""Captions: one sentence about the visible objects of a scene."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from minicity.world.classes import Label
from minicity.world.records import SceneObject
from minicity.world.sampling import Dice

_OPENINGS = ("A photo of", "A picture of", "A snapshot of")
_NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four"}
_MAX_PHRASES = 6
"""Highest number of phrases: vehicles and riders come first, then people, then stuff."""

# Smallest share of the image at which an object is named.
_THRESHOLD: dict[Label, float] = {
    Label.CAR: 0.0012,
    Label.TRUCK: 0.0015,
    Label.BUS: 0.0015,
    Label.TRAIN: 0.0015,
    Label.MOTORCYCLE: 0.0006,
    Label.BICYCLE: 0.0006,
    Label.RIDER: 0.0006,
    Label.PERSON: 0.0008,
    Label.TRAFFIC_LIGHT: 0.0006,
    Label.TRAFFIC_SIGN: 0.0006,
}
_COUNTED: dict[Label, tuple[str, str]] = {
    Label.TRAIN: ("train", "trains"),
    Label.BUS: ("bus", "buses"),
    Label.TRUCK: ("truck", "trucks"),
    Label.CAR: ("car", "cars"),
    Label.MOTORCYCLE: ("motorcycle", "motorcycles"),
    Label.BICYCLE: ("bicycle", "bicycles"),
    Label.RIDER: ("rider", "riders"),
    Label.TRAFFIC_LIGHT: ("traffic light", "traffic lights"),
    Label.TRAFFIC_SIGN: ("traffic sign", "traffic signs"),
}
_STUFF: dict[Label, tuple[str, float]] = {
    Label.VEGETATION: ("trees", 0.03),
    Label.BUILDING: ("buildings", 0.06),
    Label.WALL: ("a wall", 0.01),
    Label.FENCE: ("a fence", 0.006),
    Label.TERRAIN: ("", 0.025),
}


def write_caption(
    objects: Sequence[SceneObject], label: npt.NDArray[np.uint8], where: str, when: str, open_ground: str, dice: Dice
) -> str:
    """Write the caption of a scene. Objects and stuff are named if they cover enough of the image.

    Args:
        objects: visible objects.
        label: (H, W) train ids.
        where: words of the style for the street.
        when: words of the style for weather or time of day.
        open_ground: word for terrain, such as grass.
        dice: chooses among equivalent words.
    """
    counts = Counter(item.label for item in objects if item.area >= _THRESHOLD.get(item.label, 1.0) * label.size)
    phrases = [_count(counts[kind], *words) for kind, words in _COUNTED.items() if counts[kind]]
    phrases = phrases[:_MAX_PHRASES]
    people = counts[Label.PERSON]
    if people:
        words = "a person" if people == 1 else dice.pick(("people", "pedestrians"))
        phrases.append(words + dice.pick((" on the sidewalk", " walking", "")))
    shares = np.bincount(label.ravel(), minlength=len(Label)) / label.size
    seen = [name or open_ground for kind, (name, least) in _STUFF.items() if shares[kind] >= least]
    phrases += dice.shuffled(seen)[: max(1, _MAX_PHRASES - len(phrases))]
    crowd = "busy " if people + counts[Label.CAR] >= 9 else "quiet " if people + counts[Label.CAR] <= 1 else ""
    place = where if where.startswith(("busy", "quiet")) else crowd + where
    scene = f"{dice.pick(_OPENINGS)} {with_article(place)} {when}"
    return f"{scene} with {_join(phrases)}." if phrases else f"{scene}."


def _count(number: int, one: str, many: str) -> str:
    if number == 1:
        return with_article(one)
    return f"{_NUMBERS.get(number, 'several')} {many}"


def with_article(words: str) -> str:
    """Put "a" or "an" before words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _join(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
