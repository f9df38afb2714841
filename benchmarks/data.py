"""Speed of label conversion and of the training mapper, relative to the published steps.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/data.py

The files are synthetic scenes of the sizes and formats of the real data sets: palette PNGs with frayed regions (GTA5:
1052 x 1914), 16-bit RGB (SYNTHIA: 760 x 1280), and images with so much grain that a PNG has about 2.3 MB, as GTA5's
have on average (label maps there: 28 kB). The peer takes the published steps one by one with Pillow, NumPy, OpenCV and
torch. Label map: one mask per id, and its sum for the statistics. Training sample: the label map in double precision,
image and label map resized as a whole and then cropped, color jitter in float32, one mask per class (ours lists the
classes, and the device makes the masks). It does not check the files for damage; ours does. Each mapper reads the label
maps that its own converter wrote.

Both get equal files and equal random numbers, in alternating rounds, on one thread. Times are processor time, the
median over the rounds. Label maps and statistics must be equal, samples up to the rounding of resampling.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from scenes import IGNORE, image, label_map
from torch.nn.functional import interpolate
from torch.nn.functional import pad as pad_tensor

from clouds.commands.entry import user_errors
from clouds.config import get_config
from clouds.d2 import CfgNode
from clouds.data.classes import CITYSCAPES_ID_TO_TRAIN_ID, SYNTHIA_ID_TO_TRAIN_ID
from clouds.data.encoding import LabelEncoding
from clouds.data.label_readers import READERS
from clouds.data.loading.mappers import TrainMapper
from clouds.data.preparation.converters import _convert_one
from clouds.data.preparation.formats import find_gta, find_synthia
from clouds.modeling.structures import targets_from_label_maps
from clouds.utils.arguments import CommandParser, positive_int
from clouds.utils.images import read_image

GTA5, SYNTHIA = (1052, 1914), (760, 1280)
_DIVISIBILITY = 32


def scene(index: int, size: tuple[int, int]) -> np.ndarray:
    """Draw an (H, W) uint8 label map whose PNG has about as many bytes as one of the data set."""
    return label_map(size, index, regions=6, fray=3.0)


def write_gta5(folder: Path, images: int) -> None:
    """Write images under `images` and palette PNGs of Cityscapes ids under `labels`."""
    to_id = {train_id: label_id for label_id, train_id in CITYSCAPES_ID_TO_TRAIN_ID.items()}
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(images):
        labels = scene(index, GTA5)
        Image.fromarray(image(labels, index, grain=0.7)).save(folder / f"images/{index:05d}.png")
        ids = Image.fromarray(translated(labels, to_id), "P")
        ids.putpalette([value for i in range(256) for value in (i, i * 7 % 256, 255 - i)])
        ids.save(folder / f"labels/{index:05d}.png")


def write_synthia(folder: Path, images: int) -> None:
    """Write 16-bit RGB label maps: the class in red, the number of a connected component in green."""
    to_class = {train_id: label_id for label_id, train_id in SYNTHIA_ID_TO_TRAIN_ID.items()}
    (folder / "GT/LABELS").mkdir(parents=True)
    for index in range(images):
        labels = translated(scene(index, SYNTHIA), to_class)
        things = cv2.connectedComponents(np.isin(labels, (8, 10, 11, 12, 17, 19)).astype(np.uint8))[1]
        pixels = np.stack([np.zeros(labels.shape), things, labels], axis=-1).astype(np.uint16)
        assert cv2.imwrite(str(folder / f"GT/LABELS/{index:07d}.png"), pixels)


def translated(labels: np.ndarray, table: Mapping[int, int]) -> np.ndarray:
    ids = np.zeros_like(labels)
    for source, target in table.items():
        ids[labels == source] = target
    return ids


# --- the published steps


def published_ids(table: Mapping[int, int], source: Path) -> np.ndarray:
    if table is SYNTHIA_ID_TO_TRAIN_ID:  # Pillow cannot read 16-bit RGB
        return cv2.imread(str(source), cv2.IMREAD_UNCHANGED)[:, :, -1]
    return np.asarray(Image.open(source))


def published_image(path: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def published_conversion(table: Mapping[int, int], pair: tuple[Path, Path]) -> dict[int, int]:
    source, target = pair
    ids = published_ids(table, source)
    label = np.full(ids.shape, IGNORE, np.uint8)
    counts = {}
    for label_id, train_id in table.items():
        mask = ids == label_id
        label[mask] = train_id
        if count := int(np.sum(mask)):
            counts[train_id] = count
    Image.fromarray(label).save(target)
    return counts


def published_sample(cfg: CfgNode, record: Mapping[str, str], rng: np.random.Generator) -> dict[str, Any]:
    """Make a training sample in the published way.

    Args:
        cfg: section INPUT of the config.
        record: paths of image and label map.
        rng: random generator of the augmentation.

    Returns:
        `image` (3, H, W) uint8, `sem_seg` (H, W) int64, `classes` (N,) and `masks` (N, H, W) bool.
    """
    image = published_image(record["file_name"])
    label = np.asarray(Image.open(record["sem_seg_file_name"])).astype("double")

    scale = rng.uniform(*cfg.SCALE_RANGE)
    factor = scale * min(cfg.INITIAL_HEIGHT / image.shape[0], cfg.INITIAL_WIDTH / image.shape[1])
    height, width = (round(side * factor) for side in image.shape[:2])
    image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    label = interpolate(torch.from_numpy(label)[None, None], (height, width), mode="nearest")[0, 0].numpy()

    crop = cfg.CROP_SIZE
    top, left = (round(rng.random() * max(0, side - want)) for side, want in zip((height, width), crop, strict=True))
    image, label = image[top : top + crop[0], left : left + crop[1]], label[top : top + crop[0], left : left + crop[1]]
    missing = [(0, max(0, want - side)) for want, side in zip(crop, label.shape, strict=True)]
    image = np.pad(image, [*missing, (0, 0)], constant_values=0)
    label = np.pad(label, missing, constant_values=IGNORE)

    image = published_jitter(image, rng)
    if rng.random() < 0.5:
        image, label = np.flip(image, axis=1), np.flip(label, axis=1)

    pixels = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
    sem_seg = torch.as_tensor(label.astype("long"))
    padding = [0, -sem_seg.shape[1] % _DIVISIBILITY, 0, -sem_seg.shape[0] % _DIVISIBILITY]
    pixels = pad_tensor(pixels, padding, value=128).contiguous()
    sem_seg = pad_tensor(sem_seg, padding, value=IGNORE).contiguous()
    target = sem_seg.numpy()
    classes = np.unique(target)
    classes = classes[classes != IGNORE]
    masks = torch.stack([torch.from_numpy(mask.copy()) for mask in [target == c for c in classes]])
    return {"image": pixels, "sem_seg": sem_seg, "classes": torch.as_tensor(classes), "masks": masks}


def published_jitter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply the color jitter of SSD to an RGB image, in BGR: each step in float32, then rounded to uint8."""
    brighten, contrast_first, contrast, saturate, turn = rng.random(5) < 0.5
    offset = rng.uniform(-32, 32)
    gain, chroma = rng.uniform(0.5, 1.5), rng.uniform(0.5, 1.5)
    angle = int(rng.integers(-18, 19))

    def linear(array: np.ndarray, alpha: float = 1.0, beta: float = 0.0) -> np.ndarray:
        return np.clip(array.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

    image = image[:, :, [2, 1, 0]]
    if brighten:
        image = linear(image, beta=offset)
    if contrast and contrast_first:
        image = linear(image, alpha=gain)
    if saturate:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[:, :, 1] = linear(hsv[:, :, 1], alpha=chroma)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if turn:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + angle) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if contrast and not contrast_first:
        image = linear(image, alpha=gain)
    return image[:, :, [2, 1, 0]]


# --- ours, and the comparison


def our_conversion(encoding: LabelEncoding, pair: tuple[Path, Path]) -> dict[int, int]:
    result = _convert_one(encoding, True, pair)
    assert not isinstance(result, str), result
    return result[0]


def our_sample(mapper: TrainMapper, record: dict[str, str], rng: np.random.Generator) -> dict[str, Any]:
    return mapper(record, rng)


def seconds(call: Callable[[int], object], items: Sequence[int]) -> float:
    """Processor time of the calls, which other processes on the machine do not affect."""
    start = time.process_time()
    for item in items:
        call(item)
    return time.process_time() - start


def compare(theirs: Callable[[int], object], ours: Callable[[int], object], count: int, rounds: int) -> list[float]:
    """Median milliseconds per item of both calls, measured in alternating rounds."""
    times: list[tuple[float, float]] = []
    for round_ in range(rounds):
        items = range(round_ * count, (round_ + 1) * count)
        order = (theirs, ours) if round_ % 2 else (ours, theirs)
        took = {call: seconds(call, items) for call in order}
        times.append((took[theirs], took[ours]))
    return [1000 * median(column) / count for column in zip(*times, strict=True)]


def check_samples(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Compare two samples: images up to the rounding of resampling and jitter, label maps except for some borders."""
    for key in ("image", "sem_seg"):
        assert theirs[key].shape == ours[key].shape, key
    apart = (theirs["image"].float() - ours["image"].float()).abs().mean()
    shared = (theirs["sem_seg"] == ours["sem_seg"]).float().mean()
    assert apart < 3 and shared > 0.97, (apart, shared)
    (target,) = targets_from_label_maps([ours], ours["sem_seg"].shape, torch.device("cpu"))
    for sample, classes, masks in ((theirs, theirs["classes"], theirs["masks"]), (ours, target.labels, target.masks)):
        assert all((sample["sem_seg"] == c).equal(mask) for c, mask in zip(classes, masks, strict=True))


def conversion_rows(
    name: str, table: Mapping[int, int], files: dict[Path, Path], encoding: LabelEncoding, rounds: int
) -> list[list[Any]]:
    """Return (name, published ms, our ms) of a conversion and of its reading alone."""
    pairs = list(files.items())
    calls = partial(published_conversion, table), partial(our_conversion, encoding)
    sizes = [0, 0]
    for source, target in pairs:
        made = []
        for number, call in enumerate(calls):
            made.append((call((source, target)), np.array(Image.open(target))))
            sizes[number] += target.stat().st_size
        assert made[0][0] == made[1][0], f"{name}: the statistics differ"
        assert (made[0][1] == made[1][1]).all(), f"{name}: the label maps differ"
    turns = [(lambda item, call=call: call(pairs[item % len(pairs)])) for call in calls]
    kilobytes = sum(source.stat().st_size for source in files) / len(files) / 1e3
    made_of = f"{kilobytes:.0f} kB to {sizes[0] / len(pairs) / 1e3:.0f} and {sizes[1] / len(pairs) / 1e3:.0f} kB"
    sources = [source for source, _ in pairs]
    readers = partial(published_ids, table), lambda source: READERS[encoding.kind](str(source))
    reading = [(lambda item, read=read: read(sources[item % len(sources)])) for read in readers]
    return [
        [f"{name} label map ({made_of})", *compare(*turns, len(pairs), rounds)],
        ["  reading alone", *compare(*reading, len(pairs), rounds)],
    ]


def mapper_rows(
    folder: Path, table: Mapping[int, int], files: dict[Path, Path], encoding: LabelEncoding, rounds: int
) -> list[list[Any]]:
    """Return (name, published ms, our ms) of a training sample and of reading its image alone."""
    cfg = get_config()
    calls = partial(published_sample, cfg.INPUT), partial(our_sample, TrainMapper(cfg))
    converters = partial(published_conversion, table), partial(our_conversion, encoding)
    turns = []
    for name, convert, call in zip(("published", "ours"), converters, calls, strict=True):
        (folder / name).mkdir()
        records = []
        for source in files:
            target = folder / name / source.name
            convert((source, target))
            file = source.parent.with_name("images") / source.name
            records.append({"file_name": str(file), "sem_seg_file_name": str(target)})
        turns.append(partial(_sample, call, records))
    for item in range(2 * len(files)):
        check_samples(turns[0](item), turns[1](item))
    megabytes = sum(Path(record["file_name"]).stat().st_size for record in records) / len(records) / 1e6
    names = [record["file_name"] for record in records]
    reading = [(lambda item, read=read: read(names[item % len(names)])) for read in (published_image, read_image)]
    return [
        [f"training sample (image: {megabytes:.2f} MB)", *compare(turns[0], turns[1], len(files), rounds)],
        ["  reading the image alone", *compare(reading[0], reading[1], len(files), rounds)],
    ]


def _sample(call: Callable[..., dict[str, Any]], records: Sequence[dict[str, str]], item: int) -> dict[str, Any]:
    return call(records[item % len(records)], np.random.default_rng(item))


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser("Measure converters and training mapper relative to the published steps.")
    parser.add_argument(
        "--images", type=positive_int, default=8, help="number of images of each data set (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=positive_int, default=9, help="number of rounds; the median is printed (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_gta5(root / "gta5", args.images)
        write_synthia(root / "synthia", args.images)
        rows = [
            *conversion_rows("GTA5", CITYSCAPES_ID_TO_TRAIN_ID, *find_gta(root / "gta5", "labels"), args.rounds),
            *conversion_rows(
                "SYNTHIA", SYNTHIA_ID_TO_TRAIN_ID, *find_synthia(root / "synthia", "GT/LABELS"), args.rounds
            ),
            *mapper_rows(root, CITYSCAPES_ID_TO_TRAIN_ID, *find_gta(root / "gta5", "labels"), args.rounds),
        ]
    sys.stdout.write(f"{'':52s}{'published':>16s}{'ours':>16s}{'ratio':>8s}\n")
    for name, peer, own in rows:
        speeds = "".join(f"{1000 / each:6.1f}/s {each:5.1f} ms" for each in (peer, own))
        sys.stdout.write(f"{name:52s}{speeds}{peer / own:7.2f}x\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
