"""A check finds every fault, names the file in one line, and remembers until a file changes."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds.data.datasets.spec import DatasetSpec
from clouds.data.preparation import check as checking
from clouds.data.preparation.check import CheckResult, check_dataset, describe_first_problem, find_problems
from tests.data.conftest import label_map, save, smooth_image
from tests.data.official import palette_png

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


def found(root: Path) -> CheckResult:
    return check_dataset(SET, root)


def test_a_whole_set_is_good_and_counted(root: Path) -> None:
    findings = found(root)
    assert findings.problems == []
    assert (findings.num_images, len(findings.records)) == (3, 3)
    assert dict(findings.sizes) == {(40, 64): 3}
    expected = sum((np.bincount(label_map(number).ravel(), minlength=256) for number in range(3)), np.zeros(256))
    np.testing.assert_array_equal(findings.pixels, expected)
    assert sum(sum(counts.values()) for counts in findings.counts.values()) == expected[:19].sum()


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
    return r"thumbnail\.jpeg is a picture among the images, but images are called \*\.png here"


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
    return r"00001\.png cannot be read"


def _colours(root: Path) -> str:
    save(label(root, "00001"), smooth_image(3))
    return r"00001_labelTrainIds\.png is a RGB picture, not a label map"


def _out_of_range(root: Path) -> str:
    palette_png(label(root, "00001"), np.full((40, 64), 33))
    return r"00001_labelTrainIds\.png has the label id 33 on 2560 pixels"


def _other_size(root: Path) -> str:
    save(label(root, "00001"), label_map(0, 48, 64))
    return r"00001\.png is 40x64 .* is 48x64"


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
    *(_colours, _out_of_range, _other_size, _circle, _link_to_itself, _twice),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_named_in_one_line(root: Path, fault: Callable[[Path], str]) -> None:
    assert found(root).problems == []
    pattern = fault(root)
    problems = found(root).problems
    assert all("\n" not in problem for problem in problems)
    named = [problem for problem in problems if re.search(pattern, problem)]
    assert len(named) == 1, problems
    # Besides it at most the count of the set, and the other side of a swap.
    assert len(problems) <= 3


@pytest.fixture
def powerless() -> Iterator[Path]:
    """A folder that somebody who is not root may enter, and we are that somebody."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    was = os.geteuid()
    yield folder
    os.seteuid(was)
    shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_may_not_be_read_is_named(root: Path, powerless: Path, what: str) -> None:
    shutil.copytree(root / "few", powerless / "few")
    closed = image(powerless, "a b") if what == "file" else powerless / "few/labels"
    closed.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    problems = found(powerless).problems
    os.seteuid(os.getuid())
    closed.chmod(0o755)
    pattern = "may not be read: see the permissions" if what == "file" else "cannot be listed (Permission denied)"
    assert [problem for problem in problems if pattern in problem and str(closed) in problem], problems


def test_missing_altogether_is_no_problem_of_its_own(tmp_path: Path) -> None:
    findings = found(tmp_path)
    assert findings.missing
    assert findings.problems == []


def test_too_few_pairs_are_told(root: Path) -> None:
    image(root, "00001").unlink()
    label(root, "00001").unlink()
    assert found(root).problems == ["few has 2 pairs of image and label map; the complete set has 3."]


def test_several_processes_find_the_same(root: Path) -> None:
    for number in range(140):
        save(image(root, f"n{number:03d}"), smooth_image(number, 16, 16))
        save(label(root, f"n{number:03d}"), label_map(number, 16, 16))
    image(root, "n100").write_bytes(b"no picture")
    here, there = check_dataset(SET, root), check_dataset(SET, root, processes=2)
    assert here.problems == there.problems
    assert any("n100.png" in problem for problem in there.problems)
    np.testing.assert_array_equal(here.pixels, there.pixels)


def test_a_check_is_remembered_until_a_file_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_problems(SET, root) == []
    with monkeypatch.context() as patch:
        patch.setattr(checking, "read_image", lambda path: pytest.fail("read again"))
        assert find_problems(SET, root) == []
    for fault in (_truncate_image, _out_of_range, _remove_label):
        fault(root)
        worse = find_problems(SET, root)
        assert worse
        with monkeypatch.context() as patch:
            patch.setattr(checking, "read_image", lambda path: pytest.fail("read again"))
            assert find_problems(SET, root) == worse


def test_a_memory_that_cannot_be_read_or_written_costs_only_time(root: Path, tmp_path: Path) -> None:
    (root / "checks").mkdir()
    (root / "checks/few.json").write_text("{")
    assert find_problems(SET, root) == []
    shutil.rmtree(root / "checks")
    (root / "checks").write_text("a file in the place of the folder")
    assert find_problems(SET, root) == []


def test_the_first_broken_set_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    assert (
        describe_first_problem(["gta5", "cityscapes_val", "of_a_module"]) == ""
    )  # who loads them says what is missing
    fog, gt = root / "acdc/rgb_anon/fog/val/x_1_rgb_anon.png", root / "acdc/gt/fog/val/x_1_gt_labelTrainIds.png"
    save(fog, smooth_image(1))
    save(gt, label_map(1))
    message = describe_first_problem(["gta5", "acdc_val"])
    assert message.startswith("The data set acdc_fog_val has 1 problem(s), first: acdc_fog_val has 1 pairs")
    assert "--check acdc_fog_val" in message


def test_a_list_takes_the_place_of_the_search(root: Path) -> None:
    (root / "lists").mkdir()
    listed = [f"few/images/{stem}.png\tfew/labels/{stem}_labelTrainIds.png" for stem in ("straße_雪", "00001")]
    (root / "lists/few.txt").write_text("\n".join(listed), encoding="utf-8")
    assert [record["image_id"] for record in SET.load(root)] == ["straße_雪", "00001"]
    findings = found(root)
    assert (findings.problems, len(findings.records)) == ([], 2)
    Image.new("L", (3, 3)).save(label(root, "00001"))
    assert len(found(root).problems) == 1
