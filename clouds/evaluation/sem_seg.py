"""The evaluator of semantic segmentation: a confusion matrix that grows picture by picture, and nothing else kept."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clouds.d2 import DatasetEvaluator, MetadataCatalog, comm
from clouds.data.labels import short_name
from clouds.errors import UserError
from clouds.evaluation.confusion import confusion_matrix, score


class SemSegEvaluator(DatasetEvaluator):
    """Scores of one data set over all processes, in percent; see `Scores` for what they mean.

    `images` and `matrix` hold the totals over all processes once `evaluate` has run in the main one.
    """

    def __init__(self, dataset_name: str) -> None:
        """
        Args:
            dataset_name: a registered set; its classes name the scores.
        """
        self.dataset_name = dataset_name
        self.classes = [short_name(name) for name in MetadataCatalog.get(dataset_name).stuff_classes]
        if len(set(self.classes)) < len(self.classes):
            raise UserError(
                f"{dataset_name}: two classes have the same first name, so their scores cannot be told apart."
            )
        self.reset()

    def reset(self) -> None:
        """Forget all pictures."""
        self.images = 0
        self.matrix: npt.NDArray[np.int64] = np.zeros((len(self.classes) + 1,) * 2, dtype=np.int64)

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of a batch.

        Args:
            inputs: of the test mapper: `sem_seg` (H, W) uint8 ground truth.
            outputs: of the model: `sem_seg` (C, H, W) scores, on any device.

        Raises:
            UserError: a picture has no ground truth, or scores are of another size or number of classes.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            if "sem_seg" not in sample:
                raise UserError(f"{sample['file_name']} has no label map, so {self.dataset_name} cannot be scored.")
            scores, truth = output["sem_seg"], sample["sem_seg"]
            expected = (len(self.classes), *truth.shape)
            if tuple(scores.shape) != expected:
                raise UserError(
                    f"The model answered {tuple(scores.shape)} to {sample['file_name']}, where {self.dataset_name} "
                    f"needs (classes, height, width) = {expected}: check MODEL.SEM_SEG_HEAD.NUM_CLASSES."
                )
            self.matrix += confusion_matrix(predicted_labels(scores), truth, len(self.classes)).cpu().numpy()
            self.images += 1

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """`{"sem_seg": {"mIoU", "fwIoU", "mACC", "pACC", "IoU-road", ..., "ACC-road", ...}}`, None in other processes.

        In percent; nan where the ground truth has no pixel of a class.
        """
        shares = comm.gather((self.images, self.matrix))
        if not comm.is_main_process():
            return None
        self.images = sum(images for images, _ in shares)
        self.matrix = sum((matrix for _, matrix in shares), np.zeros_like(self.matrix))
        result = score(self.matrix)
        return {
            "sem_seg": {
                "mIoU": result.miou,
                "fwIoU": result.fwiou,
                "mACC": result.macc,
                "pACC": result.pacc,
                **{f"IoU-{name}": float(value) for name, value in zip(self.classes, result.iou, strict=True)},
                **{f"ACC-{name}": float(value) for name, value in zip(self.classes, result.acc, strict=True)},
            }
        }


def predicted_labels(scores: torch.Tensor) -> torch.Tensor:
    """(C, H, W) scores -> (H, W) int64 train ids on the same device."""
    # max, not argmax: on a CPU torch finds the index together with the value four times faster than alone.
    return scores.max(dim=0).indices
