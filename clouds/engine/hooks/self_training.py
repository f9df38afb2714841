"""What self-training adds to the loop: the teacher's updates, and numbers and pictures of the labels that it gives."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clouds.clouds import class_names
from clouds.d2 import CfgNode, HookBase, MetadataCatalog, comm
from clouds.data.classes import CITYSCAPES_COLORS, IGNORE_LABEL
from clouds.engine.hooks import SMOOTHED
from clouds.engine.hooks.label_counts import Counts, count, no_counts, painted, scalars, total
from clouds.errors import UserError
from clouds.evaluation.sem_seg import predicted_labels
from clouds.self_training.pseudo_labels import PseudoLabel, PseudoLabeller, build_pseudo_labeller
from clouds.self_training.sam import Sam
from clouds.self_training.teacher import Teacher
from clouds.utils.atomic import atomic_file
from clouds.visualization.panel import PanelRow, pseudo_label_panel

logger = logging.getLogger(__name__)

PANEL_ROWS = 4  # images in a panel, at most


class TeacherUpdate(HookBase):
    """Starts the teacher as a copy of the student when training begins (resumed: as it was) and updates it before every
    iteration that is a multiple of ``period``."""

    def __init__(self, teacher: Teacher, period: int) -> None:
        if period < 1:
            raise UserError(f"MODEL.CLOUDS.ITERATION_UPDATE is {period}: the teacher moves every so many iterations.")
        self.teacher = teacher
        self.period = period

    def before_train(self) -> None:
        self.teacher.start(self.trainer.model.sem_seg_head)

    def before_step(self) -> None:
        if self.trainer.iter % self.period == 0:  # at 0 as well, as published; it changes nothing there
            self.teacher.update(self.trainer.model.sem_seg_head)


class PseudoLabelMonitor(HookBase):
    """Counts what happens to the labels of generated images, and draws some of them. It leaves the training alone.

    Every ``period`` iterations, and at the end, `clouds.engine.hooks.label_counts.scalars` of the images since the last
    time, over all processes, go into the storage as ``pseudo_labels/<name>`` and, but for the single classes, into the
    log.

    Args:
        labeller: its ``latest`` labels are looked at.
        refines: whether SAM refines them.
        compares: whether the student answers in the teacher's classes, which those of the test sets need not be.
        classes: names by train id.
        colors: RGB by train id.
        folder: the panels go there, as ``<iteration>.png``.
        panel_period: iterations between two panels, 0 = none; one that is due waits for generated images.
        period: iterations between two reports; the writers' own.
    """

    def __init__(
        self,
        labeller: PseudoLabeller,
        *,
        refines: bool,
        compares: bool,
        classes: Sequence[str],
        colors: Sequence[Sequence[int]],
        folder: Path,
        panel_period: int = 0,
        period: int = SMOOTHED,
    ) -> None:
        self.labeller = labeller
        self.refines = refines
        self.compares = compares
        self.classes = classes
        self.colors = colors
        self.folder = folder
        self.panel_period = panel_period
        self.period = period
        self.panel_is_due = False
        self.counts = no_counts(len(classes))

    def state_dict(self) -> Counts:
        """What is counted for the next report."""
        return self.counts

    def load_state_dict(self, state: Counts) -> None:
        self.counts = state

    def after_step(self) -> None:
        done, labels = self.trainer.iter + 1, self.labeller.latest
        due = done % self.period == 0 or done >= self.trainer.max_iter
        here = total([no_counts(len(self.classes)), *(count(label, len(self.classes)) for label in labels)])
        if due and labels and self.compares:
            here["agreement"] = self.agreement(labels)
        # Exchanged in every iteration, so that a checkpoint of the main process holds what all have seen.
        self.counts = total([self.counts, *comm.all_gather(here)])
        if due:
            self.report()
        self.panel_is_due |= self.panel_period > 0 and done % self.panel_period == 0
        if self.panel_is_due and labels and comm.is_main_process():
            self.draw(labels)
            self.panel_is_due = False

    @torch.no_grad()
    def agreement(self, labels: Sequence[PseudoLabel]) -> Tensor:
        """(2,) int64: pixels on which the student, on the clean image and in evaluation mode, says what the teacher
        says; and all that the teacher labels."""
        model = self.trainer.model
        model.eval()
        try:
            with self.trainer.precision.autocast():
                answers = model([{"image": label.image} for label in labels])
        finally:
            model.train()
        counts = torch.zeros(2, dtype=torch.int64)
        for label, answer in zip(labels, answers, strict=True):
            student = predicted_labels(answer["sem_seg"])
            teacher = label.teacher_map.to(student.device)
            counts += torch.stack([(student == teacher).sum(), (teacher != IGNORE_LABEL).sum()]).cpu()
        return counts

    def report(self) -> None:
        """Put and log what was counted, and count anew."""
        values = scalars(self.counts, self.classes, refines=self.refines)
        self.counts = no_counts(len(self.classes))
        for name, value in values.items():
            self.trainer.storage.put_scalar(f"pseudo_labels/{name}", value, smoothing_hint=False)
        overall = ", ".join(f"{name} {value:.1f} %" for name, value in values.items() if "-" not in name)
        if overall:
            logger.info(f"Pseudo-labels: {overall}")

    def draw(self, labels: Sequence[PseudoLabel]) -> None:
        """A panel of the first of these labels, as a file and for TensorBoard."""
        iteration = self.trainer.iter
        sheet = pseudo_label_panel(
            [panel_row(label) for label in labels[:PANEL_ROWS]],
            title=f"iteration {iteration}",
            classes=self.classes,
            colors=self.colors,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.folder / f"{iteration:07d}.png") as part_file:
            sheet.save(part_file, format="PNG")
        self.trainer.storage.put_image("pseudo_labels", torch.from_numpy(np.array(sheet)).permute(2, 0, 1))


@dataclass(frozen=True)
class SelfTraining:
    """The parts that joint training has besides those of any training."""

    teacher: Teacher
    labeller: PseudoLabeller
    update: TeacherUpdate
    monitor: PseudoLabelMonitor

    @property
    def checkpointables(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {"teacher": self.teacher, "pseudo_label_counts": self.monitor}


def build_self_training(cfg: CfgNode, sam: Sam | None) -> SelfTraining:
    """What ``MODEL.CLOUDS`` says about the teacher, its labels and their record; ``sam`` refines them.

    Raises:
        UserError: a decay or a period that makes no sense.
    """
    settings, train = cfg.MODEL.CLOUDS, cfg.DATASETS.TRAIN
    classes = class_names(train, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    teacher = Teacher(settings.SAM.ALPHA_EMA)
    labeller = build_pseudo_labeller(cfg, teacher, sam)
    monitor = PseudoLabelMonitor(
        labeller,
        refines=sam is not None,
        compares=list(classes) == list(class_names(cfg.DATASETS.TEST)),
        classes=classes,
        colors=getattr(MetadataCatalog.get(train[0]), "stuff_colors", CITYSCAPES_COLORS),
        folder=Path(cfg.OUTPUT_DIR) / "pseudo_label_panels",
        panel_period=settings.PANEL_PERIOD,
    )
    return SelfTraining(teacher, labeller, TeacherUpdate(teacher, settings.ITERATION_UPDATE), monitor)


def panel_row(label: PseudoLabel) -> PanelRow:
    """The label as pictures."""
    points = np.zeros((0, 2)) if label.prompts is None else label.prompts.points.reshape(-1, 2)
    return PanelRow(
        image=label.image.permute(1, 2, 0).cpu().numpy(),
        teacher=label.teacher_map.cpu().numpy(),
        points=points,
        refined=painted(label.refined, label.teacher_map.shape).cpu().numpy(),
        truth=None if label.truth is None else label.truth.cpu().numpy(),
    )
