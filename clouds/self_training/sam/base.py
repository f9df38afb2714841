"""What every SAM back end offers, and what they share (Kirillov et al., Segment Anything, ICCV 2023).

Letters: B images, H x W an image, S side of the square that SAM sees, C x h x w an embedding's map, P prompts, n points
of a prompt, M mask outputs of a prompt (three), l side of the logits before they are resized.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clouds.modeling.layers import full_precision
from clouds.self_training.regions import select_best
from clouds.self_training.sam.frame import Frame


class Embedding(NamedTuple):
    """An image as SAM's encoder sees it.

    Attributes:
        size: (H, W) of the image, pixels.
        features: maps (C, h, w), one or several, float32, or float16 where they come out of a cache.
    """

    size: tuple[int, int]
    features: tuple[Tensor, ...]


class Sam(ABC):
    """Masks for points. No `nn.Module`: its weights enter no state dict, no optimizer and no data parallelism."""

    @property
    @abstractmethod
    def model_id(self) -> str:
        """Another one for other weights and another image size: what an embedding depends on besides its image."""

    @abstractmethod
    def encode(self, images: Sequence[Tensor]) -> list[Embedding]:
        """Embed images in one batch.

        Args:
            images: B images, each (3, H, W) uint8 RGB of any size, on any device.
        """

    @abstractmethod
    def predict(self, embedding: Embedding, points: Tensor) -> Tensor:
        """One mask a prompt: of SAM's three the one whose quality it predicts to be the best.

        Args:
            embedding: of the image.
            points: (P, n, 2) float x, y in pixels of the image, all inside the thing that is asked for; P may be 0.

        Returns:
            (P, H, W) bool.
        """


class NetworkSam(Sam):
    """A network with its frame: all that the back ends have in common. They add `features` and `decode`.

    The network is frozen and in eval mode, and nobody who switches a model's mode reaches it here. It computes in
    float32, also under autocast: embeddings are kept and shared between runs, and masks turn on the sign of a logit.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        frame: Frame,
        refinement: bool = False,
        prompts_at_once: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            network: with its weights; it is changed in place.
            name: of the architecture, the readable part of `model_id`.
            frame: the square that the network sees.
            refinement: a second pass, which is shown the best logits of the first.
            prompts_at_once: prompts decoded together; the memory grows with it.
            device: where the network runs and masks are returned.
        """
        self.network: Any = network.to(device).eval().requires_grad_(False)
        self.name = name
        self.frame = frame
        self.refinement = refinement
        self.prompts_at_once = prompts_at_once
        self.device = torch.device(device)

    @cached_property
    def model_id(self) -> str:
        digest = hashlib.sha256()
        for key, value in self.network.state_dict().items():
            digest.update(key.encode())
            digest.update(value.cpu().contiguous().numpy())
        return f"{self.name}-{self.frame.side}-{digest.hexdigest()[:16]}"

    @torch.no_grad()
    @full_precision
    def encode(self, images: Sequence[Tensor]) -> list[Embedding]:
        if not images:
            return []
        maps = self.features(self.frame.stack(images, self.device))
        return [
            Embedding((image.shape[1], image.shape[2]), features)
            for image, features in zip(images, zip(*maps, strict=True), strict=True)
        ]

    @torch.no_grad()
    @full_precision
    def predict(self, embedding: Embedding, points: Tensor) -> Tensor:
        features = tuple(each.to(self.device, torch.float32) for each in embedding.features)
        points = self.frame.to_frame(points.to(self.device, torch.float32), embedding.size)
        masks = torch.empty(len(points), *embedding.size, dtype=torch.bool, device=self.device)
        for start in range(0, len(points), self.prompts_at_once):
            chunk = points[start : start + self.prompts_at_once]
            # Chosen before it is resized: two thirds of the full-size masks are never made.
            best = select_best(*self.decode(features, chunk, None))
            if self.refinement:
                best = select_best(*self.decode(features, chunk, best[:, None]))
            masks[start : start + len(chunk)] = self.frame.to_masks(best, embedding.size)
        return masks

    @abstractmethod
    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Encode (B, 3, S, S) normalised images into maps (B, C, h, w)."""

    @abstractmethod
    def decode(self, features: tuple[Tensor, ...], points: Tensor, logits: Tensor | None) -> tuple[Tensor, Tensor]:
        """Decode the prompts of one image.

        Args:
            features: maps (C, h, w) of the image.
            points: (P, n, 2) x, y in pixels of the frame, P at least 1.
            logits: (P, 1, l, l), what an earlier pass said; None in the first.

        Returns:
            Mask logits (P, M, l, l), and their predicted quality (P, M).
        """
