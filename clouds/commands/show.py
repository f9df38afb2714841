"""The command ``clouds show``: see a data set as the training sees it."""

import argparse
import sys
from pathlib import Path

from clouds.commands.entry import user_errors
from clouds.commands.predict import looks_like_key
from clouds.config import load_config
from clouds.errors import UserError
from clouds.utils.arguments import CommandParser, int_from
from clouds.utils.arguments import seed as parse_seed
from clouds.utils.signals import stop_on_signals

DESCRIPTION = """\
See a data set as the training sees it: images, label maps in the colors of their classes, and overlays.

    %(prog)s cityscapes_val
    %(prog)s --dataset my.yaml --output my.html
    %(prog)s --config-file FILE --augmented gta5 --output sheets

It draws a contact sheet with the classes that occur and their shares of the pixels; ignored pixels are "void". With
--augmented, each image is followed by three views that the mapper of the config has drawn, with their label maps as the
network gets them; a generated image is also shown as the teacher sees it. Without DATASET, the training sets of the
config are shown, or all sets of --dataset.
"""

MOST_IMAGES = 200  # a sheet of them has some 100 megapixels


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Check everything that needs no torch, then draw.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    args, opts = parse_arguments(argv)
    if args.augmented and not args.config_file:
        raise UserError("--augmented shows the augmentation of a config: give it as --config-file.")
    if not (args.names_of_sets or args.config_file or args.dataset):
        raise UserError("Name a data set, such as cityscapes_val, or give --config-file or --dataset.")
    load_config(args.config_file, opts)
    run(args, opts)
    return 0


def run(args: argparse.Namespace, opts: list[str]) -> None:
    """Draw the data sets and print the path of each file.

    Args:
        args: parsed flags, see `parse_arguments`.
        opts: alternating config keys and values.
    """
    from clouds.api.data_sets import Choice, show_data_sets

    choice = Choice(args.images, args.seed, args.names, args.augmented)
    with stop_on_signals():
        for file in show_data_sets(
            args.names_of_sets, args.config_file, opts, choice, args.output, dataset=args.dataset
        ):
            sys.stdout.write(f"{file}\n")


def parse_arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse flags and names; the KEY VALUE pairs begin at the first word that looks like a config key.

    Returns:
        The flags with ``names_of_sets``, the names of data sets; and the KEY VALUE pairs.
    """
    parser = CommandParser(DESCRIPTION)
    add = parser.add_argument
    add("--config-file", metavar="CONFIG", help="YAML config, whose data sets and augmentation are shown")
    add("--dataset", metavar="FILE", help="YAML file that describes your own data set and its classes")
    add("--images", type=int_from(1, MOST_IMAGES), default=6, metavar="N", help="images of each set (default: 6)")
    add("--seed", type=parse_seed, default=0, metavar="S", help="seed of the choice and of the views (default: 0)")
    add("--names", type=_names, default=[], metavar="NAME,NAME", help="names of images instead of a random choice")
    add("--augmented", action="store_true", help="show views of the training augmentation, too")
    add(
        "--output",
        type=Path,
        metavar="OUT",
        help="FILE.png, FILE.html (one page of all sets), or a folder for both (default: DATASET_images.png here)",
    )
    add("words", nargs="*", metavar="DATASET | KEY VALUE", help="names of data sets, then config keys")
    args = parser.parse_intermixed_args(argv)
    first_key = next((at for at, word in enumerate(args.words) if looks_like_key(word)), len(args.words))
    args.names_of_sets = args.words[:first_key]
    return args, args.words[first_key:]


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]
