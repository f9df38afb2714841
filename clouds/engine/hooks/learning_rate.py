"""The learning rate's way through the schedule."""

from torch.optim.lr_scheduler import LRScheduler

from clouds.d2 import HookBase


class LearningRate(HookBase):
    """Puts the step's base learning rate (the highest of all groups) into the storage, then steps the schedule."""

    def __init__(self, scheduler: LRScheduler) -> None:
        self.scheduler = scheduler

    def after_step(self) -> None:
        lr = max(group["lr"] for group in self.scheduler.optimizer.param_groups)
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()
