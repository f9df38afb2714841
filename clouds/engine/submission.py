"""Submissions to the test servers of Cityscapes and ACDC: predictions of a whole split and the checked zip file."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clouds.config.classes import class_names
from clouds.config.keys import leaves
from clouds.d2 import CfgNode
from clouds.data.classes import CITYSCAPES_CLASSES, short_name
from clouds.data.datasets.catalog import register_datasets
from clouds.data.datasets.spec import data_root
from clouds.engine.checkpointing.origin import differing_classes
from clouds.engine.checkpointing.weights import read_checkpoint
from clouds.engine.log import start_log
from clouds.engine.predictor import Predictor, load_network, predict_each
from clouds.engine.setup import resolve_device, set_up_libraries
from clouds.errors import UserError
from clouds.evaluation.submission import BENCHMARKS, find_images, is_whole, keep_origin, write_archive, write_labels
from clouds.utils.atomic import make_folder
from clouds.utils.downloads import local_file
from clouds.utils.failures import raise_failures
from clouds.utils.hashing import file_sha256
from clouds.utils.images import read_image

logger = logging.getLogger(__name__)


def make_submission(cfg: CfgNode, benchmark: str, split: str, output: Path) -> None:
    """Predict the images of a split that have no complete prediction yet, then write the zip file.

    Args:
        cfg: config with ``MODEL.WEIGHTS``, not frozen yet.
        benchmark: name in `clouds.evaluation.submission.BENCHMARKS`.
        split: "test" or "val".
        output: gets ``<benchmark>_<split>/``, ``.zip`` and ``.json``.

    Raises:
        UserError: the images are incomplete or cannot be read, the classes are not those of Cityscapes, or `output`
            has the predictions of another network.
        WriteError: `output` cannot be written. The same call continues.
    """
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if classes != len(CITYSCAPES_CLASSES):
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {classes}, but the servers know the {len(CITYSCAPES_CLASSES)} classes "
            "of Cityscapes: take a network that was trained on these."
        )
    start_log(None)
    server, name = BENCHMARKS[benchmark], f"{benchmark}_{split}"
    images = find_images(server, split, data_root())
    folder, archive = output / name, output / f"{name}.zip"
    register_datasets(modules=cfg.DATASETS.MODULES, custom=cfg.DATASETS.CUSTOM)
    settings = origin(cfg)
    make_folder(output)
    keep_origin(output / f"{name}.json", settings, folder)
    make_folder(folder)
    missing = {file: image for file, image in images.items() if not is_whole(folder / file, image, server.ids)}
    if missing:
        _predict(cfg, missing, folder, server.ids)
    size = write_archive(archive, server, folder, images)
    logger.info(
        f"{archive} is complete and checked: {len(images)} predictions, {len(missing)} of them new, {size / 1e6:.1f} MB"
    )
    if server.limit and size > server.limit:
        logger.warning(f"The server of {server.title} is said to take {server.limit / 1e6:.0f} MB at most")
    if split == "test":
        logger.info(f"Hand it in at {server.advice}")


def origin(cfg: CfgNode) -> dict[str, Any]:
    """Collect everything that determines a prediction: SHA-256 of the weights, network, input size and class names.

    Args:
        cfg: config whose data sets are registered.

    Raises:
        UserError: the classes are not those of Cityscapes, or the weights cannot be read.
    """
    names = class_names(cfg.DATASETS.TEST)
    if [short_name(name) for name in names] != [short_name(name) for name in CITYSCAPES_CLASSES]:
        raise UserError(
            f"The network would label by the classes of {cfg.DATASETS.TEST[0]} (DATASETS.TEST), which are not those of "
            "Cityscapes: give DATASETS.TEST \"('cityscapes_val',)\"."
        )
    try:
        digest = file_sha256(local_file(cfg.MODEL.WEIGHTS))
    except OSError as error:
        raise UserError(f"Weights not found: {cfg.MODEL.WEIGHTS} cannot be read ({error}).") from error
    left_out = ("MODEL.WEIGHTS", "MODEL.DEVICE")
    return {
        "weights": digest,
        "classes": list(names),
        **{f"INPUT.{key}": cfg.INPUT[key] for key in ("TEST_SHORT_EDGE", "TEST_MAX_PIXELS")},
        **{f"TEST.{key}": cfg.TEST[key] for key in ("WINDOW", "STRIDE")},
        **{f"TEST.AUG.{key}": cfg.TEST.AUG[key] for key in ("ENABLED", "SCALES", "FLIP")},
        **{key: value for key, value in leaves(cfg.MODEL, "MODEL.") if key not in left_out},
    }


def _predict(cfg: CfgNode, missing: dict[str, Path], folder: Path, ids: tuple[int, ...]) -> None:
    """Write the missing predictions; images that fail are reported at the end."""
    resolve_device(cfg)
    set_up_libraries(cfg)
    cfg.DATASETS.TEST = cfg.DATASETS.TEST or ("cityscapes_val",)  # the classes that the network must have
    cfg.freeze()

    def write(source: Path, target: Path, labels: npt.NDArray[np.uint8]) -> None:
        write_labels(target, labels, ids)

    trained = load_network(cfg, read_checkpoint(local_file(cfg.MODEL.WEIGHTS)), cfg.MODEL.WEIGHTS)
    if difference := differing_classes(trained.classes, CITYSCAPES_CLASSES):
        raise UserError(
            f"{cfg.MODEL.WEIGHTS} was trained on other classes than cityscapes_val has ({difference}): take a network "
            "that was trained on the classes of Cityscapes."
        )
    predictor = Predictor(trained.network, cfg)

    def predict(source: Path) -> npt.NDArray[np.uint8]:
        [labels] = predictor.labels([read_image(str(source))])
        return labels.cpu().numpy()

    jobs = [(image, folder / file) for file, image in missing.items()]
    failures = predict_each(predict, jobs, write)
    summary = (
        f"{len(failures)} of {len(missing)} images failed, the others are labeled; mend them and give the same "
        "command again, which then makes the zip"
    )
    raise_failures(failures, summary, logger)
