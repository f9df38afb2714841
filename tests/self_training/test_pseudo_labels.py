"""Scores -> label map -> refined targets, and the way through the whole model."""

import numpy as np
import pytest
import torch
from torch import Tensor

from clouds.errors import UserError
from clouds.modeling.structures import Target
from clouds.self_training.pseudo_labels import PseudoLabeller, label_map, target_from_map
from clouds.self_training.sam import Embedding, Sam
from clouds.self_training.teacher import Teacher
from tests.parity import golden

CLASSES = 19


class BoxSam(Sam):
    """Answers every prompt with the box around its points, and remembers what it was shown."""

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


def sample(labels: np.ndarray, seed: int = 1) -> dict:
    return {"image": torch.zeros(3, *labels.shape, dtype=torch.uint8), "seed": seed, "is_generated": True}


def labeller(sam: Sam | None = None, **settings) -> PseudoLabeller:
    return PseudoLabeller(Teacher(0.9), sam, **{"min_area": 50, **settings})


def same(a: Target, b: Target) -> bool:
    return torch.equal(a.labels, b.labels) and torch.equal(a.masks, b.masks)


def test_without_sam_the_target_is_the_teachers_map_padded_to_the_canvas():
    labels = two_fields()
    [target] = labeller()([scores_of(labels)], [sample(labels)], (64, 96))
    assert target.labels.tolist() == [0, 7]
    assert target.masks.shape == (2, 64, 96)
    assert torch.equal(target.masks[1, :40, :60], torch.from_numpy(labels == 7))
    assert not target.masks[:, 40:].any() and not target.masks[:, :, 60:].any()


def test_pixels_below_the_threshold_have_no_label():
    scores = scores_of(two_fields(), sure=0.5)
    scores[:, :10] = 1.0
    assert label_map(scores).max() == 7
    found = label_map(scores, 0.3)
    assert (found[:10] == 255).all() and (found[10:] != 255).all()
    assert target_from_map(found).labels.tolist() == [0, 7]


def test_an_image_without_any_label_has_an_empty_target():
    nothing = torch.zeros(CLASSES, 20, 30)
    flat = labeller(BoxSam(), threshold=0.9)([nothing + 1], [sample(np.zeros((20, 30)))], (32, 32))[0]
    assert flat.labels.shape == (0,) and flat.masks.shape == (0, 32, 32)


def test_sam_is_asked_once_for_all_images_and_only_about_large_regions():
    labels = two_fields()
    labels[:3, :3] = 5
    dull = np.full((30, 30), 2, np.uint8)
    sam = BoxSam()
    run = labeller(sam, min_area=1100)
    targets = run(
        [scores_of(labels), scores_of(dull), scores_of(labels)],
        [sample(labels), sample(dull), sample(labels)],
        (64, 64),
    )
    assert sam.encoded == [2]
    assert [target.labels.tolist() for target in targets] == [[0, 7], [2], [0, 7]]
    assert targets[1].masks[0, :30, :30].all()  # too small to ask about: the raw map stays
    assert targets[0].masks.sum() < labels.size
    assert run.latest[0].prompts.classes.tolist() == [0, 7] and len(run.latest[1].prompts.points) == 0
    assert run.latest[0].refined.masks.shape == (2, 40, 60)


def test_the_prompts_follow_from_the_seed_of_the_image_alone():
    labels = two_fields()

    def shown(seed: int, *others: int) -> Target:
        seeds = [*others, seed]
        run = labeller(BoxSam())
        return run([scores_of(labels)] * len(seeds), [sample(labels, s) for s in seeds], (64, 64))[-1]

    assert same(shown(5), shown(5, 1, 2))
    assert not same(shown(5), shown(6))


def test_a_class_that_lost_every_pixel_to_others_is_left_out():
    class Everything(BoxSam):
        def predict(self, embedding, points):
            return torch.ones(len(points), *embedding.size, dtype=torch.bool)

    labels = two_fields()
    [dropped] = labeller(Everything())([scores_of(labels)], [sample(labels)], (64, 64))
    [kept] = labeller(Everything(), rm_intersection=False)([scores_of(labels)], [sample(labels)], (64, 64))
    assert dropped.labels.tolist() == []
    assert kept.labels.tolist() == [0, 7] and kept.masks[:, :40, :60].all()


def test_what_sam_leaves_open_can_keep_the_teachers_label():
    labels = two_fields()
    labels[:3, :3] = 5  # too small to ask about
    [target] = labeller(BoxSam(), keep_teacher=True)([scores_of(labels)], [sample(labels)], (40, 60))
    [bare] = labeller(BoxSam())([scores_of(labels)], [sample(labels)], (40, 60))
    assert not bare.masks.any(dim=0).all()
    assert target.labels.tolist() == [0, 5, 7]
    assert (target.masks.sum(dim=0) == 1).all()
    assert (target.masks[[0, 2]] >= bare.masks).all()  # SAM's word goes first
    assert (
        target.masks.long().argmax(dim=0)[~bare.masks.any(dim=0)]
        == torch.from_numpy(labels // 3)[~bare.masks.any(dim=0)]
    ).all()


def test_settings_out_of_range_are_told():
    with pytest.raises(UserError, match="PL_THRESHOLD is"):
        labeller(threshold=1.5)
    with pytest.raises(UserError, match="SELECTION_MODE"):
        labeller(selection_mode="centre")


def generated(inputs: list[dict], *which: int) -> list[dict]:
    for number in which:
        x = inputs[number]
        del x["instances"]
        x |= {"is_generated": True, "image_clean": x["image"].clone(), "seed": number}
        x["height"], x["width"] = x["image"].shape[1:]
        x["image"] = x["image"] // 2
    return inputs


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1), ()], ids=str)
@pytest.mark.parametrize("case", ["convnext_closed", "convnext_text"])
def test_batches_with_any_share_of_generated_images_train(case, which):
    model = golden.build(case).train()
    teacher = Teacher(0.9)
    teacher.start(model.sem_seg_head)
    sam = BoxSam()
    model.pseudo_labeller = PseudoLabeller(teacher, sam, min_area=20)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = model(generated(golden.batch(), *which))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert len(model.pseudo_labeller.latest) == len(which)
    assert all(p.grad is None for p in teacher.head.parameters())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_teacher_sees_the_clean_view_at_the_size_of_the_image():
    model = golden.build("convnext_closed").train()
    teacher = Teacher(0.9)
    teacher.start(model.sem_seg_head)
    model.pseudo_labeller = PseudoLabeller(teacher, None)
    inputs = generated(golden.batch(), 0)  # the larger one, so that its canvas is that of the batch
    clean = inputs[0]["image_clean"]
    with torch.no_grad():
        model(inputs)
        [label] = model.pseudo_labeller.latest
        [alone] = model.eval()([{"image": clean}])
    assert torch.equal(label.image, clean)
    assert label.teacher_map.shape == clean.shape[1:]
    assert (label.teacher_map == alone["sem_seg"].argmax(dim=0)).float().mean() > 0.99


def test_the_teachers_look_leaves_a_trained_tower_as_it_is():
    model = golden.build("rn_closed", "MODEL.BACKBONE.NAME", "TrainableCLIP").train()
    teacher = Teacher(0.9)
    teacher.start(model.sem_seg_head)
    model.pseudo_labeller = PseudoLabeller(teacher, None)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.pseudo_targets(generated(golden.batch(), 0)[:1], {}, (96, 128))
    assert model.backbone.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_backbone_runs_once_where_both_views_are_one(monkeypatch):
    model = golden.build("convnext_closed").train()
    teacher = Teacher(0.9)
    teacher.start(model.sem_seg_head)
    model.pseudo_labeller = PseudoLabeller(teacher, None)
    calls = []
    forward = type(model.backbone).forward
    monkeypatch.setattr(type(model.backbone), "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    maps = []
    for shared in (False, True):
        inputs = golden.batch()
        inputs[0] |= {"is_generated": True, "height": 96, "width": 128}
        if not shared:
            inputs[0]["image_clean"] = inputs[0]["image"].clone()
        with torch.no_grad():
            model(inputs)
        maps.append(model.pseudo_labeller.latest[0].teacher_map)
    assert calls == [2, 1, 2]
    assert (maps[0] == maps[1]).float().mean() > 0.99


def test_a_pseudo_label_equal_to_the_truth_gives_the_loss_of_the_truth():
    model = golden.build("convnext_closed").train()
    inputs = golden.batch()
    for number, x in enumerate(inputs):
        x["seed"] = number
    with torch.no_grad():
        expected = model(inputs)
    truth = inputs[1]["instances"]

    class Oracle(PseudoLabeller):
        def __call__(self, scores, inputs, canvas):
            pad = (0, canvas[1] - truth.gt_masks.shape[2], 0, canvas[0] - truth.gt_masks.shape[1])
            return [Target(truth.gt_classes, torch.nn.functional.pad(truth.gt_masks, pad))]

    teacher = Teacher(0.9)
    teacher.start(model.sem_seg_head)
    model.pseudo_labeller = Oracle(teacher, None)
    inputs[1] = {**inputs[1], "is_generated": True}
    with torch.no_grad():
        found = model(inputs)
    torch.testing.assert_close(found, expected)


def test_generated_images_without_self_training_are_told():
    model = golden.build("convnext_closed").train()
    with pytest.raises(UserError, match="MINIBATCH True"):
        model(generated(golden.batch(), 0))
