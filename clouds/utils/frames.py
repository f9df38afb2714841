"""Frames of videos, of cameras, and of image files with several frames or pages; and videos that are written.

Videos are read and written by PyAV, cameras are read by OpenCV. A frame is upright, 8-bit RGB.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from types import TracebackType
from typing import BinaryIO, Self

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from PIL import Image

from clouds.errors import UserError
from clouds.utils.images import frame_count, open_image, pillow_errors, to_rgb

_TICK = Fraction(1, 1000)  # seconds, the resolution of the times in a video that is written
_MISSING = 1.0  # seconds at the end of a video without a frame, from which on it counts as truncated
_RATE = 25  # frames per second that a player may expect of a written video; its frames have times of their own
_QUALITY = "20"  # constant rate factor of H.264: 0 is lossless, 23 the default, 51 the worst


@dataclass(frozen=True)
class Frame:
    """A frame.

    Attributes:
        number: its position, from 0; with `every` n, a multiple of n.
        time: seconds since the start.
        image: its pixels, RGB.
    """

    number: int
    time: float
    image: Image.Image


def image_frames(path: str, every: int = 1) -> Iterator[Frame]:
    """Yield the frames or pages of an image file, one for most files. The time is that of an animation, or 0.

    Args:
        path: path of the file.
        every: distance of the frames that are yielded.

    Raises:
        UserError: the file cannot be read, see `clouds.utils.images`. The frames before the damage are yielded.
    """
    with open_image(path, "image", several=True) as file:
        time = 0.0
        for number in range(frame_count(file)):
            with pillow_errors():
                file.seek(number)
            if number % every == 0:
                image = to_rgb(file)
                yield Frame(number, time, image.copy() if image is file else image)
            time += file.info.get("duration", 0) / 1000


def number_of_images(path: str) -> int:
    """Return the number of frames or pages of an image file.

    Raises:
        UserError: the file cannot be read.
    """
    with open_image(path, "image", several=True) as file:
        return frame_count(file)


def video_frames(path: str, every: int = 1) -> Iterator[Frame]:
    """Yield the frames of the first video in a file.

    Args:
        path: path of the file.
        every: distance of the frames that are yielded.

    Raises:
        UserError: the file is missing, no video, damaged or truncated. The frames before the damage are yielded.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        packets, number, end = 0, 0, 0.0
        try:
            for packet in container.demux(stream):
                packets += packet.size > 0
                for frame in packet.decode():
                    time = number / float(stream.average_rate or _RATE) if frame.time is None else frame.time
                    end = max(end, time)
                    if number % every == 0:
                        pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90 % 4)
                        yield Frame(number, time, Image.fromarray(np.ascontiguousarray(pixels)))
                    number += 1
        except (FFmpegError, OSError) as error:
            raise UserError(
                f"The video {path} is damaged after {number} frames ({_reason(error)}): {_REMEDY}."
            ) from error
        if number == 0:
            raise UserError(f"The video {path} has no frame that can be read: {_REMEDY}.")
        if packets < stream.frames or end + _MISSING < _duration(container, stream):
            raise UserError(f"The video {path} ends after {number} frames, before the end that it names: {_REMEDY}.")


def number_of_frames(path: str, every: int = 1) -> int | None:
    """Return how many frames `video_frames` probably yields; None if the file does not say it.

    Raises:
        UserError: the file is missing or no video.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        frames = stream.frames or round(_duration(container, stream) * float(stream.average_rate or 0))
        return -(-frames // every) if frames else None


def camera_frames(index: int, every: int = 1) -> Iterator[Frame]:
    """Yield the frames of a camera, without an end. The time is that of the clock.

    Args:
        index: number of the camera, from 0.
        every: distance of the frames that are yielded.

    Raises:
        UserError: there is no such camera, or it gives no more frames.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it says is said by the error
    camera = cv2.VideoCapture(index)
    try:
        if not camera.isOpened():
            raise UserError(f"There is no camera {index}, or another program uses it: check its number, from 0.")
        start = cv2.getTickCount()
        for number in count():
            known, pixels = camera.read()
            if not known:
                raise UserError(f"Camera {index} gives no frame after {number} frames: check its connection.")
            if number % every == 0:
                time = (cv2.getTickCount() - start) / cv2.getTickFrequency()
                yield Frame(number, time, Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)))
    finally:
        camera.release()


class VideoWriter:
    """Writes frames as H.264 in an MP4 file, which browsers and players show. It has to be closed.

    A frame with an odd width or height loses its last column or row, because H.264 stores the colors of two by two
    pixels.

    Args:
        file: binary file, opened for writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._container = av.open(file, "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=_RATE)
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": _QUALITY}
        self._stream.codec_context.time_base = _TICK
        self._last = -1

    def write(self, image: npt.NDArray[np.uint8], time: float) -> None:
        """Write a frame.

        Args:
            image: (H, W, 3) uint8 RGB, with the size of the first frame.
            time: seconds since the start, more than that of the frame before.
        """
        height, width = (max(side - side % 2, 2) for side in image.shape[:2])
        if self._last < 0:
            self._stream.height, self._stream.width = height, width
        padded = np.pad(image, [(0, max(0, 2 - side)) for side in image.shape[:2]] + [(0, 0)], mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded[:height, :width]), format="rgb24")
        self._last = max(round(time / _TICK), self._last + 1)
        frame.pts, frame.time_base = self._last, _TICK
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what the encoder still holds."""
        if self._last >= 0:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_REMEDY = "download or copy it anew, or convert it to MP4"


def _opened(path: str) -> "closing[InputContainer]":
    try:
        container = av.open(path)
    except (FFmpegError, OSError) as error:
        raise UserError(f"The video {path} cannot be read ({_reason(error)}): {_REMEDY}.") from error
    if not container.streams.video:
        container.close()
        raise UserError(f"The file {path} has no video: give a video or an image.")
    return closing(container)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _duration(container: InputContainer, stream: VideoStream) -> float:
    """Return the length of a video in seconds as its file names it; 0 if it does not, or only together with sound."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        alone = len(container.streams) == 1
        return container.duration / av.time_base if alone and container.duration is not None else 0.0
