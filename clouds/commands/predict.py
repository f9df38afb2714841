"""The command ``clouds predict``: predict the label maps of images."""

import argparse
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clouds.commands.entry import user_errors
from clouds.config import check_weights, load_config
from clouds.errors import UserError
from clouds.utils.arguments import CommandParser
from clouds.utils.atomic import make_folder
from clouds.utils.folders import image_files
from clouds.utils.signals import stop_on_signals

if TYPE_CHECKING:
    from clouds.d2 import CfgNode

DESCRIPTION = """\
Predict the label maps of images.

    %(prog)s --model SOURCE INPUT... --output DIR
    %(prog)s --config-file FILE INPUT... --output DIR MODEL.WEIGHTS model_final.pth

SOURCE is the output folder of a training, a folder that save_pretrained wrote, its id on a hub (owner/name), a
checkpoint, or its URL. With --config-file, its config is FILE instead of the config.yaml beside the weights.

INPUT is an image or a folder, which is searched with its sub-folders. For each image two files are written to the same
sub-folder of DIR: NAME_labels.png (8-bit train ids) and NAME_overlay.jpg (the image with the colors of its classes).
"""

_MAX_NAME = 255 - len("_overlay.jpg")  # bytes; file systems allow 255
# Those of the formats that are read. HEIC is not, but a photograph that cannot be read is reported, not passed over.
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jp2", ".avif", ".heic"}
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
    source, cfg = args.model, None
    if source and "MODEL.WEIGHTS" in opts[::2]:
        raise UserError("--model and MODEL.WEIGHTS both name a network: leave out one of them.")
    if args.config_file:
        cfg = load_config(args.config_file, opts)
        if not source:
            check_weights(source := cfg.MODEL.WEIGHTS)
    jobs = plan(args.inputs, args.output)
    if not source:
        raise UserError("A prediction needs a trained network: give --model, or --config-file with MODEL.WEIGHTS.")
    make_folder(args.output)
    run(jobs, source, cfg, args.config_file, opts, dataset=args.dataset)
    return 0


def run(
    jobs: Mapping[Path, Path],
    source: str,
    cfg: "CfgNode | None",
    config_file: str | None,
    opts: Sequence[str],
    *,
    dataset: str | None,
) -> None:
    """Predict and write the label map and the overlay of every image.

    Args:
        jobs: path of each image, mapped to the path of its results without ``_labels.png`` and ``_overlay.jpg``.
        source: trained network, see `clouds.load`.
        cfg: config that was read from `config_file` and `opts`, not frozen yet.
        config_file: YAML config; None for that beside the weights.
        opts: alternating config keys and values.
        dataset: YAML file that describes the data set whose classes are predicted.

    Raises:
        UserError: the network cannot be loaded, or some images cannot be read or are too large for the memory. All
            others are predicted first.
    """
    from clouds.api.files import write_predictions

    with stop_on_signals():
        write_predictions(jobs, source, cfg, config_file, opts, dataset=dataset)


def parse_arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse flags and inputs; the KEY VALUE pairs begin at the first word that looks like a config key.

    Returns:
        The flags with ``inputs``, a list of paths; and the KEY VALUE pairs.
    """
    parser = CommandParser(DESCRIPTION)
    parser.add_argument("--model", metavar="SOURCE", help="trained network")
    parser.add_argument("--config-file", metavar="FILE", help="YAML config (default: config.yaml beside the weights)")
    parser.add_argument("--dataset", metavar="FILE", help="YAML file that describes your own data set and its classes")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="output folder")
    parser.add_argument("words", nargs="*", metavar="INPUT | KEY VALUE", help="images and folders, then config keys")
    args = parser.parse_intermixed_args(argv)
    first_key = next((at for at, word in enumerate(args.words) if looks_like_key(word)), len(args.words))
    args.inputs = [Path(word) for word in args.words[:first_key]]
    return args, args.words[first_key:]


def looks_like_key(word: str) -> bool:
    """Whether a word is a config key, such as ``MODEL.WEIGHTS``, and neither an image nor an existing path."""
    return bool(CONFIG_KEY.fullmatch(word)) and Path(word).suffix.lower() not in SUFFIXES and not Path(word).exists()


def plan(inputs: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Find the images and name their results.

    Args:
        inputs: images and folders.
        output: folder of the results; images inside it are skipped.

    Returns:
        Path of each image, in sorted order, mapped to the path of its results without their endings.

    Raises:
        UserError: an input does not exist, there is no image, two images would share their results, or the name of an
            image is too long for them.
    """
    found: dict[Path, Path] = {}
    for entry in inputs:
        if entry.is_file():
            found[entry] = Path(entry.name)
        elif entry.is_dir():
            files = image_files(entry, SUFFIXES)
            # The results of an earlier run may be inside the input folder.
            found |= {path: path.relative_to(entry) for path in files if not path.is_relative_to(output)}
        else:
            raise UserError(f"Input not found: there is no file or folder '{entry}'.")
    if not found:
        where = ", ".join(map(str, inputs)) or "the command line"
        raise UserError(f"No image to label in {where}: give files or folders with {', '.join(sorted(SUFFIXES))}.")
    stems = Counter(path.with_suffix("") for path in found.values())
    # If a.jpg and a.png are both there, their results keep the suffix.
    shared = {stem for stem, count in stems.items() if count > 1}
    names = {source: name if name.with_suffix("") in shared else name.with_suffix("") for source, name in found.items()}
    twice = [str(name) for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise UserError(f"Two inputs are called {twice[0]}: label their folders one at a time, each with its --output.")
    long = [source for source, name in names.items() if len(os.fsencode(name.name)) > _MAX_NAME]
    if long:
        raise UserError(f"The name of {long[0]} is too long for its results: give it at most {_MAX_NAME} bytes.")
    return {source: output / name for source, name in names.items()}
