"""Lists of images and label maps, in the data root and named in a YAML file."""

from pathlib import Path

import pytest
import yaml

from clouds.commands import prepare_datasets
from clouds.data.datasets.custom import read_custom
from clouds.data.datasets.lists import read_list, write_list
from clouds.data.datasets.patterns import FilePattern
from clouds.data.datasets.spec import DatasetSpec
from clouds.data.preparation.check import check_dataset
from clouds.data.preparation.listing import DescribedFiles
from clouds.errors import UserError
from tests.data.conftest import label_map, save, smooth_image


@pytest.fixture
def spec(tmp_path: Path) -> DatasetSpec:
    """A data set whose images and label maps have nothing in common, listed in `listed/all.txt`."""
    for number, (image, label) in enumerate((("seq 1/a.JPG", "x/7.png"), ("seq 2/a.png", "x/é.png"))):
        save(tmp_path / "listed" / image, smooth_image(number))
        save(tmp_path / "listed" / label, label_map(number))
    write(tmp_path, "seq 1/a.JPG\tx/7.png\nseq 2/a.png\tx/é.png\n")
    content = {"name": "listed", "splits": {"all": {"list": "all.txt"}}, "classes": "cityscapes"}
    (tmp_path / "listed.yaml").write_text(yaml.safe_dump(content))
    return read_custom(tmp_path / "listed.yaml")[0]


def write(root: Path, text: str, encoding: str = "utf-8") -> None:
    (root / "listed/all.txt").write_text(text, encoding=encoding, newline="")


def test_a_list_says_what_no_pattern_can(spec: DatasetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = spec.load(tmp_path)
    assert first == {
        "file_name": str(tmp_path / "listed/seq 1/a.JPG"),
        "sem_seg_file_name": str(tmp_path / "listed/x/7.png"),
        "image_id": "seq 1/a",
    }
    assert second["image_id"] == "seq 2/a"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    arguments = ["--dataset", str(tmp_path / "listed.yaml"), "--nproc", "1"]
    assert prepare_datasets.main(arguments) == 0
    assert (tmp_path / "statistics/listed_all/sample_class_stats.json").is_file()
    # The list in the data root has the same records, and comes first.
    assert prepare_datasets.main([*arguments, "--write-lists"]) == 0
    write(tmp_path, "")
    assert spec.load(tmp_path) == [first, second]


@pytest.mark.parametrize(
    "text",
    [
        "# pairs\n\nseq 1/a.JPG\tx/7.png\n   \n  # more\nseq 2/a.png\tx/é.png",
        "seq 1/a.JPG\tx/7.png\r\nseq 2/a.png\tx/é.png\r\n",
        "\ufeffseq 1/a.JPG\tx/7.png\nseq 2/a.png\tx/é.png\n",
        " seq 1/a.JPG \t x/7.png \n./seq 2/a.png\tx//é.png\n",
    ],
)
def test_comments_empty_lines_line_ends_and_outer_spaces(spec: DatasetSpec, tmp_path: Path, text: str) -> None:
    expected = spec.load(tmp_path)
    write(tmp_path, text)
    assert spec.load(tmp_path) == expected


WRONG = [
    ("", "names no image: write one per line"),
    ("# nothing\n\n", "names no image"),
    ("seq 1/a.JPG\t", "line 1: 'seq 1/a.JPG' is not an image, or an image and its label map with one tab"),
    ("\tx/7.png", "line 1: 'x/7.png' is not an image, or"),
    ("#\nseq 1/a.JPG\tx/7.png\tmore", "line 2: .* is not an image, or"),
    ("seq 1/a.JPG x/7.txt", r"line 1: 'seq 1/a\.JPG x/7\.txt' is no image .*, with its label map after a tab"),
    ("/seq 1/a.JPG\tx/7.png", "line 1: '/seq 1/a.JPG' must be a path below "),
    ("seq 1/a.JPG\t/x/7.png", "line 1: '/x/7.png' must be a path below "),
    ("seq 1/a.JPG\t../x/7.png", r"line 1: '\.\./x/7\.png' must be a path below "),
    ("seq 1\\a.JPG\tx/7.png", "must be a path below .*, with / between folders"),
    ("seq 1/a.JPG\tx/\x007.png", "must be a path below "),
    ("seq 1/._a.JPG\tx/7.png", r"'seq 1/\._a\.JPG' is a hidden file, which is not data"),
    ("seq 1/a.JPG\t.x/7.png", r"'\.x/7\.png' is a hidden file"),
    ("seq 1/a.JPG\tx/7.png\n\nseq 1/a.JPG\tx/7.png", "line 3: the image seq 1/a is in line 1 already"),
    ("seq 1/a.JPG\tx/7.png\nseq 1/a.png\tx/7.png", "line 2: the image seq 1/a is in line 1 already"),
    ("seq 1/a.JPG\tx/7.png\nseq 2/a.png", "the image in line 2 has no label map, but that in line 1 has one"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_wrong_line_is_a_sentence(spec: DatasetSpec, tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text)
    with pytest.raises(UserError, match=message) as error:
        spec.load(tmp_path)
    assert str(tmp_path / "listed/all.txt") in str(error.value)
    problems = check_dataset(DescribedFiles(spec, tmp_path)).problems
    assert problems == [str(error.value)], "the check has the same sentence, not '0 images, good'"


def test_other_encodings_and_no_list(spec: DatasetSpec, tmp_path: Path) -> None:
    for encoding in ("latin-1", "utf-16"):
        write(tmp_path, "seq 2/a.png\tx/é.png", encoding)
        with pytest.raises(UserError, match=r"The list .*/listed/all\.txt is not UTF-8 \(byte \d+\): save it"):
            spec.load(tmp_path)
    (tmp_path / "listed/all.txt").unlink()
    with pytest.raises(UserError, match=r"The list .*/listed/all\.txt cannot be read \(No such file"):
        spec.load(tmp_path)
    assert len(check_dataset(DescribedFiles(spec, tmp_path)).problems) == 1


def test_files_that_are_listed_and_missing_are_all_named(spec: DatasetSpec, tmp_path: Path) -> None:
    (tmp_path / "listed/seq 2/a.png").unlink()
    (tmp_path / "listed/x/7.png").unlink()
    problems = check_dataset(DescribedFiles(spec, tmp_path)).problems
    assert len(problems) == 2
    assert "The image" in problems[1] and "seq 2/a.png does not exist" in problems[1]
    assert "The label map" in problems[0] and "x/7.png does not exist" in problems[0]


def test_the_result_of_a_check_holds_until_a_listed_file_changes(spec: DatasetSpec, tmp_path: Path) -> None:
    files = DescribedFiles(spec, tmp_path)
    before = files.fingerprint()
    save(tmp_path / "listed/unlisted.png", smooth_image(5))
    assert files.fingerprint() == before
    save(tmp_path / "listed/x/7.png", label_map(9))
    changed = files.fingerprint()
    assert changed != before
    write(tmp_path, "seq 2/a.png\tx/é.png")
    assert files.fingerprint() != changed


def test_a_list_in_the_data_root_shortens_a_set_of_sequences(tmp_path: Path) -> None:
    for scene in ("a", "b"):
        save(tmp_path / f"seq/{scene}/rgb/1.png", smooth_image(0))
        save(tmp_path / f"seq/{scene}/gt/1.png", label_map(0))
    spec = DatasetSpec("seq", ("seq/*/rgb/*.png",), ("seq/*/gt/*.png",))
    write_list(spec.list_file(tmp_path), tmp_path, spec.load(tmp_path)[1:])
    assert [record["image_id"] for record in spec.load(tmp_path)] == ["b/1"]


def test_names_that_a_list_cannot_hold(tmp_path: Path) -> None:
    images = FilePattern.parse(tmp_path, "**/*.png")
    file = tmp_path / "list.txt"
    for name in ("a\tb.png", "a\nb.png", " a.png", "a\r/b.png"):
        with pytest.raises(UserError, match="cannot stand in a list, because of its tabs, line breaks or outer spaces"):
            write_list(file, tmp_path, [{"file_name": str(tmp_path / name)}])
    names = ("#a.png", "a #b.png", "a\u2028b.png", "a\x85b.png", "a b/c  d.png")
    write_list(file, tmp_path, [{"file_name": str(tmp_path / name)} for name in names])
    assert [record["image_id"] for record in read_list(file, tmp_path, images)] == [name[:-4] for name in names]
