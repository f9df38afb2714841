"""Custom data sets: what a YAML file describes, and the errors in it."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from clouds.d2 import CfgNode, MetadataCatalog
from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_ID_TO_TRAIN_ID, lookup_table
from clouds.data.datasets.catalog import load_dataset, register_datasets
from clouds.data.datasets.custom import dataset_settings, read_custom
from clouds.data.loading.mappers import TestMapper, TrainMapper
from clouds.data.preparation.check import check_dataset
from clouds.data.preparation.listing import DescribedFiles
from clouds.errors import UserError
from tests.data.conftest import label_map, save, smooth_image, write_generated
from tests.data.official import palette_png

EXAMPLES = Path(__file__).resolve().parents[3] / "configs/datasets"

GARDEN: dict[str, Any] = {
    "name": "garden",
    "splits": {
        "train": {"images": "train/*.jpg", "labels": "train/seg_*.png"},
        "val": {"images": "val/photos/*.jpg", "labels": "val/maps/*.png"},
        "test": {"images": "test/*.jpg"},
    },
    "encoding": "colors",
    "ignore": [[0, 0, 0]],
    "classes": [
        {"name": "grass,lawn", "color": [0, 200, 0], "values": [[0, 200, 0], [0, 100, 0]]},
        {"name": "flower", "color": [200, 0, 100]},
    ],
}


def write(folder: Path, content: Any, name: str = "garden.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def colors() -> np.ndarray:
    """(40, 64, 3) bands of the four colors of the garden."""
    bands = np.array([(0, 200, 0), (0, 100, 0), (200, 0, 100), (0, 0, 0)], np.uint8)
    return bands[np.arange(40) // 10][:, None].repeat(64, axis=1)


EXPECTED = np.array([0, 0, 1, 255], np.uint8)[np.arange(40) // 10][:, None].repeat(64, axis=1)


def write_garden(root: Path) -> None:
    for number in range(2):
        save(root / f"garden/train/a {number}.jpg", smooth_image(number))
        save(root / f"garden/train/seg_a {number}.png", colors())
        save(root / f"garden/val/photos/{number}.jpg", smooth_image(number))
        save(root / f"garden/val/maps/deep/{number}.png", colors())
        save(root / f"garden/test/{number}.jpg", smooth_image(number))


def test_each_split_is_a_set_with_its_classes(tmp_path: Path, cfg: CfgNode) -> None:
    write_garden(tmp_path)
    register_datasets(tmp_path, custom=[str(write(tmp_path, GARDEN))])
    assert [record["image_id"] for record in load_dataset("garden_train")] == ["a 0", "a 1"]
    metadata = MetadataCatalog.get("garden_val")
    assert metadata.stuff_classes == ["grass,lawn", "flower"]
    assert metadata.stuff_colors == [[0, 200, 0], [200, 0, 100]]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    record = pickle.loads(pickle.dumps(load_dataset("garden_val")[0]))  # as in a worker process
    np.testing.assert_array_equal(TestMapper(cfg)(record)[0]["sem_seg"].numpy(), EXPECTED)
    mapped = TrainMapper(cfg)(record, np.random.default_rng(0))
    assert set(mapped["sem_seg_classes"]) <= {0, 1}
    unlabelled = load_dataset("garden_test")
    assert [sorted(record) for record in unlabelled] == [["file_name", "image_id", "label_encoding"]] * 2
    assert "sem_seg" not in TestMapper(cfg)(unlabelled[0])[0]


def test_settings_of_the_flag(tmp_path: Path) -> None:
    path = write(tmp_path, GARDEN)
    assert dataset_settings(path) == [
        *("DATASETS.CUSTOM", f"('{path}',)", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2"),
        *("DATASETS.TRAIN", "('garden_train',)", "DATASETS.TEST", "('garden_val',)"),
    ]
    only_test = {**GARDEN, "splits": {"test": GARDEN["splits"]["test"]}}
    assert dataset_settings(write(tmp_path, only_test))[4:] == ["DATASETS.TEST", "('garden_test',)"]


def test_a_good_garden_passes_the_check_and_a_new_color_does_not(tmp_path: Path) -> None:
    write_garden(tmp_path)
    train, val, test = read_custom(write(tmp_path, GARDEN))
    for spec in (train, val, test):
        assert check_dataset(DescribedFiles(spec, tmp_path)).problems == []
    assert check_dataset(DescribedFiles(train, tmp_path)).pixels[:2].tolist() == [2 * 20 * 64, 2 * 10 * 64]
    strange = colors()
    strange[3, 5:8] = (1, 2, 3)
    save(tmp_path / "garden/train/seg_a 1.png", strange)
    (problem,) = check_dataset(DescribedFiles(train, tmp_path)).problems
    assert "seg_a 1.png has 1 label color(s) that its data set does not list ((1, 2, 3) on 3 pixels)" in problem


def test_images_and_label_maps_may_share_a_folder(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / f"garden/{number}.png", smooth_image(number))
        save(tmp_path / f"garden/{number}_label.png", label_map(number, classes=2))
    content = {
        **GARDEN,
        "encoding": "train_ids",
        "splits": {"all": {"images": "*.png", "labels": "*_label.png"}},
        "classes": [{"name": "a", "color": [1, 1, 1]}, {"name": "b", "color": [2, 2, 2]}],
    }
    del content["ignore"]
    (spec,) = read_custom(write(tmp_path, content))
    assert [record["image_id"] for record in spec.load(tmp_path)] == ["0", "1"]
    assert check_dataset(DescribedFiles(spec, tmp_path)).problems == []


def test_ids_of_cityscapes_are_those_of_the_table(tmp_path: Path) -> None:
    train, _ = read_custom(EXAMPLES / "streets.yaml")
    assert train.classes == CITYSCAPES_CLASSES
    ids = np.arange(40).repeat(16).reshape(20, 32)
    path = palette_png(tmp_path / "a_labelIds.png", ids)
    assert train.encoding is not None
    np.testing.assert_array_equal(train.encoding.read(str(path)), lookup_table(CITYSCAPES_ID_TO_TRAIN_ID)[ids])


def test_camvid_has_eleven_classes_out_of_32_colors(tmp_path: Path) -> None:
    train, _val, _test = read_custom(EXAMPLES / "camvid.yaml")
    assert len(train.classes) == 11
    assert train.encoding is not None
    assert len(train.encoding.train_ids) == 32
    values = [value for value, _ in train.encoding.train_ids]
    image = np.array([(value >> 16, value >> 8 & 255, value & 255) for value in values], np.uint8)[None]
    save(tmp_path / "x_L.png", image)
    found = train.encoding.read(str(tmp_path / "x_L.png"))[0]
    assert found.tolist() == [train_id for _, train_id in train.encoding.train_ids]
    assert set(found.tolist()) == {*range(11), 255}


def without(key: str) -> dict[str, Any]:
    return {other: value for other, value in GARDEN.items() if other != key}


def classes(*rows: Any) -> dict[str, Any]:
    return {**GARDEN, "classes": list(rows)}


GRASS, FLOWER = GARDEN["classes"]
WRONG = [
    ("a: [", "is not YAML"),
    ("- a list", "the file must be `key: value` pairs"),
    (without("name"), "it has no name"),
    (without("classes"), "it has no classes"),
    (without("splits"), "it has no splits"),
    ({**GARDEN, "splits": {}}, "it has no splits"),
    ({**GARDEN, "name": "my garden"}, "its name is 'my garden', which must be 1 to 100 letters, digits, _, - and"),
    ({**GARDEN, "encodings": "ids"}, "names 'encodings', which does not exist; the nearest that do: encoding"),
    ({**GARDEN, "encoding": "rgb"}, "its encoding is 'rgb', which must be one of train_ids, ids, colors"),
    ({**GARDEN, "rest": "drop"}, "its rest is 'drop'"),
    ({**GARDEN, "splits": {"train": {"labels": "*.png"}}}, "split train has no images"),
    ({**GARDEN, "splits": {"train": {"images": "train/"}}}, "split train has the pattern 'train/'"),
    ({**GARDEN, "splits": {"train": {"images": "a.png"}}}, r"pattern 'a\.png', which has no \*, where"),
    ({**GARDEN, "splits": {"train": {"images": ["*.png"]}}}, r"pattern \['\*\.png'\], which is no text"),
    ({**GARDEN, "splits": {"train": {"images": "a\\*.png"}}}, "which has a backslash"),
    ({**GARDEN, "splits": {"train": {"images": "*.{png,{jpg}"}}}, r"which has a { or } too many"),
    ({**GARDEN, "splits": {"train": {"images": "{a/b,c}/*.png"}}}, r"which has a \* or / inside { }"),
    ({**GARDEN, "splits": {"train": {"images": "*{1,2}{1,2}{1,2}{1,2}{1,2}{1,2}{1,2}"}}}, "more than 64 combinations"),
    ({**GARDEN, "splits": {"train": {"images": "a//*.png"}}}, "which has an empty name"),
    ({**GARDEN, "splits": {"train": {"images": "*/../*.png"}}}, r"which has a folder \.\. after"),
    ({**GARDEN, "splits": {"train": {"images": "a/**"}}}, r"which has \*\* beside other characters or as a file"),
    ({**GARDEN, "splits": {"train": {"images": "a**/b.png"}}}, r"which has \*\* beside other characters"),
    ({**GARDEN, "splits": {"train": {"images": "**/a/**/b.png"}}}, r"which has \*\* twice"),
    (
        {**GARDEN, "splits": {"train": {"images": "*/*.png", "labels": "*.png"}}},
        r"'\*/\*\.png' and '\*\.png'; what \* and \*\* match makes the pairs, so both need the same number",
    ),
    ({**GARDEN, "splits": {"train": {"images": "*.png", "list": "a.txt"}}}, "split train has a list, which replaces"),
    ({**GARDEN, "splits": {"train": {"list": 3}}}, "split train has the list 3, which must be a path"),
    ({**GARDEN, "folder": "a*"}, r"its folder is 'a\*', which must be a path without"),
    ({**GARDEN, "folder": 3}, "its folder is 3, which must be a path"),
    ({**GARDEN, "folder": "a" * 256}, "its folder is 'aaaa.*, which must be a path"),
    ({**GARDEN, "splits": {"train": {"list": "a" * 256}}}, "split train has the list 'aaa.*, which must be a path"),
    ({**GARDEN, "splits": {"train": {"images": f"{'a' * 256}/*.png"}}}, "which is no path that a file system can have"),
    (
        {**GARDEN, "splits": {"../../x": {"images": "*.png"}}},
        r"the name of a split is '\.\./\.\./x', which must be 1 to",
    ),
    ({**GARDEN, "splits": {"x/y": {"images": "*.png"}}}, "the name of a split is 'x/y'"),
    ({**GARDEN, "splits": {"..": {"images": "*.png"}}}, r"the name of a split is '\.\.'"),
    ({**GARDEN, "splits": {"": {"images": "*.png"}}}, "the name of a split is ''"),
    ({**GARDEN, "splits": {"a" * 101: {"images": "*.png"}}}, "which must be 1 to 100 letters, digits"),
    ({**GARDEN, "splits": {"a" * 96: {"images": "*.png"}}}, "the name of a split with its own is 'garden_aa"),
    ({**GARDEN, "name": "../garden"}, r"its name is '\.\./garden', which must be"),
    ({**GARDEN, "name": 7}, "its name is 7, which must be a text"),
    ({**GARDEN, "channel": "red"}, "it has a channel, which only encoding: ids needs"),
    ({**GARDEN, "encoding": "ids", "channel": "r"}, "its channel is 'r', which must be one of red, green, blue, alpha"),
    ({**GARDEN, "values": {"road": [1]}}, "its values belong to its classes"),
    (
        {**GARDEN, "classes": "cityscapes", "encoding": "ids", "ignore": [], "values": {"raod": [1]}},
        r"\(values\) names 'raod', which does not exist; the nearest that do: road",
    ),
    ({**GARDEN, "classes": "camvid"}, "its classes must be a list"),
    (classes(GRASS, {"color": [1, 2, 3]}), "class 1 has no name"),
    (classes(GRASS, {"name": "flower"}), r"class flower has the color None"),
    (classes(GRASS, {**FLOWER, "color": [1, 2, 300]}), r"class flower has the color \[1, 2, 300\]"),
    (classes(GRASS, {**FLOWER, "color": [0, 100, 0]}), r"grass,lawn and flower have the same value \(0, 100, 0\)"),
    (classes(GRASS, {**FLOWER, "name": "grass"}), "two of its classes have the same name"),
    (classes(GRASS, {**FLOWER, "colour": 1}), "names 'colour', which does not exist; the nearest that do: color"),
    ({**GARDEN, "ignore": [[200, 0, 100]]}, r"the value \(200, 0, 100\) is listed under ignore and is a class"),
    ({**GARDEN, "encoding": "ids"}, r"class grass,lawn has the id \[0, 200, 0\]"),
    ({**classes(FLOWER), "encoding": "ids", "ignore": []}, "class flower has no values"),
    ({**classes(GRASS), "encoding": "train_ids", "ignore": []}, "class grass,lawn has values, which train_ids"),
]


@pytest.mark.parametrize(("content", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_an_invalid_file_is_one_sentence(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        read_custom(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_name_that_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.yaml does not exist"):
        read_custom(tmp_path / "no.yaml")
    content = {**GARDEN, "name": "cityscapes", "splits": {"val": GARDEN["splits"]["val"]}}
    with pytest.raises(UserError, match="describes the data set cityscapes_val, but there is one already"):
        register_datasets(tmp_path, custom=[str(write(tmp_path, content))])


def test_the_folder_of_a_generated_set_has_the_name_of_a_split(tmp_path: Path) -> None:
    write_generated(tmp_path, 1, "sd_mine")
    path = write(tmp_path, {**GARDEN, "name": "sd", "splits": {"mine": GARDEN["splits"]["val"]}})
    with pytest.raises(
        UserError, match=r"describes the data set sd_mine, but .*/stable_diffusion/sd_mine has this name"
    ):
        register_datasets(tmp_path, custom=[str(path)])


def test_a_split_is_known_by_its_whole_name(tmp_path: Path) -> None:
    splits = {"not_train": GARDEN["splits"]["test"], "pre_val": GARDEN["splits"]["val"]}
    settings = dataset_settings(write(tmp_path, {**GARDEN, "splits": splits}))
    assert "DATASETS.TRAIN" not in settings and "DATASETS.TEST" not in settings


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats()
    | st.sampled_from(
        [
            "cityscapes",
            "road",
            "red",
            "ids",
            "colors",
            "train_ids",
            "ignore",
            "*.png",
            "a/*.{png,jpg}",
            "..",
            "",
            "\x00",
        ]
    )
)
keys = st.sampled_from(["name", "color", "values", "images", "labels", "list", "train", "road", "../x"])
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))


@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*GARDEN, "folder", "channel", "rest", "values"), values)))
def test_any_content_is_read_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    for content in (changes, GARDEN | changes, {**GARDEN, **dict([*changes.items()][:1])}):
        path.write_text(yaml.safe_dump(content))
        try:
            specs = read_custom(path)
        except UserError:
            continue
        assert all(spec.list_file(Path("/data")).parent == Path("/data/lists") for spec in specs)
        assert all(spec.statistics_folder(Path("/data")).parent == Path("/data/statistics") for spec in specs)


def test_more_classes_than_the_network_has(tmp_path: Path, cfg: CfgNode) -> None:
    write_garden(tmp_path)
    register_datasets(tmp_path, custom=[str(write(tmp_path, GARDEN))])
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 1
    with pytest.raises(UserError, match="but the network has 1 classes: set its number of classes"):
        TestMapper(cfg)(load_dataset("garden_val")[0])
