"""Predictions of uploaded files, one at a time. Needs no Gradio."""

import dataclasses
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clouds.api import Segmentation, Segmenter
from clouds.errors import UserError
from clouds.utils.atomic import atomic_file
from clouds.utils.frames import Frame, VideoWriter, number_of_frames, video_frames
from clouds.utils.images import read_image
from clouds.utils.signals import stop_requested
from clouds.visualization.palette import UInt8Array
from clouds.web.panels import heat_map, reduced

IMAGE_PIXELS = 4_000_000
"""Most pixels of an image; a larger one is reduced."""
VIDEO_PIXELS = 1_000_000
"""Most pixels of a frame of a video; a larger one is reduced."""


@dataclass(frozen=True)
class Limits:
    """Limits of what is uploaded.

    Attributes:
        megabytes: largest file.
        seconds: length of a video from its start that is predicted.
        frames: largest number of its frames that are predicted, at equal distances of time.
    """

    megabytes: int = 50
    seconds: int = 10
    frames: int = 50


@dataclass(frozen=True, eq=False)
class Shown:
    """Prediction of an image, as the page shows it. H x W image.

    Attributes:
        result: label map, without scores.
        confidence: (H, W, 3) uint8 RGB, see `heat_map`.
        entropy: (H, W, 3) uint8 RGB, see `heat_map`.
    """

    result: Segmentation
    confidence: UInt8Array
    entropy: UInt8Array


class Predictions:
    """Predicts uploaded files with a network, one at a time.

    Args:
        model: the network.
        limits: limits of a video.
    """

    def __init__(self, model: Segmenter, limits: Limits) -> None:
        self.model = model
        self.limits = limits
        self._lock = threading.Lock()

    def image(self, path: str, name: str, classes: list[str] | None) -> Shown:
        """Predict an image, reduced to `IMAGE_PIXELS`.

        Args:
            path: path of the file.
            name: name under which it was uploaded, for messages.
            classes: names of the classes to predict; None for those of the network.

        Raises:
            UserError: the file is no image, the network cannot predict these classes, or the memory is not sufficient.
        """
        with self._lock, _named(path, name):
            image = reduced(read_image(path), IMAGE_PIXELS)
            result = self.model.predict(image, classes=classes, scores=True)
            maps = heat_map(result.confidence), heat_map(result.entropy)
        return Shown(dataclasses.replace(result, shares=None), *maps)

    def video(
        self,
        path: str,
        name: str,
        classes: list[str] | None,
        opacity: float,
        target: Path,
        report: Callable[[float], None],
    ) -> tuple[Segmentation, int]:
        """Predict some frames of a video, and write their overlays as an MP4 file that browsers show.

        Args:
            path: path of the file.
            name: name under which it was uploaded, for messages.
            classes: names of the classes to predict; None for those of the network.
            opacity: weight of the colors, 0..1.
            target: path of the overlay.
            report: called after each frame with the share of the seconds that is done, 0..1.

        Returns:
            The last prediction, and the number of frames.

        Raises:
            UserError: the file is no video, is damaged, or cannot be predicted; or a signal has asked to stop.
        """
        with self._lock, _named(path, name), atomic_file(target) as file, VideoWriter(file) as writer:
            frames = 0
            for frame in self._frames(path):
                if stop_requested():
                    raise UserError("The server is being stopped: start it again, and upload the video again.")
                result = self.model.predict(reduced(frame.image, VIDEO_PIXELS), classes=classes)
                writer.write(np.asarray(result.overlay(opacity)), frame.time)
                frames += 1
                report(min(frame.time / self.limits.seconds, 1))
        return result, frames

    def _frames(self, path: str) -> Iterator[Frame]:
        """Yield the frames to predict: all of a short video, otherwise some at equal distances of time."""
        seconds, most = self.limits.seconds, self.limits.frames
        known = number_of_frames(path)
        due = 0  # the next of `most` equal parts of the time from which a frame is missing
        for frame in video_frames(path):
            if frame.time >= seconds:
                return
            part = math.floor(frame.time * most / seconds)
            if part >= due or (known is not None and known <= most):
                yield frame
                due = part + 1

    def wait(self) -> None:
        """Wait for the prediction that is under way."""
        with self._lock:
            pass


@contextmanager
def _named(path: str, name: str) -> Iterator[None]:
    """Name a file in messages as it was uploaded, since its path means nothing to those who see the page."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(path, name)) from error
