"""Golden numbers of the published implementation on small networks, and these networks in this implementation.

`tests/data/golden` is a reduced copy (`pack.py` made it): each CLIP tower once, its token table cut to the rows in use,
large maps every fourth pixel. `CLOUDS_GOLDEN=<folder>` takes the full set instead.
"""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.numpy import load_file
from timm.models.convnext import ConvNeXt, _create_convnext

from clouds.clouds import CLOUDS
from clouds.config import get_config
from clouds.d2 import CfgNode, Instances
from tests.parity.pack import COPY, STEP, TOKENS

ROOT = Path(os.environ.get("CLOUDS_GOLDEN", COPY))
VOCABULARY = 49408
CLIP_CONFIGS = {"convnext": "convnext_h2tiny.json", "rn": "RN_h2tiny.json"}


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(ROOT / f"{name}.npz") as file:
        return dict(file)


@cache
def prompts() -> dict:
    return json.loads((ROOT / "prompts.json").read_text())


def tensor(name: str, key: str) -> torch.Tensor:
    return torch.from_numpy(arrays(name)[key])


def thinned(ours: torch.Tensor, golden: np.ndarray) -> np.ndarray:
    """Reduce a map to the pixels of the stored one."""
    array = ours.detach().numpy()
    return array if array.shape == golden.shape else array[:, ::STEP, ::STEP]


def state(case: str) -> dict[str, torch.Tensor]:
    full = ROOT / f"state_{case}.safetensors"
    if full.is_file():
        values = load_file(full)
    else:
        values = load_file(ROOT / f"clip_{case.split('_')[0]}.safetensors") | load_file(
            ROOT / f"rest_{case}.safetensors"
        )
        table = np.zeros((VOCABULARY, values[TOKENS].shape[1]), np.float32)
        table[values.pop("rows")] = values[TOKENS]
        values[TOKENS] = table
    return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in values.items()}


@timm.models.register_model
def convnext_h2tiny_trunk(pretrained: bool = False, **kwargs) -> ConvNeXt:
    """The trunk that the golden CLIP config names: timm's large ConvNeXt with few channels."""
    return _create_convnext("convnext_large", pretrained, depths=(1, 1, 2, 1), dims=(16, 32, 64, 128), **kwargs)


def golden_config(case: str, *opts) -> CfgNode:
    cfg = get_config()
    tower, head = case.split("_")
    cfg.merge_from_list(
        [
            "MODEL.META_ARCHITECTURE", "CLOUDS",
            "MODEL.DEVICE", "cpu",
            "MODEL.BACKBONE.NAME", "CLIP",
            "MODEL.CLOUDS.CLIP_MODEL_NAME", str(ROOT / "clip_configs" / CLIP_CONFIGS[tower]),
            "MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS", "",
            "MODEL.CLOUDS.EMBED_DIM", 64,
            "MODEL.SEM_SEG_HEAD.NAME", "CLOUDSHead",
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 19,
            "MODEL.SEM_SEG_HEAD.CONVS_DIM", 64,
            "MODEL.SEM_SEG_HEAD.MASK_DIM", 64,
            "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 2,
            "MODEL.MASK_FORMER.HIDDEN_DIM", 64,
            "MODEL.MASK_FORMER.DIM_FEEDFORWARD", 128,
            "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 25,
            "MODEL.MASK_FORMER.DEC_LAYERS", 4,
            "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", 256,
            "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME",
            {"closed": "Original", "text": ""}[head] + "MultiScaleMaskedTransformerDecoder",
            *opts,
        ]
    )  # fmt: skip
    return cfg


def build(case: str, *opts) -> CLOUDS:
    from clouds.d2 import build_model

    model = build_model(golden_config(case, *opts))
    model.load_state_dict(state(case))
    return model


def batch() -> list[dict]:
    """Return the two images with their targets, as the mapper returns them."""
    inputs = []
    for i in range(2):
        label = tensor("inputs", f"label{i}").long()
        instances = Instances(tuple(label.shape))
        instances.gt_classes = label.unique()[label.unique() != 255]
        instances.gt_masks = label == instances.gt_classes[:, None, None]
        inputs.append({"image": tensor("inputs", f"image{i}"), "instances": instances})
    return inputs
