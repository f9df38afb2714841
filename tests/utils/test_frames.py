"""Frames of videos, cameras and image files, and written videos."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from clouds.errors import UserError
from clouds.utils.frames import VideoWriter, camera_frames, image_frames, number_of_frames, video_frames


def drawn(number: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A frame with a square that moves."""
    pixels = np.full((*size, 3), (40, 90, 200), np.uint8)
    pixels[10:26, number % 40 : number % 40 + 16] = (200, 60, 3 * number % 256)
    return pixels


def write_lossless(path: Path, frames: int) -> None:
    """Write a Matroska file of 10 frames per second, without loss."""
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "bgr0"
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(drawn(number), format="rgb24")))
        container.mux(stream.encode(None))


def test_every_frame_has_its_pixels_and_time(tmp_path: Path) -> None:
    write_lossless(tmp_path / "a.mkv", 30)
    frames = list(video_frames(str(tmp_path / "a.mkv")))
    assert [frame.number for frame in frames] == list(range(30))
    assert all((np.asarray(frame.image) == drawn(frame.number)).all() for frame in frames)
    assert [frame.time for frame in frames] == pytest.approx([number / 10 for number in range(30)])
    some = list(video_frames(str(tmp_path / "a.mkv"), every=7))
    assert [frame.number for frame in some] == [0, 7, 14, 21, 28]
    assert number_of_frames(str(tmp_path / "a.mkv"), every=7) == 5


def test_a_written_video(tmp_path: Path) -> None:
    times = [0, 0.1, 0.2, 0.5, 0.5, 2.0]
    with (tmp_path / "a.mp4").open("w+b") as file, VideoWriter(file) as video:
        for number, time in enumerate(times):
            video.write(drawn(number, (49, 65)), time)
    frames = list(video_frames(str(tmp_path / "a.mp4")))
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.5, 0.501, 2.0], abs=1e-3)
    assert frames[0].image.size == (64, 48), "H.264 has even sides"
    difference = np.abs(np.asarray(frames[2].image).astype(int) - drawn(2, (48, 64)))
    assert difference.mean() < 6
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")


def test_a_video_of_one_pixel(tmp_path: Path) -> None:
    with (tmp_path / "a.mp4").open("w+b") as file, VideoWriter(file) as video:
        video.write(np.full((1, 1, 3), 200, np.uint8), 0)
    [frame] = video_frames(str(tmp_path / "a.mp4"))
    assert frame.image.size == (2, 2)


def test_a_turned_video_is_upright(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10))
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv444p"
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(drawn(0), format="rgb24")))
        container.mux(stream.encode(None))
    [frame] = video_frames(str(tmp_path / "a.mp4"))
    assert frame.image.size == (48, 64)


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_a_truncated_video_gives_the_frames_before(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "mkv":
        write_lossless(path, 60)
    else:  # its index comes first
        with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for number in range(60):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(drawn(number), format="rgb24")))
            container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    frames = []
    with pytest.raises(
        UserError, match=r"^The video .* (ends after|is damaged after) \d+ frames.*: download or copy it"
    ):
        for frame in video_frames(str(path)):
            frames.append(frame.number)
    assert 10 < len(frames) < 59


@pytest.mark.parametrize("content", [b"", b"no video" * 50])
def test_what_is_no_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(UserError, match=r"^The video .*a\.mp4 cannot be read \(.*\): download or copy it anew"):
        next(video_frames(str(tmp_path / "a.mp4")))
    with pytest.raises(UserError, match=r"^The video .*none\.mp4 cannot be read \(No such file or directory\)"):
        number_of_frames(str(tmp_path / "none.mp4"))


def test_a_file_with_sound_alone(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(UserError, match=r"a\.wav has no video: give a video or an image\.$"):
        next(video_frames(str(tmp_path / "a.wav")))


def test_a_camera_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^There is no camera 87, or another program uses it: check its number"):
        next(camera_frames(87))
    assert capfd.readouterr().err == ""


def test_an_image_of_several_frames(tmp_path: Path) -> None:
    frames = [Image.fromarray(drawn(10 * number)).quantize(8) for number in range(5)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=200)
    found = list(image_frames(str(tmp_path / "a.gif"), every=2))
    assert [(frame.number, frame.time) for frame in found] == [(0, 0), (2, 0.4), (4, 0.8)]
    assert (np.asarray(found[1].image) == np.asarray(frames[2].convert("RGB"))).all()
    pages = [Image.fromarray(drawn(0)), Image.fromarray(drawn(1)[:20])]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert [frame.image.size for frame in image_frames(str(tmp_path / "a.tif"))] == [(64, 48), (64, 20)]
    pages[0].save(tmp_path / "a.png")
    [single] = image_frames(str(tmp_path / "a.png"))
    assert (np.asarray(single.image) == drawn(0)).all()
