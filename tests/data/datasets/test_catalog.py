"""The catalog finds every data set in its published folders, and names what is missing."""

import os
import sys
from pathlib import Path

import pytest

from clouds.d2 import DatasetCatalog, MetadataCatalog
from clouds.data.classes import CITYSCAPES_CLASSES
from clouds.data.datasets import catalog
from clouds.data.datasets.builtin import BUILTIN_DATASETS, GTA5_OMITTED
from clouds.data.datasets.catalog import load_dataset, register, register_datasets
from clouds.data.datasets.spec import DatasetSpec
from clouds.errors import UserError

# Image and label map of a pair in the published folder layout of every data set, and the image id.
PAIRS = {
    "gta5": ("gta5/images/00001.png", "gta5/labels/00001_labelTrainIds.png", "00001"),
    "synthia": ("synthia/RGB/0000000.png", "synthia/GT/LABELS/0000000_labelTrainIds.png", "0000000"),
    "urbansyn": ("urbansyn/rgb/rgb_0001.png", "urbansyn/ss/ss_0001_labelTrainIds.png", "0001"),
    "cityscapes_train": (
        "cityscapes/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
        "cityscapes/gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png",
        "aachen_000000_000019",
    ),
    "cityscapes_val": (
        "cityscapes/leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png",
        "cityscapes/gtFine/val/lindau/lindau_000000_000019_gtFine_labelTrainIds.png",
        "lindau_000000_000019",
    ),
    "bdd_val": (
        "bdd10k/images/10k/val/7d06fefd-f7be05a6.jpg",
        "bdd10k/labels/sem_seg/masks/val/7d06fefd-f7be05a6.png",
        "7d06fefd-f7be05a6",
    ),
    "mapillary_val": (
        "mapillary_vistas/validation/images/UY_PHWayVjp9j134zW00FQ.jpg",
        "mapillary_vistas/validation/labels/UY_PHWayVjp9j134zW00FQ_labelTrainIds.png",
        "UY_PHWayVjp9j134zW00FQ",
    ),
    **{
        f"acdc_{weather}_val": (
            f"acdc/rgb_anon/{weather}/val/GOPR0356/GOPR0356_frame_000324_rgb_anon.png",
            f"acdc/gt/{weather}/val/GOPR0356/GOPR0356_frame_000324_gt_labelTrainIds.png",
            "GOPR0356_frame_000324",
        )
        for weather in ("night", "rain", "snow", "fog")
    },
}


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("name", PAIRS)
def test_every_set_is_found_where_it_is_unpacked(name: str, tmp_path: Path) -> None:
    image, label, image_id = (tmp_path / PAIRS[name][0], tmp_path / PAIRS[name][1], PAIRS[name][2])
    # Other files of the downloads and the converters are not data.
    touch(image, label, image.parent / "README.txt", label.with_name(f"{image_id}_color.gif"))
    register_datasets(tmp_path)
    assert DatasetCatalog.get(name) == [
        {"file_name": str(image), "sem_seg_file_name": str(label), "image_id": image_id}
    ]
    metadata = MetadataCatalog.get(name)
    assert metadata.stuff_classes == list(CITYSCAPES_CLASSES)
    assert len(metadata.stuff_colors) == 19
    assert (metadata.ignore_label, metadata.evaluator_type) == (255, "sem_seg")


def test_the_table_has_the_sets_of_the_benchmarks() -> None:
    assert {spec.name for spec in BUILTIN_DATASETS} == set(PAIRS)


# The folders that the archives of the official sites unpack to.
ELSEWHERE = {
    "synthia": ("RAND_CITYSCAPES/RGB/0000000.png", "RAND_CITYSCAPES/GT/LABELS/0000000_labelTrainIds.png"),
    "urbansyn": ("UrbanSyn/rgb/rgb_0001.png", "UrbanSyn/ss/ss_0001_labelTrainIds.png"),
    "cityscapes_val": (
        "cityscapes/leftImg8bit_trainvaltest/leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png",
        "cityscapes/gtFine_trainvaltest/gtFine/val/lindau/lindau_000000_000019_gtFine_labelTrainIds.png",
    ),
    "acdc_fog_val": (
        "acdc/rgb_anon_trainvaltest/rgb_anon/fog/val/GP010476/GP010476_frame_000054_rgb_anon.png",
        "acdc/gt_trainval/gt/fog/val/GP010476/GP010476_frame_000054_gt_labelTrainIds.png",
    ),
    "mapillary_val": (
        "mapillary-vistas-dataset_public_v1.2/validation/images/a.jpg",
        "mapillary-vistas-dataset_public_v1.2/validation/labels/a_labelTrainIds.png",
    ),
    "bdd_val": ("bdd100k/images/10k/val/a-b.jpg", "bdd100k/labels/sem_seg/masks/val/a-b.png"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_sets_are_also_found_as_their_archives_unpack(name: str, tmp_path: Path) -> None:
    image, label = (tmp_path / file for file in ELSEWHERE[name])
    touch(image, label)
    register_datasets(tmp_path)
    (record,) = load_dataset(name)
    assert (record["file_name"], record["sem_seg_file_name"]) == (str(image), str(label))


def test_more_places_of_bdd_and_mapillary(tmp_path: Path) -> None:
    touch(tmp_path / "bdd100k/seg/images/val/a-b.jpg", tmp_path / "bdd100k/seg/labels/val/a-b_train_id.png")
    touch(tmp_path / "mapillary_vistas/validation/images/a.jpg")
    touch(tmp_path / "mapillary_vistas/validation/v2.0/labels/a_labelTrainIds.png")
    register_datasets(tmp_path)
    assert load_dataset("bdd_val")[0]["image_id"] == "a-b"
    assert load_dataset("mapillary_val")[0]["sem_seg_file_name"].endswith("v2.0/labels/a_labelTrainIds.png")


def test_acdc_together_has_all_conditions(tmp_path: Path) -> None:
    for weather in ("night", "rain", "snow", "fog"):
        touch(*(tmp_path / file for file in PAIRS[f"acdc_{weather}_val"][:2]))
    register_datasets(tmp_path)
    assert [record["image_id"] for record in load_dataset("acdc_val")] == [
        f"{weather}/GOPR0356_frame_000324" for weather in ("night", "rain", "snow", "fog")
    ]
    assert sum(spec.num_pairs for spec in BUILTIN_DATASETS if spec.name.startswith("acdc")) == 406


@pytest.mark.parametrize(("image_in", "label_in"), [("", ""), ("", "GP010376/"), ("GP010376/", "")])
def test_acdc_may_be_flat_or_in_sequences(image_in: str, label_in: str, tmp_path: Path) -> None:
    touch(
        tmp_path / f"acdc/rgb_anon/fog/val/{image_in}GP010376_frame_1_rgb_anon.png",
        tmp_path / f"acdc/gt/fog/val/{label_in}GP010376_frame_1_gt_labelTrainIds.png",
    )
    register_datasets(tmp_path)
    (record,) = load_dataset("acdc_fog_val")
    assert record["sem_seg_file_name"].endswith(f"val/{label_in}GP010376_frame_1_gt_labelTrainIds.png")


def test_a_file_that_exists_twice_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "acdc/rgb_anon/fog/val"
    touch(folder / "x_1_rgb_anon.png", folder / "x/x_1_rgb_anon.png")
    register_datasets(tmp_path)
    with pytest.raises(UserError, match=r"x_1_rgb_anon\.png exists twice"):
        load_dataset("acdc_fog_val")


def test_records_are_sorted_and_the_published_omissions_left_out(tmp_path: Path) -> None:
    numbers = [20861, 1, 15188, 17705, 20801, 20860, 2, 20800]
    for number in numbers:
        touch(tmp_path / f"gta5/images/{number:05d}.png")
        if number in (1, 2, 20800, 20861):  # the omitted ones need no labels
            touch(tmp_path / f"gta5/labels/{number:05d}_labelTrainIds.png")
    register_datasets(tmp_path)
    assert [record["image_id"] for record in load_dataset("gta5")] == ["00001", "00002", "20800", "20861"]
    assert len(GTA5_OMITTED) == 24966 - 24904


def test_registering_reads_nothing_and_may_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a folder was listed")

    with monkeypatch.context() as patch:
        for function in ("walk", "listdir", "scandir"):
            patch.setattr(os, function, forbidden)
        register_datasets(tmp_path / "nowhere")
        register_datasets(tmp_path)
    touch(tmp_path / PAIRS["synthia"][0], tmp_path / PAIRS["synthia"][1])
    assert load_dataset("synthia")[0]["file_name"].startswith(str(tmp_path))


def test_importing_the_catalogue_lists_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a folder was listed")

    source = compile(Path(catalog.__file__).read_text(), catalog.__file__, "exec")
    for function in ("walk", "listdir", "scandir"):
        monkeypatch.setattr(os, function, forbidden)
    exec(source, {"__name__": "clouds.data.datasets.catalog"})


def test_a_set_is_listed_once_until_it_is_registered_again(tmp_path: Path) -> None:
    touch(tmp_path / PAIRS["bdd_val"][0], tmp_path / PAIRS["bdd_val"][1])
    register_datasets(tmp_path)
    with pytest.raises(UserError):
        load_dataset("synthia")
    first = load_dataset("bdd_val")
    touch(*(tmp_path / path.replace("7d06", "8e17") for path in PAIRS["bdd_val"][:2]))
    touch(tmp_path / PAIRS["synthia"][0], tmp_path / PAIRS["synthia"][1])
    assert load_dataset("bdd_val") == first
    assert len(load_dataset("synthia")) == 1, "a listing that failed is repeated"
    register_datasets(tmp_path)
    assert len(load_dataset("bdd_val")) == 2


def test_default_root_is_the_environment_variable_then_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("elsewhere", "datasets"):
        touch(tmp_path / folder / PAIRS["bdd_val"][0], tmp_path / folder / PAIRS["bdd_val"][1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    register_datasets()
    assert load_dataset("bdd_val")[0]["file_name"] == str(tmp_path / "elsewhere" / PAIRS["bdd_val"][0])
    monkeypatch.delenv("DETECTRON2_DATASETS")
    register_datasets()
    monkeypatch.chdir("/")  # the root was fixed when it was registered
    assert load_dataset("bdd_val")[0]["file_name"] == str(tmp_path / "datasets" / PAIRS["bdd_val"][0])


@pytest.mark.parametrize("name", PAIRS)
def test_missing_and_empty_folders_are_named_with_the_files_they_should_have(name: str, tmp_path: Path) -> None:
    """The steps from no folder to a complete data set: each missing part has its own message."""
    register_datasets(tmp_path)
    rules = next(spec for spec in BUILTIN_DATASETS if spec.name == name)
    image, label = tmp_path / PAIRS[name][0], tmp_path / PAIRS[name][1]
    (images, image_names), (labels, label_names) = ((part.folder, part.names) for part in rules.patterns(tmp_path))

    def message() -> str:
        with pytest.raises(UserError) as error:
            load_dataset(name)
        assert str(error.value).startswith(f"{name}: ")
        assert "datasets/README.md" in str(error.value)
        return str(error.value)

    for what, folder, names, file in (
        ("images", images, image_names, image),
        ("label maps", labels, label_names, label),
    ):
        assert f"there is no folder {folder}, where its {what} ({names}) should lie" in message()
        assert "set DETECTRON2_DATASETS" in message()
        touch(folder / "readme.txt")
        assert f"no {what} in {folder}, where files {names} should lie" in message()
        touch(file)
    assert len(load_dataset(name)) == 1


def test_labels_that_were_not_converted_are_reported(tmp_path: Path) -> None:
    touch(tmp_path / "gta5/images/00001.png", tmp_path / "gta5/labels/00001.png")
    register_datasets(tmp_path)
    with pytest.raises(UserError, match=r"gta5: no label maps in .*gta5/labels.*\*_labelTrainIds.png.*conversion"):
        load_dataset("gta5")


def test_images_without_label_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    touch(*(tmp_path / f"gta5/images/{number:05d}.png" for number in range(1, 6)))
    touch(*(tmp_path / f"gta5/labels/{number:05d}_labelTrainIds.png" for number in (1, 3, 5)))
    register_datasets(tmp_path)
    with pytest.raises(UserError, match=r"gta5: 2 of 5 images have no label map, the first is .*/00002.png"):
        load_dataset("gta5")


def test_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    register_datasets(tmp_path)
    with pytest.raises(UserError, match=r"'cityscape_val'.*did you mean cityscapes_val"):
        load_dataset("cityscape_val")
    with pytest.raises(UserError, match="known: acdc_fog_val, "):
        load_dataset("xyz")


@pytest.mark.parametrize("name", ["../up", "..", "a/b"])
def test_names_that_detectron2s_catalog_accepts_must_not_be_paths(name: str) -> None:
    DatasetCatalog.register(name, lambda: [{"file_name": "0.png", "image_id": "0"}])
    try:
        with pytest.raises(UserError, match="has a path as its name"):
            load_dataset(name)
    finally:
        DatasetCatalog.remove(name)


@pytest.mark.parametrize("ids", [("a", "b", "a"), (None, "a"), (None,)])
def test_records_need_ids_of_their_own(ids: tuple[str | None, ...]) -> None:
    register("twins", lambda: [{"file_name": f"{n}/0.png", "image_id": image_id} for n, image_id in enumerate(ids)])
    with pytest.raises(UserError, match=rf"twins: {1 + (None not in ids)} record\(s\) with image_id ('a'|None);"):
        load_dataset("twins")


@pytest.mark.parametrize("image_id", [5, b"a", "a" * 1025, "ü" * 513, ("a",), ["a"]])
def test_ids_that_name_no_output(image_id: object) -> None:
    register("strange", lambda: [{"file_name": "0.png", "image_id": image_id}])
    with pytest.raises(UserError, match=r"strange: the image_id .* must be a str of at most 1024 bytes"):
        load_dataset("strange")


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", ".hidden", "-flag", "a\x00", "a\nb", "a" * 101, "a b"])
def test_names_that_lead_out_of_a_folder_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"The name of a data set is .*, which must be 1 to 100 letters, digits"):
        register(name, list)
    with pytest.raises(ValueError, match=r"name is .*, which must be"):
        DatasetSpec(name, ("*.png",), ())


def test_a_set_without_images_is_an_error() -> None:
    register("hollow", list)
    with pytest.raises(UserError, match="hollow has no images"):
        load_dataset("hollow")


def test_modules_plug_in_sets_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_sets.py").write_text(
        "from clouds.data.datasets import catalog\n"
        "def register(root):\n"
        "    records = [{'file_name': str(root / 'a.png'), 'image_id': 'a'}]\n"
        "    catalog.register('mine', lambda: records, classes=['cat,puss', 'dog'], colors=[(1, 2, 3)] * 2)\n"
    )
    (tmp_path / "empty_sets.py").write_text("")
    (tmp_path / "broken_sets.py").write_text("import no_such_thing_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    register_datasets(tmp_path, ["my_sets"])
    register_datasets(tmp_path, ["my_sets"])
    assert load_dataset("mine") == [{"file_name": str(tmp_path / "a.png"), "image_id": "a"}]
    assert MetadataCatalog.get("mine").stuff_classes == ["cat,puss", "dog"]
    with pytest.raises(UserError, match=r"'absent_sets' is not a Python module that is installed or in"):
        register_datasets(tmp_path, ["absent_sets"])
    with pytest.raises(UserError, match=r"'empty_sets' has no function register\(root\)"):
        register_datasets(tmp_path, ["empty_sets"])
    with pytest.raises(ModuleNotFoundError, match="no_such_thing_at_all"):
        register_datasets(tmp_path, ["broken_sets"])
    for module in ("my_sets", "empty_sets"):
        sys.modules.pop(module, None)


def test_a_module_may_lie_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sets_right_here.py").write_text("def register(root):\n    (root / 'called').touch()\n")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])  # as for tools/*.py; undone with the test
    monkeypatch.chdir(tmp_path)
    register_datasets(tmp_path, ["sets_right_here"])
    assert (tmp_path / "called").exists()
    sys.modules.pop("sets_right_here")
