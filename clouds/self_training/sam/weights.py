"""Published weight files of SAM: where they are expected, and how they are loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clouds.d2 import CfgNode
from clouds.errors import UserError
from clouds.utils.tensors import find_unusable
from clouds.utils.torch_files import read_tensors

WEIGHTS = {
    "mobile_sam": "weights/mobile_sam.pt",
    "vit_h": "weights/sam_vit_h_4b8939.pth",
    "vit_l": "weights/sam_vit_l_0b3195.pth",
    "vit_b": "weights/sam_vit_b_01ec64.pth",
}
"""Default path of the weights by `MODEL.CLOUDS.SAM.TYPE`."""

GET_WEIGHTS = "clouds weights mobile_sam"
"""Command that downloads MobileSAM's weights."""


def build_with_weights(build: Callable[[], nn.Module], kind: str, cfg: CfgNode) -> nn.Module:
    """Build a network and load its weights from `MODEL.CLOUDS.SAM.WEIGHTS`, or from the default path of its type.

    Args:
        build: builds the network; not called if the file is missing.
        kind: key of `WEIGHTS`.
        cfg: final config; on the device "meta" no weights are loaded.

    Raises:
        UserError: the file is missing or damaged, or belongs to another network.
    """
    if cfg.MODEL.DEVICE == "meta":
        with torch.device("meta"):
            return build()
    path = Path(cfg.MODEL.CLOUDS.SAM.WEIGHTS or WEIGHTS[kind])
    remedy = f"get them with `{GET_WEIGHTS}`"
    if kind != "mobile_sam":
        remedy = f"put the published ones of {kind} there, or set MODEL.CLOUDS.SAM.MOBILE True and {remedy}"
    if not path.is_file():
        raise UserError(f"SAM's weights are missing: there is no file {path} (MODEL.CLOUDS.SAM.WEIGHTS); {remedy}.")
    network = build()
    try:
        load_weights(network, path)
    except ValueError as error:
        raise UserError(f"SAM's weights {error}: {remedy}.") from error
    return network


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a state dict that has exactly the keys of the network.

    Args:
        network: network to change in place.
        path: path of the file.

    Raises:
        ValueError: see `read_weights`, or the file belongs to another network. The message begins with the path.
    """
    state = read_weights(path)
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} are those of another network") from error


def read_weights(path: Path) -> Any:
    """Read the weights of a network and compare them with their record, see `clouds.utils.torch_files`.

    Args:
        path: path of a ``.safetensors`` file or of a file of `torch.save`.

    Raises:
        ValueError: the file is damaged or holds numbers that are not finite. The message begins with the path.
    """
    try:
        state = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read (the file is damaged or no state dict: {error})") from error
    tensors = state if isinstance(state, dict) else {}
    if problem := find_unusable({key: value for key, value in tensors.items() if isinstance(value, Tensor)}):
        raise ValueError(f"{path} cannot be used ({problem})")
    return state
