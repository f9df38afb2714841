"""The digest of the files of a data set."""

from pathlib import Path

import pytest

from clouds.data.datasets.digest import dataset_digest


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "one"))
    return write(tmp_path / "one")


def write(root: Path) -> list[dict[str, str]]:
    root.mkdir()
    for name in ("a.png", "a_labels.png", "b.png"):
        (root / name).write_bytes(name.encode())
    a, labels, b = (str(root / name) for name in ("a.png", "a_labels.png", "b.png"))
    return [{"file_name": a, "sem_seg_file_name": labels, "image_id": "a"}, {"file_name": b, "sem_seg_file_name": ""}]


def test_it_is_that_of_the_same_files_elsewhere(
    records: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dataset_digest(records)
    assert first == dataset_digest(records[::-1])
    assert len(first) == 64
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "two"))
    assert dataset_digest(write(tmp_path / "two")) == first


def test_every_change_of_the_files_changes_it(records: list[dict[str, str]], tmp_path: Path) -> None:
    found = [dataset_digest(records), dataset_digest(records[:1])]
    labels = tmp_path / "one/a_labels.png"
    labels.write_bytes(b"longer than before")
    found.append(dataset_digest(records))
    labels.unlink()
    found.append(dataset_digest(records))
    labels.touch()
    found.append(dataset_digest(records))
    assert len(set(found)) == 5
