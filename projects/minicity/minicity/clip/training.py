"""A miniature CLIP: an image and a text tower that learn, from captioned streets, what belongs together.

A million pictures have to do what CLIP has 400 million for. So each is contrasted with the names of everything
(`naming_loss`) more often than with the captions beside it (CLIP's own `contrastive_loss`), and most steps show whole
streets, with the captioned crops read out of the tower's maps instead of cut out of the pixels (`RegionReader`): twenty
captions for the price of eight crops, at the scale at which streets will be segmented. The pictures are those of
`minicity.world.wide`, never of a validation domain.

Legend: B images with captions, M crops, N names, S side of a crop, D dimension of the shared space, C channels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from clouds.data.classes import CITYSCAPES_CLASSES, split_synonyms
from clouds.modeling.backbone.clip import CLIP
from minicity.clip.crops import OPENINGS, WORDS
from minicity.clip.pool import KEPT, Captioned
from minicity.resumable import settings_of, train_resumably
from minicity.world.caption import with_article
from minicity.world.classes import Label
from minicity.world.pool import SCENE, Pixels

VIEW = (128, 256)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_LOGIT_SCALE = math.log(100)


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor, same: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy (Radford et al., 2021) where captions repeat, with the targets of UniCL (Yang et
    al., 2022): every image whose caption reads the same is a match, too.

    Args:
        image_features: (B, D) unit-norm.
        text_features: (B, D) unit-norm.
        logit_scale: scalar, the inverse temperature.
        same: (B, B) bool, true where two captions read the same (so on the diagonal).

    Returns:
        Scalar, the mean of both directions.
    """
    logits = logit_scale * image_features @ text_features.T
    targets = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def naming_loss(image_features: Tensor, name_features: Tensor, logit_scale: Tensor, right: Tensor) -> Tensor:
    """How far the right names are from having all of the probability: MIL-NCE (Miech et al., 2020, equation 1).

    Which of its names an image is called by is chance; so no name is the target, but that it be one of them.

    Args:
        image_features: (B, D) unit-norm.
        name_features: (N, D) unit-norm.
        logit_scale: scalar, the inverse temperature.
        right: (B, N) bool, at least one name of each image.

    Returns:
        Scalar, the mean over the images.
    """
    logits = logit_scale * image_features @ name_features.T
    return (logits.logsumexp(dim=1) - logits.masked_fill(~right, -math.inf).logsumexp(dim=1)).mean()


class _ReachingConv2d(nn.Conv2d):
    """A depthwise convolution without the taps that, on a map smaller than the kernel, only ever meet the padding.

    The result is the same. But on the 1x1 to 4x4 maps of small crops, the gradient of those taps is most of the work.
    """

    def forward(self, input: Tensor) -> Tensor:
        sides = zip(self.kernel_size, input.shape[-2:], strict=True)
        ry, rx = (min(side // 2, extent - 1) for side, extent in sides)
        ky, kx = (side // 2 for side in self.kernel_size)
        weight = self.weight[:, :, ky - ry : ky + ry + 1, kx - rx : kx + rx + 1]
        return F.conv2d(input, weight, self.bias, padding=(ry, rx), groups=self.groups)


def trim_kernels(tower: nn.Module) -> None:
    """Let the depthwise convolutions of a tower skip taps that reach nothing; its values and its keys stay."""
    for module in tower.modules():
        if not isinstance(module, nn.Conv2d) or module.groups == 1:
            continue
        if module.stride == (1, 1) and module.padding == tuple(side // 2 for side in module.kernel_size):
            module.__class__ = _ReachingConv2d


def unit_pixels(images: Pixels, device: torch.device) -> Tensor:
    """(B, h, w, 3) uint8 RGB -> (B, 3, h, w) float, 0..1."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255


def clip_normalised(pixels: Tensor) -> Tensor:
    """(B, 3, h, w) float, 0..1 -> likewise, as CLIP expects it."""
    mean, std = (torch.tensor(x, device=pixels.device).view(3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
    return (pixels - mean) / std


def clip_input(images: Pixels, device: torch.device) -> Tensor:
    """(B, h, w, 3) uint8 RGB -> (B, 3, h, w) float, as CLIP expects it."""
    return clip_normalised(unit_pixels(images, device))


def cosine_rate(steps: int, warmup: int) -> Callable[[int], float]:
    """Factor of the learning rate by step: a linear rise, then half a cosine down to 0."""

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))

    return rate


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Vary brightness, contrast and colour of each image.

    Args:
        images: (B, 3, h, w) float, 0..1.
        generator: of the draws, on the CPU.

    Returns:
        Likewise, clipped to 0..1.
    """

    def draws(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)).to(images.device)

    grey = images.mean(dim=1, keepdim=True)
    images = grey + draws(0.5, 1.4) * (images - grey)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = middle + draws(0.7, 1.3) * (images - middle)
    return (images * draws(0.8, 1.2)).clamp(0, 1)


class RegionReader(nn.Module):
    """Embeds windows of an image as the tower sees them: the mean of each of its maps there, projected to CLIP's space.

    Serves the training alone (as in RegionCLIP, Zhong et al., 2022): with it, every level of the tower learns names.
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        """
        Args:
            channels: C of each map.
            dim: D.
        """
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(count) for count in channels)
        self.projection = nn.Linear(sum(channels), dim)

    def forward(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """
        Args:
            maps: each (B, C, h, w), of images of `VIEW` pixels.
            boxes: (M, 5) number of the image, then left, top, right, bottom in its pixels.

        Returns:
            (M, D) unit-norm.
        """
        pooled = [
            norm(roi_align(each, boxes, 1, each.shape[-1] / VIEW[1], sampling_ratio=4, aligned=True).flatten(1))
            for norm, each in zip(self.norms, maps, strict=True)
        ]
        return F.normalize(self.projection(torch.cat(pooled, dim=1)), dim=1)


def street_view(
    images: Pixels, owners: npt.NDArray[np.int64], boxes: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[Pixels, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """The same random look at some scenes, whole or closer, mirrored or not, with its boxes.

    Args:
        images: (B, h, w, 3) uint8 of `KEPT` pixels.
        owners: (M,) which image each box is in.
        boxes: (M, 4) as in `Captioned`.
        rng: chooses.

    Returns:
        (B, h, w, 3) uint8 of `VIEW` pixels; (M, 5) boxes as for `RegionReader`; (M,) which of them have their middle in
        the view.
    """
    if rng.random() < 0.5:
        top, left, height, width = 0, 0, *KEPT
    else:
        height, width = VIEW
        top, left = (int(rng.integers(kept - size + 1)) for kept, size in zip(KEPT, VIEW, strict=True))
    images = images[:, top : top + height, left : left + width]
    if (height, width) != VIEW:
        images = np.stack([cv2.resize(image, VIEW[::-1], interpolation=cv2.INTER_AREA) for image in images])
    zoom = VIEW[0] / height
    x0, y0, x1, y1 = ((boxes * (KEPT[0] / SCENE[0]) - [left, top, left, top]) * zoom).T
    if rng.random() < 0.5:
        images = images[:, :, ::-1]
        x0, x1 = VIEW[1] - x1, VIEW[1] - x0
    inside = (np.abs(x0 + x1 - VIEW[1]) < VIEW[1]) & (np.abs(y0 + y1 - VIEW[0]) < VIEW[0])
    return np.ascontiguousarray(images), np.stack([owners, x0, y0, x1, y1], axis=1).astype(np.float32), inside


@dataclass(frozen=True)
class Recipe:
    """How the towers are trained.

    ``shares``: of the steps that see streets, crops and names, crops under their captions.
    ``small``: share of the steps on crops that see four times as many at half the size, which costs the same.
    ``batch_size``: crops of full size a step; an eighth as many streets, which are eight times as large, and half of
    that more, because one look at a street serves all of its captions.
    """

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 100
    shares: tuple[float, float, float] = (0.65, 0.29, 0.06)
    small: float = 0.8
    seed: int = 0
    save_every: int = 100

    @property
    def streets(self) -> int:
        """Streets a step."""
        return max(1, 3 * self.batch_size // 16)


class Course:
    """What the towers are shown, and how far they are from understanding it: one loss for each kind of step."""

    def __init__(
        self, model: Any, tokenize: Callable[[list[str]], Tensor], scenes: Captioned, crops: Captioned, recipe: Recipe
    ) -> None:
        self.model = model
        self.scenes = scenes
        self.crops = crops
        self.recipe = recipe
        self.device = next(model.parameters()).device
        # The tower as a segmenter will use it: maps of any size, and an embedding of the whole from any of them.
        self.backbone = CLIP(clip_model=model, model_name="", trainable=True)
        model.requires_grad_(True)
        names = [name for words in CITYSCAPES_CLASSES for name in split_synonyms(words)]
        things = [with_article(name) for name in names]
        self.calls = torch.tensor([[name in WORDS[label] for name in names] for label in Label], device=self.device)
        self.prompts = [tokenize([f"{opening.format(thing)}." for thing in things]) for opening in OPENINGS]
        self.scene_tokens, self.crop_tokens = tokenize(scenes.captions), tokenize(crops.captions)
        order = np.argsort(scenes.scenes)
        self.owners = order[np.searchsorted(scenes.scenes[order], crops.scenes)]
        self.seen = torch.cat([*self.prompts, self.scene_tokens, self.crop_tokens]).unique()
        self.reader = RegionReader(self._channels(), model.text_projection.shape[-1]).to(self.device)

    def _channels(self) -> list[int]:
        with torch.no_grad():
            return [each.shape[1] for each in self._maps(torch.zeros(1, 3, *VIEW, device=self.device))[0]]

    def _maps(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """The tower's maps, (B, C, h, w), and its embedding of the whole, (B, D) unit-norm."""
        features = self.backbone(pixels)
        whole = self.backbone.embed_whole(features["clip_vis_dense"])
        return [features[f"res{level}"] for level in range(2, 6)], F.normalize(whole, dim=-1)

    def loss(self, step: int) -> Tensor:
        """Of step number ``step``, whose pictures follow from that number and the seed."""
        rng = np.random.default_rng([self.recipe.seed, step])
        kind = rng.choice(3, p=self.recipe.shares)
        return self._streets(rng) if kind == 0 else self._crops(rng, with_captions=kind == 2)

    def _streets(self, rng: np.random.Generator) -> Tensor:
        chosen = rng.choice(len(self.scenes), min(self.recipe.streets, len(self.scenes)), replace=False)
        number = np.full(len(self.scenes), -1)
        number[chosen] = np.arange(len(chosen))
        mine = np.flatnonzero(number[self.owners] >= 0)
        images, boxes, inside = street_view(
            self.scenes.images[chosen], number[self.owners[mine]], self.crops.boxes[mine], rng
        )
        maps, whole = self._maps(self._pixels(images, rng, small=False))
        told = 0.1 * self._matched(whole, self.scene_tokens[torch.from_numpy(chosen)])
        if not inside.any():
            return told  # the mean over no boxes is not a number
        regions = self.reader(maps, torch.from_numpy(boxes[inside]).to(self.device))
        return self._named(regions, self.crops.labels[mine[inside]], rng) + told

    def _crops(self, rng: np.random.Generator, *, with_captions: bool) -> Tensor:
        small = rng.random() < self.recipe.small
        size = min(self.recipe.batch_size * (4 if small else 1), len(self.crops))
        chosen = rng.choice(len(self.crops), size, replace=False)
        images = self.crops.images[chosen]
        images = np.ascontiguousarray(images[:, :, ::-1]) if rng.random() < 0.5 else images
        _, features = self._maps(self._pixels(images, rng, small=small))
        if with_captions:
            return self._matched(features, self.crop_tokens[torch.from_numpy(chosen)])
        return self._named(features, self.crops.labels[chosen], rng)

    def _pixels(self, images: Pixels, rng: np.random.Generator, *, small: bool) -> Tensor:
        pixels = unit_pixels(images, self.device)
        pixels = F.avg_pool2d(pixels, 2) if small else pixels
        pixels = augment(pixels, torch.Generator().manual_seed(int(rng.integers(2**62))))
        return clip_normalised(pixels).contiguous(memory_format=torch.channels_last)

    def _named(self, features: Tensor, labels: Pixels, rng: np.random.Generator) -> Tensor:
        prompts = self.prompts[rng.integers(len(self.prompts))].to(self.device)
        name_features = self.model.encode_text(prompts, normalize=True)
        right = self.calls[torch.from_numpy(labels).long().to(self.device)]
        return naming_loss(features, name_features, self.model.logit_scale.exp(), right)

    def _matched(self, features: Tensor, tokens: Tensor) -> Tensor:
        different, number = tokens.to(self.device).unique(dim=0, return_inverse=True)
        text_features = self.model.encode_text(different, normalize=True)[number]
        return contrastive_loss(features, text_features, self.model.logit_scale.exp(), number[:, None] == number)


def train_clip(
    model: Any,
    tokenize: Callable[[list[str]], Tensor],
    scenes: Captioned,
    crops: Captioned,
    recipe: Recipe,
    state_file: Path,
) -> float:
    """Train an open_clip model in place; goes on from ``state_file`` where that exists.

    What a step sees follows from its number and the seed alone, so an interrupted training ends like any other.

    Args:
        model: an open_clip ``CLIP`` on the device to train on.
        tokenize: of that model.
        scenes: whole pictures.
        crops: close-ups of them.
        recipe: see `Recipe`.
        state_file: written every ``recipe.save_every`` steps.

    Returns:
        The seconds it took, over all starts.

    Raises:
        UserError: the state is that of another training, or a loss is not finite.
    """
    # With CLIP's .02 all sentences begin as nearly the same one, and telling them apart takes the first epoch.
    nn.init.normal_(model.token_embedding.weight, std=0.2)
    course = Course(model, tokenize, scenes, crops, recipe)
    with torch.no_grad():
        # Words that nobody says here are one and the same unknown word, which takes little room in a compressed file.
        unheard = torch.ones(len(model.token_embedding.weight), dtype=torch.bool, device=course.device)
        unheard[course.seen.to(course.device)] = False
        model.token_embedding.weight[unheard] = model.token_embedding.weight[unheard][0].clone()
    parts = nn.ModuleDict({"model": model, "reader": course.reader})
    optimizer = torch.optim.AdamW(_groups(parts, recipe.weight_decay), lr=recipe.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine_rate(recipe.steps, recipe.warmup))
    trim_kernels(model.visual)

    def update(step: int) -> Tensor:
        loss = course.loss(step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        return loss

    parts.train()
    seconds = train_resumably(
        {"model": parts, "optimizer": optimizer, "schedule": schedule},
        update,
        steps=recipe.steps,
        save_every=recipe.save_every,
        state_file=state_file,
        settings=settings_of(recipe, scenes=len(scenes), crops=len(crops)),
        name="training CLIP",
    )
    model.eval()
    return seconds


def _groups(parts: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; norms, biases, the temperature and the table of tokens do not."""
    named = list(parts.named_parameters())
    decayed = [p for name, p in named if p.ndim > 1 and "token_embedding" not in name]
    kept = [p for name, p in named if p.ndim <= 1 or "token_embedding" in name]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
