"""Moving average of the weights, which evaluations use."""

from clouds.d2 import CfgNode, HookBase
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.modeling.moving_average import MovingAverage


class WeightAverage(HookBase):
    """Averages the trained weights after each step, and writes ``model_ema.pth`` at the end.

    It must precede all hooks that evaluate or save.

    Args:
        average: moving average of the model; its state belongs in checkpoints.
        checkpointer: writes the file.
    """

    def __init__(self, average: MovingAverage, checkpointer: Checkpointer) -> None:
        self.average = average
        self.checkpointer = checkpointer

    def before_train(self) -> None:
        self.average.start(self.trainer.model)

    def after_step(self) -> None:
        self.average.update(self.trainer.model)
        if self.trainer.iter + 1 >= self.trainer.max_iter:  # before model_final, which says that the training is done
            self.checkpointer.save_weights(
                "model_ema", self.average.model, iteration=self.trainer.iter, seed=self.trainer.seed
            )


def build_weight_average(cfg: CfgNode, checkpointer: Checkpointer) -> WeightAverage | None:
    """Build the hook of ``SOLVER.EMA_DECAY`` and add its state to the checkpoints; None for 0."""
    if not cfg.SOLVER.EMA_DECAY:
        return None
    average = MovingAverage(cfg.SOLVER.EMA_DECAY, compiled=cfg.MODEL.COMPILE)
    checkpointer.add_checkpointable("ema", average)
    return WeightAverage(average, checkpointer)
