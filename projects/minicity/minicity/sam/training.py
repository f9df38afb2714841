"""A miniature Segment Anything: points in a drawn street, and the mask of what they lie on.

The losses are SAM's (Kirillov et al., ICCV 2023, section 3 and appendix A), and so is the network. SAM learnt from a
billion masks; here some ten thousand views of streets have to do. So a reader, which is no part of the model, has to
tell the class of every pixel from the image embedding: each view teaches the encoder with all of its pixels, and not
with the few regions alone that it is asked about. What is segmented is told by points, and nobody names a class.

The pictures are those of `minicity.world.wide`, never of a validation domain.

Legend: B views, H x W a view, P prompts of one, n points of a prompt, M mask outputs (three), S side of the square that
the network sees, h x w the part of it that the view fills, l side of the mask logits, C channels of the embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minicity.clip.training import augment, cosine_rate
from minicity.resumable import settings_of, train_resumably
from minicity.sam.pool import Streets
from minicity.sam.regions import VIEW, Asked, ask, closer, components, things
from minicity.world.classes import Label

FOCAL_WEIGHT = 20.0
LEAST_AREA = 32
"""Pixels of a view; smaller things nobody points at."""


class Square(Protocol):
    """The square that a network sees, with the view in its upper left corner."""

    @property
    def side(self) -> int: ...
    def fit(self, size: tuple[int, int]) -> tuple[int, int]: ...
    def to_frame(self, points: Tensor, size: tuple[int, int]) -> Tensor: ...
    def stack(self, images: Sequence[Tensor], device: torch.device) -> Tensor: ...


class Promptable(Protocol):
    """A SAM as the core drives it, of which this layer need not know more: what is trained is what will be used."""

    network: Any
    frame: Square
    device: torch.device

    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, S, S) normalised -> maps (B, C, .., ..)."""

    def decode(self, features: tuple[Tensor, ...], points: Tensor, logits: Tensor | None) -> tuple[Tensor, Tensor]:
        """Maps (C, .., ..) of a view, points (P, n, 2) of the square -> (P, M, l, l) logits, (P, M) quality."""


def focal_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy that looks away from what is right already (Lin et al., ICCV 2017), with gamma 2 and no alpha.

    Args:
        logits: (..., H, W).
        truth: (..., H, W) float 0 or 1, broadcast against the logits.

    Returns:
        (...), the mean over the pixels.
    """
    signed = logits * (1 - 2 * truth)  # how far on the wrong side
    return (torch.sigmoid(signed).square() * F.softplus(signed)).mean(dim=(-2, -1))


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - the Dice coefficient of the soft mask, smoothed by one pixel; arguments and result as in `focal_loss`."""
    soft = torch.sigmoid(logits)
    shared = (soft * truth).sum(dim=(-2, -1))
    return 1 - (2 * shared + 1) / (soft.sum(dim=(-2, -1)) + truth.sum(dim=(-2, -1)) + 1)


def mask_iou(masks: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of bool masks (..., H, W), which broadcast; 1 where both are empty."""
    shared, either = ((each).sum(dim=(-2, -1)).float() for each in (masks & truth, masks | truth))
    return torch.where(either > 0, shared / either.clamp(min=1), 1.0)


def prompt_loss(logits: Tensor, quality: Tensor, truth: Tensor) -> Tensor:
    """SAM's: the best of the outputs learns the mask, all of them how good they are.

    Args:
        logits: (P, M, H, W).
        quality: (P, M), the predicted intersection over union.
        truth: (P, H, W) bool.

    Returns:
        Scalar, the mean over the prompts.
    """
    target = truth[:, None]
    each = FOCAL_WEIGHT * focal_loss(logits, target.float()) + dice_loss(logits, target.float())
    real = mask_iou(logits.detach() > 0, target)
    return each.min(dim=1).values.mean() + F.mse_loss(quality, real)


def in_view(logits: Tensor, square: Square, size: tuple[int, int]) -> Tensor:
    """Logits (P, M, l, l) of the square -> (P, M, H, W) of a view of ``size``, by way of the square as in use."""
    height, width = square.fit(size)
    maps = F.interpolate(logits, (square.side, square.side), mode="bilinear")[..., :height, :width]
    return maps if (height, width) == size else F.interpolate(maps, size, mode="bilinear")


class ClassReader(nn.Module):
    """Tells the class of every pixel from the image embedding, at four times its size. Serves the training alone."""

    FINER = 4

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.tell = nn.Conv2d(channels, len(Label) * self.FINER**2, 1)

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, C, s, s) -> (B, classes, 4 s, 4 s)."""
        return F.pixel_shuffle(self.tell(embedding), self.FINER)

    def loss(self, embedding: Tensor, labels: Tensor, square: Square) -> Tensor:
        """Cross-entropy, the mean over the pixels that the views fill.

        Args:
            embedding: (B, C, s, s).
            labels: (B, H, W) uint8.
            square: of the embedding.
        """
        scores = self(embedding)
        scale = scores.shape[-1] / square.side
        height, width = (round(length * scale) for length in square.fit((labels.shape[1], labels.shape[2])))
        truth = F.interpolate(labels[:, None].float(), (height, width), mode="nearest-exact")[:, 0].long()
        return F.cross_entropy(scores[..., :height, :width], truth)


@dataclass(frozen=True)
class Recipe:
    """How SAM is trained.

    ``views``: views a step; ``prompts``: of each.
    ``matrix_rate``: learning rate of the matrices, which have an optimizer of their own.
    ``whole``: share of the views that show all of a scene.
    ``reading``: weight of the loss of the `ClassReader`.
    ``refined``: share of the views whose masks are shown to the decoder for a second pass.
    ``half``: let the encoder compute in bfloat16, which some processors do several times as fast.
    """

    steps: int
    views: int = 4
    prompts: int = 8
    most_points: int = 5
    learning_rate: float = 1.5e-3
    matrix_rate: float = 4e-3
    weight_decay: float = 0.05
    warmup: int = 100
    whole: float = 0.4
    reading: float = 1.0
    refined: float = 0.25
    half: bool = False
    seed: int = 0
    save_every: int = 100


class Course:
    """What SAM is shown and asked, and how far it is from the answers."""

    def __init__(self, sam: Promptable, streets: Streets, recipe: Recipe) -> None:
        self.sam = sam
        self.streets = streets
        self.recipe = recipe
        with torch.no_grad():
            side = sam.frame.side
            channels = sam.features(torch.zeros(1, 3, side, side, device=sam.device))[0].shape[1]
        self.reader = ClassReader(channels).to(sam.device)

    def loss(self, step: int) -> Tensor:
        """Of step number ``step``, whose views and prompts follow from that number and the seed."""
        rng = np.random.default_rng([self.recipe.seed, step])
        views = [self._view(rng) for _ in range(self.recipe.views)]
        pixels = self.sam.frame.stack(self._coloured([image for image, _, _ in views], rng), self.sam.device)
        with torch.autocast(self.sam.device.type, torch.bfloat16, enabled=self.recipe.half):
            maps = self.sam.features(pixels)
        maps = tuple(each.float() for each in maps)
        labels = torch.stack([torch.from_numpy(labels) for _, labels, _ in views]).to(self.sam.device)
        loss = self.recipe.reading * self.reader.loss(maps[0], labels, self.sam.frame)
        for (_, _, asked), features in zip(views, zip(*maps, strict=True), strict=True):
            loss = loss + self._answered(features, asked, again=rng.random() < self.recipe.refined) / len(views)
        return loss

    def _view(self, rng: np.random.Generator) -> tuple[Tensor, Any, Asked]:
        scene = int(rng.integers(len(self.streets)))
        whole = (self.streets.images[scene], self.streets.labels[scene], self.streets.objects[scene])
        image, labels, objects = closer(*whole, rng, self.recipe.whole)
        kinds = (things(objects, LEAST_AREA), components(labels, LEAST_AREA))
        num_points = int(rng.integers(1, self.recipe.most_points + 1))
        return torch.from_numpy(image).permute(2, 0, 1), labels, ask(kinds, self.recipe.prompts, num_points, rng)

    def _coloured(self, images: list[Tensor], rng: np.random.Generator) -> list[Tensor]:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return list((augment(torch.stack(images).float() / 255, generator) * 255).round().byte())

    def _answered(self, features: tuple[Tensor, ...], asked: Asked, *, again: bool) -> Tensor:
        truth = torch.from_numpy(asked.masks).to(self.sam.device)
        points = self.sam.frame.to_frame(torch.from_numpy(asked.points).to(self.sam.device), VIEW)
        logits, quality = self.sam.decode(features, points, None)
        loss = prompt_loss(in_view(logits, self.sam.frame, VIEW), quality, truth)
        if again:
            best = logits.detach()[torch.arange(len(logits)), quality.argmax(dim=1)]
            logits, quality = self.sam.decode(features, points, best[:, None])
            loss = loss + prompt_loss(in_view(logits, self.sam.frame, VIEW), quality, truth)
        return loss


@torch.no_grad()
def start_attention(network: Any) -> None:
    """Let the attention between prompts and image begin with keys that are made as queries are, and twice as strong.

    So a point looks at its own place from the first step; else a decoder has to find out first that places matter.
    """
    for module in network.mask_decoder.transformer.modules():
        # Attention among the prompts stays as it is; they are named self_attn.
        crossing = [child for name, child in module.named_children() if "image" in name and "attn" in name]
        for attention in crossing:
            attention.q_proj.weight *= 2
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            for projection in (attention.q_proj, attention.k_proj):
                nn.init.zeros_(projection.bias)


def train_sam(sam: Promptable, streets: Streets, recipe: Recipe, state_file: Path) -> float:
    """Train a SAM in place; goes on from ``state_file`` where that exists.

    What a step sees follows from its number and the seed alone, so an interrupted training ends like any other.

    Args:
        sam: with the network on the device to train on; it is left in eval mode and frozen, as it came.
        streets: of `SCENE` pixels.
        recipe: see `Recipe`.
        state_file: written every ``recipe.save_every`` steps.

    Returns:
        The seconds it took, over all starts.

    Raises:
        UserError: the state is that of another training, or a loss is not finite.
    """
    course = Course(sam, streets, recipe)
    parts = nn.ModuleDict({"network": sam.network, "reader": course.reader}).requires_grad_(True)
    optimizers = _optimizers(parts, recipe)
    rate = cosine_rate(recipe.steps, recipe.warmup)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    kept: dict[str, Any] = {"parts": parts}
    kept |= {f"optimizer_{number}": optimizer for number, optimizer in enumerate(optimizers)}
    kept |= {f"schedule_{number}": schedule for number, schedule in enumerate(schedules)}

    def update(step: int) -> Tensor:
        loss = course.loss(step)
        parts.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        return loss

    parts.train()
    seconds = train_resumably(
        kept,
        update,
        steps=recipe.steps,
        save_every=recipe.save_every,
        state_file=state_file,
        settings=settings_of(recipe, scenes=len(streets)),
        name="training SAM",
    )
    sam.network.eval().requires_grad_(False)
    return seconds


def _optimizers(parts: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for matrices, with which the encoder learns almost twice as fast; AdamW for the rest.

    Convolutions decay; norms, biases, positions and the tokens of prompts and outputs do not.
    """
    matrices = [module.weight for module in parts.modules() if isinstance(module, nn.Linear)]
    kernels = [module.weight for module in parts.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    others = set(parts.parameters()) - {*matrices, *kernels}
    return [
        torch.optim.Muon(
            matrices, lr=recipe.matrix_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            [
                {"params": kernels, "weight_decay": recipe.weight_decay},
                {"params": [p for p in parts.parameters() if p in others], "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
        ),
    ]
