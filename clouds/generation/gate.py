"""The quality gate: blank images, images that do not show their prompt, images that were there before."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GateSettings:
    """What an image must be.

    Attributes:
        contrast: least standard deviation of its luminance, grey levels of 255.
        similarity: least cosine, -1..1, between CLIP's image and its prompt; None: not measured. What is usual depends
            on the CLIP: look at the quantiles that `--stats` prints first.
        clip: name of a model of open_clip, a `.json` config or a folder with `open_clip_config.json`.
        clip_weights: tag or file of its weights; empty for a folder.
        duplicate_distance: bits of 64; hashes that differ in no more are near-duplicates. None: not looked for.
        attempts: how often an image is painted until it is given up, at least 1.
    """

    contrast: float = 6.0
    similarity: float | None = None
    clip: str = "ViT-B-32"
    clip_weights: str = "laion2b_s34b_b79k"
    duplicate_distance: int | None = 4
    attempts: int = 5


@dataclass(frozen=True)
class Verdict:
    """What the gate says of an image.

    Attributes:
        reason: why it is rejected; None where it is taken.
        similarity: to its prompt, -1..1; None where it was not measured.
        dhash: `difference_hash` of the image.
    """

    reason: str | None
    similarity: float | None
    dhash: str


class Gate:
    """Judges images, each from itself and its prompt alone, so that no order or division of the work matters."""

    def __init__(self, settings: GateSettings, *, device: str) -> None:
        """Load CLIP where similarity is asked for.

        Raises:
            UserError: there is no such CLIP.
        """
        self.settings = settings
        self._similarity = (
            Similarity(settings.clip, settings.clip_weights, device=device) if settings.similarity is not None else None
        )

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]], prompts: Sequence[str]) -> list[Verdict]:
        """A verdict for each (H, W, 3) RGB image."""
        likeness: Sequence[float | None] = [None] * len(images)
        if self._similarity is not None:
            likeness = self._similarity(images, prompts)
        return [self._judge(image, like) for image, like in zip(images, likeness, strict=True)]

    def _judge(self, image: npt.NDArray[np.uint8], similarity: float | None) -> Verdict:
        least, reason = self.settings.similarity, None
        if (contrast := luminance_contrast(image)) < self.settings.contrast:
            reason = f"blank (contrast {contrast:.1f} of 255, at least {self.settings.contrast:g} asked)"
        elif least is not None and similarity is not None and similarity < least:
            reason = f"similarity to its prompt {similarity:.3f}, at least {least:g} asked"
        return Verdict(reason, None if similarity is None else round(similarity, 4), difference_hash(image))


class Similarity:
    """Cosine between CLIP's embeddings of image and text."""

    def __init__(self, model: str, weights: str, *, device: str) -> None:
        import open_clip

        named, pretrained = model, weights or None
        if Path(model).is_dir():
            named, pretrained = f"local-dir:{model}", None
        try:
            self._model, self._transform = open_clip.create_model_from_pretrained(
                named, pretrained=pretrained, device=device
            )
            self._tokenizer: Any = open_clip.get_tokenizer(named)
        # What open_clip and the hub's client raise for names, files and folders that are none.
        except (RuntimeError, ValueError, OSError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"The gate's CLIP {model!r} with weights {weights!r} cannot be loaded ({reason}); check --clip and "
                "--clip-weights, or leave out --min-similarity."
            ) from error
        self._model.eval().requires_grad_(False)
        self._device = device
        self._texts: dict[str, Any] = {}

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]], prompts: Sequence[str]) -> list[float]:
        """-1..1 for each (H, W, 3) RGB image and its prompt."""
        import torch

        with torch.inference_mode():
            for prompt in prompts:
                if prompt not in self._texts:
                    tokens = self._tokenizer([prompt]).to(self._device)
                    self._texts[prompt] = self._model.encode_text(tokens, normalize=True)[0]
            pixels = torch.stack([self._transform(Image.fromarray(image)) for image in images])
            seen = self._model.encode_image(pixels.to(self._device), normalize=True)
            likeness = (seen * torch.stack([self._texts[prompt] for prompt in prompts])).sum(1)
        return [float(value) for value in likeness]


def luminance_contrast(image: npt.NDArray[np.uint8]) -> float:
    """Standard deviation of the luminance of an (H, W, 3) RGB image, 0..127.5."""
    return float(np.asarray(Image.fromarray(image).convert("L"), dtype=np.float32).std())


def difference_hash(image: npt.NDArray[np.uint8]) -> str:
    """64 bits as 16 hexadecimal digits: of a 9 x 8 thumbnail, whether each pixel is darker than its right neighbour."""
    small = np.asarray(Image.fromarray(image).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return np.packbits(small[:, :-1] < small[:, 1:]).tobytes().hex()


def near_duplicates(hashes: Sequence[tuple[int, str]], distance: int) -> dict[int, int]:
    """Which images are too near an earlier one.

    Args:
        hashes: (index, `difference_hash`) of each image.
        distance: bits; hashes that differ in more are not near.

    Returns:
        Index of an image: the lowest index that it is too near to. An image that is in there makes no later one near.
    """
    ordered = sorted(hashes)
    words = np.array([int(text, 16) for _, text in ordered], dtype=np.uint64)
    kept = np.empty(len(ordered), dtype=np.intp)  # places in `ordered`, of which the first `count` are set
    count = 0
    near: dict[int, int] = {}
    for place, (index, _) in enumerate(ordered):
        close = np.bitwise_count(words[kept[:count]] ^ words[place]) <= distance
        if close.any():
            near[index] = ordered[kept[int(close.argmax())]][0]
        else:
            kept[count] = place
            count += 1
    return near


def duplicate_reason(row: dict[str, Any], earlier: dict[str, Any], distance: int) -> str:
    """Why an image with that row of the manifest is rejected for an earlier one."""
    bits = (int(row["dhash"], 16) ^ int(earlier["dhash"], 16)).bit_count()
    return f"near-duplicate of image {earlier['index']} ({bits} of 64 bits differ, more than {distance} asked)"
