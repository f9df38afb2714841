"""Evaluator of semantic segmentation. It keeps counts only: a confusion matrix, and three sums of each image."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
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
from clouds.evaluation.display import Display
from clouds.evaluation.files import Counts, ImageCounts
from clouds.evaluation.label_files import LabelWriter
from clouds.evaluation.label_maps import best_classes
from clouds.evaluation.tables import mean_of

logger = logging.getLogger(__name__)


class SemSegEvaluator(DatasetEvaluator):
    """Computes the scores of one data set over all processes, in percent; see `Scores` and `boundary_iou`.

    Attributes:
        matrix: (C+1, C+1) int64 confusion matrix of these images, on the device of the predictions; after `evaluate` on
            the CPU.
        counts: (N, 3, C) int64 counts of each image, see `ImageCounts`; only after `evaluate`, in the main process.
        boundaries: (N, 3, C) int64 `boundary_counts` of each image; only after `evaluate`, in the main process.
        displayed: small copies of the images in `shown` by id; after `evaluate`, in the main process, of all processes.
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
        shown: Sequence[str] = (),
    ) -> None:
        """
        Args:
            dataset_name: registered data set; the scores are named after its classes.
            boundary: compute boundary IoU as well.
            label_folder: folder for the predictions as label files, see `LabelWriter`; None to write none. With a
                folder, images without ground truth are allowed: they are predicted and not scored.
            absent: rule for a class that is predicted but not in the ground truth, see `Scores`.
            means: name of a score -> names of the classes whose IoU it is the mean of.
            shown: ids of images of which small copies are kept, to be shown.

        Raises:
            UserError: two classes of the data set have the same name, or a mean names a class that it does not have.
        """
        self.dataset_name = dataset_name
        metadata = MetadataCatalog.get(dataset_name)
        self.boundary = boundary
        self.absent = absent
        self.shown = tuple(shown)
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
        """Forget all images."""
        self.matrix = torch.zeros((len(self.classes) + 1,) * 2, dtype=torch.int64)
        self.counts = self.boundaries = self._stacked([])
        self._names: list[tuple[str, str]] = []  # id and path of each image
        self._counts: list[torch.Tensor] = []  # (3, C) of each image, on the device of the predictions
        self._boundaries: list[Counts] = []
        self.displayed: dict[str, Display] = {}

    @property
    def images(self) -> int:
        """Number of scored images; after `evaluate`, in the main process, of all processes."""
        return len(self._names)

    def _stacked(self, counts: Sequence[Counts]) -> Counts:
        """Return the (3, C) counts of N images as (N, 3, C)."""
        return np.array(counts, dtype=np.int64).reshape(-1, 3, len(self.classes))

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
                self._names.append((sample["image_id"], sample["file_name"]))
            if self.shown and sample["image_id"] in self.shown:
                self.displayed[sample["image_id"]] = Display.of(sample["image"], labels, sample.get("sem_seg"))
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
        matrix = confusion_matrix(labels, truth, num_classes)
        known = matrix[:-1, :-1]
        self.matrix = self.matrix.to(labels.device) + matrix
        self._counts.append(torch.stack([known.diagonal(), known.sum(dim=1), known.sum(dim=0)]))
        if self.boundary:
            self._boundaries.append(boundary_counts(labels.cpu().numpy(), truth.cpu().numpy(), num_classes))

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
        counts = self._stacked([*torch.stack(self._counts).cpu().numpy()] if self._counts else [])
        boundaries = self._stacked(self._boundaries)
        displayed = {name: display.to_host() for name, display in self.displayed.items()}
        shares = comm.gather((self._names, self.matrix.cpu(), counts, boundaries, displayed))
        if not comm.is_main_process():
            return None
        names, matrices, counts_of_all, boundaries_of_all, displays = zip(*shares, strict=True)
        self._names = [name for own in names for name in own]
        self.matrix = sum(matrices, torch.zeros_like(self.matrix, device="cpu"))
        self.counts, self.boundaries = np.concatenate(counts_of_all), np.concatenate(boundaries_of_all)
        self.displayed = {name: own[name] for name in self.shown for own in displays if name in own}
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
            per_class["BIoU"] = boundary_iou(self.boundaries.sum(axis=0))
            scores["mBIoU"] = mean_of(per_class["BIoU"])
        for metric, values in per_class.items():
            scores |= {f"{metric}-{name}": float(value) for name, value in zip(self.classes, values, strict=True)}
        return {"sem_seg": scores}

    def image_counts(self, protocol: str) -> ImageCounts:
        """Return the counts of each image, sorted by its id; after `evaluate`, in the main process.

        Args:
            protocol: name of the protocol of the samples.
        """
        order = sorted(range(self.images), key=self._names.__getitem__)
        return ImageCounts(
            dataset=self.dataset_name,
            protocol=protocol,
            classes=tuple(self.classes),
            images=tuple(self._names[index][0] for index in order),
            files=tuple(self._names[index][1] for index in order),
            counts=self.counts[order],
            matrix=self.matrix.numpy(),
            absent=self.absent,
            boundary_counts=self.boundaries[order] if self.boundary else None,
        )
