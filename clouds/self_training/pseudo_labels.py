"""Pseudo-labels: label map of the teacher -> point prompts -> masks of SAM -> target (CLOUDS, section 3.3).

Letters: G generated images, K classes, h x w an image, N classes with a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clouds.d2 import CfgNode
from clouds.data.classes import IGNORE_LABEL
from clouds.modeling.structures import Target, classes_in
from clouds.self_training.regions import SELECTION_MODES, Prompts, choose_points, find_regions, merge_masks
from clouds.self_training.sam import Sam
from clouds.utils.transfer import download, upload

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
        self, maps: Sequence[Tensor], images: Sequence[Tensor], seeds: Sequence[int | None]
    ) -> list[PseudoLabel]:
        """Label a batch. The host waits for a GPU twice: for all label maps, and for which masks are empty.

        Args:
            maps: G label maps (h, w) uint8 of the teacher, 255 = no label, on any device.
            images: G images (3, h, w) uint8 RGB on any device, the views that the teacher saw.
            seeds: G seeds that fix the prompts; None draws different ones each time.

        Returns:
            G pseudo-labels. A class without a pixel has no mask; pixels in no mask are negatives of every mask.
        """
        on_host = download(maps)
        prompts = [self._prompts(*each) for each in zip(on_host, seeds, strict=True)]
        present = [classes_in(each) for each in on_host]
        targets = self._refine(images, maps, present, prompts)
        return [PseudoLabel(*parts) for parts in zip(images, maps, prompts, targets, strict=True)]

    def _prompts(self, teacher_map: Tensor, seed: int | None) -> Prompts | None:
        if self.sam is None:
            return None
        regions = find_regions(teacher_map.numpy(), min_area=self.min_area)
        rng = np.random.default_rng(None if seed is None else [seed, PROMPT_STREAM])
        return choose_points(
            regions, num_points=self.num_points, mode=self.selection_mode, erosion=self.erosion, rng=rng
        )

    def _refine(
        self,
        images: Sequence[Tensor],
        maps: Sequence[Tensor],
        present: Sequence[list[int]],
        prompts: Sequence[Prompts | None],
    ) -> list[Target]:
        """Return SAM's masks, or the teacher's for an image in which no region is large enough to be refined."""
        asked = {number: shown for number, shown in enumerate(prompts) if shown is not None and len(shown.points)}
        if self.sam is None or not asked:
            return [target_from_map(*each) for each in zip(maps, present, strict=True)]
        embeddings = self.sam.encode([images[number] for number in asked])
        points = upload(torch.from_numpy(np.concatenate([shown.points for shown in asked.values()])), maps[0].device)
        of_each = points.split([len(shown.points) for shown in asked.values()])
        refined = []
        for (number, shown), embedding, own in zip(asked.items(), embeddings, of_each, strict=True):
            masks, classes = self.sam.predict(embedding, own), shown.classes.tolist()
            target = merge_masks(masks, classes, rm_intersection=self.rm_intersection)
            if self.keep_teacher:
                target = filled_up(target, sorted(set(classes)), maps[number], present[number])
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
