"""The 19 Cityscapes classes every benchmark here is scored on: names, colours, and the ids they have in label files."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

IGNORE_LABEL = 255
"""Train id of the pixels that neither the loss nor a metric looks at."""

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
"""Names by train id, synonyms separated by commas; the first synonym is the class's own name."""

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
"""RGB by train id: the palette that Cityscapes figures are drawn in."""

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
"""Label id (`*_labelIds.png`; GTA5 uses the same ids) to train id; every other id is ignored."""


def short_name(class_name: str) -> str:
    """The class's own name: `"car,cars"` -> `"car"`."""
    return class_name.split(",", 1)[0].strip()


def split_synonyms(class_name: str) -> list[str]:
    """`"car, cars"` -> `["car", "cars"]`."""
    return [name.strip() for name in class_name.split(",")]


def lookup_table(mapping: Mapping[int, int], fill: int = IGNORE_LABEL) -> npt.NDArray[np.uint8]:
    """Table T with `T[label]` translating a uint8 label map: (256,) uint8, `fill` for ids not in `mapping`."""
    table = np.full(256, fill, dtype=np.uint8)
    for source, target in mapping.items():
        table[source] = target
    return table
