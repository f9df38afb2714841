"""Self-training as a hook: it holds and updates the teacher, and labels the generated images of each batch."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clouds.d2 import CfgNode, HookBase, comm
from clouds.data.loading.loaders import TrainBatches
from clouds.errors import UserError
from clouds.modeling.distributed import largest_over_processes
from clouds.modeling.structures import ImageDict
from clouds.self_training.labelling import STUDENT, depends_on_the_last_step, label_batch
from clouds.self_training.pseudo_labels import PseudoLabel, PseudoLabeller, build_pseudo_labeller
from clouds.self_training.sam import Sam
from clouds.self_training.teacher import Teacher
from clouds.utils.beside import Beside

Labelled = tuple[list[ImageDict], list[PseudoLabel]]
"""A labelled batch, and the pseudo-labels of its generated images."""


class SelfTrainingHook(HookBase):
    """Holds the teacher and labels batches with it (CLOUDS, section 3.3).

    The trainer calls `label` between the loader and the network. Before the first step, the teacher becomes a copy of
    the student, unless a checkpoint has restored it. Before every iteration that is a multiple of `update_period`, it
    moves towards the student; at iteration 0 this changes nothing.

    With `ahead`, the next batch is labelled beside the student's step, wherever no update of teacher or student can
    change its labels: not before an update of the teacher, and not where labelling reads trained weights of the
    student (`depends_on_the_last_step`). All results are equal with and without. The first batch on each canvas is
    labelled in turn: modules may keep tensors from their first call, which the streams must not both make.

    Attributes:
        teacher: exponential moving average of the student; its state belongs in checkpoints.
        labeller: turns the teacher's label maps into pseudo-labels.
        latest: pseudo-labels of the last labelled batch in this process.
    """

    def __init__(
        self,
        teacher: Teacher,
        labeller: PseudoLabeller,
        *,
        update_period: int,
        geometric_ensemble: bool = False,
        ahead: bool = False,
    ) -> None:
        """
        Args:
            teacher: labels the generated images; started by `before_train`.
            labeller: turns the teacher's label maps into pseudo-labels.
            update_period: iterations between two updates of the teacher, at least 1.
            geometric_ensemble: whether to combine the teacher's classes with CLIP's.
            ahead: whether to label the next batch beside the student's step; on a CPU, it only competes with it.
        """
        if update_period < 1:
            raise ValueError(f"update_period is {update_period}; it must be 1 or more")
        self.teacher = teacher
        self.labeller = labeller
        self.update_period = update_period
        self.geometric_ensemble = geometric_ensemble
        self.ahead = ahead
        self.latest: list[PseudoLabel] = []
        self._next: Beside[tuple[Sequence[ImageDict], Labelled | None]] | None = None
        self._canvas: tuple[int, int] | None = None  # of the last labelled batch
        self._canvases: set[tuple[int, int]] = set()  # of the steps before
        self._stream: torch.cuda.Stream | None = None
        self._group: Any = None

    def before_train(self) -> None:
        model = self.trainer.model
        self.teacher.start(model)
        if self.ahead:
            device = next(model.parameters()).device
            self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
            self._group = torch.distributed.new_group(backend="gloo") if comm.get_world_size() > 1 else None

    def before_step(self) -> None:
        if self.trainer.iter % self.update_period == 0:
            self.teacher.update(self.trainer.model)

    def label(self, batch: Sequence[ImageDict]) -> list[ImageDict]:
        """Return the batch with `instances` for each generated image (see `label_batch`)."""
        labelled, self.latest = self._labelled_ahead(batch) or self._label(batch)
        if self._canvas is not None:
            self._canvases.add(self._canvas)
        self._canvas = labelled[0]["canvas"]
        if self._can_go_ahead():
            self._next = Beside(self._label_next, self._stream)
        return labelled

    def wait(self) -> None:
        """Wait until the next batch is labelled, if it is labelled ahead."""
        if self._next is not None:
            self._next.join()

    def after_step(self) -> None:
        # At the latest here, before other hooks evaluate the model or save the position in the data.
        self.wait()

    def after_train(self) -> None:
        self.wait()
        self._next = None  # not None if the training failed

    def _can_go_ahead(self) -> bool:
        if not self.ahead:
            return False
        following = self.trainer.iter + 1
        return (
            following < self.trainer.max_iter
            and following % self.update_period != 0
            and not depends_on_the_last_step(self.trainer.model)
            and isinstance(self.trainer.batches, TrainBatches)
        )

    def _labelled_ahead(self, batch: Sequence[ImageDict]) -> Labelled | None:
        """Return the result of the call beside the last step, or raise its error; None if it did not label `batch`."""
        if self._next is None:
            return None
        call, self._next = self._next, None
        seen, result = call.result()
        if seen is not batch or result is None:
            return None
        # Their memory is used again only when the current stream is done with them.
        for tensor in _results_on_gpu(*result):
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
        return result

    def _label_next(self) -> tuple[Sequence[ImageDict], Labelled | None]:
        try:
            batch = self.trainer.batches.peek()
        except Exception:
            # The other processes wait for the size of this one's images, and it for them. It fails in the next step.
            largest_over_processes((0, 0), self._group)
            raise
        canvas = self.trainer.model.canvas(batch, self._group)
        known = canvas in self._canvases
        return batch, self._label([{**x, "canvas": canvas} for x in batch]) if known else None

    def _label(self, batch: Sequence[ImageDict]) -> Labelled:
        # A separate context, so that autocast does not cache weights that were cast without a gradient.
        with self.trainer.precision.autocast():
            return label_batch(
                batch,
                self.trainer.model,
                self.teacher,
                self.labeller,
                geometric_ensemble=self.geometric_ensemble,
            )


def _results_on_gpu(labelled: Sequence[ImageDict], labels: Sequence[PseudoLabel]) -> Iterator[Tensor]:
    """Yield the tensors on a GPU that labelling has added."""
    added = [label.teacher_map for label in labels]
    added += [tensor for label in labels for tensor in label.refined]
    added += labelled[0].get("features", {}).values()
    yield from (tensor for tensor in added if tensor.is_cuda)


def check_student(model: nn.Module) -> None:
    """Check that a model in training has the parts that self-training uses.

    Raises:
        UserError: it lacks one.
    """
    missing = [name for name in STUDENT if not hasattr(model, name)]
    if missing:
        raise UserError(
            f"{type(model).__name__} (MODEL.META_ARCHITECTURE) has no {', '.join(missing)}, which self-training uses: "
            "set MODEL.CLOUDS.SAM.MINIBATCH False, or derive it from CLOUDS."
        )


def build_self_training_hook(cfg: CfgNode, sam: Sam | None) -> SelfTrainingHook:
    """Build the teacher and the labeller that ``MODEL.CLOUDS`` describes; `sam` refines the labels, None does not."""
    settings = cfg.MODEL.CLOUDS
    return SelfTrainingHook(
        Teacher(settings.SAM.ALPHA_EMA, compiled=cfg.MODEL.COMPILE),
        build_pseudo_labeller(cfg, sam),
        update_period=settings.ITERATION_UPDATE,
        geometric_ensemble=settings.GEOMETRIC_ENSEMBLE_EMA,
        ahead=torch.device(cfg.MODEL.DEVICE).type == "cuda",
    )
