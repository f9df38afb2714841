"""The command line of tools/convert_datasets/*.py, which differ in the format only."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from clouds.data.preparation.converters import FORMATS, Conversion, convert, write_class_statistics, write_split_lists
from clouds.errors import UserError

logger = logging.getLogger("clouds.convert")

_SHOWN = 20  # problems


def run(name: str, description: str, argv: Sequence[str] | None) -> int:
    """Convert the data set in a folder, with statistics and, for Cityscapes, split lists; the exit code.

    Raises:
        UserError: the folder has no label files of that format, or some could not be converted (after all others were).
    """
    args = _parse(name, description, argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    convert_folder(
        name, args.path, gt_dir=args.gt_dir, out_dir=args.out_dir, processes=args.nproc, overwrite=args.overwrite
    )
    return 0


def convert_folder(
    name: str,
    folder: Path,
    *,
    gt_dir: str | None = None,
    out_dir: Path | None = None,
    processes: int = 1,
    overwrite: bool = False,
) -> Conversion:
    """Convert the label files of one data set.

    Args:
        name: key of `FORMATS`.
        folder: of the data set.
        gt_dir: sub-folder of the label files; default the format's.
        out_dir: where statistics and lists go; default `folder`. Label maps lie beside their originals.
        processes: how many work at a time.
        overwrite: make label maps again that are there.

    Raises:
        UserError: no label files, nothing may be written, or some could not be converted (after all others were).
    """
    form = FORMATS[name]
    files, encoding = form.find(folder, gt_dir or form.gt_dir)
    if not files:
        what = "no label files of its kind in" if folder.is_dir() else "there is no folder"
        raise UserError(
            f"{form.name}: {what} {folder / (gt_dir or form.gt_dir)}; give the folder of the unpacked data set, and "
            "--gt-dir if its labels lie elsewhere (see datasets/README.md)."
        )
    done = convert(files, encoding, processes=processes, overwrite=overwrite)
    out_dir = out_dir or folder
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        counted = done.counts
        if name == "cityscapes":
            gt_folder = folder / (gt_dir or form.gt_dir)
            write_split_lists(out_dir, gt_folder, list(done.counts))
            # Statistics are for sampling while training, as published.
            counted = {
                file: count for file, count in counted.items() if file.relative_to(gt_folder).parts[0] == "train"
            }
        write_class_statistics(out_dir, folder, counted)
    except OSError as error:
        raise UserError(
            f"The statistics cannot be written to {out_dir} ({error.strerror}); give another -o."
        ) from error
    logger.info(
        "%s: %d label maps made, %d were there, %d could not be made; statistics of %d in %s.",
        form.name,
        done.made,
        len(done.counts) - done.made,
        len(done.problems),
        len(counted),
        out_dir,
    )
    if done.problems:
        told = list(done.problems.values())
        for problem in told[:_SHOWN]:
            logger.error("%s", problem)
        if len(told) > _SHOWN:
            logger.error("... and %d more.", len(told) - _SHOWN)
        raise UserError(
            f"{len(told)} of {len(files)} label files of {form.name} could not be converted; mend them and give the "
            "same command again, which only makes what is missing."
        )
    return done


def _parse(name: str, description: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("path", type=Path, help="folder of the unpacked data set")
    parser.add_argument(
        "--gt-dir", default=FORMATS[name].gt_dir, help="its sub-folder with the label files (default: %(default)s)"
    )
    parser.add_argument("-o", "--out-dir", type=Path, help="for the statistics and lists (default: PATH)")
    parser.add_argument(
        "--nproc", type=int, default=os.cpu_count() or 1, help="processes (default: one a core, %(default)s here)"
    )
    parser.add_argument("--overwrite", action="store_true", help="make label maps again that are there")
    args = parser.parse_args(argv)
    if args.nproc < 1:
        parser.error(f"--nproc must be at least 1, not {args.nproc}")
    return args
