"""The CLOUDS meta-architecture (Benigmim et al., CVPR 2024)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.d2 import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    CfgNode,
    ImageList,
    MetadataCatalog,
    build_backbone,
    build_sem_seg_head,
    comm,
    configurable,
)
from clouds.data.classes import CITYSCAPES_CLASSES
from clouds.errors import UserError, check_name
from clouds.modeling import backbone as _backbone  # noqa: F401  (registers the backbones)
from clouds.modeling.backbone.clip import CLIP
from clouds.modeling.criterion import SetCriterion, seeded_points, uniform_points
from clouds.modeling.head import CLOUDSHead
from clouds.modeling.inference import resize_scores, semantic_scores
from clouds.modeling.matcher import HungarianMatcher
from clouds.modeling.open_vocabulary import geometric_ensemble, seen_classes
from clouds.modeling.structures import Prediction, Target, targets_from_instances
from clouds.modeling.text_classifier import TextClassifier

if TYPE_CHECKING:  # evaluation does without it, and without SAM
    from clouds.self_training.pseudo_labels import PseudoLabeller


@META_ARCH_REGISTRY.register()
class CLOUDS(nn.Module):
    """A CLIP backbone under a Mask2Former head, with CLIP's own opinion on the masks if wanted."""

    @configurable
    def __init__(
        self,
        *,
        backbone: CLIP,
        sem_seg_head: CLOUDSHead,
        criterion: SetCriterion,
        train_classes: Sequence[str],
        test_classes: Sequence[str],
        size_divisibility: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        geometric_ensemble: bool = False,
        alpha: float = 0.4,
        beta: float = 0.8,
        ensemble_on_valid_mask: bool = False,
    ) -> None:
        """
        Args:
            backbone: the CLIP towers.
            sem_seg_head: pixel and transformer decoder.
            criterion: the training loss.
            train_classes: names of the training classes, synonyms separated by commas.
            test_classes: likewise at test time; other than the training classes only with a text head.
            size_divisibility: the canvas of a batch is padded to a multiple of this.
            pixel_mean: of R, G, B in 0..255.
            pixel_std: likewise.
            geometric_ensemble: combine the decoder's classes with CLIP's at inference.
            alpha: weight of CLIP for classes seen in training.
            beta: weight of CLIP for the other classes.
            ensemble_on_valid_mask: let CLIP speak only where a mask is not empty.
        """
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.train_classes = tuple(train_classes)
        self.test_classes = tuple(test_classes)
        self.size_divisibility = size_divisibility
        self.geometric_ensemble = geometric_ensemble
        self.alpha = alpha
        self.beta = beta
        self.ensemble_on_valid_mask = ensemble_on_valid_mask
        self.pseudo_labeller: PseudoLabeller | None = None
        """Labels the generated images of a batch; who trains on such images sets it."""
        self.void_embedding = nn.Embedding(1, backbone.embed_dim)
        # A head without text never uses it; a trained parameter without gradient would break data-parallel training.
        self.void_embedding.requires_grad_(sem_seg_head.uses_text)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        check_name("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, dict(BACKBONE_REGISTRY))
        check_name("MODEL.SEM_SEG_HEAD.NAME", cfg.MODEL.SEM_SEG_HEAD.NAME, dict(SEM_SEG_HEADS_REGISTRY))
        backbone = build_backbone(cfg)
        former, clouds, num_classes = cfg.MODEL.MASK_FORMER, cfg.MODEL.CLOUDS, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        sem_seg_head = build_sem_seg_head(cfg, backbone.output_shape())
        if sem_seg_head.uses_text and backbone.embed_dim != clouds.EMBED_DIM:
            raise UserError(
                f"MODEL.CLOUDS.EMBED_DIM is {clouds.EMBED_DIM}, but {clouds.CLIP_MODEL_NAME} embeds into "
                f"{backbone.embed_dim} dimensions; set MODEL.CLOUDS.EMBED_DIM {backbone.embed_dim}."
            )
        matcher = HungarianMatcher(
            cost_class=former.CLASS_WEIGHT,
            cost_mask=former.MASK_WEIGHT,
            cost_dice=former.DICE_WEIGHT,
            num_points=former.TRAIN_NUM_POINTS,
        )
        criterion = SetCriterion(
            num_classes=num_classes,
            matcher=matcher,
            class_weight=former.CLASS_WEIGHT,
            mask_weight=former.MASK_WEIGHT,
            dice_weight=former.DICE_WEIGHT,
            no_object_weight=former.NO_OBJECT_WEIGHT,
            num_points=former.TRAIN_NUM_POINTS,
            oversample_ratio=former.OVERSAMPLE_RATIO,
            importance_sample_ratio=former.IMPORTANCE_SAMPLE_RATIO,
            deep_supervision=former.DEEP_SUPERVISION,
        )
        return {
            "backbone": backbone,
            "sem_seg_head": sem_seg_head,
            "criterion": criterion,
            "train_classes": class_names(cfg.DATASETS.TRAIN, num_classes),
            "test_classes": class_names(cfg.DATASETS.TEST),
            "size_divisibility": former.SIZE_DIVISIBILITY,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "geometric_ensemble": clouds.GEOMETRIC_ENSEMBLE,
            "alpha": clouds.GEOMETRIC_ENSEMBLE_ALPHA,
            "beta": clouds.GEOMETRIC_ENSEMBLE_BETA,
            "ensemble_on_valid_mask": clouds.ENSEMBLE_ON_VALID_MASK,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """
        Args:
            batched_inputs: one dict an image with `image`, (3, H, W) uint8 or float RGB in 0..255; for training
                `instances` with `gt_classes` (N,) and `gt_masks` (N, H, W) bool, or `is_generated` and the same view
                without colour jitter as `image_clean`, and optionally `seed`, which fixes the points that its loss
                looks at and SAM is shown; for inference optionally `height` and `width`, the size of the answer.

        Returns:
            In training the weighted losses; else one dict an image with `sem_seg`, (K, height, width) float scores.
        """
        images = self.preprocess(batched_inputs)
        features = self.backbone(images.tensor)
        predictions = self.sem_seg_head(features, self.text_classifier(), self.void_embedding.weight)
        if self.training:
            seeds = [x["seed"] for x in batched_inputs if "seed" in x]
            points = seeded_points(seeds, self.device) if len(seeds) == len(batched_inputs) else uniform_points
            targets = self.targets(batched_inputs, features, self._canvas(images))
            return self.criterion(predictions, targets, points)
        result = predictions[-1]
        if self.geometric_ensemble:
            result = self.with_clip_opinion(result, features, self.test_classes)
        return self.postprocess(result, images, batched_inputs)

    def targets(
        self, batched_inputs: Sequence[dict[str, Any]], features: dict[str, Tensor], canvas: tuple[int, int]
    ) -> list[Target]:
        """Ground truth where there is one, pseudo-labels for the generated images; masks on the canvas.

        Args:
            batched_inputs: B of them, see `forward`.
            features: of their student's views on the canvas, (B, ...) each.
            canvas: (H, W).
        """
        generated = [number for number, x in enumerate(batched_inputs) if x.get("is_generated", False)]
        views = {name: maps[generated] for name, maps in features.items()}
        pseudo = iter(self.pseudo_targets([batched_inputs[number] for number in generated], views, canvas))
        return [
            next(pseudo)
            if x.get("is_generated", False)
            else targets_from_instances([x["instances"].to(self.device)], canvas)[0]
            for x in batched_inputs
        ]

    @torch.no_grad()
    def pseudo_targets(
        self, generated: Sequence[dict[str, Any]], features: dict[str, Tensor], canvas: tuple[int, int]
    ) -> list[Target]:
        """What the teacher sees on the clean views, refined (CLOUDS, section 3.3).

        ``features`` of the student's views serve where these are the clean ones, too, and the tower is frozen.
        """
        if self.pseudo_labeller is None:
            if generated:
                raise UserError(
                    "The batch has images without labels; set MODEL.CLOUDS.SAM.MINIBATCH True to learn them."
                )
            return []
        if not generated:
            self.pseudo_labeller.latest = []
            return []
        clean = [{**x, "image": x.get("image_clean", x["image"])} for x in generated]
        images = self.preprocess(clean, canvas)
        backbone_trains = self.backbone.training
        if backbone_trains or any("image_clean" in x for x in generated):
            features = self.backbone.eval()(images.tensor)
            self.backbone.train(backbone_trains)
        text = self.text_classifier()
        prediction = self.pseudo_labeller.teacher.head(features, text, self.void_embedding.weight)[-1]
        if self.pseudo_labeller.geometric_ensemble:
            prediction = self.with_clip_opinion(prediction, features, self.train_classes)
        scores = [result["sem_seg"] for result in self.postprocess(prediction, images, clean)]
        return self.pseudo_labeller(scores, clean, canvas)

    def preprocess(self, batched_inputs: Sequence[dict[str, Any]], canvas: tuple[int, ...] | None = None) -> ImageList:
        """Normalise, then pad bottom and right with zeros to one canvas, (B, 3, H, W) float.

        The canvas, if not given, is the smallest for all images of a training step, over all processes.
        """
        tensors = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        images = ImageList.from_tensors(tensors, self.size_divisibility)
        if canvas is None and self.training and comm.get_world_size() > 1:
            # The canvas of the whole batch, for the padding has an influence on what the network sees.
            canvas = tuple(max(sides) for sides in zip(*comm.all_gather(self._canvas(images)), strict=True))
        if canvas is not None:
            missing = (0, canvas[1] - images.tensor.shape[-1], 0, canvas[0] - images.tensor.shape[-2])
            images = ImageList(F.pad(images.tensor, missing), images.image_sizes)
        return images

    def text_classifier(self) -> TextClassifier | None:
        """Embeddings of the class names for a head that reads them."""
        if not self.sem_seg_head.uses_text:
            return None
        return self.backbone.text_classifier(self.train_classes if self.training else self.test_classes)

    def with_clip_opinion(
        self, prediction: Prediction, features: dict[str, Tensor], classes: Sequence[str]
    ) -> Prediction:
        """The prediction with its classes combined with what CLIP sees under each mask (FC-CLIP, section 3.3)."""
        dense = features["clip_vis_dense"]
        masks = F.interpolate(prediction.mask_logits, size=dense.shape[-2:], mode="bilinear", align_corners=False)
        text = self.backbone.text_classifier(classes)
        embedded = self.backbone.embed_masks(dense, masks)
        class_logits = geometric_ensemble(
            prediction.class_logits,
            text.logits(embedded, self.void_embedding.weight, self.backbone.logit_scale),
            seen_classes(classes, self.train_classes).to(self.device),
            alpha=self.alpha,
            beta=self.beta,
            valid=(masks > 0).flatten(2).any(dim=-1) if self.ensemble_on_valid_mask else None,
        )
        return prediction._replace(class_logits=class_logits)

    def postprocess(
        self, prediction: Prediction, images: ImageList, batched_inputs: Sequence[dict[str, Any]]
    ) -> list[dict[str, Tensor]]:
        """Scores of each image at the size asked for."""
        results = []
        for class_logits, mask_logits, size, x in zip(*prediction, images.image_sizes, batched_inputs, strict=True):
            scores = semantic_scores(class_logits, mask_logits, self._canvas(images))
            height, width = x.get("height", size[0]), x.get("width", size[1])
            results.append({"sem_seg": resize_scores(scores, size, height, width)})
        return results

    @staticmethod
    def _canvas(images: ImageList) -> tuple[int, int]:
        return images.tensor.shape[-2], images.tensor.shape[-1]


def class_names(datasets: Sequence[str], num_classes: int | None = None) -> Sequence[str]:
    """Class names of the first data set, the 19 of Cityscapes where none is registered under that name.

    Raises:
        UserError: there are not `num_classes` of them.
    """
    names: Sequence[str] = CITYSCAPES_CLASSES
    if datasets:
        names = getattr(MetadataCatalog.get(datasets[0]), "stuff_classes", names)
    if num_classes is not None and len(names) != num_classes:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}, but DATASETS.TRAIN {tuple(datasets)} has {len(names)} "
            f"classes; set MODEL.SEM_SEG_HEAD.NUM_CLASSES {len(names)}."
        )
    return names
