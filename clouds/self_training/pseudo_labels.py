"""Pseudo-labels: scores of the teacher -> label map -> point prompts -> masks of SAM -> target (CLOUDS, section 3.3).

Letters: G generated images, K classes, h x w an image, N classes with a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clouds.d2 import CfgNode
from clouds.data.classes import IGNORE_LABEL
from clouds.modeling.structures import Target
from clouds.self_training.regions import SELECTION_MODES, Prompts, choose_points, find_regions, merge_masks
from clouds.self_training.sam import Sam

PROMPT_STREAM = 3  # tells the random numbers of prompts from those of views and of loss points, from the same seed


@dataclass(frozen=True)
class PseudoLabel:
    """Pseudo-label of one image, with the intermediate results that the monitor shows.

    Attributes:
        image: (3, h, w) uint8 RGB, the view that teacher and SAM saw.
        teacher_map: (h, w) uint8 label map of the teacher, 255 where its confidence is below the threshold.
        prompts: points that SAM was prompted with; None without SAM.
        refined: classes and masks (N, h, w) that the student learns.
        truth: (h, w) uint8 label map, 255 = ignore, where it is known; used for measurements only.
    """

    image: Tensor
    teacher_map: Tensor
    prompts: Prompts | None
    refined: Target
    truth: Tensor | None = None


class PseudoLabeller:
    """Turns scores of generated images into pseudo-labels."""

    def __init__(
        self,
        sam: Sam | None,
        *,
        threshold: float = 0.0,
        min_area: int = 5000,
        num_points: int = 5,
        selection_mode: str = "random",
        erosion: int = 0,
        rm_intersection: bool = True,
        keep_teacher: bool = False,
    ) -> None:
        """
        Args:
            sam: refines the label maps; None leaves them as they are.
            threshold: confidence in [0, 1] below which a pixel has no label.
            min_area: area in pixels that a region must exceed to be refined.
            num_points: number of point prompts per region.
            selection_mode: mode of `choose_points`, one of `SELECTION_MODES`.
            erosion: side in pixels of the square that erodes a region before its points are chosen; 0 = no erosion.
            rm_intersection: whether to drop pixels that masks of two classes claim.
            keep_teacher: whether pixels that SAM leaves unlabelled keep the teacher's label. The published method
                leaves them unlabelled.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; it must be in [0, 1]")
        if selection_mode not in SELECTION_MODES:
            raise ValueError(f"selection_mode is {selection_mode!r}; it must be one of {', '.join(SELECTION_MODES)}")
        self.sam = sam
        self.threshold = threshold
        self.min_area = min_area
        self.num_points = num_points
        self.selection_mode = selection_mode
        self.erosion = erosion
        self.rm_intersection = rm_intersection
        self.keep_teacher = keep_teacher

    @torch.no_grad()
    def __call__(
        self, scores: Sequence[Tensor], images: Sequence[Tensor], seeds: Sequence[int | None]
    ) -> list[PseudoLabel]:
        """
        Args:
            scores: G tensors (K, h, w), not negative, on any device.
            images: G images (3, h, w) uint8 RGB on any device, the views that were scored.
            seeds: G seeds that fix the prompts; None draws different ones each time.

        Returns:
            G pseudo-labels. A class without a pixel has no mask; pixels in no mask are negatives of every mask.
        """
        maps = [label_map(each, self.threshold) for each in scores]
        prompts = [self._prompts(*each) for each in zip(maps, seeds, strict=True)]
        targets = self._refine(images, maps, prompts)
        return [PseudoLabel(*parts) for parts in zip(images, maps, prompts, targets, strict=True)]

    def _prompts(self, teacher_map: Tensor, seed: int | None) -> Prompts | None:
        if self.sam is None:
            return None
        regions = find_regions(teacher_map.cpu().numpy(), min_area=self.min_area)
        rng = np.random.default_rng(None if seed is None else [seed, PROMPT_STREAM])
        return choose_points(
            regions, num_points=self.num_points, mode=self.selection_mode, erosion=self.erosion, rng=rng
        )

    def _refine(
        self, images: Sequence[Tensor], maps: Sequence[Tensor], prompts: Sequence[Prompts | None]
    ) -> list[Target]:
        """Return SAM's masks, or the teacher's for an image in which no region is large enough to be refined."""
        targets = [target_from_map(each) for each in maps]
        asked = {number: shown for number, shown in enumerate(prompts) if shown is not None and len(shown.points)}
        if self.sam is None or not asked:
            return targets
        embeddings = self.sam.encode([images[number] for number in asked])
        for (number, shown), embedding in zip(asked.items(), embeddings, strict=True):
            masks = self.sam.predict(embedding, torch.from_numpy(shown.points))
            classes = torch.from_numpy(shown.classes)
            target = merge_masks(masks, classes, rm_intersection=self.rm_intersection)
            if self.keep_teacher:
                target = filled_up(target, maps[number])
            targets[number] = _without_empty(target)
        return targets


def build_pseudo_labeller(cfg: CfgNode, sam: Sam | None) -> PseudoLabeller:
    """Build the labeller that ``INPUT.PL_THRESHOLD`` and ``MODEL.CLOUDS.SAM`` describe; `sam` None = no refinement."""
    settings = cfg.MODEL.CLOUDS.SAM
    return PseudoLabeller(
        sam,
        threshold=cfg.INPUT.PL_THRESHOLD,
        min_area=settings.SIZE_THRESHOLD,
        num_points=settings.NUM_POINTS,
        selection_mode=settings.SELECTION_MODE,
        erosion=settings.EROSION_SIZE if settings.EROSION else 0,
        rm_intersection=settings.RM_INTERSECTION,
        keep_teacher=settings.KEEP_TEACHER,
    )


def label_map(scores: Tensor, threshold: float = 0.0) -> Tensor:
    """Return the best class of each pixel, 255 where its share of all classes' scores is below `threshold`.

    Args:
        scores: (K, h, w), not negative.
        threshold: confidence in [0, 1]; 0 labels every pixel.

    Returns:
        (h, w) uint8.
    """
    best, classes = scores.max(dim=0)
    labels = classes.to(torch.uint8)
    if threshold > 0:
        labels[best < threshold * scores.sum(dim=0)] = IGNORE_LABEL
    return labels


def target_from_map(labels: Tensor) -> Target:
    """Convert a label map (h, w) uint8, 255 = no label, to one mask per class that occurs."""
    present = labels.unique()
    present = present[present != IGNORE_LABEL]
    return Target(present.long(), labels == present[:, None, None])


def filled_up(target: Target, labels: Tensor) -> Target:
    """Add the pixels that are in no mask of a target to the mask of their class in a label map.

    Args:
        target: masks (N, h, w).
        labels: (h, w) uint8, 255 = no label.
    """
    rest = target_from_map(labels.masked_fill(target.masks.any(dim=0), IGNORE_LABEL))
    return merge_masks(
        torch.cat([target.masks, rest.masks]), torch.cat([target.labels, rest.labels]), rm_intersection=False
    )


def _without_empty(target: Target) -> Target:
    # An empty mask would teach the student that the class occurs, but at no pixel.
    kept = target.masks.flatten(1).any(dim=1)
    return Target(target.labels[kept], target.masks[kept])
