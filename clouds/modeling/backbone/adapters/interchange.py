"""The folder of an adapter alone, without tower and head, in the layout of peft.

adapter_model.safetensors   factors by the name of their layer; for Rein, its own parameters
adapter_config.json         kind, rank and scale; its `revision` is the digest of the tower's weights

peft reads LoRA and SoMA from it onto the same model of timm, SoMA as a LoRA of rank 2r: its difference from W. An EVA
model of timm with biases of queries and values calls its layers only if their `qkv_bias_separate` is True. Rein has no
counterpart in peft.
"""

import json
from pathlib import Path

from torch import Tensor

from clouds.errors import UserError
from clouds.modeling.backbone.base import Adapter, SegmentationBackbone
from clouds.utils.atomic import atomic_folder, write_atomically
from clouds.utils.json_files import read_json
from clouds.utils.tensors import find_unusable, tensors_sha256
from clouds.utils.torch_files import read_tensors, write_tensors

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_DIGEST_LENGTH = 64  # of `tensors_sha256`, in hexadecimal digits
_REMEDY = "give a folder that clouds adapter or peft wrote"


def write_adapter(backbone: SegmentationBackbone, folder: Path) -> None:
    """Write the adapter of a backbone into a folder.

    Raises:
        ValueError: the backbone has no adapter.
        WriteError: the folder cannot be written.
    """
    if backbone.adapter is None:
        raise ValueError("backbone has no adapter")
    tensors, config = backbone.adapter.exported()
    config = {"base_model_name_or_path": None, "revision": tower_digest(backbone), **config}
    with atomic_folder(folder) as part:
        write_tensors(part / TENSORS, tensors)
        write_atomically(part / CONFIG, json.dumps(config, indent=2) + "\n")


def read_adapter(backbone: SegmentationBackbone, adapter: Adapter, folder: Path) -> None:
    """Copy the values of a folder into an adapter that has been put into the tower of a backbone.

    Raises:
        UserError: the folder cannot be read.
        ValueError: its adapter is of another kind, rank or tower. The message begins with ``weights``.
    """
    config = read_json(folder / CONFIG, dict, _REMEDY)
    try:
        tensors = read_tensors(folder / TENSORS)
    except ValueError as error:
        raise UserError(f"{folder / TENSORS} cannot be read ({error}): {_REMEDY}.") from error
    if problem := find_unusable(tensors):
        raise UserError(f"{folder / TENSORS} cannot be used ({problem}): {_REMEDY}.")
    # peft writes the commit of a base model there, which has another length.
    recorded = config.get("revision")
    if isinstance(recorded, str) and len(recorded) == _DIGEST_LENGTH and recorded != tower_digest(backbone):
        raise ValueError(f"weights is {folder}, an adapter that was trained on other weights of the tower")
    try:
        adapter.load_exported(tensors, config)
    except ValueError as error:
        raise ValueError(f"weights is {folder}, which does not fit: {error}") from error


def tower_digest(backbone: SegmentationBackbone) -> str:
    """Return the digest of the frozen parameters of a backbone's tower, see `tensors_sha256`."""
    return tensors_sha256({name: each for name, each in backbone.tower.named_parameters() if not each.requires_grad})


def fitted(tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return tensors of a file if they have the expected names and shapes.

    Raises:
        ValueError: a tensor is missing, unknown or of another shape.
    """
    if missing := shapes.keys() - tensors.keys():
        raise ValueError(f"it lacks {min(missing)}")
    if unknown := tensors.keys() - shapes.keys():
        raise ValueError(f"it has {min(unknown)}, which is not adapted here")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{name} is {tuple(tensors[name].shape)} in the file and {shape} here")
    return tensors
