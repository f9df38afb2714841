"""The miniature SAM: what it is shown, its losses, its resumption, and the command that makes it."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from minicity.sam import training as sam_pretraining
from minicity.sam.pool import SCENE, Streets, draw_street_pool, draw_streets, object_map
from minicity.sam.quality import disc, measure
from minicity.sam.regions import VIEW, Asked, ask, closer, components, shrunk, things
from minicity.sam.training import (
    ClassReader,
    Course,
    Recipe,
    dice_loss,
    focal_loss,
    in_view,
    mask_iou,
    prompt_loss,
    train_sam,
)
from minicity.world import pool as scene_pool
from minicity.world.classes import Label
from minicity.world.records import Rendered, SceneObject
from minicity.world.styles import STYLES
from minicity.world.wide import WIDE_STYLES
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from clouds.config import get_config
from clouds.self_training.regions import find_regions
from clouds.self_training.sam import build_sam
from clouds.self_training.sam.frame import Frame
from clouds.self_training.sam.segment_anything import SegmentAnything
from clouds.self_training.sam.segment_anything_folder import Sizes, described_sam

ROOT = Path(__file__).parents[4]
TINY = Sizes(
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


@pytest.fixture(scope="module")
def streets():
    return draw_streets(WIDE_STYLES, 3, range(3))


@pytest.fixture
def command():
    spec = importlib.util.spec_from_file_location("train_sam", ROOT / "projects/minicity/tools/train_sam.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_sam():
    torch.manual_seed(0)
    return SegmentAnything(described_sam(TINY), name="tiny", frame=Frame(64))


def picture(boxes, apart=True):
    """Cars at these boxes on a road, each before the next, but the first has a window that shows the second."""
    owner = np.full((20, 30), -1)
    for number, (x0, y0, x1, y1) in reversed(list(enumerate(boxes))):
        owner[y0:y1, x0:x1] = number
    x0, y0, _, _ = boxes[0]
    owner[y0 + 3 : y0 + 5, x0 + 6 : x0 + 8] = 1
    label = np.where(owner >= 0, Label.CAR, Label.ROAD).astype(np.uint8)
    depth = np.where(owner >= 0, 10 + 2 * owner * apart, 99).astype(np.float32)
    objects = []
    for number in range(len(boxes)):
        y, x = np.nonzero(owner == number)
        box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
        objects.append(SceneObject(Label.CAR, "car", box, len(x), 10.0 + number, number))
    return Rendered(np.zeros((20, 30, 3), np.uint8), label, depth, "Cars.", tuple(objects)), owner


class TestThings:
    BOXES = [(5, 5, 15, 12), (10, 3, 22, 10), (21, 8, 28, 18)]

    def test_things_that_hide_each_other_are_told_apart_by_their_depth(self):
        rendered, owner = picture(self.BOXES)
        assert (object_map(rendered) == owner + 1).all()

    def test_what_cannot_be_told_apart_is_left_out_whole(self):
        rendered, _ = picture(self.BOXES, apart=False)
        assert not object_map(rendered).any()
        # One alone in its box is known whatever its depth.
        rendered, owner = picture([*self.BOXES[:2], (24, 12, 29, 19)], apart=False)
        assert (object_map(rendered) == np.where(owner == 2, 3, 0)).all()

    def test_drawn_things_have_their_own_box_area_and_class(self):
        from minicity.world.render import render_scene

        known = every = 0
        for index in range(4):
            rendered = render_scene("minicity_sim", 5, index)
            found = object_map(rendered)
            for number, item in enumerate(rendered.objects, start=1):
                mask = found == number
                every += 1
                if mask.any():
                    known += 1
                    y, x = np.nonzero(mask)
                    assert (x.min(), y.min(), x.max() + 1, y.max() + 1) == item.box
                    assert mask.sum() == item.area
                    assert (rendered.label[mask] == item.label).all()
        assert known / every > 0.7


class TestViews:
    @given(some.arrays(np.uint8, (6, 8), elements=st.integers(0, 2)), st.integers(0, 6))
    def test_components_are_the_regions_of_self_training(self, labels, least):
        ours = components(labels, least + 1)
        theirs = find_regions(labels, min_area=least)
        assert len(ours.numbers) == len(theirs)
        assert {(ours.ids == number).tobytes() for number in ours.numbers} == {
            (theirs.ids == region + 1).tobytes() for region in range(len(theirs))
        }
        assert sorted(ours.areas) == sorted(theirs.areas)

    @pytest.mark.parametrize("seed", range(6))
    def test_picture_and_maps_stay_together(self, seed):
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.repeat(rng.integers(0, 200, (16, 32), np.uint8), 16, axis=0), 16, axis=1)
        image, seen, objects = closer(np.stack([labels] * 3, axis=2), labels, labels + 1, rng, whole=0.3)
        assert image.shape == (*VIEW, 3)
        assert seen.shape == objects.shape == VIEW
        assert (objects == seen + 1).all()
        assert (np.abs(image[:, :, 0].astype(int) - seen) < 3).mean() > 0.7

    def test_shares_of_whole_scenes(self, streets):
        whole = shrunk(streets.images[0], streets.labels[0], streets.objects[0])[1]
        rng = np.random.default_rng(0)
        seen = [closer(streets.images[0], streets.labels[0], streets.objects[0], rng, 0.5)[1] for _ in range(60)]
        counts = [sum(np.array_equal(each, other) for each in seen) for other in (whole, whole[:, ::-1])]
        assert 18 < sum(counts) < 42
        assert min(counts) > 5

    @pytest.mark.parametrize("num_points", [1, 4])
    def test_points_lie_in_their_regions(self, streets, num_points):
        _, labels, objects = shrunk(streets.images[0], streets.labels[0], streets.objects[0])
        kinds = (things(objects, 32), components(labels, 32))
        asked = ask(kinds, 10, num_points, np.random.default_rng(0))
        assert asked.points.shape == (10, num_points, 2)
        for mask, points in zip(asked.masks, asked.points, strict=True):
            x, y = points.astype(int).T
            assert mask[y, x].all()
            assert len({*zip(x, y, strict=True)}) == num_points
        for regions, part in zip(kinds, (asked.masks[:5], asked.masks[5:]), strict=True):
            every = {(regions.ids == number).tobytes() for number in regions.numbers}
            chosen = {mask.tobytes() for mask in part}
            assert len(chosen) == 5
            assert chosen <= every

    def test_large_regions_more_often_and_none_twice(self):
        labels = np.zeros((20, 30), np.uint8)
        labels[:4, :4] = 1
        nothing = things(np.zeros_like(labels), 1)
        first = [ask((components(labels, 1),), 1, 1, np.random.default_rng(n)).masks[0, 0, 0] for n in range(200)]
        assert 10 < sum(first) < 60  # of 1 part in 7
        assert len(ask((nothing, components(labels, 1)), 9, 30, np.random.default_rng(0)).masks) == 2

    def test_a_pool_is_drawn_once(self, streets, tmp_path, monkeypatch):
        monkeypatch.setattr("minicity.world.pool.SCENES_PER_CHUNK", 2)
        pool = draw_street_pool(tmp_path, WIDE_STYLES, 3, 3, 1)
        monkeypatch.delattr("minicity.world.pool.render")
        again = draw_street_pool(tmp_path, WIDE_STYLES, 3, 3, 1)
        for field in dataclasses.fields(Streets):
            expected = getattr(streets, field.name)
            assert (getattr(pool, field.name) == expected).all()
            assert (getattr(again, field.name) == expected).all()

    @pytest.mark.parametrize("change", ["styles", "renderer"])
    def test_a_pool_of_other_styles_or_another_renderer_is_drawn_anew(self, change, tmp_path, monkeypatch):
        styles = [WIDE_STYLES[:1], WIDE_STYLES[1:2] if change == "styles" else WIDE_STYLES[:1]]
        before = draw_street_pool(tmp_path, styles[0], 3, 1, 1)
        drawn, render = [], scene_pool.render
        monkeypatch.setattr(scene_pool, "render", lambda *args: drawn.append(args) or render(*args))
        monkeypatch.setattr(scene_pool, "DRAWING_VERSION", scene_pool.DRAWING_VERSION + (change == "renderer"))
        after = draw_street_pool(tmp_path, styles[1], 3, 1, 1)
        assert len(drawn) == 1
        assert (before.images == after.images).all() == (change == "renderer")


class TestLosses:
    LOGITS = torch.randn(4, 3, 6, 8, generator=torch.Generator().manual_seed(0)) * 3
    TRUTH = torch.rand(4, 6, 8, generator=torch.Generator().manual_seed(1)) > 0.5

    def test_focal_loss_is_that_of_torchvision(self):
        truth = self.TRUTH[:, None].float().expand_as(self.LOGITS)
        theirs = sigmoid_focal_loss(self.LOGITS, truth, alpha=-1, gamma=2).mean(dim=(2, 3))
        torch.testing.assert_close(focal_loss(self.LOGITS, truth), theirs)

    def test_dice_loss_of_right_wrong_and_half(self):
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

    def test_only_the_best_mask_learns_but_all_of_the_qualities(self):
        truth = self.TRUTH[:1]
        logits = torch.stack([(truth * 2.0 - 1) * scale for scale in (-1.0, 3.0, 0.5)], dim=1).requires_grad_()
        quality = torch.zeros(1, 3, requires_grad=True)
        loss = prompt_loss(logits, quality, truth)
        loss.backward()
        assert logits.grad.flatten(2).abs().sum(dim=2).gt(0).tolist() == [[False, True, False]]
        assert quality.grad.tolist() == [[0.0, pytest.approx(-2 / 3), pytest.approx(-2 / 3)]]
        right = torch.tensor([[0.0, 1.0, 1.0]])
        assert prompt_loss(logits, right, truth).item() == pytest.approx(loss.item() - 2 / 3)

    def test_logits_are_laid_over_the_view_as_in_use(self):
        frame = Frame(64)
        logits = torch.randn(3, 2, 32, 32)
        ours = in_view(logits, frame, (100, 150)) > 0
        theirs = frame.to_masks(logits.flatten(0, 1), (100, 150)).unflatten(0, (3, 2))
        assert torch.equal(ours, theirs)

    def test_reader_reads_the_pixels_that_the_view_fills(self):
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
    RECIPE = Recipe(steps=4, views=2, prompts=4, warmup=2, save_every=1)

    def test_a_step_follows_from_its_number(self, streets):
        course = Course(tiny_sam(), streets, self.RECIPE)
        losses = [course.loss(step).item() for step in (5, 6, 5)]
        assert losses[0] == losses[2] != losses[1]

    def test_it_learns(self, streets, tmp_path):
        recipe = dataclasses.replace(self.RECIPE, steps=40, save_every=40, learning_rate=3e-3)
        sam = tiny_sam()

        def losses():
            with torch.no_grad():
                return np.mean([course.loss(step).item() for step in range(100, 106)])

        course = Course(sam, streets, dataclasses.replace(recipe, reading=0.0))
        before = losses()
        train_sam(sam, streets, recipe, tmp_path / "state.pt")
        assert losses() < 0.8 * before
        assert not sam.network.training
        assert not any(parameter.requires_grad for parameter in sam.network.parameters())

    def test_interrupted_training_ends_like_any_other(self, streets, tmp_path, monkeypatch):
        def trained(file):
            sam = tiny_sam()
            train_sam(sam, streets, self.RECIPE, file)
            return sam.network.state_dict()

        calls, augment = [], sam_pretraining.augment

        def interrupted(*args):
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return augment(*args)

        straight = trained(tmp_path / "a.pt")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(sam_pretraining, "augment", interrupted)
            trained(tmp_path / "b.pt")
        resumed = trained(tmp_path / "b.pt")
        assert all(straight[name].equal(resumed[name]) for name in straight)
        assert not straight["image_encoder.pos_embed"].equal(tiny_sam().network.state_dict()["image_encoder.pos_embed"])

    def test_every_part_that_is_used_learns(self, streets):
        sam = tiny_sam()
        course = Course(sam, streets, dataclasses.replace(self.RECIPE, views=6, prompts=8, refined=1.0))
        sam.network.requires_grad_(True)
        course.loss(0).backward()
        silent = {name for name, value in sam.network.named_parameters() if value.grad is None or not value.grad.any()}
        # Boxes and points outside: nothing in this project shows them. Which outputs learn, the first views decide.
        assert {name for name in silent if "hypernetworks" not in name} == {
            f"prompt_encoder.point_embeddings.{number}.weight" for number in (0, 2, 3)
        }


class TestMeasurement:
    class Knowing:
        """A SAM that knows the answers: in one of its three masks, and whether it says so is another matter."""

        device = torch.device("cpu")
        network = None
        frame = Frame(VIEW[1])

        def __init__(self, streets, right):
            self.right = right
            self.left = iter(range(len(streets)))
            self.streets = streets

        def encode(self, images):
            number = next(self.left)
            _, labels, objects = shrunk(*(getattr(self.streets, name)[number] for name in Streets.__annotations__))
            self.regions = (components(labels, 279), things(objects, 64))
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
    def test_the_chosen_and_the_best(self, streets, right):
        for score in measure(self.Knowing(streets, right), streets).values():
            assert score.best == 1
            assert score.chosen == (1 if right else 0)
            assert 0 < score.disc < 0.7
            assert score.prompts > 5

    def test_a_disc_is_found_by_a_disc(self):
        y, x = np.indices((40, 50))
        masks = np.stack([(x - 20) ** 2 + (y - 15) ** 2 <= 81, (x > 5) & (x < 45) & (y > 30) & (y < 35)])
        points = np.array([[[18, 15], [22, 15]], [[10, 32], [40, 32]]], np.float32)
        near, far = mask_iou(torch.from_numpy(disc(Asked(masks, points))), torch.from_numpy(masks))
        assert near > 0.95
        assert far < 0.5


def test_the_command_writes_a_folder_that_build_sam_loads(command, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "TEST_SCENES", 1)
    sizes = tmp_path / "sizes.json"
    sizes.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(TINY, vit_patch_size=16))))
    folder = tmp_path / "sam"
    flags = ["--scenes", "2", "--steps", "2", "--views", "1", "--prompts", "2", "--workers", "1"]
    flags += ["--sizes", str(sizes), "--compare", str(tmp_path / "none.pt")]
    assert command.main(["--output", str(folder), "--cache", str(tmp_path / "cache"), *flags]) == 0
    cfg = get_config()
    settings = {"MOBILE": False, "TYPE": "segment_anything", "WEIGHTS": str(folder), "IMAGE_SIZE": 64}
    for key, value in settings.items():
        cfg.MODEL.CLOUDS.SAM[key] = value
    (embedding,) = build_sam(cfg, "cpu").encode([torch.zeros(3, 32, 64, dtype=torch.uint8)])
    assert embedding.features[0].shape == (16, 4, 4)
    card = (folder / "README.md").read_text()
    assert "three masks of\n16 x 16." in card
    assert f"`python projects/minicity/tools/train_sam.py --sizes {sizes} --scenes 2 " in card
    for name in STYLES:
        assert f"| {name} (unseen) |" in card
    assert SCENE == (256, 512)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--views", "0"], "--views is 0; it must be 1 or more"),
        (["--device", "gpu"], "--device gpu is no device of torch"),
        (["--sizes", "nothing.json"], "--sizes nothing.json does not exist"),
    ],
)
def test_bad_flags_are_told_in_a_sentence_before_anything_is_drawn(command, flags, told, tmp_path, capsys):
    assert command.main(["--cache", str(tmp_path / "cache"), *flags]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
