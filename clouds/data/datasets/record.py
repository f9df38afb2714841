"""The record: one image of a data set and its annotations."""

from typing import Any

Record = dict[str, Any]
"""A dict with absolute paths. Unknown keys are passed on to the mapped samples.

* `file_name`: path of the image.
* `image_id`: str, unique in the data set. Outputs for the image are named after it.
* `sem_seg_file_name`: path of the label map. Missing for an image without labels.
* `label_encoding`: `clouds.data.encoding.LabelEncoding` of the label map, or a function that reads it,
  `clouds.data.encoding.LabelReader`. Missing where it holds train ids.
* `is_generated`: True for a generated image, which is trained on with pseudo-labels. Default: False.
* `truth_file_name`: path of the true label map of a generated image (train ids). It only measures pseudo-labels and is
  never trained on.
"""


def is_generated(record: Record) -> bool:
    """Whether a record is a generated image."""
    return bool(record.get("is_generated", False))
