"""From downloads in their own formats, by one command, to a trained and evaluated network."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds.commands import predict
from clouds.commands import prepare_datasets as prepare
from clouds.data.datasets.builtin import BUILTIN_DATASETS
from clouds.data.preparation.prepare import choose
from tests.data.conftest import label_map, save, smooth_image
from tests.data.official import blocks, cityscapes_polygons, palette_png, synthia_png, urbansyn_png
from tests.engine.test_published_configs import run

ROOT = Path(__file__).resolve().parents[2]
SIZE = (40, 64)
COUNT = 2
COMPLETE = {folders.name: folders.num_pairs for folders in BUILTIN_DATASETS}


def write_gta5(root: Path) -> None:
    for number in range(1, COUNT + 1):
        save(root / f"gta5/images/{number:05d}.png", smooth_image(number))
        palette_png(root / f"gta5/labels/{number:05d}.png", blocks(number, range(35)))


def write_synthia(root: Path) -> None:
    for number in range(COUNT):
        save(root / f"RAND_CITYSCAPES/RGB/{number:07d}.png", smooth_image(number))
        synthia_png(root / f"RAND_CITYSCAPES/GT/LABELS/{number:07d}.png", blocks(number, range(23)))


def write_urbansyn(root: Path) -> None:
    for number in range(1, COUNT + 1):
        save(root / f"urbansyn/rgb/rgb_{number:04d}.png", smooth_image(number))
        urbansyn_png(root / f"urbansyn/ss/ss_{number:04d}.png", blocks(number, range(20)))


def write_cityscapes(root: Path) -> None:
    for split, city in (("train", "aachen"), ("val", "lindau")):
        for number in range(COUNT):
            stem = f"{split}/{city}/{city}_{number:06d}_000019"
            save(root / f"cityscapes/leftImg8bit_trainvaltest/leftImg8bit/{stem}_leftImg8bit.png", smooth_image(number))
            labels = root / f"cityscapes/gtFine_trainvaltest/gtFine/{stem}_gtFine"
            cityscapes_polygons(Path(f"{labels}_polygons.json"))
            palette_png(Path(f"{labels}_color.png"), blocks(number, range(34)))
            if number:  # one of two also has the ids
                save(Path(f"{labels}_labelIds.png"), blocks(number, range(34)).astype(np.uint8))


def write_mapillary(root: Path) -> None:
    for number in range(COUNT):
        place = root / "mapillary-vistas-dataset_public_v1.2/validation"
        save(place / f"images/x-{number}.jpg", smooth_image(number))
        palette_png(place / f"labels/x-{number}.png", blocks(number, range(66), 72, 88)[:40, :64])


def write_bdd(root: Path) -> None:
    for number in range(COUNT):
        save(root / f"bdd100k/images/10k/val/a-{number}.jpg", smooth_image(number))
        save(root / f"bdd100k/labels/sem_seg/masks/val/a-{number}.png", label_map(number))


def write_acdc(root: Path) -> None:
    for weather in ("night", "rain", "snow", "fog"):
        for number in range(COUNT):
            stem = f"{weather}/val/GOPR0356/GOPR0356_frame_{number:06d}"
            save(root / f"acdc/rgb_anon_trainvaltest/rgb_anon/{stem}_rgb_anon.png", smooth_image(number))
            save(root / f"acdc/gt_trainval/gt/{stem}_gt_labelTrainIds.png", label_map(number))
            save(root / f"acdc/gt_trainval/gt/{stem}_gt_labelColor.png", smooth_image(number))


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    caplog.set_level(logging.INFO)
    root = tmp_path / "my data"
    for write in (write_gta5, write_synthia, write_urbansyn, write_cityscapes, write_mapillary, write_bdd, write_acdc):
        write(root)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    return root


def told(caplog: pytest.LogCaptureFixture) -> str:
    """Output of the command, which goes through the log."""
    said = "\n".join(record.getMessage() for record in caplog.records)
    caplog.clear()
    return said


def rows(table: str) -> dict[str, list[str]]:
    """The rows of the first table, by data set."""
    lines = table.partition("state\n")[2].splitlines()[1:]
    return {line.split()[0]: re.split(r"\s{2,}", line)[1:] for line in lines[: len(BUILTIN_DATASETS)]}


def test_one_command_prepares_and_checks_all(downloads: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert prepare.main(["--nproc", "1"]) == 1  # two images are not the complete set
    said = told(caplog)
    found = rows(said)
    assert set(found) == set(COMPLETE)
    for name, (images, _, used, of, sizes, state) in found.items():
        assert (images, used, of, sizes, state) == ("2", "2", f"{COMPLETE[name]:,}", "40x64: 2", "1 problem(s)"), name
    assert "gta5  " in said
    assert "24,966" in said
    problems = [line for line in said.splitlines() if "the complete set has" in line]
    assert len(problems) == len(BUILTIN_DATASETS)
    # A share of the pixels for every class that the label maps have.
    (sky,) = (line for line in said.splitlines() if line.startswith("10 sky"))
    assert all(re.fullmatch(r"\d+\.\d\d|-", cell) for cell in sky.split()[2:])
    for name in ("gta5", "RAND_CITYSCAPES", "urbansyn", "cityscapes"):
        assert json.loads((downloads / name / "sample_class_stats.json").read_text())
    assert (
        downloads / "cityscapes/val.txt"
    ).read_text() == "lindau/lindau_000000_000019\nlindau/lindau_000001_000019\n"
    assert (downloads / "statistics/bdd_val/samples_with_class.json").is_file()

    # Everything is made: the same again, without writing a label map.
    before = {path: path.stat().st_mtime_ns for path in downloads.rglob("*_labelTrainIds.png")}
    assert prepare.main(["--nproc", "1"]) == 1
    assert {path: path.stat().st_mtime_ns for path in downloads.rglob("*_labelTrainIds.png")} == before


@pytest.mark.parametrize(
    ("recipe", "sampler"),
    [
        ("gta/train_gta.yaml", "RareClassSampler"),
        ("synthia/train_syn_r50.yaml", "TrainingSampler"),
        ("cityscapes/train_city_r101.yaml", "RareClassSampler"),
    ],
)
def test_from_the_downloads_to_scores(recipe: str, sampler: str, downloads: Path, tmp_path: Path) -> None:
    prepare.main(["--nproc", "1"])
    settings = {"DATALOADER.SAMPLER_TRAIN": sampler, "DATALOADER.RARE_CLASS.MIN_PIXELS": 30}
    assert run(ROOT / "configs/warmup" / recipe, tmp_path, settings) == 0
    last = json.loads((tmp_path / "run/metrics.json").read_text().splitlines()[-1])
    scored = {key.partition("/")[0] for key in last if key.endswith("mIoU")}
    targets = {"mapillary_val", "bdd_val", "cityscapes_val"}
    if "cityscapes" in recipe:
        targets = {f"acdc_{weather}_val" for weather in ("night", "rain", "snow", "fog")} | {"cityscapes_val"}
    assert scored == targets
    for name in targets:
        assert ("synthia" in recipe) == (f"{name}/sem_seg/mIoU16" in last), "SYNTHIA's means, with SYNTHIA only"
    if "synthia" in recipe:
        ious = {
            key.rpartition("IoU-")[2]: value for key, value in last.items() if key.startswith("bdd_val/sem_seg/IoU-")
        }
        absent = ("terrain", "truck", "train", "wall", "fence", "pole")
        mean = np.nanmean([value for name, value in ious.items() if name not in absent])
        assert last["bdd_val/sem_seg/mIoU13"] == pytest.approx(mean)


def test_training_does_not_begin_with_a_broken_set(
    downloads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare.main(["--nproc", "1"])
    recipe = ROOT / "configs/warmup/gta/train_gta.yaml"
    settings = {"DATASETS.TEST": "()"}
    capsys.readouterr()
    assert run(recipe, tmp_path, settings, force=False) == 2
    message = capsys.readouterr().err
    assert message.startswith(
        "error: The data set gta5 has 1 problem(s), first: gta5 has 2 pairs of image and label map"
    )
    assert message.rstrip().endswith("and mend them, or train all the same with --force.")
    assert not list((tmp_path / "run").glob("model_*.pth"))

    # With a list of two pairs, two are complete.
    prepare.main(["--check", "--write-lists", "gta5"])
    assert run(recipe, tmp_path, settings, force=False) == 0

    # By default a damaged file is found when it is loaded, with --check-data before, and then at once.
    label = max((downloads / "gta5/labels").glob("*_labelTrainIds.png"))  # the first pair is read in any case
    label.write_bytes(label.read_bytes()[:60])
    damage = f"The label map {label} cannot be read"
    for flags, begins in (
        ([], f"error: {damage}"),
        (["--check-data"], f"error: The data set gta5 has 1 problem(s), first: {damage}"),
        ([], f"error: The data set gta5 has 1 problem(s), first: {damage}"),
    ):
        capsys.readouterr()
        assert run(recipe, tmp_path, settings, force=False, flags=flags) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(begins)


@pytest.mark.parametrize("argv", [["gta"], ["acdc_vale"], ["--dataset", "no.yaml"]])
def test_a_wrong_name_is_told(downloads: Path, argv: list[str], sentence: Callable[..., str]) -> None:
    message = sentence(prepare.main, "--check", *argv)
    assert {"gta": "gta5", "acdc_vale": "acdc_", "--dataset": "no.yaml"}[argv[0]] in message


def test_groups_and_beginnings_choose_sets() -> None:
    weathers = ["acdc_night_val", "acdc_rain_val", "acdc_snow_val", "acdc_fog_val"]
    assert [row.name for row in choose(["acdc"], [])] == weathers
    assert [row.name for row in choose(["acdc_val", "gta5"], [])] == ["gta5", *weathers]
    assert [row.name for row in choose(["cityscapes"], [])] == ["cityscapes_train", "cityscapes_val"]
    assert [row.name for row in choose(["acdc_fog_val"], [])] == ["acdc_fog_val"]


def test_a_named_set_that_is_not_there_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sentence: Callable[..., str]
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert prepare.main(["--check", "bdd_val"]) == 1
    assert "bdd_val: there is no " in told(caplog)
    assert "None of the data sets is in" in sentence(prepare.main, "--check")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "no"))
    assert "There is no folder" in sentence(prepare.main, "--check")


def test_own_data_from_one_file(downloads: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """CamVid's eleven classes: check, train with rare classes preferred, evaluate, predict."""
    described = ROOT / "configs/datasets/camvid.yaml"
    colors = [(128, 128, 128), (64, 0, 64), (128, 64, 128), (0, 0, 0), (0, 128, 192)]
    for split, number in (("train", 0), ("train", 1), ("val", 2), ("test", 3)):
        bands = np.array(colors, np.uint8)[np.arange(40) // 8][:, None].repeat(64, axis=1)
        save(downloads / f"camvid/{split}/f {number}.png", smooth_image(number))
        save(downloads / f"camvid/{split}_labels/f {number}_L.png", bands)
    assert prepare.main(["--dataset", str(described)]) == 0
    said = told(caplog)
    assert re.search(r"camvid_train +2 +\? +2 +\? +40x64: 2 +good", said)
    assert re.search(r"10 bicyclist +20\.00 +20\.00 +20\.00", said)
    assert prepare.main(["--check", "--dataset", str(described), "camvid_val", "gta5"]) == 1  # that of gta5

    settings = {"DATALOADER.SAMPLER_TRAIN": "RareClassSampler", "DATALOADER.RARE_CLASS.MIN_PIXELS": 30}
    recipe = ROOT / "configs/warmup/gta/train_gta_r50.yaml"
    assert run(recipe, tmp_path, settings, force=False, flags=["--dataset", str(described)]) == 0
    last = json.loads((tmp_path / "run/metrics.json").read_text().splitlines()[-1])
    names = {key.rpartition("IoU-")[2] for key in last if key.startswith("camvid_val/sem_seg/IoU-")}
    assert names == {"sky", "building", "road", "bicyclist"}, "those that the validation image has"
    argv = ["--config-file", str(tmp_path / "run/config.yaml"), str(downloads / "camvid/test")]
    argv += ["--output", str(tmp_path / "out"), "MODEL.WEIGHTS", str(tmp_path / "run/model_final.pth")]
    assert predict.main(argv) == 0
    with Image.open(tmp_path / "out/f 3_labels.png") as labels:
        assert int(np.asarray(labels).max()) < 11
