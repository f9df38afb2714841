"""SAM of any size from a folder with its description, with random weights."""

import dataclasses
import importlib
import json

import pytest
import torch

from clouds.config import get_config
from clouds.errors import UserError
from clouds.self_training.sam import build_sam
from clouds.self_training.sam.frame import Frame
from clouds.self_training.sam.segment_anything import SegmentAnything, set_image_size
from clouds.self_training.sam.segment_anything_folder import (
    DESCRIPTION,
    WEIGHTS,
    SamArchitecture,
    build_network,
    load_network,
    read_architecture,
    save_folder,
)

TINY = SamArchitecture(
    image_size=64,
    vit_patch_size=8,
    encoder_embed_dim=16,
    encoder_depth=2,
    encoder_num_heads=2,
    encoder_window_size=4,
    encoder_global_attn_indexes=(1,),
    prompt_embed_dim=16,
    mask_in_chans=4,
    decoder_depth=1,
    decoder_num_heads=2,
    decoder_mlp_dim=16,
    iou_head_hidden_dim=8,
)


def from_folder(folder, **settings):
    cfg = get_config()
    given = {"MOBILE": False, "TYPE": "segment_anything", "WEIGHTS": str(folder), "IMAGE_SIZE": 64, "CACHE_DIR": ""}
    for key, value in {**given, **settings}.items():
        cfg.MODEL.CLOUDS.SAM[key] = value
    return build_sam(cfg, "cpu")


@pytest.fixture
def folder(tmp_path):
    network = build_network(TINY)
    torch.nn.init.normal_(network.image_encoder.pos_embed)
    save_folder(network, TINY, tmp_path / "sam")
    return tmp_path / "sam"


def images():
    return [torch.randint(256, (3, *size), dtype=torch.uint8) for size in ((40, 64), (90, 50))]


def test_a_folder_becomes_a_sam_that_gives_masks(folder):
    sam = from_folder(folder)
    assert isinstance(sam, SegmentAnything)
    assert all(value.dtype == torch.float32 for value in sam.network.state_dict().values())
    for image, embedding in zip(images(), sam.encode(images()), strict=True):
        size = tuple(image.shape[1:])
        assert embedding.size == size
        assert embedding.features[0].shape == (16, 8, 8)
        masks = sam.predict(embedding, torch.rand(5, 3, 2) * torch.tensor([size[1] - 1.0, size[0] - 1.0]))
        assert (masks.shape, masks.dtype) == ((5, *size), torch.bool)


def test_what_was_saved_is_what_is_loaded(tmp_path):
    network = build_network(TINY)
    save_folder(network, TINY, tmp_path)
    assert read_architecture(tmp_path / DESCRIPTION) == TINY
    loaded = load_network(tmp_path, TINY)
    for (key, ours), (other, theirs) in zip(network.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert key == other
        assert torch.equal(ours.half().float(), theirs)


def test_another_image_size(folder):
    whole, other = from_folder(folder), from_folder(folder, IMAGE_SIZE=128, REFINEMENT=True)
    (embedding,) = other.encode(images()[:1])
    assert embedding.features[0].shape == (16, 16, 16)
    assert other.predict(embedding, torch.rand(2, 3, 2) * 40).shape == (2, 40, 64)
    # The positions keep their order.
    small, large = (each.network.image_encoder.pos_embed.permute(0, 3, 1, 2) for each in (whole, other))
    back = torch.nn.functional.interpolate(large, (8, 8), mode="area")
    assert torch.nn.functional.cosine_similarity(back.flatten(), small.flatten(), dim=0) > 0.9


def test_it_is_segment_anythings_own_network():
    """A vit_b of two narrow layers, built by segment_anything and from its description, computes equal numbers."""
    # In the package, the function build_sam hides the module build_sam.
    theirs = importlib.import_module("segment_anything.build_sam")._build_sam(32, 2, 2, (1,))
    sizes = SamArchitecture(
        image_size=1024,
        vit_patch_size=16,
        encoder_embed_dim=32,
        encoder_depth=2,
        encoder_num_heads=2,
        encoder_window_size=14,
        encoder_global_attn_indexes=(1,),
        prompt_embed_dim=256,
        mask_in_chans=16,
        decoder_depth=2,
        decoder_num_heads=8,
        decoder_mlp_dim=2048,
        iou_head_hidden_dim=256,
    )
    ours = build_network(sizes)
    ours.load_state_dict(theirs.state_dict())
    pixels, points = torch.rand(1, 3, 128, 128), torch.rand(3, 2, 2) * 100
    answers = []
    for network in (ours, theirs):
        set_image_size(network, 128)
        sam = SegmentAnything(network, name="x", frame=Frame(128))
        with torch.no_grad():
            features = sam.features(pixels)[0][0]
            answers.append((features, *sam.decode((features,), points, None)))
    for one, other in zip(*answers, strict=True):
        assert torch.equal(one, other)


def test_sizes_that_show_in_no_weight_show_in_the_model_id(folder):
    before = from_folder(folder).model_id
    assert from_folder(folder).model_id == before
    rewrite(folder, decoder_num_heads=4)
    assert from_folder(folder).model_id != before


def rewrite(folder, **changes):
    content = dataclasses.asdict(TINY) | changes
    (folder / DESCRIPTION).write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


class TestMistakes:
    def fails(self, folder, match, **settings):
        with pytest.raises(UserError, match=match):
            from_folder(folder, **settings)

    def test_nothing_there(self, folder, tmp_path):
        self.fails(tmp_path / "nowhere", rf"no SAM in \S+nowhere .*folder with {DESCRIPTION} and {WEIGHTS}")
        (folder / WEIGHTS).unlink()
        self.fails(folder, rf"no file \S+{WEIGHTS}; copy the folder again")

    @pytest.mark.parametrize("length", [0, 5, 3000, -1])
    def test_half_of_the_weights(self, folder, length):
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[:length])
        self.fails(folder, rf"{WEIGHTS} cannot be read \(the file is damaged .*copy the folder again")

    def test_changed_bytes(self, folder):
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[:-64] + bytes(byte ^ 1 for byte in content[-64:]))
        self.fails(folder, rf"{WEIGHTS} cannot be read \(.*its checksum differs\): copy the folder again")

    def test_weights_that_are_not_finite(self, folder):
        network = build_network(TINY)
        network.mask_decoder.iou_token.weight.data[0, 0] = float("nan")
        save_folder(network, TINY, folder)
        self.fails(folder, rf"{WEIGHTS} cannot be used \('mask_decoder.iou_token.weight' is not finite\)")

    def test_weights_of_another_network(self, folder, tmp_path):
        other = dataclasses.replace(TINY, encoder_depth=3)
        save_folder(build_network(other), other, tmp_path / "other")
        for name in (WEIGHTS, f"{WEIGHTS}.sha256"):
            (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
        self.fails(folder, f"not of the sizes in {DESCRIPTION}")
        rewrite(folder, encoder_embed_dim=32)
        self.fails(folder, f"not of the sizes in {DESCRIPTION}")

    @pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\x00", b"image_size: 64"])
    def test_no_json(self, folder, text):
        (folder / DESCRIPTION).write_bytes(text)
        self.fails(folder, rf"{DESCRIPTION} is damaged.*copy the folder again")

    @pytest.mark.parametrize("text", ["[]", "3", "null"])
    def test_another_json(self, folder, text):
        (folder / DESCRIPTION).write_text(text)
        self.fails(folder, rf"{DESCRIPTION} does not hold a JSON object: copy the folder again")

    def test_an_empty_object(self, folder):
        (folder / DESCRIPTION).write_text("{}")
        self.fails(folder, "does not describe a SAM: decoder_depth is missing")

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"image_size": ...}, "does not describe a SAM: image_size is missing"),
            ({"images": 3}, "does not describe a SAM: images is unknown"),
            ({"encoder_depth": 0}, "encoder_depth is 0; it must be a whole number above 0"),
            ({"encoder_depth": 2.0}, r"encoder_depth is 2\.0; it must be a whole number"),
            ({"encoder_depth": True}, "encoder_depth is True; it must be a whole number"),
            ({"decoder_mlp_dim": "16"}, "decoder_mlp_dim is '16'; it must be a whole number"),
            ({"encoder_global_attn_indexes": 1}, "encoder_global_attn_indexes is 1; it must be a list"),
            ({"encoder_global_attn_indexes": [-1]}, "encoder_global_attn_indexes is -1"),
            ({"encoder_global_attn_indexes": [2]}, "names block 2; the last is 1"),
            ({"image_size": 60}, "image_size is 60; .* multiple of 8"),
            ({"encoder_num_heads": 3}, "encoder_embed_dim is 16; .* multiple of 3"),
            ({"prompt_embed_dim": 12}, "prompt_embed_dim is 12; .* multiple of 8"),
            ({"decoder_num_heads": 3}, "prompt_embed_dim is 16; .* multiple of 24"),
            ({"mask_in_chans": 6}, "mask_in_chans is 6; .* multiple of 4"),
        ],
    )
    def test_sizes_that_cannot_be(self, folder, changes, match):
        rewrite(folder, **changes)
        self.fails(folder, match)

    def test_image_sizes(self, folder):
        rewrite(folder, vit_patch_size=16, image_size=48)
        self.fails(folder, "not of the sizes")
        rewrite(folder, vit_patch_size=3, image_size=48)
        self.fails(folder, "IMAGE_SIZE is 64; .* multiple of its patches, 3 pixels")

    def test_an_unknown_type_names_this_one_too(self):
        self.fails("", "nearest that do: segment_anything", TYPE="segment-anything")
