"""SAM of any size from a folder: segment_anything's modules, their sizes in a JSON file beside the weights.

Letters as in `base`.
"""

import dataclasses
import json
import math
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling import Sam as SamModules
from torch import nn

from clouds.d2 import CfgNode
from clouds.errors import UserError
from clouds.self_training.sam.base import SAM_REGISTRY, point_options
from clouds.self_training.sam.frame import Frame
from clouds.self_training.sam.segment_anything import SegmentAnything, set_image_size
from clouds.self_training.sam.weights import read_weights
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.hashing import write_sha256
from clouds.utils.json_files import read_json
from clouds.utils.torch_files import write_tensors

DESCRIPTION = "segment_anything.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class SamArchitecture:
    """Sizes of a SAM network, named as in `segment_anything.build_sam`.

    Attributes:
        image_size: S, side in pixels of the square that the weights were trained on; other squares are possible.
        vit_patch_size: side in pixels of the image patch of one element of an embedding.
        encoder_embed_dim: channels of the ViT.
        encoder_depth: number of blocks of the ViT.
        encoder_num_heads: attention heads of the ViT.
        encoder_window_size: side, in elements of the embedding, of the windows in which the ViT's blocks attend.
        encoder_global_attn_indexes: indices of the blocks that attend to the whole image instead.
        prompt_embed_dim: C, channels of embeddings and prompts.
        mask_in_chans: hidden channels of the layers that read an earlier mask.
        decoder_depth: layers of the two-way transformer.
        decoder_num_heads: attention heads of the two-way transformer.
        decoder_mlp_dim: hidden channels of the MLPs of the two-way transformer.
        iou_head_hidden_dim: hidden channels of the head that predicts the quality of masks.
    """

    image_size: int
    vit_patch_size: int
    encoder_embed_dim: int
    encoder_depth: int
    encoder_num_heads: int
    encoder_window_size: int
    encoder_global_attn_indexes: tuple[int, ...]
    prompt_embed_dim: int
    mask_in_chans: int
    decoder_depth: int
    decoder_num_heads: int
    decoder_mlp_dim: int
    iou_head_hidden_dim: int


@SAM_REGISTRY.register()
def segment_anything(cfg: CfgNode, device: torch.device) -> SegmentAnything:
    """Build the network that the folder `MODEL.CLOUDS.SAM.WEIGHTS` describes."""
    folder, side = Path(cfg.MODEL.CLOUDS.SAM.WEIGHTS), cfg.MODEL.CLOUDS.SAM.IMAGE_SIZE
    if not (folder / DESCRIPTION).is_file():
        raise UserError(
            f"There is no SAM in {folder} (MODEL.CLOUDS.SAM.WEIGHTS): with TYPE segment_anything it must be a folder "
            f"with {DESCRIPTION} and {WEIGHTS} in it."
        )
    architecture = read_architecture(folder / DESCRIPTION)
    patch = architecture.vit_patch_size
    if side % patch:
        raise UserError(
            f"MODEL.CLOUDS.SAM.IMAGE_SIZE is {side}; for the SAM in {folder} it must be a multiple of its patches, "
            f"{patch} pixels."
        )
    if cfg.MODEL.DEVICE == "meta":
        with torch.device("meta"):
            network = build_network(architecture)
    else:
        network = load_network(folder, architecture)
    set_image_size(network, side, patch)
    # Heads and windows of the attention have no weights: the name must contain the architecture.
    name = f"segment_anything-{zlib.crc32(repr(architecture).encode()):08x}"
    return SegmentAnything(network, name=name, frame=Frame(side), **point_options(cfg, device))


def build_network(architecture: SamArchitecture) -> SamModules:
    """Build a SAM network of the given architecture, without weights."""
    grid = architecture.image_size // architecture.vit_patch_size
    return SamModules(
        image_encoder=ImageEncoderViT(
            img_size=architecture.image_size,
            patch_size=architecture.vit_patch_size,
            embed_dim=architecture.encoder_embed_dim,
            depth=architecture.encoder_depth,
            num_heads=architecture.encoder_num_heads,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=architecture.encoder_window_size,
            global_attn_indexes=architecture.encoder_global_attn_indexes,
            out_chans=architecture.prompt_embed_dim,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=architecture.prompt_embed_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(architecture.image_size, architecture.image_size),
            mask_in_chans=architecture.mask_in_chans,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=architecture.prompt_embed_dim,
            transformer=TwoWayTransformer(
                depth=architecture.decoder_depth,
                embedding_dim=architecture.prompt_embed_dim,
                num_heads=architecture.decoder_num_heads,
                mlp_dim=architecture.decoder_mlp_dim,
            ),
            iou_head_hidden_dim=architecture.iou_head_hidden_dim,
        ),
    )


def read_architecture(file: Path) -> SamArchitecture:
    """Read a `DESCRIPTION`: a JSON object with exactly the attributes of `SamArchitecture`.

    Raises:
        UserError: the file is missing or holds another object, or no network can have these sizes.
    """
    if not file.is_file():
        raise UserError(f"There is no description of a SAM in {file.parent}: the file {file} is missing.")
    content = read_json(file, dict, "copy the folder again")
    keys = {field.name for field in dataclasses.fields(SamArchitecture)}
    found = set(content)
    if found != keys:
        wrong = [*(f"{key} is missing" for key in keys - found), *(f"{key} is unknown" for key in found - keys)]
        raise UserError(f"{file} does not describe a SAM: {', '.join(sorted(wrong))}.")
    blocks = content.pop("encoder_global_attn_indexes")
    numbers = [*content.items(), *(("encoder_global_attn_indexes", block) for block in _list(file, blocks))]
    for key, value in numbers:
        if type(value) is not int or value < (0 if key == "encoder_global_attn_indexes" else 1):
            raise UserError(f"{file}: {key} is {value!r}; it must be a whole number above 0 (a block: 0 or above).")
    architecture = SamArchitecture(**content, encoder_global_attn_indexes=tuple(blocks))
    _check(file, architecture)
    return architecture


def _list(file: Path, blocks: Any) -> list[Any]:
    if not isinstance(blocks, list):
        raise UserError(f"{file}: encoder_global_attn_indexes is {blocks!r}; it must be a list of blocks.")
    return blocks


def _check(file: Path, sizes: SamArchitecture) -> None:
    multiples = {
        "image_size": sizes.vit_patch_size,
        "encoder_embed_dim": sizes.encoder_num_heads,
        # Sines and cosines, upscaling that divides the channels by 8, and attention at half the channels.
        "prompt_embed_dim": math.lcm(8, 2 * sizes.decoder_num_heads),
        "mask_in_chans": 4,
    }
    for key, unit in multiples.items():
        if getattr(sizes, key) % unit:
            raise UserError(
                f"{file}: {key} is {getattr(sizes, key)}; with the other sizes it must be a multiple of {unit}."
            )
    beyond = [block for block in sizes.encoder_global_attn_indexes if block >= sizes.encoder_depth]
    if beyond:
        raise UserError(
            f"{file}: encoder_global_attn_indexes names block {beyond[0]}; the last is {sizes.encoder_depth - 1}."
        )


def load_network(folder: Path, architecture: SamArchitecture) -> SamModules:
    """Build a network and load its weights, of any precision, in float32.

    Args:
        folder: folder with `WEIGHTS`.
        architecture: content of the folder's `DESCRIPTION`.

    Raises:
        UserError: the weights are missing or damaged, or belong to another architecture.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise UserError(f"SAM's weights are missing: there is no file {file}; copy the folder again.")
    network = build_network(architecture)
    try:
        state = read_weights(file)
    except ValueError as error:
        raise UserError(f"SAM's weights {error}: copy the folder again.") from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"SAM's weights {file} are not of the sizes in {DESCRIPTION}: copy the folder again."
        ) from error
    return network


def save_folder(network: SamModules, architecture: SamArchitecture, folder: Path) -> None:
    """Write `DESCRIPTION` and, in float16, `WEIGHTS` with its record to a folder, created if it does not exist."""
    make_folder(folder)
    write_atomically(folder / DESCRIPTION, json.dumps(dataclasses.asdict(architecture), indent=4) + "\n")
    write_tensors(folder / WEIGHTS, {name: value.half() for name, value in network.state_dict().items()})
    write_sha256(folder / WEIGHTS)
