"""Training of the miniature CLIP: an image tower and a text tower learn from captioned scenes of streets.

CLIP learned from 400 million images, this one from some ten thousand scenes. Two changes make up for part of that.
Most steps contrast an image with the names of all classes (`naming_loss`), only some with captions (CLIP's own
`contrastive_loss`). And most steps show whole scenes, whose captioned boxes are read from the tower's feature maps
(`RegionReader`) instead of being cut out of the image: twenty captions at the cost of eight crops, at the scale at
which scenes will be segmented. The images are those of `minicity.world.wide`, never of a validation domain.

A tower that learns more slowly, such as a ViT, has a trained CLIP as its teacher (`minicity.clip.distillation`).

Letters: B images, M boxes, C channels of a feature map, D width of the space that images and texts share.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.data.classes import CITYSCAPES_CLASSES, split_synonyms
from clouds.modeling.backbone.clip import CLIP
from minicity.clip.crops import OPENINGS, WORDS
from minicity.clip.distillation import StudentMaps, copy_text_tower
from minicity.clip.losses import contrastive_loss, naming_loss
from minicity.clip.pool import CaptionedImages
from minicity.clip.regions import VIEW, RegionReader, random_view
from minicity.training.images import augment, normalize_for_clip, to_unit_range
from minicity.training.loop import TrainingSettings, fit
from minicity.training.towers import Towers, ViTClip, has_vit
from minicity.world.caption import with_article
from minicity.world.classes import Label
from minicity.world.pool import Pixels

MAX_LOGIT_SCALE = math.log(100)

LEVELS = ("res2", "res3", "res4", "res5")
"""Names of the feature maps that regions are read from."""

Tokenize = Callable[[list[str]], Tensor]


@dataclass(frozen=True, kw_only=True)
class ClipTraining(TrainingSettings):
    """Settings of the training of CLIP.

    Attributes:
        batch_size: number of full-size crops in a step. A step shows 3/16 as many whole scenes, which have eight times
            the pixels each, because one scene serves all of its captions.
        weight_decay: weight decay of matrices and kernels.
        shares: shares of the steps on whole scenes, on crops with class names, and on crops with captions.
        small: share of the crop steps with four times as many crops at half the size, at the same cost.
        bfloat16: whether the image tower computes in bfloat16, which is faster on some processors.
        distillation: weight of the distance between the feature maps of the tower and those of the teacher, if any.
    """

    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    shares: tuple[float, float, float] = (0.65, 0.29, 0.06)
    small: float = 0.8
    bfloat16: bool = False
    distillation: float = 4.0

    @property
    def scenes_per_step(self) -> int:
        """Number of whole scenes in a step."""
        return max(1, 3 * self.batch_size // 16)


class _CroppedConv2d(nn.Conv2d):
    """Depthwise convolution without the taps that only meet padding on a feature map smaller than the kernel.

    The result is the same, but on the 1x1 to 4x4 maps of small crops the gradient of those taps is most of the work.
    """

    def forward(self, input: Tensor) -> Tensor:
        sides = zip(self.kernel_size, input.shape[-2:], strict=True)
        ry, rx = (min(side // 2, extent - 1) for side, extent in sides)
        ky, kx = (side // 2 for side in self.kernel_size)
        weight = self.weight[:, :, ky - ry : ky + ry + 1, kx - rx : kx + rx + 1]
        return F.conv2d(input, weight, self.bias, padding=(ry, rx), groups=self.groups)


def trim_kernels(tower: nn.Module) -> None:
    """Let the depthwise convolutions of a tower skip taps that only meet padding. Outputs and keys stay the same."""
    for module in tower.modules():
        if not isinstance(module, nn.Conv2d) or module.groups == 1:
            continue
        if module.stride == (1, 1) and module.padding == tuple(side // 2 for side in module.kernel_size):
            module.__class__ = _CroppedConv2d


class ClipObjective:
    """Loss of each step. Its images follow from the step's number and the seed."""

    def __init__(
        self,
        model: Any,
        tokenize: Tokenize,
        scenes: CaptionedImages,
        crops: CaptionedImages,
        settings: ClipTraining,
        teacher: CLIP | None = None,
    ) -> None:
        self.model = model
        self.scenes = scenes
        self.crops = crops
        self.settings = settings
        self.device = next(model.parameters()).device
        # The tower as a segmenter uses it: feature maps of any size, and an embedding of the whole image from them.
        self.towers: Towers = (
            ViTClip(clip_model=model, tokenize=tokenize)
            if has_vit(model)
            else CLIP(clip_model=model, model_name="", trainable=True)
        )
        model.requires_grad_(True)
        names = [name for words in CITYSCAPES_CLASSES for name in split_synonyms(words)]
        things = [with_article(name) for name in names]
        self.names_of_class = torch.tensor(
            [[name in WORDS[label] for name in names] for label in Label], device=self.device
        )
        self.prompts = [tokenize([f"{opening.format(thing)}." for thing in things]) for opening in OPENINGS]
        self.scene_tokens, self.crop_tokens = tokenize(scenes.captions), tokenize(crops.captions)
        order = np.argsort(scenes.scenes)
        self.owners = order[np.searchsorted(scenes.scenes[order], crops.scenes)]
        self.used_tokens = torch.cat([*self.prompts, self.scene_tokens, self.crop_tokens]).unique()
        channels = self._channels(self.towers)
        self.reader = RegionReader(channels, model.text_projection.shape[-1]).to(self.device)
        self.teacher = teacher
        self.student_maps = StudentMaps(channels, self._channels(teacher)).to(self.device) if teacher else None

    def loss(self, step: int) -> Tensor:
        """Return the loss of a step, a scalar."""
        rng = np.random.default_rng([self.settings.seed, step])
        kind = rng.choice(3, p=self.settings.shares)
        return self._loss_on_scenes(rng) if kind == 0 else self._loss_on_crops(rng, with_captions=kind == 2)

    @torch.no_grad()
    def _channels(self, towers: Towers) -> list[int]:
        return [each.shape[1] for each in self._maps(towers, torch.zeros(1, 3, *VIEW, device=self.device))]

    def _features(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the tower's feature maps (B, C, h, w), and embeddings of whole images (B, D), unit-norm."""
        *maps, dense = self._maps(self.towers, pixels, (*LEVELS, "clip_vis_dense"))
        return maps, F.normalize(self.towers.embed_whole(dense), dim=-1)

    def _maps(self, towers: Towers, pixels: Tensor, names: Sequence[str] = LEVELS) -> list[Tensor]:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            features = towers(pixels)
        return [features[name].float() for name in names]

    def _loss_on_scenes(self, rng: np.random.Generator) -> Tensor:
        count = min(self.settings.scenes_per_step, len(self.scenes))
        chosen = rng.choice(len(self.scenes), count, replace=False)
        place = np.full(len(self.scenes), -1)
        place[chosen] = np.arange(len(chosen))
        crops = np.flatnonzero(place[self.owners] >= 0)
        images, boxes, inside = random_view(
            self.scenes.images[chosen], place[self.owners[crops]], self.crops.boxes[crops], rng
        )
        pixels = self._pixels(images, rng, small=False)
        maps, whole = self._features(pixels)
        loss = 0.1 * self._caption_loss(whole, self.scene_tokens[torch.from_numpy(chosen)])
        if self.teacher and self.student_maps:
            loss = loss + self.settings.distillation * self.student_maps(maps, self._maps(self.teacher, pixels))
        if not inside.any():
            return loss  # the mean over no boxes is undefined
        regions = self.reader(maps, torch.from_numpy(boxes[inside]).to(self.device))
        return self._naming_loss(regions, self.crops.labels[crops[inside]], rng) + loss

    def _loss_on_crops(self, rng: np.random.Generator, *, with_captions: bool) -> Tensor:
        small = rng.random() < self.settings.small
        size = min(self.settings.batch_size * (4 if small else 1), len(self.crops))
        chosen = rng.choice(len(self.crops), size, replace=False)
        images = self.crops.images[chosen]
        images = np.ascontiguousarray(images[:, :, ::-1]) if rng.random() < 0.5 else images
        _, features = self._features(self._pixels(images, rng, small=small))
        if with_captions:
            return self._caption_loss(features, self.crop_tokens[torch.from_numpy(chosen)])
        return self._naming_loss(features, self.crops.labels[chosen], rng)

    def _pixels(self, images: Pixels, rng: np.random.Generator, *, small: bool) -> Tensor:
        pixels = to_unit_range(images, self.device)
        pixels = F.avg_pool2d(pixels, 2) if small else pixels
        pixels = augment(pixels, torch.Generator().manual_seed(int(rng.integers(2**62))))
        return normalize_for_clip(pixels).contiguous(memory_format=torch.channels_last)

    def _naming_loss(self, features: Tensor, labels: Pixels, rng: np.random.Generator) -> Tensor:
        prompts = self.prompts[rng.integers(len(self.prompts))].to(self.device)
        name_features = self.model.encode_text(prompts, normalize=True)
        correct = self.names_of_class[torch.from_numpy(labels).long().to(self.device)]
        return naming_loss(features, name_features, self.model.logit_scale.exp(), correct)

    def _caption_loss(self, features: Tensor, tokens: Tensor) -> Tensor:
        different, number = tokens.to(self.device).unique(dim=0, return_inverse=True)
        text_features = self.model.encode_text(different, normalize=True)[number]
        return contrastive_loss(features, text_features, self.model.logit_scale.exp(), number[:, None] == number)


def initialize_text_tower(model: Any, teacher: CLIP | None = None) -> None:
    """Give an open_clip model the text tower to start its training from.

    Args:
        model: open_clip `CLIP` with a random initialization.
        teacher: trained towers, whose text tower is copied.

    Raises:
        ValueError: the text tower of the teacher has other sizes.
    """
    # With CLIP's 0.02, all sentences start with nearly the same embedding, and telling them apart takes an epoch.
    nn.init.normal_(model.token_embedding.weight, std=0.2)
    if teacher:
        copy_text_tower(teacher.clip_model, model)


def train_clip(
    model: Any,
    tokenize: Tokenize,
    scenes: CaptionedImages,
    crops: CaptionedImages,
    settings: ClipTraining,
    state_file: Path,
    teacher: CLIP | None = None,
) -> float:
    """Train an open_clip model in place. Resumes from `state_file` if it exists.

    Args:
        model: open_clip `CLIP` on the device to train on.
        tokenize: tokenizer of the model.
        scenes: whole scenes.
        crops: crops of these scenes.
        settings: settings of the training.
        state_file: file of the saved state.
        teacher: trained towers, whose feature maps the image tower learns to predict.

    Returns:
        Training time in seconds, interrupted runs included.

    Raises:
        UserError: the state belongs to another training, or a loss is not finite.
    """
    objective = ClipObjective(model, tokenize, scenes, crops, settings, teacher)
    with torch.no_grad():
        # Tokens that no text uses share one embedding, which compresses well.
        unused = torch.ones(len(model.token_embedding.weight), dtype=torch.bool, device=objective.device)
        unused[objective.used_tokens.to(objective.device)] = False
        model.token_embedding.weight[unused] = model.token_embedding.weight[unused][0].clone()
    modules = nn.ModuleDict({"model": model, "reader": objective.reader})
    if objective.student_maps:
        modules["student_maps"] = objective.student_maps
    groups = _parameter_groups(modules, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
    trim_kernels(model.visual)

    def clamp_logit_scale() -> None:
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    return fit(
        modules,
        objective.loss,
        [optimizer],
        settings,
        state_file=state_file,
        name="training CLIP",
        data={"scenes": len(scenes), "crops": len(crops)},
        after_update=clamp_logit_scale,
    )


def _parameter_groups(modules: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return groups with and without decay: norms, biases, the temperature and token embeddings do not decay."""
    named = list(modules.named_parameters())
    decayed = [p for name, p in named if p.ndim > 1 and "token_embedding" not in name]
    kept = [p for name, p in named if p.ndim <= 1 or "token_embedding" in name]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
