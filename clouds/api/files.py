"""Predictions of image files, written to files."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from clouds.api.results import Segmentation
from clouds.api.segmenter import Segmenter, load
from clouds.clouds import CLOUDS
from clouds.d2 import CfgNode
from clouds.data.datasets.custom import read_custom
from clouds.engine.checkpointing.origin import CLASSES_REMEDY, differing_classes, has_text_head
from clouds.engine.log import start_log
from clouds.engine.predictor import predict_each
from clouds.engine.setup import config_with_dataset, set_up_libraries
from clouds.errors import UserError
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.failures import raise_failures
from clouds.utils.images import encoded

logger = logging.getLogger(__name__)

_LONGEST_JPEG = 65_500  # pixels, a limit of libjpeg


def write_predictions(
    jobs: Mapping[Path, Path],
    source: str | Path,
    cfg: CfgNode | None = None,
    config_file: str | Path | None = None,
    opts: Sequence[str] = (),
    *,
    dataset: str | Path | None = None,
) -> None:
    """Predict images and write ``<target>_labels.png`` (8-bit train ids) and ``<target>_overlay.jpg`` for each.

    An overlay is reduced to 65,500 pixels a side, the most that a JPEG can have.

    Args:
        jobs: path of each image, mapped to its target.
        source: trained network, see `load`.
        cfg: config that was read from `config_file` and `opts`; None without a `config_file`.
        config_file: YAML config; None for that beside the weights.
        opts: alternating config keys and values.
        dataset: YAML file that describes the data set whose classes are predicted.

    Raises:
        UserError: the network cannot be loaded, or some images cannot be read or are too large for the memory. All
            others are predicted first.
        WriteError: a result cannot be written. The same call predicts the images anew.
    """
    for folder in {target.parent for target in jobs.values()}:
        make_folder(folder)
    start_log(None)
    if cfg is None or config_file is None:
        model = load(source, options=opts)
    else:
        cfg = config_with_dataset(cfg, config_file, opts, dataset)
        model = load(source, config=cfg, device=cfg.MODEL.DEVICE)
    set_up_libraries(model.cfg)
    if dataset:
        model = _for_dataset(model, dataset)

    def predict(source: Path) -> Segmentation:
        return model.predict(source)

    def write(source: Path, target: Path, result: Segmentation) -> None:
        result.save(f"{target}_labels.png")
        overlay = result.overlay()
        overlay.thumbnail((_LONGEST_JPEG, _LONGEST_JPEG))
        write_atomically(Path(f"{target}_overlay.jpg"), encoded(overlay, "JPEG", quality=90))

    failures = predict_each(predict, jobs.items(), write)
    raise_failures(failures, f"{len(failures)} of {len(jobs)} images failed, the others are done", logger)
    logger.info(f"{len(jobs)} images labeled")


def _for_dataset(model: Segmenter, dataset: str | Path) -> Segmenter:
    """Return a model that predicts the classes of a YAML file, also one from a folder of `save_pretrained`.

    Raises:
        UserError: the head of the model is without text and has other classes.
    """
    spec, *_ = read_custom(Path(dataset))
    if has_text_head(model.network) and isinstance(model.network, CLOUDS):
        model.network.test_classes = tuple(spec.classes)
    elif difference := differing_classes(model.classes, spec.classes):
        raise UserError(
            f"The network was trained on other classes than {dataset} has ({difference}): {CLASSES_REMEDY}."
        )
    return Segmenter(model.network, model.cfg, classes=spec.classes, colors=spec.colors)
