"""Evaluation protocols: how images of a test set enter the network, and how predictions and label maps are compared.

A protocol is a YAML file, and its name is that of the file without `.yaml`. Those of this package are in
`configs/protocols`.

    input:                       # size of the network's input, by the domain of the data set
      cityscapes: [512, 1024]    # [height, width] in pixels
      acdc_*: 0.5                # factor of the size of the image; * in a domain matches anything
      gta5: image                # the size of the image
      bdd: short_edge 512        # the image with its shorter edge resized to a number of pixels
      default: short_edge        # INPUT.TEST_SHORT_EDGE and INPUT.TEST_MAX_PIXELS
    labels: image                # size at which label maps and predictions are compared: image, input, a factor, ...
    window: 512                  # of a sliding window in pixels of the input, or [height, width]; default: none
    stride: 341                  # of the window; default: the window, so that windows do not overlap
    absent_classes: left_out     # or zero: IoU of a class that is predicted but does not occur; default: left_out
    means:                       # further means of the IoU over some of the classes; default: none
      mIoU2: [road, sidewalk]

A size without a domain holds for all data sets. This module is part of `clouds.data`, because both the mapper of test
images and the evaluator read protocols.
"""

import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clouds.d2 import CfgNode
from clouds.data.classes import CITYSCAPES_CLASSES, SYNTHIA_MEANS, short_name
from clouds.data.datasets.selection import whole_of
from clouds.data.datasets.spec import name_fault
from clouds.errors import UserError, check_name
from clouds.utils.resources import existing_file, resource_root
from clouds.utils.sizes import Size, scaled_size, short_edge_size, square_window
from clouds.utils.values import is_integer, is_number
from clouds.utils.yaml_files import read_yaml

SizeRule = str | float | Size
"""Word, factor of the size of the image, or size."""
Absent = Literal["left_out", "zero"]
"""Rule for a class that is predicted but does not occur in the label maps: without an IoU, or with an IoU of 0."""

FOLDER = "configs/protocols"
"""Folder of the protocols of this package."""

_KEYS = ("input", "labels", "window", "stride", "absent_classes", "means")
_ABSENT: tuple[Absent, ...] = ("left_out", "zero")
_DEFAULT = "default"
_SHORT_EDGE = re.compile(r"short_edge [1-9]\d{0,3}")
_SCORES = ("mIoU", "fwIoU", "mACC", "pACC", "mBIoU")  # names that every evaluation uses
_LARGEST = 16_384  # pixels
_MOST = 16.0  # factor


class Sizes(NamedTuple):
    """Sizes that a protocol needs for an image.

    Attributes:
        input_size: size of the network's input.
        label_size: size of label map and prediction.
        window: size of a sliding window in the input; None for one pass over the whole input.
        stride: distance from a window to the next, downwards and to the right; None without a window.
    """

    input_size: Size
    label_size: Size
    window: Size | None = None
    stride: Size | None = None


@dataclass(frozen=True)
class Protocol:
    """How test images enter the network, and how its predictions are compared with label maps.

    Attributes:
        name: name in tables and records.
        input: pattern of a domain -> size of the network's input; the first that matches, "default" otherwise.
        labels: pattern of a domain -> size of label map and prediction, as for `input`.
        window: (height, width) of a sliding window in pixels of the input; None for one pass over the whole image.
        stride: (height, width) from a window to the next; None for the window.
        absent: rule for a class that is predicted but does not occur.
        means: name of a score -> names of the classes whose IoU it is the mean of.
    """

    name: str
    input: Mapping[str, SizeRule]
    labels: Mapping[str, SizeRule]
    window: Size | None = None
    stride: Size | None = None
    absent: Absent = "left_out"
    means: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def sizes(self, domain: str, image: Size, short_edge: Size, scale: float = 1.0) -> Sizes:
        """Return the sizes for an image.

        Args:
            domain: domain of the data set, see `clouds.data.datasets.catalog.domain`.
            image: size of the image.
            short_edge: size that the config gives the image.
            scale: largest factor of the input size in test-time augmentation. A window that covers this is left out.
        """
        input_size = _sized(_matching(self.input, domain), image, short_edge=short_edge)
        label_size = _sized(_matching(self.labels, domain), image, input=input_size)
        height, width = scaled_size(input_size, max(1.0, scale))
        if self.window is None or (self.window[0] >= height and self.window[1] >= width):
            return Sizes(input_size, label_size)
        return Sizes(input_size, label_size, self.window, self.stride or self.window)


def _matching(rules: Mapping[str, SizeRule], domain: str) -> SizeRule:
    found = (rule for pattern, rule in rules.items() if pattern != _DEFAULT and fnmatch.fnmatchcase(domain, pattern))
    return next(found, rules[_DEFAULT])


def _sized(rule: SizeRule, image: Size, **sizes: Size) -> Size:
    if isinstance(rule, str):
        word, _, length = rule.partition(" ")
        return short_edge_size(image, int(length)) if length else {"image": image, **sizes}[word]
    if isinstance(rule, tuple):
        return rule
    return scaled_size(image, rule)


def protocol_names(cfg: CfgNode) -> tuple[str, ...]:
    """Return the names and paths of the protocols of a config, the main one first."""
    return tuple(cfg.TEST.PROTOCOLS) or (cfg.TEST.PROTOCOL,)


def main_protocol(cfg: CfgNode) -> str:
    """Return the name of the main protocol of a config."""
    return name_of(protocol_names(cfg)[0])


def name_of(protocol: str) -> str:
    """Return the name of a protocol in a config, which is a name or the path of a YAML file."""
    return Path(protocol).stem if is_file_name(protocol) else protocol


def is_file_name(protocol: str) -> bool:
    """Return whether a protocol in a config is the path of a YAML file."""
    return protocol.endswith((".yaml", ".yml"))


def build_protocols(cfg: CfgNode) -> tuple[Protocol, ...]:
    """Read the protocols of ``TEST.PROTOCOLS``, or that of ``TEST.PROTOCOL`` if it is empty; the main one comes first.

    Protocols without a window get that of ``TEST.WINDOW``.

    Raises:
        UserError: a protocol does not exist, a file is no valid protocol, or two protocols have one name.
    """
    window, stride = square_window(cfg.TEST.WINDOW, cfg.TEST.STRIDE)
    read = [read_protocol(name, "TEST.PROTOCOLS") for name in protocol_names(cfg)]
    protocols = tuple(each if each.window else replace(each, window=window, stride=stride) for each in read)
    names = [protocol.name for protocol in protocols]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"TEST.PROTOCOLS has two protocols of the name {repeated[0]}, by which scores are named: rename one of the "
            "files."
        )
    return protocols


def check_domains(protocol: Protocol, domains: Collection[str]) -> None:
    """Check that each pattern of a protocol is that of a domain; otherwise a misspelt name would mean the default size.

    Args:
        protocol: protocol of a config.
        domains: domains of all known data sets.

    Raises:
        UserError: no domain matches a pattern.
    """
    for key, rules in (("input", protocol.input), ("labels", protocol.labels)):
        for pattern in rules:
            if pattern != _DEFAULT and not fnmatch.filter(domains, pattern):
                check_name(f"The protocol {protocol.name} (domains of {key})", pattern, domains)


def means_of(protocol: Protocol, classes: Sequence[str], train_sets: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the means over some of the classes that a network is scored with on a test set.

    Args:
        protocol: its means always count.
        classes: names of the classes of the test set.
        train_sets: names of the training sets. If SYNTHIA or a part of it is one of them, the means over its 16
            classes, and over these without wall, fence and pole, count where the test set has these classes.

    Returns:
        Name of a score -> names of classes.
    """
    known = set(map(short_name, classes))
    of_synthia = {
        name: tuple(short_name(CITYSCAPES_CLASSES[train_id]) for train_id in train_ids)
        for name, train_ids in SYNTHIA_MEANS.items()
        if "synthia" in map(whole_of, train_sets)
    }
    return {name: names for name, names in of_synthia.items() if known.issuperset(names)} | dict(protocol.means)


def read_protocol(name: str, setting: str = "A list of protocols") -> Protocol:
    """Read a protocol of this package by its name, or another one by the path of its YAML file.

    Args:
        name: name or path.
        setting: config key with the name, for the message.

    Raises:
        UserError: there is no such protocol, or the file is no valid one.
    """
    own = {path.stem: path for path in (resource_root() / FOLDER).glob("*.yaml")}
    if not is_file_name(name):
        check_name(setting, name, own)
        return _Parser(own[name]).protocol()
    path = existing_file(name, "The protocol")
    if path.stem in own and not path.samefile(own[path.stem]):
        raise UserError(f"The protocol {path} has the name of one that CLOUDS has, {path.stem}: rename the file.")
    return _Parser(path).protocol()


class _Parser:
    """Checks the content of a YAML file and converts it; every error names the file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.content = self._mapping(read_yaml(file, "The protocol"), "the file", _KEYS)

    def protocol(self) -> Protocol:
        """Return the protocol."""
        if fault := name_fault(self.file.stem):
            raise self._error(f"its name {fault}")
        window, stride = self._window("window"), self._window("stride")
        if stride and not window:
            raise self._error("it has a stride without a window")
        if window and stride and (stride[0] > window[0] or stride[1] > window[1]):
            raise self._error(f"its stride {list(stride)} is larger than its window {list(window)} and leaves gaps")
        absent = self.content.get("absent_classes", "left_out")
        if absent not in _ABSENT:
            raise self._error(f"absent_classes is {absent!r:.100}, which must be {' or '.join(_ABSENT)}")
        inputs = self._sizes("input", ("image", "short_edge"))
        for domain, size in inputs.items():
            if window and isinstance(size, tuple) and (size[0] < window[0] or size[1] < window[1]):
                raise self._error(f"its window {list(window)} is larger than the input of {domain}, {list(size)}")
        labels = self._sizes("labels", ("image", "input"))
        return Protocol(self.file.stem, inputs, labels, window, stride, absent, self._means())

    def _sizes(self, key: str, words: Sequence[str]) -> dict[str, SizeRule]:
        if key not in self.content:
            raise self._error(f"it has no {key}")
        given = self.content[key]
        rules = given if isinstance(given, dict) else {_DEFAULT: given}
        if _DEFAULT not in rules:
            raise self._error(f"{key} has no entry {_DEFAULT}, for the data sets that it does not name")
        return {domain: self._size(rule, f"{key} of {domain}", words) for domain, rule in rules.items()}

    def _size(self, rule: Any, where: str, words: Sequence[str]) -> SizeRule:
        if isinstance(rule, str) and (rule in words or ("short_edge" in words and _SHORT_EDGE.fullmatch(rule))):
            return rule
        if is_number(rule) and 0 < rule <= _MOST:
            return float(rule)
        if size := _as_size(rule):
            return size
        wanted = ", ".join([*words, *(["short_edge and a number of pixels"] if "short_edge" in words else [])])
        raise self._error(
            f"{where} is {rule!r:.100}, which must be {wanted}, a factor above 0, up to {_MOST:g}, or [height, width], "
            f"each up to {_LARGEST} pixels"
        )

    def _window(self, key: str) -> Size | None:
        given = self.content.get(key)
        if given is None:
            return None
        if size := _as_size([given, given] if is_integer(given) else given):
            return size
        raise self._error(
            f"{key} is {given!r:.100}, which must be a number of pixels, from 1 to {_LARGEST}, or [height, width]"
        )

    def _means(self) -> dict[str, tuple[str, ...]]:
        means = self._mapping(self.content.get("means", {}), "means", None)
        for name, classes in means.items():
            if not re.fullmatch(r"\w+", name) or name in _SCORES:
                raise self._error(
                    f"{name!r:.100} is no name of a mean: it must have letters, digits and _ only, and not be one of "
                    f"{', '.join(_SCORES)}"
                )
            if not isinstance(classes, list) or not classes or not all(isinstance(each, str) for each in classes):
                raise self._error(f"the mean {name} must be a list of names of classes")
        return {name: tuple(classes) for name, classes in means.items()}

    def _mapping(self, value: Any, where: str, known: Sequence[str] | None) -> dict[str, Any]:
        """Return `value` if it is a mapping with no other keys than `known` (None: any)."""
        if not isinstance(value, dict):
            raise self._error(f"{where} must be `key: value` pairs")
        for key in value:
            if known is not None:
                check_name(f"The protocol {self.file} ({where})", key, known)
        return value

    def _error(self, what: str) -> UserError:
        return UserError(f"The protocol {self.file}: {what}; {FOLDER} has examples.")


def _as_size(value: Any) -> Size | None:
    if isinstance(value, list) and len(value) == 2 and all(is_integer(each, 1, _LARGEST) for each in value):
        return value[0], value[1]
    return None
