"""Contact sheets and one page of data sets as the training sees them, see ``clouds show --help``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from clouds.config import load_config
from clouds.config.classes import class_names
from clouds.d2 import CfgNode
from clouds.data.datasets.catalog import dataset_names, domain, load_dataset, register_datasets
from clouds.data.datasets.custom import dataset_settings, read_custom
from clouds.data.datasets.record import Record, is_generated
from clouds.data.loading.augmentation import TrainAugmentation, build_train_augmentation
from clouds.data.loading.mappers import TrainMapper
from clouds.errors import UserError
from clouds.experiments.data_set_page import shown_set, write_data_sets
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.images import encoded
from clouds.utils.signals import stop_here
from clouds.visualization.examples import Example, Look, draw_sheet, select
from clouds.visualization.palette import data_set_colors

PAGE, SHEET = ".html", ".png"
"""Endings of the files."""


@dataclass(frozen=True)
class Choice:
    """Choice of images.

    Attributes:
        images: number of images of each data set.
        seed: seed of the images and of their views.
        names: names of images, which replace a random choice; see `clouds.visualization.examples.select`.
        augmented: whether to draw views of the training augmentation.
    """

    images: int
    seed: int
    names: Sequence[str] = ()
    augmented: bool = False


def show_data_sets(
    names: Sequence[str],
    config_file: str | None,
    opts: Sequence[str],
    choice: Choice,
    output: Path | None,
    *,
    dataset: str | None = None,
) -> Iterator[Path]:
    """Draw data sets and yield the path of each file that was written.

    Args:
        names: names of the data sets; if empty, those of the file `dataset`, or ``DATASETS.TRAIN``.
        config_file: YAML config, which describes the augmentation; None for the defaults.
        opts: alternating config keys and values.
        choice: choice of images.
        output: PNG file of one data set, HTML file, or folder of a PNG file for each data set and an HTML file; None
            for a PNG file for each data set in the current folder.
        dataset: YAML file that describes a data set of one's own.

    Raises:
        UserError: a data set or an image does not exist or cannot be read.
    """
    settings = dataset_settings(Path(dataset)) if dataset else []
    cfg = load_config(config_file, [*settings, *opts])
    register_datasets(modules=cfg.DATASETS.MODULES, custom=cfg.DATASETS.CUSTOM)
    names = names or ([spec.name for spec in read_custom(Path(dataset))] if dataset else [])
    names = list(dict.fromkeys(names or dataset_names(cfg.DATASETS.TRAIN)))
    folder, page = places(output, names)
    shown = []
    for name in names:
        records = load_dataset(name)
        look = look_of(name, cfg, choice)
        examples = read_examples(name, select(records, choice.images, choice.seed, choice.names), look)
        if folder is not None:
            file = output if output is not None and output.suffix == SHEET else folder / sheet_name(name, choice)
            make_folder(file.parent)
            sheet = draw_sheet(f"{name}: {chosen(len(examples), len(records), choice)}", examples, look)
            write_atomically(file, encoded(sheet, "PNG"))
            yield file
        if page is not None:
            shown.append(shown_set(name, facts(name, records, cfg if choice.augmented else None), examples, look))
    if page is not None:
        make_folder(page.parent)
        write_data_sets(", ".join(names), subtitle(choice), shown, page)
        yield page


def places(output: Path | None, names: Sequence[str]) -> tuple[Path | None, Path | None]:
    """Return the folder of the sheets and the file of the page; None for none.

    Raises:
        UserError: the ending of `output` is another one, or it is one PNG file for several data sets.
    """
    if output is None:
        return Path(), None
    if output.suffix.lower() == PAGE:
        return None, output
    if output.suffix.lower() == SHEET:
        if len(names) > 1:
            raise UserError(
                f"--output {output} is one image, and there are {len(names)} data sets: give a folder or a page, "
                f"{output.with_suffix(PAGE)}."
            )
        return output.parent, None
    if output.suffix and not output.is_dir():
        raise UserError(f"--output {output} ends in {output.suffix}: give a folder, or a file *{SHEET} or *{PAGE}.")
    return output, output / "data_sets.html"


def sheet_name(name: str, choice: Choice) -> str:
    """Return the name of the PNG file of a data set."""
    return f"{name}_{'augmented' if choice.augmented else 'images'}{SHEET}"


def look_of(name: str, cfg: CfgNode, choice: Choice) -> Look:
    """Return the appearance of the examples of a registered data set."""
    mapper = TrainMapper(cfg) if choice.augmented else None
    classes = class_names((name,))
    return Look(classes, data_set_colors(name, classes), mapper=mapper, seed=choice.seed)


def read_examples(name: str, records: Sequence[Record], look: Look) -> list[Example]:
    """Read and draw records, with a progress bar; a signal stops it between two images."""
    examples = []
    for record in tqdm(records, desc=name, unit="image", disable=None):
        stop_here("the same command starts again")
        examples.append(look.example(record))
    return examples


def chosen(shown: int, count: int, choice: Choice) -> str:
    """Return which images are shown."""
    how = "" if choice.names or shown == count else f", seed {choice.seed}"
    return f"{shown:,} of {count:,} images{how}"


def subtitle(choice: Choice) -> str:
    """Return the line below the title of the page."""
    which = "Images by their names" if choice.names else f"Images chosen at random with seed {choice.seed}"
    return f"{which}, before and after the augmentation of the training." if choice.augmented else f"{which}."


def facts(name: str, records: Sequence[Record], cfg: CfgNode | None) -> dict[str, str]:
    """Return what is known about a data set, and the augmentation of a config."""
    generated = sum(map(is_generated, records))
    labelled = sum("sem_seg_file_name" in record for record in records)
    found = {"Images": f"{len(records):,}", "With labels": f"{labelled:,}"}
    found |= {"Generated": f"{generated:,}"} if generated else {}
    found |= {"Classes": str(len(class_names((name,)))), "Domain": domain(name)}
    return found if cfg is None else found | augmentation_facts(build_train_augmentation(cfg))


def augmentation_facts(augmentation: TrainAugmentation) -> dict[str, str]:
    """Return the settings of an augmentation in words."""
    low, high = augmentation.scale_range
    box, crop = augmentation.box, augmentation.crop
    return {
        "Scaled to": f"{box[1]} x {box[0]} pixels, times {low} to {high}" if box else "own size",
        "Crop": f"{crop[1]} x {crop[0]} pixels" if crop else "none",
        "Color jitter": f"{augmentation.jitter:g}" if augmentation.jitter else "none",
        "Flip": "half of the images" if augmentation.flip else "none",
    }
