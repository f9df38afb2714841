"""Submissions from images with official names to a zip, checked by the official evaluation scripts."""

import dataclasses
import fnmatch
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from cityscapesscripts.helpers.labels import name2label
from PIL import Image
from torch import nn
from torch.nn import functional as F

from clouds import load
from clouds.commands import make_submission
from clouds.config import load_config
from clouds.d2 import META_ARCH_REGISTRY, CfgNode
from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_COLORS, CITYSCAPES_ID_TO_TRAIN_ID, lookup_table
from clouds.engine import submission
from clouds.engine.trainer import Trainer
from clouds.errors import UserError
from clouds.evaluation.submission import BENCHMARKS, check_archive, fault_of, find_images, write_archive, write_labels
from clouds.utils.images import read_image
from tests.data.conftest import catalogs  # noqa: F401  (an autouse fixture)

TO_LABEL_ID = lookup_table({train_id: label_id for label_id, train_id in CITYSCAPES_ID_TO_TRAIN_ID.items()})
CITIES = ("frankfurt/frankfurt_000000_000294", "lindau/lindau_000000_000019", "lindau/lindau_000001_000019")
STREETS = (
    "night/{}/GOPR0356/GOPR0356_frame_000324",
    "rain/{}/GP010400/GP010400_frame_000616",
    "snow/{}/GOPR0606/GOPR0606_frame_000081",
    "fog/{}/GOPR0475/GOPR0475_frame_000041",
)
Run = Callable[..., int]


class NearestColor(nn.Module):
    """Model that scores each pixel by its distance to the colors of the classes, at half the size."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.sem_seg_head = nn.Conv2d(3, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 1)

    def forward(self, batch: list[dict]) -> list[dict[str, torch.Tensor]]:
        outputs = []
        for sample in batch:
            scores = self.sem_seg_head(F.avg_pool2d(sample["image"].float()[None], 2))
            outputs.append({"sem_seg": F.interpolate(scores, (sample["height"], sample["width"]), mode="bilinear")[0]})
        return outputs


if "NearestColor" not in META_ARCH_REGISTRY:
    META_ARCH_REGISTRY.register(NearestColor)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty data root; complete test splits have three or four images."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    for name, images in (("cityscapes", len(CITIES)), ("acdc", len(STREETS))):
        monkeypatch.setitem(BENCHMARKS, name, dataclasses.replace(BENCHMARKS[name], test_images=images))
    return tmp_path / "data"


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Run:
    """Return a function that runs the command: ``run("cityscapes", "--split", "val", "SEED", "1")``."""
    config, weights = tmp_path / "config.yaml", tmp_path / "model_final.pth"
    settings = {
        "MODEL": {
            "META_ARCHITECTURE": "NearestColor",
            "DEVICE": "cpu",
            "WEIGHTS": str(weights),
            "CLOUDS": {"CLIP_PRETRAINED_WEIGHTS": "somewhere"},
        },
        "INPUT": {"TEST_SHORT_EDGE": 32},
        "DATASETS": {"TEST": ["cityscapes_val"]},
        "DATALOADER": {"NUM_WORKERS": 0},
        "OUTPUT_DIR": str(tmp_path / "run"),
    }
    config.write_text(yaml.safe_dump(settings))
    save_network(weights)

    def run(benchmark: str, *words: str) -> int:
        flags = ["--config-file", str(config), "--benchmark", benchmark, "--output", str(tmp_path / "out")]
        return make_submission.main([*flags, *words])

    return run


def save_network(path: Path, shift: float = 0.0, never: Sequence[int] = ()) -> None:
    """-|x - color|^2 is linear in x, up to a term that is equal for all classes. `never` has classes not to predict."""
    colors = torch.tensor(CITYSCAPES_COLORS, dtype=torch.float32)
    bias = -colors.square().sum(dim=1) + torch.arange(19) * shift
    bias[list(never)] = -1e9
    torch.save({"model": {"sem_seg_head.weight": 2 * colors[:, :, None, None], "sem_seg_head.bias": bias}}, path)


def street(
    seed: int, height: int, width: int, merged: Mapping[int, int] | None = None
) -> tuple[Image.Image, np.ndarray]:
    """Return an image with blocks in noisy colors of the classes, and its train ids, with all classes and 255.

    With `merged`, the blocks of a class have the train id of another class.
    """
    rng = np.random.default_rng(seed)
    rows, columns = height // 8, width // 8
    ids = np.append(rng.permutation(np.resize(np.arange(19, dtype=np.uint8), rows * columns - 1)), np.uint8(255))
    truth = ids.reshape(rows, columns).repeat(8, axis=0).repeat(8, axis=1)
    colors = np.zeros((256, 3))
    colors[:19] = CITYSCAPES_COLORS
    pixels = np.clip(colors[truth] + rng.normal(0, 60, (height, width, 3)), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8)), lookup_table({n: n for n in range(19)} | dict(merged or {}))[truth]


def save(path: Path, picture: Image.Image | np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path)


def write_cityscapes(
    root: Path,
    split: str,
    place: str = "leftImg8bit",
    labels: bool = False,
    merged: Mapping[int, int] | None = None,
) -> None:
    for number, stem in enumerate(CITIES):
        image, truth = street(number, 40, 64 + 8 * number, merged)
        save(root / f"cityscapes/{place}/{split}/{stem}_leftImg8bit.png", image)
        if labels:
            ids = TO_LABEL_ID[truth]
            ids[truth == 255] = [0, 4, 10, 15][number]  # void, and classes that are not scored
            save(root / f"cityscapes/gtFine/{split}/{stem}_gtFine_labelIds.png", ids)
            save(root / f"cityscapes/gtFine/{split}/{stem}_gtFine_labelTrainIds.png", truth)


def write_acdc(root: Path, split: str, place: str = "rgb_anon") -> None:
    for number, stem in enumerate(STREETS):
        save(root / f"acdc/{place}/{stem.format(split)}_rgb_anon.png", street(number, 40 + 8 * number, 64)[0])
        save(root / f"acdc/{place}/{stem.format(f'{split}_ref')}_rgb_ref_anon.png", street(number, 8, 16)[0])


def predicted(tmp_path: Path, image: Path) -> np.ndarray:
    """Return the train ids that the Python API predicts."""
    return load(tmp_path / "model_final.pth", config=tmp_path / "config.yaml").predict(image).labels


@pytest.mark.parametrize(
    ("merged", "never"),
    [
        ({}, ()),
        ({16: 15, 17: 18, 5: 2}, ()),  # do not occur, and are predicted
        ({16: 15, 5: 2}, (16, 13)),  # a class that does not occur is not predicted, nor is one that occurs
        ({16: 255}, ()),  # predicted on ignored pixels above all
    ],
)
def test_the_official_scores_are_ours(
    run: Run,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    merged: dict[int, int],
    never: tuple[int, ...],
) -> None:
    write_cityscapes(root, "val", labels=True, merged=merged)
    save_network(tmp_path / "model_final.pth", never=never)
    assert run("cityscapes", "--split", "val") == 0
    for key, value in {
        "predictionPath": str(tmp_path / "out"),
        "predictionWalk": None,
        "evalInstLevelScore": False,  # uses an attribute that NumPy has removed
        "JSONOutput": False,
        "quiet": True,
    }.items():
        monkeypatch.setattr(official.args, key, value)
    truths = [str(path) for path in sorted(root.rglob("*_gtFine_labelIds.png"))]
    assert len(truths) == 3
    predictions = [official.getPrediction(official.args, truth) for truth in truths]
    theirs = official.evaluateImgLists(predictions, truths, official.args)

    cfg = load_config(tmp_path / "config.yaml")
    network = load(tmp_path / "model_final.pth", config=cfg).network
    cfg.TEST.PROTOCOLS = ("full_resolution", "cityscapes_official")
    results = Trainer.test(cfg, network)["cityscapes_val"]
    ours = results["sem_seg@cityscapes_official"]
    scores = {name: ours[f"IoU-{name}"] for name in name2label if f"IoU-{name}" in ours}
    assert len(scores) == 19
    for name, value in scores.items():
        assert 100 * theirs["classScores"][name] == pytest.approx(value, abs=1e-6, nan_ok=True), name
    assert 100 * theirs["averageScoreClasses"] == pytest.approx(ours["mIoU"], abs=1e-6)
    left_out = [name for name, value in scores.items() if value == 0 and np.isnan(results["sem_seg"][f"IoU-{name}"])]
    assert len(left_out) == len(merged) - (16 in never)
    assert (ours["mIoU"] == results["sem_seg"]["mIoU"]) == (not left_out)
    if not merged:
        assert 10 < min(scores.values()) < max(scores.values()) < 95  # neither perfect nor zero


@pytest.mark.parametrize("place", ["leftImg8bit", "leftImg8bit_trainvaltest/leftImg8bit"])
def test_cityscapes(run: Run, root: Path, tmp_path: Path, place: str) -> None:
    write_cityscapes(root, "test", place)
    assert run("cityscapes") == 0
    out = tmp_path / "out"
    names = [f"{stem.split('/')[1]}_labelIds.png" for stem in CITIES]
    assert sorted(path.name for path in out.iterdir()) == [
        *("cityscapes_test", "cityscapes_test.json", "cityscapes_test.zip")
    ]
    assert sorted(path.name for path in (out / "cityscapes_test").iterdir()) == names
    with zipfile.ZipFile(out / "cityscapes_test.zip") as archive:
        assert archive.namelist() == names
        for stem, name in zip(CITIES, names, strict=True):
            picture = Image.open(io.BytesIO(archive.read(name)))
            image = root / f"cityscapes/{place}/test/{stem}_leftImg8bit.png"
            assert (picture.mode, picture.size) == ("L", Image.open(image).size)
            np.testing.assert_array_equal(np.asarray(picture), TO_LABEL_ID[predicted(tmp_path, image)])


@pytest.mark.parametrize("place", ["rgb_anon", "rgb_anon_trainvaltest/rgb_anon"])
def test_acdc(run: Run, root: Path, tmp_path: Path, place: str) -> None:
    write_acdc(root, "test", place)
    assert run("acdc") == 0
    with zipfile.ZipFile(tmp_path / "out/acdc_test.zip") as archive:
        assert len(archive.namelist()) == 4
        for stem in STREETS:
            sequence, _, frame = stem.rpartition("/")[2].split("_")
            pattern = f"labelTrainIds/{sequence}_frame_{int(frame):0>6}*.png"
            [name] = fnmatch.filter(archive.namelist(), pattern)
            picture = Image.open(io.BytesIO(archive.read(name)))
            image = root / f"acdc/{place}/{stem.format('test')}_rgb_anon.png"
            assert (picture.mode, picture.size) == ("L", Image.open(image).size)
            np.testing.assert_array_equal(np.asarray(picture), predicted(tmp_path, image))


def test_going_on(run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_acdc(root, "test")
    assert run("acdc") == 0
    folder, archive = tmp_path / "out/acdc_test", tmp_path / "out/acdc_test.zip"
    first, second, third, fourth = sorted(folder.iterdir())
    whole = {path: path.read_bytes() for path in (first, second, third, fourth)}
    zipped, kept = archive.read_bytes(), first.stat().st_mtime_ns
    archive.unlink()
    second.write_bytes(whole[second][:-20])
    Image.fromarray(np.full((40, 64), 200, np.uint8)).save(third)  # wrong size and wrong id
    fourth.unlink()
    asked = []
    monkeypatch.setattr(submission, "read_image", lambda path: asked.append(path) or read_image(path))
    assert run("acdc") == 0
    assert len(asked) == 3
    assert {path: path.read_bytes() for path in sorted(folder.iterdir())} == whole
    assert first.stat().st_mtime_ns == kept
    assert archive.read_bytes() == zipped

    # All predictions exist: no network is built, and the zip is written again.
    monkeypatch.setattr(submission, "load_network", None)
    archive.write_bytes(b"half")
    assert run("acdc", "MODEL.DEVICE", "auto") == 0
    assert archive.read_bytes() == zipped
    with zipfile.ZipFile(archive) as file:
        assert {entry.date_time[0] for entry in file.infolist()} == {1980}


def sentence(capsys: pytest.CaptureFixture[str], code: int) -> str:
    assert code == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    return told[0].removeprefix("error: ")


def test_predictions_of_another_network_are_not_mixed_in(
    run: Run, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cityscapes(root, "test")
    assert run("cityscapes") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    refused = f"{tmp_path}/out/cityscapes_test has predictions of another network or with other settings"
    assert f"{refused} (cityscapes_test.json beside it differs in INPUT.TEST_SHORT_EDGE)" in sentence(
        capsys, run("cityscapes", "INPUT.TEST_SHORT_EDGE", "40")
    )
    save_network(tmp_path / "model_final.pth", shift=900.0)
    assert f"{refused} (cityscapes_test.json beside it differs in weights)" in sentence(capsys, run("cityscapes"))
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == before
    for path in (tmp_path / "out/cityscapes_test").iterdir():
        path.unlink()
    assert run("cityscapes") == 0
    save_network(tmp_path / "model_final.pth")
    (tmp_path / "out/cityscapes_test.json").unlink()
    assert f"{refused} (cityscapes_test.json beside it cannot be read)" in sentence(capsys, run("cityscapes"))


def test_faults(run: Run, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence(capsys, run("cityscapes")).startswith(
        f"cityscapes_test: there is no folder {root}/cityscapes/leftImg8bit/test, where its images (*_leftImg8bit.png)"
    )
    write_cityscapes(root, "test")
    assert sentence(capsys, run("cityscapes", "--split", "val")).startswith("cityscapes_val: there is no folder")
    assert sentence(capsys, run("cityscapes", "MODEL.WEIGHTS", "no/such.pth")) == (
        "Weights not found: there is no file 'no/such.pth' (MODEL.WEIGHTS)."
    )
    assert sentence(capsys, run("cityscapes", "MODEL.WEIGHTS", "")).startswith("A submission needs a trained network")
    assert sentence(capsys, run("cityscapes", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "16")).startswith(
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 16, but the servers know the 19 classes of Cityscapes"
    )
    (tmp_path / "out").touch()
    assert sentence(capsys, run("cityscapes")).startswith(f"{tmp_path}/out cannot be written (another file")
    (tmp_path / "out").unlink()

    strange = root / "cityscapes/leftImg8bit/test/ulm/ulm_1_leftImg8bit.png"
    save(strange, street(0, 40, 64)[0])
    message = sentence(capsys, run("cityscapes"))
    assert f"1 of the images in the test split cannot be submitted; first: {strange} is not named like" in message
    strange.unlink()
    last = root / f"cityscapes/leftImg8bit/test/{CITIES[2]}_leftImg8bit.png"
    picture = last.read_bytes()
    last.unlink()
    assert sentence(capsys, run("cityscapes")).startswith(
        f"The test split of Cityscapes has 3 images, but 2 were found (the first is {root}/cityscapes/leftImg8bit/test/"
    )
    assert not (tmp_path / "out").exists()

    last.write_bytes(picture[:-200])
    message = sentence(capsys, run("cityscapes"))
    assert message.startswith("1 of 3 images failed, the others are labeled; mend them")
    assert str(last) in message
    assert len(list((tmp_path / "out/cityscapes_test").iterdir())) == 2
    assert not (tmp_path / "out/cityscapes_test.zip").exists()
    last.write_bytes(picture)
    assert run("cityscapes") == 0


def test_classes_of_another_set(run: Run, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cityscapes(root, "test")
    (tmp_path / "my_nineteen.py").write_text(
        "from clouds.data.datasets import catalog\n\n"
        "def register(root):\n"
        "    catalog.register('mine', list, classes=[f'thing {c}' for c in range(19)])\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        code = run("cityscapes", "DATASETS.MODULES", "('my_nineteen',)", "DATASETS.TEST", "('mine',)")
    assert "label by the classes of mine (DATASETS.TEST), which are not those of Cityscapes" in sentence(capsys, code)


@pytest.mark.parametrize("test_set", ["()", "('cityscapes_val',)"])
def test_a_network_of_other_classes(
    run: Run, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], test_set: str
) -> None:
    write_cityscapes(root, "test")
    content = torch.load(tmp_path / "model_final.pth")
    names = [*CITYSCAPES_CLASSES[:3], CITYSCAPES_CLASSES[4], CITYSCAPES_CLASSES[3], *CITYSCAPES_CLASSES[5:]]
    torch.save({**content, "classes": names}, tmp_path / "model_final.pth")
    said = sentence(capsys, run("cityscapes", "DATASETS.TEST", test_set))
    assert (
        "was trained on other classes than cityscapes_val has (class 3 is 'fence' in training and 'wall' there)" in said
    )
    torch.save({**content, "classes": list(CITYSCAPES_CLASSES)}, tmp_path / "model_final.pth")
    assert run("cityscapes", "DATASETS.TEST", test_set) == 0


def test_names_that_two_images_share(root: Path) -> None:
    write_acdc(root, "test")
    twin = root / "acdc/rgb_anon/fog/test/x/GP010400_frame_000616_rgb_anon.png"
    save(twin, street(0, 8, 16)[0])
    with pytest.raises(UserError, match="have the same name, but the server takes one"):
        find_images(BENCHMARKS["acdc"], "test", root)


def test_the_limit_is_told(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_cityscapes(root, "test")
    assert run("cityscapes") == 0
    assert "said to take" not in caplog.text
    monkeypatch.setitem(BENCHMARKS, "cityscapes", dataclasses.replace(BENCHMARKS["cityscapes"], limit=500))
    assert run("cityscapes") == 0
    assert "is said to take 0 MB at most" in caplog.text


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_what_is_wrong_with_a_prediction() -> None:
    good = png(np.full((4, 6), 7, np.uint8))
    assert fault_of(good, (6, 4), (7, 8)) is None
    assert fault_of(good, (4, 6), (7, 8)) == "is 6x4 (width x height), but its image 4x6"
    assert fault_of(good, (6, 4), (0, 8)) == "has the id 7, which no class has"
    for length in (0, 8, 40, len(good) - 13, len(good) - 12, len(good) - 1):
        assert "is damaged" in str(fault_of(good[:length], (6, 4), (7, 8))), length
    assert "channels RGB" in str(fault_of(png(np.zeros((4, 6, 3), np.uint8)), (6, 4), (0,)))
    assert "channels I;16" in str(fault_of(png(np.full((4, 6), 7, np.uint16)), (6, 4), (7,)))


def test_a_zip_is_checked_before_it_gets_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image, truth = street(0, 40, 64)
    names = [f"lindau_00000{number}_000019_labelIds.png" for number in range(2)]
    cityscapes = BENCHMARKS["cityscapes"]
    images = {name: tmp_path / f"{name}.image.png" for name in names}
    for name in names:
        image.save(images[name])
        write_labels(tmp_path / name, np.where(truth == 255, 0, truth).astype(np.uint8), cityscapes.ids)
    archive = tmp_path / "x.zip"
    size = write_archive(archive, cityscapes, tmp_path, images)
    assert size == archive.stat().st_size

    def told(*entries: tuple[str, bytes]) -> str:
        with zipfile.ZipFile(archive, "w") as file:
            for name, content in entries:
                file.writestr(name, content)
        with pytest.raises(UserError) as error:
            check_archive(archive, cityscapes, images.items())
        return str(error.value)

    first, second = ((name, (tmp_path / name).read_bytes()) for name in names)
    assert f"has 0 files {names[1]}" in told(first)
    assert "it has 1 fault(s); first: more.png belongs to no image." in told(first, second, ("more.png", b""))
    caplog.clear()
    assert "it has 3 fault(s); first" in told((second[0], second[1][:-5]), ("more.png", b""))
    assert [record.message.partition(" ")[0] for record in caplog.records] == ["It", names[1], "more.png"], (
        "all of them"
    )
    assert f"has 0 files {names[1]}" in told(first, (f"labelTrainIds/{second[0]}", second[1]))
    assert f"{names[1]} is damaged" in told(first, (second[0], second[1][:-5]))
    archive.write_bytes(b"PK")
    with pytest.raises(UserError, match="The zip for Cityscapes cannot be read"):
        check_archive(archive, cityscapes, images.items())

    archive.unlink()
    write_labels(tmp_path / names[1], truth, cityscapes.ids)  # an ignored pixel
    with pytest.raises(UserError, match=f"{names[1]} has the id 255, which no class has"):
        write_archive(archive, cityscapes, tmp_path, images)
    assert not list(tmp_path.glob("x.zip*"))


def test_the_tables() -> None:
    assert BENCHMARKS["cityscapes"].ids == (7, 8, 11, 12, 13, 17, 19, 20, *range(21, 29), 31, 32, 33)
    assert BENCHMARKS["acdc"].ids == tuple(range(19))
    assert {name: benchmark.test_images for name, benchmark in BENCHMARKS.items()} == {"cityscapes": 1525, "acdc": 2000}
    parser = make_submission.parse_arguments(
        ["--config-file", "c", "--output", "o", "--benchmark", "acdc", "SEED", "-1", "--split", "val"]
    )
    assert (parser.split, parser.opts) == ("val", ["SEED", "-1"])
