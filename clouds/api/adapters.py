"""The adapter of a trained network: alone as files, or merged into the network."""

import copy
from pathlib import Path

from torch import nn

from clouds.errors import UserError
from clouds.modeling.backbone import SegmentationBackbone, backbone_of
from clouds.modeling.backbone.adapters.interchange import write_adapter


def save_adapter(network: nn.Module, folder: Path) -> None:
    """Write the adapter of a network into a folder in peft's layout.

    ``MODEL.ADAPTER.WEIGHTS`` starts a training from it, and peft reads LoRA and SoMA onto the same model of timm, see
    `clouds.modeling.backbone.adapters.interchange`.

    Raises:
        UserError: the network has no adapter, or one without a file of its own.
        WriteError: the folder cannot be written.
    """
    backbone = adapted_backbone(network)
    try:
        write_adapter(backbone, folder)
    except ValueError as error:
        raise UserError(f"The adapter cannot be written: {error}.") from error


def merged_network(network: nn.Module) -> nn.Module:
    """Return a copy of a network with its adapter merged into the weights of its frozen tower.

    Raises:
        UserError: the network has no adapter, or it cannot be merged.
    """
    adapted_backbone(network)  # before a copy
    merged = copy.deepcopy(network)
    try:
        adapted_backbone(merged).merge()
    except ValueError as error:
        raise UserError(f"The adapter cannot be merged: {error}; clouds adapter writes it alone.") from error
    return merged


def adapted_backbone(network: nn.Module) -> SegmentationBackbone:
    """Return the backbone of a network.

    Raises:
        UserError: it has no adapter.
    """
    backbone = backbone_of(network)
    if backbone is None or backbone.adapter is None:
        raise UserError("The network has no adapter: give one that was trained with MODEL.ADAPTER.NAME.")
    return backbone
