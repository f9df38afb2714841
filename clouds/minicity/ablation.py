"""The rows of the experiment: the paper's ablation in small, and what each row is compared with."""

from clouds.minicity.experiment import Variant

FEW, SOME, MANY = 120, 240, 480
"""Numbers of generated images."""

DRAWS = 100
"""Generated images in an epoch, however many different ones there are, beside the 600 labelled. More of them displace
labelled ones, which teach more: with 300 the student is worse than its warm-up."""

_JOINT = "joint.yaml"
_TEXT = ("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoder")


def _joint(key: str, title: str, images: int, *settings: str, after: str = "frozen") -> Variant:
    factor = ("DATASETS.TARGET_FACTOR", str(DRAWS / images))
    return Variant(key, title, _JOINT, (*settings, *factor), after=after, images=images)


SCRATCH = Variant("scratch", "tower trained from scratch", "warmup_convnext.yaml")
TUNED = Variant("tuned", "CLIP, fine-tuned", "warmup_tuned.yaml")
FROZEN = Variant("frozen", "CLIP, frozen: the warm-up", "warmup_clip.yaml")
RESNET = Variant("resnet", "CLIP ResNet, frozen", "warmup_clip_resnet.yaml")
LONGER = Variant("longer", "the warm-up, for as long again on the source", "longer.yaml", after="frozen")

_PLAIN, _REFINED = "+ generated images, the teacher's labels", "+ SAM's refinement: joint training"
_NO_SAM = ("MODEL.CLOUDS.SAM.ENABLED", "False")

TEXT = Variant("text", "the warm-up, text head", "warmup_clip.yaml", _TEXT)

GROUPS: dict[str, str] = {
    "scratch": "The tower, trained on the source alone",
    "longer": "Joint training, on from the frozen tower's weights",
    "plain": "Joint training, on from the frozen tower's weights",
    "joint_few": "Number of generated images",
    "text": "Classes by their names instead of a linear layer",
}
"""Key of a row -> heading above it."""

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
    _joint("joint_few", f"joint training, {FEW} images", FEW),
    _joint("joint_many", f"joint training, {MANY} images", MANY),
    TEXT,
    _joint("joint_text", "joint training, text head", SOME, *_TEXT, after="text"),
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
