"""The meta-architecture: published keys, freezing, odd batches, clear errors."""

import json
import logging
import uuid
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clouds.clouds import CLOUDS
from clouds.config import get_config, load_config
from clouds.d2 import SEM_SEG_HEADS_REGISTRY, Instances, build_model
from clouds.errors import UserError
from clouds.modeling.backbone.clip import CLIP
from clouds.modeling.backbone.open_clip_models import load_open_clip
from clouds.modeling.transformer_decoder import TRANSFORMER_DECODER_REGISTRY
from clouds.utils.hashing import write_sha256
from tests.marks import slow
from tests.parity import golden

CONFIGS = Path(__file__).parents[2] / "configs"
FULL_SIZE = {"convnext_large": "train_gta.yaml", "rn50": "train_gta_r50.yaml", "rn101": "train_gta_r101.yaml"}


@pytest.mark.parametrize("suffix", ["", "_textdecoder"])
@pytest.mark.parametrize("name", ["rn50", *slow("convnext_large", "rn101")])
def test_full_size_models_have_the_published_keys(name, suffix):
    decoder = "MultiScaleMaskedTransformerDecoder" if suffix else "OriginalMultiScaleMaskedTransformerDecoder"
    opts = ["MODEL.DEVICE", "meta", "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", decoder]
    model = build_model(load_config(str(CONFIGS / "warmup" / "gta" / FULL_SIZE[name]), opts))
    lines = (golden.ROOT / f"state_dict_keys_{name}{suffix}.txt").read_text().splitlines()
    published = {key: (shape, dtype) for key, shape, dtype in (line.split("\t") for line in lines)}
    ours = {k: (str(tuple(v.shape)), str(v.dtype).removeprefix("torch.")) for k, v in model.state_dict().items()}
    assert ours == published


@pytest.fixture(scope="module")
def frozen() -> CLOUDS:
    return golden.build("convnext_closed")


def test_a_frozen_tower_stays_as_it_is(frozen):
    frozen.train()
    assert not any(module.training for module in frozen.backbone.modules())
    assert not any(p.requires_grad for p in frozen.backbone.parameters())
    assert frozen.sem_seg_head.training
    assert not frozen.backbone(torch.zeros(1, 3, 32, 32))["res5"].requires_grad


@pytest.mark.parametrize("case", ["convnext_closed", "rn_closed"])
def test_a_trained_tower_gets_a_gradient_everywhere(case):
    model = golden.build(case, "MODEL.BACKBONE.NAME", "TrainableCLIP").train()
    sum(model(golden.batch()).values()).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert any(p.requires_grad for p in model.backbone.parameters())


def test_pooled_linear_head_trains(frozen):
    cfg = golden.golden_config(
        "convnext_closed", "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "BisMultiScaleMaskedTransformerDecoder"
    )
    model = build_model(cfg).train()
    sum(model(golden.batch()).values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("registry", [SEM_SEG_HEADS_REGISTRY, TRANSFORMER_DECODER_REGISTRY])
def test_a_head_that_does_not_say_whether_it_uses_text_is_one_sentence(registry):
    name = f"Own_{uuid.uuid4().hex}"  # registries keep every name
    registry.register(type(name, (nn.Module,), {"__init__": lambda self, *_: nn.Module.__init__(self)}))
    key = "SEM_SEG_HEAD.NAME" if registry is SEM_SEG_HEADS_REGISTRY else "MASK_FORMER.TRANSFORMER_DECODER_NAME"
    cfg = golden.golden_config("convnext_closed", f"MODEL.{key}", name)
    with pytest.raises(UserError, match=r"^MODEL\.SEM_SEG_HEAD\.NAME is .*uses_text is not True or False: set it"):
        build_model(cfg)


def test_text_is_encoded_only_when_something_uses_it(frozen, monkeypatch):
    monkeypatch.setattr(type(frozen.backbone), "encode_text", lambda *_: pytest.fail("encoded"))
    with torch.no_grad():
        frozen.eval()(golden.batch())
        frozen.train()(golden.batch())


def test_text_is_encoded_once(monkeypatch):
    model = golden.build("convnext_text").eval()
    first = model.text_classifier(model.test_classes)
    monkeypatch.setattr(type(model.backbone), "encode_text", lambda *_: pytest.fail("encoded twice"))
    torch.testing.assert_close(model.text_classifier(model.test_classes).embeddings, first.embeddings)
    assert model.text_classifier(model.train_classes).names_per_class == first.names_per_class


def test_batches_with_all_or_some_images_unlabelled_train(frozen):
    frozen.train()
    for keep in ((), (0,)):
        inputs = golden.batch()
        for i, x in enumerate(inputs):
            if i not in keep:
                empty = Instances(x["instances"].image_size)
                empty.gt_classes = torch.zeros(0, dtype=torch.int64)
                empty.gt_masks = torch.zeros(0, *x["instances"].image_size, dtype=torch.bool)
                x["instances"] = empty
        losses = frozen(inputs)
        assert all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()


def test_more_targets_than_queries_train():
    model = build_model(golden.golden_config("convnext_closed", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 3)).train()
    assert all(loss.isfinite() for loss in model(golden.batch()).values())


def test_the_answer_has_the_size_asked_for(frozen):
    image = golden.batch()[0]["image"]
    with torch.no_grad():
        (own,) = frozen.eval()([{"image": image}])
        (asked,) = frozen([{"image": image, "height": 31, "width": 77}])
    assert own["sem_seg"].shape == (19, 96, 128)
    assert asked["sem_seg"].shape == (19, 31, 77)


@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("case", ["convnext_text", "convnext_closed"])
def test_label_maps_are_the_classes_of_the_highest_scores(case, ensemble):
    model = golden.build(case, "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE", ensemble).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.sem_seg_head.predictor.parameters():  # label maps with more than one class
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    inputs = [x | {"height": h, "width": w} for x, (h, w) in zip(golden.batch(), ((96, 128), (131, 50)), strict=True)]
    labels = model.predict_labels(inputs)
    with torch.no_grad():
        scores = [x["sem_seg"] for x in model(inputs)]
    assert [each.dtype for each in labels] == [torch.uint8] * 2
    for ours, expected in zip(labels, scores, strict=True):
        assert len(expected.argmax(dim=0).unique()) > 1
        assert torch.equal(ours, expected.argmax(dim=0).byte())


def test_features_given_in_the_batch_stay(frozen):
    batch = golden.batch()
    canvas = frozen.canvas(batch)
    with torch.no_grad():
        features = frozen.features(batch, canvas)
        given = [{**x, "features": features} for x in batch]
        frozen.eval()
        expected, names = frozen.predict(batch, canvas), set(features)
        assert torch.equal(frozen.predict(given, canvas).mask_logits, expected.mask_logits)
    assert set(features) == names


def test_deep_supervision_off_leaves_the_last_losses():
    model = build_model(golden.golden_config("convnext_closed", "MODEL.MASK_FORMER.DEEP_SUPERVISION", False)).train()
    assert set(model(golden.batch())) == {"loss_ce", "loss_mask", "loss_dice"}


class TestErrors:
    def test_unknown_clip(self):
        cfg = golden.golden_config("convnext_closed", "MODEL.CLOUDS.CLIP_MODEL_NAME", "convnext_lage_d_320")
        with pytest.raises(UserError, match=r"NAME names 'convnext_lage_d_320'.*: convnext_large_d_320, ") as error:
            build_model(cfg)
        assert len(str(error.value)) < 200
        with pytest.raises(UserError, match=r"^CLIP model 'convnext_lage_d_320' .*not found"):
            load_open_clip("convnext_lage_d_320")

    def test_weights_that_are_not_there(self):
        with pytest.raises(UserError, match=r"nowhere\.pt"):
            load_open_clip(str(golden.ROOT / "clip_configs" / "convnext_h2tiny.json"), "nowhere.pt")
        cfg = golden.golden_config("convnext_closed", "MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS", "nowhere.pt")
        with pytest.raises(UserError, match=r"nowhere\.pt.*; check MODEL\.CLOUDS\.CLIP_MODEL_NAME and MODEL\.CLOUDS\."):
            build_model(cfg)

    def test_missing_model_config(self):
        with pytest.raises(UserError, match=r"^CLIP model config nowhere\.json does not exist"):
            load_open_clip("nowhere.json")

    def test_model_config_that_is_none(self, tmp_path, monkeypatch):
        monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [])  # open_clip keeps registered folders
        (tmp_path / "empty.json").write_text("{}")
        with pytest.raises(UserError, match=r"empty\.json must hold embed_dim"):
            load_open_clip(str(tmp_path / "empty.json"))
        (tmp_path / "half.json").write_text("{")
        with pytest.raises(UserError, match=r"half\.json is not JSON"):
            load_open_clip(str(tmp_path / "half.json"))

    def test_weights_of_another_tower(self, tmp_path):
        torch.save({"positional_embedding": torch.zeros(77, 16), "visual.proj": torch.zeros(2)}, tmp_path / "other.pt")
        with pytest.raises(UserError, match=r"other\.pt' could not be loaded \(") as error:
            load_open_clip(str(golden.ROOT / "clip_configs" / "RN_h2tiny.json"), str(tmp_path / "other.pt"))
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("form", ["torch", "safetensors", "folder"])
    def test_weights_with_changed_bytes(self, tmp_path, form):
        source = golden.ROOT / "clip_configs" / "convnext_h2tiny.json"
        state = load_open_clip(str(source)).state_dict()
        if form == "folder":
            name, pretrained, path = tmp_path, "", tmp_path / "open_clip_model.safetensors"
            config = {"model_cfg": json.loads(source.read_text())}
            (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        else:
            name, pretrained = source, str(tmp_path / ("w.pt" if form == "torch" else "w.safetensors"))
            path = Path(pretrained)
        if form == "torch":
            torch.save(state, path)
        else:
            save_file(state, path)
            write_sha256(path)
        load_open_clip(str(name), pretrained)
        content = path.read_bytes()
        at = content.index(state["positional_embedding"].numpy().tobytes())
        path.write_bytes(content[:at] + bytes(byte ^ 1 for byte in content[at : at + 64]) + content[at + 64 :])
        with pytest.raises(
            UserError, match=r"could not be loaded \(ValueError: .* is damaged \(its checksum differs\)\)"
        ):
            load_open_clip(str(name), pretrained)

    def test_weights_that_are_not_finite(self, tmp_path):
        source = golden.ROOT / "clip_configs" / "convnext_h2tiny.json"
        state = load_open_clip(str(source)).state_dict()
        state["visual.trunk.stem.0.bias"][1] = float("inf")
        torch.save(state, tmp_path / "w.pt")
        with pytest.raises(UserError, match=r"'visual\.trunk\.stem\.0\.bias' is not finite"):
            load_open_clip(str(source), str(tmp_path / "w.pt"))

    def test_a_folder_needs_weights(self, tmp_path):
        vision = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "mlp", "image_size": 64}
        text = {"context_length": 77, "vocab_size": 99, "width": 16, "heads": 2, "layers": 1}
        config = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="could not be loaded"):
            load_open_clip(str(tmp_path))
        torch.save(open_clip.create_model(f"local-dir:{tmp_path}").state_dict(), tmp_path / "open_clip_model.pth")
        load_open_clip(str(tmp_path))

    def test_vision_transformer(self):
        cfg = golden.golden_config(
            "convnext_closed", "MODEL.DEVICE", "meta", "MODEL.CLOUDS.CLIP_MODEL_NAME", "ViT-B-32"
        )
        with pytest.raises(UserError, match=r"'ViT-B-32' has a VisionTransformer as image tower; .* such as convnext"):
            build_model(cfg)
        with pytest.raises(ValueError, match=r"^clip_model has a VisionTransformer"):
            CLIP(clip_model=load_open_clip("ViT-B-32", device="meta"), model_name="ViT-B-32")

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("MODEL.BACKBONE.NAME", "CLOP", r"MODEL\.BACKBONE\.NAME names 'CLOP'.* CLIP"),
            ("MODEL.SEM_SEG_HEAD.NAME", "CloudsHead", "SEM_SEG_HEAD.NAME .* CLOUDSHead"),
            ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttn", "PIXEL_DECODER_NAME .* MSDeformAttnPixelDecoder"),
            ("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res4", "res6"], "IN_FEATURES names 'res6'"),
            (
                "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES",
                ["res2"],
                r"ENCODER_IN_FEATURES is \['res2'\]; .* COMMON_STRIDE 4 it must give 3 feature maps or more",
            ),
            ("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "Decoder", "DECODER_NAME names 'Decoder'"),
        ],
    )
    def test_settings_that_no_network_can_have(self, key, value, message):
        with pytest.raises(UserError, match=message):
            build_model(golden.golden_config("convnext_closed", key, value))

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("MODEL.SEM_SEG_HEAD.CONVS_DIM", 72, "^conv_dim is 72; it must be a multiple of the 32 groups"),
            ("MODEL.SEM_SEG_HEAD.NORM", "BN", "^norm is 'BN'"),
            (
                "MODEL.SEM_SEG_HEAD.IN_FEATURES",
                ["res4", "res5"],
                "^encoder_in_features names res3; input_shape has res4",
            ),
            ("MODEL.MASK_FORMER.NHEADS", 7, "^dim is 64; it must be a multiple of num_heads, 7"),
        ],
    )
    def test_constructors_check_their_arguments(self, key, value, message):
        with pytest.raises(ValueError, match=message):
            build_model(golden.golden_config("convnext_closed", key, value))

    def test_embedding_dimension(self):
        with pytest.raises(UserError, match=r"EMBED_DIM 64"):
            build_model(golden.golden_config("convnext_text", "MODEL.CLOUDS.EMBED_DIM", 768))

    def test_number_of_classes(self):
        with pytest.raises(UserError, match=r"NUM_CLASSES 19"):
            build_model(golden.golden_config("convnext_closed", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 18))

    def test_device_that_is_not_resolved(self):
        with pytest.raises(UserError, match=r"^MODEL\.DEVICE is auto.*\.resolve_device "):
            build_model(golden.golden_config("convnext_closed", "MODEL.DEVICE", "auto"))

    @pytest.mark.parametrize("key", ["DATASETS.TRAIN", "DATASETS.TEST"])
    @pytest.mark.parametrize("source", ["DATASETS.CUSTOM", "DATASETS.MODULES"])
    def test_classes_that_are_not_known(self, key, source):
        opts = (key, ("nobody_registered_this",), source, ("mine",))
        message = rf"^{key} names 'nobody_registered_this', which is not registered.*\.register_datasets "
        with pytest.raises(UserError, match=message):
            build_model(golden.golden_config("convnext_closed", *opts))


def test_random_tower_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        load_open_clip(str(golden.ROOT / "clip_configs" / "convnext_h2tiny.json"))
    assert "initialized randomly" in caplog.text


@pytest.mark.parametrize(
    ("name", "tag", "quick"),
    [
        ("RN50", "openai", True),
        ("RN50", "yfcc15m", True),
        ("RN50", "cc12m", True),
        ("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup", False),
        ("RN50", "w.pt", False),
    ],
)
def test_the_activation_is_the_one_that_the_weights_were_trained_with(monkeypatch, name, tag, quick):
    asked = []
    monkeypatch.setattr(open_clip, "create_model", lambda name, **options: asked.append(options) or torch.nn.Identity())
    monkeypatch.setattr(open_clip, "download_pretrained", lambda tagged: "not downloaded")
    load_open_clip(name, tag)
    load_open_clip(name)
    assert asked[0]["force_quick_gelu"] is quick
    assert asked[0]["require_pretrained"]
    assert not asked[1]["require_pretrained"]


def test_default_config_names_the_published_model():
    cfg = get_config()
    assert cfg.MODEL.CLOUDS.CLIP_MODEL_NAME == "convnext_large_d_320"
