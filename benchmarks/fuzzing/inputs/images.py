"""Images and label maps."""

import io
import random
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from clouds.data.classes import CITYSCAPES_ID_TO_TRAIN_ID
from clouds.data.encoding import LabelEncoding, check_same_size, read_train_ids
from clouds.data.label_readers import LabelKind
from clouds.data.loading.mappers import TestMapper
from clouds.data.preparation.class_statistics import class_counts, count_values
from clouds.data.protocols import read_protocol
from clouds.utils.images import check_png_end, image_size, read_image
from fuzzing.inputs.kind import Kind
from fuzzing.mutation import json_bytes, mutate_bytes, mutate_file, mutate_tree

_SIZE = (13, 9)


@cache
def _pixels(mode: str) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (_SIZE[1], _SIZE[0], 4), np.uint8)
    if mode == "I;16":
        return Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(noise[..., 0].astype(np.float32) / 255)
    if mode == "I":
        return Image.fromarray(noise[..., 0].astype(np.int32) * 1000)
    return Image.fromarray(noise, "RGBA").convert(mode)


@cache
def _images() -> dict[str, bytes]:
    """Valid files by their ending, with different modes and options."""
    kinds = [
        *((f"{mode}.png", mode, "PNG", {}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
        ("interlaced.png", "RGB", "PNG", {"optimize": True}),
        *((f"{mode}.jpg", mode, "JPEG", {"quality": 80}) for mode in ("RGB", "L", "CMYK")),
        ("progressive.jpg", "RGB", "JPEG", {"progressive": True}),
        *((f"{mode}.tif", mode, "TIFF", {}) for mode in ("RGB", "I;16", "F", "I", "L")),
        ("small.bmp", "RGB", "BMP", {}),
        ("small.webp", "RGB", "WEBP", {}),
        ("small.gif", "P", "GIF", {}),
    ]
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated
    kinds += [("turned.jpg", "RGB", "JPEG", {"exif": exif}), ("turned.png", "RGB", "PNG", {"exif": exif})]
    found = {}
    for name, mode, file_format, options in kinds:
        stream = io.BytesIO()
        _pixels(mode).save(stream, file_format, **options)
        found[name] = stream.getvalue()
    return found


def _write_image(folder: Path, rng: random.Random) -> str:
    name, content = rng.choice(sorted(_images().items()))
    if rng.random() < 0.1:
        name = f"x{Path(rng.choice(sorted(_images()))).suffix}"  # the ending of another format
    (folder / name).write_bytes(mutate_bytes(rng, content, rng.choice((0, 1, 1, 2, 5, 20))))
    if rng.random() < 0.02:
        mutate_file(rng, folder / name)
    return name


def _read_image(folder: Path, name: str) -> None:
    path = str(folder / name)
    mapper = TestMapper(protocols=[read_protocol("full_resolution")], short_edge=0, num_classes=3)
    [sample] = mapper({"file_name": path, "image_id": "x"})
    image = read_image(path)
    check_png_end(path)
    image_size(path)
    if image.mode != "RGB" or tuple(sample["image"].shape) != (3, image.height, image.width):
        raise AssertionError(f"{image.mode} image of {image.size}, but the sample has {tuple(sample['image'].shape)}")


_POLYGONS = {
    "imgHeight": 9,
    "imgWidth": 13,
    "objects": [
        {"label": "road", "polygon": [[0, 0], [8, 0], [8, 5]]},
        {"label": "cargroup", "polygon": [[1, 1], [3, 1], [3, 3]]},
        {"label": "license plate", "polygon": [[1, 1], [2, 1], [2, 2]], "deleted": 0},
    ],
}
_KINDS: tuple[LabelKind | None, ...] = (None, "train_ids", "ids", "colors", "red_ids", "cityscapes")


def _write_label(folder: Path, rng: random.Random) -> tuple[str, LabelKind | None]:
    kind = rng.choice(_KINDS)
    if kind == "cityscapes" and rng.random() < 0.7:
        tree = mutate_tree(rng, _POLYGONS, rng.choice((0, 1, 1, 2)))
        content, name = json_bytes(rng, tree), "a_polygons.json"
        if rng.random() < 0.2:
            content = mutate_bytes(rng, content)
    else:
        name, content = rng.choice(sorted(_images().items()))
        if rng.random() < 0.5:
            stream = io.BytesIO()
            ids = np.random.default_rng(1).choice(np.array([0, 1, 2, 255], np.uint8), (_SIZE[1], _SIZE[0]))
            Image.fromarray(ids).save(stream, "PNG")
            name, content = "ids.png", stream.getvalue()
        content = mutate_bytes(rng, content, rng.choice((0, 1, 1, 3)))
    (folder / name).write_bytes(content)
    if rng.random() < 0.02:
        mutate_file(rng, folder / name)
    return name, kind


def _read_label(folder: Path, arguments: tuple[str, LabelKind | None]) -> None:
    name, kind = arguments
    pairs = tuple(CITYSCAPES_ID_TO_TRAIN_ID.items()) if kind != "colors" else ((0x800000, 0), (0x408040, 1))
    pairs = tuple((value, train_id) for value, train_id in pairs if value >= 0)
    encoding = LabelEncoding(kind, pairs, 255) if kind else None
    path = str(folder / name)
    label = read_train_ids(path, 19, encoding)
    check_png_end(path, "label map")
    class_counts(count_values(label), 19)
    if label.dtype != np.uint8 or label.ndim != 2 or ((label >= 19) & (label != 255)).any():
        raise AssertionError(f"the label map is {label.dtype} of {label.shape} with values {np.unique(label)[:20]}")
    check_same_size(Image.new("RGB", _SIZE), "image.png", label, path)


IMAGES = Kind(_write_image, _read_image)
LABELS = Kind(_write_label, _read_label)
