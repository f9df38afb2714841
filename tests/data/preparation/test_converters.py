"""Converters: label maps equal to a reference, class statistics, split lists, and faults in label files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as official_labels
from cityscapesscripts.preparation.json2labelImg import json2labelImg
from PIL import Image

from clouds.data.classes import (
    CITYSCAPES_ID_TO_TRAIN_ID,
    CITYSCAPES_LABELS,
    MAPILLARY_V1_ID_TO_TRAIN_ID,
    SYNTHIA_13,
    SYNTHIA_16,
    SYNTHIA_ID_TO_TRAIN_ID,
    mapillary_train_id,
)
from clouds.data.label_readers import draw_polygons
from clouds.data.preparation.class_statistics import count_values
from clouds.data.preparation.converters import convert_folder
from clouds.data.preparation.formats import FORMATS
from clouds.errors import UserError
from tests.data.conftest import save, smooth_image
from tests.data.official import blocks, cityscapes_polygons, palette_png, synthia_png, urbansyn_png

ROOT = Path(__file__).resolve().parents[3]

# The classes of Mapillary Vistas v1.2 that the published table gives a train id, by id.
MAPILLARY_NAMES = {
    2: "construction--barrier--curb",
    3: "construction--barrier--fence",
    6: "construction--barrier--wall",
    13: "construction--flat--road",
    15: "construction--flat--sidewalk",
    17: "construction--structure--building",
    19: "human--person",
    20: "human--rider--bicyclist",
    21: "human--rider--motorcyclist",
    22: "human--rider--other-rider",
    23: "marking--crosswalk-zebra",
    24: "marking--general",
    27: "nature--sky",
    28: "nature--snow",
    29: "nature--terrain",
    30: "nature--vegetation",
    41: "object--manhole",
    45: "object--support--pole",
    46: "object--support--traffic-sign-frame",
    47: "object--support--utility-pole",
    48: "object--traffic-light",
    49: "object--traffic-sign--back",
    50: "object--traffic-sign--front",
    52: "object--vehicle--bicycle",
    54: "object--vehicle--bus",
    55: "object--vehicle--car",
    57: "object--vehicle--motorcycle",
    58: "object--vehicle--on-rails",
    61: "object--vehicle--truck",
    62: "object--vehicle--wheeled-slow",
}


def translated(ids: np.ndarray, table: dict[int, int]) -> np.ndarray:
    """Translate one id at a time, the slow reference."""
    train_ids = np.full(ids.shape, 255, np.uint8)
    for source, target in table.items():
        train_ids[ids == source] = target
    return train_ids


def read(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        assert file.mode == "L"
        return np.asarray(file)


def write_set(name: str, root: Path) -> dict[Path, np.ndarray]:
    """Write a small data set in its download format; return the expected label maps by path."""
    ids = {"gta": range(35), "synthia": range(23), "urbansyn": range(20), "mapillary": range(66)}
    maps = [blocks(seed, ids.get(name, range(34)), *((80, 72) if seed else (40, 64))) for seed in range(3)]
    formats = {
        "gta": ("labels/{:05d}", palette_png, CITYSCAPES_ID_TO_TRAIN_ID),
        "synthia": ("GT/LABELS/{:07d}", synthia_png, SYNTHIA_ID_TO_TRAIN_ID),
        "urbansyn": ("ss/ss_{:04d}", urbansyn_png, {train_id: train_id for train_id in range(19)}),
        "mapillary": ("labels/x_{}", palette_png, MAPILLARY_V1_ID_TO_TRAIN_ID),
    }
    if name in formats:
        stem, write, table = formats[name]
        for number, label in enumerate(maps, 1):
            write(root / f"{stem.format(number)}.png", label)
        return {
            root / f"{stem.format(number)}_labelTrainIds.png": translated(label, table)
            for number, label in enumerate(maps, 1)
        }
    expected = {}
    for split, city, number in (("train", "aachen", 0), ("train", "ulm", 1), ("val", "lindau", 2)):
        stem = root / f"gtFine/{split}/{city}/{city}_000000_{number:06d}_gtFine"
        palette = stem.with_name(f"{stem.name}_color.png")  # part of the download, not to be converted
        polygons = cityscapes_polygons(stem.with_name(f"{stem.name}_polygons.json"), 40 + number)
        palette_png(palette, maps[0])
        expected[stem.with_name(f"{stem.name}_labelTrainIds.png")] = official(polygons, "trainIds")
    return expected


def official(polygons: Path, encoding: str) -> np.ndarray:
    """Draw polygons with the scripts of Cityscapes."""
    drawn = polygons.with_suffix(".drawn.png")
    json2labelImg(str(polygons), str(drawn), encoding)
    label = np.array(Image.open(drawn))
    drawn.unlink()
    return label


@pytest.mark.parametrize("name", FORMATS)
def test_the_command(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = write_set(name, tmp_path)
    before = set(tmp_path.rglob("*"))
    command = [sys.executable, str(ROOT / f"tools/convert_datasets/{name}.py"), str(tmp_path), "--nproc", "2"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "3 label maps written, 0 existed" in run.stdout
    for file, label in expected.items():
        np.testing.assert_array_equal(read(file), label)
    statistics = {"sample_class_stats.json", "sample_class_stats_dict.json", "samples_with_class.json"}
    lists = {"train.txt", "val.txt"} if name == "cityscapes" else set()
    assert set(tmp_path.rglob("*")) - before == {*expected, *(tmp_path / file for file in statistics | lists)}

    counted = [file for file in sorted(expected) if "val" not in file.parts]
    by_file = json.loads((tmp_path / "sample_class_stats_dict.json").read_text())
    assert list(by_file) == [file.relative_to(tmp_path).as_posix() for file in counted]
    for file in counted:
        values, counts = np.unique(expected[file][expected[file] < 255], return_counts=True)
        assert by_file[file.relative_to(tmp_path).as_posix()] == {
            str(v): int(n) for v, n in zip(values, counts, strict=True)
        }
    listed = json.loads((tmp_path / "sample_class_stats.json").read_text())
    assert {entry.pop("file"): entry for entry in listed} == by_file
    by_class = json.loads((tmp_path / "samples_with_class.json").read_text())
    assert {(c, file, n) for c, pairs in by_class.items() for file, n in pairs} == {
        (c, file, n) for file, counts in by_file.items() for c, n in counts.items()
    }
    if name == "cityscapes":
        assert (tmp_path / "train.txt").read_text() == "aachen/aachen_000000_000000\nulm/ulm_000000_000001\n"
        assert (tmp_path / "val.txt").read_text() == "lindau/lindau_000000_000002\n"


def test_a_second_run_converts_what_is_missing_or_damaged(tmp_path: Path) -> None:
    expected = write_set("gta", tmp_path)
    first, second, third = expected
    convert_folder("gta", tmp_path)
    statistics = (tmp_path / "sample_class_stats_dict.json").read_text()
    kept = first.stat()
    second.unlink()
    third.write_bytes(third.read_bytes()[:-30])
    (tmp_path / "sample_class_stats_dict.json").unlink()
    done = convert_folder("gta", tmp_path)
    assert done.num_written == 2
    assert first.stat().st_mtime_ns == kept.st_mtime_ns
    assert (tmp_path / "sample_class_stats_dict.json").read_text() == statistics
    for file, label in expected.items():
        np.testing.assert_array_equal(read(file), label)

    later = first.stat().st_mtime + 5  # a label file that was downloaded again
    os.utime(first.with_name("00001.png"), (later, later))
    assert convert_folder("gta", tmp_path).num_written == 1
    assert convert_folder("gta", tmp_path, overwrite=True).num_written == 3


def test_other_folders(tmp_path: Path) -> None:
    palette_png(tmp_path / "set/gt here/7.png", blocks(0, range(34)))
    convert_folder("gta", tmp_path / "set", gt_dir="gt here", out_dir=tmp_path / "lists/new")
    assert (tmp_path / "set/gt here/7_labelTrainIds.png").is_file()
    assert list(json.loads((tmp_path / "lists/new/sample_class_stats_dict.json").read_text())) == [
        "gt here/7_labelTrainIds.png"
    ]


def test_each_fault_is_logged_and_the_rest_is_converted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = write_set("gta", tmp_path)
    labels = tmp_path / "labels"
    strange = blocks(0, range(34))
    strange[:2, :3] = 77
    palette_png(labels / "00011.png", strange)
    palette_png(labels / "00012.png", blocks(0, range(34)))
    (labels / "00012.png").write_bytes((labels / "00012.png").read_bytes()[:200])
    smooth_image(0).save(labels / "00013.png")
    (labels / "00014.png").write_bytes(b"")
    with pytest.raises(UserError, match="4 of 7 label files of GTA5 could not be converted"):
        convert_folder("gta", tmp_path)
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert (
        "00011.png has 1 label id(s) that its data set does not list (77 on 6 pixels): known are 0 to 34; see that"
        in logged
    )
    assert f"{labels / '00012.png'} cannot be read" in logged
    assert "00013.png is a RGB image, not a label map" in logged
    assert f"{labels / '00014.png'} is an empty file" in logged
    assert {file for file in labels.iterdir() if file.name.endswith("Ids.png")} == set(expected)


def test_faults_of_synthia(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "GT/LABELS"
    file = synthia_png(folder / "0000001.png", blocks(0, range(23)))
    file.write_bytes(file.read_bytes()[:-40])
    smooth_image(0).save(folder / "0000002.png")
    synthia_png(folder / "0000003.png", blocks(0, range(1000, 1003)))
    with pytest.raises(UserError, match="3 of 3 label files of SYNTHIA"):
        convert_folder("synthia", tmp_path)
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "0000001.png cannot be read" in logged[0]
    assert "0000002.png is no 16-bit RGB image" in logged[1]
    assert "0000003.png has 3 label id(s) that its data set does not list (1" in logged[2]


def test_label_files_of_urbansyn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = blocks(0, range(20))
    gray = save(tmp_path / "ss/ss_0001.png", ids.astype(np.uint8))
    rgb = save(tmp_path / "ss/ss_0002.png", np.stack([ids] * 3, axis=-1).astype(np.uint8))
    convert_folder("urbansyn", tmp_path)
    for file in (gray, rgb):
        label = read(Path(file.replace(".png", "_labelTrainIds.png")))
        np.testing.assert_array_equal(label, np.where(ids == 19, 255, ids))
    urbansyn_png(tmp_path / "ss/ss_0003.png", np.where(ids == 19, 20, ids))
    save(tmp_path / "ss/ss_0004.png", smooth_image(0))
    with pytest.raises(UserError, match="2 of 4 label files of UrbanSyn"):
        convert_folder("urbansyn", tmp_path)
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "ss_0003.png has 1 label id(s) that its data set does not list (20 on " in logged[0]
    assert "ss_0004.png is colored, but the labels of its data set are gray values" in logged[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged, it is not JSON"),
        ("[" * 100_000, "is damaged, it is not JSON"),
        ('{"imgHeight": 4, "imgWidth": 1000000000, "objects": []}', "cannot be read .*the size 1000000000 is not 1 to"),
        ('{"imgHeight": 4, "imgWidth": "4", "objects": []}', "cannot be read .*the size '4' is not 1 to"),
        ('{"imgHeight": 4, "imgWidth": 4, "objects": ["car"]}', "cannot be read"),
        ('{"imgHeight": 4, "imgWidth": 4, "objects": [{"label": 3, "polygon": []}]}', "cannot be read .*label is 3"),
        (
            '{"imgHeight": 4, "imgWidth": 4, "objects": [{"label": "car", "polygon": [[0, 0], [1e300, 1], [2, 0]]}]}',
            r"cannot be read .*the coordinate 1e\+300 is no number",
        ),
        ('{"imgHeight": 4, "imgWidth": 4}', "cannot be read"),
        (
            '{"imgHeight": 4, "imgWidth": 4, "objects": [{"label": "zebra", "polygon": [[0, 0], [1, 1], [2, 0]]}]}',
            "has a polygon of 'zebra', which is no label of Cityscapes",
        ),
        (
            '{"imgHeight": 4, "imgWidth": 4, "objects": [{"label": "car", "polygon": [[0, 0]]}]}',
            "has a polygon of 'car' that cannot be drawn",
        ),
    ],
)
def test_polygons_that_cannot_be_drawn(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x_polygons.json").write_text(content)
    with pytest.raises(UserError, match=message):
        draw_polygons(str(tmp_path / "x_polygons.json"))


def test_cityscapes_is_what_its_own_scripts_make(tmp_path: Path) -> None:
    polygons = cityscapes_polygons(tmp_path / "gtFine/train/x/x_gtFine_polygons.json")
    ids = official(polygons, "ids")
    np.testing.assert_array_equal(draw_polygons(str(polygons)), ids)
    assert CITYSCAPES_LABELS == tuple(label.name for label in official_labels if label.id >= 0)
    assert CITYSCAPES_ID_TO_TRAIN_ID == {
        label.id: label.trainId for label in official_labels if 0 <= label.trainId < 255
    }
    # Existing label ids have precedence over polygons.
    Image.fromarray(np.where(ids == 7, 8, ids).astype(np.uint8)).save(polygons.with_name("x_gtFine_labelIds.png"))
    convert_folder("cityscapes", tmp_path)
    label = read(polygons.with_name("x_gtFine_labelTrainIds.png"))
    assert 0 not in label
    np.testing.assert_array_equal(label == 1, (ids == 7) | (ids == 8))


def test_mapillary_by_name_agrees_with_the_published_ids() -> None:
    by_name = {i: mapillary_train_id(name) for i, name in MAPILLARY_NAMES.items()}
    assert {i: c for i, c in by_name.items() if c < 255} == MAPILLARY_V1_ID_TO_TRAIN_ID
    for name, train_id in {
        "human--person--individual": 11,
        "object--traffic-light--pedestrians": 6,
        "marking--continuous--dashed": 0,
        "marking-only--discrete--crosswalk-zebra": 255,
        "object--traffic-sign--ambiguous": 255,
        "object--support--pole-group": 255,
    }.items():
        assert mapillary_train_id(name) == train_id


def test_mapillary_2_by_its_configuration(tmp_path: Path) -> None:
    names = ["nature--sky", "human--person--person-group", "void--unlabeled", "marking--discrete--text"]
    ids = blocks(0, range(4))
    palette_png(tmp_path / "validation/v2.0/labels/x.png", ids)
    with pytest.raises(UserError, match=r"ids config_v2\.0\.json explains; put that file of the download into"):
        convert_folder("mapillary", tmp_path / "validation")
    (tmp_path / "config_v2.0.json").write_text(json.dumps({"labels": [{"name": name} for name in names]}))
    convert_folder("mapillary", tmp_path / "validation")
    label = read(tmp_path / "validation/v2.0/labels/x_labelTrainIds.png")
    np.testing.assert_array_equal(label, translated(ids, {0: 10, 1: 11, 3: 0}))
    for text, expected in (
        ("[]", "does not hold a JSON object: download it again"),
        ('{"labels": 3}', "is no configuration of Mapillary Vistas"),
        ('{"labels": [], "labels": [{"name": "x"}]}', "an object has the key 'labels' twice"),
    ):
        (tmp_path / "config_v2.0.json").write_text(text)
        with pytest.raises(UserError, match=expected):
            convert_folder("mapillary", tmp_path / "validation")


def test_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"GTA5: there is no folder .*nowhere"):
        convert_folder("gta", tmp_path / "nowhere")
    with pytest.raises(UserError, match="Cityscapes: no label files of its kind in"):
        convert_folder("cityscapes", tmp_path)


def test_counting_is_exact_beyond_fp32() -> None:
    label = np.zeros((4200, 4200), np.uint8)  # 17.6 million pixels; fp32 counts to 16.8
    label[0, :3] = 9
    counts = count_values(label)
    assert (counts[0], counts[9], counts.sum()) == (label.size - 3, 3, label.size)


def test_synthia_classes() -> None:
    assert len(SYNTHIA_16) == 16
    assert len(SYNTHIA_13) == 13
    assert set(range(19)) - set(SYNTHIA_16) == {9, 14, 16}
