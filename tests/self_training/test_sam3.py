"""SAM 3 from folders of transformers, with random weights: points and class names as prompts."""

import json
import shutil

import pytest
import torch
import transformers
from PIL import Image

from clouds.config import get_config
from clouds.errors import UserError
from clouds.self_training.pseudo_labels import PseudoLabeller
from clouds.self_training.sam import CachedSam, ClassPrompt, build_sam
from clouds.self_training.sam.text import TextSam
from clouds.self_training.sam.transformers import TransformersSam
from tests.self_training.sam3_folders import (
    QUERIES,
    SIDE,
    WIDTH,
    build_sam3,
    image,
    masks_of_the_library,
    write_sam3,
)

TEXT = ("sam3", "sam3_video", "sam3_lite_text")
POINTS = ("sam3_tracker", "sam3_tracker_video", "sam3_video")
SIZE = (40, 60)
SCORE = 0.26  # some of the queries of each name have a higher score, and no query has nearly this one
NAMES = ("car", "red bus", "sky")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sam3")
    for kind in {*TEXT, *POINTS}:
        write_sam3(root / kind, kind)
    return root


def build(folder, prompts="text", **settings):
    cfg = get_config()
    given = {"MOBILE": False, "TYPE": "transformers", "WEIGHTS": str(folder), "IMAGE_SIZE": SIDE, "CACHE_DIR": ""}
    for key, value in {**given, "PROMPTS": prompts, "SCORE_THRESHOLD": SCORE, **settings}.items():
        cfg.MODEL.CLOUDS.SAM[key] = value
    return build_sam(cfg, "cpu")


@pytest.fixture(scope="module", params=["sam3_video", "sam3_lite_text"])
def sam(request, folders):
    return build(folders / request.param)


def shown(view):
    return Image.fromarray(view.permute(1, 2, 0).numpy())


def image_processor():
    return transformers.Sam3ImageProcessor(size={"height": SIDE, "width": SIDE})


def everywhere(*names, size=SIZE):
    return [ClassPrompt((name,), torch.ones(size, dtype=torch.bool)) for name in names]


def of_the_library(folder, kind, view, name):
    """Return the instances of a name, masks (N, H, W) bool, by the processor and the model of transformers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.Sam3Processor(image_processor(), tokenizer)
    model = {"sam3_lite_text": transformers.Sam3LiteTextModel}.get(kind, transformers.Sam3Model)
    inputs = processor(images=shown(view), text=name, return_tensors="pt")
    sizes = inputs.pop("original_sizes").tolist()
    with torch.no_grad():
        outputs = model.from_pretrained(folder).eval()(**inputs)
    [found] = processor.post_process_instance_segmentation(outputs, threshold=SCORE, target_sizes=sizes)
    return found["masks"].bool()


class TestText:
    @pytest.mark.parametrize("size", [(SIDE, SIDE), SIZE, (90, 50)])
    def test_the_masks_are_those_of_the_librarys_pipeline(self, sam, folders, size):
        view = image(*size)
        (embedding,) = sam.encode([view])
        masks = sam.predict(embedding, everywhere(*NAMES, size=size))
        assert (masks.shape, masks.dtype) == ((len(NAMES), *size), torch.bool)
        numbers = []
        for mask, name in zip(masks, NAMES, strict=True):
            instances = of_the_library(folders / sam.name, sam.name, view, name)
            numbers.append(len(instances))
            assert (mask == instances.any(dim=0)).float().mean() > 0.999
        assert 0 < min(numbers) < QUERIES

    def test_an_instance_counts_if_it_overlaps_the_regions_of_the_class(self, sam, folders):
        view = image(SIDE, SIDE)
        instances = of_the_library(folders / sam.name, sam.name, view, "car")
        areas = instances.flatten(1).sum(dim=1)
        (embedding,) = sam.encode([view])
        for at in [(0, 0), (0, SIDE - 1), (SIDE // 2, SIDE // 2), (SIDE - 1, 5)]:
            regions = torch.zeros(SIDE, SIDE, dtype=torch.bool)
            regions[at] = True
            expected = instances[instances[:, *at]].any(dim=0)
            [mask] = sam.predict(embedding, [ClassPrompt(("car",), regions)])
            assert (mask == expected).float().mean() > 0.999
        [nothing] = sam.predict(embedding, [ClassPrompt(("car",), torch.zeros(SIDE, SIDE, dtype=torch.bool))])
        assert not nothing.any() and areas.all()

    def test_synonyms_are_united(self, sam):
        (embedding,) = sam.encode([image(*SIZE)])
        apart = sam.predict(embedding, everywhere("car", "sky"))
        [both] = sam.predict(embedding, [ClassPrompt(("car", "sky"), torch.ones(SIZE, dtype=torch.bool))])
        assert torch.equal(both, apart.any(dim=0))
        assert not torch.equal(*apart)

    def test_a_name_is_embedded_once(self, sam, monkeypatch):
        calls, embed = [], sam.network.get_text_features
        monkeypatch.setattr(sam, "_texts", {})
        monkeypatch.setattr(sam.network, "get_text_features", lambda *args: calls.append(1) or embed(*args))
        for embedding in sam.encode([image(*SIZE), image(*SIZE, seed=1)]):
            sam.predict(embedding, everywhere("car", "sky", "car"))
        assert len(calls) == 2

    def test_a_long_name_is_cut(self, sam):
        (embedding,) = sam.encode([image(*SIZE)])
        assert sam.predict(embedding, everywhere("a very long name of a class " * 3)).shape == (1, *SIZE)

    def test_no_prompt_and_no_image(self, sam):
        (embedding,) = sam.encode([image(*SIZE)])
        assert sam.predict(embedding, []).shape == (0, *SIZE)
        assert sam.encode([]) == []

    def test_images_are_encoded_one_at_a_time_into_one_map(self, sam, monkeypatch):
        batch = [image(*SIZE), image(90, 50, seed=1)]
        alone = [sam.encode([each])[0] for each in batch]
        sizes, features = [], sam.features
        monkeypatch.setattr(sam, "features", lambda pixels: sizes.append(len(pixels)) or features(pixels))
        for one, other in zip(sam.encode(batch), alone, strict=True):
            ((ours,), (theirs,)) = one.features, other.features
            assert ours.shape == (WIDTH, 4, 4) and ours.dtype == torch.float32
            assert torch.equal(ours, theirs)
        assert sizes == [1, 1]

    def test_the_encoder_in_bfloat16(self, sam, folders):
        half = build(folders / sam.name, DTYPE="bfloat16")
        assert half.model_id != sam.model_id
        (whole,), (rounded,) = sam.encode([image(*SIZE)]), half.encode([image(*SIZE)])
        (ours,), (theirs,) = rounded.features, whole.features
        assert ours.dtype == torch.float32
        assert 0 < (ours - theirs).abs().mean() < 0.03 * theirs.abs().mean()

    def test_the_callers_autocast_changes_nothing(self, sam):
        (whole,) = sam.encode([image(*SIZE)])
        masks = sam.predict(whole, everywhere(*NAMES))
        with torch.autocast("cpu", torch.bfloat16):
            (embedding,) = sam.encode([image(*SIZE)])
            assert torch.equal(embedding.features[0], whole.features[0])
            assert torch.equal(sam.predict(embedding, everywhere(*NAMES)), masks)

    def test_cached_and_not_cached_give_equal_masks(self, sam, folders, tmp_path):
        views = [image(*SIZE), image(90, 50, seed=1)]
        cached = build(folders / sam.name, CACHE_DIR=str(tmp_path / "cache"))
        assert isinstance(cached, CachedSam) and cached.prompts == "text"
        for _ in range(2):  # computed, then found
            for view, embedding, fresh in zip(views, cached.encode(views), sam.encode(views), strict=True):
                prompts = everywhere(*NAMES, size=tuple(view.shape[1:]))
                ours, theirs = cached.predict(embedding, prompts), sam.predict(fresh, prompts)
                assert (ours == theirs).float().mean() > 0.999  # an entry is float16
        assert len(list((tmp_path / "cache").iterdir())) == 2

    def test_frozen_in_eval_mode(self, sam):
        assert not sam.network.training
        assert not any(parameter.requires_grad for parameter in sam.network.parameters())
        assert not sam.encode([image(*SIZE)])[0].features[0].requires_grad


def test_hidden_states_beyond_float16_stay_finite_in_a_cache(folders, tmp_path):
    cached = build(folders / "sam3", CACHE_DIR=str(tmp_path))
    features = cached.sam.features
    cached.sam.features = lambda pixels: tuple(1e6 * each for each in features(pixels))
    (embedding,) = cached.encode([image(*SIZE)])
    assert embedding.features[0].isfinite().all()


def test_the_score_threshold(folders):
    masks = []
    for threshold in (0.0, SCORE, 1.0):
        sam = build(folders / "sam3", SCORE_THRESHOLD=threshold)
        (embedding,) = sam.encode([image(*SIZE)])
        masks.append(sam.predict(embedding, everywhere("car"))[0])
    low, some, none = masks
    assert (low >= some).all() and low.sum() > some.sum() > 0 and not none.any()
    with pytest.raises(ValueError, match=r"^score_threshold is 2"):
        TextSam(torch.nn.Identity(), tokenizer=None, score_threshold=2, name="x", frame=sam.frame)


def test_a_pseudo_label_unites_the_instances_of_the_classes_that_the_teacher_sees(folders):
    """The two classes with a large region are asked about, by all their names, and no other class."""
    sam = build(folders / "sam3")
    asked, predict = [], sam.predict
    sam.predict = lambda embedding, prompts: asked.extend(prompts) or predict(embedding, prompts)
    labels = torch.zeros(SIZE, dtype=torch.uint8)
    labels[:, 30:] = 2
    labels[:5, :5] = 1
    labels[20:24, 2:6] = 2
    view = image(*SIZE)
    names = ["car,cars", "bus", "sky"]
    labeller = PseudoLabeller(sam, min_area=100, rm_intersection=False)
    [label] = labeller([labels], [view], [None], names)
    assert [each.names for each in asked] == [("car", "cars"), ("sky",)]
    assert label.prompts.points.shape == (2, 0, 2) and label.prompts.classes.tolist() == [0, 2]
    for prompt, value in zip(asked, (0, 2), strict=True):
        large = labels == value
        large[:, :30] &= value == 0  # the small region of class 2 does not count
        assert torch.equal(prompt.regions, large)
    (embedding,) = sam.encode([view])
    assert torch.equal(label.refined.masks, predict(embedding, asked))
    assert label.refined.labels.tolist() == [0, 2]

    asked.clear()
    [label] = PseudoLabeller(sam, min_area=100)([labels], [view], [None], names)
    assert label.refined.masks.sum(dim=0).max() <= 1, "disputed pixels have no label"
    [label] = PseudoLabeller(sam, min_area=10_000)([labels], [view], [None], names)
    assert label.refined.labels.tolist() == [0, 1, 2], "too small to be refined: the teacher's map is kept"


class TestPoints:
    @pytest.mark.parametrize("kind", POINTS)
    def test_the_masks_are_those_of_the_librarys_pipeline(self, kind, folders):
        sam = build(folders / kind, "points")
        assert isinstance(sam, TransformersSam)
        processor = transformers.Sam3TrackerProcessor(image_processor())
        for view, points, expected in masks_of_the_library(processor, transformers.Sam3TrackerModel, folders / kind):
            (embedding,) = sam.encode([view])
            assert (sam.predict(embedding, points) == expected).float().mean() > 0.999
            assert 0.02 < expected.float().mean() < 0.98

    def test_the_tracker_of_a_video_folder_has_its_weights(self, folders):
        loaded = build(folders / "sam3_video", "points").network.state_dict()
        video = build_sam3("sam3_video").state_dict()
        for name in ("prompt_encoder.point_embed.weight", "mask_decoder.iou_token.weight", "no_memory_embedding"):
            assert torch.equal(loaded[name], video[f"tracker_model.{name}"])
        for name in ("backbone.layers.1.mlp.fc1.weight", "backbone.embeddings.position_embeddings"):
            assert torch.equal(loaded[f"vision_encoder.{name}"], video[f"detector_model.vision_encoder.{name}"])
        neck = "fpn_layers.0.proj1.weight"
        assert torch.equal(loaded[f"vision_encoder.neck.{neck}"], video[f"tracker_neck.{neck}"])

    def test_cached_and_not_cached_give_equal_masks(self, folders, tmp_path):
        sam = build(folders / "sam3_video", "points")
        cached = build(folders / "sam3_video", "points", CACHE_DIR=str(tmp_path))
        points = torch.rand(5, 3, 2) * 39
        (fresh,) = sam.encode([image(*SIZE)])
        for _ in range(2):
            (embedding,) = cached.encode([image(*SIZE)])
            assert (cached.predict(embedding, points) == sam.predict(fresh, points)).float().mean() > 0.995

    def test_both_models_of_a_folder_can_share_a_cache(self, folders, tmp_path):
        for prompts in ("points", "text"):
            build(folders / "sam3_video", prompts, CACHE_DIR=str(tmp_path)).encode([image(*SIZE)])
        assert len(list(tmp_path.iterdir())) == 2


class TestMistakes:
    def fails(self, folder, match, *prompts, **settings):
        with pytest.raises(UserError, match=match) as caught:
            build(folder, *prompts, **settings)
        assert "\n" not in str(caught.value)

    def copy(self, folders, tmp_path, kind="sam3"):
        shutil.copytree(folders / kind, tmp_path / kind)
        return tmp_path / kind

    def test_class_names_for_a_model_that_takes_points(self, folders):
        for kind in ("sam3_tracker", "sam3_tracker_video"):
            match = rf"of the type '{kind}', which takes points as prompts: set \S+PROMPTS points, or .*sam3_video"
            self.fails(folders / kind, match)

    def test_points_for_a_model_that_takes_class_names(self, folders):
        for kind in ("sam3", "sam3_lite_text"):
            match = rf"of the type '{kind}', which takes text as prompts: set \S+PROMPTS text, or .*sam3_tracker"
            self.fails(folders / kind, match, "points")

    @pytest.mark.parametrize("settings", [{"MOBILE": True}, {"TYPE": "vit_h"}, {"TYPE": "segment_anything"}])
    def test_class_names_for_another_type(self, settings):
        match = r"PROMPTS is text, but the SAM (mobile_sam|vit_h|segment_anything) takes points: .* folder of SAM 3\."
        self.fails("", match, **settings)

    def test_a_folder_of_another_type(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        self.fails(tmp_path, "'bert'; SAM can be one of sam3, sam3_video, sam3_lite_text")
        self.fails(tmp_path, "'bert'; SAM can be one of sam, sam2,", "points")

    @pytest.mark.parametrize("prompts", ["points", "text"])
    def test_another_image_size(self, folders, prompts):
        self.fails(
            folders / "sam3_video",
            r"sees images of 64 pixels and no others: set \S+IMAGE_SIZE to that",
            prompts,
            IMAGE_SIZE=1008,
        )

    def test_a_folder_without_a_tokenizer(self, folders, tmp_path):
        folder = self.copy(folders, tmp_path)
        (folder / "tokenizer.json").unlink()
        self.fails(folder, r"sam3 has no tokenizer, which class names as prompts need: copy tokenizer\.json")

    @pytest.mark.parametrize("text", ["", "{", "{}"])
    def test_a_damaged_tokenizer(self, folders, tmp_path, text):
        folder = self.copy(folders, tmp_path)
        (folder / "tokenizer.json").write_text(text)
        self.fails(folder, r"tokenizer in \S+ cannot be read \(.*\): copy the folder again")

    def test_the_tokenizer_of_another_model(self, folders, tmp_path):
        folder = self.copy(folders, tmp_path)
        content = json.loads((folder / "tokenizer.json").read_text())
        content["model"]["vocab"] |= {f"more{number}": 100 + number for number in range(9)}
        (folder / "tokenizer.json").write_text(json.dumps(content))
        self.fails(folder, r"has 63 tokens, but the text encoder knows 54: copy the folder again")

    @pytest.mark.parametrize("prompts", ["points", "text"])
    def test_weights_that_lack_a_part(self, folders, tmp_path, prompts):
        from safetensors.torch import load_file, save_file

        folder = self.copy(folders, tmp_path, "sam3_video")
        state = load_file(folder / "model.safetensors")
        kept = {key: value for key, value in state.items() if "mask_decoder" not in key}
        save_file(kept, folder / "model.safetensors")
        self.fails(folder, r"lack \d+ tensors of the sam3_video model: copy the folder again", prompts)
