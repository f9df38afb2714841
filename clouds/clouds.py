"""The CLOUDS meta-architecture (Benigmim et al., CVPR 2024)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clouds.config.classes import check_registered, class_names, train_class_names
from clouds.config.detectron2_keys import report_detectron2_keys
from clouds.config.settings import evaluated_sets
from clouds.d2 import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    CfgNode,
    ShapeSpec,
    build_backbone,
    build_sem_seg_head,
    configurable,
)
from clouds.errors import UserError, check_name
from clouds.modeling import backbone as _backbone  # noqa: F401  (registers the backbones)
from clouds.modeling.backbone.adapters import build_adapter
from clouds.modeling.backbone.base import SegmentationBackbone, TextTower
from clouds.modeling.compilation import compile_forward
from clouds.modeling.criterion import SetCriterion
from clouds.modeling.distributed import largest_over_processes
from clouds.modeling.head import CLOUDSHead
from clouds.modeling.inference import image_scores, label_map
from clouds.modeling.matcher import HungarianMatcher
from clouds.modeling.open_vocabulary import ensemble_with_clip
from clouds.modeling.points import Uniform, seeded_points, uniform_points
from clouds.modeling.preprocessing import canvas_size, normalize_and_pad
from clouds.modeling.structures import HandedOut, ImageDict, Prediction, batch_targets, image_sizes, output_sizes
from clouds.modeling.text_classifier import TextClassifier
from clouds.modeling.transformer_decoder import TRANSFORMER_DECODER_REGISTRY


@META_ARCH_REGISTRY.register()
class CLOUDS(nn.Module):
    """Mask2Former on the features of a vision-language backbone, optionally combined with CLIP's classes of each mask.

    The model knows neither the teacher nor SAM. In training, every image of a batch has a label map, `sem_seg`, which
    the mapper reads, or `instances`, which `clouds.self_training.labelling` predicts.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: SegmentationBackbone,
        sem_seg_head: CLOUDSHead,
        criterion: SetCriterion,
        train_classes: Sequence[str],
        test_classes: Sequence[str],
        size_divisibility: int,
        pixel_mean: Sequence[float] = (),
        pixel_std: Sequence[float] = (),
        geometric_ensemble: bool = False,
        alpha: float = 0.4,
        beta: float = 0.8,
        ensemble_on_valid_mask: bool = False,
        compiled: bool = False,
    ) -> None:
        """
        Args:
            backbone: computes the feature maps.
            sem_seg_head: pixel decoder and transformer decoder.
            criterion: training losses.
            train_classes: names of the training classes, synonyms separated by commas.
            test_classes: names of the test classes; only a text head can predict other classes than it was trained on.
            size_divisibility: the canvas of a batch is padded to a multiple of this number and of the backbone's own.
            pixel_mean: mean of R, G and B in 0..255; empty = the backbone's own.
            pixel_std: standard deviation of R, G and B in 0..255; empty = the backbone's own.
            geometric_ensemble: whether to combine the decoder's classes with CLIP's at inference.
            alpha: weight of CLIP for classes seen in training, in [0, 1].
            beta: weight of CLIP for the other classes, in [0, 1].
            ensemble_on_valid_mask: whether to combine them for non-empty masks only.
            compiled: whether to compile backbone and head with `torch.compile`.
        """
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.train_classes = tuple(train_classes)
        self.test_classes = tuple(test_classes)
        self.size_divisibility = math.lcm(max(size_divisibility, 1), max(backbone.size_divisibility, 1))
        self.geometric_ensemble = geometric_ensemble
        self.alpha = alpha
        self.beta = beta
        self.ensemble_on_valid_mask = ensemble_on_valid_mask
        if compiled:
            compile_forward(backbone)
            compile_forward(sem_seg_head)
        if backbone.queries is not None:
            # Nothing reads the decoder's own embedding then, see `void_embedding`.
            sem_seg_head.predictor.query_embed.requires_grad_(False)
        if backbone.text_tower is not None:
            self.void_embedding = nn.Embedding(1, backbone.text_tower.embed_dim)
            # Without a text head it gets no gradient, and data-parallel training waits for every trained parameter.
            self.void_embedding.requires_grad_(sem_seg_head.uses_text)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        mean, std = pixel_mean or backbone.pixel_mean, pixel_std or backbone.pixel_std
        self.register_buffer("pixel_mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, train_classes: Sequence[str] | None = None, test_classes: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Return the arguments that a config describes; the data sets of names that are given need not be registered.

        Args:
            cfg: config with a resolved device.
            train_classes: names of the training classes; default: those of ``DATASETS.TRAIN``.
            test_classes: names of the test classes; default: those of the first of `evaluated_sets`.
        """
        former, head, clouds = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.CLOUDS
        report_detectron2_keys(cfg)
        if cfg.MODEL.DEVICE == "auto":
            raise UserError(
                "MODEL.DEVICE is auto, which build_model does not resolve: call clouds.engine.setup.resolve_device "
                "before it, or set MODEL.DEVICE to cuda or cpu."
            )
        if train_classes is None or test_classes is None:
            check_registered(cfg)
        check_name("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, dict(BACKBONE_REGISTRY))
        check_name("MODEL.SEM_SEG_HEAD.NAME", head.NAME, dict(SEM_SEG_HEADS_REGISTRY))
        check_name("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", head.PIXEL_DECODER_NAME, dict(SEM_SEG_HEADS_REGISTRY))
        decoders = dict(TRANSFORMER_DECODER_REGISTRY)
        check_name("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", former.TRANSFORMER_DECODER_NAME, decoders)
        backbone = build_backbone(cfg, ShapeSpec(channels=3))
        sem_seg_head = build_sem_seg_head(cfg, backbone.output_shape())
        uses_text = getattr(sem_seg_head, "uses_text", None)
        if not isinstance(uses_text, bool):
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.NAME is {head.NAME}, whose attribute uses_text is not True or False: set it, or "
                "derive the head from CLOUDSHead and the predictor from MaskedTransformerDecoder."
            )
        check_backbone(cfg, backbone, uses_text=uses_text)
        assert isinstance(backbone, SegmentationBackbone)
        build_adapter(cfg, backbone)
        matcher = HungarianMatcher(
            cost_class=former.CLASS_WEIGHT,
            cost_mask=former.MASK_WEIGHT,
            cost_dice=former.DICE_WEIGHT,
            num_points=former.TRAIN_NUM_POINTS,
        )
        criterion = SetCriterion(
            num_classes=head.NUM_CLASSES,
            matcher=matcher,
            weights={
                "loss_ce": former.CLASS_WEIGHT,
                "loss_mask": former.MASK_WEIGHT,
                "loss_dice": former.DICE_WEIGHT,
            },
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
            "train_classes": train_class_names(cfg) if train_classes is None else train_classes,
            "test_classes": class_names(evaluated_sets(cfg)) if test_classes is None else test_classes,
            "size_divisibility": former.SIZE_DIVISIBILITY,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "geometric_ensemble": clouds.GEOMETRIC_ENSEMBLE,
            "alpha": clouds.GEOMETRIC_ENSEMBLE_ALPHA,
            "beta": clouds.GEOMETRIC_ENSEMBLE_BETA,
            "ensemble_on_valid_mask": clouds.ENSEMBLE_ON_VALID_MASK,
            "compiled": cfg.MODEL.COMPILE,
        }

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: Sequence[ImageDict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Compute the training losses of a batch, or predict the scores of its images.

        Args:
            batched_inputs: one dict per image with `image`, (3, h, w) uint8 or float RGB in 0..255. Optional entries:
                `sem_seg`, (h, w) uint8 train ids, 255 = ignored, with their list `sem_seg_classes`; or `instances` with
                `gt_classes` (N,) int64 and `gt_masks` (N, h, w) bool. One of them is required in training; with both,
                `instances` are used.
                `seed`, an int that fixes the random points of the image's loss.
                `height` and `width`, the size of the result at inference in pixels; default h and w.
                `classes`, names of the K classes to predict, equal in all dicts; default `test_classes`.
                `canvas`, (H, W), the padded size of the batch, where labelling has already exchanged it.
                `features`, the backbone's maps of the whole batch on the canvas, where labelling has already computed
                them.
                `other_targets`, numbers of targets of the other images, where this is a part of a larger batch.
                `clouds.modeling.structures` lists all entries.

        Returns:
            In training a dict of weighted scalar losses, otherwise one dict per image with `sem_seg`, (K, height,
            width) float scores.

        Raises:
            ValueError: in training, an image has neither `sem_seg` nor `instances`.
        """
        if self.training and not all("sem_seg" in x or "instances" in x for x in batched_inputs):
            raise ValueError("batched_inputs has images without sem_seg or instances; label the generated images first")
        canvas = self.canvas(batched_inputs)
        if not self.training:
            prediction = self.predict(batched_inputs, canvas)
            scores = image_scores(prediction, canvas, image_sizes(batched_inputs), output_sizes(batched_inputs))
            return [{"sem_seg": each} for each in scores]
        features = self.features(batched_inputs, canvas)
        text = self.text_classifier(self.train_classes)
        predictions = self.sem_seg_head(features, text, self.void, self.backbone.queries)
        targets = batch_targets(batched_inputs, canvas, self.device)
        others = batched_inputs[0].get("other_targets", ())
        return self.criterion(predictions, targets, self.points(batched_inputs), others)

    @torch.no_grad()
    def predict_labels(self, batched_inputs: Sequence[ImageDict]) -> list[Tensor]:
        """Predict the label maps of images, without holding their scores. The model must be in evaluation mode.

        Args:
            batched_inputs: dicts as `forward` takes them at inference. If several hold one tensor as their `image`, for
                results of several sizes, this image is computed once.

        Returns:
            For each dict (height, width) uint8 on the device of the model: the class whose score is the highest.
        """
        images = {id(x["image"]): x for x in batched_inputs}
        canvas = self.canvas(batched_inputs)
        prediction = self.predict(list(images.values()), canvas)
        rows = dict(zip(images, zip(prediction.class_logits, prediction.mask_logits, strict=True), strict=True))
        return [
            label_map(*rows[id(x["image"])], canvas, image_size, output_size)
            for x, image_size, output_size in zip(
                batched_inputs, image_sizes(batched_inputs), output_sizes(batched_inputs), strict=True
            )
        ]

    def predict(self, batched_inputs: Sequence[ImageDict], canvas: tuple[int, int]) -> Prediction:
        """Return the final prediction for the test classes, combined with CLIP's classes if so configured."""
        classes = batched_inputs[0].get("classes", self.test_classes)
        features = HandedOut(self.features(batched_inputs, canvas))
        # The ensemble reads one map again.
        again = (self.text_tower.dense_feature,) if self.geometric_ensemble else ()
        kept = {name: x for name, x in features.items() if name in again}
        text = self.text_classifier(classes)
        prediction = self.sem_seg_head(features, text, self.void, self.backbone.queries)[-1]
        return self.ensemble(prediction, kept, classes) if self.geometric_ensemble else prediction

    def canvas(self, batched_inputs: Sequence[ImageDict], group: Any = None) -> tuple[int, int]:
        """Return the padded size (H, W) of a batch; in training it covers the images of all processes.

        Args:
            batched_inputs: image dicts.
            group: process group of the exchange, see `largest_over_processes`.
        """
        if "canvas" in batched_inputs[0]:
            return batched_inputs[0]["canvas"]
        canvas = canvas_size(image_sizes(batched_inputs), self.size_divisibility)
        return largest_over_processes(canvas, group) if self.training else canvas

    def features(self, batched_inputs: Sequence[ImageDict], canvas: tuple[int, int]) -> dict[str, Tensor]:
        """Return the backbone's maps (B, C, H / stride, W / stride) by name."""
        if "features" in batched_inputs[0]:
            return batched_inputs[0]["features"]
        return self.backbone(self.preprocess([x["image"] for x in batched_inputs], canvas))

    def preprocess(self, images: Sequence[Tensor], canvas: tuple[int, int]) -> Tensor:
        """Upload, normalize and pad images (3, h, w), uint8 or float RGB in 0..255, to (B, 3, H, W) float."""
        return normalize_and_pad(images, self.pixel_mean, self.pixel_std, canvas)

    @property
    def void(self) -> Tensor | None:
        """(1, D) learnt embedding of "no object"; None for a backbone without text tower."""
        return None if self.backbone.text_tower is None else self.void_embedding.weight

    def text_classifier(self, classes: Sequence[str]) -> TextClassifier | None:
        """Return the embeddings of class names for a head that uses text, otherwise None."""
        return self.text_tower.text_classifier(classes) if self.sem_seg_head.uses_text else None

    @property
    def text_tower(self) -> TextTower:
        """The backbone's text tower.

        Raises:
            ValueError: the backbone has none.
        """
        if self.backbone.text_tower is None:
            raise ValueError("the backbone has no text tower, which text heads and the geometric ensemble need")
        return self.backbone.text_tower

    def ensemble(self, prediction: Prediction, features: dict[str, Tensor], classes: Sequence[str]) -> Prediction:
        """Combine the decoder's classes of a prediction with CLIP's (see `ensemble_with_clip`)."""
        return ensemble_with_clip(
            prediction,
            features,
            self.text_tower,
            classes,
            self.train_classes,
            self.void_embedding.weight,
            alpha=self.alpha,
            beta=self.beta,
            valid_masks_only=self.ensemble_on_valid_mask,
        )

    def points(self, batched_inputs: Sequence[ImageDict]) -> Uniform:
        """Return the source of random points for the loss: one stream per image if all images have a `seed`."""
        seeds = [x["seed"] for x in batched_inputs if "seed" in x]
        return seeded_points(seeds, self.device) if len(seeds) == len(batched_inputs) else uniform_points


def check_backbone(cfg: CfgNode, backbone: nn.Module, *, uses_text: bool) -> None:
    """Raise `UserError` if a backbone does not keep the contract or lacks a text tower that the config needs.

    Args:
        cfg: final config.
        backbone: the backbone that ``MODEL.BACKBONE.NAME`` names.
        uses_text: whether the head classifies with text.
    """
    name, clouds = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.CLOUDS
    if not isinstance(backbone, SegmentationBackbone):
        raise UserError(
            f"MODEL.BACKBONE.NAME is {name}, which is no SegmentationBackbone: derive it from that class in "
            "clouds/modeling/backbone/base.py."
        )
    tower = backbone.text_tower
    needs = {
        "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": uses_text,
        "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE": clouds.GEOMETRIC_ENSEMBLE,
        "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_EMA": clouds.GEOMETRIC_ENSEMBLE_EMA,
    }
    asking = [key for key, needed in needs.items() if needed]
    if tower is None and asking:
        raise UserError(
            f"{' and '.join(asking)} needs a text tower, which the backbone {name} does not have: use another setting "
            "or MODEL.BACKBONE.NAME CLIP."
        )
    if tower is not None and uses_text and tower.embed_dim != clouds.EMBED_DIM:
        raise UserError(
            f"MODEL.CLOUDS.EMBED_DIM is {clouds.EMBED_DIM}, but {clouds.CLIP_MODEL_NAME} embeds into "
            f"{tower.embed_dim} dimensions; set MODEL.CLOUDS.EMBED_DIM {tower.embed_dim}."
        )
