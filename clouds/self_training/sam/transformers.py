"""SAM, SAM 2 and EdgeTAM from a folder that the transformers library can load. Letters as in `base`."""

from pathlib import Path
from typing import Any

import torch
import transformers as library
from torch import Tensor

from clouds.d2 import CfgNode
from clouds.errors import UserError
from clouds.self_training.sam.base import SAM_REGISTRY, NetworkSam, network_options
from clouds.self_training.sam.frame import Frame
from clouds.utils.tensors import find_unusable
from clouds.utils.torch_files import verify_model

# Model type in the folder's config.json -> class that segments images. Published folders of SAM 2 and EdgeTAM often
# hold the video model, which contains the image model.
CLASSES = {
    "sam": "SamModel",
    "sam2": "Sam2Model",
    "sam2_video": "Sam2Model",
    "edgetam": "EdgeTamModel",
    "edgetam_video": "EdgeTamModel",
}


class TransformersSam(NetworkSam):
    """A `SamModel`, `Sam2Model` or `EdgeTamModel`."""

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
def transformers(cfg: CfgNode, device: torch.device) -> TransformersSam:
    """Build the model in the folder `MODEL.CLOUDS.SAM.WEIGHTS`."""
    folder, side = Path(cfg.MODEL.CLOUDS.SAM.WEIGHTS), cfg.MODEL.CLOUDS.SAM.IMAGE_SIZE
    if not (folder / "config.json").is_file():
        raise UserError(
            f"There is no SAM in {folder} (MODEL.CLOUDS.SAM.WEIGHTS): with TYPE transformers it must be a folder with "
            "config.json and the weights beside it."
        )
    network, model_type = load_folder(folder)
    if network.prompt_encoder.input_image_size != side:
        raise UserError(
            f"The SAM in {folder} sees images of {network.prompt_encoder.input_image_size} pixels and no others: set "
            f"MODEL.CLOUDS.SAM.IMAGE_SIZE to that (it is {side})."
        )
    frame = Frame(side, keep_aspect=model_type == "sam")
    return TransformersSam(network, name=model_type, frame=frame, **network_options(cfg, device))


def load_folder(folder: Path) -> tuple[Any, str]:
    """Load a model with its weights.

    Args:
        folder: folder with config.json and the weights.

    Returns:
        The network, and its model type, a key of `CLASSES`.

    Raises:
        UserError: transformers cannot load the folder, or the model is of another type.
    """
    try:
        model_type = library.AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if model_type not in CLASSES:
            raise UserError(
                f"The model in {folder} is of the type {model_type!r}; SAM can be one of {', '.join(CLASSES)}."
            )
        verify_model(folder)
        network, report = getattr(library, CLASSES[model_type]).from_pretrained(
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
