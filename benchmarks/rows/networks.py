"""One network in three implementations with equal weights: CLOUDS, transformers, and the published code.

Letters: B images, Q queries, K classes, E mask channels, H x W image.

All have CLIP's ResNet-50, frozen, and the head of the published recipe. Weights are random: the times do not depend on
them. The peers compute the backbone as the published code does, in plain PyTorch.
"""

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from miniature import MINIATURE, MINIATURE_CLIP
from scenes import CLASSES, image, label_map
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Mask2FormerForUniversalSegmentation, logging
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

from clouds.clouds import CLOUDS
from clouds.config import load_config
from clouds.d2 import CfgNode, build_model
from clouds.engine.optimizer import build_gradient_clipper, build_optimizer
from clouds.engine.trainer import Trainer
from clouds.modeling.points import Uniform
from clouds.modeling.structures import ImageDict, Prediction, Target, targets_from_label_maps
from rows import OURS, PUBLISHED, TRANSFORMERS, Sizes
from rows.published import published_modules
from rows.transformers_head import load_our_head, transformers_config

CONFIG = Path(__file__).resolve().parents[2] / "configs/warmup/gta/train_gta_r50.yaml"
LEVELS = ("res2", "res3", "res4", "res5")


class Network(Protocol):
    """A network as the rows measure it."""

    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute the maps of the frozen backbone for normalized images (B, 3, H, W)."""

    def pixel_decoder(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Compute mask features (B, E, H / 4, W / 4) and three coarser maps."""

    def predictions(self, features: dict[str, Tensor]) -> list[Prediction]:
        """Compute the outputs of all decoder layers, the result last."""

    def losses(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> Tensor:
        """Compute the (3, layers) weighted losses of classes, masks and dice, from torch's global random numbers."""

    def labels(self, image: Tensor) -> Tensor:
        """Predict the label map (H, W) of an image (3, H, W) uint8."""

    def step(self, batch: Sequence[ImageDict]) -> list[float]:
        """Make a training step and return its losses."""


def network(side: str, *, miniature: bool) -> Network:
    """Build the implementation that a side of a row names; raises `NotMeasured` for an absent published code."""
    if side == OURS:
        return OurNetwork(*build_ours(miniature=miniature, build=Trainer.build_model))
    ours = OurNetwork(*build_ours(miniature=miniature))  # without what the trainer does to make it faster
    return {TRANSFORMERS: TransformersNetwork, PUBLISHED: PublishedNetwork}[side](ours)


def build_ours(
    *,
    miniature: bool,
    queries: int | None = None,
    trainable: bool = False,
    build: Callable[[CfgNode], nn.Module] = build_model,
) -> tuple[CfgNode, CLOUDS]:
    """Build config and model of the warm-up on GTA5 with RN50; equal in every process.

    Args:
        miniature: whether to build a network of some ten thousand weights.
        queries: number of queries, if it is not that of the config.
        trainable: whether the backbone is trained.
        build: builds the model of a config.
    """
    opts: dict[str, Any] = {"MODEL.DEVICE": "cpu", "MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS": ""}
    with tempfile.TemporaryDirectory() as folder:
        if miniature:
            file = Path(folder) / "clip_miniature.json"
            file.write_text(json.dumps(MINIATURE_CLIP))
            opts |= {**MINIATURE, "MODEL.CLOUDS.CLIP_MODEL_NAME": str(file)}
        if queries is not None:
            opts["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"] = queries
        if trainable:
            opts["MODEL.BACKBONE.NAME"] = "TrainableCLIP"
        cfg = load_config(CONFIG, [str(word) for pair in opts.items() for word in pair])
        torch.manual_seed(0)
        model = build(cfg).train()
    assert isinstance(model, CLOUDS)
    scatter_samples(model)
    return cfg, model


@torch.no_grad()
def scatter_samples(model: nn.Module) -> None:
    """Give the deformable attention offsets and weights that depend on the image, as those of a trained network.

    At initialization, all samples lie on centers of pixels and all weights are equal.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("sampling_offsets.weight", "attention_weights.weight")):
            parameter.normal_(0, parameter.shape[1] ** -0.5, generator=torch.Generator().manual_seed(0))


def batch_of(sizes: Sizes) -> list[ImageDict]:
    """Draw a training batch as the loader gives it. Points are drawn from torch's global generator: no seeds."""
    batch: list[ImageDict] = []
    for seed in range(sizes["batch"]):
        labels = label_map((sizes["side"],) * 2, seed)
        classes = [int(value) for value in np.unique(labels) if value < CLASSES]
        pixels = torch.from_numpy(image(labels, seed)).permute(2, 0, 1).contiguous()
        batch.append({"image": pixels, "sem_seg": torch.from_numpy(labels), "sem_seg_classes": classes})
    return batch


class OurNetwork:
    """CLOUDS as its trainer and its evaluator call it, with the random points of the peers."""

    def __init__(self, cfg: CfgNode, model: CLOUDS) -> None:
        self.cfg = cfg
        self.model = model
        self.model.points = lambda batch: self.peers_points([len(x["sem_seg_classes"]) for x in batch])  # type: ignore[method-assign]
        self.optimizer = build_optimizer(cfg, model)
        self.clip = build_gradient_clipper(cfg)

    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        return self.model.backbone(pixels)

    def pixel_decoder(self, features: dict[str, Tensor]) -> list[Tensor]:
        mask_features, maps = self.model.sem_seg_head.pixel_decoder(features)
        return [mask_features, *maps]

    def predictions(self, features: dict[str, Tensor]) -> list[Prediction]:
        return self.model.sem_seg_head(features, None, self.model.void)

    def losses(
        self, predictions: Sequence[Prediction], targets: Sequence[Target], points: Uniform | None = None
    ) -> Tensor:
        points = points or self.peers_points([len(target.labels) for target in targets], layers=len(predictions))
        return in_order(self.model.criterion(predictions, targets, points), "loss_ce", "loss_mask", "loss_dice")

    def peers_points(self, masks: Sequence[int], layers: int | None = None) -> Uniform:
        """Return a source of the points that the peers draw from torch's global generator.

        The peers draw for each output the matching points of all images, then the candidates of all masks, then their
        random points. Ours asks for everything of an image at once.

        Args:
            masks: number of masks of each image.
            layers: number of decoder outputs; default: that of the config.
        """
        criterion, outputs = self.model.criterion, layers or self.cfg.MODEL.MASK_FORMER.DEC_LAYERS
        counts = (criterion.num_candidates, criterion.num_points - criterion.num_uncertain)
        sizes = [(criterion.matcher.num_points, *(number * count for count in counts)) for number in masks]
        # Written into one tensor an image, which is given away when it is asked for: the numbers are large.
        streams = {image: torch.empty(outputs, sum(size), 2) for image, size in enumerate(sizes)}
        parts = [stream.split(size, dim=1) for stream, size in zip(streams.values(), sizes, strict=True)]
        for output in range(outputs):
            for kind in zip(*parts, strict=True):
                for part in kind:
                    torch.rand(part.shape[1:], out=part[output])
        del parts
        return lambda image, _: streams.pop(image).flatten(0, 1)

    @torch.no_grad()
    def labels(self, image: Tensor) -> Tensor:
        self.model.eval()
        try:
            return self.model.predict_labels([{"image": image}])[0]
        finally:
            self.model.train()

    def step(self, batch: Sequence[ImageDict]) -> list[float]:
        self.optimizer.zero_grad()
        losses = self.model(batch)
        torch.stack([*losses.values()]).sum().backward()
        self.clip(parameter for group in self.optimizer.param_groups for parameter in group["params"])
        self.optimizer.step()
        return in_order(losses, "loss_ce", "loss_mask", "loss_dice").flatten().tolist()


class PeerNetwork(ABC):
    """Base of the peers: the backbone in plain PyTorch, semantic inference and the step as published."""

    def __init__(self, ours: OurNetwork) -> None:
        former = ours.cfg.MODEL.MASK_FORMER
        self.cfg = ours.cfg
        self.tower = ours.model.backbone.clip_model.visual.float()
        self.mean, self.std = ours.model.pixel_mean.clone(), ours.model.pixel_std.clone()
        self.weights = torch.tensor([former.CLASS_WEIGHT, former.MASK_WEIGHT, former.DICE_WEIGHT])

    def train(self, *modules: nn.Module) -> None:
        """Build the optimizer of the published recipe for the peer's own modules."""
        self.parameters = [parameter for module in modules for parameter in module.train().parameters()]
        solver = self.cfg.SOLVER
        self.optimizer = torch.optim.AdamW(self.parameters, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        tower = self.tower
        x = tower.act1(tower.bn1(tower.conv1(pixels)))
        x = tower.act2(tower.bn2(tower.conv2(x)))
        x = tower.avgpool(tower.act3(tower.bn3(tower.conv3(x))))
        maps = {}
        for name, stage in zip(LEVELS, (tower.layer1, tower.layer2, tower.layer3, tower.layer4), strict=True):
            maps[name] = x = stage(x)
        return maps

    @abstractmethod
    def predictions(self, features: dict[str, Tensor]) -> list[Prediction]:
        """Compute the outputs of all decoder layers, the result last."""

    @abstractmethod
    def losses(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> Tensor:
        """Compute the (3, layers) weighted losses of classes, masks and dice."""

    @torch.no_grad()
    def labels(self, image: Tensor) -> Tensor:
        pixels = (image[None] - self.mean) / self.std
        classes, masks, _ = self.predictions(self.features(pixels))[-1]
        return published_labels(classes[0], masks[0], (pixels.shape[-2], pixels.shape[-1]))

    def step(self, batch: Sequence[ImageDict]) -> list[float]:
        pixels = torch.stack([(x["image"] - self.mean) / self.std for x in batch])
        losses = self.losses(self.predictions(self.features(pixels)), targets_of(batch))
        self.optimizer.zero_grad()
        losses.sum().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE)
        self.optimizer.step()
        return losses.flatten().tolist()


class TransformersNetwork(PeerNetwork):
    """Mask2Former of transformers, with our weights in its head and CLIP's ResNet as its backbone."""

    def __init__(self, ours: OurNetwork) -> None:
        super().__init__(ours)
        logging.set_verbosity_error()  # "convnext is not a supported model", which is not used
        channels = [ours.model.backbone.output_shape()[name].channels or 0 for name in LEVELS]
        model = Mask2FormerForUniversalSegmentation(transformers_config(self.cfg))
        model.model.pixel_level_module.encoder = nn.Identity()
        decoder = Mask2FormerPixelDecoder(model.config, feature_channels=channels)
        model.model.pixel_level_module.decoder = decoder
        load_our_head(model, ours.model.sem_seg_head)
        self.model = model
        self.decoder, self.transformer = decoder, model.model.transformer_module
        self.train(self.model)

    def pixel_decoder(self, features: dict[str, Tensor]) -> list[Tensor]:
        output = self.decoder([features[name] for name in LEVELS], output_hidden_states=False)
        return [output.mask_features, *output.multi_scale_features]

    def predictions(self, features: dict[str, Tensor]) -> list[Prediction]:
        # As `Mask2FormerForUniversalSegmentation.forward` does after its backbone.
        mask_features, *maps = self.pixel_decoder(features)
        output = self.transformer(multi_scale_features=maps, mask_features=mask_features, output_hidden_states=True)
        classes = [self.model.class_predictor(each.transpose(0, 1)) for each in output.intermediate_hidden_states]
        return [Prediction(*pair) for pair in zip(classes, output.masks_queries_logits, strict=True)]

    def losses(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> Tensor:
        *auxiliary, result = predictions
        losses = self.model.get_loss_dict(
            masks_queries_logits=result.mask_logits,
            class_queries_logits=result.class_logits,
            mask_labels=[target.masks.float() for target in targets],
            class_labels=[target.labels for target in targets],
            auxiliary_predictions=[
                {"masks_queries_logits": each.mask_logits, "class_queries_logits": each.class_logits}
                for each in auxiliary
            ],
        )
        return in_order(losses, "loss_cross_entropy", "loss_mask", "loss_dice")


class PublishedNetwork(PeerNetwork):
    """Pixel decoder, decoder, matcher and criterion of the published code. Its parameters have our names."""

    def __init__(self, ours: OurNetwork) -> None:
        super().__init__(ours)
        modules, former, head = published_modules(), self.cfg.MODEL.MASK_FORMER, self.cfg.MODEL.SEM_SEG_HEAD
        self.decoder = modules.pixel_decoder(
            {name: SimpleNamespace(**shape(ours, name)) for name in LEVELS},
            transformer_dropout=former.DROPOUT,
            transformer_nheads=former.NHEADS,
            transformer_dim_feedforward=head.TRANSFORMER_ENC_DIM_FEEDFORWARD,
            transformer_enc_layers=head.TRANSFORMER_ENC_LAYERS,
            conv_dim=head.CONVS_DIM,
            mask_dim=head.MASK_DIM,
            norm=head.NORM,
            transformer_in_features=list(head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES),
            common_stride=head.COMMON_STRIDE,
        )
        self.transformer = modules.decoder(
            head.CONVS_DIM,
            True,
            num_classes=head.NUM_CLASSES,
            hidden_dim=former.HIDDEN_DIM,
            num_queries=former.NUM_OBJECT_QUERIES,
            nheads=former.NHEADS,
            dim_feedforward=former.DIM_FEEDFORWARD,
            dec_layers=former.DEC_LAYERS - 1,
            pre_norm=former.PRE_NORM,
            mask_dim=head.MASK_DIM,
            enforce_input_project=former.ENFORCE_INPUT_PROJ,
        )
        self.decoder.load_state_dict(ours.model.sem_seg_head.pixel_decoder.state_dict())
        self.transformer.load_state_dict(ours.model.sem_seg_head.predictor.state_dict())
        class_weight, mask_weight, dice_weight = self.weights.tolist()
        matcher = modules.matcher(
            cost_class=class_weight,
            cost_mask=mask_weight,
            cost_dice=dice_weight,
            num_points=former.TRAIN_NUM_POINTS,
        )
        self.criterion = modules.criterion(
            head.NUM_CLASSES,
            matcher=matcher,
            weight_dict={},
            eos_coef=former.NO_OBJECT_WEIGHT,
            losses=["labels", "masks"],
            num_points=former.TRAIN_NUM_POINTS,
            oversample_ratio=former.OVERSAMPLE_RATIO,
            importance_sample_ratio=former.IMPORTANCE_SAMPLE_RATIO,
        )
        self.train(self.decoder, self.transformer)

    def pixel_decoder(self, features: dict[str, Tensor]) -> list[Tensor]:
        mask_features, _, maps = self.decoder.forward_features(features)
        return [mask_features, *maps]

    def predictions(self, features: dict[str, Tensor]) -> list[Prediction]:
        mask_features, *maps = self.pixel_decoder(features)
        output = self.transformer(maps, mask_features)
        return [Prediction(each["pred_logits"], each["pred_masks"]) for each in (*output["aux_outputs"], output)]

    def losses(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> Tensor:
        outputs = [{"pred_logits": each.class_logits, "pred_masks": each.mask_logits} for each in predictions]
        truth = [{"labels": target.labels, "masks": target.masks} for target in targets]
        losses = self.criterion({**outputs[-1], "aux_outputs": outputs[:-1]}, truth)
        return self.weights[:, None] * in_order(losses, "loss_ce", "loss_mask", "loss_dice")


def shape(ours: OurNetwork, name: str) -> dict[str, int]:
    spec = ours.model.backbone.output_shape()[name]
    return {"channels": spec.channels or 0, "stride": spec.stride or 0}


def targets_of(batch: Sequence[ImageDict]) -> list[Target]:
    """Return the targets of a batch of equal sizes. Making them is cheap, so the peers make them as we do."""
    height, width = batch[0]["image"].shape[-2:]
    return targets_from_label_maps(batch, (height, width), torch.device("cpu"))


def in_order(losses: dict[str, Tensor], *kinds: str) -> Tensor:
    """Return (kinds, layers) losses: those of the result, then those of the outputs before it."""
    layers = len(losses) // len(kinds)
    names = ["", *(f"_{layer}" for layer in range(layers - 1))]
    return torch.stack([torch.stack([losses[f"{kind}{name}"] for name in names]) for kind in kinds])


def published_labels(classes: Tensor, masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute the label map (H, W) int64 of an image as published: all masks and all scores at full size.

    Args:
        classes: (Q, K + 1) class logits.
        masks: (Q, h, w) mask logits.
        size: (H, W).
    """
    masks = F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]
    scores = torch.einsum("qc,qhw->chw", F.softmax(classes, dim=-1)[..., :-1], masks.sigmoid())
    return scores.argmax(dim=0)
