"""Pseudo-labels: label map of the teacher -> prompts -> masks of SAM -> target (CLOUDS, section 3.3).

Prompts are points in the regions of the label map, as published, or the names of the classes of these regions.

Letters: G generated images, K classes, h x w an image, N classes with a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clouds.d2 import CfgNode
from clouds.data.classes import IGNORE_LABEL, split_synonyms
from clouds.modeling.structures import Target, classes_in
from clouds.self_training.regions import (
    SELECTION_MODES,
    Prompts,
    Regions,
    choose_classes,
    choose_points,
    find_regions,
    merge_masks,
)
from clouds.self_training.sam import ClassPrompt, Sam
from clouds.utils.transfer import download, upload

PROMPT_STREAM = 3  # tells the random numbers of prompts from those of views and of loss points, from the same seed


@dataclass(frozen=True)
class PseudoLabel:
    """Pseudo-label of one image, with the intermediate results that the monitor shows.

    Attributes:
        image: (3, h, w) uint8 RGB, the view that teacher and SAM saw.
        teacher_map: (h, w) uint8 label map of the teacher, 255 where its confidence is below the threshold.
        prompts: points or classes that SAM was prompted with; None without SAM.
        refined: classes and masks (N, h, w) that the student learns.
        truth: (h, w) uint8 label map, 255 = ignore, where it is known; used for measurements only.
    """

    image: Tensor
    teacher_map: Tensor
    prompts: Prompts | None
    refined: Target
    truth: Tensor | None = None


class PseudoLabeller:
    """Turns the teacher's label maps of generated images into pseudo-labels."""

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
        self,
        maps: Sequence[Tensor],
        images: Sequence[Tensor],
        seeds: Sequence[int | None],
        class_names: Sequence[str],
    ) -> list[PseudoLabel]:
        """Label a batch. The host waits for a GPU twice: for all label maps, and for which masks are empty.

        With class names as prompts, it also waits for the scores of each name.

        Args:
            maps: G label maps (h, w) uint8 of the teacher, 255 = no label, on any device.
            images: G images (3, h, w) uint8 RGB on any device, the views that the teacher saw.
            seeds: G seeds that fix the points; None draws different ones each time.
            class_names: names of the K classes, synonyms separated by commas; the prompts of a SAM that takes text.

        Returns:
            G pseudo-labels. A class without a pixel has no mask; pixels in no mask are negatives of every mask.
        """
        on_host = download(maps)
        present = [classes_in(each) for each in on_host]
        if self.sam is None:
            targets = [target_from_map(*each) for each in zip(maps, present, strict=True)]
            return [PseudoLabel(*each) for each in zip(images, maps, [None] * len(maps), targets, strict=True)]
        regions = [find_regions(each.numpy(), min_area=self.min_area) for each in on_host]
        if self.sam.prompts == "text":
            prompts = [choose_classes(each) for each in regions]
            shown: Sequence[Any] = class_prompts(regions, class_names, maps[0].device)
        else:
            prompts = [self._points(*each) for each in zip(regions, seeds, strict=True)]
            shown = point_prompts(prompts, maps[0].device)
        targets = self._refine(self.sam, images, maps, present, [each.classes.tolist() for each in prompts], shown)
        return [PseudoLabel(*each) for each in zip(images, maps, prompts, targets, strict=True)]

    def _points(self, regions: Regions, seed: int | None) -> Prompts:
        rng = np.random.default_rng(None if seed is None else [seed, PROMPT_STREAM])
        return choose_points(
            regions, num_points=self.num_points, mode=self.selection_mode, erosion=self.erosion, rng=rng
        )

    def _refine(
        self,
        sam: Sam,
        images: Sequence[Tensor],
        maps: Sequence[Tensor],
        present: Sequence[list[int]],
        classes: Sequence[list[int]],
        prompts: Sequence[Any],
    ) -> list[Target]:
        """Return SAM's masks, or the teacher's for an image in which no region is large enough to be refined.

        Args:
            sam: predicts the masks.
            images: G images.
            maps: G label maps of the teacher.
            present: classes in each label map.
            classes: class of each prompt of an image.
            prompts: prompts of each image, as `Sam.predict` takes them.
        """
        asked = [number for number, each in enumerate(classes) if each]
        if not asked:
            return [target_from_map(*each) for each in zip(maps, present, strict=True)]
        refined = []
        for number, embedding in zip(asked, sam.encode([images[number] for number in asked]), strict=True):
            masks = sam.predict(embedding, prompts[number])
            target = merge_masks(masks, classes[number], rm_intersection=self.rm_intersection)
            if self.keep_teacher:
                target = filled_up(target, sorted(set(classes[number])), maps[number], present[number])
            refined.append(target)
        of_sam = dict(zip(asked, _without_empty(refined), strict=True))
        return [
            of_sam[number] if number in of_sam else target_from_map(maps[number], present[number])
            for number in range(len(maps))
        ]


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


def point_prompts(prompts: Sequence[Prompts], device: torch.device) -> Sequence[Tensor]:
    """Return the points (P, n, 2) of the prompts of several images, uploaded together."""
    points = upload(torch.from_numpy(np.concatenate([each.points for each in prompts])), device)
    return points.split([len(each.points) for each in prompts])


def class_prompts(
    regions: Sequence[Regions], class_names: Sequence[str], device: torch.device
) -> list[list[ClassPrompt]]:
    """Return a prompt for each class of the regions of several images, in the order of `choose_classes`.

    Args:
        regions: regions of each image.
        class_names: names of the K classes, synonyms separated by commas.
        device: device of the masks of the regions.
    """
    names = [tuple(split_synonyms(each)) for each in class_names]
    maps = [upload(torch.from_numpy(each.label_map()), device) for each in regions]
    return [
        [ClassPrompt(names[value], labels == value) for value in np.unique(each.classes).tolist()]
        for each, labels in zip(regions, maps, strict=True)
    ]


def target_from_map(labels: Tensor, present: Sequence[int]) -> Target:
    """Convert a label map to one mask per class.

    Args:
        labels: (h, w) uint8.
        present: N classes, ascending; those in the map, which the host knows.
    """
    classes = upload(torch.tensor(present, dtype=torch.int64), labels.device)
    return Target(classes, labels == classes[:, None, None])


def filled_up(target: Target, classes: Sequence[int], labels: Tensor, present: Sequence[int]) -> Target:
    """Add the pixels that are in no mask of a target to the mask of their class in a label map.

    Args:
        target: masks (N, h, w).
        classes: the N classes of the target, which the host knows.
        labels: (h, w) uint8, 255 = no label.
        present: classes in the label map, ascending, without 255.

    Returns:
        A mask for each class of the target and of the label map; it may be empty.
    """
    rest = target_from_map(labels.masked_fill(target.masks.any(dim=0), IGNORE_LABEL), present)
    return merge_masks(torch.cat([target.masks, rest.masks]), [*classes, *present], rm_intersection=False)


def _without_empty(targets: Sequence[Target]) -> list[Target]:
    # An empty mask would teach the student that the class occurs, but at no pixel.
    full = download([target.masks.flatten(1).any(dim=1) for target in targets])
    kept = [upload(each.nonzero()[:, 0], target.masks.device) for each, target in zip(full, targets, strict=True)]
    return [
        target if len(rows) == len(target.masks) else Target(target.labels[rows], target.masks[rows])
        for rows, target in zip(kept, targets, strict=True)
    ]
