"""The command ``clouds predict``: the classes of a YAML file, images of any size, and images that fail."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clouds
from clouds.api.segmenter import _check_memory
from clouds.commands import predict
from clouds.errors import UserError
from clouds.utils.frames import video_frames
from tests.operations import Largest
from tests.utils.test_frames import drawn, write_lossless

DATASET = """
name: mine
splits: {{val: {{images: "*.png"}}}}
classes:
  - {{name: "{}", color: [10, 20, 30], values: [0]}}
  - {{name: lawn, color: [40, 50, 60], values: [1]}}
  - {{name: sky, color: [70, 80, 90], values: [2]}}
encoding: ids
"""


@pytest.mark.parametrize("head", ["closed", "text"])
@pytest.mark.parametrize("place", ["run", "shared", "shared, without --config-file"])
def test_the_classes_of_a_file(
    request: pytest.FixtureRequest,
    head: str,
    place: str,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A folder of save_pretrained records its classes; those of the file take their place."""
    folder, weights = request.getfixturevalue(head), "model_final.pth"
    if place != "run":
        clouds.load(folder, device="cpu").save_pretrained(tmp_path / "shared")
        folder, weights = tmp_path / "shared", "model.safetensors"
    (tmp_path / "mine.yaml").write_text(DATASET.format("highway"))
    words = ["--dataset", str(tmp_path / "mine.yaml"), str(images[0]), "--output", str(tmp_path / "out")]
    words += ["MODEL.DEVICE", "cpu"]
    if place.endswith("without --config-file"):
        words = ["--model", str(folder), *words]
    else:
        words = ["--config-file", str(folder / "config.yaml"), *words, "MODEL.WEIGHTS", str(folder / weights)]
    code = predict.main(words)
    if head == "closed":
        assert code == 2
        assert "The network was trained on other classes than" in capsys.readouterr().err
        return
    assert code == 0
    model = clouds.load(folder, device="cpu")
    expected = model.predict(images[0], classes=["highway", "lawn", "sky"]).labels
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/0_labels.png")), expected)


PASSES = {
    "one pass": [],
    "augmented": ["TEST.AUG.ENABLED", "True"],
    "window": ["TEST.WINDOW", "48", "TEST.STRIDE", "32"],
    "augmented window": ["TEST.WINDOW", "48", "TEST.AUG.ENABLED", "True", "TEST.AUG.SCALES", "(0.5,1.0)"],
}


@pytest.mark.parametrize(
    ("size", "passes"),
    [
        ((64, 6000), "one pass"),
        ((64, 6000), "augmented"),
        ((1, 3000), "window"),
        ((500, 3), "augmented window"),
        ((700, 900), "augmented window"),
        ((1, 70_000), "one pass"),
    ],
)
def test_memory_does_not_grow_with_the_image(closed: Path, tmp_path: Path, size: tuple[int, int], passes: str) -> None:
    """The largest tensor is that of the input's limit, or the label map itself, one byte for each pixel."""
    height, width = size
    coarse = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (1 + height // 50, 1 + width // 50, 3), np.uint8)
    )
    coarse.resize((width, height)).save(tmp_path / "image.png")
    words = ["--model", str(closed), str(tmp_path / "image.png"), "--output", str(tmp_path / "out")]
    opts = ["MODEL.DEVICE", "cpu", "INPUT.TEST_SHORT_EDGE", "1024", "INPUT.TEST_MAX_PIXELS", "16384"]
    with Largest() as largest:
        assert predict.main([*words, *opts, *PASSES[passes]]) == 0
    with Image.open(tmp_path / "out/image_labels.png") as labels:
        assert labels.size == (width, height)
    with Image.open(tmp_path / "out/image_overlay.jpg") as overlay:
        assert overlay.size == (min(width, 65_500), height)
    # The weights are smaller, too. Without the limit, the input alone would take 12 MB or more.
    assert largest.returned < 4e6


def test_an_image_that_fails_does_not_cost_the_others(
    closed: Path,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "1.png").write_bytes(images[0].read_bytes()[:200])
    Image.new("RGB", (12_000_000, 1)).save(folder / "2.png")  # 48 rows of 576 million pixels, without a limit
    for name in ("0.png", "3.png"):
        (folder / name).write_bytes(images[0].read_bytes())
    words = ["--model", str(closed), str(folder), "--output", str(tmp_path / "out")]
    assert predict.main([*words, "MODEL.DEVICE", "cpu", "INPUT.TEST_MAX_PIXELS", "0"]) == 2
    printed = capsys.readouterr()
    message = printed.err.rsplit("error: ", 1)[1]
    assert message.startswith(f"2 of 4 inputs failed, the others are done; first: The image {folder / '1.png'} ")
    assert f"{folder / '2.png'}: The memory is not sufficient" in printed.out + caplog.text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "0_labels.png", "0_overlay.jpg", "3_labels.png", "3_overlay.jpg",
    ]  # fmt: skip
    assert (tmp_path / "out/0_labels.png").read_bytes() == (tmp_path / "out/3_labels.png").read_bytes()


def test_scores_that_do_not_fit_into_the_memory_are_refused() -> None:
    _check_memory([(100, 100)], 19)
    with pytest.raises(UserError, match=r"The scores of 1 image with 19 classes take 76,000\.0 GB, .* without scores"):
        _check_memory([(10**6, 10**6)], 19)


def test_the_keys_and_the_argument_are_one_augmentation(closed: Path, images: list[Path], tmp_path: Path) -> None:
    opts = ["TEST.AUG.SCALES", "(0.5,1.5)", "TEST.AUG.FLIP", "False", "TEST.WINDOW", "40", "TEST.STRIDE", "30"]
    on = ["TEST.AUG.ENABLED", "True"]
    enabled, plain = (clouds.load(closed, options=each, device="cpu") for each in ([*opts, *on], opts))
    words = ["--model", str(closed), str(images[0]), "--output", str(tmp_path), "MODEL.DEVICE", "cpu"]
    assert predict.main([*words, *opts, *on]) == 0
    augmented = np.asarray(Image.open(tmp_path / "0_labels.png"))
    assert np.array_equal(enabled.predict(images[0]).labels, augmented)
    assert np.array_equal(plain.predict(images[0], tta=True).labels, augmented)
    scores = plain.predict(images[0], scores=True).scores
    assert np.array_equal(enabled.predict(images[0], tta=False, scores=True).scores, scores)
    usual = clouds.load(closed, device="cpu")
    assert not np.allclose(usual.predict(images[0], scores=True).scores, scores, atol=1e-2)
    assert not np.allclose(enabled.predict(images[0], scores=True).scores, scores, atol=1e-2)


@pytest.mark.slow
def test_labels_of_a_frame_are_those_of_the_image(
    closed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_lossless(tmp_path / "street.mkv", 200)
    words = ["--model", str(closed), "--output", str(tmp_path / "out"), "MODEL.DEVICE", "cpu"]
    assert predict.main([str(tmp_path / "street.mkv"), *words]) == 0
    assert "Images labeled: 200 (" in capsys.readouterr().out + caplog.text
    labels = sorted((tmp_path / "out/street").iterdir())
    assert [path.name for path in labels] == [f"{number:06d}_labels.png" for number in range(200)]
    model = clouds.load(closed, device="cpu")
    Image.fromarray(drawn(150)).save(tmp_path / "150.png")
    expected = model.predict(tmp_path / "150.png")
    assert np.array_equal(np.asarray(Image.open(labels[150])), expected.labels)
    overlay = list(video_frames(str(tmp_path / "out/street_overlay.mp4")))
    assert [frame.time for frame in overlay] == pytest.approx([number / 10 for number in range(200)])
    difference = np.abs(np.asarray(overlay[150].image).astype(int) - np.asarray(expected.overlay()))
    assert difference.mean() < 8, "but for the compression"


def test_some_frames_and_all_results(closed: Path, tmp_path: Path) -> None:
    write_lossless(tmp_path / "street.mkv", 30)
    pages = [Image.fromarray(drawn(number)) for number in (0, 9)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    out = tmp_path / "out"
    flags = [
        "--every",
        "10",
        "--frames",
        "2",
        "--write",
        "overlay,confidence,entropy,json,panoptic",
        "--output",
        str(out),
    ]
    inputs = [str(tmp_path / "street.mkv"), str(tmp_path / "pages.tif")]
    assert predict.main(["--model", str(closed), *flags, *inputs, "MODEL.DEVICE", "cpu"]) == 0
    endings = ("_confidence.png", "_entropy.png", "_panoptic.png", ".json")
    assert {path.name for path in (out / "street").iterdir()} == {
        f"{n}{end}" for n in ("000000", "000010") for end in endings
    }
    # Of the pages, --every 10 leaves the first.
    assert {path.name for path in (out / "pages").iterdir()} == {f"000000{end}" for end in (*endings, "_overlay.jpg")}
    assert len(list(video_frames(str(out / "street_overlay.mp4")))) == 2

    expected = clouds.load(closed, device="cpu").predict(drawn(10), scores=True)
    for name in ("confidence", "entropy"):
        with Image.open(out / f"street/000010_{name}.png") as file:
            assert np.allclose(np.asarray(file) / 65535, getattr(expected, name), atol=1e-5)
    summary = json.loads((out / "street/000010.json").read_text())
    assert (summary["frame"], summary["time"], summary["height"], summary["width"]) == (10, 1.0, 48, 64)
    assert summary["area"] == {name: round(share, 6) for name, share in expected.area.items() if share}

    listed = json.loads((out / "panoptic.json").read_text())
    assert [each["file_name"] for each in listed["images"]] == [
        *(f"street/{n}_panoptic.png" for n in ("000000", "000010")), "pages/000000_panoptic.png",
    ]  # fmt: skip
    colors = np.asarray(Image.open(out / "street/000010_panoptic.png")).astype(int)
    ids = colors @ [1, 256, 65536]
    for segment in listed["annotations"][1]["segments_info"]:
        inside = ids == segment["id"]
        assert np.array_equal(inside, expected.labels == segment["category_id"])
        left, top, width, height = segment["bbox"]
        assert inside.sum() == segment["area"] == inside[top : top + height, left : left + width].sum()
    assert [each["name"] for each in listed["categories"]] == list(expected.area)


def test_videos_that_fail(
    closed: Path,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_lossless(tmp_path / "in/cut.mkv", 60)
    content = (tmp_path / "in/cut.mkv").read_bytes()
    (tmp_path / "in/cut.mkv").write_bytes(content[: len(content) // 2])
    (tmp_path / "in/no.mp4").write_bytes(b"no video" * 99)
    (tmp_path / "in/notes.txt").write_text("neither")
    (tmp_path / "in/whole.png").write_bytes(images[0].read_bytes())
    words = ["--model", str(closed), str(tmp_path / "in"), "camera:87", "--output", str(tmp_path / "out")]
    assert predict.main([*words, "--frames", "40", "MODEL.DEVICE", "cpu"]) == 2
    printed = capsys.readouterr()
    message, log = printed.err.rsplit("error: ", 1)[1], printed.out + caplog.text
    assert message.startswith("3 of 4 inputs failed, the others are done; first: The video ")
    assert "There is no camera 87" in log
    assert f"Passed over, neither images nor videos: 1 ({tmp_path / 'in/notes.txt'})" in log
    labels = len(list((tmp_path / "out/cut").iterdir()))
    assert 10 < labels < 40
    overlay = list(video_frames(str(tmp_path / "out/cut_overlay.mp4")))
    assert len(overlay) == labels, "the frames before the damage"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cut", "cut_overlay.mp4", "whole_labels.png", "whole_overlay.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize("taken", ["out", "out/cut_overlay.mp4"])
def test_the_overlay_of_a_video_that_cannot_be_written(
    closed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], taken: str
) -> None:
    write_lossless(tmp_path / "in/cut.mkv", 2)
    if taken == "out":
        (tmp_path / taken).write_text("a file")
    else:
        (tmp_path / taken / "folder").mkdir(parents=True)
    words = ["--model", str(closed), str(tmp_path / "in"), "--output", str(tmp_path / "out"), "MODEL.DEVICE", "cpu"]
    assert predict.main(words) == 2
    message = capsys.readouterr().err.rsplit("error: ", 1)[1]
    assert str(tmp_path / taken) in message
    assert message.count("\n") == 1
