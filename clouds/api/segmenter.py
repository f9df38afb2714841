"""A trained network as a Python object, and the function that loads it."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self, cast, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from clouds.api.adapters import merged_network
from clouds.api.export import OPSET, Difference, export_network
from clouds.api.hub import SharedNetwork, files_of
from clouds.api.inputs import ImageLike, is_one, rgb_image
from clouds.api.results import Segmentation
from clouds.d2 import CfgNode
from clouds.data.classes import IGNORE_LABEL, short_name, split_synonyms
from clouds.engine.checkpointing.origin import has_text_head
from clouds.engine.predictor import LESS_MEMORY, Predictor
from clouds.errors import UserError, machine_error
from clouds.modeling.inference import class_shares, labels_of_scores, resized_strips
from clouds.utils.memory import available_memory
from clouds.utils.sizes import Size
from clouds.utils.values import is_integer
from clouds.visualization.palette import Color, colors_of

logger = logging.getLogger(__name__)

_SHOWN = 20  # class names in a message


class Segmenter(SharedNetwork):
    """A trained network that predicts images. `load` returns one.

    Attributes:
        network: the network in evaluation mode, with its weights.
        cfg: its config, frozen, with a resolved device.
        classes: names of the K classes that it predicts, synonyms separated by commas.
        colors: RGB of each class, 0..255.
        iterations: number of iterations of its training; 0 if it is not known.
    """

    def __init__(
        self,
        network: nn.Module,
        cfg: CfgNode,
        *,
        classes: Sequence[str],
        colors: Sequence[Color] | None = None,
        iterations: int = 0,
    ) -> None:
        """
        Args:
            network: network in evaluation mode, on the device of `cfg`.
            cfg: its config, with a resolved device.
            classes: names of the classes that it predicts.
            colors: RGB of each class, 0..255; default: see `colors_of`.
            iterations: number of iterations of its training; 0 if it is not known.
        """
        self.network = network
        self.cfg = cfg
        self.classes = tuple(classes)
        self.colors = colors_of(classes) if colors is None else tuple(colors)
        self.iterations = iterations
        self._predictor = Predictor(network, cfg)

    # A text is an iterable of texts, too, and an array one of arrays.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self,
        images: ImageLike,
        *,
        batch_size: int = 1,
        classes: Sequence[str] | None = None,
        tta: bool | None = None,
        scores: bool = False,
    ) -> Segmentation: ...

    @overload
    def predict(
        self,
        images: Iterable[ImageLike],
        *,
        batch_size: int = 1,
        classes: Sequence[str] | None = None,
        tta: bool | None = None,
        scores: bool = False,
    ) -> list[Segmentation]: ...

    def predict(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch_size: int = 1,
        classes: Sequence[str] | None = None,
        tta: bool | None = None,
        scores: bool = False,
    ) -> Segmentation | list[Segmentation]:
        """Predict images, each at its own size.

        Args:
            images: a path, a URL, a PIL image, or an array of uint8, (H, W, 3) RGB or (H, W) gray; or several of
                these, as a list or any other iterable. A URL is downloaded once, into a cache.
            batch_size: number of images that share a forward pass. Only images that have the same size at the input of
                the network do, so that a result depends on the other images by rounding at most.
            classes: names of the classes to predict, each with its synonyms after commas, for a network with a text
                head; default: `classes` of this object.
            tta: test-time augmentation: average the scores of the sizes ``TEST.AUG.SCALES``, by default three, and of
                their mirror images. It takes some seven times as long. Default: ``TEST.AUG.ENABLED``.
            scores: whether the results hold scores, 4 bytes for each class and pixel.

        Returns:
            The result of one image, or a list with the results of several images in their order.

        Raises:
            UserError: an image cannot be read, of several one that is named by its position, the network cannot predict
                other classes, or the memory is not sufficient. There are no results of the other images then; to have
                them, call `predict` for each image.
        """
        if not is_integer(batch_size, low=1):
            raise UserError(f"batch_size is {batch_size!r}: give a whole number from 1.")
        names = None if classes is None else self._check_classes(classes)
        single = is_one(images)
        several = [images] if single else cast(Iterable[Any], images)
        waiting: dict[tuple[int, int], list[tuple[int, Image.Image]]] = defaultdict(list)
        results: dict[int, Segmentation] = {}

        def predict_group(group: list[tuple[int, Image.Image]]) -> None:
            numbers, members = zip(*group, strict=True)
            results.update(zip(numbers, self._predict(members, names, tta=tta, scores=scores), strict=True))
            group.clear()

        for number, each in enumerate(several):
            try:
                image = rgb_image(each)
            except UserError as error:
                if single:
                    raise
                raise UserError(f"images[{number}]: {error}") from error
            group = waiting[self._predictor.input_size(image)]
            group.append((number, image))
            if len(group) == batch_size:
                predict_group(group)
        for group in filter(None, waiting.values()):
            predict_group(group)
        return results[0] if single else [results[number] for number in sorted(results)]

    def _predict(
        self, images: Sequence[Image.Image], names: tuple[str, ...] | None, *, tta: bool | None, scores: bool
    ) -> list[Segmentation]:
        """Predict images that have the same size at the input of the network."""
        classes, colors = self._named(names)
        try:
            shares: Sequence[npt.NDArray[np.float32] | None] = [None] * len(images)
            if scores:
                sizes = [(image.height, image.width) for image in images]
                _check_memory(sizes, len(classes))
                raw = self._predictor.scores(images, names, augment=tta)
                maps = [labels_of_scores(each, size) for each, size in zip(raw, sizes, strict=True)]
                shares = [_shares(each, size) for each, size in zip(raw, sizes, strict=True)]
            else:
                maps = self._predictor.labels(images, names, augment=tta)
        except (RuntimeError, MemoryError) as error:
            if (known := machine_error(error, less_memory=LESS_MEMORY)) is None:
                raise
            raise known from error
        return [
            Segmentation(labels.cpu().numpy(), classes, colors, np.array(image), shares=share)
            for image, labels, share in zip(images, maps, shares, strict=True)
        ]

    def export(
        self, path: str | Path, *, classes: Sequence[str] | None = None, labels: bool = False, opset: int = OPSET
    ) -> list[Difference]:
        """Write the network as an ONNX file or as a program of `torch.export`; see `clouds.api.export.export_network`.

        The file computes one forward pass, without the windows and the augmentation of ``TEST``.

        Args:
            path: path of the file, which ends in ``.onnx``, or in ``.pt2`` for a program.
            classes: names of the classes to predict, see `predict`.
            labels: whether the file returns label maps, otherwise scores.
            opset: version of ONNX's operators.

        Returns:
            Differences between the file and the network on some images.

        Raises:
            UserError: the network cannot be exported, or a package is missing.
            ExportMismatch: the differences are too large. Nothing is written.
        """
        names, colors = self._named(None if classes is None else self._check_classes(classes))
        return export_network(
            self.network,
            path,
            classes=names,
            colors=colors,
            short_edge=self.cfg.INPUT.TEST_SHORT_EDGE,
            max_pixels=self.cfg.INPUT.TEST_MAX_PIXELS,
            labels=labels,
            opset=opset,
        )

    def merge(self) -> Self:
        """Return this network with its adapter merged into the weights of its tower, for `save_pretrained` or `export`.

        Its scores are equal up to rounding, and it computes them without the products of the adapter. This object does
        not change.

        Raises:
            UserError: the network has no adapter, or one that cannot be merged, such as Rein.
        """
        network, cfg = merged_network(self.network), self.cfg.clone()
        cfg.defrost()
        cfg.merge_from_list(["MODEL.ADAPTER.NAME", "", "MODEL.ADAPTER.WEIGHTS", ""])
        cfg.freeze()
        return type(self)(network, cfg, classes=self.classes, colors=self.colors, iterations=self.iterations)

    def _named(self, names: tuple[str, ...] | None) -> tuple[tuple[str, ...], tuple[Color, ...]]:
        """Return classes and their colors: those with these names, or those of this object."""
        return (self.classes, self.colors) if names is None else (names, colors_of(names))

    def _check_classes(self, classes: Sequence[str]) -> tuple[str, ...]:
        is_list = isinstance(classes, Iterable) and not isinstance(classes, str)
        names = tuple(classes) if is_list else ()
        if not has_text_head(self.network):
            known = [short_name(name) for name in self.classes]
            more = ", ..." if len(known) > _SHOWN else ""
            raise UserError(
                f"This network has a head without text, which predicts the classes of its training only "
                f"({', '.join(known[:_SHOWN])}{more}): leave out classes, or load a network with a text head."
            )
        wrong = [name for name in names if not isinstance(name, str) or not all(split_synonyms(name))]
        if wrong or not 0 < len(names) <= IGNORE_LABEL:
            what = f"have the name {wrong[0]!r}" if wrong else f"are {len(names) if is_list else repr(classes)}"
            raise UserError(
                f"The classes {what}: give a list of 1 to {IGNORE_LABEL} names, each with its synonyms after commas."
            )
        short = [short_name(name) for name in names]
        if twice := [name for name in short if short.count(name) > 1]:
            raise UserError(f"The classes have the name {twice[0]!r} twice: give each class a name of its own.")
        return names

    def __repr__(self) -> str:
        names = [short_name(name) for name in self.classes]
        more = ", ..." if len(names) > _SHOWN else ""
        kind = f"{type(self.network).__name__} on {self.cfg.MODEL.DEVICE}"
        return f"{type(self).__name__}({kind}, {len(names)} classes: {', '.join(names[:_SHOWN])}{more})"


def load(
    source: str | Path,
    *,
    config: str | Path | CfgNode | None = None,
    options: Sequence[Any] = (),
    device: str | torch.device = "auto",
) -> Segmenter:
    """Load a trained network.

    The names of its classes come from the checkpoint, so that no data set of its config has to be on this machine. A
    text head predicts the classes of ``DATASETS.TEST`` where these are known.

    Args:
        source: a checkpoint (``.pth`` or ``.safetensors``) or its URL; the output folder of a training, of which
            ``model_final.pth`` is loaded, or the newest checkpoint before it is there; a folder of
            `Segmenter.save_pretrained`; or its id on a hub, owner/name.
        config: YAML file or config of the network; default: ``config.yaml`` beside the weights.
        options: alternating config keys and values that replace those of `config`, as on a command line.
        device: device of torch, such as "cuda:1"; "auto" is ``MODEL.DEVICE`` of `options`, by default a GPU if there is
            one, otherwise the CPU. The device in the config is not used.

    Raises:
        UserError: there are no weights or there is no config, they do not fit each other, the device does not exist, or
            the memory is not sufficient.
    """
    return Segmenter.from_files(files_of(source), config=config, options=options, device=device)


def _check_memory(sizes: Sequence[Size], classes: int) -> None:
    """Check that the scores of images of some sizes can be held.

    Raises:
        UserError: they take more memory than there is.
    """
    needed, available = 4 * classes * sum(height * width for height, width in sizes), available_memory()
    if available is not None and needed > available:
        number = "1 image" if len(sizes) == 1 else f"{len(sizes)} images"
        raise UserError(
            f"The scores of {number} with {classes} classes take {needed / 1e9:,.1f} GB, but {available / 1e9:,.1f} GB "
            "of memory are available: predict without scores, fewer images at once, or smaller ones."
        )


def _shares(scores: Tensor, size: Size) -> npt.NDArray[np.float32]:
    """Resize scores (K, h, w) to (K, H, W), and divide them by their sum over the classes; returns float32.

    Raises:
        UserError: a score is negative, as those of another architecture may be.
    """
    if scores.min() < 0:
        raise UserError("The scores of this architecture are negative at some pixels, so that they are no shares.")
    shares = np.empty((len(scores), *size), dtype=np.float32)
    for rows, strip in resized_strips(scores.float(), size):
        shares[:, rows] = class_shares(strip).cpu().numpy()
    return shares
