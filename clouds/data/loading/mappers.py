"""Mappers: from a record, with paths, to a sample, with tensors.

Legend: C classes, N classes present in a crop, (H, W) size of the label map of the sample, (h, w) size of the network's
input.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from clouds.d2 import CfgNode, configurable
from clouds.data.classes import IGNORE_LABEL
from clouds.data.datasets.record import Record, is_generated
from clouds.data.encoding import TrainIds, check_same_size, read_train_ids
from clouds.data.loading.augmentation import (
    RequiredClass,
    TrainAugmentation,
    Window,
    build_train_augmentation,
    resize_label_window,
)
from clouds.data.preparation.class_statistics import count_values
from clouds.errors import UserError
from clouds.utils.images import read_image

Size = tuple[int, int]
"""(height, width) in pixels."""


def full_resolution(size: Size, input_size: Size, label: TrainIds | None) -> tuple[Size, TrainIds | None]:
    """Score at the size of the image, with the label map as it is in its file."""
    del input_size
    return size, label


def published_short_edge(size: Size, input_size: Size, label: TrainIds | None) -> tuple[Size, TrainIds | None]:
    """Score at the size of the network's input, with the label map resized (nearest), as the published code does."""
    del size
    if label is not None:
        label = resize_label_window(label, Window(*input_size, 0, 0, *input_size))
    return input_size, label


PROTOCOLS: dict[str, Callable[[Size, Size, TrainIds | None], tuple[Size, TrainIds | None]]] = {
    "full_resolution": full_resolution,
    "published_short_edge": published_short_edge,
}
"""Evaluation protocols of `TEST.PROTOCOL`: functions of the image's size (H, W), the network's input size (h, w) and
the label map. They return the size at which predictions are scored and the label map of that size."""


class TrainMapper:
    """Reads a record and draws a random view of it.

    A generated image has no labels. It gives a clean view for the teacher, and the student's view with color jitter.
    """

    @configurable
    def __init__(self, *, augmentation: TrainAugmentation, num_classes: int, rare_pixels: float = 0.0) -> None:
        """
        Args:
            augmentation: random views.
            num_classes: C, number of classes without void.
            rare_pixels: number of pixels of the record's `rare_class`, if it has one, that its crop should show.
        """
        self.augmentation = augmentation
        self.rare_pixels = rare_pixels
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "augmentation": build_train_augmentation(cfg),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "rare_pixels": cfg.DATALOADER.RARE_CLASS.MIN_PIXELS * cfg.DATALOADER.RARE_CLASS.MIN_CROP_RATIO,
        }

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        """Map a record to a sample.

        Args:
            record: see `clouds.data.datasets.record.Record`.
            rng: random generator of the view.

        Returns:
            The entries of the record and

            * `image`: (3, H, W) uint8 RGB tensor, the student's view;
            * `height`, `width`: H, W.

            For a labelled record also

            * `sem_seg`: (H, W) uint8 tensor of train ids, 255 = ignored;
            * `sem_seg_classes`: list of the N train ids in it, ascending, without 255. The model makes the masks.

            For a generated record also

            * `image_clean`: (3, H, W) uint8 RGB tensor, the view without jitter; missing if the jitter is off, because
              `image` is the same then;
            * `truth`: (H, W) uint8 tensor of train ids, 255 = ignored; only if the record has `truth_file_name`.

        Raises:
            UserError: a file is missing or damaged, sizes differ, a label value is unknown, or a label map is missing.
        """
        return self._generated(record, rng) if is_generated(record) else self._labelled(record, rng)

    def _labelled(self, record: Record, rng: np.random.Generator) -> Record:
        if "sem_seg_file_name" not in record:
            raise UserError(
                f"{record['file_name']} has no label map: training images need one, unless their records have "
                "is_generated True."
            )
        image, label = _read(record, "sem_seg_file_name", self.num_classes)
        assert label is not None
        required = RequiredClass(record["rare_class"], self.rare_pixels) if "rare_class" in record else None
        pixels, target = self.augmentation(image, label, rng, required)
        height, width = target.shape
        return {
            **record,
            "image": _channels_first(pixels),
            "sem_seg": torch.from_numpy(np.array(target)),
            "sem_seg_classes": np.flatnonzero(count_values(target)[:IGNORE_LABEL]).tolist(),
            "height": height,
            "width": width,
        }

    def _generated(self, record: Record, rng: np.random.Generator) -> Record:
        image, truth = _read(record, "truth_file_name", self.num_classes)
        clean, student, truth = self.augmentation.two_views(image, truth, rng)
        mapped = {**record, "image": _channels_first(student), "height": image.height, "width": image.width}
        if self.augmentation.jitter:
            mapped["image_clean"] = _channels_first(clean)
        if truth is not None:
            mapped["truth"] = torch.from_numpy(np.array(truth))
        return mapped


class TestMapper:
    """Reads a record for inference: the image at the network's input size, the label map at the size to score at."""

    __test__ = False  # its name would make pytest collect it

    @configurable
    def __init__(self, *, short_edge: int, protocol: str, num_classes: int, max_pixels: int = 0) -> None:
        """
        Args:
            short_edge: length in pixels to which the shorter edge of the image is resized; 0 for no resizing.
            protocol: key of `PROTOCOLS`.
            num_classes: C, number of classes without void.
            max_pixels: largest number of pixels of the network's input; 0 for no limit.

        Raises:
            ValueError: there is no such protocol.
        """
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol is {protocol!r}; it must be one of {', '.join(PROTOCOLS)}")
        self.short_edge = short_edge
        self.max_pixels = max_pixels
        self.protocol = protocol
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "short_edge": cfg.INPUT.TEST_SHORT_EDGE,
            "max_pixels": cfg.INPUT.TEST_MAX_PIXELS,
            "protocol": cfg.TEST.PROTOCOL,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        }

    def __call__(self, record: Record) -> Record:
        """Map a record to a sample.

        Args:
            record: see `clouds.data.datasets.record.Record`.

        Returns:
            The entries of the record and

            * `image`: (3, h, w) uint8 RGB tensor, shorter edge resized (bilinear, antialiased);
            * `height`, `width`: H, W, the size of the prediction that the model returns;
            * `sem_seg`: (H, W) uint8 tensor of train ids, 255 = ignored; only if the record has labels.

        Raises:
            UserError: a file is missing or damaged, sizes differ, or a label value is unknown.
        """
        image, label = _read(record, "sem_seg_file_name", self.num_classes)
        size = image.height, image.width
        input_size = limited_size(short_edge_size(size, self.short_edge), self.max_pixels)
        (height, width), label = PROTOCOLS[self.protocol](size, input_size, label)
        mapped = {**record, "image": network_input(image, input_size), "height": height, "width": width}
        if label is not None:
            mapped["sem_seg"] = torch.from_numpy(np.array(label))
        return mapped


def network_input(image: Image.Image, size: Size) -> torch.Tensor:
    """Resize an RGB image to (h, w), bilinear and antialiased; returns a (3, h, w) uint8 tensor."""
    if size != (image.height, image.width):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return _channels_first(np.asarray(image))


def short_edge_size(size: Size, short_edge: int) -> Size:
    """Return the size (h, w) of an image of `size` (H, W) whose shorter edge is resized to `short_edge` pixels.

    The aspect ratio is kept; with 0 the size is kept, too.
    """
    if short_edge == 0:
        return size
    factor = short_edge / min(size)
    # Halves are rounded up, as in detectron2; round() would send 1024.5 and 1025.5 different ways.
    return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)


def limited_size(size: Size, max_pixels: int) -> Size:
    """Return the largest size with the aspect ratio of `size` (h, w) that has at most `max_pixels` pixels; 0: no limit.

    The shorter side has at least one pixel, and the longer one at most 1/32 of `max_pixels`, because networks pad their
    input to multiples of 32.
    """
    if max_pixels == 0 or size[0] * size[1] <= max_pixels:
        return size
    factor, longest = math.sqrt(max_pixels / (size[0] * size[1])), max(1, max_pixels // 32)
    height, width = (min(max(1, int(factor * side)), longest) for side in size)
    return height, width


def _read(record: Record, key: str, num_classes: int) -> tuple[Image.Image, TrainIds | None]:
    """Read the image of a record, and the label map under `key` if the record has one."""
    image = read_image(record["file_name"], labelled=key in record)
    if key not in record:
        return image, None
    encoding = record.get("label_encoding") if key == "sem_seg_file_name" else None
    label = read_train_ids(record[key], num_classes, encoding)
    check_same_size(image, record["file_name"], label, record[key])
    return image, label


def _channels_first(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Return a (3, H, W) tensor of (H, W, 3) pixels that shares no memory with them."""
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))
