"""The interface of a SAM back end, what all back ends share, and their registry.

Kirillov et al., *Segment Anything*, ICCV 2023; for class names as prompts, Carion et al., *SAM 3: Segment Anything with
Concepts*, 2025.

Letters: B images, H x W an image, S side of the square that SAM sees, C x h x w a feature map, P prompts, n points of a
prompt, M masks per prompt (three), l side of the mask logits before they are resized.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clouds.d2 import CfgNode, Registry
from clouds.modeling.layers import full_precision
from clouds.modeling.linear import onednn_is_faster, use_onednn
from clouds.self_training.regions import select_best
from clouds.self_training.sam.frame import Frame
from clouds.utils.transfer import upload

# Features of one prompt at 1024 pixels take several MB: on a CPU, more prompts at once leave its cache.
CPU_PIXELS = 2**21

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

SAM_REGISTRY = Registry("SAM")
"""Back ends by `MODEL.CLOUDS.SAM.TYPE`.

An entry is called with (cfg, device) and returns a `Sam` with its weights. Its name is that of the registered function
or class.
"""


class Embedding(NamedTuple):
    """An image after SAM's encoder.

    Attributes:
        size: (H, W) of the image, in pixels.
        features: one or several maps (C, h, w), float32, or float16 if they come from a cache.
    """

    size: tuple[int, int]
    features: tuple[Tensor, ...]


class ClassPrompt(NamedTuple):
    """A class that the teacher sees in an image, as a prompt of a back end that takes class names.

    Attributes:
        names: names of the class, at least one; synonyms.
        regions: (H, W) bool, pixels of the class in the teacher's label map, on the device of the back end.
    """

    names: tuple[str, ...]
    regions: Tensor


class Sam(ABC):
    """Predicts masks from prompts. It is not a module: its weights enter neither state dicts nor optimizers.

    Attributes:
        prompts: kind of prompts that `predict` takes: "points" or "text".
    """

    prompts: str = "points"

    @property
    @abstractmethod
    def model_id(self) -> str:
        """Identifies what an embedding depends on beside the image: the weights, the image size and the precision."""

    @abstractmethod
    def encode(self, images: Sequence[Tensor]) -> list[Embedding]:
        """Embed images.

        Args:
            images: B images (3, H, W) uint8 RGB of any sizes, on any device.
        """

    @abstractmethod
    def predict(self, embedding: Embedding, prompts: Any) -> Tensor:
        """Predict one mask per prompt.

        Args:
            embedding: embedding of the image.
            prompts: with "points", (P, n, 2) float x, y in pixels of the image, those of a prompt inside one object.
                Its mask is the one whose quality SAM predicts to be the best. With "text", a list of P `ClassPrompt`s.
                The mask of a class is the union of its instances that overlap its regions. P may be 0.

        Returns:
            (P, H, W) bool.
        """


class NetworkSam(Sam):
    """Base class of back ends that run a network: it encodes images by `features`, which subclasses define.

    The network is frozen and in evaluation mode. It is not a submodule of anything, so `model.train()` does not affect
    it. Its precision does not depend on the caller's autocast: embeddings are shared between runs, and masks depend on
    the sign of a logit. Prompts are decoded in float32.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        frame: Frame,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            network: network with its weights; it is changed in place.
            name: name of the architecture, the readable part of `model_id`.
            frame: the square that the network sees.
            dtype: number type in which images are encoded; bfloat16 by autocast.
            device: device of the network and of the masks.
        """
        self.network: Any = network.to(device).eval().requires_grad_(False)
        self.name = name
        self.frame = frame
        self.dtype = dtype
        self.device = torch.device(device)
        if self.device.type == "cpu" and onednn_is_faster():
            use_onednn(self.network)

    @cached_property
    def model_id(self) -> str:
        digest = hashlib.sha256()
        for key, value in self.network.state_dict().items():
            digest.update(key.encode())
            digest.update(value.cpu().contiguous().numpy())
        precision = str(self.dtype).removeprefix("torch.")
        if self.dtype is torch.float32:  # "highest", or "high" with TF32
            precision += f"-{torch.get_float32_matmul_precision()}"
        return f"{self.name}-{self.frame.side}-{precision}-{digest.hexdigest()[:16]}"

    @torch.no_grad()
    @full_precision
    def encode(self, images: Sequence[Tensor]) -> list[Embedding]:
        # One at a time: several would only need more memory (3 GB each for ViT-H), on a CPU also more time. And the
        # bits of an embedding do not depend on the other images.
        return [Embedding((image.shape[1], image.shape[2]), self._encode(image)) for image in images]

    def _encode(self, image: Tensor) -> tuple[Tensor, ...]:
        half = self.dtype is torch.bfloat16
        with torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext():
            maps = self.features(self.frame.stack([image], self.device))
        return tuple(each[0].float() for each in maps)

    def maps(self, embedding: Embedding) -> tuple[Tensor, ...]:
        """Return the maps (C, h, w) of an embedding on the device in float32, channels last, as decoders read them."""
        return tuple(
            upload(each[None], self.device).to(torch.float32, memory_format=torch.channels_last)[0]
            for each in embedding.features
        )

    @abstractmethod
    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Encode (B, 3, S, S) normalized images into maps (B, C, h, w)."""


class PointSam(NetworkSam):
    """Base class of back ends whose prompts are points; subclasses define `features` and `decode`."""

    def __init__(
        self, network: nn.Module, *, refinement: bool = False, prompts_at_once: int = 64, **of_network: Any
    ) -> None:
        """
        Args:
            network: network with its weights; it is changed in place.
            refinement: whether to predict a second time, from the best mask logits of the first time.
            prompts_at_once: largest number of prompts that are decoded together; the memory grows with it. On a CPU it
                is at most `CPU_PIXELS` / S^2, but at least 1.
            of_network: other arguments of `NetworkSam`.
        """
        if prompts_at_once < 1:
            raise ValueError(f"prompts_at_once is {prompts_at_once}; it must be 1 or more")
        super().__init__(network, **of_network)
        self.refinement = refinement
        if self.device.type == "cpu":
            prompts_at_once = min(prompts_at_once, max(1, CPU_PIXELS // self.frame.side**2))
        self.prompts_at_once = prompts_at_once

    @torch.no_grad()
    @full_precision
    def predict(self, embedding: Embedding, points: Tensor) -> Tensor:
        features = self.maps(embedding)
        points = self.frame.to_frame(points.to(self.device, torch.float32), embedding.size)
        masks = torch.empty(len(points), *embedding.size, dtype=torch.bool, device=self.device)
        for start in range(0, len(points), self.prompts_at_once):
            chunk = points[start : start + self.prompts_at_once]
            best = self.decode_best(features, chunk, None)
            if self.refinement:
                best = self.decode_best(features, chunk, best[:, None])
            masks[start : start + len(chunk)] = self.frame.to_masks(best, embedding.size)
        return masks

    @abstractmethod
    def decode(self, features: tuple[Tensor, ...], points: Tensor, logits: Tensor | None) -> tuple[Tensor, Tensor]:
        """Decode the prompts of one image.

        Args:
            features: maps (C, h, w) of the image.
            points: (P, n, 2) x, y in pixels of the frame; P is at least 1.
            logits: (P, 1, l, l) mask logits of an earlier pass; None in the first pass.

        Returns:
            Mask logits (P, M, l, l) and their predicted quality (P, M).
        """

    def decode_best(self, features: tuple[Tensor, ...], points: Tensor, logits: Tensor | None) -> Tensor:
        """Decode the prompts of one image and select the mask logits (P, l, l) with the highest predicted quality.

        A back end that can leave out the other masks overrides this; `decode` remains its reference.
        """
        return select_best(*self.decode(features, points, logits))


def network_options(cfg: CfgNode, device: torch.device) -> dict[str, Any]:
    """Return the arguments of `NetworkSam` that do not depend on the back end."""
    return {"dtype": encoder_dtype(cfg, device), "device": device}


def point_options(cfg: CfgNode, device: torch.device) -> dict[str, Any]:
    """Return the arguments of `PointSam` that do not depend on the back end."""
    settings = cfg.MODEL.CLOUDS.SAM
    own = {"refinement": settings.REFINEMENT, "prompts_at_once": settings.PROMPTS_AT_ONCE}
    return own | network_options(cfg, device)


def encoder_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype:
    """Return the number type of SAM's encoder.

    ``MODEL.CLOUDS.SAM.DTYPE`` names it; "auto" is bfloat16 in a mixed-precision training on a GPU that has bfloat16,
    otherwise float32.
    """
    wanted = cfg.MODEL.CLOUDS.SAM.DTYPE
    if wanted == "auto":
        mixed = cfg.SOLVER.AMP.ENABLED and device.type == "cuda"
        wanted = "bfloat16" if mixed and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return DTYPES[wanted]
