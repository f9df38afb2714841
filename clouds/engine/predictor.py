"""Prediction with a trained network: from image files to label maps."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tqdm import tqdm

from clouds.d2 import CfgNode, MetadataCatalog
from clouds.data.classes import CITYSCAPES_COLORS
from clouds.data.datasets.catalog import register_datasets
from clouds.data.loading.mappers import TestMapper
from clouds.engine.checkpointing.checkpoint import load_for_inference
from clouds.engine.log import start_log
from clouds.engine.setup import config_with_dataset, resolve_device, set_up_libraries
from clouds.engine.trainer import Trainer
from clouds.errors import UserError
from clouds.evaluation.label_maps import predict_labels
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.failures import raise_failures
from clouds.utils.images import encoded, read_image
from clouds.utils.signals import stop_here
from clouds.visualization.palette import overlay

logger = logging.getLogger(__name__)


class Predictor:
    """A trained network: ``Predictor(cfg)(path)`` predicts the label map of an image at its own size.

    Args:
        cfg: frozen config with a resolved device and registered data sets; the weights are ``MODEL.WEIGHTS``.

    Attributes:
        colors: RGB color of each train id, 0..255: those of the first test set if it has any, or those of Cityscapes.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.model = Trainer.build_model(cfg)
        load_for_inference(cfg, self.model)
        self.model.eval()
        self.mapper = TestMapper(
            short_edge=cfg.INPUT.TEST_SHORT_EDGE,
            protocol="full_resolution",  # a prediction has the size of its image, whatever TEST.PROTOCOL says
            num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        )
        self.colors: Sequence[Sequence[int]] = CITYSCAPES_COLORS
        if cfg.DATASETS.TEST:
            self.colors = getattr(MetadataCatalog.get(cfg.DATASETS.TEST[0]), "stuff_colors", self.colors)

    @torch.inference_mode()
    def __call__(self, path: str | Path) -> npt.NDArray[np.uint8]:
        """Predict the (H, W) train ids of an image.

        Raises:
            UserError: the image cannot be read.
        """
        sample = self.mapper({"file_name": str(path), "image_id": str(path)})
        [labels] = predict_labels(self.model, [sample])
        return labels.cpu().numpy()


def predict_each(
    predict: Predictor,
    jobs: Iterable[tuple[Path, Path]],
    write: Callable[[Path, Path, npt.NDArray[np.uint8]], None],
) -> list[str]:
    """Predict images one by one, with a progress bar.

    Args:
        predict: the network.
        jobs: pairs of the path of an image and its target.
        write: called with the path of the image, its target, and its label map, (H, W) uint8 train ids.

    Returns:
        A sentence about each image that cannot be read.

    Raises:
        Stopped: a signal has asked to stop; the image that was begun is finished first.
    """
    unreadable = []
    for source, target in tqdm(list(jobs), unit="image"):
        stop_here()
        try:
            labels = predict(source)
        except UserError as error:
            unreadable.append(str(error))
        else:
            write(source, target, labels)
    return unreadable


def write_predictions(
    jobs: Mapping[Path, Path],
    cfg: CfgNode,
    config_file: str | Path,
    opts: Sequence[str] = (),
    *,
    dataset: str | Path | None = None,
) -> None:
    """Predict images and write ``<target>_labels.png`` (8-bit train ids) and ``<target>_overlay.jpg`` for each.

    Args:
        jobs: path of each image, mapped to its target.
        cfg: config that was read from `config_file` and `opts`, not frozen yet.
        config_file: YAML config.
        opts: alternating config keys and values, among them ``MODEL.WEIGHTS``.
        dataset: YAML file that describes the data set whose classes are predicted.

    Raises:
        UserError: some images cannot be read. All others are predicted first.
        WriteError: a result cannot be written. The same call predicts the images anew.
    """
    for folder in {target.parent for target in jobs.values()}:
        make_folder(folder)
    cfg = config_with_dataset(cfg, config_file, opts, dataset)
    start_log(None)
    resolve_device(cfg)
    set_up_libraries(cfg)
    register_datasets(modules=cfg.DATASETS.MODULES, custom=cfg.DATASETS.CUSTOM)
    cfg.freeze()
    predict = Predictor(cfg)

    def write(source: Path, target: Path, labels: npt.NDArray[np.uint8]) -> None:
        colored = overlay(np.asarray(read_image(str(source))), labels, predict.colors)
        write_atomically(Path(f"{target}_labels.png"), encoded(Image.fromarray(labels), "PNG"))
        write_atomically(Path(f"{target}_overlay.jpg"), encoded(Image.fromarray(colored), "JPEG", quality=90))

    unreadable = predict_each(predict, jobs.items(), write)
    raise_failures(unreadable, f"{len(unreadable)} of {len(jobs)} images failed, the others are done", logger)
    logger.info(f"{len(jobs)} images labelled")
