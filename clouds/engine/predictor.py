"""A trained network as a function from an image file to a label map."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from clouds.d2 import CfgNode, MetadataCatalog
from clouds.data.classes import CITYSCAPES_COLORS
from clouds.data.loading.mappers import FULL_RESOLUTION, TestMapper
from clouds.engine.checkpoint import load_for_inference
from clouds.engine.trainer import Trainer
from clouds.evaluation.sem_seg import predicted_labels


class Predictor:
    """``Predictor(cfg)(path)`` labels an image at its own size.

    Args:
        cfg: final config (registered data sets, resolved device); the weights are ``MODEL.WEIGHTS``.

    Attributes:
        colors: RGB by train id, of the first test set if there is one, else Cityscapes'.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.model = Trainer.build_model(cfg)
        load_for_inference(cfg, self.model)
        self.model.eval()
        self.mapper = TestMapper(
            short_edge=cfg.INPUT.TEST_SHORT_EDGE,
            protocol=FULL_RESOLUTION,  # whatever the config evaluates with, an answer has the size of its image
            num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        )
        self.colors: Sequence[Sequence[int]] = CITYSCAPES_COLORS
        if cfg.DATASETS.TEST:
            self.colors = getattr(MetadataCatalog.get(cfg.DATASETS.TEST[0]), "stuff_colors", self.colors)

    @torch.inference_mode()
    def __call__(self, path: str | Path) -> npt.NDArray[np.uint8]:
        """(H, W) train ids of the image in ``path``; `UserError` if it cannot be read."""
        sample = self.mapper({"file_name": str(path), "image_id": str(path)})
        [output] = self.model([sample])
        return predicted_labels(output["sem_seg"]).byte().cpu().numpy()
