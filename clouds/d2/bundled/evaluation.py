"""Interface of an evaluator, and the loop that runs a model over a data set."""

import datetime
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from . import comm

logger = logging.getLogger(__name__)

_LOG_SECONDS = 5.0


class DatasetEvaluator:
    """Accumulates the predictions on a data set: `reset`, `process` for each batch, `evaluate`."""

    def reset(self) -> None:
        """Discard everything accumulated so far. Called before the first batch."""

    def process(self, inputs: Any, outputs: Any) -> None:
        """Accumulate one batch: the list of inputs of the model and the list that it returned."""

    def evaluate(self) -> Any:
        """Return the results as {task: {metric: value}}; None on processes that have none."""


def inference_on_dataset(model: nn.Module, data_loader: Iterable[Any], evaluator: DatasetEvaluator) -> Any:
    """Run the model in eval mode on every batch of a sized loader and return the results of the evaluator.

    The training mode of the model is restored afterwards. Progress is logged about every 5 seconds. The result is {}
    where the evaluator returns None. The loop does not wait for a GPU, so that the next images are read meanwhile; the
    logged times of single batches are those of the host.
    """
    total = len(data_loader)  # type: ignore[arg-type]
    logger.info("Start inference on %d batches", total)
    evaluator.reset()
    start = last_log = before_data = time.perf_counter()
    reading = 0.0
    with _eval_mode(model), torch.no_grad():
        for done, inputs in enumerate(data_loader, start=1):
            reading += time.perf_counter() - before_data
            evaluator.process(inputs, model(inputs))
            now = before_data = time.perf_counter()
            if now - last_log >= _LOG_SECONDS:
                last_log = now
                pace = (now - start) / done
                logger.info(
                    f"Inference done {done}/{total}. {pace:.4f} s / batch, {reading / done:.4f} s of them for data. "
                    f"ETA={datetime.timedelta(seconds=int(pace * (total - done)))}"
                )
    results = evaluator.evaluate()
    elapsed, devices = time.perf_counter() - start, comm.get_world_size()
    logger.info(
        f"Total inference time: {datetime.timedelta(seconds=int(elapsed))} "
        f"({elapsed / max(total, 1):.6f} s / batch per device, on {devices} devices)"
    )
    return {} if results is None else results


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
