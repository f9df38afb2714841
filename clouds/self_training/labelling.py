"""The labelling stage: a batch in, the same batch with pseudo-labels on its generated images out (CLOUDS, section 3.3).

The trainer runs it between the loader and the network. The teacher shares the student's backbone and predicts on the
clean view of each generated image; a `PseudoLabeller` turns its label maps into masks.

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
    """Parts of the model in training that labelling uses; `clouds.clouds.CLOUDS` has them."""

    backbone: SegmentationBackbone
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


STUDENT = ("backbone", "train_classes", "void", "canvas", "preprocess", "text_classifier", "ensemble")
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

    if student.backbone.trainable or any("image_clean" in batch[number] for number in generated):
        features = evaluate(student.backbone, student.preprocess(views, canvas))
    else:
        shared = student.backbone(student.preprocess([x["image"] for x in batch], canvas))
        batch = [{**x, "features": shared} for x in batch]
        features = {name: maps[generated] for name, maps in shared.items()}
    prediction = teacher.head(features, student.text_classifier(student.train_classes), student.void)[-1]
    if geometric_ensemble:
        prediction = student.ensemble(prediction, features, student.train_classes)

    sizes = [(view.shape[-2], view.shape[-1]) for view in views]
    maps = image_labels(prediction, canvas, sizes, sizes, labeller.threshold)
    found = labeller(maps, views, [batch[number].get("seed") for number in generated])
    labels = [replace(label, truth=batch[number].get("truth")) for number, label in zip(generated, found, strict=True)]
    for number, label in zip(generated, labels, strict=True):
        batch[number]["instances"] = instances_from_target(label.refined)
    return batch, labels


def depends_on_the_last_step(student: Student) -> bool:
    """Return whether labelling reads something that each step of the training changes.

    That is a trained backbone, or the trained embedding of "no object" of a head that uses text. Otherwise it reads
    frozen weights and the teacher only, which changes when it is updated.
    """
    return student.backbone.trainable or (student.void is not None and student.void.requires_grad)


def clean_view(x: ImageDict) -> Tensor:
    """Return (3, h, w), the view of an image without color jitter."""
    return x["image_clean"] if "image_clean" in x else x["image"]


def evaluate(backbone: SegmentationBackbone, images: Tensor) -> dict[str, Tensor]:
    """Run a backbone in evaluation mode, so that running statistics and dropout do not affect its training."""
    training = backbone.training
    try:
        return backbone.eval()(images)
    finally:
        backbone.train(training)
