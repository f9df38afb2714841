"""The evaluator's interface and the loop that feeds it."""

import datetime
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from . import comm

logger = logging.getLogger(__name__)


class DatasetEvaluator:
    """Sums up what a model answers on a data set: `reset`, `process` for each batch, `evaluate`."""

    def reset(self) -> None:
        """Forget everything; called before a round."""

    def process(self, inputs: Any, outputs: Any) -> None:
        """Take a batch: the list given to the model, and the list it returned."""

    def evaluate(self) -> Any:
        """Results as {task: {metric: value}}; None on processes that have none."""


def inference_on_dataset(
    model: Callable[[Any], Any],
    data_loader: Iterable[Any],
    evaluator: DatasetEvaluator | None,
    callbacks: dict[str, Callable[[], Any]] | None = None,
) -> Any:
    """Run the model over a loader that has a length, feed the evaluator, and return its results ({} for None).

    A module is put in eval mode and afterwards in the mode it was in. Progress is logged about every 5 seconds.
    `callbacks` may hold "on_start", "before_inference", "after_inference", "on_end".
    """
    call = {name: (callbacks or {}).get(name, _nothing) for name in _CALLBACKS}
    evaluator = DatasetEvaluator() if evaluator is None else evaluator
    total = len(data_loader)  # type: ignore[arg-type]
    logger.info("Start inference on %d batches", total)
    evaluator.reset()
    start = last_log = before_data = time.perf_counter()
    compute = 0.0
    with inference_context(model) if isinstance(model, nn.Module) else nullcontext(), torch.no_grad():
        call["on_start"]()
        for done, inputs in enumerate(data_loader, start=1):
            before_model = time.perf_counter()
            call["before_inference"]()
            outputs = model(inputs)
            call["after_inference"]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            after_model = time.perf_counter()
            evaluator.process(inputs, outputs)
            now = time.perf_counter()
            compute += after_model - before_model
            if now - last_log >= _LOG_SECONDS:
                last_log = now
                pace = (now - start) / done
                logger.info(
                    f"Inference done {done}/{total}. Dataloading: {before_model - before_data:.4f} s. "
                    f"Inference: {after_model - before_model:.4f} s. Eval: {now - after_model:.4f} s. "
                    f"Total: {pace:.4f} s/iter. ETA={datetime.timedelta(seconds=int(pace * (total - done)))}"
                )
            before_data = now
        call["on_end"]()
    elapsed, devices = time.perf_counter() - start, comm.get_world_size()
    for what, seconds in (("time", elapsed), ("pure compute time", compute)):
        logger.info(
            f"Total inference {what}: {datetime.timedelta(seconds=int(seconds))} "
            f"({seconds / max(total, 1):.6f} s / iter per device, on {devices} devices)"
        )
    results = evaluator.evaluate()
    return {} if results is None else results


_CALLBACKS = ("on_start", "before_inference", "after_inference", "on_end")
_LOG_SECONDS = 5.0


def _nothing() -> None:
    pass


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, the mode from before afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
