"""The evaluator of semantic segmentation: counts that grow picture by picture, and nothing else kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clouds.d2 import DatasetEvaluator, MetadataCatalog, comm
from clouds.data.classes import short_name
from clouds.errors import UserError
from clouds.evaluation.boundary import boundary_counts, boundary_iou
from clouds.evaluation.confusion import confusion_matrix, score
from clouds.evaluation.label_files import LabelWriter
from clouds.evaluation.tables import mean_of


class SemSegEvaluator(DatasetEvaluator):
    """Scores of one data set over all processes, in percent; see `Scores` and `boundary_iou` for what they mean.

    `images`, `matrix` and `boundaries` hold the totals over all processes once `evaluate` has run in the main one.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        boundary: bool = False,
        label_folder: Path | None = None,
        subsets: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """
        Args:
            dataset_name: a registered set; its classes name the scores.
            boundary: also score the outlines.
            label_folder: where the predictions go as label files, see `LabelWriter`; None = nowhere. With it, pictures
                without ground truth are welcome: they are labelled and not scored.
            subsets: name of a score -> train ids, for means over some of the classes.
        """
        self.dataset_name = dataset_name
        metadata = MetadataCatalog.get(dataset_name)
        self.boundary = boundary
        self.subsets = subsets or {}
        self.writer = LabelWriter(label_folder, metadata.stuff_colors) if label_folder else None
        self.classes = [short_name(name) for name in metadata.stuff_classes]
        if len(set(self.classes)) < len(self.classes):
            raise UserError(
                f"{dataset_name}: two classes have the same first name, so their scores cannot be told apart."
            )
        self.reset()

    def reset(self) -> None:
        """Forget all pictures."""
        self.images = 0
        self.matrix: npt.NDArray[np.int64] = np.zeros((len(self.classes) + 1,) * 2, dtype=np.int64)
        self.boundaries: npt.NDArray[np.int64] = np.zeros((3, len(self.classes)), dtype=np.int64)

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of a batch, and write its label files where that is asked for.

        Args:
            inputs: of the test mapper: `sem_seg` (H, W) uint8 ground truth.
            outputs: of the model: `sem_seg` (C, H, W) scores, on any device.

        Raises:
            UserError: a picture has no ground truth, or scores are of another size or number of classes.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            labels = self._labels(sample, output["sem_seg"])
            if "sem_seg" in sample:
                self._count(labels, sample["sem_seg"])
            if self.writer is not None:
                self.writer.write(sample["image_id"], labels.byte().cpu().numpy())

    def _labels(self, sample: dict[str, Any], scores: torch.Tensor) -> torch.Tensor:
        if "sem_seg" in sample:
            size = tuple(sample["sem_seg"].shape)
        elif self.writer is not None:
            size = (sample["height"], sample["width"])
        else:
            raise UserError(f"{sample['file_name']} has no label map, so {self.dataset_name} cannot be scored.")
        expected = (len(self.classes), *size)
        if tuple(scores.shape) != expected:
            raise UserError(
                f"The model answered {tuple(scores.shape)} to {sample['file_name']}, where {self.dataset_name} "
                f"needs (classes, height, width) = {expected}: check MODEL.SEM_SEG_HEAD.NUM_CLASSES."
            )
        return predicted_labels(scores)

    def _count(self, labels: torch.Tensor, truth: torch.Tensor) -> None:
        classes = len(self.classes)
        self.images += 1
        self.matrix += confusion_matrix(labels, truth, classes).cpu().numpy()
        if self.boundary:
            self.boundaries += boundary_counts(labels.byte().cpu().numpy(), truth.cpu().numpy(), classes)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """`{"sem_seg": {"mIoU", "fwIoU", "mACC", "pACC", "IoU-road", ..., "ACC-road", ...}}`, None in other processes.

        In percent; nan where the ground truth has no pixel of a class. With `boundary` also "mBIoU" (the mean over the
        classes that occur) and "BIoU-road", ....
        """
        shares = comm.gather((self.images, self.matrix, self.boundaries))
        if not comm.is_main_process():
            return None
        self.images = sum(images for images, _, _ in shares)
        self.matrix = sum((matrix for _, matrix, _ in shares), np.zeros_like(self.matrix))
        self.boundaries = sum((counts for _, _, counts in shares), np.zeros_like(self.boundaries))
        result = score(self.matrix)
        scores = {"mIoU": result.miou, "fwIoU": result.fwiou, "mACC": result.macc, "pACC": result.pacc}
        scores |= {name: mean_of(result.iou[list(classes)]) for name, classes in self.subsets.items()}
        per_class = {"IoU": result.iou, "ACC": result.acc}
        if self.boundary:
            per_class["BIoU"] = boundary_iou(self.boundaries)
            scores["mBIoU"] = mean_of(per_class["BIoU"])
        for kind, values in per_class.items():
            scores |= {f"{kind}-{name}": float(value) for name, value in zip(self.classes, values, strict=True)}
        return {"sem_seg": scores}


def predicted_labels(scores: torch.Tensor) -> torch.Tensor:
    """(C, H, W) scores -> (H, W) int64 train ids on the same device."""
    # max, not argmax: on a CPU torch finds the index together with the value four times faster than alone.
    return scores.max(dim=0).indices
