"""The YAML files in configs/datasets read the official layout of their data sets."""

from pathlib import Path

import numpy as np
import pytest

from clouds.commands import prepare_datasets
from clouds.data.classes import CITYSCAPES_CLASSES, IGNORE_LABEL
from clouds.data.datasets.custom import read_custom
from clouds.data.datasets.spec import DatasetSpec
from clouds.data.loading.rare_classes import labelled_counts
from clouds.data.preparation.check import check_dataset
from clouds.data.preparation.listing import DescribedFiles
from clouds.errors import UserError
from tests.data.conftest import save, smooth_image

FOLDER = Path(__file__).resolve().parents[3] / "configs/datasets"

ROAD, CAR = 0, 13

# By file and split: two pairs in the official layout, their ids, and the values of two classes and of void in the label
# maps: road and car of Cityscapes, or of the data set.
LAYOUTS = {
    ("camvid_full", "all"): (
        [
            ("CamVid/701_StillsRaw_full/0001TP_006690.png", "CamVid/LabeledApproved_full/0001TP_006690_L.png"),
            ("CamVid/701_StillsRaw_full/Seq05VD_f00000.png", "CamVid/LabeledApproved_full/Seq05VD_f00000_L.png"),
        ],
        ["0001TP_006690", "Seq05VD_f00000"],
        {(128, 64, 128): 3, (64, 0, 128): 8, (128, 0, 192): 3, (0, 0, 0): 255},
    ),
    ("camvid_segnet", "val"): (
        [
            ("CamVid/val/0016E5_07959.png", "CamVid/valannot/0016E5_07959.png"),
            ("CamVid/val/0016E5_07961.png", "CamVid/valannot/0016E5_07961.png"),
        ],
        ["0016E5_07959", "0016E5_07961"],
        {3: 3, 8: 8, 11: 255},
    ),
    ("kitti", "training"): (
        [
            ("data_semantics/training/image_2/000000_10.png", "data_semantics/training/semantic/000000_10.png"),
            ("data_semantics/training/image_2/000001_10.png", "data_semantics/training/semantic/000001_10.png"),
        ],
        ["000000_10", "000001_10"],
        {7: ROAD, 26: CAR, 4: 255},
    ),
    ("a2d2", "all"): (
        [
            (
                f"a2d2/camera_lidar_semantic/20180807_145028/camera/cam_{long}/20180807145028_camera_{short}_000000091.png",
                f"a2d2/camera_lidar_semantic/20180807_145028/label/cam_{long}/20180807145028_label_{short}_000000091.png",
            )
            for long, short in (("front_center", "frontcenter"), ("rear_center", "rearcenter"))
        ],
        [
            "20180807_145028/cam_front_center/20180807145028/frontcenter_000000091",
            "20180807_145028/cam_rear_center/20180807145028/rearcenter_000000091",
        ],
        {(255, 0, 255): ROAD, (128, 0, 255): ROAD, (150, 0, 0): CAR, (53, 46, 82): 255},
    ),
    ("carla", "train"): (
        [
            ("carla/Town01/rgb/00000042.png", "carla/Town01/semantic_segmentation/00000042.png"),
            ("carla/Town10HD/rgb/00000042.png", "carla/Town10HD/semantic_segmentation/00000042.png"),
        ],
        ["Town01/00000042", "Town10HD/00000042"],
        {(1, 0, 0): ROAD, (24, 0, 0): ROAD, (14, 99, 3): CAR, (28, 0, 0): 255},
    ),
    ("carla_0913", "train"): (
        [
            ("carla/Town01/rgb/00000042.png", "carla/Town01/semantic_segmentation/00000042.png"),
            ("carla/Town10HD/rgb/00000042.png", "carla/Town10HD/semantic_segmentation/00000042.png"),
        ],
        ["Town01/00000042", "Town10HD/00000042"],
        {(7, 0, 0): ROAD, (6, 0, 0): ROAD, (10, 99, 3): CAR, (17, 0, 0): 255},
    ),
    ("idd", "val"): (
        [
            (
                "idd20k/IDD_Segmentation/leftImg8bit/val/0/005506_leftImg8bit.png",
                "idd20k/IDD_Segmentation/gtFine/val/0/005506_gtFine_labellevel3Ids.png",
            ),
            (
                "idd20k/idd20kII/leftImg8bit/val/201/frame0029_leftImg8bit.jpg",
                "idd20k/idd20kII/gtFine/val/201/frame0029_gtFine_labellevel3Ids.png",
            ),
        ],
        ["0/005506", "201/frame0029"],
        {0: ROAD, 9: CAR, 8: 255, 255: 255},
    ),
    ("virtual_kitti2", "train"): (
        [
            (
                f"virtual_kitti2/{scene}/frames/rgb/Camera_0/rgb_00001.jpg",
                f"virtual_kitti2/{scene}/frames/classSegmentation/Camera_0/classgt_00001.png",
            )
            for scene in ("Scene01/15-deg-left", "Scene01/clone")
        ],
        ["Scene01/15-deg-left/Camera_0/00001", "Scene01/clone/Camera_0/00001"],
        {(100, 60, 100): ROAD, (255, 127, 80): CAR, (0, 139, 139): CAR, (80, 80, 80): 255},
    ),
}


def spec_of(name: str, split: str) -> DatasetSpec:
    return next(spec for spec in read_custom(FOLDER / f"{name}.yaml") if spec.name == f"{name}_{split}")


def write_layout(root: Path, name: str, split: str) -> list[np.ndarray]:
    """Write the pairs; the second has no pixel of the second class. Returns the expected train ids."""
    pairs, _, meaning = LAYOUTS[name, split]
    expected = []
    for number, (image, label) in enumerate(pairs):
        values = [value for at, value in enumerate(meaning) if number == 0 or at != 1]
        rows = np.arange(40) * len(values) // 40
        save(root / image, smooth_image(number))
        save(root / label, np.array(values, np.uint8)[rows][:, None].repeat(64, axis=1))
        expected.append(np.array([meaning[value] for value in values])[rows][:, None].repeat(64, axis=1))
    return expected


def test_every_file_has_its_layout_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {name for name, _ in LAYOUTS} | {"camvid", "streets"}


@pytest.mark.parametrize(("name", "split"), LAYOUTS)
def test_the_official_layout_is_read(name: str, split: str, tmp_path: Path) -> None:
    expected = write_layout(tmp_path, name, split)
    pairs, ids, _ = LAYOUTS[name, split]
    spec = spec_of(name, split)
    records = spec.load(tmp_path)
    assert [record["image_id"] for record in records] == ids
    for record, (image, label), truth in zip(records, pairs, expected, strict=True):
        assert record["file_name"] == str(tmp_path / image)
        assert record["sem_seg_file_name"] == str(tmp_path / label)
        np.testing.assert_array_equal(record["label_encoding"].read(str(tmp_path / label)), truth)


@pytest.mark.parametrize(("name", "split"), LAYOUTS)
def test_the_command_checks_it_and_its_class_statistics_tell_images_apart(
    name: str, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    first, second = write_layout(tmp_path, name, split)
    spec = spec_of(name, split)
    file = str(FOLDER / f"{name}.yaml")
    prepare_datasets.main(["--dataset", file, "--nproc", "1", "--write-lists", spec.name])
    assert check_dataset(DescribedFiles(spec, tmp_path)).problems == []
    records = spec.load(tmp_path)
    assert (tmp_path / f"lists/{spec.name}.txt").is_file()
    counts = labelled_counts([(spec.name, records)], [file])
    for index, truth in enumerate((first, second)):
        classes, pixels = np.unique(truth[truth != IGNORE_LABEL], return_counts=True)
        assert counts[index] == dict(zip(classes.tolist(), pixels.tolist(), strict=True))
    # The list that was written is read with the same ids.
    assert [record["image_id"] for record in records] == LAYOUTS[name, split][1]
    (tmp_path / LAYOUTS[name, split][0][1][1]).unlink()
    assert prepare_datasets.main(["--dataset", file, "--nproc", "1", "--check"]) == 1


def test_unknown_tags_and_gray_files_of_carla_are_errors(tmp_path: Path) -> None:
    write_layout(tmp_path, "carla", "train")
    record = spec_of("carla", "train").load(tmp_path)[0]
    save(Path(record["sem_seg_file_name"]), np.full((40, 64, 3), 29, np.uint8))
    with pytest.raises(UserError, match=r"has 1 label id\(s\) that its data set does not list \(29 on 2560 pixels"):
        record["label_encoding"].read(record["sem_seg_file_name"])
    save(Path(record["sem_seg_file_name"]), np.full((40, 64), 1, np.uint8))
    with pytest.raises(UserError, match=r"is a L image, but the labels of its data set are in the red channel"):
        record["label_encoding"].read(record["sem_seg_file_name"])


@pytest.mark.parametrize("name", ["a2d2", "carla", "carla_0913", "idd", "kitti", "virtual_kitti2"])
def test_they_have_the_classes_of_cityscapes(name: str) -> None:
    for spec in read_custom(FOLDER / f"{name}.yaml"):
        assert spec.classes == CITYSCAPES_CLASSES


def test_all_colors_of_a2d2_and_tags_of_carla_have_a_meaning() -> None:
    """The class list of A2D2 has 55 colors and nothing is black but void; CARLA has the tags 0 to 28."""
    a2d2, carla = spec_of("a2d2", "all").encoding, spec_of("carla", "train").encoding
    assert a2d2 is not None and carla is not None
    assert len(a2d2.train_ids) == 55 + 1
    assert [value for value, _ in carla.train_ids] == [*range(29), 255]
    assert [dict(carla.train_ids)[tag] for tag in range(1, 20)] == [*range(19)]


def test_old_tags_of_carla() -> None:
    """Tags 0 to 22, by the table of the documentation of 0.9.13."""
    encoding = spec_of("carla_0913", "train").encoding
    assert encoding is not None
    assert [dict(encoding.train_ids)[tag] for tag in range(23)] == [
        *(255, 2, 4, 255, 11, 5, 0, 0, 1, 8, 13, 3, 7, 10),  # unlabeled to sky
        *(255, 255, 255, 255, 6, 255, 255, 255, 9),  # ground to terrain
    ]
