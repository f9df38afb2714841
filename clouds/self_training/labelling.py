"""The labelling stage: a batch in, the same batch with pseudo-labels on its generated images out (CLOUDS, section 3.3).

The trainer runs it between the loader and the network. The teacher predicts on the clean view of each generated image,
with the student's backbone where it is frozen, otherwise with its own; a `PseudoLabeller` turns its label maps into
masks.

Letters: B images, G generated images among them, h x w an image, H x W canvas, D dimension of the text space.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from clouds.modeling.backbone.base import SegmentationBackbone
from clouds.modeling.inference import image_labels
from clouds.modeling.structures import ImageDict, Prediction, instances_from_target
from clouds.modeling.text_classifier import TextClassifier
from clouds.self_training.pseudo_labels import PseudoLabel, PseudoLabeller
from clouds.self_training.teacher import Teacher


class Student(Protocol):
    """Parts of the model in training, and of the teacher's copy, that labelling uses; `CLOUDS` has them."""

    backbone: SegmentationBackbone
    sem_seg_head: Any
    train_classes: tuple[str, ...]

    @property
    def void(self) -> Tensor | None:
        """(1, D) learnt embedding of "no object"; None for a backbone without text tower."""

    def canvas(self, batched_inputs: Sequence[ImageDict], group: Any = None) -> tuple[int, int]:
        """Return the padded size (H, W) of a batch, exchanged over all processes in a process group."""

    def preprocess(self, images: Sequence[Tensor], canvas: tuple[int, int]) -> Tensor:
        """Upload, normalize and pad images (3, h, w) to (B, 3, H, W)."""

    def text_classifier(self, classes: Sequence[str]) -> TextClassifier | None:
        """Return the embeddings of class names for a head that uses text, otherwise None."""

    def ensemble(self, prediction: Prediction, features: dict[str, Tensor], classes: Sequence[str]) -> Prediction:
        """Combine the decoder's classes of a prediction with CLIP's."""


STUDENT = ("backbone", "sem_seg_head", "train_classes", "void", "canvas", "preprocess", "text_classifier", "ensemble")
"""Names of the parts of a `Student`."""


@torch.no_grad()
def label_batch(
    batch: Sequence[ImageDict],
    student: Student,
    teacher: Teacher,
    labeller: PseudoLabeller,
    *,
    geometric_ensemble: bool = False,
) -> tuple[list[ImageDict], list[PseudoLabel]]:
    """Label the generated images of a batch. All processes must call this together, also those without such images.

    Args:
        batch: B dicts as the mapper returns them; not changed.
        student: the model in training.
        teacher: predicts the classes of the generated images.
        labeller: turns these predictions into pseudo-labels.
        geometric_ensemble: whether to combine the teacher's classes with CLIP's.

    Returns:
        The batch, with `canvas` in every dict, `instances` in those of the generated images, and, where the student's
        backbone computes the same features again, `features` in every dict (`clouds.modeling.structures` describes
        the entries); and the G pseudo-labels.
    """
    canvas = student.canvas(batch)
    batch = [{**x, "canvas": canvas} for x in batch]
    generated = [number for number, x in enumerate(batch) if x.get("is_generated", False)]
    if not generated:
        return batch, []
    views = [clean_view(batch[number]) for number in generated]

    model: Student = teacher.model
    if student.backbone.trainable or any("image_clean" in batch[number] for number in generated):
        features = model.backbone(student.preprocess(views, canvas))
    else:  # the backbone is frozen, and the student's
        shared = model.backbone(student.preprocess([x["image"] for x in batch], canvas))
        batch = [{**x, "features": shared} for x in batch]
        features = {name: maps[generated] for name, maps in shared.items()}
    text = model.text_classifier(model.train_classes)
    prediction = model.sem_seg_head(features, text, model.void, model.backbone.queries)[-1]
    if geometric_ensemble:
        prediction = model.ensemble(prediction, features, model.train_classes)

    sizes = [(view.shape[-2], view.shape[-1]) for view in views]
    maps = image_labels(prediction, canvas, sizes, sizes, labeller.threshold)
    found = labeller(maps, views, [batch[number].get("seed") for number in generated], model.train_classes)
    labels = [replace(label, truth=batch[number].get("truth")) for number, label in zip(generated, found, strict=True)]
    for number, label in zip(generated, labels, strict=True):
        batch[number]["instances"] = instances_from_target(label.refined)
    return batch, labels


def depends_on_the_last_step(student: Student) -> bool:
    """Return whether labelling reads something that each step of the training changes.

    That is the trained embedding of "no object" of a head that uses text, on a frozen backbone. Otherwise it reads
    frozen weights and the teacher's own, which change when the teacher is updated.
    """
    return not student.backbone.trainable and student.void is not None and student.void.requires_grad


def clean_view(x: ImageDict) -> Tensor:
    """Return (3, h, w), the view of an image without color jitter."""
    return x["image_clean"] if "image_clean" in x else x["image"]
