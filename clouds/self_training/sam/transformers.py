"""SAM, SAM 2 and EdgeTAM from a folder that the transformers library can load. Letters as in `interface`."""

from pathlib import Path

import torch
from torch import Tensor, nn

from clouds.errors import UserError
from clouds.self_training.sam.base import NetworkSam

# What the folder's config.json calls itself -> the class that segments images. Published SAM 2 and EdgeTAM folders
# are often those of the video models, which contain the image model.
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
        # Every prompt poses as an image of its own: these models take one mask an image, not one a prompt.
        maps = [each.expand(len(points), *each.shape) for each in features]
        result = self.network(
            image_embeddings=maps if len(maps) > 1 else maps[0],
            input_points=points[:, None],
            input_labels=torch.ones(len(points), 1, points.shape[1], dtype=torch.int, device=points.device),
            input_masks=logits,
            multimask_output=True,
        )
        return result.pred_masks[:, 0], result.iou_scores[:, 0]


def load_folder(folder: Path, side: int) -> tuple[nn.Module, str]:
    """Read a model with its weights.

    Args:
        folder: with config.json and the weights.
        side: S, pixels; must be what the model was made for.

    Returns:
        The network, and what kind it is: a key of `CLASSES`.

    Raises:
        UserError: transformers is not installed, it cannot load the folder, or the model is none of these or made for
            another image size.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "MODEL.CLOUDS.SAM.TYPE is transformers, but that library is not installed: pip install transformers."
        ) from error
    if not (folder / "config.json").is_file():
        raise UserError(
            f"There is no SAM in {folder} (MODEL.CLOUDS.SAM.WEIGHTS): with TYPE transformers it must be a folder with "
            "config.json and the weights beside it."
        )
    try:
        kind = transformers.AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if kind not in CLASSES:
            raise UserError(f"The model in {folder} is of the type {kind!r}; SAM can be one of {', '.join(CLASSES)}.")
        network, report = getattr(transformers, CLASSES[kind]).from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"transformers cannot load the SAM in {folder} ({reason}): copy the folder again.") from error
    if report["missing_keys"] or report["mismatched_keys"]:
        count = len(report["missing_keys"]) + len(report["mismatched_keys"])
        raise UserError(f"The weights in {folder} lack {count} tensors of the {kind} model: copy the folder again.")
    if network.prompt_encoder.input_image_size != side:
        raise UserError(
            f"The SAM in {folder} sees images of {network.prompt_encoder.input_image_size} pixels and no others: set "
            f"MODEL.CLOUDS.SAM.IMAGE_SIZE to that (it is {side})."
        )
    return network, kind
