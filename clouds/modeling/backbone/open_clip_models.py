"""CLIP models of open_clip: their names, their weights and the normalization of their images."""

import textwrap
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from clouds.errors import UserError
from clouds.modeling.distributed import first_of_machine_first
from clouds.modeling.initialization import NoRandomInitialization, open_residual_branches
from clouds.utils.open_clip import open_clip
from clouds.utils.tensors import find_unusable
from clouds.utils.torch_files import verify_model

# Mean and standard deviation of R, G and B in 0..1 that OpenAI trained CLIP with; open_clip's towers keep them.
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def resolve_model_name(name: str) -> str:
    """Return the name under which open_clip knows a model; register the model config if `name` is a JSON file."""
    path = Path(name)
    if path.suffix == ".json":
        if not path.is_file():
            raise UserError(f"CLIP model config {path} does not exist.")
        try:
            open_clip.add_model_config(path)
        except ValueError as error:
            raise UserError(f"CLIP model config {path} is not JSON ({error}).") from error
        if path.stem not in open_clip.list_models():
            raise UserError(f"CLIP model config {path} must hold embed_dim, vision_cfg and text_cfg.")
        return path.stem
    return f"local-dir:{name}" if path.is_dir() else name


def has_own_weights(name: str) -> bool:
    """Return whether a model's weights lie beside its config, in a folder or in a repository of the hub."""
    return name.startswith(("local-dir:", "hf-hub:")) or Path(name).is_dir()


def is_published(name: str, pretrained: str) -> bool:
    """Return whether these names are those of a model and its weights on a hub, and of no file of this machine.

    Args:
        name: name of the model, see `load_open_clip`.
        pretrained: open_clip tag or a weight file.
    """
    return name.startswith("hf-hub:") or bool(open_clip.get_pretrained_cfg(name, pretrained))


def model_config(name: str, pretrained: str = "") -> dict[str, Any]:
    """Return the architecture of a model as `load_open_clip` builds it, to be written as a model config ``*.json``.

    Args:
        name: name of the model, see `load_open_clip`.
        pretrained: open_clip tag or a weight file.
    """
    model_name = resolve_model_name(name)
    config: dict[str, Any] = open_clip.get_model_config(model_name)
    return config | _forced(model_name, pretrained)


def _forced(model_name: str, pretrained: str) -> dict[str, bool]:
    # Weights that were trained with QuickGELU need it, but open_clip only warns. The published setting "RN50" with the
    # tag "openai" is such a model.
    has_quick_gelu = open_clip.get_pretrained_cfg(model_name, pretrained).get("quick_gelu", False)
    return {"quick_gelu": True} if has_quick_gelu else {}


def load_open_clip(name: str, pretrained: str = "", device: str = "cpu") -> nn.Module:
    """Build a CLIP model and load its weights.

    Args:
        name: open_clip name, `hf-hub:` name, folder (`open_clip_config.json` and weights) or model config `*.json`.
        pretrained: open_clip tag or a weight file; "" initializes a named model at random, with the layer scales of a
            ConvNeXt at 1.
        device: device on which the model is built; on "meta" no weights are loaded.

    Raises:
        UserError: the model is unknown, or its weights cannot be read, differ from their record, are not finite, or
            belong to another model.
    """
    model_name = resolve_model_name(name)
    options: dict[str, Any] = {
        "force_quick_gelu": bool(_forced(model_name, pretrained)),
        "device": device,
    }
    if device == "meta":
        options |= {"load_weights": False}
    else:
        options |= {"pretrained": pretrained or None, "require_pretrained": bool(pretrained) or has_own_weights(name)}
    try:
        with first_of_machine_first():
            # open_clip loads every parameter or fails: with weights, a random initialization would be overwritten.
            with NoRandomInitialization() if options.get("require_pretrained") else nullcontext():
                model = open_clip.create_model(model_name, **options)
            if options.get("require_pretrained"):
                for source in _weight_sources(model_name, pretrained):
                    verify_model(source)
                if problem := find_unusable(model.state_dict()):
                    raise ValueError(problem)
    except Exception as error:  # open_clip raises exceptions of many types on files that do not fit
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 240)
        raise UserError(
            f"CLIP model {name!r} with weights {pretrained!r} could not be loaded ({reason}): use an open_clip name "
            "with a tag (needs a network or a filled cache) or a weight file, or a folder with both."
        ) from error
    if not options.get("require_pretrained"):
        open_residual_branches(model)
    return model


def _weight_sources(model_name: str, pretrained: str) -> list[str]:
    """Return the files and folders from which open_clip has read the weights of a model.

    Args:
        model_name: name of the model for open_clip.
        pretrained: tag or file.
    """
    schema, _, place = model_name.partition(":")
    if schema == "local-dir":
        return [place]
    if schema == "hf-hub":
        return [open_clip.pretrained.download_pretrained_from_hf(place)]
    tagged = open_clip.get_pretrained_cfg(model_name, pretrained)
    return [open_clip.download_pretrained(tagged) if tagged else pretrained]  # downloaded before: read from the cache


def normalization(clip_model: nn.Module) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of R, G and B in 0..255 that an open_clip model was trained with."""
    settings = open_clip.get_model_preprocess_cfg(clip_model)
    mean, std = settings.get("mean", MEAN), settings.get("std", STD)
    return [255 * value for value in mean], [255 * value for value in std]
