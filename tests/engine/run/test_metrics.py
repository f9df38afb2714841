"""Rows of `metrics.json`: how they are written, and how damaged and foreign ones are read."""

import json
from pathlib import Path

import pytest

from clouds.d2 import EventStorage
from clouds.engine.run.metrics import read_training, repair
from clouds.engine.writers import MetricsWriter
from clouds.errors import WriteError

ROW = b'{"iteration": 19, "total_loss": 1.5}\n'
DAMAGED = {
    "infinity": b'{"iteration": 39, "total_loss": Infinity}\n',
    "nan": b'{"iteration": 39, "total_loss": NaN}\n',
    "huge": b'{"iteration": 39, "total_loss": 1e999}\n',
    "digits": b'{"iteration": ' + b"9" * 5000 + b', "total_loss": 1.5}\n',
    "deep": b'{"iteration": ' + b"[" * 100_000 + b"\n",
    "not UTF-8": b'{"iteration": 39, "\xff": 1}\n',
    "UTF-16": '{"iteration": 39}'.encode("utf-16") + b"\n",
    "binary": bytes(range(256)) * 4 + b"\n",
    "10 MB": b"x" * 10_000_000 + b"\n",
    "empty": b"\n",
}
FOREIGN = {
    "list": b"[39]\n",
    "text": b'{"iteration": "39", "total_loss": 1.5}\n',
    "fraction": b'{"iteration": 39.5, "total_loss": 1.5}\n',
    "boolean": b'{"iteration": true, "total_loss": 1.5}\n',
    "negative": b'{"iteration": -1, "total_loss": 1.5}\n',
    "null": b'{"iteration": null}\n',
    "other": b'{"epoch": 3}\n',
}


@pytest.mark.parametrize("name", [*DAMAGED, *FOREIGN])
def test_lines_that_are_no_rows_are_skipped(tmp_path: Path, name: str) -> None:
    path = tmp_path / "metrics.json"
    line = (DAMAGED | FOREIGN)[name]
    path.write_bytes(line + ROW + line + ROW.replace(b"19", b"39") + line)
    assert [row["iteration"] for row in read_training(path)] == [19, 39]
    assert repair(path, 20, []).losses
    # A damaged last line is removed, since it may be the row of an iteration that is trained again.
    assert path.read_bytes() == line + ROW + (line if name in FOREIGN and name != "list" else b"")


def test_rows_are_strict_json_and_written_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(ROW)
    writer = MetricsWriter(path)
    with EventStorage(20) as storage:
        for iteration in (20, 21):
            storage.iter = iteration
            storage.put_scalar("total_loss", float(iteration), smoothing_hint=False)
            storage.put_scalar("share", float("nan") if iteration == 21 else 0.5, smoothing_hint=False)
            writer.write()
            storage.put_scalar("eta_seconds", 3.0, smoothing_hint=False)  # as the console does, after the row
            writer.write()
        storage.iter = 22
        storage.put_scalar("share", float("-inf"), smoothing_hint=False)
        writer.write()
    writer.close()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()[1:]]
    assert rows == [{"iteration": 20, "share": 0.5, "total_loss": 20.0}, {"iteration": 21, "total_loss": 21.0}]


def test_the_evaluation_before_an_iteration_has_a_row_of_its_own(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.json")
    with EventStorage(0) as storage:
        storage.put_scalar("val/sem_seg/mIoU", 2.0, smoothing_hint=False)
        writer.write()
        storage.put_scalar("total_loss", 1.0)
        writer.write()
    writer.close()
    assert read_training(tmp_path / "metrics.json") == [
        {"iteration": 0, "val/sem_seg/mIoU": 2.0},
        {"iteration": 0, "total_loss": 1.0},
    ]


def test_a_record_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(
        WriteError, match=r"metrics\.json cannot be written \(a folder has its name\): move that folder away"
    ):
        MetricsWriter(tmp_path / "metrics.json")
