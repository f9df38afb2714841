"""Rare-class sampling (Hoyer et al., DAFormer, CVPR 2022, section 3.3): labelled images are drawn by their classes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clouds.d2 import CfgNode, configurable
from clouds.data.datasets.catalog import dataset_specs
from clouds.data.datasets.record import is_generated
from clouds.data.datasets.selection import PARTS
from clouds.data.datasets.spec import data_root
from clouds.data.loading.samplers import (
    SAMPLER_REGISTRY,
    Datasets,
    Draw,
    WeightedTrainingSampler,
    process_arguments,
    repeat_factors,
)
from clouds.data.preparation.class_statistics import STATISTICS_FILE, ClassCounts, read_class_statistics
from clouds.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RareClasses:
    """Distribution of images that prefers rare classes: a class is drawn, then an image that has it."""

    classes: tuple[int, ...]
    """Train ids of the classes that at least one image has enough of."""
    probabilities: npt.NDArray[np.float64]
    """Probability of each of these classes."""
    images: tuple[npt.NDArray[np.intp], ...]
    """Indices of the images that have enough of each of these classes."""

    @classmethod
    def from_counts(cls, counts: Mapping[int, ClassCounts], *, temperature: float, min_pixels: int) -> "RareClasses":
        """Compute equations 9 and 10 of DAFormer: P(c) ~ exp((1 - f_c) / T) for the share f_c of class c in all pixels.

        Args:
            counts: pixels by train id, by index of the image.
            temperature: T, above 0. The lower, the more rare classes are preferred.
            min_pixels: number of pixels from which on an image has a class.

        Raises:
            ValueError: no image has `min_pixels` of any class.
        """
        totals: dict[int, int] = {}
        for count in counts.values():
            for train_id, pixels in count.items():
                totals[train_id] = totals.get(train_id, 0) + pixels
        images = {
            c: np.array([index for index, count in counts.items() if count.get(c, 0) >= min_pixels], np.intp)
            for c in sorted(totals)
        }
        classes = tuple(c for c, indices in images.items() if len(indices))
        if not classes:
            raise ValueError(f"min_pixels is {min_pixels}, but no image has as many pixels of any class: lower it")
        shares = np.array([totals[c] for c in classes]) / sum(totals.values())
        # The largest exponent is 0, so nothing overflows at any temperature.
        weights = np.exp((shares.min() - shares) / temperature)
        return cls(classes, weights / weights.sum(), tuple(images[c] for c in classes))

    def choose(self, rng: np.random.Generator) -> tuple[int, int]:
        """Draw the index of an image and the class that it was drawn for."""
        which = int(rng.choice(len(self.classes), p=self.probabilities))
        return int(rng.choice(self.images[which])), self.classes[which]


@SAMPLER_REGISTRY.register()
class RareClassSampler(WeightedTrainingSampler):
    """`WeightedTrainingSampler` that gives each draw of a labelled image to one drawn from `RareClasses`."""

    @configurable
    def __init__(
        self,
        factors: Sequence[float],
        rare_classes: RareClasses,
        labelled: Sequence[bool],
        seed: int,
        *,
        position: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """
        Args:
            factors: repeat factor of each image, see `WeightedTrainingSampler`.
            rare_classes: distribution of the labelled images.
            labelled: whether each image is labelled; the draws of other images are kept.
            seed: seed of all random choices, at least 0.
            position: number of earlier draws, over all processes.
            rank: rank of this process.
            world_size: number of processes.
        """
        super().__init__(factors, seed, position=position, rank=rank, world_size=world_size)
        self.rare_classes = rare_classes
        self.labelled = labelled

    @classmethod
    def from_config(cls, cfg: CfgNode, datasets: Datasets) -> dict[str, Any]:
        options = cfg.DATALOADER.RARE_CLASS
        counts = labelled_counts(datasets, cfg.DATASETS.CUSTOM)
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        if beyond := {train_id for count in counts.values() for train_id in count if train_id >= num_classes}:
            raise UserError(
                f"Rare-class sampling: the class statistics have the train id {max(beyond)}, but there are "
                f"{num_classes} classes (MODEL.SEM_SEG_HEAD.NUM_CLASSES): make the statistics again with "
                "`clouds prepare`."
            )
        try:
            rare = RareClasses.from_counts(counts, temperature=options.TEMPERATURE, min_pixels=options.MIN_PIXELS)
        except ValueError as error:
            raise UserError(f"Rare-class sampling: {error} (DATALOADER.RARE_CLASS.MIN_PIXELS).") from error
        chances = zip(rare.classes, rare.probabilities, rare.images, strict=True)
        listed = ", ".join(f"{c}: {100 * chance:.1f} % ({len(images)})" for c, chance, images in chances)
        logger.info("Labeled images are drawn by class, train id: chance (images with it): %s", listed)
        return {
            "factors": repeat_factors(cfg, datasets),
            "rare_classes": rare,
            "labelled": [not is_generated(record) for _, records in datasets for record in records],
            **process_arguments(cfg),
        }

    def draw(self, number: int, index: int) -> Draw:
        if not self.labelled[index]:
            return Draw(number, index)
        # The 5 separates this random stream from the others of the draw.
        return Draw(number, *self.rare_classes.choose(np.random.default_rng([self.seed, number, 5])))


def labelled_counts(datasets: Datasets, custom: Sequence[str] = ()) -> dict[int, ClassCounts]:
    """Read the class statistics of the labelled records.

    See `ClassStatistics` for statistics of the published converters, which have paths of another machine.

    Args:
        datasets: training sets; records without labels need no statistics.
        custom: YAML files that describe further data sets.

    Returns:
        Pixels by train id, by index of the record among those of all sets.

    Raises:
        UserError: a data set has no class statistics, these are damaged, or a label map is missing from them.
    """
    root = data_root()
    files = {spec.name: spec.statistics_folder(root) / STATISTICS_FILE for spec in dataset_specs(custom)}
    files |= {name: files[part.whole] for name, part in PARTS.items()}
    counts, first = dict[int, ClassCounts](), 0
    for name, records in datasets:
        label_maps = {
            first + number: Path(record["sem_seg_file_name"])
            for number, record in enumerate(records)
            if "sem_seg_file_name" in record
        }
        first += len(records)
        if not label_maps:
            continue
        if name not in files:
            raise UserError(
                f"Rare-class sampling needs class statistics, and {name} has none: describe the data set in a YAML "
                "file, or use another sampler."
            )
        remedy = f"clouds prepare {name}, with --dataset FILE for a set of your own"
        if not files[name].is_file():
            raise UserError(
                f"{name} has no class statistics {files[name]}, which rare-class sampling needs; make them with: "
                f"{remedy}."
            )
        statistics = read_class_statistics(files[name])
        found = {index: statistics.find(label_map, root) for index, label_map in label_maps.items()}
        if missing := [label_maps[index] for index, count in found.items() if count is None]:
            raise UserError(
                f"The class statistics {files[name]} lack {len(missing)} label maps of {name}, first {missing[0]}; "
                f"make them again with: {remedy}."
            )
        counts |= {index: count for index, count in found.items() if count is not None}
    return counts
