"""Similarity of images and prompts by CLIP (Radford et al., 2021)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from clouds.errors import UserError
from clouds.utils.hub import advice
from clouds.utils.open_clip import open_clip
from clouds.utils.torch_files import verify_model


class ClipSimilarity:
    """Cosine between CLIP's embeddings of an image and a text."""

    def __init__(self, model: str, weights: str, *, device: str) -> None:
        """Load the CLIP.

        Args:
            model: name of an open_clip model, a `.json` config, or a folder with `open_clip_config.json`.
            weights: open_clip tag or file of the weights; empty for a folder.
            device: torch device.

        Raises:
            UserError: the model or its weights cannot be loaded.
        """
        name, pretrained = model, weights or None
        if Path(model).is_dir():
            name, pretrained = f"local-dir:{model}", None
        try:
            verify_model(model if Path(model).is_dir() else weights)
            self._model, self._transform = open_clip.create_model_from_pretrained(
                name, pretrained=pretrained, device=device
            )
            self._tokenizer: Any = open_clip.get_tokenizer(name)
        # Raised by open_clip and the hub's client for unknown names and for files and folders without a model.
        except (RuntimeError, ValueError, OSError, KeyError, TypeError) as error:
            raise UserError(
                f"The gate's CLIP {model!r} with weights {weights!r} cannot be loaded: {advice(error, model)}; or "
                "leave out --min-similarity."
            ) from error
        self._model.eval().requires_grad_(False)
        self._device = device
        self._texts: dict[str, torch.Tensor] = {}

    @torch.inference_mode()
    def __call__(self, images: Sequence[npt.NDArray[np.uint8]], prompts: Sequence[str]) -> list[float]:
        """Return the cosine, -1..1, of each image and its prompt.

        Args:
            images: (H, W, 3) uint8 RGB arrays.
            prompts: prompt of each image.
        """
        for prompt in prompts:
            if prompt not in self._texts:
                tokens = self._tokenizer([prompt]).to(self._device)
                self._texts[prompt] = self._model.encode_text(tokens, normalize=True)[0]
        pixels = torch.stack([self._transform(Image.fromarray(image)) for image in images])
        embedded = self._model.encode_image(pixels.to(self._device), normalize=True)
        cosines = (embedded * torch.stack([self._texts[prompt] for prompt in prompts])).sum(1)
        return [float(cosine) for cosine in cosines]
