"""The tables of classes agree with those of Cityscapes."""

import numpy as np
from cityscapesscripts.helpers.labels import labels as official

from clouds.data.classes import (
    CITYSCAPES_CLASSES,
    CITYSCAPES_COLORS,
    CITYSCAPES_ID_TO_TRAIN_ID,
    IGNORE_LABEL,
    lookup_table,
    short_name,
)


def test_names_colors_and_ids_are_those_of_cityscapes() -> None:
    scored = sorted((label for label in official if 0 <= label.trainId < 255), key=lambda label: label.trainId)
    assert [short_name(name) for name in CITYSCAPES_CLASSES] == [label.name for label in scored]
    assert list(CITYSCAPES_COLORS) == [label.color for label in scored]
    assert {label.id: label.trainId for label in scored} == CITYSCAPES_ID_TO_TRAIN_ID


def test_synonyms_do_not_repeat_within_or_between_classes() -> None:
    names = [name for synonyms in CITYSCAPES_CLASSES for name in synonyms.split(",")]
    assert len(names) == len(set(names)) == 60


def test_lookup_table_translates_label_images() -> None:
    table = lookup_table(CITYSCAPES_ID_TO_TRAIN_ID)
    ids = np.array([[7, 33, 0], [26, 34, 255]], dtype=np.uint8)
    assert table[ids].tolist() == [[0, 18, IGNORE_LABEL], [13, IGNORE_LABEL, IGNORE_LABEL]]
    assert table.dtype == np.uint8
