"""Evaluation of one data set by several protocols at once."""

from collections.abc import Mapping, Sequence
from typing import Any

from clouds.d2 import DatasetEvaluator

SEM_SEG = "sem_seg"
"""Task of the results of the main protocol."""


def task_name(protocol: str, main: str, task: str = SEM_SEG) -> str:
    """Return the name of the results of a task by a protocol: the task, ``<task>@<protocol>`` except for the main one.

    Args:
        protocol: name of the protocol.
        main: name of the main protocol.
        task: name of the results of an evaluator.
    """
    return task if protocol == main else f"{task}@{protocol}"


class ByProtocol(DatasetEvaluator):
    """Evaluators of a data set, one for each protocol, each of which gets the samples of its protocol.

    Args:
        evaluators: name of a protocol -> its evaluator, the main protocol first.
    """

    def __init__(self, evaluators: Mapping[str, DatasetEvaluator]) -> None:
        self.evaluators = dict(evaluators)
        self.main = next(iter(evaluators))

    def reset(self) -> None:
        """Discard everything accumulated so far."""
        for evaluator in self.evaluators.values():
            evaluator.reset()

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Accumulate a batch.

        Args:
            inputs: samples of the test mapper. One without an entry `protocols` is scored by the main protocol.
            outputs: dict of the model for each sample.
        """
        pairs = list(zip(inputs, outputs, strict=True))
        for name, evaluator in self.evaluators.items():
            own = [pair for pair in pairs if name in pair[0].get("protocols", (self.main,))]
            if own:
                evaluator.process([sample for sample, _ in own], [output for _, output in own])

    def evaluate(self) -> dict[str, Any] | None:
        """Return the results of all evaluators by `task_name`; each process must call this.

        Returns:
            `{task: {metric: value}}`; None where no evaluator has a result.
        """
        found = {name: evaluator.evaluate() or {} for name, evaluator in self.evaluators.items()}
        results = {task_name(name, self.main, task): found[name][task] for name in found for task in found[name]}
        return results or None
