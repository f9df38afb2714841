"""The training loop and its hooks."""

import logging
import weakref
from collections.abc import Sequence
from typing import Any

from .events import EventStorage


class HookBase:
    """What is done around the steps of a loop; every method may be left out.

        before_train; for each iteration: before_step, run_step, after_step; after_train

    `self.trainer` is a weak reference to the trainer, set by `register_hooks`. Work that takes time belongs in
    `after_step`, so that a timer hook registered before it can tell it from the step's own time.
    """

    trainer: Any = None

    def before_train(self) -> None:
        """Before the first iteration."""

    def after_train(self) -> None:
        """After the last iteration, also when training failed."""

    def before_step(self) -> None:
        """Before each iteration."""

    def after_backward(self) -> None:
        """After each backward pass, if the trainer calls it."""

    def after_step(self) -> None:
        """After each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep; a hook that returns something also defines `load_state_dict`."""
        return {}


class TrainerBase:
    """A loop with hooks; a subclass defines `run_step`.

    Attributes:
        iter: the current iteration; equals `max_iter` in `after_train` if and only if training ended well.
        start_iter, max_iter: the range of iterations.
        storage: the `EventStorage` open while training.
    """

    iter: int
    start_iter: int
    max_iter: int
    storage: EventStorage

    def __init__(self) -> None:
        self._hooks: list[Any] = []
        self.iter = 0
        self.start_iter = 0

    def register_hooks(self, hooks: Sequence[HookBase | None]) -> None:
        """Append hooks, to be called in this order; None is skipped."""
        for hook in hooks:
            if hook is None:
                continue
            assert isinstance(hook, HookBase), f"{hook!r} is not a HookBase"
            hook.trainer = weakref.proxy(self)  # weak, for the two would own each other
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations start_iter .. max_iter - 1."""
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
        """Call every hook's `before_train`."""
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        """Call every hook's `after_train`."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        """Call every hook's `before_step`."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        """Call every hook's `after_backward`; for `run_step` to call."""
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        """Call every hook's `after_step`."""
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        """One iteration."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The iteration and the states of the hooks that have one, by class name (the first of a class counts)."""
        hooks: dict[str, Any] = {}
        for hook in self._hooks:
            state = hook.state_dict()
            if state:
                hooks.setdefault(type(hook).__qualname__, state)
        return {"iteration": self.iter, **({"hooks": hooks} if hooks else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo `state_dict`; the state of a hook that is not here is left out with a warning."""
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hook = next((h for h in self._hooks if type(h).__qualname__ == name), None)
            if hook is None:
                logging.getLogger(__name__).warning("No hook %s here: its saved state is left out", name)
            else:
                hook.load_state_dict(state)
