"""Targets of a batch from label maps and from instances, and the canvas of its images."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from clouds.d2 import Instances
from clouds.modeling.preprocessing import normalize_and_pad
from clouds.modeling.structures import (
    ImageDict,
    Target,
    batch_targets,
    instances_from_target,
    targets_from_instances,
    targets_from_label_maps,
)
from tests.parity import golden

CPU = torch.device("cpu")


def instances(label_map: torch.Tensor) -> Instances:
    """Return the classes and masks of a label map as the mapper of earlier versions made them."""
    present = label_map.unique()
    present = present[present != 255].long()
    return instances_from_target(Target(present, label_map == present[:, None, None]))


def random_map(seed: int, h: int, w: int, classes: int = 19) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, classes + 3, (h, w), generator=generator)
    return values.where(values < classes, 255).to(torch.uint8)


def sample(label_map: torch.Tensor, listed: bool = True) -> ImageDict:
    classes = [value for value in label_map.unique().tolist() if value != 255]
    return {"sem_seg": label_map, "sem_seg_classes": classes} if listed else {"sem_seg": label_map}


@given(
    sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    equal=st.booleans(),
    listed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_label_maps_give_the_targets_of_the_instances(
    sizes: list[tuple[int, int]], equal: bool, listed: bool, seed: int
) -> None:
    sizes = sizes[:1] * len(sizes) if equal else sizes
    maps = [random_map(seed + number, *size) for number, size in enumerate(sizes)]
    canvas = max(h for h, _ in sizes), max(w for _, w in sizes) + seed % 3
    expected = targets_from_instances([instances(label_map) for label_map in maps], canvas)
    found = targets_from_label_maps([sample(label_map, listed) for label_map in maps], canvas, CPU)
    for target, other in zip(found, expected, strict=True):
        assert target.labels.dtype == torch.int64 and target.masks.dtype == torch.bool
        assert torch.equal(target.labels, other.labels) and torch.equal(target.masks, other.masks)


def test_maps_without_a_class_have_no_masks() -> None:
    nothing = torch.full((4, 6), 255, dtype=torch.uint8)
    for batch in ([nothing], [nothing, random_map(0, 4, 6)]):
        target, *_ = targets_from_label_maps([sample(label_map) for label_map in batch], (8, 8), CPU)
        assert target.labels.shape == (0,) and target.masks.shape == (0, 8, 8)


def test_instances_take_the_place_of_the_label_map() -> None:
    maps = [random_map(number, 4, 6) for number in range(4)]
    batch: list[ImageDict] = [sample(label_map) for label_map in maps]
    batch[1] = {"instances": instances(maps[1])}
    batch[3]["instances"] = instances(maps[0])
    expected = targets_from_instances([instances(maps[n]) for n in (0, 1, 2, 0)], (4, 8))
    for target, other in zip(batch_targets(batch, (4, 8), CPU), expected, strict=True):
        assert torch.equal(target.labels, other.labels) and torch.equal(target.masks, other.masks)


def test_int64_label_maps_of_other_mappers_are_read() -> None:
    label_map = random_map(0, 4, 6)
    (target,) = batch_targets([{"sem_seg": label_map.long()}], (4, 6), CPU)
    assert torch.equal(target.masks, instances(label_map).gt_masks)


class Operations(TorchDispatchMode):
    """Counts the operations that are executed."""

    def __init__(self) -> None:
        super().__init__()
        self.names = Counter[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[func.overloadpacket._qualified_op_name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def test_one_comparison_makes_the_masks_of_a_batch() -> None:
    batch = [sample(label_map) for label_map in torch.stack([random_map(number, 16, 24) for number in range(8)])]
    with Operations() as operations:
        targets_from_label_maps(batch, (16, 24), CPU)
    assert operations.names["eq"] == 1
    assert not {"stack", "cat", "constant_pad_nd", "_unique2"} & operations.names.keys()


@pytest.mark.parametrize("canvas", [(16, 24), (32, 32)])
def test_images_of_one_size_are_normalized_together(canvas: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (4, 3, 16, 24), dtype=torch.uint8)
    mean, std = torch.tensor([120.0, 110, 100]).view(3, 1, 1), torch.tensor([60.0, 50, 40]).view(3, 1, 1)
    with Operations() as operations:
        together = normalize_and_pad(list(images), mean, std, canvas)
    assert operations.names["sub"] == operations.names["div_"] == 1 and "stack" not in operations.names
    expected = torch.zeros(4, 3, *canvas)
    for number, image in enumerate(images):
        expected[number, :, :16, :24] = (image - mean) / std
    assert torch.equal(together, expected)
    assert torch.equal(normalize_and_pad([image.clone() for image in images], mean, std, canvas), expected)
    assert torch.equal(normalize_and_pad([image.float() for image in images], mean, std, canvas), expected)


def test_images_of_several_sizes_and_types_share_a_canvas() -> None:
    mean, std = torch.tensor([120.0, 110, 100]).view(3, 1, 1), torch.tensor([60.0, 50, 40]).view(3, 1, 1)
    sizes, dtypes = ((8, 8), (6, 8), (8, 8)), (torch.uint8, torch.uint8, torch.float32)
    images = [torch.randint(0, 256, (3, *size)).to(dtype) for size, dtype in zip(sizes, dtypes, strict=True)]
    batch = normalize_and_pad(images, mean, std, (8, 12))
    for padded, image in zip(batch, images, strict=True):
        h, w = image.shape[1:]
        assert torch.equal(padded[:, :h, :w], (image - mean) / std)
        assert not padded[:, h:].any() and not padded[:, :, w:].any()


def test_label_maps_and_instances_give_equal_losses() -> None:
    model = golden.build("convnext_closed").train()
    batch = [{**x, "seed": number} for number, x in enumerate(golden.batch())]
    by_map = []
    for x in batch:
        painted = torch.full(x["instances"].image_size, 255, dtype=torch.uint8)
        for train_id, mask in zip(x["instances"].gt_classes, x["instances"].gt_masks, strict=True):
            painted[mask] = train_id
        by_map.append({key: value for key, value in x.items() if key != "instances"} | sample(painted))
    with torch.no_grad():
        expected, found = model(batch), model(by_map)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
