"""From queries to semantic scores and label maps, in bounded memory. Student and teacher both use it."""

from clouds.modeling.inference.augmentation import SCALES, augmented_scores
from clouds.modeling.inference.batch import image_labels, image_scores
from clouds.modeling.inference.labels import label_map
from clouds.modeling.inference.scores import best_labels, class_shares, resize_scores, semantic_scores

__all__ = [
    "SCALES",
    "augmented_scores",
    "best_labels",
    "class_shares",
    "image_labels",
    "image_scores",
    "label_map",
    "resize_scores",
    "semantic_scores",
]
