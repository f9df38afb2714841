"""Every folder of generated images is a data set without labels."""

from pathlib import Path

import pytest

from clouds.d2 import DatasetCatalog, MetadataCatalog
from clouds.data.classes import CITYSCAPES_CLASSES
from clouds.data.datasets.catalog import load_dataset, register_datasets
from clouds.errors import UserError
from tests.data.datasets.test_catalog import touch


def test_folders_of_generated_images_are_sets(tmp_path: Path) -> None:
    places = tmp_path / "stable_diffusion"
    touch(places / "sd_one/images/im_1_p1.png", places / "sd_one/images/im_0_p0.JPG", places / "sd_one/images/b/x.jpeg")
    # Files of older code or of the user: none of them is read.
    (places / "sd_one/train_dict.json").write_text('[{"file_name": "/gone.png"}]')
    touch(places / "sd_one/images/notes.txt", places / "sd_one/labels/im_0_p0_labelTrainIds.png", places / "readme.md")
    # Left behind by programs: not data.
    touch(
        *(places / "sd_one/images" / name for name in ("._im_0_p0.png", ".ipynb_checkpoints/x.png", "__MACOSX/y.jpg"))
    )
    touch(places / ".cache/images/im_0.png", places / ".DS_Store")
    touch(places / "two/images/im_5_p0.png")
    register_datasets(tmp_path)
    assert DatasetCatalog.get("sd_one") == [
        {"file_name": str(places / "sd_one/images" / file), "image_id": image_id, "is_generated": True}
        for file, image_id in (("b/x.jpeg", "b/x"), ("im_0_p0.JPG", "im_0_p0"), ("im_1_p1.png", "im_1_p1"))
    ]
    assert [record["image_id"] for record in load_dataset("sd_two")] == ["im_5_p0"]
    assert MetadataCatalog.get("sd_two").stuff_classes == list(CITYSCAPES_CLASSES)
    assert {name for name in DatasetCatalog.list() if name.startswith("sd_")} == {"sd_one", "sd_two", "sd_llama70b_v2"}


def test_a_missing_generated_set_is_named_with_its_folder(tmp_path: Path) -> None:
    images = tmp_path / "stable_diffusion/sd_llama70b_v2/images"
    register_datasets(tmp_path)
    for what in ("there is no folder", "no image in"):
        with pytest.raises(UserError) as error:
            load_dataset("sd_llama70b_v2")
        assert str(error.value).startswith(f"sd_llama70b_v2: {what} {images}, where ")
        assert "clouds generate --folder NAME (see datasets/README.md)" in str(error.value)
        touch(images / "notes.txt")
    touch(images / "im_0_p0.png")
    assert len(load_dataset("sd_llama70b_v2")) == 1
    with pytest.raises(UserError, match=r"'sd_v9'.* stable_diffusion/sd_v9 .*clouds generate"):
        load_dataset("sd_v9")


def test_two_folders_of_one_name(tmp_path: Path) -> None:
    for folder in ("v1", "sd_v1"):
        touch(tmp_path / f"stable_diffusion/{folder}/images/im_0.png")
    register_datasets(tmp_path)
    with pytest.raises(UserError, match=r"sd_v1: .*/sd_v1 and .*/v1 both go by this name"):
        load_dataset("sd_v1")


def test_generated_images_of_one_stem(tmp_path: Path) -> None:
    touch(*(tmp_path / f"stable_diffusion/a/images/im_0.{suffix}" for suffix in ("png", "jpg")))
    register_datasets(tmp_path)
    with pytest.raises(UserError, match=r"2 record\(s\) with image_id 'im_0'"):
        load_dataset("sd_a")
