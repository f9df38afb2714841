"""The counts, compared with loops over pixels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clouds.engine.hooks.label_counts import FATES, count, fates, no_counts, painted, scalars, total
from clouds.modeling.structures import Target
from clouds.self_training.pseudo_labels import PseudoLabel

C = 3
CLASSES = ("road,street", "grass", "sky")
IDS = st.sampled_from([0, 1, 2, 255])
SIZE = (3, 4)


@st.composite
def pseudo_labels(draw: st.DrawFn) -> PseudoLabel:
    """Draw a pseudo-label whose masks may overlap, be empty, and lie on a canvas larger than the image."""
    classes = sorted(draw(st.sets(st.integers(0, C - 1))))
    masks = draw(arrays.arrays(bool, (len(classes), 4, 6)))
    truth = draw(st.none() | arrays.arrays(np.uint8, SIZE, elements=IDS))
    return PseudoLabel(
        image=torch.zeros(3, *SIZE, dtype=torch.uint8),
        teacher_map=torch.from_numpy(draw(arrays.arrays(np.uint8, SIZE, elements=IDS))),
        prompts=None,
        refined=Target(torch.tensor(classes, dtype=torch.long), torch.from_numpy(masks)),
        truth=None if truth is None else torch.from_numpy(truth),
    )


def masks_at(label: PseudoLabel, row: int, column: int) -> list[int]:
    """Return the classes whose masks cover a pixel."""
    pairs = zip(label.refined.labels.tolist(), label.refined.masks, strict=True)
    return [k for k, mask in pairs if mask[row, column]]


@settings(max_examples=40)
@given(pseudo_labels())
def test_fates(label: PseudoLabel) -> None:
    wanted = torch.zeros(C, len(FATES), dtype=torch.int64)
    for row, column in np.ndindex(*SIZE):
        k, over = int(label.teacher_map[row, column]), masks_at(label, row, column)
        if k != 255:
            wanted[k, FATES.index("kept" if k in over else "changed" if over else "dropped")] += 1
    assert torch.equal(fates(label.teacher_map, label.refined, C), wanted)


@settings(max_examples=40)
@given(pseudo_labels())
def test_confusion_before_and_after(label: PseudoLabel) -> None:
    counts = count(label, C)
    after = painted(label.refined, SIZE)
    for row, column in np.ndindex(*SIZE):
        assert int(after[row, column]) == max(masks_at(label, row, column), default=255)
    if label.truth is None:
        assert counts.keys() == {"fates"}
        return
    for name, labels in (("teacher", label.teacher_map), ("refined", after)):
        wanted = torch.zeros(C + 2, C + 2, dtype=torch.int64)
        for said, true in zip(labels.flatten().tolist(), label.truth.flatten().tolist(), strict=True):
            wanted[C if said == 255 else said, C + 1 if true == 255 else true] += 1
        assert torch.equal(counts[name], wanted)


@settings(max_examples=40)
@given(st.lists(pseudo_labels(), max_size=4), st.integers(0, 4))
def test_counts_add_up_in_any_share(labels: list[PseudoLabel], cut: int) -> None:
    def counted(part: list[PseudoLabel]) -> dict[str, torch.Tensor]:
        return total([no_counts(C), *(count(label, C) for label in part)])

    alone, shared = counted(labels), total([counted(labels[:cut]), counted(labels[cut:])])
    assert alone.keys() == shared.keys() == no_counts(C).keys()
    assert all(torch.equal(alone[name], shared[name]) for name in alone)
    values = scalars(alone, CLASSES, refines=True)
    assert all(0 <= value <= 100 for value in values.values())
    assert not any(math.isnan(value) for value in values.values())
    if alone["fates"].any():
        assert values["kept"] + values["changed"] + values["dropped"] == pytest.approx(100)


def test_scalars_of_a_known_case() -> None:
    teacher = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 255]], dtype=torch.uint8)
    masks = torch.zeros(2, 2, 4, dtype=torch.bool)
    masks[0, 0, :2] = True  # half of the road is kept,
    masks[1, 0, 2] = True  # a quarter becomes sky, the rest is dropped
    label = PseudoLabel(
        image=torch.zeros(3, 2, 4, dtype=torch.uint8),
        teacher_map=teacher,
        prompts=None,
        refined=Target(torch.tensor([0, 2]), masks),
        truth=torch.tensor([[0, 0, 2, 2], [1, 1, 255, 0]], dtype=torch.uint8),
    )
    counts = total([no_counts(C), count(label, C), {"agreement": torch.tensor([3, 7])}])
    values = scalars(counts, CLASSES, refines=True)
    overall = {"kept": 200 / 7, "changed": 100 / 7, "dropped": 400 / 7, "agreement": 300 / 7}
    road = {"kept-road": 50, "changed-road": 25, "dropped-road": 25}
    grass = {"kept-grass": 0, "changed-grass": 0, "dropped-grass": 100}
    # Road 2 of 5, grass 2 of 2, sky 0 of 2: a pixel without truth does not count, one without label does. After SAM:
    # road 2 of 3, grass 0 of 2, sky 1 of 2.
    scores = {"mIoU_teacher": 100 * (2 / 5 + 1 + 0) / 3, "mIoU_refined": 100 * (2 / 3 + 0 + 1 / 2) / 3}
    assert values == pytest.approx(overall | road | grass | scores)
    without = scalars(counts, CLASSES, refines=False)
    assert without == {name: values[name] for name in ("agreement", "mIoU_teacher")}
    assert scalars(no_counts(C), CLASSES, refines=True) == {}


def test_the_host_waits_for_no_count() -> None:
    """On the meta device, an operation whose result has to be known on the host is an error."""
    with torch.device("meta"):
        label = PseudoLabel(
            image=torch.zeros(3, *SIZE, dtype=torch.uint8),
            teacher_map=torch.zeros(SIZE, dtype=torch.uint8),
            prompts=None,
            refined=Target(torch.zeros(2, dtype=torch.long), torch.zeros(2, 4, 6, dtype=torch.bool)),
        )
        counts = total([no_counts(C, "meta"), count(label, C)])
        assert painted(label.refined, SIZE).shape == SIZE
    assert counts["fates"].shape == (C, len(FATES))
