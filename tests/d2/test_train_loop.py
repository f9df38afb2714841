"""TrainerBase and HookBase."""

import pytest

from clouds.d2 import HookBase, TrainerBase, get_event_storage


class Diary(HookBase):
    """Records the calls of its methods and the iteration of each."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def _note(self, what):
        self.log.append((self.name, what, self.trainer.iter))

    def before_train(self):
        self._note("before_train")

    def before_step(self):
        assert get_event_storage().iter == self.trainer.iter
        self._note("before_step")

    def after_step(self):
        self._note("after_step")

    def after_train(self):
        self._note("after_train")


class Loop(TrainerBase):
    def __init__(self, fail_at=None):
        super().__init__()
        self.fail_at = fail_at
        self.steps = []

    def run_step(self):
        if self.iter == self.fail_at:
            raise RuntimeError("step failed")
        self.steps.append(self.iter)


def test_order():
    log, loop = [], Loop()
    loop.register_hooks([Diary("a", log), Diary("b", log)])
    loop.train(3, 5)
    steps = [(hook, what, i) for i in (3, 4) for what in ("before_step", "after_step") for hook in "ab"]
    assert log == [
        ("a", "before_train", 3),
        ("b", "before_train", 3),
        *steps,
        ("a", "after_train", 5),
        ("b", "after_train", 5),
    ]
    assert (loop.start_iter, loop.max_iter, loop.iter) == (3, 5, 5)
    assert loop.steps == [3, 4]


def test_failure_still_ends_the_training():
    log, loop = [], Loop(fail_at=1)
    loop.register_hooks([Diary("a", log)])
    with pytest.raises(RuntimeError, match="step failed"):
        loop.train(0, 3)
    assert log[-1] == ("a", "after_train", 1)  # not max_iter: hooks can tell


def test_only_hooks():
    with pytest.raises(AssertionError):
        Loop().register_hooks([object()])
