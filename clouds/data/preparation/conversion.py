"""Conversion of the label files of one downloaded data set, with its class statistics and split lists."""

import logging
from pathlib import Path

from clouds.data.preparation.converters import FORMATS, Conversion, convert, write_class_statistics, write_split_lists
from clouds.errors import UserError

logger = logging.getLogger(__name__)

SHOWN = 20  # problems that are listed


def convert_folder(
    name: str,
    folder: Path,
    *,
    gt_dir: str | None = None,
    out_dir: Path | None = None,
    processes: int = 1,
    overwrite: bool = False,
) -> Conversion:
    """Convert the label files of one data set to label maps of train ids.

    Each label map is written beside its label file, statistics and the split lists of Cityscapes to `out_dir`.

    Args:
        name: key of `FORMATS`.
        folder: folder of the unpacked data set.
        gt_dir: sub-folder of the label files; default: that of the format.
        out_dir: folder for statistics and lists; default: `folder`.
        processes: number of worker processes.
        overwrite: replace label maps that exist.

    Raises:
        UserError: there are no label files, `out_dir` cannot be written, or some label files could not be converted;
            all others are converted first.
    """
    form = FORMATS[name]
    gt_folder, out_dir = folder / (gt_dir or form.gt_dir), out_dir or folder
    files, encoding = form.find(folder, gt_dir or form.gt_dir)
    if not files:
        what = "no label files of its kind in" if folder.is_dir() else "there is no folder"
        raise UserError(
            f"{form.name}: {what} {gt_folder}; give the folder of the unpacked data set, and --gt-dir if its labels "
            "are elsewhere (see datasets/README.md)."
        )
    done = convert(files, encoding, processes=processes, overwrite=overwrite)
    counted = done.counts
    if name == "cityscapes":  # as published, its statistics are those of the training images
        counted = {file: count for file, count in counted.items() if file.relative_to(gt_folder).parts[0] == "train"}
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        if name == "cityscapes":
            write_split_lists(out_dir, gt_folder, list(done.counts))
        write_class_statistics(out_dir, folder, counted)
    except OSError as error:
        raise UserError(
            f"The statistics cannot be written to {out_dir} ({error.strerror}); give another -o."
        ) from error
    logger.info(
        "%s: %d label maps written, %d existed, %d failed; statistics of %d in %s.",
        form.name,
        done.made,
        len(done.counts) - done.made,
        len(done.problems),
        len(counted),
        out_dir,
    )
    if done.problems:
        problems = list(done.problems.values())
        for problem in problems[:SHOWN]:
            logger.error("%s", problem)
        if len(problems) > SHOWN:
            logger.error("... and %d more.", len(problems) - SHOWN)
        raise UserError(
            f"{len(problems)} of {len(files)} label files of {form.name} could not be converted; repair them and run "
            "the same command again, which converts only what is missing."
        )
    return done
