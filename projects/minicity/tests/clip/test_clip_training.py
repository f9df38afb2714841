"""Losses, views, training and command of the miniature CLIP."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from minicity.clip import run, training
from minicity.clip.distillation import StudentMaps
from minicity.clip.evaluation import predict_classes
from minicity.clip.losses import contrastive_loss, naming_loss
from minicity.clip.pool import STORED_SIZE, CaptionedImages, draw_scenes_and_crops
from minicity.clip.regions import VIEW, RegionReader, random_view
from minicity.clip.training import ClipObjective, ClipTraining, initialize_text_tower, train_clip, trim_kernels
from minicity.paths import PROJECT
from minicity.training.images import augment
from minicity.training.towers import ViTClip
from minicity.world.styles import STYLES
from minicity.world.wide import WIDE_STYLES
from torch import nn
from torch.nn import functional as F

from clouds.errors import UserError
from clouds.modeling.backbone.clip import CLIP
from clouds.modeling.backbone.open_clip_models import load_open_clip
from clouds.modeling.text_classifier import TextClassifier
from tests.commands import script

command = script("projects/minicity/tools/train_clip.py")

TOWERS = {
    "convnext": {"timm_model_name": "test_convnext2", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64},
}
VIT = {
    "architecture": "vit_small_patch16_dinov3",
    "model_args": {"embed_dim": 32, "depth": 4, "num_heads": 1, "num_classes": 0, "global_pool": "avg"},
    "pretrained_cfg": {"input_size": [3, 64, 64]},
}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}


def write_config(folder, name, vision):
    file = folder / f"tiny_{name}.json"
    file.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}))
    return file


@pytest.fixture(params=TOWERS)
def tiny_config(tmp_path, request):
    return write_config(tmp_path, request.param, TOWERS[request.param])


@pytest.fixture
def tiny_vit(tmp_path):
    folder = tmp_path / "architecture"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(VIT))
    vision = {"timm_model_name": f"local-dir:{folder}", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
    return write_config(tmp_path, "vit", vision)


def features(count=6):
    generator = torch.Generator().manual_seed(0)
    return [F.normalize(torch.randn(count, 8, generator=generator), dim=1) for _ in range(2)]


def test_contrastive_loss_equals_open_clips_if_all_captions_differ():
    image, text = features()
    ours = contrastive_loss(image, text, torch.tensor(7.0), torch.eye(6, dtype=torch.bool))
    assert torch.allclose(ours, open_clip.loss.ClipLoss()(image, text, torch.tensor(7.0)))


def test_naming_loss_equals_cross_entropy_if_each_image_has_one_name():
    image, text = features()
    one = torch.tensor([2, 0, 1, 5, 4, 3])
    ours = naming_loss(image, text, torch.tensor(7.0), F.one_hot(one).bool())
    assert torch.allclose(ours, F.cross_entropy(7 * image @ text.T, one))


def test_naming_loss_needs_only_one_of_the_names():
    image, text = features()
    right = torch.zeros(6, 6, dtype=torch.bool)
    right[:, :2] = True
    certain = naming_loss(text[:1], text, torch.tensor(1000.0), right[:1])
    assert certain < 1e-6  # although the second name has no probability
    assert naming_loss(image, text, torch.tensor(7.0), right) > 0.1


@pytest.mark.parametrize("size", [32, 64, 96])
def test_trimmed_kernels_change_no_output_gradient_or_key(size):
    tower = timm.create_model("test_convnext2", num_classes=5).eval()
    images = torch.randn(2, 3, size, size)
    before, keys = tower(images), list(tower.state_dict())
    sum(tower(images)).sum().backward()
    gradients = [p.grad.clone() for p in tower.parameters()]
    tower.zero_grad()
    trim_kernels(tower)
    after = tower(images)
    after.sum().backward()
    assert [type(module).__name__ for module in tower.modules()].count("_CroppedConv2d") > 0
    assert list(tower.state_dict()) == keys
    torch.testing.assert_close(after, before)
    for ours, expected in zip((p.grad for p in tower.parameters()), gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


def test_equal_captions_are_no_negatives():
    image, text = features()
    text[1] = text[0]
    same = torch.eye(6, dtype=torch.bool)
    strict = contrastive_loss(image, text, torch.tensor(50.0), same)
    same[0, 1] = same[1, 0] = True
    image[0] = image[1] = text[0]  # both images match their common caption
    assert contrastive_loss(image, text, torch.tensor(50.0), same) < strict
    rows = contrastive_loss(image[:2], text[:2], torch.tensor(50.0), same[:2, :2])
    assert torch.isclose(rows, torch.tensor(2.0).log())


def test_drawn_scenes_follow_from_their_index():
    scenes, crops = draw_scenes_and_crops(WIDE_STYLES, 3, range(1, 3), 4)
    again, _ = draw_scenes_and_crops(WIDE_STYLES, 3, range(2, 3), 4)
    assert scenes.images.shape == (2, 160, 320, 3)
    assert crops.images.shape[1:] == (64, 64, 3)
    assert scenes.scenes.tolist() == [1, 2] and set(crops.scenes) == {1, 2}
    left, top, right, bottom = crops.boxes.T
    assert ((left >= 0) & (left < right) & (right <= 512) & (top >= 0) & (top < bottom) & (bottom <= 256)).all()
    assert scenes.captions[1] == again.captions[0]
    assert (scenes.images[1] == again.images[0]).all()


@pytest.mark.parametrize("seed", range(8))
def test_boxes_move_with_the_view(seed):
    rng = np.random.default_rng(seed)
    corners = rng.integers([[60, 40]], [[300, 130]], (6, 2))
    boxes = np.concatenate([corners, corners + rng.integers(24, 120, (6, 2))], axis=1)
    images = np.zeros((6, *STORED_SIZE, 3), np.uint8)
    for image, (x0, y0, x1, y1) in zip(images, (boxes * 0.625).astype(int), strict=True):
        image[y0:y1, x0:x1] = 255
    seen, found, inside = random_view(images, np.arange(6), boxes, rng)
    assert seen.shape == (6, *VIEW, 3)
    assert inside.any()
    for number, x0, y0, x1, y1 in found[inside]:
        canvas = np.zeros(VIEW, bool)
        canvas[max(round(y0), 0) : round(y1), max(round(x0), 0) : round(x1)] = True
        white = seen[int(number), :, :, 0] > 127
        assert (canvas & white).sum() / (canvas | white).sum() > 0.75


def test_the_region_reader_reads_inside_the_box():
    reader = RegionReader([4], 8)
    maps = torch.zeros(2, 4, 32, 64)
    maps[1, 0, 8:16, 16:32] = 1.0
    boxes = torch.tensor([[1.0, 64, 32, 128, 64], [1.0, 128, 64, 192, 96], [0.0, 64, 32, 128, 64]])
    full, empty, other = reader([maps], boxes)
    assert torch.allclose(empty, other)
    assert (full @ empty) < 0.999
    assert torch.allclose(full.norm(), torch.tensor(1.0))


def noise(box):
    """Return four random scenes and three crops of each, all from the same box."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
    captions = [f"a photo of number {number % 7}" for number in range(12)]
    crops = CaptionedImages(images, captions, np.zeros(12, np.uint8), np.arange(12) // 3, np.tile(box, (12, 1)))
    streets = rng.integers(0, 256, (4, *STORED_SIZE, 3), dtype=np.uint8)
    scenes = CaptionedImages(streets, captions[:4], np.full(4, 255, np.uint8), np.arange(4), np.zeros((4, 4), np.int64))
    return scenes, crops


def test_a_view_without_a_box_has_a_finite_loss(tiny_config, monkeypatch):
    views = []

    def noted(*args):
        views.append(random_view(*args))
        return views[-1]

    monkeypatch.setattr(training, "random_view", noted)
    model = load_open_clip(str(tiny_config))
    settings = ClipTraining(steps=1, batch_size=6, shares=(1, 0, 0))
    objective = ClipObjective(model, open_clip.get_tokenizer(tiny_config.stem), *noise([0, 0, 8, 8]), settings)
    assert all(objective.loss(step).isfinite() for step in range(6))
    assert {bool(inside.any()) for _, _, inside in views} == {True, False}


def test_an_interrupted_training_ends_with_the_same_weights(tiny_config, tmp_path, monkeypatch):
    scenes, crops = noise([100, 60, 200, 160])
    settings = ClipTraining(steps=4, batch_size=6, warmup=2, save_every=1)

    def trained(file):
        torch.manual_seed(0)
        model = load_open_clip(str(tiny_config))
        train_clip(model, open_clip.get_tokenizer(tiny_config.stem), scenes, crops, settings, file)
        return model.state_dict()

    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return augment(*args)

    straight = trained(tmp_path / "a.pt")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "augment", interrupted)
        trained(tmp_path / "b.pt")
    resumed = trained(tmp_path / "b.pt")
    assert all(straight[name].equal(resumed[name]) for name in straight)
    settings = ClipTraining(steps=5, batch_size=6, warmup=2, save_every=1)  # which changes the cosine
    with pytest.raises(UserError, match="steps is 4 instead of 5"):
        trained(tmp_path / "b.pt")


def test_the_command_writes_a_folder_that_open_clip_loads(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "TEST_SCENES", 1)
    flags = ["--model-config", str(tiny_config), "--scenes", "2", "--crops", "6", "--batch-size", "4", "--workers", "1"]
    folder = tmp_path / "clip"
    assert command.main(["--output", str(folder), "--cache", str(tmp_path / "cache"), "--steps", "2", *flags]) == 0
    model = load_open_clip(str(folder))
    assert model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 16)
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert "--scenes 2 --crops 6 --steps 2 --batch-size 4" in card.text
    for name in STYLES:
        assert card.text.count(f"\n| {name} |") == 3


def test_with_a_vit_the_command_writes_a_folder_that_timm_loads(tiny_vit, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "TEST_SCENES", 1)
    flags = ["--model-config", str(tiny_vit), "--scenes", "2", "--crops", "6", "--batch-size", "4", "--workers", "1"]
    folder = tmp_path / "vit"
    teacher = load_open_clip(str(write_config(tmp_path, "resnet", TOWERS["resnet"])))
    run.write_folder(teacher, tmp_path / "tiny_resnet.json", tmp_path / "teacher")
    flags += ["--cache", str(tmp_path / "cache"), "--steps", "2", "--bfloat16", "--teacher", str(tmp_path / "teacher")]
    assert command.main(["--output", str(folder), *flags]) == 0
    tower = timm.create_model(f"local-dir:{folder}", pretrained=True)
    trained = torch.load(tmp_path / "cache/tiny_vit.pt")["modules"]
    for name, value in tower.state_dict().items():
        assert value.equal(trained[f"model.visual.trunk.{name}"].half().float())
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "timm"
    assert "--batch-size 4 --bfloat16 --teacher" in card.text
    assert f"* Teacher: `{tmp_path / 'teacher'}`" in card.text


def test_a_tower_learns_the_maps_of_a_teacher(tiny_vit, tmp_path):
    torch.manual_seed(0)
    teacher = CLIP(clip_model=load_open_clip(str(write_config(tmp_path, "resnet", TOWERS["resnet"]))), model_name="")
    model, tokenize = load_open_clip(str(tiny_vit)), open_clip.get_tokenizer(tiny_vit.stem)
    initialize_text_tower(model, teacher)
    assert model.token_embedding.weight.equal(teacher.clip_model.token_embedding.weight)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    data = noise([0, 0, 320, 160])
    settings = ClipTraining(steps=30, batch_size=32, warmup=2, shares=(1, 0, 0), learning_rate=1e-2)
    objective = ClipObjective(model, tokenize, *data, settings, teacher.eval())
    images = torch.randn(2, 3, *VIEW)

    @torch.no_grad()
    def distance(maps_of_student):
        return float(maps_of_student(objective._maps(objective.towers, images), objective._maps(teacher, images)))

    start = distance(objective.student_maps)
    train_clip(model, tokenize, *data, settings, tmp_path / "state.pt", teacher)
    trained = StudentMaps([32] * 4, objective._channels(teacher))
    state = torch.load(tmp_path / "state.pt")["modules"]
    trained.load_state_dict({k.removeprefix("student_maps."): v for k, v in state.items() if "student_maps" in k})
    assert distance(trained) < 0.8 * start
    assert all(value.equal(before[name]) for name, value in teacher.state_dict().items())


def test_maps_that_agree_have_no_distance():
    maps = [torch.randn(2, 4, 8, 16), torch.randn(2, 6, 4, 8)]
    student = StudentMaps([4, 6], [4, 6])
    for project in student.projections:
        nn.init.dirac_(project.weight)
        nn.init.zeros_(project.bias)
    assert student(maps, [3 * each + 1 for each in maps]) < 1e-6
    unrelated = student(maps, [torch.randn_like(each) for each in maps])
    assert 0.8 < unrelated < 1.2
    # The finer of two maps is averaged over the elements of the coarser one.
    coarse = [torch.nn.functional.avg_pool2d(each, 2) for each in maps]
    assert student(maps, coarse) < 1e-6 and student(coarse, maps) < 1e-6


def test_a_teacher_of_other_sizes_is_reported(tiny_vit, tmp_path, capsys):
    model = load_open_clip(str(write_config(tmp_path, "other", TOWERS["resnet"])))
    run.write_folder(model, tmp_path / "tiny_other.json", tmp_path / "teacher")
    wide = json.loads(tiny_vit.read_text()) | {"embed_dim": 24}
    tiny_vit.write_text(json.dumps(wide))
    flags = ["--output", str(tmp_path / "vit"), "--cache", str(tmp_path / "cache")]
    assert command.main(["--model-config", str(tiny_vit), "--teacher", str(tmp_path / "teacher"), *flags]) == 2
    assert "text_projection has another size" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_a_vit_embeds_the_whole_image_like_open_clip(tiny_vit):
    model = load_open_clip(str(tiny_vit)).eval()
    towers = ViTClip(clip_model=model, tokenize=open_clip.get_tokenizer(tiny_vit.stem))
    images = torch.randn(2, 3, 32, 64)
    features = towers(images)
    assert {value.shape for value in features.values()} == {(2, 32, 2, 4)}
    torch.testing.assert_close(towers.embed_whole(features["clip_vis_dense"]), model.encode_image(images))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "gpu"], "--device gpu is no device of torch"),
        (["--device", "cuda:99"], "--device cuda:99 asks for GPU 99"),
        (["--model-config", "nothing.json"], "--model-config nothing.json is no *.json file that exists"),
        (["--model-config", "RN50"], "--model-config RN50 is no *.json file that exists"),
    ],
)
def test_bad_arguments_are_reported_before_anything_is_drawn(flags, message, tmp_path, capsys):
    assert command.main(["--cache", str(tmp_path / "cache"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_each_model_config_has_a_folder_of_its_own(monkeypatch):
    monkeypatch.chdir(PROJECT)
    folders = {"configs/clip_convnext_mini.json": "clip", "configs/clip_resnet_mini.json": "clip_resnet"}
    for config, folder in {**folders, "elsewhere/clip_convnext_mini.json": "clip_convnext"}.items():
        assert command.default_output(Path(config)) == PROJECT / "weights" / folder
    assert command.default_output(command.MODEL_CONFIG) == PROJECT / "weights/clip"


def test_the_class_with_the_most_similar_name_is_predicted():
    names = torch.eye(3)
    images = np.zeros((2, 4, 4, 3), np.uint8)
    features = torch.tensor([[0.0, 0.2, 0.1], [0.5, 0.1, 0.6]])
    assert predict_classes(lambda _: features, TextClassifier(names, (2, 1)), images).tolist() == [0, 1]
