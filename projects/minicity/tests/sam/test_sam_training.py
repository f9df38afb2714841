"""Losses, training, evaluation and command of the miniature SAM."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from minicity.cards import write_card
from minicity.sam import run, training
from minicity.sam.evaluation import MaskScore, disc_masks, measure
from minicity.sam.losses import dice_loss, focal_loss, mask_iou, prompt_loss
from minicity.sam.pool import LabeledScenes
from minicity.sam.prompts import (
    VIEW,
    PointPrompts,
    class_regions,
    shrink,
    whole_objects,
)
from minicity.sam.training import ClassReader, SamObjective, SamTraining, train_sam, view_logits
from minicity.world.styles import STYLES
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from clouds.config import get_config
from clouds.self_training.sam import build_sam
from clouds.self_training.sam.frame import Frame
from clouds.self_training.sam.segment_anything import SegmentAnything
from clouds.self_training.sam.segment_anything_folder import SamArchitecture, build_network
from tests.commands import script

command = script("projects/minicity/tools/train_sam.py")

TINY = SamArchitecture(
    image_size=64,
    vit_patch_size=8,
    encoder_embed_dim=16,
    encoder_depth=2,
    encoder_num_heads=2,
    encoder_window_size=4,
    encoder_global_attn_indexes=(1,),
    prompt_embed_dim=16,
    mask_in_chans=8,
    decoder_depth=1,
    decoder_num_heads=2,
    decoder_mlp_dim=16,
    iou_head_hidden_dim=8,
)


def tiny_sam():
    torch.manual_seed(0)
    return SegmentAnything(build_network(TINY), name="tiny", frame=Frame(64))


class TestLosses:
    LOGITS = torch.randn(4, 3, 6, 8, generator=torch.Generator().manual_seed(0)) * 3
    TRUTH = torch.rand(4, 6, 8, generator=torch.Generator().manual_seed(1)) > 0.5

    def test_focal_loss_equals_torchvisions(self):
        truth = self.TRUTH[:, None].float().expand_as(self.LOGITS)
        theirs = sigmoid_focal_loss(self.LOGITS, truth, alpha=-1, gamma=2).mean(dim=(2, 3))
        torch.testing.assert_close(focal_loss(self.LOGITS, truth), theirs)

    def test_dice_loss_of_correct_wrong_and_large_masks(self):
        mask = torch.zeros(10, 10)
        mask[:5] = 1
        assert dice_loss(mask * 200 - 100, mask) < 1e-6
        assert dice_loss(100 - mask * 200, mask) > 0.98
        assert torch.isclose(dice_loss(torch.full((10, 10), 100.0), mask), torch.tensor(1 - 101 / 151))

    def test_intersection_over_union(self):
        one, other = torch.zeros(2, 4, 4, dtype=torch.bool)
        assert mask_iou(one, other) == 1
        one[:2], other[1:3] = True, True
        assert mask_iou(one, other) == pytest.approx(4 / 12)

    def test_only_the_best_mask_learns_but_all_qualities_do(self):
        truth = self.TRUTH[:1]
        logits = torch.stack([(truth * 2.0 - 1) * scale for scale in (-1.0, 3.0, 0.5)], dim=1).requires_grad_()
        quality = torch.zeros(1, 3, requires_grad=True)
        loss = prompt_loss(logits, quality, truth)
        loss.backward()
        assert logits.grad.flatten(2).abs().sum(dim=2).gt(0).tolist() == [[False, True, False]]
        assert quality.grad.tolist() == [[0.0, pytest.approx(-2 / 3), pytest.approx(-2 / 3)]]
        right = torch.tensor([[0.0, 1.0, 1.0]])
        assert prompt_loss(logits, right, truth).item() == pytest.approx(loss.item() - 2 / 3)

    def test_logits_are_resized_like_masks(self):
        frame = Frame(64)
        logits = torch.randn(3, 2, 32, 32)
        ours = view_logits(logits, frame, (100, 150)) > 0
        theirs = frame.to_masks(logits.flatten(0, 1), (100, 150)).unflatten(0, (3, 2))
        assert torch.equal(ours, theirs)

    def test_the_class_reader_ignores_the_padding(self):
        reader = ClassReader(4)
        embedding = torch.randn(2, 4, 8, 8)
        labels = torch.randint(19, (2, 16, 32), dtype=torch.uint8)
        loss = reader.loss(embedding, labels, Frame(64))
        below = embedding.clone()
        below[:, :, 4:] += 1
        assert torch.equal(reader.loss(below, labels, Frame(64)), loss)
        at = embedding.clone()
        at[:, :, 3] += 1
        assert not torch.equal(reader.loss(at, labels, Frame(64)), loss)
        assert torch.isclose(loss, F.cross_entropy(reader(embedding)[:, :, :16, :32], labels.long()))


class TestTraining:
    SETTINGS = SamTraining(steps=4, views=2, prompts=4, warmup=2, save_every=1)

    def test_a_step_follows_from_its_number(self, scenes):
        objective = SamObjective(tiny_sam(), scenes, self.SETTINGS)
        losses = [objective.loss(step).item() for step in (5, 6, 5)]
        assert losses[0] == losses[2] != losses[1]

    def test_it_learns(self, scenes, tmp_path):
        settings = dataclasses.replace(self.SETTINGS, steps=40, save_every=40, learning_rate=3e-3)
        sam = tiny_sam()

        def losses():
            with torch.no_grad():
                return np.mean([objective.loss(step).item() for step in range(100, 106)])

        objective = SamObjective(sam, scenes, dataclasses.replace(settings, reading=0.0))
        before = losses()
        train_sam(sam, scenes, settings, tmp_path / "state.pt")
        assert losses() < 0.8 * before
        assert not sam.network.training
        assert not any(parameter.requires_grad for parameter in sam.network.parameters())

    def test_an_interrupted_training_ends_with_the_same_weights(self, scenes, tmp_path, monkeypatch):
        def trained(file):
            sam = tiny_sam()
            train_sam(sam, scenes, self.SETTINGS, file)
            return sam.network.state_dict()

        calls, augment = [], training.augment

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
        assert not straight["image_encoder.pos_embed"].equal(tiny_sam().network.state_dict()["image_encoder.pos_embed"])

    def test_every_part_that_is_used_learns(self, scenes):
        sam = tiny_sam()
        objective = SamObjective(sam, scenes, dataclasses.replace(self.SETTINGS, views=6, prompts=8, refined=1.0))
        sam.network.requires_grad_(True)
        objective.loss(0).backward()
        silent = {name for name, value in sam.network.named_parameters() if value.grad is None or not value.grad.any()}
        # Boxes and points outside are never prompted. Which mask outputs learn depends on the first views.
        assert {name for name in silent if "hypernetworks" not in name} == {
            f"prompt_encoder.point_embeddings.{number}.weight" for number in (0, 2, 3)
        }


class TestMeasurement:
    class Perfect:
        """A SAM that returns the true mask as one of three, with the highest predicted quality only if `right`."""

        device = torch.device("cpu")
        network = None
        frame = Frame(VIEW[1])

        def __init__(self, scenes, right):
            self.right = right
            self.left = iter(range(len(scenes)))
            self.scenes = scenes

        def encode(self, images):
            number = next(self.left)
            _, labels, objects = shrink(*(getattr(self.scenes, name)[number] for name in LabeledScenes.__annotations__))
            self.regions = (class_regions(labels, 279), whole_objects(objects, 64))
            assert tuple(images[0].shape) == (3, *VIEW)
            return [type("Embedding", (), {"features": ()})]

        def decode(self, features, points, logits):
            side = self.frame.side
            answers = torch.full((len(points), 3, side, side), -1.0)
            for regions in self.regions:
                masks = regions.ids == regions.numbers[:, None, None]
                x, y = points.long().numpy().transpose(2, 0, 1)
                if len(masks) == len(points) and masks[np.arange(len(masks))[:, None], y, x].all():
                    answers[:, 1, : VIEW[0]] = torch.from_numpy(masks * 2.0 - 1)
            return answers, torch.eye(3)[1 if self.right else 2].expand(len(points), 3)

    @pytest.mark.parametrize("right", [True, False])
    def test_the_chosen_and_the_best(self, scenes, right):
        for score in measure(self.Perfect(scenes, right), scenes).values():
            assert score.best == 1
            assert score.chosen == (1 if right else 0)
            assert 0 < score.disc < 0.7
            assert score.prompts > 5

    def test_a_disc_matches_a_disc(self):
        y, x = np.indices((40, 50))
        masks = np.stack([(x - 20) ** 2 + (y - 15) ** 2 <= 81, (x > 5) & (x < 45) & (y > 30) & (y < 35)])
        points = np.array([[[18, 15], [22, 15]], [[10, 32], [40, 32]]], np.float32)
        near, far = mask_iou(torch.from_numpy(disc_masks(PointPrompts(masks, points))), torch.from_numpy(masks))
        assert near > 0.95
        assert far < 0.5


def test_the_command_writes_a_folder_that_build_sam_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "TEST_SCENES", 1)
    sizes = tmp_path / "sizes.json"
    sizes.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(TINY, vit_patch_size=16))))
    folder = tmp_path / "sam"
    flags = ["--scenes", "2", "--steps", "2", "--views", "1", "--prompts", "2", "--workers", "1"]
    flags += ["--sizes", str(sizes), "--compare", str(tmp_path / "none.pt")]
    assert command.main(["--output", str(folder), "--cache", str(tmp_path / "cache"), *flags]) == 0
    cfg = get_config()
    settings = {"MOBILE": False, "TYPE": "segment_anything", "WEIGHTS": str(folder), "IMAGE_SIZE": 64, "CACHE_DIR": ""}
    for key, value in settings.items():
        cfg.MODEL.CLOUDS.SAM[key] = value
    (embedding,) = build_sam(cfg, "cpu").encode([torch.zeros(3, 32, 64, dtype=torch.uint8)])
    assert embedding.features[0].shape == (16, 4, 4)
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert "three masks of 16 x 16." in card.text
    assert f"python projects/minicity/tools/train_sam.py --sizes {sizes} --scenes 2 " in card.text
    for name in STYLES:
        assert card.text.count(f"\n| {name} |") == 1


def test_the_card_compares_with_mobile_sam(tmp_path):
    scores = {name: {("regions", 1): MaskScore(0.4, 0.5, 0.3, 9)} for name in ("wide", "minicity_fog")}
    write_card(
        tmp_path,
        "sam.md.jinja",
        library="segment-anything",
        task="mask-generation",
        parameters=1_400_000,
        image_size=256,
        mask_side=128,
        command="python train_sam.py",
        num_scenes=2000,
        settings=SamTraining(steps=4),
        view=VIEW,
        seconds=120,
        environment="1 CPU core",
        num_test_scenes=40,
        min_areas={"regions": 279, "objects": 64},
        scores=scores,
        num_compared_scenes=8,
        compared={"this model, 256 pixels": scores, "MobileSAM, 512 pixels": scores},
    )
    card = (tmp_path / "README.md").read_text()
    assert "| minicity_fog | 40.0 (50.0) |\n" in card
    assert "| wide: MobileSAM, 512 pixels | 40.0 (50.0) |\n| minicity_fog: this model, 256 pixels |" in card
    assert "around the mean of the points | 30.0 |\n" in card


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "gpu"], "--device gpu is no device of torch"),
        (["--sizes", "nothing.json"], "--sizes nothing.json does not exist"),
    ],
)
def test_bad_arguments_are_reported_before_anything_is_drawn(flags, message, tmp_path, capsys):
    assert command.main(["--cache", str(tmp_path / "cache"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
