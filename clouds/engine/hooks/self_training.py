"""Self-training as a hook: it holds and updates the teacher, and labels the generated images of each batch."""

from collections.abc import Sequence

from torch import nn

from clouds.d2 import CfgNode, HookBase
from clouds.errors import UserError
from clouds.modeling.structures import ImageDict
from clouds.self_training.labelling import STUDENT, label_batch
from clouds.self_training.pseudo_labels import PseudoLabel, PseudoLabeller, build_pseudo_labeller
from clouds.self_training.sam import Sam
from clouds.self_training.teacher import Teacher


class SelfTrainingHook(HookBase):
    """Holds the teacher and labels batches with it (CLOUDS, section 3.3).

    The trainer calls `label` between the loader and the network. Before the first step, the teacher becomes a copy of
    the student's head, unless a checkpoint has restored it. Before every iteration that is a multiple of
    `update_period`, it moves towards the student's head; at iteration 0 this changes nothing.

    Attributes:
        teacher: exponential moving average of the student's head; its state belongs in checkpoints.
        labeller: turns the teacher's scores into pseudo-labels.
        latest: pseudo-labels of the last labelled batch in this process.
    """

    def __init__(
        self, teacher: Teacher, labeller: PseudoLabeller, *, update_period: int, geometric_ensemble: bool = False
    ) -> None:
        """
        Args:
            teacher: labels the generated images; started by `before_train`.
            labeller: turns the teacher's scores into pseudo-labels.
            update_period: iterations between two updates of the teacher, at least 1.
            geometric_ensemble: whether to combine the teacher's classes with CLIP's.
        """
        if update_period < 1:
            raise ValueError(f"update_period is {update_period}; it must be 1 or more")
        self.teacher = teacher
        self.labeller = labeller
        self.update_period = update_period
        self.geometric_ensemble = geometric_ensemble
        self.latest: list[PseudoLabel] = []

    def before_train(self) -> None:
        self.teacher.start(self.trainer.model.sem_seg_head)

    def before_step(self) -> None:
        if self.trainer.iter % self.update_period == 0:
            self.teacher.update(self.trainer.model.sem_seg_head)

    def label(self, batch: Sequence[ImageDict]) -> list[ImageDict]:
        """Return the batch with `instances` for each generated image (see `label_batch`)."""
        labelled, self.latest = label_batch(
            batch, self.trainer.model, self.teacher, self.labeller, geometric_ensemble=self.geometric_ensemble
        )
        return labelled


def check_student(model: nn.Module) -> None:
    """Check that a model in training has the parts that self-training uses.

    Raises:
        UserError: it lacks one.
    """
    missing = [name for name in ("sem_seg_head", *STUDENT) if not hasattr(model, name)]
    if missing:
        raise UserError(
            f"{type(model).__name__} (MODEL.META_ARCHITECTURE) has no {', '.join(missing)}, which self-training uses: "
            "set MODEL.CLOUDS.SAM.MINIBATCH False, or derive it from CLOUDS."
        )


def build_self_training_hook(cfg: CfgNode, sam: Sam | None) -> SelfTrainingHook:
    """Build the teacher and the labeller that ``MODEL.CLOUDS`` describes; `sam` refines the labels, None does not."""
    settings = cfg.MODEL.CLOUDS
    return SelfTrainingHook(
        Teacher(settings.SAM.ALPHA_EMA),
        build_pseudo_labeller(cfg, sam),
        update_period=settings.ITERATION_UPDATE,
        geometric_ensemble=settings.GEOMETRIC_ENSEMBLE_EMA,
    )
