"""Monitor of the pseudo-labels: counts over all processes, and panels of single images."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clouds.config.classes import class_names, train_class_names
from clouds.d2 import CfgNode, HookBase, comm
from clouds.data.classes import IGNORE_LABEL
from clouds.engine.hooks.label_counts import Counts, count, no_counts, painted, scalars, sum_over_processes, total
from clouds.engine.hooks.self_training import SelfTrainingHook
from clouds.engine.hooks.writing import SMOOTHED
from clouds.evaluation.label_maps import predict_labels
from clouds.self_training.pseudo_labels import PseudoLabel
from clouds.utils.atomic import OptionalOutput, make_folder, write_atomically
from clouds.utils.images import encoded
from clouds.visualization.palette import data_set_colors
from clouds.visualization.panel import PanelRow, pseudo_label_panel

logger = logging.getLogger(__name__)

PANEL_ROWS = 4  # largest number of images in a panel


class PseudoLabelMonitor(HookBase):
    """Counts what SAM does to the pseudo-labels, and draws some of them. It does not affect the training.

    Every `period` iterations and at the end, the `clouds.engine.hooks.label_counts.scalars` of all images since the
    last report, over all processes, go into the storage as ``pseudo_labels/<name>``. The log shows those that are not
    of a single class.

    Args:
        self_training: hook whose `latest` pseudo-labels are counted.
        refines: whether SAM refines the labels.
        compares: whether student and teacher predict the same classes, so that their label maps can be compared.
        classes: class names by train id.
        colors: RGB colors by train id.
        folder: folder of the panels, which are named ``<iteration>.png``.
        device: device of the labels, on which they are counted.
        panel_period: iterations between two panels; 0 = none. A panel that is due waits for generated images.
        period: iterations between two reports; the default is the writers' period.
    """

    def __init__(
        self,
        self_training: SelfTrainingHook,
        *,
        refines: bool,
        compares: bool,
        classes: Sequence[str],
        colors: Sequence[Sequence[int]],
        folder: Path,
        device: torch.device | str = "cpu",
        panel_period: int = 0,
        period: int = SMOOTHED,
    ) -> None:
        self.self_training = self_training
        self.refines = refines
        self.compares = compares
        self.classes = classes
        self.colors = colors
        self.folder = folder
        self.panels = OptionalOutput(f"The panel of pseudo-labels in {folder}")
        self.device = torch.device(device)
        self.panel_period = panel_period
        self.period = period
        self.panel_is_due = False
        self.counts = no_counts(len(classes), device)

    def state_dict(self) -> Counts:
        """Return the counts since the last report, on the CPU."""
        return {name: part.cpu() for name, part in self.counts.items()}

    def load_state_dict(self, state: Counts) -> None:
        """Continue with the counts that `state_dict` returned."""
        self.counts = {name: part.to(self.device) for name, part in state.items()}

    def after_step(self) -> None:
        done, labels = self.trainer.iter + 1, self.self_training.latest
        due = done % self.period == 0 or done >= self.trainer.max_iter
        none = no_counts(len(self.classes), self.device)
        here = total([none, *(count(label, len(self.classes)) for label in labels)])
        if due and labels and self.compares:
            here["agreement"] = self.agreement(labels)
        # Exchanged in every iteration, so that the main process's checkpoint holds the counts of all processes.
        self.counts = total([self.counts, sum_over_processes(here)])
        if due:
            self.report()
        self.panel_is_due |= self.panel_period > 0 and done % self.panel_period == 0
        if self.panel_is_due and labels and comm.is_main_process():
            self.draw(labels)
            self.panel_is_due = False

    @torch.no_grad()
    def agreement(self, labels: Sequence[PseudoLabel]) -> Tensor:
        """Compare the student's label maps with the teacher's, on the clean images and in evaluation mode.

        Returns:
            (2,) int64: pixels on which both agree, and pixels that the teacher labels.
        """
        model = self.trainer.model
        model.eval()
        try:
            with self.trainer.precision.autocast():
                maps = predict_labels(model, [{"image": label.image} for label in labels])
        finally:
            model.train()
        counts = torch.zeros(2, dtype=torch.int64, device=self.device)
        for label, student in zip(labels, maps, strict=True):
            teacher = label.teacher_map.to(student.device)
            counts += torch.stack([(student == teacher).sum(), (teacher != IGNORE_LABEL).sum()])
        return counts

    def report(self) -> None:
        """Store and log the scalars of all counts, then reset the counts."""
        values = scalars(self.state_dict(), self.classes, refines=self.refines)
        self.counts = no_counts(len(self.classes), self.device)
        for name, value in values.items():
            self.trainer.storage.put_scalar(f"pseudo_labels/{name}", value, smoothing_hint=False)
        overall = ", ".join(f"{name} {value:.1f} %" for name, value in values.items() if "-" not in name)
        if overall:
            logger.info(f"Pseudo-labels: {overall}")

    def draw(self, labels: Sequence[PseudoLabel]) -> None:
        """Write a panel of the first labels to a file and to the storage, which TensorBoard shows."""
        iteration = self.trainer.iter
        sheet = pseudo_label_panel(
            [panel_row(label) for label in labels[:PANEL_ROWS]],
            title=f"iteration {iteration}",
            classes=self.classes,
            colors=self.colors,
        )
        with self.panels.attempt():
            if self.folder.parent.is_dir():  # an output folder that has been removed does not come back by a panel
                make_folder(self.folder)
            write_atomically(self.folder / f"{iteration:07d}.png", encoded(sheet, "PNG"))
        self.trainer.storage.put_image("pseudo_labels", torch.from_numpy(np.array(sheet)).permute(2, 0, 1))


def build_pseudo_label_monitor(cfg: CfgNode, self_training: SelfTrainingHook) -> PseudoLabelMonitor:
    """Build the monitor of a joint training; ``MODEL.CLOUDS.PANEL_PERIOD`` says how often it draws."""
    classes = train_class_names(cfg)
    return PseudoLabelMonitor(
        self_training,
        refines=self_training.labeller.sam is not None,
        compares=list(classes) == list(class_names(cfg.DATASETS.TEST)),
        classes=classes,
        colors=data_set_colors(cfg.DATASETS.TRAIN[0], classes),
        folder=Path(cfg.OUTPUT_DIR) / "pseudo_label_panels",
        device=cfg.MODEL.DEVICE,
        panel_period=cfg.MODEL.CLOUDS.PANEL_PERIOD,
    )


def panel_row(label: PseudoLabel) -> PanelRow:
    """Convert a pseudo-label to the arrays that a panel shows."""
    points = np.zeros((0, 2)) if label.prompts is None else label.prompts.points.reshape(-1, 2)
    return PanelRow(
        image=label.image.permute(1, 2, 0).cpu().numpy(),
        teacher=label.teacher_map.cpu().numpy(),
        points=points,
        refined=painted(label.refined, label.teacher_map.shape).cpu().numpy(),
        truth=None if label.truth is None else label.truth.cpu().numpy(),
    )
