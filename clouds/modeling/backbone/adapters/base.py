"""The registry of adapters, and how a config adds one to a backbone.

A new adapter is a subclass of `clouds.modeling.backbone.base.Adapter` in `ADAPTER_REGISTRY`; `MODEL.ADAPTER.NAME` names
it. It is called with (cfg, backbone) and puts itself into the tower of the backbone: it changes layers or hooks into
blocks. `tests/modeling/test_adapters.py` has a small example.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from clouds.d2 import CfgNode, Registry
from clouds.errors import UserError, check_name
from clouds.modeling.backbone.adapters.interchange import read_adapter
from clouds.modeling.backbone.base import SegmentationBackbone
from clouds.modeling.linear import maps_channels

ADAPTER_REGISTRY = Registry("ADAPTER")
"""Adapters by `MODEL.ADAPTER.NAME`, called with (cfg, backbone)."""

_SHOWN = 6  # names in a message


def build_adapter(cfg: CfgNode, backbone: SegmentationBackbone) -> None:
    """Add the adapter that ``MODEL.ADAPTER.NAME`` names to a frozen backbone; "" adds none.

    Raises:
        UserError: there is no such adapter, or it does not fit the tower.
    """
    name, tower = cfg.MODEL.ADAPTER.NAME, cfg.MODEL.BACKBONE.NAME
    if not name:
        return
    check_name("MODEL.ADAPTER.NAME", name, dict(ADAPTER_REGISTRY))
    if backbone.trainable:
        raise UserError(
            f"MODEL.ADAPTER.NAME is {name}, but MODEL.BACKBONE.NAME {tower} trains its whole tower: an adapter needs a "
            "frozen one, such as CLIP or TimmTower."
        )
    try:
        adapter = ADAPTER_REGISTRY.get(name)(cfg, backbone)
        if cfg.MODEL.ADAPTER.WEIGHTS:
            read_adapter(backbone, adapter, Path(cfg.MODEL.ADAPTER.WEIGHTS))
    except ValueError as error:  # it begins with the name of an argument, which is that of a key in lower case
        argument, _, problem = str(error).partition(" ")
        if argument.upper() not in cfg.MODEL.ADAPTER:
            raise
        raise UserError(f"MODEL.ADAPTER.{argument.upper()} {problem} (adapter {name}, backbone {tower}).") from error
    backbone.adapt(adapter)


def adapted_blocks(backbone: SegmentationBackbone, skip_blocks: int) -> list[nn.Module]:
    """Return the blocks of a backbone without the first `skip_blocks`.

    Raises:
        ValueError: no block is left.
    """
    blocks = backbone.blocks
    if skip_blocks >= len(blocks):
        raise ValueError(
            f"skip_blocks is {skip_blocks}, but the tower has {len(blocks)} blocks, of which one must be left"
        )
    return blocks[skip_blocks:]


def adapted_layers(backbone: SegmentationBackbone, patterns: Sequence[str], skip_blocks: int) -> dict[str, nn.Module]:
    """Find the linear layers, pointwise convolutions among them, that an adapter changes.

    Args:
        backbone: backbone with blocks.
        patterns: regular expressions; a layer is chosen if one of them matches its whole name inside its block.
        skip_blocks: number of blocks at the tower's beginning without a chosen layer.

    Returns:
        The layers by their names in the tower, in the order of the blocks.

    Raises:
        ValueError: a pattern matches no linear layer.
    """
    names = {module: name for name, module in backbone.tower.named_modules()}
    blocks = adapted_blocks(backbone, skip_blocks)
    inside = {layer: name for block in blocks for name, layer in block.named_modules() if maps_channels(layer)}
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in inside.values()):
            known = ", ".join(list(dict.fromkeys(inside.values()))[:_SHOWN]) or "none"
            raise ValueError(f"patterns has {pattern!r}, which matches no linear layer in a block; there are: {known}")
    chosen = [layer for layer, name in inside.items() if any(re.fullmatch(each, name) for each in patterns)]
    return {names[layer]: layer for layer in chosen}
