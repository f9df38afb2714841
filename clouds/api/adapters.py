"""The adapter of a trained network as files: alone, or merged into its tower."""

import copy
from pathlib import Path

from torch import Tensor, nn

from clouds.api.segmenter import Segmenter
from clouds.d2 import CfgNode
from clouds.errors import UserError
from clouds.modeling.backbone import CLIP, SegmentationBackbone, TimmTower
from clouds.modeling.backbone.adapters.interchange import write_adapter
from clouds.modeling.backbone.timm_models import load_timm
from clouds.utils.torch_files import write_tensors


def save_adapter(model: Segmenter, folder: Path) -> None:
    """Write the adapter of a network into a folder in peft's layout.

    ``MODEL.ADAPTER.WEIGHTS`` starts a training from it, and peft reads LoRA and SoMA onto the same model of timm, see
    `clouds.modeling.backbone.adapters.interchange`.

    Raises:
        UserError: the network has no adapter, or one without a file of its own.
        WriteError: the folder cannot be written.
    """
    backbone = adapted_backbone(model.network)
    try:
        write_adapter(backbone, folder)
    except ValueError as error:
        raise UserError(f"The adapter cannot be written: {error}.") from error


def save_merged_tower(model: Segmenter, file: Path) -> None:
    """Write the tower of a network with its adapter merged into the weights, in the keys of the original tower.

    ``MODEL.BACKBONE.TIMM.WEIGHTS`` or ``MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS`` loads the file, beside the name of the
    tower. The network does not change.

    Raises:
        UserError: the network has no adapter, or it cannot be merged, or the file does not end in .safetensors.
        WriteError: the file cannot be written.
    """
    if file.suffix != ".safetensors":
        raise UserError(f"The merged tower is written as .safetensors, not to {file}: give a file with this ending.")
    backbone = copy.deepcopy(adapted_backbone(model.network))
    try:
        backbone.merge()
    except ValueError as error:
        raise UserError(f"The adapter cannot be merged: {error}; without --merge it is written alone.") from error
    write_tensors(file, _weights_of(backbone, model.cfg))


def adapted_backbone(network: nn.Module) -> SegmentationBackbone:
    """Return the backbone of a network.

    Raises:
        UserError: it has no adapter.
    """
    backbone = dict(network.named_children()).get("backbone")
    if not isinstance(backbone, SegmentationBackbone) or backbone.adapter is None:
        raise UserError("The network has no adapter: give one that was trained with MODEL.ADAPTER.NAME.")
    return backbone


def _weights_of(backbone: SegmentationBackbone, cfg: CfgNode) -> dict[str, Tensor]:
    """Return the weights of a tower by the names that they have where it is loaded from."""
    if isinstance(backbone, CLIP):
        state: dict[str, Tensor] = backbone.clip_model.state_dict()
        return state
    own = backbone.tower.state_dict()
    if isinstance(backbone, TimmTower):  # it has lost what it does not compute, such as its head
        settings = cfg.MODEL.BACKBONE.TIMM
        return load_timm(settings.MODEL_NAME, settings.WEIGHTS).state_dict() | own
    return own
