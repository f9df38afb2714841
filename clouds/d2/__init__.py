"""The seam to detectron2: all names of detectron2 that this project uses.

Where detectron2 is installed, the names below are detectron2's own objects, so that CLOUDS is registered in
detectron2's registries. Elsewhere they come from `clouds.d2.bundled`, a pure-Python subset with equal behavior. The
environment variable `CLOUDS_D2=bundled|detectron2` forces one of the two, and `MODE` holds the choice. Names are
resolved on first use (PEP 562): importing this package imports neither torch nor detectron2.
"""

import importlib
import importlib.util
import os
from functools import cache
from typing import TYPE_CHECKING, Any

from clouds.errors import UserError

if TYPE_CHECKING:  # the types in either mode
    from .bundled import comm as comm
    from .bundled.arguments import default_argument_parser as default_argument_parser
    from .bundled.catalog import DatasetCatalog as DatasetCatalog
    from .bundled.catalog import MetadataCatalog as MetadataCatalog
    from .bundled.config import CfgNode as CfgNode
    from .bundled.config import configurable as configurable
    from .bundled.config import get_cfg as get_cfg
    from .bundled.evaluation import DatasetEvaluator as DatasetEvaluator
    from .bundled.evaluation import inference_on_dataset as inference_on_dataset
    from .bundled.events import CommonMetricPrinter as CommonMetricPrinter
    from .bundled.events import EventStorage as EventStorage
    from .bundled.events import TensorboardXWriter as TensorboardXWriter
    from .bundled.events import get_event_storage as get_event_storage
    from .bundled.logger import setup_logger as setup_logger
    from .bundled.modeling import BACKBONE_REGISTRY as BACKBONE_REGISTRY
    from .bundled.modeling import META_ARCH_REGISTRY as META_ARCH_REGISTRY
    from .bundled.modeling import SEM_SEG_HEADS_REGISTRY as SEM_SEG_HEADS_REGISTRY
    from .bundled.modeling import Backbone as Backbone
    from .bundled.modeling import Registry as Registry
    from .bundled.modeling import ShapeSpec as ShapeSpec
    from .bundled.modeling import build_backbone as build_backbone
    from .bundled.modeling import build_model as build_model
    from .bundled.modeling import build_sem_seg_head as build_sem_seg_head
    from .bundled.structures import Instances as Instances
    from .bundled.train_loop import HookBase as HookBase
    from .bundled.train_loop import TrainerBase as TrainerBase

    MODE: str

# Name: its module in `detectron2`, its module in `clouds.d2.bundled`.
_NAMES: dict[str, tuple[str, str]] = {
    "CfgNode": ("config", "config"),
    "get_cfg": ("config", "config"),
    "configurable": ("config", "config"),
    "Registry": ("utils.registry", "modeling"),
    "META_ARCH_REGISTRY": ("modeling", "modeling"),
    "BACKBONE_REGISTRY": ("modeling", "modeling"),
    "SEM_SEG_HEADS_REGISTRY": ("modeling", "modeling"),
    "build_model": ("modeling", "modeling"),
    "build_backbone": ("modeling", "modeling"),
    "build_sem_seg_head": ("modeling", "modeling"),
    "Backbone": ("modeling", "modeling"),
    "ShapeSpec": ("layers", "modeling"),
    "Instances": ("structures", "structures"),
    "DatasetCatalog": ("data", "catalog"),
    "MetadataCatalog": ("data", "catalog"),
    "TrainerBase": ("engine", "train_loop"),
    "HookBase": ("engine", "train_loop"),
    "EventStorage": ("utils.events", "events"),
    "get_event_storage": ("utils.events", "events"),
    "TensorboardXWriter": ("utils.events", "events"),
    "CommonMetricPrinter": ("utils.events", "events"),
    "DatasetEvaluator": ("evaluation", "evaluation"),
    "inference_on_dataset": ("evaluation", "evaluation"),
    "setup_logger": ("utils.logger", "logger"),
    "default_argument_parser": ("engine", "arguments"),
    "comm": ("utils.comm", "comm"),
}

__all__ = ["MODE", *_NAMES]


@cache
def _mode() -> str:
    """Return "bundled" or "detectron2"; `UserError` if the environment asks for a mode that is not available."""
    forced = os.environ.get("CLOUDS_D2", "")
    if forced not in ("", "bundled", "detectron2"):
        raise UserError(f"CLOUDS_D2={forced} in the environment is not known: use bundled or detectron2, or unset it.")
    spec = importlib.util.find_spec("detectron2")
    # A folder of this name that is no package (a clone in the working directory) is found too, but has no origin.
    installed = spec is not None and spec.origin is not None
    if forced == "detectron2" and not installed:
        raise UserError(
            "CLOUDS_D2=detectron2, but detectron2 is not installed: install it (see INSTALL.md) or unset it."
        )
    return forced or ("detectron2" if installed else "bundled")


def __getattr__(name: str) -> Any:
    if name == "MODE":
        value: Any = _mode()
    elif name in _NAMES:
        theirs, ours = _NAMES[name]
        module = importlib.import_module(
            f"detectron2.{theirs}" if _mode() == "detectron2" else f"{__name__}.bundled.{ours}"
        )
        value = module if name == "comm" else getattr(module, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
