"""Image towers of timm: their names, their weights, and their patch size."""

import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.layers import resample_patch_embed
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.errors import UserError
from clouds.modeling.distributed import first_of_machine_first
from clouds.modeling.initialization import NoRandomInitialization, open_residual_branches
from clouds.modeling.layers import full_precision
from clouds.utils.tensors import find_unusable
from clouds.utils.torch_files import verify_model

PRETRAINED = "pretrained"
"""Name of the weights that a model's own name stands for."""

# With these arguments, a transformer resizes its positions, and a window transformer pads its windows.
_ANY_SIZE = {"dynamic_img_size": True, "strict_img_size": False}
_SOURCES = ("hf-hub:", "local-dir:")


def is_known(name: str) -> bool:
    """Return whether a model has a source of its own, a hub or a folder, or is one that timm knows."""
    return name.startswith(_SOURCES) or Path(name).is_dir() or name in known_models()


def known_models() -> list[str]:
    """Return the names of timm's models, without and with the tags of their weights."""
    return [*timm.list_models(), *timm.list_pretrained()]


def is_published(name: str, weights: str) -> bool:
    """Return whether these names are those of a model and its weights on a hub, and of no file of this machine.

    Args:
        name: name of the model, see `load_timm`.
        weights: its weights, see `load_timm`.
    """
    return weights == PRETRAINED and not name.startswith("local-dir:") and not Path(name).is_dir()


def architecture(model: Any) -> dict[str, Any]:
    """Return the content of a `config.json` in timm's layout, for a model of `load_timm`."""
    settings = model.pretrained_cfg
    kept = ("mean", "std", "input_size", "fixed_input_size", "num_classes")
    arguments = {name: value for name, value in model._model_args.items() if name not in _ANY_SIZE}
    return {
        "architecture": settings["architecture"],
        "model_args": arguments,
        "pretrained_cfg": {name: settings[name] for name in kept},
    }


def load_timm(name: str, weights: str = PRETRAINED, device: str = "cpu") -> nn.Module:
    """Build a model of timm that takes images of any size, and load its weights.

    Args:
        name: timm name, with or without the tag of its weights, `hf-hub:` name, or folder in timm's layout
            (`config.json` and weights).
        weights: `PRETRAINED`, the path of a file, or "" for a random initialization, with the layer scales at 1.
        device: device on which the model is built; on "meta" no weights are loaded.

    Raises:
        UserError: the model is unknown, or its weights cannot be read, differ from their record, are not finite, or
            belong to another model.
    """
    model_name = f"local-dir:{name}" if Path(name).is_dir() else name
    try:
        with first_of_machine_first():
            model = _build(model_name, weights, device)
            if weights and device != "meta":
                for file in _weight_files(model, weights):
                    verify_model(file)
                if problem := find_unusable(model.state_dict()):
                    raise ValueError(problem)
    except Exception as error:  # timm raises exceptions of many types on files that do not fit
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 240)
        raise UserError(
            f"Model {name!r} of timm with weights {weights!r} could not be loaded ({reason}): use a timm name with a "
            "tag (needs a network or a filled cache), a folder in timm's layout, or a name with a weight file."
        ) from error
    if not weights:
        open_residual_branches(model)
    return model


def _build(model_name: str, weights: str, device: str) -> nn.Module:
    # A model without memory, which shows the arguments of its class and its number of classes.
    outline = timm.create_model(model_name, device="meta")
    options: dict[str, Any] = _any_size(outline)
    if device == "meta" or not weights:
        return timm.create_model(model_name, device=device, **options)
    # With another number of classes than its weights, timm would not notice that weights are missing.
    overlay: dict[str, Any] = {"num_classes": outline.num_classes}
    if weights != PRETRAINED:
        if not Path(weights).is_file():
            raise FileNotFoundError(f"{weights} is no file")
        overlay |= {"file": weights, "source": ""}
    # Weights replace every parameter, or timm raises an error.
    with NoRandomInitialization():
        return timm.create_model(model_name, pretrained=True, pretrained_cfg_overlay=overlay, **options)


def _any_size(model: nn.Module) -> dict[str, bool]:
    """Return the arguments with which a model's class takes images of any size."""
    arguments = inspect.signature(type(model).__init__).parameters
    return {name: value for name, value in _ANY_SIZE.items() if name in arguments}


def _weight_files(model: Any, weights: str) -> Iterator[str]:
    """Yield the file or folder from which timm has read the weights of a model."""
    settings = model.pretrained_cfg
    if weights != PRETRAINED:
        yield weights
    elif settings.get("source") == "local-dir":
        yield settings["file"]
    elif repository := settings.get("hf_hub_id"):
        owner, _, revision = repository.partition("@")
        for name in (settings.get("hf_hub_filename"), "model.safetensors", "pytorch_model.bin"):
            found = name and try_to_load_from_cache(owner, name, revision=revision or None)
            if isinstance(found, str):
                yield found
                return


class ResampledPatches(nn.Conv2d):
    """Patch embedding whose kernel is resampled in each pass: its weights remain those of the stored patch size.

    The resampled kernel maps a resized patch to the embedding of the patch, as nearly as possible (FlexiViT, Beyer et
    al., CVPR 2023, section 3.4). A stored kernel does not depend on the rounding of a machine.
    """

    def __init__(self, stored: nn.Conv2d, size: int) -> None:
        """
        Args:
            stored: convolution whose kernel and stride are the patch size of a pretrained model.
            size: patch size in pixels.
        """
        height, width = stored.kernel_size
        kernel, has_bias = (height, width), stored.bias is not None
        super().__init__(stored.in_channels, stored.out_channels, kernel, kernel, bias=has_bias, device="meta")
        self.weight, self.bias = stored.weight, stored.bias
        self.size = size
        # Rows are the resampled unit vectors of the stored kernel's pixels.
        pixels = torch.eye(height * width).unflatten(1, (1, *kernel))
        matrix = resample_patch_embed(pixels, [size, size]).flatten(1)
        self.matrix: Tensor
        self.register_buffer("matrix", matrix.to(stored.weight.device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to (B, C, H / size, W / size)."""
        return F.conv2d(x, self.kernel(), self.bias, stride=self.size)

    @full_precision
    def kernel(self) -> Tensor:
        """Return the resampled kernel, (C, 3, size, size)."""
        return (self.weight.flatten(2) @ self.matrix).unflatten(2, (self.size, self.size))


def resample_patches(model: Any, size: int) -> None:
    """Change the patch size of a vision transformer of timm in place; its state dict stays the same.

    The grid of its position embeddings stays the stored one: it is resized to the grid of each image.

    Args:
        model: model with the attribute `patch_embed`.
        size: patch size in pixels.

    Raises:
        ValueError: the model has another kind of patch embedding.
    """
    embedding: Any = getattr(model, "patch_embed", nn.Module())
    if not isinstance(getattr(embedding, "proj", None), nn.Conv2d) or not hasattr(embedding, "grid_size"):
        raise ValueError("model has no patch embedding that can be resampled")
    embedding.proj = ResampledPatches(embedding.proj, size)
    embedding.patch_size = (size, size)
    embedding.img_size = tuple(size * side for side in embedding.grid_size)
