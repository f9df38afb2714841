"""The SAM back ends, with random weights."""

import importlib

import pytest
import torch
from torch import nn

from clouds.config import get_config
from clouds.errors import UserError
from clouds.self_training.sam import SAM_REGISTRY, CachedSam, Embedding, Sam, build_sam, decoder
from clouds.self_training.sam.base import NetworkSam, PointSam
from clouds.self_training.sam.build import BACK_ENDS
from clouds.self_training.sam.frame import Frame
from clouds.self_training.sam.mobile_sam import mobile_network
from clouds.self_training.sam.segment_anything import SegmentAnything, set_image_size
from tests.self_training.sam3_folders import MEMORY, masks_of_the_library, write_sam3

SIZES = ((40, 64), (90, 50))


def config(**settings):
    cfg = get_config()
    for key, value in {"IMAGE_SIZE": 64, "CACHE_DIR": "", **settings}.items():
        cfg.MODEL.CLOUDS.SAM[key] = value
    return cfg


def images(*sizes):
    return [torch.randint(256, (3, *size), dtype=torch.uint8) for size in sizes or SIZES]


def points(count, size, of_each=3):
    return torch.rand(count, of_each, 2) * torch.tensor([size[1] - 1.0, size[0] - 1.0])


@pytest.fixture(scope="module")
def mobile_file(tmp_path_factory):
    """Return a weight file with the keys and shapes of the published one."""
    torch.manual_seed(1)
    network = mobile_network()
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif name.endswith(("running_mean", "attention_biases")):
            value.normal_()
    path = tmp_path_factory.mktemp("weights") / "mobile_sam.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def mobile(mobile_file):
    return build_sam(config(WEIGHTS=str(mobile_file)), "cpu")


def tiny(kind):
    """Build a model of transformers with some 100,000 weights for images of 64 x 64 pixels."""
    import transformers

    prompts = {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    decoder = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
    pyramid = {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 32}
    if kind == "sam":
        vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "mlp_dim": 32}
        vision |= {"window_size": 2, "global_attn_indexes": [1], "output_channels": 32, "num_pos_feats": 16}
        prompts["image_embedding_size"] = 4
    elif kind == "sam2":
        trunk = {"model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [64, 64]}
        trunk |= {"embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 2]}
        trunk |= {"blocks_per_stage": [1, 1, 2, 1], "window_size_per_stage": [4, 2, 2, 2], "num_attention_heads": 1}
        trunk |= {"global_attention_blocks": [3], "window_positional_embedding_background_size": [2, 2]}
        vision = {"backbone_config": trunk, "backbone_channel_list": [64, 32, 16, 8], **pyramid}
    else:
        arguments = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
        arguments |= {"embed_dim": [8, 8, 8, 8], "depth": [1, 1, 1, 1]}
        trunk = {"model_type": "timm_wrapper", "architecture": "repvit_m1", "num_classes": 2, "model_args": arguments}
        vision = {"backbone_config": trunk, "backbone_channel_list": [8, 8, 8, 8], **pyramid}
    name = {"sam": "Sam", "sam2": "Sam2", "edgetam": "EdgeTam"}[kind]
    made_of = {"vision_config": vision, "prompt_encoder_config": prompts, "mask_decoder_config": decoder}
    return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**made_of))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("folders")
    for kind in ("sam", "sam2", "edgetam"):
        tiny(kind).save_pretrained(root / kind)
    write_sam3(root / "sam3_video", "sam3_video")
    return root


@pytest.fixture(scope="module", params=["mobile", "sam", "sam2", "edgetam", "sam3_video"])
def sam(request):
    if request.param == "mobile":
        return request.getfixturevalue("mobile")
    folder = request.getfixturevalue("folders") / request.param
    return build_sam(config(MOBILE=False, TYPE="transformers", WEIGHTS=str(folder)), "cpu")


class TestEveryBackend:
    def test_masks_have_the_image_s_size(self, sam):
        for image, embedding in zip(images(), sam.encode(images()), strict=True):
            size = tuple(image.shape[1:])
            assert embedding.size == size
            masks = sam.predict(embedding, points(5, size))
            assert (masks.shape, masks.dtype) == ((5, *size), torch.bool)
            assert sam.predict(embedding, points(0, size)).shape == (0, *size)
        assert sam.encode([]) == []

    def test_images_are_encoded_one_at_a_time(self, sam, monkeypatch):
        batch = images((40, 64), (90, 50), (64, 64))
        alone = [sam.encode([image])[0] for image in batch]
        calls, features = [], sam.features
        monkeypatch.setattr(sam, "features", lambda pixels: calls.append(len(pixels)) or features(pixels))
        for one, other in zip(sam.encode(batch), alone, strict=True):
            assert one.size == other.size
            assert all(torch.equal(a, b) for a, b in zip(one.features, other.features, strict=True))
        assert calls == [1, 1, 1]

    def test_the_encoder_in_bfloat16(self, sam):
        other = type(sam)(sam.network, name=sam.name, frame=sam.frame, dtype=torch.bfloat16)
        assert other.model_id != sam.model_id, "embeddings of another precision are other embeddings"
        image = images((40, 64))
        (whole,), (half,) = sam.encode(image), other.encode(image)
        for ours, theirs in zip(half.features, whole.features, strict=True):
            assert ours.dtype == torch.float32
            assert 0 < (ours - theirs).abs().mean() < 0.02 * theirs.abs().mean()

    def test_the_precision_of_products_belongs_to_the_model_id(self, sam):
        other = type(sam)(sam.network, name=sam.name, frame=sam.frame)
        before = torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision("high" if before == "highest" else "highest")
            assert other.model_id != sam.model_id
        finally:
            torch.set_float32_matmul_precision(before)

    def test_prompts_in_chunks_of_bounded_size(self, sam, monkeypatch):
        (embedding,) = sam.encode(images((40, 64)))
        prompts = points(7, (40, 64))
        whole = sam.predict(embedding, prompts)
        sizes, decode = [], sam.decode_best
        monkeypatch.setattr(sam, "decode_best", lambda f, p, logits: sizes.append(len(p)) or decode(f, p, logits))
        monkeypatch.setattr(sam, "prompts_at_once", 3)
        assert (sam.predict(embedding, prompts) == whole).float().mean() > 0.999
        assert sizes == [3, 3, 1]

    def test_frozen_in_eval_mode_and_not_a_module(self, sam):
        assert not isinstance(sam, nn.Module)
        assert not sam.network.training
        assert not any(parameter.requires_grad for parameter in sam.network.parameters())
        before = {key: value.clone() for key, value in sam.network.state_dict().items()}
        model = nn.Linear(2, 2)
        model.sam = sam
        model.train()
        assert set(model.state_dict()) == {"weight", "bias"}
        assert len(list(model.parameters())) == 2
        (embedding,) = sam.encode(images((40, 64)))
        assert not sam.predict(embedding, points(2, (40, 64))).requires_grad
        assert not embedding.features[0].requires_grad
        after = sam.network.state_dict()
        # In particular the running statistics of the batch norms.
        assert all(torch.equal(before[key], after[key]) for key in before)

    def test_refinement_shows_the_best_logits_to_a_second_pass(self, sam, monkeypatch):
        (embedding,) = sam.encode(images((40, 64)))
        shown, decode = [], sam.decode_best

        def spy(features, prompts, logits):
            shown.append((logits, decode(features, prompts, logits)))
            return shown[-1][1]

        monkeypatch.setattr(sam, "decode_best", spy)
        monkeypatch.setattr(sam, "refinement", True)
        masks = sam.predict(embedding, points(4, (40, 64)))
        (first, best), (second, best2) = shown
        assert first is None
        assert torch.equal(second, best[:, None])
        assert torch.equal(masks, sam.frame.to_masks(best2, (40, 64)))
        assert not torch.equal(best, best2)

    @pytest.mark.parametrize(("count", "of_each"), [(1, 5), (3, 5), (3, 1)])
    @pytest.mark.parametrize("onednn", [True, False])
    def test_the_best_logits_are_those_that_the_library_decodes(self, sam, count, of_each, onednn, monkeypatch):
        if not onednn:
            monkeypatch.setattr(decoder, "_onednn", lambda x: False)
        (embedding,) = sam.encode(images((40, 64)))
        prompts = points(count, (64, 64), of_each)
        earlier = None
        with torch.no_grad():
            for _ in range(2):  # the second pass refines
                masks, quality = sam.decode(embedding.features, prompts, earlier)
                best = sam.decode_best(embedding.features, prompts, earlier)
                torch.testing.assert_close(best, masks[torch.arange(count), quality.argmax(1)], rtol=1e-5, atol=1e-5)
                earlier = 10 * best[:, None]

    def test_model_id_follows_weights_and_image_size(self, sam):
        other = type(sam)(sam.network, name=sam.name, frame=Frame(128))
        assert other.model_id != sam.model_id
        again = type(sam)(sam.network, name=sam.name, frame=sam.frame)
        assert again.model_id == sam.model_id
        parameter = next(iter(sam.network.parameters()))
        with torch.no_grad():
            parameter.view(-1)[0] += 1
            changed = type(sam)(sam.network, name=sam.name, frame=sam.frame)
            assert changed.model_id != sam.model_id
            parameter.view(-1)[0] -= 1

    def test_the_callers_autocast_changes_nothing(self, sam):
        image, prompts = images((40, 64)), points(2, (40, 64))
        (whole,) = sam.encode(image)
        expected = sam.predict(whole, prompts)
        with torch.autocast("cpu", torch.bfloat16):
            (embedding,) = sam.encode(image)
            masks = sam.predict(embedding, prompts)
        assert all(torch.equal(a, b) for a, b in zip(whole.features, embedding.features, strict=True))
        assert torch.equal(masks, expected)


class TestMobileSam:
    def test_another_image_size(self, mobile_file):
        sam = build_sam(config(WEIGHTS=str(mobile_file), IMAGE_SIZE=128), "cpu")
        (embedding,) = sam.encode(images((40, 100)))
        assert embedding.features[0].shape == (256, 8, 8)
        sam.refinement = True
        assert sam.predict(embedding, points(2, (40, 100))).shape == (2, 40, 100)

    def test_on_a_cpu_only_as_many_prompts_at_once_as_its_cache_holds(self):
        network = mobile_network()
        at_once = [SegmentAnything(network, name="m", frame=Frame(side)).prompts_at_once for side in (64, 512, 1024)]
        assert at_once == [64, 8, 2]

    def test_the_host_waits_for_nothing(self):
        """On the meta device, an operation whose result has to be known on the host is an error."""
        sam = SegmentAnything(mobile_network(), name="m", frame=Frame(1024), refinement=True, device="meta")
        (embedding,) = sam.encode([torch.zeros(3, 40, 60, dtype=torch.uint8)])
        masks = sam.predict(embedding, torch.zeros(5, 3, 2))
        assert (masks.shape, masks.device.type) == ((5, 40, 60), "meta")

    def test_the_precision_by_setting(self, mobile_file):
        dtypes = [
            build_sam(config(WEIGHTS=str(mobile_file), DTYPE=dtype), "cpu").dtype
            for dtype in ("auto", "float32", "bfloat16")
        ]
        assert dtypes == [torch.float32, torch.float32, torch.bfloat16]

    def test_a_cache_by_setting(self, mobile_file, tmp_path):
        sam = build_sam(config(WEIGHTS=str(mobile_file), CACHE_DIR=str(tmp_path / "cache")), "cpu")
        assert isinstance(sam, CachedSam)
        sam.encode(images())
        assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_video_folder_of_sam2_gives_the_masks_of_the_librarys_pipeline(tmp_path):
    """Published folders of SAM 2.1 hold the video model."""
    transformers = pytest.importorskip("transformers")
    parts = tiny("sam2").config
    kinds = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    made_of = {kind: getattr(parts, kind).to_dict() for kind in kinds}
    config_class, model_class = transformers.Sam2VideoConfig, transformers.Sam2VideoModel
    model_class(config_class(**made_of, **MEMORY)).save_pretrained(tmp_path)
    sam = build_sam(config(MOBILE=False, TYPE="transformers", WEIGHTS=str(tmp_path)), "cpu")
    assert sam.name == "sam2_video"
    image_processor = transformers.Sam2ImageProcessor(size={"height": 64, "width": 64})
    masks = masks_of_the_library(transformers.Sam2Processor(image_processor), transformers.Sam2Model, tmp_path)
    for view, prompts, expected in masks:
        (embedding,) = sam.encode([view])
        assert (sam.predict(embedding, prompts) == expected).float().mean() > 0.999


class TinyVit(nn.Module):
    """Absolute position embedding of a ViT, which `set_image_size` resizes."""

    def __init__(self):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, 64, 64, 4))


def test_absolute_positions_are_resized():
    network = mobile_network()
    network.image_encoder = TinyVit()
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    network.image_encoder.pos_embed.data[..., 0] = y
    network.image_encoder.pos_embed.data[..., 1] = x
    before = network.image_encoder.pos_embed.detach().clone()
    set_image_size(network, 1024)
    assert torch.equal(network.image_encoder.pos_embed, before)
    set_image_size(network, 512)
    after = network.image_encoder.pos_embed[0]
    assert after.shape == (32, 32, 4)
    assert (after[1:-1, :, 0].diff(dim=0) > 0).all()
    assert (after[:, 1:-1, 1].diff(dim=1) > 0).all()


def test_segment_anythings_own_vit(tmp_path, monkeypatch):
    """A vit_b with two narrow layers, from segment_anything's own builder."""
    # In the package, the function build_sam hides the module build_sam.
    builder = importlib.import_module("segment_anything.build_sam")

    def small():
        return builder._build_sam(32, 2, 2, (1,))

    monkeypatch.setitem(builder.sam_model_registry, "vit_b", small)
    torch.save(small().state_dict(), tmp_path / "vit_b.pth")
    cfg = config(MOBILE=False, TYPE="vit_b", WEIGHTS=str(tmp_path / "vit_b.pth"), IMAGE_SIZE=128)
    sam = build_sam(cfg, "cpu")
    assert isinstance(sam, SegmentAnything)
    (embedding,) = sam.encode(images((40, 64)))
    assert embedding.features[0].shape == (256, 8, 8)
    assert sam.predict(embedding, points(2, (40, 64))).shape == (2, 40, 64)


class TestMistakes:
    def fails(self, match, **settings):
        with pytest.raises(UserError, match=match):
            build_sam(config(**settings), "cpu")

    @pytest.mark.parametrize("kind", ["mobile_sam", "vit_h", "vit_l", "vit_b"])
    def test_missing_weights_name_the_command(self, kind, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        settings = {} if kind == "mobile_sam" else {"MOBILE": False, "TYPE": kind}
        self.fails(r"no file weights/\S+.*clouds weights mobile_sam", **settings)

    def test_a_damaged_file(self, mobile_file, tmp_path):
        path = tmp_path / "half.pt"
        path.write_bytes(mobile_file.read_bytes()[:100_000])
        self.fails(r"half\.pt cannot be read.*clouds weights mobile_sam", WEIGHTS=str(path))
        path.write_bytes(b"text")
        self.fails(r"half\.pt cannot be read", WEIGHTS=str(path))

    @pytest.mark.parametrize("content", [{"a": torch.ones(2)}, [1, 2], torch.ones(2)])
    def test_another_network(self, content, tmp_path):
        torch.save(content, tmp_path / "other.pt")
        self.fails(r"other\.pt are those of another network", WEIGHTS=str(tmp_path / "other.pt"))

    def test_every_key_counts(self, mobile_file, tmp_path):
        state = torch.load(mobile_file)
        extra = {**state, "one_more": torch.ones(1)}
        torch.save(extra, tmp_path / "more.pt")
        self.fails("another network", WEIGHTS=str(tmp_path / "more.pt"))
        state.pop("image_encoder.neck.0.weight")
        torch.save(state, tmp_path / "less.pt")
        self.fails("another network", WEIGHTS=str(tmp_path / "less.pt"))

    def test_settings(self, mobile_file):
        self.fails(r"SAM\.TYPE names 'vit_hh'.*vit_h", MOBILE=False, TYPE="vit_hh")
        with pytest.raises(ValueError, match=r"^side is 1000; it must be a multiple of patch, 16"):
            build_sam(config(WEIGHTS=str(mobile_file), IMAGE_SIZE=1000), "cpu")
        with pytest.raises(ValueError, match=r"^prompts_at_once is 0"):
            build_sam(config(WEIGHTS=str(mobile_file), PROMPTS_AT_ONCE=0), "cpu")

    def test_a_cache_that_cannot_be_written(self, mobile_file, tmp_path):
        (tmp_path / "file").touch()
        self.fails(
            r"folder \S+file \(MODEL\.CLOUDS\.SAM\.CACHE_DIR\): .*\. Set the key to another folder, or to \"\"",
            WEIGHTS=str(mobile_file),
            CACHE_DIR=str(tmp_path / "file"),
        )

    def test_folders(self, folders, tmp_path):
        settings = {"MOBILE": False, "TYPE": "transformers"}
        self.fails("config.json", WEIGHTS=str(tmp_path), **settings)
        self.fails("64 pixels", WEIGHTS=str(folders / "sam"), IMAGE_SIZE=128, **settings)
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        self.fails("'bert'", WEIGHTS=str(tmp_path), **settings)
        (tmp_path / "config.json").write_text((folders / "sam" / "config.json").read_text())
        self.fails("cannot load", WEIGHTS=str(tmp_path), **settings)


class OneMask(Sam):
    """Predicts one mask that covers the image."""

    def __init__(self, device):
        self.device = device
        self.model_id = "one"

    model_id = ""

    def encode(self, images):
        return [Embedding((image.shape[1], image.shape[2]), ()) for image in images]

    def predict(self, embedding, points):
        return torch.ones(len(points), *embedding.size, dtype=torch.bool, device=self.device)


@pytest.fixture
def registered():
    """Register a back end of a user."""

    def one_mask(cfg, device):
        assert cfg.MODEL.CLOUDS.SAM.IMAGE_SIZE == 64
        return OneMask(device)

    if "one_mask" not in SAM_REGISTRY:
        SAM_REGISTRY.register(one_mask)
    return "one_mask"


def test_a_new_back_end_is_one_entry(registered, tmp_path):
    sam = build_sam(config(MOBILE=False, TYPE=registered), "cpu")
    assert isinstance(sam, OneMask)
    assert sam.device == torch.device("cpu")
    (embedding,) = sam.encode(images((4, 6)))
    assert sam.predict(embedding, points(2, (4, 6))).shape == (2, 4, 6)
    cached = build_sam(config(MOBILE=False, TYPE=registered, CACHE_DIR=str(tmp_path)), "cpu")
    assert isinstance(cached, CachedSam)
    assert cached.model_id == "one"


def test_every_published_type_is_registered_by_its_module():
    assert BACK_ENDS.keys() == {"vit_h", "vit_l", "vit_b", "mobile_sam", "transformers", "segment_anything"}
    for name, module in BACK_ENDS.items():
        importlib.import_module(f"clouds.self_training.sam.{module}")
        assert SAM_REGISTRY.get(name).__module__ == f"clouds.self_training.sam.{module}"


def test_the_interface_is_abstract():
    with pytest.raises(TypeError):
        Sam()
    with pytest.raises(TypeError):
        NetworkSam(nn.Identity(), name="x", frame=Frame(64))
    with pytest.raises(TypeError):
        PointSam(nn.Identity(), name="x", frame=Frame(64))
