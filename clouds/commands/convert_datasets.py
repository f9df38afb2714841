"""The commands ``tools/convert_datasets/*.py``: convert the label files of one data set."""

import argparse
import logging
import sys
from pathlib import Path

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser, add_processes
from clouds.utils.signals import stop_on_signals

DESCRIPTION = """\
Convert the label files of {title} to label maps of train ids, *_labelTrainIds.png.

    %(prog)s PATH

PATH is the folder with {content}. The exit code is 2 if some label files could not be converted.
"""

# Name of the format: title of the data set, content of its folder.
FORMATS = {
    "cityscapes": ("Cityscapes", "leftImg8bit/ and gtFine/ (*_labelIds.png or *_polygons.json)"),
    "gta": ("GTA5", "images/ and labels/ (palette PNGs)"),
    "mapillary": ("Mapillary Vistas", "images/ and labels/ (palette PNGs): its validation or its training folder"),
    "synthia": ("SYNTHIA-RAND-CITYSCAPES", "RGB/ and GT/LABELS/ (16-bit RGB PNGs)"),
    "urbansyn": ("UrbanSyn", "rgb/ and ss/ (gray PNGs)"),
}


@user_errors
def main(name: str, argv: list[str] | None = None) -> int:
    """Convert what has not been converted yet.

    Args:
        name: key of `FORMATS`.
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    args = parse_arguments(name, argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    run(name, args.path, gt_dir=args.gt_dir, out_dir=args.out_dir, processes=args.nproc, overwrite=args.overwrite)
    return 0


def run(name: str, folder: Path, *, gt_dir: str | None, out_dir: Path | None, processes: int, overwrite: bool) -> None:
    """Convert the label files of one data set, see `clouds.data.preparation.converters.convert_folder`."""
    from clouds.data.preparation.converters import convert_folder

    with stop_on_signals():
        convert_folder(name, folder, gt_dir=gt_dir, out_dir=out_dir, processes=processes, overwrite=overwrite)


def parse_arguments(name: str, argv: list[str] | None) -> argparse.Namespace:
    """Parse the flags of the command for one format."""
    title, content = FORMATS[name]
    description = DESCRIPTION.format(title=title, name=name, content=content)
    parser = CommandParser(description)
    add = parser.add_argument
    add("path", type=Path, metavar="PATH", help="folder of the unpacked data set")
    add("--gt-dir", metavar="DIR", help="sub-folder of the label files, if it is not the one named above")
    add("-o", "--out-dir", type=Path, metavar="DIR", help="folder for statistics and split lists (default: PATH)")
    add_processes(parser)
    add("--overwrite", action="store_true", help="convert again what has been converted")
    return parser.parse_args(argv)
