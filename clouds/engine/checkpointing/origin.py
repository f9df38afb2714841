"""Comparison of a model with the one that weights were trained as: frozen backbone, normalization and classes."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from clouds.config.classes import class_names
from clouds.config.settings import evaluated_sets
from clouds.d2 import CfgNode
from clouds.data.classes import split_synonyms
from clouds.engine.checkpointing.weights import frozen_keys, sampled_digest
from clouds.errors import UserError
from clouds.modeling.backbone import backbone_of
from clouds.modeling.frozen import BACKBONE
from clouds.utils.tensors import StateDict, tensors_sha256

logger = logging.getLogger(__name__)

Entries = dict[str, Any]

# Largest difference of mean and standard deviation, in units of 0..255: configs may round them.
_ROUNDING = 0.01


class _Difference(NamedTuple):
    """A way in which weights were trained otherwise: what was different, what to do, and what fine-tuning means."""

    what: str
    remedy: str
    effect: str = ""


class Origin:
    """Record of everything that weights depend on and do not hold, written into checkpoints and compared on loading.

    Args:
        model: model whose weights are saved and loaded.
        reloadable: whether the backbone loads its frozen weights from their own source (see `SegmentationBackbone`).
        classes: names of the classes that the model is trained on; empty = unknown.
        evaluated: class names by the name of each data set that predictions are compared with.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        reloadable: bool,
        classes: Sequence[str] = (),
        evaluated: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.model = model
        self.reloadable = reloadable
        self.classes = list(classes)
        self.evaluated = evaluated or {}
        self._digests: dict[frozenset[str], str] = {}

    def entries(self, left_out: StateDict) -> Entries:
        """Return the entries of a checkpoint.

        Args:
            left_out: frozen weights that the checkpoint does not hold.
        """
        return {
            "tower_sha256": self.tower_digest(left_out),
            **({"classes": self.classes} if self.classes else {}),
            **normalization(self.model),
        }

    def check(self, entries: Entries, weights: StateDict, source: str, *, evaluates: bool, continues: bool) -> None:
        """Compare this model with the one that weights were trained as, before they are loaded.

        A difference is an error for evaluation. For fine-tuning it is a warning. For a training that continues, another
        backbone is an error, and other settings are compared elsewhere. One line of the log says what the file does
        not record.

        Args:
            entries: content of the checkpoint; those of `entries` are removed.
            weights: weights of the checkpoint.
            source: name of the file, for messages.
            evaluates: whether the model is only evaluated.
            continues: whether the training of the checkpoint goes on.

        Raises:
            UserError: the model differs, in a way that is an error here.
        """
        unknown: list[str] = []
        backbone = self._other_backbone(entries, weights, unknown)
        others = [self._other_normalization(entries, unknown), self._other_classes(entries, unknown)]
        for difference in [backbone, *([] if continues else others)]:
            if difference is None:
                continue
            if evaluates or continues:
                raise UserError(f"{source} was trained {difference.what}: {difference.remedy}.")
            logger.warning(f"{source} was trained {difference.what}{difference.effect}")
        if unknown:
            logger.info(f"{source} does not record {', '.join(unknown)}: not verified")

    def forget(self, weights: StateDict) -> None:
        """Drop the digests of frozen weights that `weights` have replaced."""
        self._digests = {keys: digest for keys, digest in self._digests.items() if keys.isdisjoint(weights)}

    def tower_digest(self, weights: StateDict) -> str:
        """Return the digest of frozen weights, see `tensors_sha256`; it is computed once."""
        # All values of a large backbone take a second; they are frozen, so once is enough.
        keys = frozenset(weights)
        if keys not in self._digests:
            self._digests[keys] = tensors_sha256(weights)
        return self._digests[keys]

    def _other_backbone(self, entries: Entries, weights: StateDict, unknown: list[str]) -> _Difference | None:
        sampled, full = entries.pop("tower", ""), entries.pop("tower_sha256", "")
        if not self.reloadable or (not full and not sampled and frozen_keys(self.model) <= weights.keys()):
            return None
        # An adapter that the file does not have is no part of the tower that the file was trained on.
        left_out = weights.keys() | _adapter_keys(self.model)
        here = {k: v for k, v in self.model.state_dict().items() if k.startswith(BACKBONE) and k not in left_out}
        if not full:
            unknown.append("all values of the frozen backbone" if sampled else "the frozen backbone")
        if self.tower_digest(here) == full if full else not sampled or sampled_digest(here) == sampled:
            return None
        return _Difference(
            "on other frozen backbone weights than this model has",
            "set MODEL.BACKBONE.* and MODEL.CLOUDS.CLIP_* as in the config.yaml beside the file, and check their files",
            ": its head has to learn their features again",
        )

    def _other_normalization(self, entries: Entries, unknown: list[str]) -> _Difference | None:
        found = None
        for name, mine in normalization(self.model).items():
            recorded = entries.pop(name, None)
            if recorded is None:
                unknown.append(name)
            elif len(recorded) != len(mine) or any(abs(a - b) > _ROUNDING for a, b in zip(recorded, mine, strict=True)):
                key, theirs, ours = f"MODEL.{name.upper()}", _rounded(recorded), _rounded(mine)
                found = found or _Difference(f"with {key} {theirs} and this model has {ours}", f"set {key} {theirs}")
        return found

    def _other_classes(self, entries: Entries, unknown: list[str]) -> _Difference | None:
        recorded = entries.pop("classes", None)
        if has_text_head(self.model):
            return None
        if recorded is None:
            unknown.append("classes")
            return None
        for name, classes in (self.evaluated or {"DATASETS.TRAIN": self.classes}).items():
            if classes and (difference := differing_classes(recorded, classes)):
                return _Difference(f"on other classes than {name} has ({difference})", CLASSES_REMEDY)
        return None


CLASSES_REMEDY = (
    "a head without text predicts the classes of its training only, so choose data sets with these, or add the trained "
    "name of a class to its synonyms"
)
"""End of a message about other classes: what to do."""


def check_test_classes(cfg: CfgNode, model: nn.Module) -> None:
    """Check that the sets of ``DATASETS.TEST`` and ``TEST.SELECT_ON`` have the classes that a model predicts.

    A text head predicts those of the first set, another head those of ``DATASETS.TRAIN``. Without training sets, only
    their number is known, and it is compared if the model predicts label maps: these do not show it, scores do.

    Args:
        cfg: final config; its data sets are registered.
        model: model that is evaluated.

    Raises:
        UserError: a set has other classes.
    """
    sets = {name: "DATASETS.TEST" if name in cfg.DATASETS.TEST else "TEST.SELECT_ON" for name in evaluated_sets(cfg)}
    predicted = dict.fromkeys(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    if has_text_head(model):
        predicted = sets
    number = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    for name, key in sets.items():
        if not predicted:
            if hasattr(model, "predict_labels") and len(class_names((name,))) != number:
                raise UserError(
                    f"{name} ({key}) has {len(class_names((name,)))} classes, but "
                    f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {number}: {CLASSES_REMEDY}."
                )
        elif difference := differing_classes(class_names([*predicted]), class_names((name,))):
            first, its_key = next(iter(predicted.items()))
            remedy = "evaluate it alone" if has_text_head(model) else CLASSES_REMEDY
            raise UserError(f"{name} ({key}) has other classes than {first} ({its_key}), {difference}: {remedy}.")


def _adapter_keys(model: nn.Module) -> set[str]:
    backbone = backbone_of(model)
    if backbone is None or backbone.adapter is None:
        return set()
    return {key for key in model.state_dict() if key.startswith(BACKBONE)} - frozen_keys(model)


def has_text_head(model: nn.Module) -> bool:
    """Return whether a model predicts any classes from their names, not only those that it was trained on."""
    return bool(getattr(dict(model.named_children()).get("sem_seg_head"), "uses_text", False))


def normalization(model: nn.Module) -> dict[str, list[float]]:
    """Return the mean and the standard deviation of a model's input by name, empty if it has no such buffers."""
    buffers = dict(model.named_buffers(recurse=False))
    return {name: buffers[name].flatten().tolist() for name in ("pixel_mean", "pixel_std") if name in buffers}


def differing_classes(trained: Sequence[str], other: Sequence[str]) -> str:
    """Compare class names; two names of one class share a synonym, whatever their case.

    Args:
        trained: names of the classes that a model was trained on, synonyms separated by commas.
        other: names of the classes that its predictions are read as.

    Returns:
        The first difference, as in "class 3 is 'wall' in training and 'fence' there"; "" if there is none.
    """
    if len(trained) != len(other):
        return f"{len(trained)} in training and {len(other)} there"
    for number, (mine, theirs) in enumerate(zip(trained, other, strict=True)):
        if _names(mine).isdisjoint(_names(theirs)):
            first, second = split_synonyms(mine)[0], split_synonyms(theirs)[0]
            return f"class {number} is {first!r} in training and {second!r} there"
    return ""


def _names(class_name: str) -> set[str]:
    return {name.casefold() for name in split_synonyms(class_name)}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 2) for value in values]
