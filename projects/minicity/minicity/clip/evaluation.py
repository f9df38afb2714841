"""Zero-shot evaluation of a miniature CLIP: classes of crops, retrieval of captions, classes of pixels.

Letters: D width of the space that images and texts share, K classes, N names of all classes, H x W an image, h x w a
feature map.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from clouds.data.classes import CITYSCAPES_CLASSES, short_name
from clouds.evaluation.confusion import Scores, confusion_matrix, score
from clouds.modeling.text_classifier import TextClassifier
from minicity.clip.pool import CaptionedImages
from minicity.clip.regions import VIEW
from minicity.training.embedding import Floats, embed
from minicity.training.images import clip_input
from minicity.training.towers import Towers
from minicity.world.pool import Pixels, draw_scene
from minicity.world.style import Style


@torch.inference_mode()
def predict_classes(
    encode_image: Callable[[Tensor], Tensor], classifier: TextClassifier, images: Pixels
) -> npt.NDArray[np.int64]:
    """Predict the class of each image, the one with the most similar name.

    Args:
        encode_image: maps normalized images (B, 3, H, W) to unit-norm features (B, D).
        classifier: text classifier of the classes.
        images: (M, H, W, 3) uint8 RGB.

    Returns:
        (M,) int64 indices of classes.
    """
    device = classifier.embeddings.device
    batches = np.array_split(images, max(1, len(images) // 256))
    found = [_class_similarity(encode_image(clip_input(batch, device)), classifier).argmax(dim=1) for batch in batches]
    return torch.cat(found).cpu().numpy()


def _class_similarity(features: Tensor, classifier: TextClassifier) -> Tensor:
    """Return the cosine similarity (M, K) of unit-norm features (M, D) with the best name of each class."""
    similarity = features @ classifier.embeddings.T
    return torch.stack(
        [names.max(dim=1).values for names in similarity.split(list(classifier.names_per_class), dim=1)], dim=1
    )


@dataclass(frozen=True)
class CropAccuracy:
    """Zero-shot accuracy on crops.

    Attributes:
        all: accuracy over all crops, 0..1.
        classes: accuracy of each class that occurs, 0..1, by its short name.
    """

    all: float
    classes: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean over the classes that occur, 0..1."""
        return sum(self.classes.values()) / len(self.classes)


def crop_accuracy(clip: Towers, crops: CaptionedImages) -> CropAccuracy:
    """Measure how many crops get their class, with the text classifier that segmentation uses."""

    def encode_image(images: Tensor) -> Tensor:
        features: Tensor = clip.clip_model.encode_image(images, normalize=True)
        return features

    found = predict_classes(encode_image, clip.text_classifier(CITYSCAPES_CLASSES), crops.images)
    correct = found == crops.labels
    classes = {
        short_name(words): float(correct[crops.labels == label].mean())
        for label, words in enumerate(CITYSCAPES_CLASSES)
        if (crops.labels == label).any()
    }
    return CropAccuracy(float(correct.mean()), classes)


@dataclass(frozen=True)
class Recall:
    """Recall of a retrieval.

    Attributes:
        at_1: share of the queries whose partner ranks first, 0..1.
        at_5: share of the queries whose partner ranks among the first five, 0..1.
        chance: expected `at_1` of a random order, 0..1.
    """

    at_1: float
    at_5: float
    chance: float


def retrieval(queries: Floats, candidates: Floats, texts: Sequence[str]) -> Recall:
    """Rank all candidates for each query by cosine similarity.

    Args:
        queries: (M, D) unit-norm.
        candidates: (M, D) unit-norm, the partner of each query in the same row.
        texts: M captions. The partners of equal captions are equally correct.
    """
    similarity = queries @ candidates.T
    same = np.array([[one == other for other in texts] for one in texts])
    partner = np.where(same, similarity, -np.inf).max(axis=1, keepdims=True)
    rank = ((similarity >= partner) & ~same).sum(axis=1)  # ties count against the query
    return Recall(float((rank < 1).mean()), float((rank < 5).mean()), float(same.mean(axis=1).mean()))


@torch.inference_mode()
def dense_scores(clip: Towers, classifier: TextClassifier, images: Pixels, labels: Pixels) -> Scores:
    """Classify pixels without a segmenter: each element of the last feature map is embedded and classified alone.

    Args:
        clip: image tower.
        classifier: text classifier of the K classes.
        images: (M, H, W, 3) uint8 RGB, H and W multiples of 32.
        labels: (M, H, W) uint8 train ids, 0..K-1 or 255.
    """
    num_classes = len(classifier.names_per_class)
    device = classifier.embeddings.device
    matrix = torch.zeros(num_classes + 1, num_classes + 1, dtype=torch.int64)
    for image, label in zip(images, labels, strict=True):
        dense = clip(clip_input(image[None], device))["clip_vis_dense"]
        height, width = dense.shape[-2:]
        # One mask for each element: 1 at the element, -1 elsewhere.
        masks = torch.eye(height * width, device=device).view(1, height * width, height, width) * 2 - 1
        similarity = _class_similarity(F.normalize(clip.embed_masks(dense, masks)[0], dim=-1), classifier)
        scores = similarity.T.reshape(1, num_classes, height, width)
        found = F.interpolate(scores, label.shape, mode="bilinear")[0].argmax(dim=0).cpu()
        matrix += confusion_matrix(found, torch.from_numpy(label).long(), num_classes)
    return score(matrix.numpy())


@dataclass(frozen=True)
class SceneScores:
    """Zero-shot scores on whole scenes.

    Attributes:
        text_of_image: retrieval of the caption of an image.
        image_of_text: retrieval of the image of a caption.
        pixels: segmentation scores of `dense_scores`.
    """

    text_of_image: Recall
    image_of_text: Recall
    pixels: Scores


def measure_scenes(clip: Towers, styles: Sequence[Style], num_scenes: int, seed: int) -> SceneScores:
    """Draw new scenes and measure retrieval, at `VIEW` pixels, and classes of pixels, at full size.

    Args:
        clip: image and text tower.
        styles: styles of the scenes.
        num_scenes: number of scenes.
        seed: seed of the scenes, different from the training's.
    """
    drawn = [draw_scene(styles, seed, index)[0] for index in range(num_scenes)]
    small: Pixels = np.array(
        [cv2.resize(each.image, VIEW[::-1], interpolation=cv2.INTER_AREA) for each in drawn], np.uint8
    )
    captions = [each.caption for each in drawn]
    image_features, text_features = embed(clip, small, captions)
    classifier = clip.text_classifier(CITYSCAPES_CLASSES)
    images, labels = np.stack([each.image for each in drawn]), np.stack([each.label for each in drawn])
    return SceneScores(
        text_of_image=retrieval(image_features, text_features, captions),
        image_of_text=retrieval(text_features, image_features, captions),
        pixels=dense_scores(clip, classifier, images, labels),
    )
