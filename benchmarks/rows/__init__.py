"""Rows of `benchmarks/bench.py`. A row measures CLOUDS and its peers, each side in a process of its own.

A module of rows has `SIDES`, functions by the name of the side that take the sizes of the row and return the call to
measure, and `check`, which compares the results of all sides and says in a few words how far they agree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OURS, TRANSFORMERS, PUBLISHED, FORMULATION = "CLOUDS", "transformers", "published code", "published formulation"
ONE_BY_ONE = "one by one"  # another use of ours, with our settings
NETWORKS = (OURS, TRANSFORMERS, PUBLISHED)
PLAIN = (OURS, FORMULATION)

Sizes = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of a table in RESULTS.md.

    Attributes:
        title: short description; sizes of the inputs stand in braces.
        module: module of `rows` that measures it.
        sides: names of the sides, ours first.
        target: the ratio of ours to each peer that is aimed at, at most; None for a row without target.
        memory: the ratio of peak memory that is aimed at; None where it is not measured.
        full: sizes of the inputs.
        quick: sizes that replace some of `full` in a quick run; None for a row that a quick run leaves out.
        miniature: sizes that replace some of `full` in the tests.
        rounds: most rounds of a full run; 1 leaves out the call to warm up.
        per: entry of the sizes with the number of items of a call; times are those of one item.
        most: launches and waits that are aimed at, at most, for a row that counts instead of timing.
    """

    title: str
    module: str
    sides: tuple[str, ...]
    target: float | None
    memory: float | None
    full: Sizes
    quick: Sizes | None
    miniature: Sizes
    rounds: int = 5
    per: str = ""
    most: tuple[int, int] | None = None


_NETWORK = {"side": 384, "batch": 2, "miniature": False}
_IMAGE = {"height": 1024, "width": 2048, "miniature": False}
_SMALL = {"side": 64, "miniature": True}
_SMALL_IMAGE = {"height": 64, "width": 128, "miniature": True}
_FILES = {"files": 8, "height": 1052, "width": 1914}
_FEW = {"files": 1, "height": 263, "width": 478}

# By name: the part before the slash is the section of RESULTS.md.
ROWS: dict[str, Row] = {
    "training/step": Row(
        "training step, RN50, {side} x {side}, {batch} images", "training", NETWORKS, 0.7, 0.7, _NETWORK, {}, _SMALL
    ),
    "pixel_decoder/forward": Row(
        "pixel decoder without gradient, RN50, {side} x {side}, {batch} images",
        "pixel_decoder",
        NETWORKS,
        0.45,
        None,
        _NETWORK,
        {},
        _SMALL,
        rounds=9,
    ),
    "image/labels": Row(
        "image of {height} x {width} to labels, RN50",
        "whole_image",
        NETWORKS,
        0.45,
        0.2,
        _IMAGE,
        {"height": 512, "width": 1024},
        _SMALL_IMAGE,
        rounds=3,
    ),
    "labels/trained": Row(
        "masks to labels, answers of a trained miniature, {height} x {width}",
        "labels",
        PLAIN,
        0.15,
        0.18,
        {"height": 1024, "width": 2048, "iterations": 500},
        {"iterations": 300},
        {"height": 64, "width": 128, "iterations": 2},
    ),
    "labels/random": Row(
        "masks to labels, random answers, {height} x {width}",
        "labels",
        PLAIN,
        0.4,
        0.18,
        {"height": 1024, "width": 2048, "iterations": 0},
        {},
        {"height": 64, "width": 128},
    ),
    "sam/encode": Row(
        "MobileSAM, encode {images} images of {side} x {side} in one call",
        "sam_encode",
        (OURS, ONE_BY_ONE),
        1.0,
        None,
        {"side": 768, "frame": 1024, "images": 3},
        {},
        {"side": 96, "frame": 128, "images": 2},
        rounds=3,
        per="images",
    ),
    "sam/decode": Row(
        "MobileSAM, {prompts} prompts of an image of {side} x {side}",
        "sam_decode",
        (OURS, "segment_anything"),
        0.5,
        None,
        {"side": 768, "frame": 1024, "prompts": 41},
        {},
        {"side": 96, "frame": 128, "prompts": 3},
    ),
    "evaluator/image": Row(
        "label map of {height} x {width} to confusion matrix; the peer starts from scores",
        "evaluator",
        PLAIN,
        0.1,
        None,
        {"height": 1024, "width": 2048, "scores": False},
        {},
        {"height": 64, "width": 128},
    ),
    "evaluator/scores": Row(
        "scores of {height} x {width} to confusion matrix, on both sides",
        "evaluator",
        PLAIN,
        None,
        None,
        {"height": 1024, "width": 2048, "scores": True},
        {},
        {"height": 64, "width": 128},
    ),
    "data/mapper": Row(
        "training sample of 768 x 768, default config",
        "mapper",
        PLAIN,
        0.4,
        None,
        _FILES,
        {"files": 4},
        _FEW,
        rounds=9,
        per="files",
    ),
    "data/synthia": Row(
        "SYNTHIA, 16-bit PNG of {height} x {width} to train ids and counts",
        "converters",
        PLAIN,
        0.33,
        None,
        {"data": "synthia", "files": 8, "height": 760, "width": 1280},
        {"files": 4},
        {**_FEW, "data": "synthia"},
        rounds=9,
        per="files",
    ),
    "data/gta5": Row(
        "GTA5, palette PNG of {height} x {width} to train ids and counts",
        "converters",
        PLAIN,
        None,
        None,
        {**_FILES, "data": "gta5"},
        {"files": 4},
        {**_FEW, "data": "gta5"},
        rounds=9,
        per="files",
    ),
    "start/first_iteration": Row(
        "start of a training to its first iteration, closed-set head, ConvNeXt-L",
        "start",
        PLAIN,
        0.06,
        None,
        {"miniature": False},
        None,
        {"miniature": True},
        rounds=1,
    ),
    "criterion/launches": Row(
        "criterion, {batch} images, forward and backward: launches / times that the host waits",
        "criterion",
        NETWORKS,
        None,
        None,
        {"side": 96, "batch": 8, "miniature": False},
        {},
        {"side": 32, "batch": 2, "miniature": True},
        most=(400, 2),
    ),
}
