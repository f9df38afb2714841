"""What the teacher says about generated images, refined by SAM, as targets for the student (CLOUDS, section 3.3).

Letters: G generated images, K classes, H x W an image, N classes with a mask, C canvas.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clouds.d2 import CfgNode
from clouds.data.classes import IGNORE_LABEL
from clouds.errors import UserError, check_name
from clouds.modeling.structures import Target, pad_target
from clouds.self_training.regions import SELECTION_MODES, Prompts, choose_points, find_regions, merge_masks
from clouds.self_training.sam import Sam
from clouds.self_training.teacher import Teacher


@dataclass(frozen=True)
class PseudoLabel:
    """How one image got its target, for pictures and measurements.

    Attributes:
        image: (3, H, W) uint8 RGB, the view that teacher and SAM saw.
        teacher_map: (H, W) uint8, 255 where the teacher was not sure enough.
        prompts: what SAM was shown; None where it was not asked.
        refined: the target at the size of the image.
        truth: (H, W) uint8 where it is known, to measure with; 255 = ignore.
    """

    image: Tensor
    teacher_map: Tensor
    prompts: Prompts | None
    refined: Target
    truth: Tensor | None


class PseudoLabeller:
    """Turns the teacher's scores into targets. Holds what is no part of the model: the teacher and SAM.

    Attributes:
        teacher: whose head scores the images.
        geometric_ensemble: whether CLIP has a say in the teacher's classes.
        latest: the labels of the last step.
    """

    def __init__(
        self,
        teacher: Teacher,
        sam: Sam | None,
        *,
        threshold: float = 0.0,
        min_area: int = 5000,
        num_points: int = 5,
        selection_mode: str = "random",
        erosion: int = 0,
        rm_intersection: bool = True,
        keep_teacher: bool = False,
        geometric_ensemble: bool = False,
    ) -> None:
        """
        Args:
            teacher: see above.
            sam: refines the label maps; None leaves them as they are.
            threshold: confidence, 0..1, below which a pixel has no label.
            min_area: pixels; regions have to be larger for SAM to be asked.
            num_points: prompts in each region.
            selection_mode: of the prompts, see `choose_points`.
            erosion: pixels, keeps prompts off the border of a region; 0: none.
            rm_intersection: drop pixels that masks of two classes claim.
            keep_teacher: give pixels that SAM left without a label the teacher's. Published: they stay without.
            geometric_ensemble: see above.
        """
        if not 0 <= threshold <= 1:
            raise UserError(f"INPUT.PL_THRESHOLD is {threshold}: a confidence lies in 0..1.")
        check_name("MODEL.CLOUDS.SAM.SELECTION_MODE", selection_mode, SELECTION_MODES)
        self.teacher = teacher
        self.sam = sam
        self.threshold = threshold
        self.min_area = min_area
        self.num_points = num_points
        self.selection_mode = selection_mode
        self.erosion = erosion
        self.rm_intersection = rm_intersection
        self.keep_teacher = keep_teacher
        self.geometric_ensemble = geometric_ensemble
        self.latest: list[PseudoLabel] = []

    @torch.no_grad()
    def __call__(
        self, scores: Sequence[Tensor], inputs: Sequence[dict[str, Any]], canvas: tuple[int, int]
    ) -> list[Target]:
        """
        Args:
            scores: of each of the G images (K, H, W) float, not negative, from the teacher's head.
            inputs: of each image `image`, the clean view, (3, H, W) uint8 RGB; optionally `seed`, which fixes the
                prompts, and `truth`, (H, W) uint8.
            canvas: size of the targets' masks, at least H x W.

        Returns:
            One target an image. A class without a pixel is left out; pixels in no mask are negatives of every mask.
        """
        maps = [label_map(each, self.threshold) for each in scores]
        images = [x["image"].to(each.device) for x, each in zip(inputs, maps, strict=True)]
        prompts = [self._prompts(each, x.get("seed")) for each, x in zip(maps, inputs, strict=True)]
        refined = self._refine(images, maps, prompts)
        self.latest = [
            PseudoLabel(image, teacher_map, shown, target, x.get("truth"))
            for image, teacher_map, shown, target, x in zip(images, maps, prompts, refined, inputs, strict=True)
        ]
        return [pad_target(target, canvas) for target in refined]

    def _prompts(self, teacher_map: Tensor, seed: int | None) -> Prompts | None:
        if self.sam is None:
            return None
        regions = find_regions(teacher_map.cpu().numpy(), min_area=self.min_area)
        # The 3 keeps this stream apart from those of the view and of the points of the loss.
        rng = np.random.default_rng(None if seed is None else [seed, 3])
        return choose_points(
            regions, num_points=self.num_points, mode=self.selection_mode, erosion=self.erosion, rng=rng
        )

    def _refine(
        self, images: Sequence[Tensor], maps: Sequence[Tensor], prompts: Sequence[Prompts | None]
    ) -> list[Target]:
        """SAM's masks; the teacher's where no region is large enough to ask about."""
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


def build_pseudo_labeller(cfg: CfgNode, teacher: Teacher, sam: Sam | None) -> PseudoLabeller:
    """As the config says; `sam` None = no refinement."""
    settings = cfg.MODEL.CLOUDS.SAM
    return PseudoLabeller(
        teacher,
        sam,
        threshold=cfg.INPUT.PL_THRESHOLD,
        min_area=settings.SIZE_THRESHOLD,
        num_points=settings.NUM_POINTS,
        selection_mode=settings.SELECTION_MODE,
        erosion=settings.EROSION_SIZE if settings.EROSION else 0,
        rm_intersection=settings.RM_INTERSECTION,
        keep_teacher=settings.KEEP_TEACHER,
        geometric_ensemble=cfg.MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_EMA,
    )


def label_map(scores: Tensor, threshold: float = 0.0) -> Tensor:
    """The best class of each pixel; 255 where its share of all classes' scores is below `threshold`.

    Args:
        scores: (K, H, W), not negative.
        threshold: 0..1; 0 labels every pixel.

    Returns:
        (H, W) uint8.
    """
    best, classes = scores.max(dim=0)
    labels = classes.to(torch.uint8)
    if threshold > 0:
        labels[best < threshold * scores.sum(dim=0)] = IGNORE_LABEL
    return labels


def target_from_map(labels: Tensor) -> Target:
    """One mask a class that occurs; (H, W) uint8, 255 = in no mask."""
    present = labels.unique()
    present = present[present != IGNORE_LABEL]
    return Target(present.long(), labels == present[:, None, None])


def filled_up(target: Target, labels: Tensor) -> Target:
    """The target with the pixels that are in none of its masks given to their class in a label map.

    Args:
        target: masks (N, H, W).
        labels: (H, W) uint8, 255 = no label.
    """
    rest = target_from_map(labels.masked_fill(target.masks.any(dim=0), IGNORE_LABEL))
    return merge_masks(
        torch.cat([target.masks, rest.masks]), torch.cat([target.labels, rest.labels]), rm_intersection=False
    )


def _without_empty(target: Target) -> Target:
    # A mask that lost all to other classes would teach that the class is there, and nowhere.
    kept = target.masks.flatten(1).any(dim=1)
    return Target(target.labels[kept], target.masks[kept])
