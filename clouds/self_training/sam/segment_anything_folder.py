"""SAM of any size: segment-anything's modules, their sizes in a file beside the weights. Letters as in `interface`."""

import dataclasses
import json
import math
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling import Sam as SamModules
from torch import nn

from clouds.errors import UserError
from clouds.self_training.sam.segment_anything import set_image_size

DESCRIPTION = "segment_anything.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Sizes:
    """What tells one SAM from another, in the words of `segment_anything.build_sam`.

    Attributes:
        image_size: S, pixels, what the weights were trained on; another size will do.
        vit_patch_size: pixels, side of what becomes one element of the embedding.
        encoder_embed_dim: channels of the ViT.
        encoder_depth: its blocks.
        encoder_num_heads: of its attention.
        encoder_window_size: elements, side of the windows inside which its blocks attend.
        encoder_global_attn_indexes: the blocks that attend to everything instead.
        prompt_embed_dim: C.
        mask_in_chans: hidden channels that read an earlier mask.
        decoder_depth: layers of the two-way transformer.
        decoder_num_heads: of its attention.
        decoder_mlp_dim: hidden channels of its MLPs.
        iou_head_hidden_dim: hidden channels of the head that predicts quality.
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


def described_sam(sizes: Sizes) -> SamModules:
    """A SAM of these sizes, not yet with its weights."""
    grid = sizes.image_size // sizes.vit_patch_size
    return SamModules(
        image_encoder=ImageEncoderViT(
            img_size=sizes.image_size,
            patch_size=sizes.vit_patch_size,
            embed_dim=sizes.encoder_embed_dim,
            depth=sizes.encoder_depth,
            num_heads=sizes.encoder_num_heads,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=sizes.encoder_window_size,
            global_attn_indexes=sizes.encoder_global_attn_indexes,
            out_chans=sizes.prompt_embed_dim,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=sizes.prompt_embed_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(sizes.image_size, sizes.image_size),
            mask_in_chans=sizes.mask_in_chans,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=sizes.prompt_embed_dim,
            transformer=TwoWayTransformer(
                depth=sizes.decoder_depth,
                embedding_dim=sizes.prompt_embed_dim,
                num_heads=sizes.decoder_num_heads,
                mlp_dim=sizes.decoder_mlp_dim,
            ),
            iou_head_hidden_dim=sizes.iou_head_hidden_dim,
        ),
    )


def read_sizes(file: Path) -> Sizes:
    """Read a `DESCRIPTION`: a JSON object with every attribute of `Sizes` and nothing else.

    Raises:
        UserError: it is missing or no such object, or there can be no network of these sizes.
    """
    if not file.is_file():
        raise UserError(
            f"There is no SAM in {file.parent} (MODEL.CLOUDS.SAM.WEIGHTS): with TYPE segment_anything it must be a "
            f"folder with {DESCRIPTION} and {WEIGHTS} in it."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged, it is no JSON ({error}): copy the folder again.") from error
    keys = {field.name for field in dataclasses.fields(Sizes)}
    found = set(content) if isinstance(content, dict) else set()
    if found != keys:
        wrong = [*(f"{key} is missing" for key in keys - found), *(f"{key} is unknown" for key in found - keys)]
        raise UserError(f"{file} does not describe a SAM: {', '.join(sorted(wrong))}.")
    blocks = content.pop("encoder_global_attn_indexes")
    numbers = [*content.items(), *(("encoder_global_attn_indexes", block) for block in _list(file, blocks))]
    for key, value in numbers:
        if type(value) is not int or value < (0 if key == "encoder_global_attn_indexes" else 1):
            raise UserError(f"{file}: {key} is {value!r}; it must be a whole number above 0 (a block: 0 or above).")
    sizes = Sizes(**content, encoder_global_attn_indexes=tuple(blocks))
    _check(file, sizes)
    return sizes


def _list(file: Path, blocks: Any) -> list[Any]:
    if not isinstance(blocks, list):
        raise UserError(f"{file}: encoder_global_attn_indexes is {blocks!r}; it must be a list of blocks.")
    return blocks


def _check(file: Path, sizes: Sizes) -> None:
    multiples = {
        "image_size": sizes.vit_patch_size,
        "encoder_embed_dim": sizes.encoder_num_heads,
        # Sines and cosines, upscaling to an eighth, attention at half the channels.
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


def load_described(folder: Path, side: int) -> tuple[SamModules, str]:
    """Read a network with its weights, of whatever precision, in float32.

    Args:
        folder: with `DESCRIPTION` and `WEIGHTS`.
        side: S, pixels, of the images it will see.

    Returns:
        The network, and a name that other sizes do not have: heads and windows of the attention show in no weight.

    Raises:
        UserError: a file is missing, damaged or does not fit the other, or patches do not fit into the square.
    """
    sizes = read_sizes(folder / DESCRIPTION)
    if side % sizes.vit_patch_size:
        raise UserError(
            f"MODEL.CLOUDS.SAM.IMAGE_SIZE is {side}; for the SAM in {folder} it must be a multiple of "
            f"{sizes.vit_patch_size}, its patches."
        )
    file = folder / WEIGHTS
    if not file.is_file():
        raise UserError(f"SAM's weights are missing: there is no file {file}; copy the folder again.")
    network = described_sam(sizes)
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"SAM's weights {file} are damaged ({error}): copy the folder again.") from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"SAM's weights {file} are not of the sizes in {DESCRIPTION}: copy the folder again."
        ) from error
    set_image_size(network, side, sizes.vit_patch_size)
    return network, f"segment_anything-{zlib.crc32(repr(sizes).encode()):08x}"


def save_described(network: SamModules, sizes: Sizes, folder: Path) -> None:
    """Write `DESCRIPTION` and, in float16, `WEIGHTS`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).write_text(json.dumps(dataclasses.asdict(sizes), indent=4) + "\n", encoding="utf-8")
    weights = {name: value.detach().half().cpu().contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
