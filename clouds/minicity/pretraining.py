"""A miniature CLIP: an image and a text tower that learn, from captioned streets, what belongs together.

The loss is CLIP's (Radford et al., 2021) with the targets of UniCL (Yang et al., 2022): captions repeat, so every image
whose caption reads the same is a match, too. Half of the steps show crops under their full captions, or whole scenes;
the others show crops under nothing but the name of what is on them, because with some hundred thousand pictures instead
of CLIP's 400 million, names have to be learnt fast. The pictures are those of `clouds.minicity.wide`, never of a
validation domain.

Legend: B images with captions, S side of a crop, D dimension of the shared space.
"""

import functools
import json
import logging
import math
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from clouds.minicity.classes import Label
from clouds.minicity.crops import captioned_crops, plain_caption
from clouds.minicity.render import render
from clouds.minicity.sampling import Dice
from clouds.minicity.scene import sample_scene, scene_rng
from clouds.minicity.style import Style

logger = logging.getLogger(__name__)

SCENE = (256, 512)
CROP = 64
SCENES_PER_CHUNK = 200
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_LOGIT_SCALE = math.log(100)

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Captioned:
    """``images`` (N, h, w, 3) uint8 RGB, ``captions`` N sentences, ``labels`` (N,) uint8 classes (scenes: 255)."""

    images: Pixels
    captions: list[str]
    labels: Pixels

    def __len__(self) -> int:
        return len(self.captions)


def draw_captioned(
    styles: Sequence[Style], seed: int, indices: range, crops_per_scene: int
) -> tuple[Captioned, Captioned]:
    """Draw scenes by number; each has a style of its own, chosen by its number.

    Returns:
        Whole scenes, (64, 128) pixels, and their crops, (64, 64).
    """
    scenes, crops, scene_captions = [], [], []
    for index in indices:
        style = styles[int(np.random.default_rng([seed, index]).integers(len(styles)))]
        rng = scene_rng(style, seed, index)
        scene = sample_scene(style, rng, SCENE)
        rendered = render(scene, rng)
        blocks = rendered.image.reshape(CROP, SCENE[0] // CROP, 2 * CROP, SCENE[1] // (2 * CROP), 3)
        scenes.append(blocks.mean(axis=(1, 3)).round().astype(np.uint8))
        scene_captions.append(rendered.caption)
        crops += captioned_crops(rendered, scene.when, crops_per_scene, CROP, rng)
    return (
        Captioned(np.stack(scenes), scene_captions, np.full(len(scenes), 255, np.uint8)),
        Captioned(
            np.stack([crop.pixels for crop in crops]),
            [crop.caption for crop in crops],
            np.array([crop.label for crop in crops], np.uint8),
        ),
    )


def draw_pool(
    folder: Path, styles: Sequence[Style], seed: int, num_scenes: int, crops_per_scene: int, num_workers: int
) -> tuple[Captioned, Captioned]:
    """Draw ``num_scenes`` scenes in chunks under ``folder`` and read them all; chunks that are there are kept.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [
        range(first, min(first + SCENES_PER_CHUNK, num_scenes)) for first in range(0, num_scenes, SCENES_PER_CHUNK)
    ]
    write = functools.partial(_write_chunk, folder, tuple(styles), seed, crops_per_scene)
    progress = functools.partial(tqdm, total=len(chunks), desc="drawing scenes", unit="chunk")
    if num_workers <= 1 or len(chunks) == 1:
        files = list(progress(map(write, chunks)))
    else:
        # Spawned, not forked: torch has started its threads here.
        with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
            files = list(progress(pool.imap(write, chunks)))
    parts = [_read_chunk(file) for file in files]
    scenes, crops = (
        Captioned(
            np.concatenate([part.images for part in kind]),
            [caption for part in kind for caption in part.captions],
            np.concatenate([part.labels for part in kind]),
        )
        for kind in zip(*parts, strict=True)
    )
    return scenes, crops


def _write_chunk(folder: Path, styles: Sequence[Style], seed: int, crops_per_scene: int, indices: range) -> Path:
    file = folder / f"seed{seed}_{indices.start:06d}-{indices.stop:06d}_{crops_per_scene}.npz"
    if not file.is_file():
        arrays: dict[str, Any] = {}
        for kind, part in zip(("scenes", "crops"), draw_captioned(styles, seed, indices, crops_per_scene), strict=True):
            arrays |= {kind: part.images, f"{kind}_labels": part.labels}
            arrays[f"{kind}_captions"] = np.array(json.dumps(part.captions))
        temporary = file.with_suffix(".part")
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)
        temporary.replace(file)
    return file


def _read_chunk(file: Path) -> tuple[Captioned, Captioned]:
    with np.load(file) as arrays:
        scenes, crops = (
            Captioned(arrays[kind], json.loads(str(arrays[f"{kind}_captions"])), arrays[f"{kind}_labels"])
            for kind in ("scenes", "crops")
        )
    return scenes, crops


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor, same: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy where one image may match several captions.

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


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images, and vary brightness, contrast and colour of each.

    Args:
        images: (B, 3, h, w) float, 0..1.
        generator: of the draws, on the CPU.

    Returns:
        Likewise, clipped to 0..1.
    """

    def draws(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)).to(images.device)

    images = torch.where(draws(0, 1) < 0.5, images.flip(-1), images)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + draws(0.5, 1.4) * (images - grey)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = middle + draws(0.7, 1.3) * (images - middle)
    return (images * draws(0.8, 1.2)).clamp(0, 1)


@dataclass(frozen=True)
class Recipe:
    """How the towers are trained.

    ``shares``: of the steps that see crops under a plain name, crops under their captions, whole scenes.
    ``small``: share of the steps that see four times as many pictures at half the size, which costs the same.
    ``batch_size``: crops of full size a step; half as many scenes, which are twice as large.
    """

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 100
    shares: tuple[float, float, float] = (0.6, 0.25, 0.15)
    small: float = 0.75
    seed: int = 0
    save_every: int = 100

    def rate(self, step: int) -> float:
        """Factor of the learning rate: a linear rise, then half a cosine down to 0."""
        rise = min(1.0, (step + 1) / self.warmup)
        return rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def train_clip(
    model: Any,
    tokenize: Callable[[list[str]], Tensor],
    scenes: Captioned,
    crops: Captioned,
    recipe: Recipe,
    state_file: Path,
) -> None:
    """Train an open_clip model in place; goes on from ``state_file`` where that exists.

    What a step sees follows from its number and the seed alone, so an interrupted training ends like any other.

    Args:
        model: an open_clip ``CLIP`` on the device to train on.
        tokenize: of that model.
        scenes: whole pictures.
        crops: close-ups.
        recipe: see `Recipe`.
        state_file: written every ``recipe.save_every`` steps.
    """
    device = next(model.parameters()).device
    mean, std = (torch.tensor(x, device=device).view(3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
    dice = Dice(np.random.default_rng(recipe.seed))
    names = [plain_caption(Label(label), dice) for label in crops.labels]
    courses = [(crops, tokenize(names)), (crops, tokenize(crops.captions)), (scenes, tokenize(scenes.captions))]
    decayed = [p for p in model.parameters() if p.ndim > 1 and p.shape[0] != len(model.token_embedding.weight)]
    kept = set(map(id, decayed))
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if id(p) not in kept], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.rate)
    start = _restore(state_file, model, optimizer, schedule)

    model.train()
    bar = tqdm(range(start, recipe.steps), initial=start, total=recipe.steps, desc="training CLIP", unit="step")
    average = math.nan
    for step in bar:
        rng = np.random.default_rng([recipe.seed, step])
        part, tokens = courses[rng.choice(len(courses), p=recipe.shares)]
        small = rng.random() < recipe.small
        size = min(recipe.batch_size * (4 if small else 1) // (2 if part is scenes else 1), len(part))
        chosen = rng.choice(len(part), size, replace=False)
        text = tokens[torch.from_numpy(chosen)].to(device)
        pixels = torch.from_numpy(part.images[chosen]).to(device).permute(0, 3, 1, 2).float() / 255
        pixels = F.avg_pool2d(pixels, 2) if small else pixels
        pixels = augment(pixels, torch.Generator().manual_seed(int(rng.integers(2**62))))

        image_features = model.encode_image((pixels - mean) / std, normalize=True)
        different, number = text.unique(dim=0, return_inverse=True)
        text_features = model.encode_text(different, normalize=True)[number]
        loss = contrastive_loss(image_features, text_features, model.logit_scale.exp(), number[:, None] == number)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

        average = loss.item() if math.isnan(average) else 0.98 * average + 0.02 * loss.item()
        bar.set_postfix(loss=f"{average:.3f}", refresh=False)
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            _save(state_file, model, optimizer, schedule, step + 1)
    model.eval()


def _save(file: Path, model: nn.Module, optimizer: Any, schedule: Any, step: int) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "step": step,
    }
    temporary = file.with_suffix(".part")
    torch.save(state, temporary)
    temporary.replace(file)


def _restore(file: Path, model: nn.Module, optimizer: Any, schedule: Any) -> int:
    if not file.is_file():
        return 0
    state = torch.load(file, map_location="cpu", weights_only=True)
    for part, name in ((model, "model"), (optimizer, "optimizer"), (schedule, "schedule")):
        part.load_state_dict(state[name])
    logger.info("Going on at step %d", state["step"])
    return int(state["step"])


@torch.inference_mode()
def predict_classes(
    encode_image: Callable[[Tensor], Tensor], class_embeddings: Tensor, names_per_class: Sequence[int], images: Pixels
) -> npt.NDArray[np.int64]:
    """Zero-shot classes: the class with the name that is most alike.

    Args:
        encode_image: (B, 3, h, w) normalised images to (B, D) unit-norm features.
        class_embeddings: (N, D) unit-norm, one for each name, class by class.
        names_per_class: how many of the N names each class has.
        images: (M, h, w, 3) uint8 RGB.

    Returns:
        (M,) indices of classes.
    """
    device = class_embeddings.device
    mean, std = (torch.tensor(x, device=device).view(3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
    found = []
    for part in np.array_split(images, max(1, len(images) // 256)):
        pixels = torch.from_numpy(part).to(device).permute(0, 3, 1, 2).float() / 255
        likeness = encode_image((pixels - mean) / std) @ class_embeddings.T
        best = [names.max(dim=1).values for names in likeness.split(list(names_per_class), dim=1)]
        found.append(torch.stack(best, dim=1).argmax(dim=1).cpu().numpy())
    return np.concatenate(found)
