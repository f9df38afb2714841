"""Evaluator of semantic segmentation. It keeps counts only, which are added up image by image."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clouds.d2 import DatasetEvaluator, MetadataCatalog, comm
from clouds.d2.groups import wait_for_all
from clouds.data.classes import short_name
from clouds.data.datasets.catalog import load_dataset
from clouds.data.encoding import find_missing_labels
from clouds.data.protocols import Absent
from clouds.errors import UserError, check_name
from clouds.evaluation.boundary import boundary_counts, boundary_iou
from clouds.evaluation.confusion import confusion_matrix, score
from clouds.evaluation.label_files import LabelWriter
from clouds.evaluation.label_maps import best_classes
from clouds.evaluation.tables import mean_of

logger = logging.getLogger(__name__)


class SemSegEvaluator(DatasetEvaluator):
    """Computes the scores of one data set over all processes, in percent; see `Scores` and `boundary_iou`.

    Attributes:
        images: number of scored images; after `evaluate`, in the main process, of all processes.
        matrix: (C+1, C+1) int64 confusion matrix of these images, on the device of the predictions; after `evaluate` on
            the CPU.
        boundaries: (3, C) sum of `boundary_counts` over these images.
        classes: names of the C classes.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        boundary: bool = False,
        label_folder: Path | None = None,
        absent: Absent = "left_out",
        means: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """
        Args:
            dataset_name: registered data set; the scores are named after its classes.
            boundary: compute boundary IoU as well.
            label_folder: folder for the predictions as label files, see `LabelWriter`; None to write none. With a
                folder, images without ground truth are allowed: they are predicted and not scored.
            absent: rule for a class that is predicted but not in the ground truth, see `Scores`.
            means: name of a score -> names of the classes whose IoU it is the mean of.

        Raises:
            UserError: two classes of the data set have the same name, or a mean names a class that it does not have.
        """
        self.dataset_name = dataset_name
        metadata = MetadataCatalog.get(dataset_name)
        self.boundary = boundary
        self.absent = absent
        self.writer = LabelWriter(label_folder, metadata.stuff_colors) if label_folder else None
        self.classes = [short_name(name) for name in metadata.stuff_classes]
        if len(set(self.classes)) < len(self.classes):
            raise UserError(f"{dataset_name}: two classes have the same first name, so their scores have one name too.")
        self.means = {name: [self._index(each, name) for each in classes] for name, classes in (means or {}).items()}
        self.reset()

    def _index(self, class_name: str, mean: str) -> int:
        check_name(f"The mean {mean} over some of the classes of {self.dataset_name}", class_name, self.classes)
        return self.classes.index(class_name)

    def reset(self) -> None:
        """Set all counts to zero."""
        self.images = 0
        self.matrix = torch.zeros((len(self.classes) + 1,) * 2, dtype=torch.int64)
        self.boundaries: npt.NDArray[np.int64] = np.zeros((3, len(self.classes)), dtype=np.int64)

    def check_labels(self) -> None:
        """Check that every record of the data set names a label map, unless label files are written.

        Raises:
            UserError: a record names none.
        """
        for record in [] if self.writer else load_dataset(self.dataset_name):
            if "sem_seg_file_name" not in record:
                raise self._unlabelled(record)

    def _unlabelled(self, sample: Mapping[str, Any]) -> UserError:
        return UserError(
            f"{sample['file_name']} has no label map, so {self.dataset_name} cannot be scored: leave it out of the "
            "test sets, or write its predictions as label files."
        )

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of a batch and write its label files if requested.

        The host does not wait for the predictions, unless boundary IoU is computed or label files are written.

        Args:
            inputs: dicts of the test mapper, with the ground truth in `sem_seg`, (H, W) uint8.
            outputs: dicts of the model, on any device, with the prediction in `label_map`, (H, W) uint8, or the scores
                in `sem_seg`, (C, H, W) float.

        Raises:
            UserError: an image has no ground truth, or the prediction has another size or number of classes.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            labels = self._labels(sample, output)
            if "sem_seg" in sample:
                try:
                    self._count(labels, sample["sem_seg"])
                except ValueError as error:
                    raise UserError(f"{sample['file_name']}: {error}; {self._remedy()}") from error
            if self.writer is not None:
                self.writer.write(sample["image_id"], labels.cpu().numpy())

    def _labels(self, sample: dict[str, Any], output: dict[str, Any]) -> torch.Tensor:
        if "sem_seg" in sample:
            size = tuple(sample["sem_seg"].shape)
        elif self.writer is not None:
            size = (sample["height"], sample["width"])
        else:
            raise self._unlabelled(sample)
        if "label_map" in output:
            labels: torch.Tensor = output["label_map"]
            if labels.shape != size:
                raise self._unfit(sample, f"a label map {tuple(labels.shape)}", f"(height, width) = {size}")
            return labels
        scores, expected = output["sem_seg"], (len(self.classes), *size)
        if scores.shape != expected:
            raise self._unfit(sample, f"scores {tuple(scores.shape)}", f"(classes, height, width) = {expected}")
        return best_classes(scores)

    def _unfit(self, sample: Mapping[str, Any], returned: str, needed: str) -> UserError:
        return UserError(
            f"The model returned {returned} for {sample['file_name']}, but {self.dataset_name} needs {needed}: "
            f"{self._remedy()}"
        )

    def _remedy(self) -> str:
        return f"use a model with {len(self.classes)} classes."

    def _count(self, labels: torch.Tensor, truth: torch.Tensor) -> None:
        num_classes = len(self.classes)
        self.images += 1
        self.matrix = self.matrix.to(labels.device) + confusion_matrix(labels, truth, num_classes)
        if self.boundary:
            self.boundaries += boundary_counts(labels.cpu().numpy(), truth.cpu().numpy(), num_classes)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compute the scores of all processes; each process must call this.

        Returns:
            `{"sem_seg": {"mIoU", "fwIoU", "mACC", "pACC", "IoU-road", ..., "ACC-road", ...}}` in percent, with nan for
            a class that has no score, see `Scores`; the names in `means`; with `boundary` also "mBIoU", the mean over
            the classes in the ground truth, and "BIoU-road", .... None in all processes but the main one.

        Raises:
            UserError: there are label maps, but all their pixels are ignored; or a prediction had a class that the data
                set does not have.
        """
        wait_for_all()  # the shares of the processes may take unequal time
        shares = comm.gather((self.images, self.matrix.cpu(), self.boundaries))
        if not comm.is_main_process():
            return None
        self.images = sum(images for images, _, _ in shares)
        self.matrix = sum((matrix for _, matrix, _ in shares), torch.zeros_like(self.matrix, device="cpu"))
        self.boundaries = sum((counts for _, _, counts in shares), np.zeros_like(self.boundaries))
        matrix = self.matrix.numpy()
        if matrix[-1].any():
            raise UserError(
                f"The model predicted other classes than the {len(self.classes)} of {self.dataset_name}: "
                f"{self._remedy()}"
            )
        *truth, ignored = matrix.sum(axis=0)
        if missing := find_missing_labels(self.classes, np.array(truth), int(ignored)):
            if not any(truth):
                raise UserError(f"{self.dataset_name} cannot be scored: {missing}.")
            logger.warning("%s: %s.", self.dataset_name, missing)
        result = score(matrix, self.absent)
        scores = {"mIoU": result.miou, "fwIoU": result.fwiou, "mACC": result.macc, "pACC": result.pacc}
        scores |= {name: mean_of(result.iou[classes]) for name, classes in self.means.items()}
        per_class = {"IoU": result.iou, "ACC": result.acc}
        if self.boundary:
            per_class["BIoU"] = boundary_iou(self.boundaries)
            scores["mBIoU"] = mean_of(per_class["BIoU"])
        for metric, values in per_class.items():
            scores |= {f"{metric}-{name}": float(value) for name, value in zip(self.classes, values, strict=True)}
        return {"sem_seg": scores}
