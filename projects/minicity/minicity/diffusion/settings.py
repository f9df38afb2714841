"""Settings that both stages of the diffusion training share."""

from dataclasses import dataclass
from typing import ClassVar

from minicity.training.loop import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class DiffusionTraining(TrainingSettings):
    """Settings of the training of one network, or of two that are trained together.

    The learning rate is constant between warm-up and cooldown, so the number of steps may be changed until the cooldown
    begins.

    Attributes:
        batch_size: number of images or latents in a step.
        cooldown: share of the steps, the last ones, over which the learning rate falls to 0.
        bfloat16: whether the networks compute in bfloat16, which is faster on some processors.
    """

    batch_size: int
    save_every: int = 200
    cooldown: float = 0.3
    bfloat16: bool = False

    CHANGEABLE: ClassVar[tuple[str, ...]] = ("save_every", "steps")

    def rate(self, step: int) -> float:
        """Return the factor of the learning rate at a step: linear rise, constant, linear fall to 0."""
        return min(1.0, (step + 1) / self.warmup, (self.steps - step) / max(1.0, self.cooldown * self.steps))
