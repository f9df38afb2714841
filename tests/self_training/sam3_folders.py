"""Folders of SAM 3 with random weights, in the layouts in which its models are published.

The networks see images of 64 x 64 pixels in 4 x 4 patches, the fewest with windows in the image encoder.
"""

import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

SIDE = 64
WIDTH = 32  # the group norms of the mask decoder have 8 groups
QUERIES = 6
TRUNK = {
    "model_type": "sam3_vit_model",
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 16,
    "window_size": 2,
    "global_attn_indexes": [1],
    "pretrain_image_size": 32,
}
VISION = {
    "backbone_config": TRUNK,
    "fpn_hidden_size": WIDTH,
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
}
TOKENS = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
TEXT = {
    "vocab_size": len(TOKENS) + 2,
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "projection_dim": 16,
    "bos_token_id": len(TOKENS),
    "eos_token_id": len(TOKENS) + 1,
}
LAYERS = {"hidden_size": WIDTH, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": WIDTH}
DETECTOR = {
    "vision_config": VISION,
    "text_config": {"model_type": "clip_text_model", **TEXT},
    "geometry_encoder_config": LAYERS,
    "detr_encoder_config": LAYERS,
    "detr_decoder_config": {**LAYERS, "num_queries": QUERIES},
    "mask_decoder_config": {"hidden_size": WIDTH, "num_attention_heads": 2},
}
TRACKER = {
    "vision_config": VISION,
    "prompt_encoder_config": {"hidden_size": WIDTH, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4},
    "mask_decoder_config": {
        "hidden_size": WIDTH,
        "mlp_dim": WIDTH,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": WIDTH,
    },
}
MEMORY = {
    "image_size": SIDE,
    "memory_attention_num_layers": 1,
    "memory_attention_hidden_size": WIDTH,
    "memory_attention_feed_forward_hidden_size": WIDTH,
    "memory_encoder_hidden_size": WIDTH,
    "memory_encoder_output_channels": 16,
    "mask_downsampler_embed_dim": WIDTH,
    "memory_fuser_num_layers": 1,
    "memory_fuser_embed_dim": WIDTH,
    "memory_fuser_intermediate_dim": WIDTH,
}


def write_sam3(folder: Path, kind: str) -> Path:
    """Write a model of a type: sam3, sam3_video, sam3_lite_text, sam3_tracker or sam3_tracker_video."""
    network = build_sam3(kind)
    network.config.save_pretrained(folder)
    # As published: `save_pretrained` of this library version writes the tracker's prefix twice.
    save_file({key: value.clone() for key, value in network.state_dict().items()}, folder / "model.safetensors")
    if not kind.startswith("sam3_tracker"):
        vocabulary = {token: number for number, token in enumerate([*TOKENS, "<|startoftext|>", "<|endoftext|>"])}
        transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    return folder


def build_sam3(kind: str) -> Any:
    """Build a model of a type with weights so large that its scores and masks differ between prompts."""
    name, settings = {
        "sam3": ("Sam3", DETECTOR),
        "sam3_lite_text": ("Sam3LiteText", {**DETECTOR, "text_config": TEXT}),
        "sam3_tracker": ("Sam3Tracker", TRACKER),
        "sam3_tracker_video": ("Sam3TrackerVideo", TRACKER | MEMORY),
        "sam3_video": ("Sam3Video", both(DETECTOR, TRACKER | MEMORY)),
    }[kind]
    torch.manual_seed(1)
    network = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**settings))
    enlarge(network)
    return network


def both(detector: Mapping[str, Any], tracker: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the video model, which contains a detector and a tracker."""
    return {
        "detector_config": {"model_type": "sam3", **detector},
        "tracker_config": {"model_type": "sam3_tracker_video", **tracker},
    }


@torch.no_grad()
def enlarge(network: nn.Module) -> None:
    """Scale the random matrices of a network, which its library initializes close to 0."""
    for value in network.parameters():
        if value.dim() > 1:
            value.mul_(8)


def image(height: int, width: int, seed: int = 0) -> Tensor:
    """Return (3, height, width) uint8: four noisy fields of different color."""
    generator = torch.Generator().manual_seed(seed)
    fields = torch.randint(40, 216, (3, 2, 2), generator=generator).float()
    noise = torch.randint(-40, 40, (3, height, width), generator=generator)
    return (nn.functional.interpolate(fields[None], (height, width))[0] + noise).byte()


def masks_of_the_library(processor: Any, model_class: Any, folder: Path) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield images of several sizes, points (P, n, 2), and the best masks (P, H, W) by transformers' pipeline."""
    model = model_class.from_pretrained(folder).eval()
    for height, width in [(SIDE, SIDE), (40, 60), (90, 50)]:
        view = image(height, width)
        points = torch.rand(3, 4, 2) * torch.tensor([width - 1.0, height - 1.0])
        picture = Image.fromarray(view.permute(1, 2, 0).numpy())
        labels = torch.ones(1, *points.shape[:2], dtype=torch.int)
        inputs = processor(images=picture, input_points=points[None], input_labels=labels, return_tensors="pt")
        sizes = inputs.pop("original_sizes")
        with torch.no_grad():
            outputs = model(**inputs)
        [masks] = processor.post_process_masks(outputs.pred_masks, sizes)
        yield view, points, masks[torch.arange(3), outputs.iou_scores[0].argmax(dim=1)]
