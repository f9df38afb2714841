"""From a record (paths) to what the network is given (tensors).

Legend: C classes, N classes present in a crop, (H, W) of the label map handed on, (h, w) of the network's input.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from clouds.d2 import CfgNode, Instances, configurable
from clouds.data.classes import IGNORE_LABEL
from clouds.data.datasets.record import Record, is_generated
from clouds.data.encoding import check_same_size, read_train_ids
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

FULL_RESOLUTION = "full_resolution"
PUBLISHED_SHORT_EDGE = "published_short_edge"
PROTOCOLS = {
    FULL_RESOLUTION: "scores at the size of the picture, ground truth as it is in its file",
    PUBLISHED_SHORT_EDGE: "ground truth resized (nearest) to the network's input, as the published code does",
}
"""`cfg.TEST.PROTOCOL`: at which size predictions are compared with the ground truth."""


class TrainMapper:
    """Reads a record and draws a random view of it; labels become one mask a class.

    A record that says `is_generated` has no labels to learn from: it gives the clean view that the teacher labels, and
    the student's, jittered in colour.
    """

    @configurable
    def __init__(self, *, augmentation: TrainAugmentation, num_classes: int, rare_pixels: float = 0.0) -> None:
        """
        Args:
            augmentation: the random views, see `clouds.data.loading.augmentation`.
            num_classes: C; label maps hold 0..C-1 and 255.
            rare_pixels: so many pixels of a record's `rare_class`, where it has one, its crop should show.
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
        """
        Returns:
            the record's entries and
            `image`: (3, H, W) uint8 RGB tensor, what the student sees;
            `height`, `width`: H, W.
            Of a labelled record also
            `sem_seg`: (H, W) int64 tensor, 255 = ignore;
            `instances`: `gt_classes` (N,) int64, ascending, and `gt_masks` (N, H, W) bool, ignore left out.
            Of a generated one also
            `image_clean`: as `image` without the jitter; missing where none is configured, for then they are the same;
            `truth`: (H, W) uint8 tensor, 255 = ignore, to measure with; only where the record has `truth_file_name`.

        Raises:
            UserError: a file is missing or damaged, the sizes differ, an id is unknown, or there is no label map.
        """
        return self._generated(record, rng) if is_generated(record) else self._labelled(record, rng)

    def _labelled(self, record: Record, rng: np.random.Generator) -> Record:
        if "sem_seg_file_name" not in record:
            raise UserError(
                f"{record['file_name']} has no label map: training images need one, unless their records have "
                "is_generated True."
            )
        image = read_image(record["file_name"])
        label = read_train_ids(record["sem_seg_file_name"], self.num_classes, record.get("label_encoding"))
        check_same_size(image, record["file_name"], label, record["sem_seg_file_name"])
        wanted = RequiredClass(record["rare_class"], self.rare_pixels) if "rare_class" in record else None
        pixels, target = self.augmentation(image, label, rng, wanted)
        height, width = target.shape
        return {
            **record,
            "image": _channels_first(pixels),
            "sem_seg": torch.from_numpy(target.astype(np.int64)),
            "height": height,
            "width": width,
            "instances": _class_masks(target),
        }

    def _generated(self, record: Record, rng: np.random.Generator) -> Record:
        image, truth = read_image(record["file_name"]), None
        if "truth_file_name" in record:
            truth = read_train_ids(record["truth_file_name"], self.num_classes)
            check_same_size(image, record["file_name"], truth, record["truth_file_name"])
        clean, student, truth = self.augmentation.two_views(image, truth, rng)
        mapped = {**record, "image": _channels_first(student), "height": image.height, "width": image.width}
        if self.augmentation.jitter:
            mapped["image_clean"] = _channels_first(clean)
        if truth is not None:
            mapped["truth"] = torch.from_numpy(np.array(truth))
        return mapped


class TestMapper:
    """Reads a record for inference: the picture at the network's size, the ground truth at the protocol's."""

    __test__ = False  # its name would make pytest collect it

    @configurable
    def __init__(self, *, short_edge: int, protocol: str, num_classes: int) -> None:
        """
        Args:
            short_edge: length in pixels that the picture's shorter edge is resized to; 0 = leave it as it is.
            protocol: one of `PROTOCOLS`.
            num_classes: C; label maps hold 0..C-1 and 255.
        """
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol is {protocol!r}; it must be one of {', '.join(PROTOCOLS)}")
        self.short_edge = short_edge
        self.protocol = protocol
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "short_edge": cfg.INPUT.TEST_SHORT_EDGE,
            "protocol": cfg.TEST.PROTOCOL,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        }

    def __call__(self, record: Record) -> Record:
        """
        Returns:
            the record's entries and
            `image`: (3, h, w) uint8 RGB tensor, shorter edge resized (bilinear, antialiased);
            `height`, `width`: H, W, the size at which the model must answer;
            `sem_seg`: (H, W) uint8 tensor, 255 = ignore; only where the record has labels.

        Raises:
            UserError: a file is missing or damaged, the sizes differ, or a label id is unknown.
        """
        image = read_image(record["file_name"])
        height, width = image.height, image.width
        mapped = dict(record)
        label = None
        if "sem_seg_file_name" in record:
            label = read_train_ids(record["sem_seg_file_name"], self.num_classes, record.get("label_encoding"))
            check_same_size(image, record["file_name"], label, record["sem_seg_file_name"])
        input_height, input_width = short_edge_size((height, width), self.short_edge)
        if (input_height, input_width) != (height, width):
            image = image.resize((input_width, input_height), Image.Resampling.BILINEAR)
        if self.protocol == PUBLISHED_SHORT_EDGE:
            height, width = input_height, input_width
            if label is not None:
                label = resize_label_window(label, Window(height, width, 0, 0, height, width))
        mapped.update(image=_channels_first(np.asarray(image)), height=height, width=width)
        if label is not None:
            mapped["sem_seg"] = torch.from_numpy(np.array(label))
        return mapped


def short_edge_size(size: tuple[int, int], short_edge: int) -> tuple[int, int]:
    """(h, w) of a picture of `size` = (H, W) once its shorter edge is `short_edge` (0 = as it is), aspect kept."""
    if short_edge == 0:
        return size
    factor = short_edge / min(size)
    # The half is rounded up, as detectron2 does: round() would send 1024.5 and 1025.5 different ways.
    return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)


def _channels_first(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """(H, W, 3) -> (3, H, W) tensor with memory of its own."""
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def _class_masks(target: npt.NDArray[np.uint8]) -> Instances:
    present = np.flatnonzero(count_values(target)[:IGNORE_LABEL])
    instances = Instances(target.shape)
    instances.gt_classes = torch.from_numpy(present.astype(np.int64))
    instances.gt_masks = torch.from_numpy(target == present.astype(np.uint8)[:, None, None])
    return instances
