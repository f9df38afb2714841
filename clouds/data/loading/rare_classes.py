"""Rare-class sampling (Hoyer et al., DAFormer, CVPR 2022, section 3.3): labelled pictures by what is on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clouds.data.datasets.catalog import dataset_specs
from clouds.data.datasets.record import Record
from clouds.data.datasets.spec import data_root
from clouds.data.preparation.class_statistics import STATISTICS_FILE, ClassCounts, read_class_statistics
from clouds.errors import UserError


@dataclass(frozen=True)
class RareClasses:
    """Draws a class, the rarer the likelier, then a picture that has it."""

    classes: tuple[int, ...]
    """Those that some picture has enough of."""
    probabilities: npt.NDArray[np.float64]
    """Of these classes."""
    pictures: tuple[npt.NDArray[np.intp], ...]
    """Of each of these classes, the indices of the pictures."""

    def choose(self, rng: np.random.Generator) -> tuple[int, int]:
        """Index of a picture, and the class that it was drawn for."""
        which = int(rng.choice(len(self.classes), p=self.probabilities))
        return int(rng.choice(self.pictures[which])), self.classes[which]


def rare_classes(counts: Mapping[int, ClassCounts], *, temperature: float, min_pixels: int) -> RareClasses:
    """DAFormer's equations 9 and 10: with f_c the share of class c of all pixels, P(c) ~ exp((1 - f_c) / T).

    Args:
        counts: index of a picture -> pixels by train id.
        temperature: T, above 0; the lower, the more the rare classes are preferred.
        min_pixels: a picture has a class from so many of its pixels on.

    Raises:
        ValueError: no image has `min_pixels` of any class.
    """
    totals: dict[int, int] = {}
    for count in counts.values():
        for train_id, pixels in count.items():
            totals[train_id] = totals.get(train_id, 0) + pixels
    enough = {c: [index for index, count in counts.items() if count.get(c, 0) >= min_pixels] for c in sorted(totals)}
    having = {c: np.array(pictures, np.intp) for c, pictures in enough.items()}
    classes = tuple(c for c, pictures in having.items() if len(pictures))
    if not classes:
        raise ValueError(f"min_pixels is {min_pixels}, but no image has as many pixels of any class: lower it")
    shares = np.array([totals[c] for c in classes]) / sum(totals.values())
    # The largest exponent is 0: nothing overflows, whatever the temperature.
    weights = np.exp((shares.min() - shares) / temperature)
    return RareClasses(classes, weights / weights.sum(), tuple(having[c] for c in classes))


def read_statistics(parts: Mapping[str, Sequence[Record]], custom: Sequence[str] = ()) -> dict[int, ClassCounts]:
    """Pixels by train id of the labelled records, from the `sample_class_stats.json` that belong to these sets.

    Files are told by their names alone, which are unique in a set: so statistics of the published converters, with
    paths of another machine, can be read, too.

    Args:
        parts: name of a training set -> its records; those of generated images have no statistics and need none.
        custom: YAML files that describe more sets.

    Returns:
        index of a labelled record, all parts in a row -> counts.

    Raises:
        UserError: a set without statistics, or an image that is not in them.
    """
    root = data_root()
    places = {spec.name: spec.statistics_folder(root) / STATISTICS_FILE for spec in dataset_specs(custom)}
    counts, first = dict[int, ClassCounts](), 0
    for name, records in parts.items():
        labelled = {
            first + number: Path(record["sem_seg_file_name"]).name
            for number, record in enumerate(records)
            if "sem_seg_file_name" in record
        }
        first += len(records)
        if not labelled:
            continue
        if name not in places:
            raise UserError(
                f"Rare-class sampling needs class statistics, and {name} has none: describe the data set in a YAML "
                "file, or use another sampler."
            )
        if not places[name].is_file():
            raise UserError(
                f"{name} has no class statistics {places[name]}, which rare-class sampling needs; make them with: "
                f"{_remedy(name)}."
            )
        by_file = read_class_statistics(places[name])
        if missing := [file for file in labelled.values() if file not in by_file]:
            raise UserError(
                f"The class statistics {places[name]} lack {len(missing)} label maps of {name}, first {missing[0]}; "
                f"make them again with: {_remedy(name)}."
            )
        counts |= {index: by_file[file] for index, file in labelled.items()}
    return counts


def _remedy(name: str) -> str:
    return f"python tools/prepare_datasets.py {name}, with --dataset FILE for a set of your own"
