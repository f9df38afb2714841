"""The command ``clouds predict``: predict the label maps of images and videos."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from clouds.commands.entry import user_errors
from clouds.config import check_weights, load_config
from clouds.errors import UserError
from clouds.utils.arguments import CommandParser, positive_int
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.signals import stop_on_signals
from clouds.utils.sources import IMAGE_ENDINGS, VIDEO_ENDINGS, Sources, find_sources

if TYPE_CHECKING:
    from clouds.d2 import CfgNode

DESCRIPTION = """\
Predict the label maps of images and videos.

    %(prog)s --model SOURCE INPUT... --output DIR
    %(prog)s --config-file FILE INPUT... --output DIR MODEL.WEIGHTS model_final.pth

SOURCE is the output folder of a training, a folder that save_pretrained wrote, its id on a hub (owner/name), a
checkpoint, or its URL. With --config-file, its config is FILE instead of the config.yaml beside the weights.

INPUT is an image, a video, a folder, which is searched with its sub-folders, a pattern such as 'photos/**/*.jpg', a
URL, a camera (camera:0), or - for standard input: an image, a video, or names of inputs, one a line.

The results of an image NAME are written to the same sub-folder of DIR; --write chooses them:

    labels       NAME_labels.png      8-bit train ids
    overlay      NAME_overlay.jpg     the image with the colors of its classes
    confidence   NAME_confidence.png  16-bit gray, highest share of a class in the scores; 65535 is 1
    entropy      NAME_entropy.png     16-bit gray, entropy of these shares; 65535 is 1, all shares are equal
    json         NAME.json            size, and the share of the pixels of each class
    panoptic     NAME_panoptic.png    one segment for each class, and panoptic.json in COCO's layout for all images

A video, a camera and an image of several frames have these results for each frame, as NAME/000000_labels.png, and the
overlay of a video is one video, NAME_overlay.mp4.
"""

RESULTS = ("labels", "overlay", "confidence", "entropy", "json", "panoptic")
CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)*")


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Check everything that needs no torch, then predict.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    args, opts = parse_arguments(argv)
    source, cfg = named_network(args, opts)
    with _standard_input(args.inputs) as words:
        sources = find_sources(words, args.output)
        check_named(source)
        make_folder(args.output)
        run(sources, source, cfg, opts, args)
    return 0


def run(sources: Sources, source: str, cfg: "CfgNode | None", opts: Sequence[str], args: argparse.Namespace) -> None:
    """Predict and write the results.

    Args:
        sources: images, videos and cameras.
        source: trained network, see `clouds.load`.
        cfg: config that was read from ``args.config_file`` and `opts`, not frozen yet.
        opts: alternating config keys and values.
        args: parsed flags, see `parse_arguments`.

    Raises:
        UserError: the network cannot be loaded, or some inputs cannot be read or are too large for the memory. All
            others are predicted first.
    """
    from clouds.api.files import Output, write_predictions

    output = Output(args.write, args.output, args.every, args.frames)
    with stop_on_signals():
        write_predictions(sources, source, output, cfg, args.config_file, opts, dataset=args.dataset)


def named_network(args: argparse.Namespace, opts: Sequence[str]) -> tuple[str, "CfgNode | None"]:
    """Return the network that the flags of `add_network_flags` name, and its config if ``--config-file`` is given.

    Returns:
        The source, see `clouds.load`; an empty string if there is none, see `check_named`. The config is not frozen.

    Raises:
        UserError: two networks are named, the weights do not exist, or the config is wrong.
    """
    source, cfg = args.model or "", None
    if source and "MODEL.WEIGHTS" in opts[::2]:
        raise UserError("--model and MODEL.WEIGHTS both name a network: leave out one of them.")
    if args.config_file:
        cfg = load_config(args.config_file, opts)
        if not source:
            check_weights(source := cfg.MODEL.WEIGHTS)
    return source, cfg


def check_named(source: str) -> None:
    """Check that a network is named.

    Raises:
        UserError: `source` is empty.
    """
    if not source:
        raise UserError("A prediction needs a trained network: give --model, or --config-file with MODEL.WEIGHTS.")


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name a network and say how it predicts, see `named_network` and `network_opts`."""
    parser.add_argument("--model", metavar="SOURCE", help="trained network")
    parser.add_argument("--config-file", metavar="FILE", help="YAML config (default: config.yaml beside the weights)")
    parser.add_argument("--dataset", metavar="FILE", help="YAML file that describes your own data set and its classes")
    parser.add_argument(
        "--window", type=positive_int, metavar="PIXELS",
        help="predict in square windows of this size, which overlap by a third (TEST.WINDOW, TEST.STRIDE)",
    )  # fmt: skip
    parser.add_argument(
        "--augment", action="store_true", help="average several sizes and mirror images (TEST.AUG.ENABLED)"
    )


def network_opts(args: argparse.Namespace) -> list[str]:
    """Return the KEY VALUE pairs of the flags that say how a network predicts."""
    opts = ["TEST.WINDOW", str(args.window), "TEST.STRIDE", str(-(-2 * args.window // 3))] if args.window else []
    return [*opts, "TEST.AUG.ENABLED", "True"] if args.augment else opts


def parse_arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse flags and inputs; the KEY VALUE pairs begin at the first word that looks like a config key.

    Returns:
        The flags with ``inputs``, a list of words; and the KEY VALUE pairs, to which the flags for windows and
        augmentation are added.
    """
    parser = CommandParser(DESCRIPTION)
    add_network_flags(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="output folder")
    parser.add_argument(
        "--write", type=_results, default=("labels", "overlay"), metavar="RESULTS",
        help=f"results, separated by commas: {', '.join(RESULTS)} (default: labels,overlay)",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=positive_int, default=1, metavar="N", help="label each N-th frame of a video (default: 1)"
    )
    parser.add_argument(
        "--frames", type=positive_int, metavar="N", help="label N frames of a video or camera at most (default: all)"
    )
    parser.add_argument("words", nargs="*", metavar="INPUT | KEY VALUE", help="inputs, then config keys")
    args = parser.parse_intermixed_args(argv)
    first_key = next((at for at, word in enumerate(args.words) if looks_like_key(word)), len(args.words))
    args.inputs, opts = args.words[:first_key], args.words[first_key:]
    return args, opts + network_opts(args)


def _results(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in RESULTS:
            raise argparse.ArgumentTypeError(f"{name!r} is no result: choose from {', '.join(RESULTS)}")
    return names


def looks_like_key(word: str) -> bool:
    """Whether a word is a config key, such as ``MODEL.WEIGHTS``, and neither an image nor an existing path."""
    suffix = Path(word).suffix.lower()
    known = suffix in IMAGE_ENDINGS or suffix in VIDEO_ENDINGS
    return bool(CONFIG_KEY.fullmatch(word)) and not known and not Path(word).exists()


@contextmanager
def _standard_input(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield the inputs; ``-`` becomes the names in standard input, or a temporary file with its image or video."""
    if "-" not in words:
        yield list(words)
        return
    content = sys.stdin.buffer.read()
    before, after = list(words[: words.index("-")]), list(words[words.index("-") + 1 :])
    try:
        names = content.decode()
        if "\0" in names:
            raise UnicodeDecodeError("utf-8", content, 0, 1, "no text has this character")
    except UnicodeDecodeError:
        with TemporaryDirectory(prefix="clouds-") as folder:
            file = Path(folder) / "stdin"
            write_atomically(file, content)
            yield [*before, str(file), *after]
        return
    yield [*before, *filter(None, map(str.strip, names.splitlines())), *after]
