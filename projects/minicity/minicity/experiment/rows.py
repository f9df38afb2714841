"""The rows of the experiment: the paper's ablation in small, and what each row is compared with."""

from collections.abc import Sequence
from dataclasses import replace

from minicity.experiment.runner import Variant

FEW, SOME, MANY = 120, 240, 480
"""Numbers of generated images."""

_TOWER = "The tower, trained on the source alone"
_ON = "Joint training, on from the frozen tower's weights"
_COUNT = "Number of generated images"
_NAMES = "Classes by their names instead of a linear layer"

_PLAIN, _REFINED = "+ generated images, the teacher's labels", "+ SAM's refinement: joint training"
_NO_SAM = ("MODEL.CLOUDS.SAM.ENABLED", "False")
_TEXT = ("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoder")


def _joint(key: str, title: str, images: int, *settings: str, after: str = "frozen", group: str = _ON) -> Variant:
    return Variant(key, title, "joint.yaml", settings, after, images, group)


SCRATCH = Variant("scratch", "tower trained from scratch", "warmup_convnext.yaml", group=_TOWER)
TUNED = Variant("tuned", "CLIP, fine-tuned", "warmup_tuned.yaml", group=_TOWER)
RESNET = Variant("resnet", "CLIP ResNet, frozen", "warmup_clip_resnet.yaml", group=_TOWER)
FROZEN = Variant("frozen", "CLIP, frozen: the warm-up", "warmup_clip.yaml", group=_TOWER)
LONGER = Variant("longer", "as many iterations more on the source alone", "longer.yaml", after="frozen", group=_ON)
TEXT = Variant("text", "the warm-up, text head", "warmup_clip.yaml", _TEXT, group=_NAMES)

SMALLEST = (
    SCRATCH,
    FROZEN,
    _joint("plain", _PLAIN, FEW, *_NO_SAM),
    _joint("joint", _REFINED, FEW),
)
"""What `make demo` trains."""

FULL = (
    SCRATCH,
    TUNED,
    RESNET,
    FROZEN,
    LONGER,
    _joint("plain", _PLAIN, SOME, *_NO_SAM),
    _joint("joint", _REFINED, SOME),
    _joint("joint_few", "joint training, {images} images", FEW, group=_COUNT),
    _joint("joint_many", "joint training, {images} images", MANY, group=_COUNT),
    TEXT,
    _joint("joint_text", "joint training, text head", SOME, *_TEXT, after="text", group=_NAMES),
)
"""Every row."""

COMPARED: tuple[tuple[str, str], ...] = (
    ("frozen", "scratch"),
    ("frozen", "tuned"),
    ("resnet", "scratch"),
    ("plain", "frozen"),
    ("joint", "frozen"),
    ("joint", "longer"),
    ("joint", "plain"),
    ("joint_many", "joint_few"),
    ("text", "frozen"),
    ("joint_text", "text"),
)
"""Pairs of keys: is the first better than the second?"""


def with_images(variants: Sequence[Variant], most: int) -> list[Variant]:
    """The rows with at most so many generated images; one that then does the same as an earlier one is left out."""
    rows: dict[tuple[object, ...], Variant] = {}
    for each in variants:
        images = min(each.images, most)
        row = replace(each, images=images, title=each.title.format(images=images))
        rows.setdefault((row.config, row.settings, row.after, row.images), row)
    return list(rows.values())
