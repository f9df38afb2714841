"""Class names of the data sets that a config names."""

from collections.abc import Sequence

from clouds.d2 import CfgNode, MetadataCatalog
from clouds.data.classes import CITYSCAPES_CLASSES
from clouds.errors import UserError


def check_registered(cfg: CfgNode) -> None:
    """Raise `UserError` if a config describes data sets of its own and the classes of those it names are not known.

    Their model would otherwise predict the classes of Cityscapes.
    """
    if not cfg.DATASETS.CUSTOM and not cfg.DATASETS.MODULES:
        return
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key][:1]:
            if not hasattr(MetadataCatalog.get(name), "stuff_classes"):
                raise UserError(
                    f"DATASETS.{key} names {name!r}, which is not registered, so its classes are not known: correct "
                    "the name, or call clouds.data.datasets.catalog.register_datasets before build_model."
                )


def class_names(datasets: Sequence[str]) -> Sequence[str]:
    """Return the class names of the first data set, or the 19 of Cityscapes if none is registered under its name."""
    if not datasets:
        return CITYSCAPES_CLASSES
    names: Sequence[str] = getattr(MetadataCatalog.get(datasets[0]), "stuff_classes", CITYSCAPES_CLASSES)
    return names


def train_class_names(cfg: CfgNode) -> Sequence[str]:
    """Return the class names of the training sets.

    Raises:
        UserError: their number is not ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``.
    """
    names = class_names(cfg.DATASETS.TRAIN)
    if len(names) != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}, but DATASETS.TRAIN "
            f"{tuple(cfg.DATASETS.TRAIN)} has {len(names)} classes; set MODEL.SEM_SEG_HEAD.NUM_CLASSES {len(names)}."
        )
    return names
