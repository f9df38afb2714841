"""The full check finds every fault and names the file in one line; the quick check opens few files."""

import dataclasses
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clouds.commands import prepare_datasets
from clouds.data.datasets import catalog
from clouds.data.datasets.catalog import load_dataset, register_datasets
from clouds.data.datasets.spec import DatasetSpec
from clouds.data.encoding import LabelEncoding
from clouds.data.preparation import check as checking
from clouds.data.preparation.check import CheckResult, check_dataset, find_problem, saved_problems
from clouds.data.preparation.listing import DescribedFiles, RegisteredFiles
from tests.data.conftest import label_map, save, smooth_image, write_generated
from tests.data.official import palette_png
from tests.utils.image_files import by_pillow

SET = DatasetSpec("few", ("few/images/*.png",), ("few/labels/*_labelTrainIds.png",), 3)
STEMS = ("00001", "a b", "straße_雪")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, stem in enumerate(STEMS):
        save(image(tmp_path, stem), smooth_image(number))
        save(label(tmp_path, stem), label_map(number))
    return tmp_path


def image(root: Path, stem: str) -> Path:
    return root / f"few/images/{stem}.png"


def label(root: Path, stem: str) -> Path:
    return root / f"few/labels/{stem}_labelTrainIds.png"


def check(root: Path) -> CheckResult:
    return check_dataset(DescribedFiles(SET, root))


def test_an_intact_data_set_has_no_problems_and_is_counted(root: Path) -> None:
    result = check(root)
    assert result.problems == []
    assert (result.num_images, len(result.records)) == (3, 3)
    assert dict(result.sizes) == {(40, 64): 3}
    expected = sum((np.bincount(label_map(number).ravel(), minlength=256) for number in range(3)), np.zeros(256))
    np.testing.assert_array_equal(result.pixels, expected)
    assert sum(sum(counts.values()) for counts in result.counts.values()) == expected[:19].sum()


def _remove_image(root: Path) -> str:
    image(root, "a b").unlink()
    return r"a b_labelTrainIds\.png has no image a b\.png"


def _remove_label(root: Path) -> str:
    label(root, "straße_雪").unlink()
    return r"straße_雪\.png has no label map straße_雪_labelTrainIds\.png"


def _add_image(root: Path) -> str:
    save(image(root, "extra"), smooth_image(9))
    return r"extra\.png has no label map"


def _add_stray(root: Path) -> str:
    save(root / "few/images/thumbnail.jpeg", smooth_image(9))
    return r"thumbnail\.jpeg is an image among the images, but images are called \*\.png here"


def _swap(root: Path) -> str:
    one, other = image(root, "00001"), label(root, "00001")
    one.rename(root / "held")
    other.rename(one)
    (root / "held").rename(other)
    return r"00001\.png has one channel \(L\).*label map in the place of an image"


def _truncate_image(root: Path) -> str:
    path = image(root, "a b")
    path.write_bytes(path.read_bytes()[:-20])
    return r"images/a b\.png cannot be read"


def _truncate_label(root: Path) -> str:
    path = label(root, "a b")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return r"labels/a b_labelTrainIds\.png cannot be read"


def _empty(root: Path) -> str:
    image(root, "00001").write_bytes(b"")
    return r"00001\.png is an empty file"


def _colors(root: Path) -> str:
    save(label(root, "00001"), smooth_image(3))
    return r"00001_labelTrainIds\.png is a RGB image, not a label map"


def _out_of_range(root: Path) -> str:
    palette_png(label(root, "00001"), np.full((40, 64), 33))
    return r"00001_labelTrainIds\.png has the label id 33 on 2560 pixels"


def _other_size(root: Path) -> str:
    save(label(root, "00001"), label_map(0, 48, 64))
    return r"00001\.png is 40x64 .* is 48x64"


def _turned_image(root: Path) -> str:
    image(root, "a b").write_bytes(by_pillow(smooth_image(1), "PNG", 3))
    return r"images/a b\.png has the EXIF orientation 3, but its label map does not"


def _turned_label(root: Path) -> str:
    label(root, "a b").write_bytes(by_pillow(Image.fromarray(label_map(1)), "PNG", 6))
    return r"a b_labelTrainIds\.png has the EXIF orientation 6"


def _lossy(root: Path) -> str:
    label(root, "a b").write_bytes(by_pillow(Image.fromarray(label_map(1)), "JPEG", quality=100))
    return r"a b_labelTrainIds\.png is a JPEG file with a compression that may change its values"


def _mask_as_image(root: Path) -> str:
    image(root, "a b").write_bytes(by_pillow(Image.fromarray(label_map(1) > 3), "PNG"))
    return r"a b\.png has one channel \(1\).*label map in the place of an image"


def _dark(root: Path) -> str:
    save(image(root, "a b"), np.arange(40 * 64, dtype=np.uint16).reshape(40, 64))
    return r"a b\.png has 16 bits per channel, but no value above 16383"


def _circle(root: Path) -> str:
    (root / "few/images/inner").mkdir()
    (root / "few/images/inner/again").symlink_to(root / "few/images")
    return r"images/inner/again is a link to a folder that it lies in, a circle"


def _link_to_itself(root: Path) -> str:
    image(root, "a b").unlink()
    image(root, "a b").symlink_to(image(root, "a b"))
    return r"a b\.png cannot be read"


def _twice(root: Path) -> str:
    save(root / "few/images/more/00001.png", smooth_image(1))
    return r"00001\.png exists twice"


FAULTS = [
    *(_remove_image, _remove_label, _add_image, _add_stray, _swap, _truncate_image, _truncate_label, _empty),
    *(_colors, _out_of_range, _other_size, _circle, _link_to_itself, _twice),
    *(_turned_image, _turned_label, _lossy, _mask_as_image, _dark),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_named_in_one_line(root: Path, fault: Callable[[Path], str]) -> None:
    assert check(root).problems == []
    pattern = fault(root)
    problems = check(root).problems
    assert all("\n" not in problem for problem in problems)
    named = [problem for problem in problems if re.search(pattern, problem)]
    assert len(named) == 1, problems
    # In addition at most the number of pairs, and the other side of a swap.
    assert len(problems) <= 3


def test_gray_photographs_are_not_a_problem(root: Path) -> None:
    photograph = smooth_image(0).convert("L")
    save(image(root, "00001"), photograph)
    save(image(root, "a b"), np.asarray(photograph).astype(np.uint16) * 257)
    image(root, "straße_雪").write_bytes(by_pillow(smooth_image(0).convert("P", palette=Image.Palette.ADAPTIVE), "PNG"))
    assert check(root).problems == []


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("classes", [("road",), ("road", "sky"), ("road", "sky", "car")])
def test_a_set_in_which_no_pixel_has_a_class_is_a_problem(root: Path, classes: tuple[str, ...], full: bool) -> None:
    for stem in STEMS:
        save(label(root, stem), np.full((40, 64), 255, np.uint8))
    assert "few: no pixel of its label maps has a class, all are ignored (255 means" in problem_of(root, classes, full)
    save(
        label(root, STEMS[2]),
        np.array([[0, 1 % len(classes), 255] * 10] * 10, np.uint8).repeat(4, 0).repeat(2, 1)[:, :60],
    )
    save(image(root, STEMS[2]), smooth_image(0, 40, 60))
    assert problem_of(root, classes, full) == ""


@pytest.mark.parametrize("full", [True, False])
def test_two_classes_of_which_255_hides_one_are_a_problem_with_a_hint(root: Path, full: bool) -> None:
    for stem in STEMS:
        save(label(root, stem), np.where(label_map(1) == 255, np.uint8(255), np.uint8(0)))
    for classes, expected in (
        (("back", "front,object"), "no pixel of its label maps has the class front, but some are ignored (255 means "),
        (("back", "front", "third"), ""),
    ):
        found = problem_of(root, classes, full)
        assert expected in found if expected else not found
    assert "set `encoding: ids` and `values: [255]`" in problem_of(root, ("back", "front"), full)
    ids = LabelEncoding("ids", ((0, 0), (255, 1)))
    assert problem_of(root, ("back", "front"), full, ids) == ""


@pytest.mark.parametrize("full", [True, False])
def test_the_hint_about_colors_that_are_all_ignored_is_about_colors(root: Path, full: bool) -> None:
    black = LabelEncoding("colors", ((0, 255), (1, 0), (2, 1)))
    for stem in STEMS:
        save(label(root, stem), np.zeros((40, 64, 3), np.uint8))
    found = problem_of(root, ("back", "front"), full, black)
    assert "all are ignored (list the colors of its classes in their `values`" in found
    assert "encoding: ids" not in found
    save(label(root, STEMS[0]), np.full((40, 64, 3), (0, 0, 1), np.uint8))
    assert problem_of(root, ("back", "front"), full, black) == "", "an ignored color is listed as one"


def problem_of(root: Path, classes: tuple[str, ...], full: bool, encoding: LabelEncoding | None = None) -> str:
    """The first problem of the set with these classes, after the full or the quick check."""
    records = [
        {"file_name": str(image(root, stem)), "sem_seg_file_name": str(label(root, stem)), "image_id": stem}
        | ({"label_encoding": encoding} if encoding else {})
        for stem in STEMS
    ]
    catalog.register("few", lambda: records, classes=classes, colors=[(9, 9, 9)] * len(classes))
    return find_problem(["few"], full=full)


@pytest.fixture
def readable_by_others() -> Iterator[Path]:
    """A folder that any user may enter; the effective user is restored afterwards."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    was = os.geteuid()
    yield folder
    os.seteuid(was)
    shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_files_without_permission_are_named(root: Path, readable_by_others: Path, what: str) -> None:
    shutil.copytree(root / "few", readable_by_others / "few")
    closed = image(readable_by_others, "a b") if what == "file" else readable_by_others / "few/labels"
    closed.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    problems = check(readable_by_others).problems
    os.seteuid(os.getuid())
    closed.chmod(0o755)
    pattern = "may not be read: see the permissions" if what == "file" else "cannot be listed (Permission denied)"
    assert [problem for problem in problems if pattern in problem and str(closed) in problem], problems


def test_a_missing_data_set_has_no_problems(tmp_path: Path) -> None:
    result = check(tmp_path)
    assert not result.exists
    assert result.problems == []


def test_the_number_of_pairs_is_checked(root: Path) -> None:
    image(root, "00001").unlink()
    label(root, "00001").unlink()
    assert check(root).problems == ["few has 2 pairs of image and label map; the complete set has 3."]


@pytest.mark.slow
def test_several_processes_find_the_same_problems(root: Path) -> None:
    for number in range(140):
        save(image(root, f"n{number:03d}"), smooth_image(number, 16, 16))
        save(label(root, f"n{number:03d}"), label_map(number, 16, 16))
    image(root, "n100").write_bytes(b"not an image")
    one = check(root)
    two = check_dataset(DescribedFiles(SET, root), processes=2)
    assert one.problems == two.problems
    assert any("n100.png" in problem for problem in two.problems)
    np.testing.assert_array_equal(one.pixels, two.pixels)
    assert len(two.records) == 143


def test_a_list_replaces_the_search(root: Path) -> None:
    (root / "lists").mkdir()
    listed = [f"few/images/{stem}.png\tfew/labels/{stem}_labelTrainIds.png" for stem in ("straße_雪", "00001")]
    (root / "lists/few.txt").write_text("\n".join(listed), encoding="utf-8")
    assert [record["image_id"] for record in SET.load(root)] == ["straße_雪", "00001"]
    result = check(root)
    assert (result.problems, len(result.records)) == ([], 2)
    Image.new("L", (3, 3)).save(label(root, "00001"))
    assert len(check(root).problems) == 1


# --- the saved result


def test_the_result_holds_until_a_file_changes(root: Path) -> None:
    files = DescribedFiles(SET, root)
    assert saved_problems(files) is None
    assert check(root).problems == saved_problems(files) == []
    for fault in (_truncate_image, _out_of_range, _remove_label):
        fault(root)
        assert saved_problems(files) is None
        problems = check(root).problems
        assert problems and problems == saved_problems(files)
    assert saved_problems(DescribedFiles(dataclasses.replace(SET, num_pairs=2), root)) is None


def array_reader(path: str) -> np.ndarray:
    return np.zeros((40, 64), np.uint8)


def test_the_result_holds_until_the_encoding_changes(root: Path) -> None:
    def fingerprint(encoding: object) -> str:
        records = [{**record, "label_encoding": encoding} for record in SET.load(root)]
        return RegisteredFiles("x", ("a",), root, records).fingerprint()

    encodings = (None, array_reader, LabelEncoding("ids", ((0, 0),)), LabelEncoding("ids", ((0, 1),)))
    assert len({fingerprint(encoding) for encoding in encodings}) == len(encodings)
    same_function_in_another_process = FunctionType(array_reader.__code__, {}, "array_reader")
    same_function_in_another_process.__module__ = array_reader.__module__
    assert fingerprint(same_function_in_another_process) == fingerprint(array_reader)


def test_a_file_that_changes_during_the_check_makes_the_result_outdated(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(*args: Any) -> Any:
        os.utime(image(root, "00001"), (1, 1))
        return check_record(*args)

    check_record = checking._check_record
    monkeypatch.setattr(checking, "_check_record", changing)
    files = DescribedFiles(SET, root)
    check_dataset(files)
    assert saved_problems(files) is None


def test_a_result_that_cannot_be_read_or_written_is_not_an_error(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = DescribedFiles(SET, root)
    (root / "checks").mkdir()
    (root / "checks/few.json").write_text("{")
    assert saved_problems(files) is None
    shutil.rmtree(root / "checks")
    (root / "checks").write_text("a file in the place of the folder")
    assert saved_problems(files) is None
    assert check(root).problems == []
    assert "cannot be written" in caplog.text


# --- before a training


def open_image_files(root: Path) -> list[str]:
    return [path for path in OPENED if path.startswith(str(root)) and path.endswith((".png", ".jpg"))]


OPENED: list[str] = []
sys.addaudithook(lambda event, args: OPENED.append(str(args[0])) if event == "open" else None)


@pytest.fixture
def camp(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with a built-in, a custom, a generated, and a plugged-in data set, each of three images."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    monkeypatch.syspath_prepend(root)
    folder = "acdc/{}/fog/val/x_{}_{}.png"
    for number in range(100):
        size = (8, 8) if number > 2 else (40, 64)
        save(root / folder.format("rgb_anon", number, "rgb_anon"), smooth_image(number, *size))
        save(root / folder.format("gt", number, "gt_labelTrainIds"), label_map(number, *size))
    (root / "custom.yaml").write_text(
        "{name: own, folder: few, splits: {all: {images: images/*.png, labels: labels/*_labelTrainIds.png}}, "
        "classes: cityscapes}"
    )
    write_generated(root, 3)
    (root / "plugin_of_the_check.py").write_text(
        "from clouds.data.datasets import catalog\n"
        "def register(root):\n"
        "    few, images, end = root / 'few', root / 'stable_diffusion/sd_mine/images', '_labelTrainIds.png'\n"
        "    pairs = lambda: catalog.pair_by_stem('few', few / 'images', '.png', few / 'labels', end)\n"
        "    generated = lambda: [{'file_name': str(images / 'im_0_p0.png'), 'image_id': '0', 'is_generated': True,\n"
        "                          'truth_file_name': str(few / 'labels/00001_labelTrainIds.png')}]\n"
        "    catalog.register('plugged', pairs)\n"
        "    catalog.register('plugged_generated', generated)\n"
    )
    register_datasets(root, [PLUGIN], [str(root / "custom.yaml")])
    return root


PLUGIN = "plugin_of_the_check"
ALL = ["own_all", "sd_mine", "plugged", "plugged_generated"]


def problem(root: Path, names: list[str], *, full: bool = False) -> str:
    return find_problem(names, [str(root / "custom.yaml")], [PLUGIN], full=full)


def test_the_quick_check_opens_one_pair(camp: Path) -> None:
    OPENED.clear()
    assert problem(camp, ALL) == ""
    assert len(set(open_image_files(camp))) == 2  # one pair, of two sets
    assert problem(camp, ALL, full=True) == ""
    assert len(set(open_image_files(camp))) == 3 + 3 + 3  # images, label maps, generated images
    OPENED.clear()
    assert problem(camp, ALL, full=True) == "", "the saved results hold"
    assert open_image_files(camp) == []


@pytest.mark.parametrize("name", ALL)
def test_only_the_full_check_finds_damage_and_then_the_quick_one_knows(camp: Path, name: str) -> None:
    generated = camp / "stable_diffusion/sd_mine/images/im_0_p0.png"
    damaged = generated if name == "sd_mine" else label(camp, "00001" if name == "plugged_generated" else "a b")
    damaged.write_bytes(damaged.read_bytes()[:60])
    assert problem(camp, [name]) == ""
    message = problem(camp, [name], full=True)
    assert message.startswith(f"The data set {name} has 1 problem(s), first: The ")
    assert f"{damaged} cannot be read" in message
    assert problem(camp, [name]) == message


@pytest.mark.parametrize("name", ["sd_mine", "plugged", "plugged_generated"])
def test_files_of_registered_data_sets_must_exist(camp: Path, name: str) -> None:
    for record in load_dataset(name):
        assert set(record) & {"file_name", "sem_seg_file_name", "truth_file_name"}
    gone = Path(record["file_name"])
    gone.unlink()
    assert f"first: The image {gone} does not exist. See" in problem(camp, [name])


def test_pairs_and_counts_are_checked_at_once(camp: Path) -> None:
    label(camp, "00001").unlink()
    assert "has no label map 00001_labelTrainIds.png" in problem(camp, ["own_all"])
    assert problem(camp, ["acdc_fog_val"]) == ""
    (camp / "acdc/rgb_anon/fog/val/x_0_rgb_anon.png").unlink()
    (camp / "acdc/gt/fog/val/x_0_gt_labelTrainIds.png").unlink()
    assert "first: acdc_fog_val has 99 pairs of image and label map" in problem(camp, ["acdc_val"])


def test_missing_data_sets_are_left_to_the_loader(camp: Path) -> None:
    assert problem(camp, ["gta5", "cityscapes_val", "sd_llama70b_v2", "unknown"], full=True) == ""


def test_the_message_has_the_command_that_lists_all_problems(camp: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for path in (label(camp, "00001"), image(camp, "a b")):
        path.write_bytes(b"")
    save(camp / "stable_diffusion/sd_mine/images/im_1_p1.png", label_map(0))
    for name, words in (
        ("acdc_fog_val", "acdc_fog_val"),
        ("own_all", f"own_all --dataset {camp}/custom.yaml --module {PLUGIN}"),
        ("plugged", f"plugged --dataset {camp}/custom.yaml --module {PLUGIN}"),
        ("sd_mine", "sd_mine"),
    ):
        if name == "acdc_fog_val":
            (camp / "acdc/rgb_anon/fog/val/x_0_rgb_anon.png").unlink()
        message = problem(camp, [name], full=True)
        command = re.search(r"`clouds prepare (.*)`", message)
        assert command and command[1] == f"--check {words}"
        caplog.clear()
        assert prepare_datasets.main([*command[1].split(), "--nproc", "1"]) == 1
        assert any(said.rstrip(".") in message for said in caplog.messages)


def test_problems_that_are_not_printed_are_in_a_file_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for number in range(30):
        save(tmp_path / f"many/images/{number}.png", smooth_image(number))
    save(tmp_path / "many/labels/0.png", label_map(0))
    file = tmp_path / "many.yaml"
    file.write_text(
        "{name: many, splits: {all: {images: images/*.png, labels: labels/*.png}}, classes: cityscapes, rest: ignore}"
    )
    flags = ["--check", "--dataset", str(file), "--nproc", "1"]
    assert prepare_datasets.main(flags) == 1
    assert caplog.text.count("has no label map") == 20
    stored = tmp_path / "checks/many_all.json"
    assert f"... and 9 more of many_all: {stored} has them all, and --all-problems shows them." in caplog.text
    assert len(json.loads(stored.read_text())["problems"]) == 29
    caplog.clear()
    assert prepare_datasets.main([*flags, "--all-problems"]) == 1
    assert caplog.text.count("has no label map") == 29


@pytest.mark.parametrize(("folder", "flag"), [("lists", "--write-lists"), ("statistics", "--nproc=1")])
def test_a_data_root_that_cannot_be_written_is_one_sentence(
    folder: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    save(tmp_path / "one/images/0.png", smooth_image(0))
    save(tmp_path / "one/labels/0.png", label_map(0))
    file = tmp_path / "one.yaml"
    file.write_text("{name: one, splits: {all: {images: images/*.png, labels: labels/*.png}}, classes: cityscapes}")
    (tmp_path / folder).touch()
    assert prepare_datasets.main(["--dataset", str(file), flag]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {tmp_path / folder}")
    assert "cannot be written (a" in line
