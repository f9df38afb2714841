"""SAM, SAM 2, SAM 3 and EdgeTAM from a folder that the transformers library can load. Letters as in `base`."""

from pathlib import Path
from typing import Any

import torch
import transformers as library
from torch import Tensor

from clouds.d2 import CfgNode
from clouds.errors import UserError
from clouds.self_training.sam.base import SAM_REGISTRY, NetworkSam, PointSam, network_options, point_options
from clouds.self_training.sam.frame import Frame
from clouds.self_training.sam.text import TextSam
from clouds.utils.tensors import find_unusable
from clouds.utils.torch_files import verify_model

# By kind of prompt: model type in the folder's config.json -> class that segments images. Published folders of SAM 2,
# SAM 3 and EdgeTAM often hold the video model, which contains the image model. That of SAM 3 contains two: a tracker,
# which takes points, and a detector, which takes class names and which the type sam3 is alone.
CLASSES = {
    "points": {
        "sam": "SamModel",
        **dict.fromkeys(("sam2", "sam2_video"), "Sam2Model"),
        **dict.fromkeys(("sam3_tracker", "sam3_tracker_video", "sam3_video"), "Sam3TrackerModel"),
        **dict.fromkeys(("edgetam", "edgetam_video"), "EdgeTamModel"),
    },
    "text": {**dict.fromkeys(("sam3", "sam3_video"), "Sam3Model"), "sam3_lite_text": "Sam3LiteTextModel"},
}
GRAY = (127.5, 127.5, 127.5)
"""Mean and standard deviation of R, G and B that SAM 3 normalizes images with, in 0..255."""


class TransformersSam(PointSam):
    """A `SamModel`, `Sam2Model`, `Sam3TrackerModel` or `EdgeTamModel`."""

    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        maps = self.network.get_image_embeddings(pixels)
        return (maps,) if isinstance(maps, Tensor) else tuple(maps)

    def decode(self, features: tuple[Tensor, ...], points: Tensor, logits: Tensor | None) -> tuple[Tensor, Tensor]:
        # These models take one mask per image, not per prompt: the image is repeated for each prompt.
        maps = [each.expand(len(points), *each.shape) for each in features]
        result = self.network(
            image_embeddings=maps if len(maps) > 1 else maps[0],
            input_points=points[:, None],
            input_labels=torch.ones(len(points), 1, points.shape[1], dtype=torch.int, device=points.device),
            input_masks=logits,
            multimask_output=True,
        )
        return result.pred_masks[:, 0], result.iou_scores[:, 0]


@SAM_REGISTRY.register()
def transformers(cfg: CfgNode, device: torch.device) -> NetworkSam:
    """Build the model in the folder `MODEL.CLOUDS.SAM.WEIGHTS` that takes the prompts `MODEL.CLOUDS.SAM.PROMPTS`."""
    settings = cfg.MODEL.CLOUDS.SAM
    folder, side = Path(settings.WEIGHTS), settings.IMAGE_SIZE
    if not (folder / "config.json").is_file():
        raise UserError(
            f"There is no SAM in {folder} (MODEL.CLOUDS.SAM.WEIGHTS): with TYPE transformers it must be a folder with "
            "config.json and the weights beside it."
        )
    network, model_type = load_folder(cfg)
    of_text = settings.PROMPTS == "text"
    seen = network.config.image_size if of_text else network.prompt_encoder.input_image_size
    if seen != side:
        raise UserError(
            f"The SAM in {folder} sees images of {seen} pixels and no others: set MODEL.CLOUDS.SAM.IMAGE_SIZE to that "
            f"(it is {side})."
        )
    of_sam3 = {"mean": GRAY, "std": GRAY} if model_type.startswith("sam3") else {}
    frame = Frame(side, keep_aspect=model_type == "sam", **of_sam3)
    if not of_text:
        return TransformersSam(network, name=model_type, frame=frame, **point_options(cfg, device))
    return TextSam(
        network,
        tokenizer=load_tokenizer(folder, network.config.text_config.vocab_size),
        score_threshold=settings.SCORE_THRESHOLD,
        name=model_type,
        frame=frame,
        **network_options(cfg, device),
    )


def load_folder(cfg: CfgNode) -> tuple[Any, str]:
    """Load the model in the folder `MODEL.CLOUDS.SAM.WEIGHTS` that takes the prompts `MODEL.CLOUDS.SAM.PROMPTS`.

    Returns:
        The network, and its model type, a key of ``CLASSES[prompts]``.

    Raises:
        UserError: transformers cannot load the folder, or the model is of another type.
    """
    folder, prompts = Path(cfg.MODEL.CLOUDS.SAM.WEIGHTS), cfg.MODEL.CLOUDS.SAM.PROMPTS
    try:
        model_type = library.AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        check_type(cfg, model_type)
        verify_model(folder)
        network, report = getattr(library, CLASSES[prompts][model_type]).from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"transformers cannot load the SAM in {folder} ({reason}): copy the folder again.") from error
    if report["missing_keys"] or report["mismatched_keys"]:
        count = len(report["missing_keys"]) + len(report["mismatched_keys"])
        raise UserError(
            f"The weights in {folder} lack {count} tensors of the {model_type} model: copy the folder again."
        )
    if problem := find_unusable(network.state_dict()):
        raise UserError(f"The weights in {folder} cannot be used ({problem}): copy the folder again.")
    return network, model_type


def check_type(cfg: CfgNode, model_type: str) -> None:
    """Check that a model type is that of a SAM that takes the prompts `MODEL.CLOUDS.SAM.PROMPTS`.

    Raises:
        UserError: it is that of another model, or of a SAM that takes the other kind of prompts only.
    """
    folder, prompts = cfg.MODEL.CLOUDS.SAM.WEIGHTS, cfg.MODEL.CLOUDS.SAM.PROMPTS
    others = [kind for kind in CLASSES if model_type in CLASSES[kind]]
    if prompts in others:
        return
    if others:
        raise UserError(
            f"The SAM in {folder} is of the type {model_type!r}, which takes {others[0]} as prompts: set "
            f"MODEL.CLOUDS.SAM.PROMPTS {others[0]}, or MODEL.CLOUDS.SAM.WEIGHTS to a folder of the type "
            f"{' or '.join(CLASSES[prompts])}."
        )
    raise UserError(
        f"The model in {folder} is of the type {model_type!r}; SAM can be one of {', '.join(CLASSES[prompts])}."
    )


def load_tokenizer(folder: Path, vocabulary: int) -> Any:
    """Load the tokenizer of a model's text encoder.

    Args:
        folder: folder with config.json and the files of the tokenizer.
        vocabulary: number of tokens that the text encoder knows.

    Raises:
        UserError: the files are missing or damaged, or belong to another model.
    """
    # Without them, transformers makes a tokenizer that knows no word.
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise UserError(
            f"The SAM in {folder} has no tokenizer, which class names as prompts need: copy tokenizer.json and "
            "tokenizer_config.json from the folder it was published in."
        )
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of the tokenizers library, which has no type for it
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"The tokenizer in {folder} cannot be read ({reason}): copy the folder again.") from error
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"The tokenizer in {folder} has {len(tokenizer)} tokens, but the text encoder knows {vocabulary}: copy the "
            "folder again."
        )
    return tokenizer
