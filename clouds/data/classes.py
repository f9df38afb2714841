"""The 19 classes of Cityscapes, which all data sets are scored on: names, colors, and ids in label files."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

IGNORE_LABEL = 255
"""Train id of pixels that neither the loss nor a metric counts."""

CITYSCAPES_CLASSES: tuple[str, ...] = (
    "road,railroad",
    "sidewalk,pavement",
    "building,buildings,edifice,edifices,house,ceiling",
    "wall,walls,brick wall,stone wall,tile wall,wood wall",
    "fence,fences",
    "pole,poles",
    "traffic light,traffic lights",
    "traffic sign,stop sign",
    "vegetation,tree,trees,palm tree,bushes",
    "terrain,river,sand,sea,snow,water,mountain,grass,dirt,rock",
    "sky,clouds",
    "person",
    "rider",
    "car,cars",
    "truck,trucks",
    "bus,buses",
    "train,trains,locomotive,locomotives,freight train",
    "motorcycle,motorcycles",
    "bicycle,bicycles,bike,bikes",
)
"""Names by train id, with synonyms separated by commas; the first synonym is the name of the class."""

CITYSCAPES_COLORS: tuple[tuple[int, int, int], ...] = (
    (128, 64, 128),
    (244, 35, 232),
    (70, 70, 70),
    (102, 102, 156),
    (190, 153, 153),
    (153, 153, 153),
    (250, 170, 30),
    (220, 220, 0),
    (107, 142, 35),
    (152, 251, 152),
    (70, 130, 180),
    (220, 20, 60),
    (255, 0, 0),
    (0, 0, 142),
    (0, 0, 70),
    (0, 60, 100),
    (0, 80, 100),
    (0, 0, 230),
    (119, 11, 32),
)
"""RGB, 0..255, by train id: the palette of Cityscapes."""

CITYSCAPES_ID_TO_TRAIN_ID: dict[int, int] = {
    7: 0,
    8: 1,
    11: 2,
    12: 3,
    13: 4,
    17: 5,
    19: 6,
    20: 7,
    21: 8,
    22: 9,
    23: 10,
    24: 11,
    25: 12,
    26: 13,
    27: 14,
    28: 15,
    31: 16,
    32: 17,
    33: 18,
}
"""Label id of Cityscapes (`*_labelIds.png`) and GTA5 -> train id; other ids are ignored."""

CITYSCAPES_LABELS: tuple[str, ...] = (
    *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground"),
    *("road", "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel"),
    *("pole", "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider"),
    *("car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle"),
)
"""Names by label id of Cityscapes, as in its polygon files; "license plate" (-1) is never drawn."""

GTA5_IDS = range(35)
"""Ids in the label maps of GTA5: those of Cityscapes, and 34 for license plates."""

SYNTHIA_ID_TO_TRAIN_ID: dict[int, int] = {
    3: 0,
    4: 1,
    2: 2,
    21: 3,
    5: 4,
    7: 5,
    15: 6,
    9: 7,
    6: 8,
    16: 9,
    1: 10,
    10: 11,
    17: 12,
    8: 13,
    18: 14,
    19: 15,
    20: 16,
    12: 17,
    11: 18,
}
"""Class of SYNTHIA-RAND-CITYSCAPES -> train id. 16, 18 and 20 (terrain, truck, train) do not occur."""

SYNTHIA_IDS = range(23)
"""Classes of SYNTHIA-RAND-CITYSCAPES. Void, parking slot, road work and lane marking have no train id."""

URBANSYN_IDS = range(20)
"""Values in the label maps of UrbanSyn: the train ids 0 to 18, and 19 for void."""

SYNTHIA_16: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
"""Train ids of the 16 classes of SYNTHIA."""

SYNTHIA_13: tuple[int, ...] = tuple(c for c in SYNTHIA_16 if c not in (3, 4, 5))
"""Train ids of the 13 classes that papers also report: without wall, fence and pole."""

SYNTHIA_MEANS: dict[str, tuple[int, ...]] = {"mIoU16": SYNTHIA_16, "mIoU13": SYNTHIA_13}
"""Means that networks trained on SYNTHIA are also scored with: name -> train ids."""

MAPILLARY_NAME_TO_TRAIN_ID: dict[str, int] = {
    "construction--flat--road": 0,
    "marking": 0,
    "marking-only": 0,
    "marking--crosswalk-zebra": IGNORE_LABEL,
    "marking--discrete--crosswalk-zebra": IGNORE_LABEL,
    "marking-only--discrete--crosswalk-zebra": IGNORE_LABEL,
    "object--manhole": 0,
    "construction--barrier--curb": 1,
    "construction--flat--sidewalk": 1,
    "construction--structure--building": 2,
    "construction--barrier--wall": 3,
    "construction--barrier--fence": 4,
    "object--support--pole": 5,
    "object--support--utility-pole": 5,
    "object--traffic-light": 6,
    "object--traffic-sign--front": 7,
    "object--traffic-sign--direction-front": 7,
    "object--traffic-sign--temporary-front": 7,
    "nature--vegetation": 8,
    "nature--terrain": 9,
    "nature--sky": 10,
    "human--person": 11,
    "human--rider": 12,
    "object--vehicle--car": 13,
    "object--vehicle--truck": 14,
    "object--vehicle--bus": 15,
    "object--vehicle--on-rails": 16,
    "object--vehicle--motorcycle": 17,
    "object--vehicle--bicycle": 18,
}
"""Class of Mapillary Vistas -> train id. An entry "a--b" also holds for "a--b--c" if that has no entry."""

MAPILLARY_V1_IDS = range(66)
"""Classes of Mapillary Vistas v1.2."""

MAPILLARY_V1_ID_TO_TRAIN_ID: dict[int, int] = {
    **dict.fromkeys((13, 24, 41), 0),
    **dict.fromkeys((2, 15), 1),
    17: 2,
    6: 3,
    3: 4,
    **dict.fromkeys((45, 47), 5),
    48: 6,
    50: 7,
    30: 8,
    29: 9,
    27: 10,
    19: 11,
    **dict.fromkeys((20, 21, 22), 12),
    55: 13,
    61: 14,
    54: 15,
    58: 16,
    57: 17,
    52: 18,
}
"""Class id of Mapillary Vistas v1.2 -> train id, as published."""


def mapillary_train_id(name: str) -> int:
    """Return the train id of a class of Mapillary Vistas: "object--traffic-light--pedestrians" -> 6; 255 if ignored."""
    parts = name.split("--")
    above = ("--".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((MAPILLARY_NAME_TO_TRAIN_ID[key] for key in above if key in MAPILLARY_NAME_TO_TRAIN_ID), IGNORE_LABEL)


def short_name(class_name: str) -> str:
    """Return the first synonym of a class: `"car,cars"` -> `"car"`."""
    return class_name.split(",", 1)[0].strip()


def split_synonyms(class_name: str) -> list[str]:
    """Return all synonyms of a class: `"car, cars"` -> `["car", "cars"]`."""
    return [name.strip() for name in class_name.split(",")]


def lookup_table(mapping: Mapping[int, int], fill: int = IGNORE_LABEL) -> npt.NDArray[np.uint8]:
    """Return a table that translates a uint8 label map by indexing: `table[labels]`.

    Args:
        mapping: id -> new id.
        fill: new id of all other ids.

    Returns:
        (256,) uint8.
    """
    table = np.full(256, fill, dtype=np.uint8)
    for source, target in mapping.items():
        table[source] = target
    return table
