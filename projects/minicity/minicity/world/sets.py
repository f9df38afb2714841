"""Names and settings of the minicity data sets. Imports nothing heavy, so that commands can show them in their help."""

from dataclasses import dataclass

SIZE = (256, 512)
"""Default size (H, W) at which scenes are drawn, in pixels."""
NUM_TRAIN = 600
NUM_GENERATED = 240
NUM_VAL = 50

DRAWING_VERSION = 1
"""Raise it when a seed gives other images than before: old and new images must not mix in a set."""

WIDE = "wide"
"""Style name that stands for all of `minicity.world.wide.WIDE_STYLES`."""


@dataclass(frozen=True)
class DrawnSet:
    """A data set: scenes 0, 1, ... of one style and one seed.

    Attributes:
        style: name in `minicity.world.styles.STYLES`, or `WIDE`.
        seed: seed of the scenes.
        num_images: default number of images.
        shrink: images are stored at 1/shrink of the size at which they are drawn.
        generated: whether the set stands for generated images. Its records have `is_generated` and, in place of
            training labels, `truth_file_name`.
        on_demand: whether the set is drawn only if it is named.
    """

    style: str
    seed: int
    num_images: int
    shrink: int = 1
    generated: bool = False
    on_demand: bool = False


DRAWN_SETS: dict[str, DrawnSet] = {
    "minicity_sim_train": DrawnSet("minicity_sim", 1, NUM_TRAIN),
    # Stored at the size of a training crop, because generated images are not cropped.
    "minicity_generated_train": DrawnSet(WIDE, 3, NUM_GENERATED, shrink=2, generated=True),
    "minicity_sim_val": DrawnSet("minicity_sim", 2, NUM_VAL),
    "minicity_city_val": DrawnSet("minicity_city", 2, NUM_VAL),
    "minicity_night_val": DrawnSet("minicity_night", 2, NUM_VAL),
    "minicity_rain_val": DrawnSet("minicity_rain", 2, NUM_VAL),
    "minicity_fog_val": DrawnSet("minicity_fog", 2, NUM_VAL),
    "minicity_snow_val": DrawnSet("minicity_snow", 2, NUM_VAL),
    # For the selection of weights and settings, which neither the validation set nor another style may decide.
    "minicity_sim_holdout": DrawnSet("minicity_sim", 4, NUM_VAL, on_demand=True),
}
"""The data sets by name. No two sets of one style share a seed, so training and validation scenes are disjoint. The
miniature CLIP, which is trained and tested on wide styles, has never seen a scene of the generated set either."""
