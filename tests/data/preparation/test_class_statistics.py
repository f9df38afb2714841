"""Class statistics know a label map by its path, and by its name only if that is enough."""

from pathlib import Path

import pytest

from clouds.data.preparation.class_statistics import ClassStatistics, read_class_statistics, write_class_statistics

ROOT = Path("/data")


@pytest.mark.parametrize("folder", ["", "/elsewhere/", "C:/sets/"])
def test_a_name_of_another_machine_must_be_the_only_one(folder: str) -> None:
    counts = {f"{folder}gt/a/1.png": {0: 1}, f"{folder}gt/b/1.png": {1: 1}, f"{folder}gt/b/2.png": {2: 1}}
    statistics = ClassStatistics(counts)
    assert statistics.find(ROOT / "gt/b/1.png", ROOT) == ({1: 1} if not folder else None)
    assert statistics.find(ROOT / "moved/2.png", ROOT) == {2: 1}
    assert statistics.find(Path("/other/2.png"), ROOT) == {2: 1}
    assert statistics.find(ROOT / "gt/3.png", ROOT) is None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    counts = {tmp_path / "s1/1.png": {0: 5, 18: 2}, tmp_path / "s2/1.png": {3: 7}, tmp_path / "s2/2.png": {}}
    write_class_statistics(tmp_path, tmp_path, counts)
    statistics = read_class_statistics(tmp_path / "sample_class_stats.json")
    assert {file: statistics.find(file, tmp_path) for file in counts} == counts
