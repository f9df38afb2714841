"""Predictions of files and cameras, written to files."""

import itertools
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from clouds.api.results import Segmentation
from clouds.api.segmenter import Segmenter, load
from clouds.clouds import CLOUDS
from clouds.d2 import CfgNode
from clouds.data.classes import short_name
from clouds.data.datasets.custom import read_custom
from clouds.engine.checkpointing.origin import CLASSES_REMEDY, differing_classes, has_text_head
from clouds.engine.log import start_log
from clouds.engine.predictor import failures_noted
from clouds.engine.setup import config_with_dataset, set_up_libraries
from clouds.errors import UserError
from clouds.utils.atomic import atomic_file, make_folder, write_atomically
from clouds.utils.downloads import local_file
from clouds.utils.failures import raise_failures
from clouds.utils.frames import (
    Frame,
    VideoWriter,
    camera_frames,
    image_frames,
    number_of_frames,
    number_of_images,
    video_frames,
)
from clouds.utils.images import encoded, read_image
from clouds.utils.paths import is_url
from clouds.utils.signals import Stopped, stop_here
from clouds.utils.sources import Source, Sources

logger = logging.getLogger(__name__)

_LONGEST_JPEG = 65_500  # pixels, a limit of libjpeg
_NAMED = 3  # files in a message
_SCORED = {"confidence", "entropy"}


@dataclass(frozen=True)
class Output:
    """Choice of the results.

    Attributes:
        results: some of `RESULTS` in `clouds.commands.predict`.
        folder: folder of all results, for the list of the segments.
        every: distance of the frames of videos, cameras and images of several frames that are labeled.
        most: largest number of labeled frames of each of these; None for all.
    """

    results: Sequence[str]
    folder: Path
    every: int = 1
    most: int | None = None


def write_predictions(
    sources: Sources,
    source: str | Path,
    output: Output,
    cfg: CfgNode | None = None,
    config_file: str | Path | None = None,
    opts: Sequence[str] = (),
    *,
    dataset: str | Path | None = None,
) -> None:
    """Predict images, and the frames of videos and cameras, and write the results.

    The results of an image begin with its target, those of a frame with ``<target>/<number>``. An overlay is reduced to
    65,500 pixels a side, the most that a JPEG can have; that of a video is ``<target>_overlay.mp4``.

    Args:
        sources: images, videos and cameras; files that are neither are counted and named in the log.
        source: trained network, see `load`.
        output: choice of the results.
        cfg: config that was read from `config_file` and `opts`; None without a `config_file`.
        config_file: YAML config; None for that beside the weights.
        opts: alternating config keys and values.
        dataset: YAML file that describes the data set whose classes are predicted.

    Raises:
        UserError: the network cannot be loaded, or some inputs cannot be read or are too large for the memory. All
            others are predicted first.
        WriteError: a result cannot be written. The same call predicts the images anew.
        Stopped: a signal has asked to stop. The frame that was begun is finished first, and videos are closed.
    """
    start_log(None)
    model = load_for_files(source, cfg, config_file, opts, dataset=dataset)
    if sources.others:
        named = ", ".join(map(str, sources.others[:_NAMED])) + (", ..." if len(sources.others) > _NAMED else "")
        logger.info(f"Passed over, neither images nor videos: {len(sources.others):,} ({named})")
    found, failures = sources.found, list[str]()
    results = _Results(model, output)
    began, images = time.perf_counter(), 0
    with tqdm(total=_total(found, output), unit="image") as progress:
        try:
            for each in found:
                stop_here(_AGAIN)
                with failures_noted(each.name, failures):
                    for _ in _predict_source(model, each, output, results, failures):
                        images += 1
                        progress.update()
        finally:
            results.finish()
    seconds = time.perf_counter() - began
    raise_failures(failures, f"{len(failures)} of {len(found)} inputs failed, the others are done", logger)
    logger.info(f"Images labeled: {images:,} ({images / max(seconds, 1e-9):.1f} images/s)")


def load_for_files(
    source: str | Path,
    cfg: CfgNode | None = None,
    config_file: str | Path | None = None,
    opts: Sequence[str] = (),
    *,
    dataset: str | Path | None = None,
) -> Segmenter:
    """Load a network for a command that predicts files, and set up the libraries of this process.

    Args:
        source: trained network, see `load`.
        cfg: config that was read from `config_file` and `opts`; None without a `config_file`.
        config_file: YAML config; None for that beside the weights.
        opts: alternating config keys and values.
        dataset: YAML file that describes the data set whose classes are predicted.

    Raises:
        UserError: the network cannot be loaded, or cannot predict the classes of the data set.
    """
    if cfg is None or config_file is None:
        model = load(source, options=opts)
    else:
        cfg = config_with_dataset(cfg, config_file, opts, dataset)
        model = load(source, config=cfg, device=cfg.MODEL.DEVICE)
    set_up_libraries(model.cfg)
    return _for_dataset(model, dataset) if dataset else model


_AGAIN = "what is written stays, and the same command begins anew"


def _total(sources: Sequence[Source], output: Output) -> int | None:
    """Return the number of images and frames to predict; None if it is not known."""
    total = 0
    for each in sources:
        number: int | None = 1
        if each.kind == "camera":
            number = output.most
        elif each.kind == "video":
            try:
                number = None if is_url(each.name) else number_of_frames(each.name, output.every)
            except UserError:  # said when its turn comes
                number = 0
            number = output.most if number is None else min(number, output.most or number)
        if number is None:
            return None
        total += number
    return total


def _predict_source(
    model: Segmenter, source: Source, output: Output, results: "_Results", failures: list[str]
) -> Iterator[None]:
    """Predict the frames of an input, and write their results; yields after each."""
    name = source.name
    if is_url(name):
        name = str(local_file(name, source.kind))
    several = source.kind != "image" or number_of_images(name) > 1
    frames = _frames(source, name, output.every) if several else iter([Frame(0, 0.0, read_image(name))])
    frames = itertools.islice(frames, output.most)
    with ExitStack() as stack:
        video = None
        if source.kind != "image" and "overlay" in output.results:
            path = Path(f"{source.target}_overlay.mp4")
            make_folder(path.parent)
            video = stack.enter_context(VideoWriter(stack.enter_context(atomic_file(path))))
        shown, ending = 0, None
        try:
            for frame in frames:
                target = source.target / f"{frame.number:06d}" if several else source.target
                with failures_noted(f"{source.name}, frame {frame.number}" if several else source.name, failures):
                    result = model.predict(frame.image, scores=not _SCORED.isdisjoint(output.results))
                    results.write(target, source.name, frame, result, overlay=video is None)
                    if video is not None:
                        video.write(np.asarray(result.overlay()), frame.time)
                        shown += 1
                yield
                stop_here(_AGAIN)
        except (UserError, Stopped) as error:
            if not shown:
                raise
            ending = error  # the overlay has the frames before
    if ending is not None:
        raise ending


def _frames(source: Source, name: str, every: int) -> Iterator[Frame]:
    if source.kind == "camera":
        return camera_frames(int(name), every)
    return video_frames(name, every) if source.kind == "video" else image_frames(name, every)


class _Results:
    """Writes the results of single images, and a list of all segments at the end."""

    def __init__(self, model: Segmenter, output: Output) -> None:
        self.output = output
        self.images: list[dict[str, object]] = []
        self.annotations: list[dict[str, object]] = []
        self.categories = [
            {"id": number, "name": short_name(name), "isthing": 0, "color": list(color)}
            for number, (name, color) in enumerate(zip(model.classes, model.colors, strict=True))
        ]

    def write(self, target: Path, source: str, frame: Frame, result: Segmentation, *, overlay: bool) -> None:
        """Write the results of an image.

        Args:
            target: path of the results without their endings.
            source: path or URL of its file.
            frame: the image.
            result: its prediction.
            overlay: whether the overlay is a file of its own.
        """
        wanted = self.output.results
        make_folder(target.parent)
        if "labels" in wanted:
            result.save(f"{target}_labels.png")
        if "overlay" in wanted and overlay:
            shown = result.overlay()
            shown.thumbnail((_LONGEST_JPEG, _LONGEST_JPEG))
            write_atomically(Path(f"{target}_overlay.jpg"), encoded(shown, "JPEG", quality=90))
        for name in sorted(_SCORED.intersection(wanted)):
            write_atomically(Path(f"{target}_{name}.png"), encoded(_gray(getattr(result, name)), "PNG"))
        if "json" in wanted:
            write_atomically(Path(f"{target}.json"), json.dumps(_summary(source, frame, result), indent=1) + "\n")
        if "panoptic" in wanted:
            self._add_segments(target, result)

    def _add_segments(self, target: Path, result: Segmentation) -> None:
        """Write the segments of an image as colors, and add them to the list. Each class is one segment."""
        path = Path(f"{target}_panoptic.png")
        ids = np.zeros((*result.labels.shape, 3), np.uint8)
        ids[..., 0] = result.labels + 1  # id = R + 256 G + 65536 B; 0 is no segment
        write_atomically(path, encoded(Image.fromarray(ids), "PNG"))
        number = len(self.images) + 1
        height, width = result.labels.shape
        segments = []
        for label in np.unique(result.labels).tolist():
            rows, columns = np.nonzero(result.labels == label)
            left, top = int(columns.min()), int(rows.min())
            box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
            segments.append({"id": label + 1, "category_id": label, "area": len(rows), "bbox": box, "iscrowd": 0})
        name = path.relative_to(self.output.folder).as_posix()
        self.images.append({"id": number, "file_name": name, "height": height, "width": width})
        self.annotations.append({"image_id": number, "file_name": name, "segments_info": segments})

    def finish(self) -> None:
        """Write the list of all segments, in the layout of COCO's panoptic annotations."""
        if self.images:
            content = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
            write_atomically(self.output.folder / "panoptic.json", json.dumps(content) + "\n")


def _gray(values: npt.NDArray[np.float32]) -> Image.Image:
    """Return values in 0..1 as 16-bit gray, 65535 for 1."""
    return Image.fromarray(np.round(values * 65535).astype(np.uint16))


def _summary(source: str, frame: Frame, result: Segmentation) -> dict[str, object]:
    height, width = result.labels.shape
    known: dict[str, object] = {"input": source, "frame": frame.number, "height": height, "width": width}
    if frame.time:
        known["time"] = round(frame.time, 3)
    if result.shares is not None:
        known["confidence"] = round(float(result.confidence.mean()), 4)
    return known | {"area": {name: round(share, 6) for name, share in result.area.items() if share}}


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
