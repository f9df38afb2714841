"""Every kind of label file is decoded to train ids, and a value without a meaning is an error."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clouds.data.classes import CITYSCAPES_ID_TO_TRAIN_ID, GTA5_IDS, SYNTHIA_ID_TO_TRAIN_ID, SYNTHIA_IDS, lookup_table
from clouds.data.encoding import LabelEncoding, read_train_ids
from clouds.data.label_readers import CHANNELS, LabelKind, pack_colors, unpack_color
from clouds.errors import UserError
from tests.data.conftest import label_map, save, smooth_image
from tests.data.official import blocks, cityscapes_polygons, palette_png, synthia_png


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoding")


meanings = st.dictionaries(st.integers(0, 2**16 - 1), st.integers(0, 253) | st.just(255), min_size=1, max_size=9)


@given(meaning=meanings, data=st.data())
def test_every_listed_id_is_translated(folder: Path, meaning: dict[int, int], data: st.DataObject) -> None:
    drawn = data.draw(st.lists(st.sampled_from(sorted(meaning)), min_size=1, max_size=30))
    path = folder / "ids.png"
    Image.fromarray(np.array([drawn], np.uint16)).save(path)
    encoding = LabelEncoding("ids", tuple(meaning.items()))
    assert encoding.read(str(path))[0].tolist() == [meaning[value] for value in drawn]


@given(meaning=meanings, value=st.integers(0, 2**16 - 1))
def test_any_other_id_is_an_error_or_the_default(folder: Path, meaning: dict[int, int], value: int) -> None:
    path = folder / "other.png"
    Image.fromarray(np.array([[value]], np.uint16)).save(path)
    pairs = tuple(meaning.items())
    assert LabelEncoding("ids", pairs, default=255).read(str(path))[0, 0] == meaning.get(value, 255)
    if value not in meaning:
        with pytest.raises(UserError, match=rf"1 label id\(s\) that its data set does not list \({value} on 1 pixels"):
            LabelEncoding("ids", pairs).read(str(path))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bytes_and_wider_ids_are_decoded_alike(tmp_path: Path, dtype: type) -> None:
    ids = blocks(0, range(35), 80, 64).astype(dtype)
    save(tmp_path / "x.png", ids)
    encoding = LabelEncoding.of_ids(CITYSCAPES_ID_TO_TRAIN_ID, GTA5_IDS)
    labels = encoding.read(str(tmp_path / "x.png"))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, lookup_table(CITYSCAPES_ID_TO_TRAIN_ID)[ids])


def test_ids_of_a_data_set_without_a_class_are_ignored_and_others_are_errors(tmp_path: Path) -> None:
    encoding = LabelEncoding.of_ids({3: 0}, range(5))
    save(tmp_path / "x.png", np.arange(5, dtype=np.uint8)[None])
    assert encoding.read(str(tmp_path / "x.png")).tolist() == [[255, 255, 255, 0, 255]]
    save(tmp_path / "x.png", np.array([[255]], np.uint8))
    with pytest.raises(UserError, match=r"\(255 on 1 pixels\): known are 0 to 4; see that these are the original"):
        encoding.read(str(tmp_path / "x.png"))


def test_the_most_frequent_unknown_values_are_listed(tmp_path: Path) -> None:
    ids = np.repeat(np.arange(6, dtype=np.uint8), [1, 2, 3, 4, 5, 6])[None]
    save(tmp_path / "x.png", ids)
    with pytest.raises(
        UserError, match=r"5 label id\(s\) .* \(5 on 6 pixels, 4 on 5 pixels, 3 on 4 .* and 2 more\): give"
    ):
        LabelEncoding("ids", ((0, 0),)).read(str(tmp_path / "x.png"))


def test_an_unknown_value_far_down_a_large_label_map_is_found(tmp_path: Path) -> None:
    ids = np.zeros((400, 500), np.uint8)  # several of the blocks that the decoder looks through
    ids[-1, -1] = 9
    save(tmp_path / "x.png", ids)
    with pytest.raises(UserError, match=r"\(9 on 1 pixels\)"):
        LabelEncoding("ids", ((0, 0),)).read(str(tmp_path / "x.png"))


@given(color=st.tuples(*[st.integers(0, 255)] * 3))
def test_packed_colors_are_unpacked(color: tuple[int, int, int]) -> None:
    assert unpack_color(int(pack_colors(np.array(color)))) == color


def test_a_palette_image_has_colors_too(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([9, 8, 7, 200, 0, 100])
    image.save(tmp_path / "x.png")
    value = int(pack_colors(np.array([9, 8, 7])))
    encoding = LabelEncoding("colors", ((value, 4), ((200 << 16) + 100, 1)))
    assert encoding.read(str(tmp_path / "x.png")).tolist() == [[4, 1]]
    with pytest.raises(UserError, match=r"1 label color\(s\) .* \(\(200, 0, 100\) on 1 pixels\)"):
        LabelEncoding("colors", ((value, 4),)).read(str(tmp_path / "x.png"))
    save(tmp_path / "gray.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(UserError, match="the labels of its data set are colors"):
        encoding.read(str(tmp_path / "gray.png"))


def test_the_red_channel_of_16_bits(tmp_path: Path) -> None:
    ids = blocks(0, range(23))
    path = synthia_png(tmp_path / "x.png", ids)
    labels = LabelEncoding.of_ids(SYNTHIA_ID_TO_TRAIN_ID, SYNTHIA_IDS, "red_ids").read(str(path))
    np.testing.assert_array_equal(labels, lookup_table(SYNTHIA_ID_TO_TRAIN_ID)[ids])


def test_polygons_and_ids_of_cityscapes_have_one_encoding(tmp_path: Path) -> None:
    encoding = LabelEncoding.of_ids(CITYSCAPES_ID_TO_TRAIN_ID, range(34), "cityscapes")
    ids = blocks(0, range(34))
    np.testing.assert_array_equal(
        encoding.read(str(palette_png(tmp_path / "x_labelIds.png", ids))), lookup_table(CITYSCAPES_ID_TO_TRAIN_ID)[ids]
    )
    labels = encoding.read(str(cityscapes_polygons(tmp_path / "x_polygons.json")))
    assert set(np.unique(labels)) == {0, 10, 11, 13, 255}  # road, sky, person, car, and what is not scored


@pytest.mark.parametrize(
    ("kind", "pairs", "default"),
    [("ids", ((1 << 16, 0),), None), ("ids", ((-1, 0),), None), ("colors", ((1 << 24, 0),), None)]
    + [("ids", ((0, train_id),), None) for train_id in (-1, 254, 256)]
    + [("ids", (), 254)],
)
def test_values_and_train_ids_have_a_range(kind: str, pairs: tuple[tuple[int, int], ...], default: int | None) -> None:
    with pytest.raises(ValueError, match="train_id"):
        LabelEncoding(kind, pairs, default)  # type: ignore[arg-type]


# --- train ids


@given(num_classes=st.integers(1, 255), value=st.integers(0, 255))
def test_a_train_id_is_a_class_or_ignored(folder: Path, num_classes: int, value: int) -> None:
    path = save(folder / "train_ids.png", np.array([[0, value, 255]], np.uint8))
    if value < num_classes or value == 255:
        assert read_train_ids(path, num_classes).tolist() == [[0, value, 255]]
    else:
        with pytest.raises(
            UserError, match=rf"has the label id {value} on 1 pixels; ids must be 0\.\.{num_classes - 1} "
        ):
            read_train_ids(path, num_classes)


def test_more_classes_than_the_network_has(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", np.array([[7]], np.uint8))
    encoding = LabelEncoding("ids", ((7, 3),))
    assert read_train_ids(path, 4, encoding).tolist() == [[3]]
    with pytest.raises(
        UserError, match="has the class 3, but the network has 3 classes: set its number of classes to that"
    ):
        read_train_ids(path, 3, encoding)


def test_truncated_and_corrupt_label(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 19, (60, 60), dtype=np.uint8)
    path = Path(save(tmp_path / "label.png", noise))
    whole = path.read_bytes()
    path.write_bytes(whole[:-600])
    with pytest.raises(UserError, match=r"label map .*label\.png cannot be read \(.*truncated"):
        read_train_ids(str(path), 19)
    path.write_bytes(whole[:700] + bytes(200) + whole[900:])
    with pytest.raises(UserError, match=r"label map .*label\.png cannot be read"):
        read_train_ids(str(path), 19)


@pytest.mark.parametrize("encoding", ["gray", "palette", "16 bit"])
def test_labels_are_read_as_ids_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    ids = label_map(6)
    if encoding == "palette":
        image = Image.fromarray(ids, mode="P")
        image.putpalette(list(range(255, -1, -1)) * 3)
    else:
        image = Image.fromarray(ids if encoding == "gray" else ids.astype(np.uint16))
    label = read_train_ids(save(tmp_path / "label.png", image), 19)
    assert label.dtype == np.uint8 and (label == ids).all()


def test_unknown_label_id_says_which_how_often_and_where(tmp_path: Path) -> None:
    ids = label_map(7)
    ids[3, 10:22] = 77
    path = save(tmp_path / "label.png", ids)
    with pytest.raises(UserError) as error:
        read_train_ids(path, 19)
    for part in (path, "label id 77 on 12 pixels;", "0..18 or 255", "train ids"):
        assert part in str(error.value)
    ids[0, 0] = 19  # above the highest class
    with pytest.raises(UserError, match="label id 19 on 1 pixels and 1 more such ids"):
        read_train_ids(save(tmp_path / "label.png", ids), 19)
    ids = np.full((4, 4), 256, dtype=np.uint16)  # its low byte alone is 0
    with pytest.raises(UserError, match="label id 256 on 16 pixels"):
        read_train_ids(save(tmp_path / "wide.png", ids), 19)


def test_color_image_is_not_a_label_map(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a RGB image, not a label map"):
        read_train_ids(save(tmp_path / "color.png", smooth_image(1)), 19)


def test_a_missing_label_map(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"The label map .*gone\.png does not exist"):
        read_train_ids(str(tmp_path / "gone.png"), 19)


@pytest.mark.parametrize("bits", [np.uint8, np.uint16])
@pytest.mark.parametrize(("kind", "index"), [("red_channel", 0), ("green_channel", 1), ("blue_channel", 2)])
def test_ids_in_one_channel(tmp_path: Path, kind: LabelKind, index: int, bits: type) -> None:
    ids = blocks(0, range(29), 40, 64)
    channels = np.full((40, 64, 3), 199, bits)
    channels[..., index] = ids * (1 if bits == np.uint8 else 256 + 1)
    cv2.imwrite(str(tmp_path / "x.png"), channels[..., ::-1])
    meaning = (
        {int(value): value % 20 for value in range(29)} if bits == np.uint8 else {v * 257: v % 20 for v in range(29)}
    )
    encoding = LabelEncoding(kind, tuple(meaning.items()))
    np.testing.assert_array_equal(encoding.read(str(tmp_path / "x.png")), ids % 20)


def test_ids_in_a_channel_beside_alpha_and_in_alpha(tmp_path: Path) -> None:
    channels = np.dstack([np.full((4, 4), value, np.uint8) for value in (7, 8, 9, 10)])
    save(tmp_path / "x.png", channels)
    for kind, value in zip(CHANNELS.values(), (7, 8, 9, 10), strict=True):
        assert (LabelEncoding(kind, ((value, 1),)).read(str(tmp_path / "x.png")) == 1).all()


def test_files_without_the_channel_are_errors(tmp_path: Path) -> None:
    """OpenCV would read the colors of a palette, and a gray image three times."""
    palette_png(tmp_path / "p.png", np.ones((4, 4)))
    for mode in ("L", "LA", "I;16", "1", "RGB"):
        Image.new(mode, (4, 4)).save(tmp_path / f"{mode}.png")
    for name, kind, channel in (
        *((name, "red_channel", "red") for name in ("p", "L", "LA", "I;16", "1")),
        ("RGB", "alpha_channel", "alpha"),
    ):
        with pytest.raises(UserError, match=rf"the labels of its data set are in the {channel} channel"):
            LabelEncoding(kind, ((0, 0),)).read(str(tmp_path / f"{name}.png"))


def test_a_function_may_read_the_label_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", label_map(0).astype(np.int32))
    np.testing.assert_array_equal(read_train_ids(str(tmp_path / "x.npy"), 19, np.load), label_map(0))
    assert read_train_ids(str(tmp_path / "x.npy"), 19, np.load).dtype == np.uint8
    with pytest.raises(UserError, match=r"has the class .*, but the network has 3 classes"):
        read_train_ids(str(tmp_path / "x.npy"), 3, np.load)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros((4, 4)), r"returned float64 \(4, 4\), but it must return \(height, width\) integers"),
        (np.zeros((4, 4, 3), np.uint8), r"returned uint8 \(4, 4, 3\), but"),
        (None, "returned NoneType, but"),
        (np.array([[-1, 300]]), "returned the values -1 to 300, not 0 to 255"),
        (np.array([[256]]), "returned the values 256 to 256, not 0 to 255"),
    ],
)
def test_a_function_that_returns_something_else(returned: object, message: str) -> None:
    with pytest.raises(UserError, match=f"The label_encoding of a.png {message}"):
        read_train_ids("a.png", 19, lambda path: returned)  # type: ignore[arg-type,return-value]
