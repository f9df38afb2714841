"""The labelling stage with a real model: input of the teacher, entries of the labelled batch, and training on it."""

import pytest
import torch

from clouds.clouds import CLOUDS
from clouds.modeling.inference import image_labels
from clouds.modeling.structures import Target
from clouds.self_training import labelling
from clouds.self_training.labelling import depends_on_the_last_step, label_batch
from clouds.self_training.pseudo_labels import PseudoLabel, PseudoLabeller
from clouds.self_training.teacher import Teacher
from tests.parity import golden
from tests.self_training.test_pseudo_labels import BoxSam


def generated(*which: int, jitter: bool = True) -> list[dict]:
    """Return the golden batch with the given images generated; with jitter, their student views are darker."""
    batch = golden.batch()
    for number in which:
        x = batch[number]
        del x["instances"]
        x |= {"is_generated": True, "seed": number}
        if jitter:
            x["image_clean"], x["image"] = x["image"], x["image"] // 2
    return batch


def student(case: str, *opts: object) -> tuple[CLOUDS, Teacher]:
    model = golden.build(case, *opts).train()
    teacher = Teacher(0.9)
    teacher.start(model)
    return model, teacher


def snapshot(model: CLOUDS) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def unchanged(model: CLOUDS, before: dict[str, torch.Tensor]) -> bool:
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(value, before[key]) for key, value in after.items())


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1), ()], ids=str)
@pytest.mark.parametrize("case", ["convnext_closed", "convnext_text"])
def test_batches_with_any_share_of_generated_images_train(case, which):
    model, teacher = student(case)
    before, batch = snapshot(model), generated(*which)
    keys = [set(x) for x in batch]
    labelled, labels = label_batch(batch, model, teacher, PseudoLabeller(BoxSam(), min_area=20))
    assert [set(x) for x in batch] == keys, "the batch of the loader stays as it is"
    assert len(labels) == len(which)
    for number, x in enumerate(labelled):
        assert x["canvas"] == (96, 128)
        assert x["instances"].image_size == tuple(x["image"].shape[1:])
        assert x["instances"].gt_masks.shape == (len(x["instances"].gt_classes), *x["image"].shape[1:])
        assert "features" not in x
        if number not in which:
            assert x["instances"] is batch[number]["instances"]
    losses = model(labelled)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(p.grad is None for p in teacher.model.sem_seg_head.parameters())
    assert unchanged(model, before)


def test_the_teacher_sees_the_clean_view_at_the_size_of_the_image():
    model, teacher = student("convnext_closed")
    batch = generated(0)  # the larger image, whose canvas is that of the batch
    batch[0]["truth"] = torch.zeros(96, 128, dtype=torch.uint8)
    _, [label] = label_batch(batch, model, teacher, PseudoLabeller(None))
    clean = batch[0]["image_clean"]
    with torch.no_grad():
        [alone] = model.eval()([{"image": clean}])
    assert torch.equal(label.image, clean)
    assert label.truth is batch[0]["truth"]
    assert label.teacher_map.shape == clean.shape[1:]
    assert torch.equal(label.teacher_map, alone["sem_seg"].argmax(dim=0).to(torch.uint8))


def test_clip_can_take_part_in_the_teachers_classes():
    model, teacher = student("convnext_text")
    plain, ensemble = (
        label_batch(generated(0), model, teacher, PseudoLabeller(None), geometric_ensemble=wanted)[1][0].teacher_map
        for wanted in (False, True)
    )
    model.eval().geometric_ensemble = True
    with torch.no_grad():
        [expected] = model([{"image": generated(0)[0]["image_clean"]}])
    assert torch.equal(ensemble, expected["sem_seg"].argmax(dim=0).to(torch.uint8))
    assert not torch.equal(plain, ensemble)


@pytest.mark.parametrize("jitter", [False, True])
def test_labelling_leaves_a_trained_tower_as_it_is(jitter):
    model, teacher = student("rn_closed", "MODEL.BACKBONE.NAME", "TrainableCLIP")
    before = snapshot(model)
    labelled, _ = label_batch(generated(0, jitter=jitter), model, teacher, PseudoLabeller(None))
    assert model.backbone.training
    assert "features" not in labelled[0], "the student needs its own, with a gradient"
    assert unchanged(model, before)


@pytest.mark.parametrize("case", ["rn_closed", "convnext_text"])
def test_with_a_trained_tower_all_that_labelling_reads_is_the_teachers(case, monkeypatch):
    model, teacher = student(case, "MODEL.BACKBONE.NAME", "TrainableCLIP")
    seen = []

    def scores() -> torch.Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(labelling, "image_labels", lambda *args: seen.append(args[0]) or image_labels(*args))
            ensemble = case == "convnext_text"
            label_batch(generated(0), model, teacher, PseudoLabeller(None), geometric_ensemble=ensemble)
        return seen[-1].class_logits

    assert not depends_on_the_last_step(model)
    before = scores()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    assert torch.equal(scores(), before)
    teacher.update(model)
    assert not torch.equal(scores(), before)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    frozen = {p.data_ptr() for p in model.backbone.parameters() if id(p) not in trained}
    copied = {p.data_ptr() for p in teacher.model.parameters()}
    assert len(copied & frozen) == len(frozen) > 0, "shared"
    assert not copied & {p.data_ptr() for p in model.parameters() if id(p) in trained}


def test_labels_depend_on_the_last_step_by_the_students_own_embedding_only():
    assert not depends_on_the_last_step(student("convnext_closed")[0])
    assert depends_on_the_last_step(student("convnext_text")[0])


def test_the_backbone_runs_once_where_both_views_are_one(monkeypatch):
    model, teacher = student("convnext_closed")
    calls = []
    forward = type(model.backbone).forward
    monkeypatch.setattr(type(model.backbone), "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    twice, [apart] = label_batch(generated(0), model, teacher, PseudoLabeller(None))
    with torch.no_grad():
        model(twice)
    assert calls == [1, 2], "the clean view, then the student's views"
    calls.clear()
    once, [shared] = label_batch(generated(0, jitter=False), model, teacher, PseudoLabeller(None))
    for number, x in enumerate(once):
        x["seed"] = number
    with torch.no_grad():
        losses = model(once)
        assert calls == [2]
        without = model([{key: value for key, value in x.items() if key != "features"} for x in once])
    assert losses == without
    assert (apart.teacher_map == shared.teacher_map).float().mean() > 0.99


def test_a_pseudo_label_equal_to_the_truth_gives_the_loss_of_the_truth():
    class Oracle(PseudoLabeller):
        def __call__(self, maps, images, seeds, class_names):
            return [PseudoLabel(images[0], label_map, None, Target(truth.gt_classes, truth.gt_masks))]

    model, teacher = student("convnext_closed")
    batch = golden.batch()
    for number, x in enumerate(batch):
        x["seed"] = number
    truth = batch[1]["instances"]
    label_map = torch.zeros(batch[1]["image"].shape[1:], dtype=torch.uint8)
    with torch.no_grad():
        expected = model(batch)
        labelled, _ = label_batch(generated(1, jitter=False), model, teacher, Oracle(None))
        for number, x in enumerate(labelled):
            x["seed"] = number
        found = model(labelled)
    torch.testing.assert_close(found, expected)


def test_images_without_labels_are_refused_before_the_backbone_runs(monkeypatch):
    model = golden.build("convnext_closed").train()
    monkeypatch.setattr(type(model.backbone), "forward", lambda *_: pytest.fail("the backbone ran"))
    with pytest.raises(ValueError, match=r"^batched_inputs has images without sem_seg or instances"):
        model(generated(0))


def test_the_canvas_of_the_batch_is_taken_as_it_is(monkeypatch):
    model = golden.build("convnext_closed").train()
    seen = []
    forward = type(model.backbone).forward
    monkeypatch.setattr(type(model.backbone), "forward", lambda self, x: seen.append(x.shape) or forward(self, x))
    with torch.no_grad():
        model(golden.batch())
        model([{**x, "canvas": (128, 160)} for x in golden.batch()])
    assert seen == [(2, 3, 96, 128), (2, 3, 128, 160)]
