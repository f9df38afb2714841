"""Prediction with a trained network: from images to label maps at their size, and to scores.

Letters: H x W image, h x w network input, K classes.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from clouds.clouds import CLOUDS
from clouds.config.classes import class_names, train_class_names
from clouds.config.settings import evaluated_sets
from clouds.d2 import META_ARCH_REGISTRY, CfgNode, MetadataCatalog
from clouds.data.datasets.catalog import register_datasets
from clouds.data.loading.mappers import network_inputs
from clouds.engine.amp import Precision
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.checkpointing.origin import check_test_classes, differing_classes, has_text_head
from clouds.engine.checkpointing.weights import has_reloadable_backbone
from clouds.engine.trainer import Trainer
from clouds.errors import UserError, is_out_of_memory, machine_error
from clouds.evaluation.label_maps import predict_labels
from clouds.modeling.inference import Passes, averaged_scores, build_passes, labels_of_scores
from clouds.modeling.structures import ImageDict
from clouds.utils.devices import cudnn_benchmark, float32_precision
from clouds.utils.open_clip import without_warnings
from clouds.utils.signals import stop_here
from clouds.utils.sizes import network_input_size
from clouds.visualization.palette import Color, colors_of, data_set_colors

logger = logging.getLogger(__name__)

LESS_MEMORY = "lower INPUT.TEST_MAX_PIXELS or the number of images at once, or set TEST.WINDOW to fewer pixels"
"""Advice how a prediction needs less memory."""

T = TypeVar("T")

_INFERENCE = threading.Lock()


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        network: the network in evaluation mode, with its weights.
        classes: names of the K classes that it predicts, synonyms separated by commas.
        colors: RGB of each class, 0..255.
        iterations: number of iterations of its training; 0 if its file does not record it.
    """

    network: nn.Module
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    iterations: int = 0


def load_network(
    cfg: CfgNode, content: dict[str, Any], source: str, *, classes: Sequence[str] | None = None
) -> Trained:
    """Build the network of a config for predictions.

    It is trained on the classes that the checkpoint records in its entry ``classes``, and predicts those of
    `evaluated_sets`, as an evaluation does. If the description of this data set is not on this machine, such as the
    module that registers it, the classes of the training are predicted. A head without text also predicts these if
    the data set has other classes.

    Args:
        cfg: config with a resolved device.
        content: content of a checkpoint, see `read_checkpoint`.
        source: path or URL of the checkpoint.
        classes: names of the classes to predict; then no data set is looked at.

    Raises:
        UserError: the weights are those of another network, or the names of the classes are not known.
    """
    recorded = content.get("classes")
    missing, sets = "", list[str]()
    if classes is None:
        missing = _register(cfg, required=recorded is None)
        sets = [name for name in evaluated_sets(cfg)[:1] if _is_registered(name)]
        classes = class_names(sets) if sets or recorded is None else recorded
    trained = recorded or train_class_names(cfg)
    architecture = dict(META_ARCH_REGISTRY).get(cfg.MODEL.META_ARCHITECTURE)
    takes_names = isinstance(architecture, type) and issubclass(architecture, CLOUDS)
    names = {"train_classes": trained, "test_classes": classes} if takes_names else {}
    with without_warnings():  # its weights are those of the checkpoint
        network = Trainer.build_model(cfg, **names)
    if missing:
        report = logger.warning if has_text_head(network) else logger.info
        report(f"The classes are those of the training, because a data set of the config is missing: {missing}")
    if recorded is None:
        check_test_classes(cfg, network)
    elif sets and not has_text_head(network) and (difference := differing_classes(recorded, classes)):
        logger.warning(f"The classes are those of the training, because {sets[0]} has others: {difference}")
        sets, classes = [], trained
        if isinstance(network, CLOUDS):
            network.test_classes = tuple(trained)
    checkpointer = Checkpointer(
        network,
        reloadable=has_reloadable_backbone(network),
        complete=True,
        evaluated={name: class_names((name,)) for name in sets},
    )
    rest = checkpointer.restore(content, source)
    colors = data_set_colors(sets[0], classes) if sets else colors_of(classes)
    return Trained(network.eval(), tuple(classes), colors, rest.get("iteration", -1) + 1)


def _register(cfg: CfgNode, *, required: bool) -> str:
    """Register the data sets of a config.

    Args:
        cfg: config.
        required: whether a data set that is missing is an error.

    Returns:
        Why a data set is missing; "" if there are all.
    """
    try:
        register_datasets(modules=cfg.DATASETS.MODULES, custom=cfg.DATASETS.CUSTOM)
    except (UserError, ImportError) as error:  # a module may need a package that is not installed
        if required:
            raise
        return str(error)
    return ""


def _is_registered(name: str) -> bool:
    return name in MetadataCatalog.list() and hasattr(MetadataCatalog.get(name), "stuff_classes")


class Predictor:
    """A trained network with the preparation of its images.

    Threads of a process predict one after another: some settings of torch belong to the process.

    Args:
        network: network in evaluation mode.
        cfg: config with a resolved device.
    """

    def __init__(self, network: nn.Module, cfg: CfgNode) -> None:
        self.network = network
        self.short_edge = cfg.INPUT.TEST_SHORT_EDGE
        self.max_pixels = cfg.INPUT.TEST_MAX_PIXELS
        self.passes = {augment: build_passes(cfg, augment=augment) for augment in (None, False, True)}
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.precision = Precision.from_config(cfg, cfg.TEST.AMP)
        self.float32_precision = cfg.FLOAT32_PRECISION

    def input_size(self, image: Image.Image) -> tuple[int, int]:
        """Return the size (h, w) to which an image is resized."""
        return network_input_size((image.height, image.width), self.short_edge, self.max_pixels)

    def labels(
        self, images: Sequence[Image.Image], classes: Sequence[str] | None = None, *, augment: bool | None = None
    ) -> list[Tensor]:
        """Predict label maps.

        Args:
            images: RGB images. They share a forward pass if each needs one only. Their label maps do not depend on each
                other if all have one `input_size`.
            classes: names of the classes, for a text head; default: those of the network.
            augment: whether to use test-time augmentation; default: as the config says.

        Returns:
            For each image (H, W) uint8 on the device of the network.
        """
        passes = self.passes[augment]
        with self._inference():
            if passes.is_single:
                samples = [self._sample(image, classes, passes) for image in images]
                sizes = ({"height": image.height, "width": image.width} for image in images)
                return predict_labels(self.network, [a | b for a, b in zip(samples, sizes, strict=True)])
            scores = self._scores(images, classes, passes)
            return [
                labels_of_scores(each, (image.height, image.width)) for each, image in zip(scores, images, strict=True)
            ]

    def scores(
        self, images: Sequence[Image.Image], classes: Sequence[str] | None = None, *, augment: bool | None = None
    ) -> list[Tensor]:
        """Predict scores at the network's input size; they are resized (bilinear) to the size of the image.

        Args:
            images: RGB images, see `labels`.
            classes: names of the classes, for a text head; default: those of the network.
            augment: whether to use test-time augmentation; default: as the config says.

        Returns:
            For each image (K, h, w) float scores on the device of the network, not normalized over classes.
        """
        with self._inference():
            return self._scores(images, classes, self.passes[augment])

    def _scores(self, images: Sequence[Image.Image], classes: Sequence[str] | None, passes: Passes) -> list[Tensor]:
        samples = [self._sample(image, classes, passes) for image in images]
        if passes.is_single:
            return [output["sem_seg"] for output in self.network(samples)]
        return [averaged_scores(self.network, sample, passes) for sample in samples]

    def _sample(self, image: Image.Image, classes: Sequence[str] | None, passes: Passes) -> ImageDict:
        """Return an image dict whose result has the network's input size."""
        size = self.input_size(image)
        sample: ImageDict = {**network_inputs(image, size, passes.scales), "height": size[0], "width": size[1]}
        return sample if classes is None else {**sample, "classes": tuple(classes)}

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        with (
            _INFERENCE,
            torch.inference_mode(),
            self.precision.autocast(),
            float32_precision(self.float32_precision, self.device),
            cudnn_benchmark(False),  # images have many sizes
        ):
            yield


def predict_each(
    predict: Callable[[Path], T], jobs: Iterable[tuple[Path, Path]], write: Callable[[Path, Path, T], None]
) -> list[str]:
    """Predict images one by one, with a progress bar.

    Args:
        predict: returns the result of the image with a path.
        jobs: pairs of the path of an image and its target.
        write: called with the path of the image, its target, and its result.

    Returns:
        A sentence about each image that cannot be read, or that the memory is not sufficient for.

    Raises:
        Stopped: a signal has asked to stop; the image that was begun is finished first.
    """
    failures: list[str] = []
    for source, target in tqdm(list(jobs), unit="image"):
        stop_here()
        with failures_noted(str(source), failures):
            write(source, target, predict(source))
    return failures


@contextlib.contextmanager
def failures_noted(name: str, failures: list[str]) -> Iterator[None]:
    """Catch what prevents the prediction of an image: it cannot be read, or the memory is not sufficient.

    Args:
        name: name of the image, for the sentence.
        failures: list that gets a sentence.
    """
    try:
        yield
        return
    except UserError as error:
        known: UserError | None = error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        known = machine_error(error, less_memory=LESS_MEMORY)
    failures.append(str(known) if name in str(known) else f"{name}: {known}")
