"""Training of the miniature SAM: from points in a scene to the mask of the object or region that they lie on.

Network and losses are SAM's (Kirillov et al., ICCV 2023). SAM learned from a billion masks, this one from some ten
thousand views of scenes. So an auxiliary `ClassReader`, which is not part of the model, predicts the class of every
pixel from the image embedding: each view teaches the encoder with all of its pixels, not only with the regions of its
prompts. At test time a prompt is points alone, without a class. The images are those of `minicity.world.wide`, never of
a validation domain.

Letters: B views, H x W a view, P prompts of a view, n points of a prompt, M mask outputs of a prompt (three), S side of
the square that the network sees, s side of the image embedding, l side of the mask logits, C channels of the embedding.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.self_training.sam.base import PointSam
from clouds.self_training.sam.frame import Frame
from minicity.sam.losses import prompt_loss
from minicity.sam.pool import LabeledScenes
from minicity.sam.prompts import VIEW, PointPrompts, choose_prompts, class_regions, random_view, whole_objects
from minicity.training.images import augment
from minicity.training.loop import TrainingSettings, fit
from minicity.world.classes import Label
from minicity.world.pool import Pixels

MIN_AREA = 32
"""Smallest area of a region or object that a prompt may ask for, in pixels of a view."""


@dataclass(frozen=True, kw_only=True)
class SamTraining(TrainingSettings):
    """Settings of the training of SAM.

    Attributes:
        views: number of views in a step.
        prompts: number of prompts of a view.
        max_points: highest number of points of a prompt.
        matrix_rate: highest learning rate of matrices, which have an optimizer of their own.
        weight_decay: weight decay of matrices and kernels.
        whole: probability that a view shows the whole scene.
        reading: weight of the loss of the `ClassReader`.
        refined: probability that the decoder gets the masks of a view in a second pass.
        bfloat16: whether the image encoder computes in bfloat16, which is faster on some processors.
    """

    views: int = 4
    prompts: int = 8
    max_points: int = 5
    learning_rate: float = 1.5e-3
    matrix_rate: float = 4e-3
    weight_decay: float = 0.05
    whole: float = 0.4
    reading: float = 1.0
    refined: float = 0.25
    bfloat16: bool = False


def view_logits(logits: Tensor, frame: Frame, size: tuple[int, int]) -> Tensor:
    """Resize logits to a view by way of the square, as `Frame.to_masks` does, but without a threshold.

    Args:
        logits: (P, M, l, l) of the square.
        frame: square that the network sees.
        size: (H, W) of the view.

    Returns:
        (P, M, H, W).
    """
    height, width = frame.fit(size)
    maps = F.interpolate(logits, (frame.side, frame.side), mode="bilinear")[..., :height, :width]
    return maps if (height, width) == size else F.interpolate(maps, size, mode="bilinear")


class ClassReader(nn.Module):
    """Predicts the class of every pixel from the image embedding, at four times its size. Used in training only."""

    SCALE = 4

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.predict = nn.Conv2d(channels, len(Label) * self.SCALE**2, 1)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map an embedding (B, C, s, s) to logits (B, classes, 4 s, 4 s)."""
        return F.pixel_shuffle(self.predict(embedding), self.SCALE)

    def loss(self, embedding: Tensor, labels: Tensor, frame: Frame) -> Tensor:
        """Cross-entropy, the mean over the pixels of the square that the views fill.

        Args:
            embedding: (B, C, s, s).
            labels: (B, H, W) uint8 train ids.
            frame: square of the embedding.
        """
        logits = self(embedding)
        scale = logits.shape[-1] / frame.side
        height, width = (round(length * scale) for length in frame.fit((labels.shape[1], labels.shape[2])))
        truth = F.interpolate(labels[:, None].float(), (height, width), mode="nearest-exact")[:, 0].long()
        return F.cross_entropy(logits[..., :height, :width], truth)


class SamObjective:
    """Loss of each step. Its views and prompts follow from the step's number and the seed."""

    def __init__(self, sam: PointSam, scenes: LabeledScenes, settings: SamTraining) -> None:
        self.sam = sam
        self.scenes = scenes
        self.settings = settings
        with torch.no_grad():
            side = sam.frame.side
            channels = sam.features(torch.zeros(1, 3, side, side, device=sam.device))[0].shape[1]
        self.reader = ClassReader(channels).to(sam.device)

    def loss(self, step: int) -> Tensor:
        """Return the loss of a step, a scalar."""
        rng = np.random.default_rng([self.settings.seed, step])
        views = [self._view(rng) for _ in range(self.settings.views)]
        images = self._augment([image for image, _, _ in views], rng)
        with torch.autocast(self.sam.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            maps = self.sam.features(self.sam.frame.stack(images, self.sam.device))
        maps = tuple(each.float() for each in maps)
        labels = torch.stack([torch.from_numpy(labels) for _, labels, _ in views]).to(self.sam.device)
        loss = self.settings.reading * self.reader.loss(maps[0], labels, self.sam.frame)
        for (_, _, prompts), features in zip(views, zip(*maps, strict=True), strict=True):
            refine = rng.random() < self.settings.refined
            loss = loss + self._prompt_loss(features, prompts, refine=refine) / len(views)
        return loss

    def _view(self, rng: np.random.Generator) -> tuple[Tensor, Pixels, PointPrompts]:
        """Draw a view: image (3, H, W) uint8, label map (H, W) uint8, prompts."""
        scene = int(rng.integers(len(self.scenes)))
        whole = (self.scenes.images[scene], self.scenes.labels[scene], self.scenes.objects[scene])
        image, labels, objects = random_view(*whole, rng, self.settings.whole)
        kinds = (whole_objects(objects, MIN_AREA), class_regions(labels, MIN_AREA))
        num_points = int(rng.integers(1, self.settings.max_points + 1))
        prompts = choose_prompts(kinds, self.settings.prompts, num_points, rng)
        return torch.from_numpy(image).permute(2, 0, 1), labels, prompts

    def _augment(self, images: list[Tensor], rng: np.random.Generator) -> list[Tensor]:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return list((augment(torch.stack(images).float() / 255, generator) * 255).round().byte())

    def _prompt_loss(self, features: tuple[Tensor, ...], prompts: PointPrompts, *, refine: bool) -> Tensor:
        truth = torch.from_numpy(prompts.masks).to(self.sam.device)
        points = self.sam.frame.to_frame(torch.from_numpy(prompts.points).to(self.sam.device), VIEW)
        logits, quality = self.sam.decode(features, points, None)
        loss = prompt_loss(view_logits(logits, self.sam.frame, VIEW), quality, truth)
        if refine:
            best = logits.detach()[torch.arange(len(logits)), quality.argmax(dim=1)]
            logits, quality = self.sam.decode(features, points, best[:, None])
            loss = loss + prompt_loss(view_logits(logits, self.sam.frame, VIEW), quality, truth)
        return loss


@torch.no_grad()
def align_attention(network: Any) -> None:
    """Initialize the attention between prompts and image with keys equal to the queries, and twice as strong.

    A point then attends to its own place from the first step. Otherwise the decoder has to learn first that places
    matter.
    """
    for module in network.mask_decoder.transformer.modules():
        # Attention among the prompts, `self_attn`, stays as it is.
        crossing = [child for name, child in module.named_children() if "image" in name and "attn" in name]
        for attention in crossing:
            attention.q_proj.weight *= 2
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            for projection in (attention.q_proj, attention.k_proj):
                nn.init.zeros_(projection.bias)


def train_sam(sam: PointSam, scenes: LabeledScenes, settings: SamTraining, state_file: Path) -> float:
    """Train a SAM in place. Resumes from `state_file` if it exists.

    Args:
        sam: SAM on the device to train on; left in eval mode and frozen.
        scenes: training scenes of `minicity.world.pool.SCENE` pixels.
        settings: settings of the training.
        state_file: file of the saved state.

    Returns:
        Training time in seconds, interrupted runs included.

    Raises:
        UserError: the state belongs to another training, or a loss is not finite.
    """
    objective = SamObjective(sam, scenes, settings)
    modules = nn.ModuleDict({"network": sam.network, "reader": objective.reader}).requires_grad_(True)
    seconds = fit(
        modules,
        objective.loss,
        _optimizers(modules, settings),
        settings,
        state_file=state_file,
        name="training SAM",
        data={"scenes": len(scenes)},
    )
    sam.network.requires_grad_(False)
    return seconds


def _optimizers(modules: nn.Module, settings: SamTraining) -> list[torch.optim.Optimizer]:
    """Return Muon (Jordan et al., 2024) for matrices, and AdamW for all other parameters.

    With Muon the encoder learns almost twice as fast. Kernels decay; norms, biases, positions and the tokens of prompts
    and outputs do not.
    """
    matrices = [module.weight for module in modules.modules() if isinstance(module, nn.Linear)]
    kernels = [module.weight for module in modules.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    others = set(modules.parameters()) - {*matrices, *kernels}
    return [
        torch.optim.Muon(
            matrices, lr=settings.matrix_rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            [
                {"params": kernels, "weight_decay": settings.weight_decay},
                {"params": [p for p in modules.parameters() if p in others], "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
        ),
    ]
