"""Mappers: from a record, with paths, to a sample, with tensors.

Legend: C classes, N classes present in a crop, (H, W) size of the label map of the sample, (h, w) size of the network's
input.
"""

from collections.abc import Sequence
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
from clouds.data.protocols import Protocol, Sizes, build_protocols
from clouds.errors import UserError
from clouds.utils.images import read_image
from clouds.utils.sizes import Size, network_input_size, scaled_size


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
        image, label = read_pair(record, "sem_seg_file_name", self.num_classes)
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
        image, truth = read_pair(record, "truth_file_name", self.num_classes)
        clean, student, truth = self.augmentation.two_views(image, truth, rng)
        mapped = {**record, "image": _channels_first(student), "height": image.height, "width": image.width}
        if self.augmentation.jitter:
            mapped["image_clean"] = _channels_first(clean)
        if truth is not None:
            mapped["truth"] = torch.from_numpy(np.array(truth))
        return mapped


class TestMapper:
    """Reads a record for inference: the image and the label map at the sizes that the evaluation protocols need.

    The protocols that need the same share a sample, and samples share the tensors of one size.
    """

    __test__ = False  # its name would make pytest collect it

    @configurable
    def __init__(
        self,
        *,
        protocols: Sequence[Protocol],
        short_edge: int,
        num_classes: int,
        max_pixels: int = 0,
        scales: Sequence[float] = (1.0,),
        domain: str = "",
    ) -> None:
        """
        Args:
            protocols: evaluation protocols, the main one first.
            short_edge: length in pixels to which the shorter edge of the image is resized where a protocol leaves it to
                the config; 0 for no resizing.
            num_classes: C, number of classes without void.
            max_pixels: largest number of pixels of such an input; 0 for no limit.
            scales: factors of the input size, for test-time augmentation.
            domain: domain of the data set, by which a protocol chooses sizes.
        """
        self.protocols = protocols
        self.short_edge = short_edge
        self.num_classes = num_classes
        self.max_pixels = max_pixels
        self.scales = tuple(scales)
        self.domain = domain

    @classmethod
    def from_config(cls, cfg: CfgNode, domain: str = "") -> dict[str, Any]:
        return {
            "protocols": build_protocols(cfg),
            "short_edge": cfg.INPUT.TEST_SHORT_EDGE,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "max_pixels": cfg.INPUT.TEST_MAX_PIXELS,
            "scales": cfg.TEST.AUG.SCALES if cfg.TEST.AUG.ENABLED else (1.0,),
            "domain": domain,
        }

    def __call__(self, record: Record) -> list[Record]:
        """Map a record to samples.

        Args:
            record: see `clouds.data.datasets.record.Record`.

        Returns:
            Samples in the order of the protocols, each with the entries of the record and

            * `image`: (3, h, w) uint8 RGB tensor, resized (bilinear, antialiased);
            * `views`: for several scales, the image at each of them;
            * `height`, `width`: H, W, the size of the prediction that the model returns;
            * `sem_seg`: (H, W) uint8 tensor of train ids, 255 = ignored; only if the record has labels;
            * `window`, `stride`: (height, width) of a sliding window, None for one pass over the whole image;
            * `protocols`: names of the protocols that score it. A record without labels has one sample, of the first.

        Raises:
            UserError: a file is missing or damaged, sizes differ, or a label value is unknown.
        """
        image, label = read_pair(record, "sem_seg_file_name", self.num_classes)
        size = image.height, image.width
        usual = network_input_size(size, self.short_edge, self.max_pixels)
        scored_by: dict[Sizes, list[str]] = {}
        for protocol in self.protocols if label is not None else self.protocols[:1]:
            sizes = protocol.sizes(self.domain, size, usual, max(self.scales))
            scored_by.setdefault(sizes, []).append(protocol.name)
        images = {each: network_inputs(image, each, self.scales) for each in {sizes.input_size for sizes in scored_by}}
        label_sizes = {sizes.label_size for sizes in scored_by}
        labels = {} if label is None else {each: _resized(label, each) for each in label_sizes}
        return [
            {
                **record,
                **images[sizes.input_size],
                "height": sizes.label_size[0],
                "width": sizes.label_size[1],
                **({"sem_seg": labels[sizes.label_size]} if labels else {}),
                "window": sizes.window,
                "stride": sizes.stride,
                "protocols": tuple(names),
            }
            for sizes, names in scored_by.items()
        ]


def network_inputs(image: Image.Image, size: Size, scales: tuple[float, ...]) -> Record:
    """Return the entries `image`, at the input size (h, w), and, for other scales than 1, `views` of an image dict."""
    entries: Record = {"image": network_input(image, size)}
    if scales != (1.0,):
        entries["views"] = [network_input(image, scaled_size(size, scale)) for scale in scales]
    return entries


def network_input(image: Image.Image, size: Size) -> torch.Tensor:
    """Resize an RGB image to (h, w), bilinear and antialiased; returns a (3, h, w) uint8 tensor."""
    if size != (image.height, image.width):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return _channels_first(np.asarray(image))


def read_pair(record: Record, key: str, num_classes: int) -> tuple[Image.Image, TrainIds | None]:
    """Read the image of a record, and the label map under `key` if the record has one.

    Args:
        record: see `clouds.data.datasets.record.Record`.
        key: `sem_seg_file_name` or `truth_file_name`.
        num_classes: number of classes without void.

    Returns:
        RGB image of H x W pixels, and (H, W) uint8 train ids, 255 = ignored, or None.

    Raises:
        UserError: a file is missing or damaged, sizes differ, or a label value is unknown.
    """
    image = read_image(record["file_name"], labelled=key in record)
    if key not in record:
        return image, None
    encoding = record.get("label_encoding") if key == "sem_seg_file_name" else None
    label = read_train_ids(record[key], num_classes, encoding)
    check_same_size(image, record["file_name"], label, record[key])
    return image, label


def _resized(label: TrainIds, size: Size) -> torch.Tensor:
    """Resize a label map to (H, W) by nearest neighbor."""
    if label.shape != size:
        label = resize_label_window(label, Window(*size, 0, 0, *size))
    return torch.from_numpy(np.array(label))


def _channels_first(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Return a (3, H, W) tensor of (H, W, 3) pixels that shares no memory with them."""
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))
