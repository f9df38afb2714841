"""The training loop and its hooks."""

import logging
import weakref
from collections.abc import Sequence
from typing import Any

from .events import EventStorage


class HookBase:
    """Base class of hooks. Every method is optional.

        before_train; for each iteration: before_step, run_step, after_step; after_train

    `self.trainer` is a weak reference to the trainer, set by `register_hooks`. Slow work belongs in `after_step`, so
    that a timer hook registered earlier does not count it as part of the step.
    """

    trainer: Any = None

    def before_train(self) -> None:
        """Called before the first iteration."""

    def after_train(self) -> None:
        """Called after the last iteration, also if training failed."""

    def before_step(self) -> None:
        """Called before each iteration."""

    def after_step(self) -> None:
        """Called after each iteration."""


class TrainerBase:
    """Training loop with hooks; a subclass defines `run_step`.

    Attributes:
        iter: current iteration; equals `max_iter` in `after_train` if and only if training did not fail.
        start_iter: first iteration.
        max_iter: end of the iterations, exclusive.
        storage: `EventStorage` that is open while training.
    """

    iter: int
    start_iter: int
    max_iter: int
    storage: EventStorage

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0

    def register_hooks(self, hooks: Sequence[HookBase]) -> None:
        """Append hooks. They are called in this order."""
        for hook in hooks:
            assert isinstance(hook, HookBase), f"{hook!r} is not a HookBase"
            hook.trainer = weakref.proxy(self)  # weak: trainer and hook would own each other
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations start_iter .. max_iter - 1."""
        logger = logging.getLogger(__name__)
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter += 1
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        """Call `before_train` of every hook."""
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        """Call `after_train` of every hook."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        """Call `before_step` of every hook."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_step(self) -> None:
        """Call `after_step` of every hook."""
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        """Run one iteration."""
        raise NotImplementedError
