"""Label map -> prompts -> refined targets."""

import numpy as np
import pytest
import torch
from torch import Tensor

from clouds.modeling.inference import best_labels
from clouds.modeling.structures import Target
from clouds.self_training import pseudo_labels
from clouds.self_training.pseudo_labels import PseudoLabel, PseudoLabeller, filled_up, target_from_map
from clouds.self_training.regions import merge_masks
from clouds.self_training.sam import Embedding, Sam

CLASSES = 19


class BoxSam(Sam):
    """Predicts the bounding box of each prompt's points, and records the sizes of the batches it encodes."""

    model_id = "boxes"

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def encode(self, images):
        self.encoded.append(len(images))
        return [Embedding((image.shape[1], image.shape[2]), (image[None].float(),)) for image in images]

    def predict(self, embedding, points) -> Tensor:
        masks = torch.zeros(len(points), *embedding.size, dtype=torch.bool)
        for mask, prompt in zip(masks, points.long(), strict=True):
            (left, top), (right, bottom) = prompt.min(dim=0).values, prompt.max(dim=0).values
            mask[top : bottom + 1, left : right + 1] = True
        return masks


def scores_of(labels: np.ndarray, sure: float = 1.0) -> Tensor:
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), CLASSES).permute(2, 0, 1).float()
    return sure * one_hot + (1 - sure) / CLASSES


def two_fields(height: int = 40, width: int = 60) -> np.ndarray:
    labels = np.zeros((height, width), np.uint8)
    labels[:, width // 2 :] = 7
    return labels


def label(
    *maps: np.ndarray | Tensor, seeds: tuple[int, ...] = (), sam: Sam | None = None, **settings
) -> list[PseudoLabel]:
    """Return the pseudo-labels of black images with the given label maps or scores."""
    labeller = PseudoLabeller(sam, **{"min_area": 50, **settings})
    scores = [scores_of(each) if isinstance(each, np.ndarray) else each for each in maps]
    images = [torch.zeros(3, *each.shape[1:], dtype=torch.uint8) for each in scores]
    labels = [best_labels(each, labeller.threshold) for each in scores]
    return labeller(labels, images, seeds or [1] * len(maps), [f"class {number}" for number in range(CLASSES)])


def refined(*maps: np.ndarray | Tensor, **settings) -> list[Target]:
    return [each.refined for each in label(*maps, **settings)]


def same(a: Target, b: Target) -> bool:
    return torch.equal(a.labels, b.labels) and torch.equal(a.masks, b.masks)


def test_without_sam_the_target_is_the_teachers_map():
    labels = two_fields()
    [found] = label(labels)
    assert found.prompts is None
    assert found.refined.labels.tolist() == [0, 7]
    assert found.refined.masks.shape == (2, 40, 60)
    assert torch.equal(found.refined.masks[1], torch.from_numpy(labels == 7))
    assert torch.equal(found.teacher_map, torch.from_numpy(labels))


def test_pixels_below_the_threshold_have_no_label():
    scores = scores_of(two_fields(), sure=0.5)
    scores[:, :10] = 1.0
    assert best_labels(scores).max() == 7
    found = best_labels(scores, 0.3)
    assert (found[:10] == 255).all() and (found[10:] != 255).all()
    target = target_from_map(found, [0, 7])
    assert target.labels.tolist() == [0, 7]
    assert torch.equal(target.masks.any(dim=0), found != 255)


def test_an_image_without_any_label_has_an_empty_target():
    [target] = refined(torch.ones(CLASSES, 20, 30), sam=BoxSam(), threshold=0.9)
    assert target.labels.shape == (0,) and target.masks.shape == (0, 20, 30)


def test_sam_is_asked_once_for_all_images_and_only_about_large_regions():
    labels = two_fields()
    labels[:3, :3] = 5
    dull = np.full((30, 30), 2, np.uint8)
    sam = BoxSam()
    found = label(labels, dull, labels, sam=sam, min_area=1100)
    targets = [each.refined for each in found]
    assert sam.encoded == [2]
    assert [target.labels.tolist() for target in targets] == [[0, 7], [2], [0, 7]]
    assert targets[1].masks[0].all()  # too small to be refined: the teacher's map is kept
    assert targets[0].masks.sum() < labels.size
    assert found[0].prompts.classes.tolist() == [0, 7] and len(found[1].prompts.points) == 0
    assert found[0].refined.masks.shape == (2, 40, 60)


def test_the_prompts_follow_from_the_seed_of_the_image_alone():
    labels = two_fields()

    def shown(seed: int, *others: int) -> Target:
        seeds = (*others, seed)
        return refined(*[labels] * len(seeds), seeds=seeds, sam=BoxSam())[-1]

    assert same(shown(5), shown(5, 1, 2))
    assert not same(shown(5), shown(6))


def test_a_class_that_lost_every_pixel_to_others_is_left_out():
    class Everything(BoxSam):
        def predict(self, embedding, points):
            return torch.ones(len(points), *embedding.size, dtype=torch.bool)

    [dropped] = refined(two_fields(), sam=Everything())
    [kept] = refined(two_fields(), sam=Everything(), rm_intersection=False)
    assert dropped.labels.tolist() == []
    assert kept.labels.tolist() == [0, 7] and kept.masks.all()


def test_pixels_that_sam_leaves_unlabelled_can_keep_the_teachers_label():
    labels = two_fields()
    labels[:3, :3] = 5  # too small to be refined
    [target] = refined(labels, sam=BoxSam(), keep_teacher=True)
    [bare] = refined(labels, sam=BoxSam())
    assert not bare.masks.any(dim=0).all()
    assert target.labels.tolist() == [0, 5, 7]
    assert (target.masks.sum(dim=0) == 1).all()
    assert (target.masks[[0, 2]] >= bare.masks).all()  # SAM's masks come first
    assert (
        target.masks.long().argmax(dim=0)[~bare.masks.any(dim=0)]
        == torch.from_numpy(labels // 3)[~bare.masks.any(dim=0)]
    ).all()


def test_settings_out_of_range_are_told():
    with pytest.raises(ValueError, match=r"^threshold is 1\.5"):
        PseudoLabeller(None, threshold=1.5)
    with pytest.raises(ValueError, match=r"^selection_mode is 'centre'"):
        PseudoLabeller(None, selection_mode="centre")


def test_masks_and_targets_do_not_make_the_host_wait():
    """On the meta device, an operation whose result has to be known on the host is an error."""
    masks, labels = torch.zeros(3, 4, 6, dtype=torch.bool, device="meta"), torch.zeros(4, 6, device="meta").byte()
    for rm_intersection in (True, False):
        target = merge_masks(masks, [5, 0, 5], rm_intersection=rm_intersection)
        assert (target.labels.shape, target.masks.shape) == ((2,), (2, 4, 6))
    assert filled_up(target, [0, 5], labels, [0, 1]).masks.shape == (3, 4, 6)


def test_label_maps_are_fetched_together_and_so_are_the_empty_masks(monkeypatch):
    fetched = []
    download = pseudo_labels.download
    monkeypatch.setattr(pseudo_labels, "download", lambda tensors: fetched.append(len(tensors)) or download(tensors))
    label(*[two_fields()] * 3, sam=BoxSam())
    assert fetched == [3, 3]
