"""Rows of the experiment: the paper's ablation and one of adapters, in small, and which rows are compared."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clouds.experiments.plan import Variant
from minicity.world.sets import DRAWN_SETS

SOURCE = "minicity_sim_val"
"""Test set of the domain that the networks are trained on."""
TEST_SETS = tuple(name for name in DRAWN_SETS if name.endswith("_val"))
UNSEEN = tuple(name for name in TEST_SETS if name != SOURCE)
"""Test sets of domains that are used neither for training nor for a decision."""

FEW, SOME, MANY = 120, 240, 480
"""Numbers of generated images."""
DRAWS = 100
"""Generated images in an epoch, beside 600 labelled ones, whatever the size of the generated set. More of them displace
labelled ones, which teach more: with 300 the student is worse than its warm-up."""

MOBILE_SAM = ("MODEL.CLOUDS.SAM.MOBILE", "True", "MODEL.CLOUDS.SAM.WEIGHTS", "", "MODEL.CLOUDS.SAM.IMAGE_SIZE", "384")
"""Settings of MobileSAM with its published weights, in place of the miniature SAM."""
_NO_SAM = ("MODEL.CLOUDS.SAM.ENABLED", "False")
_LOW = ("SOLVER.BACKBONE_MULTIPLIER", "0.01")  # better than the published 0.1 in the wide styles
_TEXT = ("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoder")

_TOWER = "The tower, trained on the source alone"
_ON = "Joint training, on from the frozen tower's weights"
_COUNT = "Number of generated images"
_NAMES = "Classes by their names instead of a linear layer"
_CONVNEXT, _VIT = "The ConvNeXt of the miniature CLIP, adapted", "A ViT, adapted"
_PLAIN, _REFINED = "+ generated images, the teacher's labels", "+ SAM's refinement: joint training"


@dataclass(frozen=True)
class Row:
    """A row before the number of generated images is known.

    Attributes:
        key: name of its folders.
        title: label in tables; `{images}` stands for the number of generated images.
        config: name of its file in `projects/minicity/configs`.
        settings: `KEY VALUE` pairs that override the config file.
        after: key of the row whose weights it starts from.
        images: number of generated images that it trains on.
        group: heading above the row.
    """

    key: str
    title: str
    config: str
    settings: tuple[str, ...] = ()
    after: str | None = None
    images: int = 0
    group: str = ""


def _joint(key: str, title: str, images: int, *settings: str, after: str = "frozen", group: str = _ON) -> Row:
    return Row(key, title, "joint.yaml", settings, after, images, group)


SCRATCH = Row("scratch", "tower trained from scratch", "warmup_convnext.yaml", group=_TOWER)
TUNED = Row("tuned", "CLIP, fine-tuned", "warmup_tuned.yaml", group=_TOWER)
RESNET = Row("resnet", "CLIP ResNet, frozen", "warmup_clip_resnet.yaml", group=_TOWER)
FROZEN = Row("frozen", "CLIP, frozen: the warm-up", "warmup_clip.yaml", group=_TOWER)
LONGER = Row("longer", "as many iterations more on the source alone", "longer.yaml", after="frozen", group=_ON)
TEXT = Row("text", "the warm-up, text head", "warmup_clip.yaml", _TEXT, group=_NAMES)

SMALLEST = (
    SCRATCH,
    FROZEN,
    _joint("plain", _PLAIN, FEW, *_NO_SAM),
    _joint("joint", _REFINED, FEW),
)
"""Rows of `make demo`."""

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
"""All rows of the paper's ablation."""

ADAPTERS = (
    replace(FROZEN, title="CLIP, frozen", group=_CONVNEXT),
    Row("lora", "CLIP, LoRA", "warmup_clip_lora.yaml", group=_CONVNEXT),
    Row("soma", "CLIP, SoMA", "warmup_clip_soma.yaml", group=_CONVNEXT),
    Row("trained", "CLIP, trained", "warmup_tuned.yaml", _LOW, group=_CONVNEXT),
    Row("vit_frozen", "ViT, frozen", "warmup_vit.yaml", group=_VIT),
    Row("vit_lora", "ViT, LoRA", "warmup_vit_lora.yaml", group=_VIT),
    Row("vit_rein", "ViT, Rein", "warmup_vit_rein.yaml", group=_VIT),
    Row("vit_trained", "ViT, trained", "warmup_vit_tuned.yaml", _LOW, group=_VIT),
)
"""Rows of the ablation of adapters: towers that are frozen, adapted and trained, on the source alone."""

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
    ("lora", "frozen"),
    ("soma", "frozen"),
    ("lora", "trained"),
    ("soma", "trained"),
    ("frozen", "trained"),
    ("vit_lora", "vit_frozen"),
    ("vit_rein", "vit_frozen"),
    ("vit_lora", "vit_trained"),
    ("vit_rein", "vit_trained"),
    ("vit_frozen", "vit_trained"),
)
"""Pairs of keys: is the first row better than the second?"""

SHOWN = ("scratch", "frozen", "joint", "lora", "vit_frozen", "vit_lora")
"""Keys of the rows whose class scores and predictions the report shows."""


def with_images(rows: Sequence[Row], most: int) -> list[Row]:
    """Return the rows with at most `most` generated images each; of rows that then do the same, the first stays."""
    different: dict[tuple[object, ...], Row] = {}
    for each in rows:
        images = min(each.images, most)
        row = replace(each, images=images, title=each.title.format(images=images))
        different.setdefault((row.config, row.settings, row.after, row.images), row)
    return list(different.values())


def with_mobile_sam(row: Row) -> Row:
    """Return the row with MobileSAM in place of the miniature SAM, if it uses any."""
    if not row.images or "MODEL.CLOUDS.SAM.ENABLED" in row.settings:
        return row
    return replace(row, settings=(*row.settings, *MOBILE_SAM))


def as_variant(row: Row, configs: Path) -> Variant:
    """Return the row as a training of its config in the folder `configs`, with its generated images."""
    settings = row.settings
    needs: tuple[str, ...] = ()
    if row.images:
        needs = (generated_name(row.images),)
        names = str(("minicity_sim_train", *needs))
        settings = (*settings, "DATASETS.TRAIN", names, "DATASETS.TARGET_FACTOR", str(DRAWS / row.images))
    return Variant(row.key, row.title, configs / row.config, settings, row.after, needs, row.group)


def generated_name(count: int) -> str:
    """Return the name of the set of `count` generated images."""
    return f"sd_minicity_{count}"


def short_name(test_set: str) -> str:
    """Return the domain of a test set: `"minicity_fog_val"` -> `"fog"`."""
    return test_set.removeprefix("minicity_").removesuffix("_val")
