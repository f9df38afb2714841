"""EventStorage and the three writers."""

import pytest
import torch

from clouds.d2 import CommonMetricPrinter, EventStorage, TensorboardXWriter, get_event_storage


def test_storage():
    with pytest.raises(AssertionError, match="EventStorage"):
        get_event_storage()
    with EventStorage(5) as storage:
        assert get_event_storage() is storage
        for storage.iter, value in enumerate((1.0, 9.0, 2.0), start=5):
            storage.put_scalar("loss", torch.tensor(value))
            storage.put_scalar("lr", value, smoothing_hint=False)
        with EventStorage() as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is storage
    assert storage.iter == 7
    assert storage.latest() == {"loss": (2.0, 7), "lr": (2.0, 7)}
    assert storage.latest_with_smoothing_hint(20) == {"loss": (2.0, 7), "lr": (2.0, 7)}
    assert storage.latest_with_smoothing_hint(2)["loss"] == (5.5, 7)  # the median of 9 and 2
    assert storage.count_samples("loss", 2) == 2
    assert storage.history("loss").latest() == 2.0
    assert storage.smoothing_hints()["lr"] is False
    with pytest.raises(KeyError, match="absent"):
        storage.history("absent")
    with pytest.raises(AssertionError, match="smoothing_hint"):
        storage.put_scalar("lr", 1.0)


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    idle = TensorboardXWriter(str(tmp_path / "idle"))
    idle.close()
    assert not (tmp_path / "idle").exists()
    writer = TensorboardXWriter(str(tmp_path))
    with EventStorage(3) as storage:
        storage.put_scalar("loss", 1.5)
        storage.put_image("sheet", torch.zeros(3, 4, 4))
        writer.write()
        storage.iter = 4
        storage.put_scalar("loss", 2.5, smoothing_hint=True)
        writer.write()
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(3, 1.5), (4, 2.0)]
    assert [e.step for e in events.Images("sheet")] == [3]


@pytest.fixture
def line(caplog):
    """Return a function that returns the line which a printer logs for the open storage."""

    def write(printer):
        caplog.clear()
        printer.logger.addHandler(caplog.handler)
        printer.logger.setLevel("INFO")
        try:
            printer.write()
        finally:
            printer.logger.removeHandler(caplog.handler)
        return caplog.records[0].getMessage() if caplog.records else None

    return write


def test_console_line(line):
    printer = CommonMetricPrinter(max_iter=100)
    with EventStorage(9) as storage:
        assert "lr: N/A" in line(printer)
        for name, value in {"loss_ce": 1.23456, "total_loss": 2.0, "time": 2.0, "data_time": 0.25}.items():
            storage.put_scalar(name, value)
        storage.put_scalar("lr", 1e-5, smoothing_hint=False)
        text = line(printer)
        for part in (
            *("eta: 0:03:00", "iter: 9", "loss_ce: 1.235", "total_loss: 2", "time: 2.0000", "last_time: 2.0000"),
            *("data_time: 0.2500", "lr: 1e-05"),
        ):
            assert part in text
        assert ("max_mem" in text) == torch.cuda.is_available()
        storage.iter = 100
        assert line(printer) is None


def test_console_line_estimates_the_time_left(line):
    printer = CommonMetricPrinter(max_iter=10)
    with EventStorage(0) as storage:
        assert "eta" not in line(printer)
        storage.iter = 4
        assert "eta: 0:00:00" in line(printer)
