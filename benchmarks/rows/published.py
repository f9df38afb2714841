"""Modules of the published code, from a checkout that the user names: `PEER=<folder> make bench`.

Only the modules that a row measures are imported, without the packages around them, which need data sets and accounts.
They need detectron2. Where the compiled operation of the deformable attention is not installed, the published code
takes its own fallback in PyTorch.
"""

import functools
import importlib
import os
import sys
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from rows.measure import NotMeasured

PEER = "PEER"  # environment variable with the folder of the checkout
_OPERATION = "MultiScaleDeformableAttention"  # name of the compiled operation's module


@dataclass(frozen=True)
class PublishedModules:
    """Classes of the published code."""

    pixel_decoder: Any
    decoder: Any
    matcher: Any
    criterion: Any


def published_modules() -> PublishedModules:
    """Import the published modules.

    Raises:
        NotMeasured: no checkout is named, it is another one, or detectron2 is not installed.
    """
    root = checkout()
    decoders = f"{root}.modeling.transformer_decoder"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch and detectron2, about the age of what the code calls
        decoder = importlib.import_module(f"{decoders}.mask2former_transformer_decoder")
        pixel_decoder = importlib.import_module(f"{root}.modeling.pixel_decoder.msdeformattn")
        matcher = importlib.import_module(f"{root}.modeling.matcher")
        criterion = importlib.import_module(f"{root}.modeling.criterion")
    names = ("OriginalMultiScaleMaskedTransformerDecoder", "MultiScaleMaskedTransformerDecoder")
    found = next(getattr(decoder, name) for name in names if hasattr(decoder, name))
    return PublishedModules(
        pixel_decoder.MSDeformAttnPixelDecoder, found, matcher.HungarianMatcher, criterion.SetCriterion
    )


@functools.cache
def checkout() -> str:
    """Make the packages of the checkout importable as `published.*`; returns that name."""
    folder = Path(os.environ.get(PEER, ""))
    if not os.environ.get(PEER):
        raise NotMeasured(f"{PEER} names no checkout of the published code")
    source = next((folder / name for name in ("clouds", "mask2former") if (folder / name / "modeling").is_dir()), None)
    if source is None:
        raise NotMeasured(f"{PEER} is no checkout of CLOUDS or Mask2Former")
    if find_spec("detectron2") is None:
        raise NotMeasured("the published code needs detectron2")
    # Packages without their __init__, which import data sets, writers and evaluators.
    for name in ("", ".modeling", ".modeling.transformer_decoder", ".modeling.pixel_decoder", ".utils"):
        package = ModuleType(f"published{name}")
        package.__path__ = [str(source / name.replace(".", "/").lstrip("/"))]
        sys.modules.setdefault(package.__name__, package)
    # Helpers for images, from which the modules above take nothing.
    sys.modules.setdefault("my_utils", ModuleType("my_utils"))
    if find_spec(_OPERATION) is None:
        sys.modules.setdefault(_OPERATION, ModuleType(_OPERATION))
    return "published"
