"""From queries to semantic scores and label maps, in bounded memory. Student and teacher both use it."""

from clouds.modeling.inference.batch import image_labels, image_scores
from clouds.modeling.inference.labels import label_map, labels_of_scores, resized_strips
from clouds.modeling.inference.passes import Passes, averaged_scores, build_passes, window_corners
from clouds.modeling.inference.scores import best_labels, class_shares, resize_scores, semantic_scores

__all__ = [
    "Passes",
    "averaged_scores",
    "best_labels",
    "build_passes",
    "class_shares",
    "image_labels",
    "image_scores",
    "label_map",
    "labels_of_scores",
    "resize_scores",
    "resized_strips",
    "semantic_scores",
    "window_corners",
]
