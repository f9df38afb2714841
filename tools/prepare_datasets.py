"""Make the real data sets ready, and say what they lack.

    python tools/prepare_datasets.py [NAME ...]            convert labels where that is needed, then check
    python tools/prepare_datasets.py --check [NAME ...]    only check

Everything lies under $DETECTRON2_DATASETS, else datasets/. NAME is a data set such as gta5 or acdc_fog_val, or the
beginning of several, such as acdc; without one all are meant that are there. Every image and label map is read: pairs,
sizes, train ids, damage. Ends with a table; the exit code is 1 where something is wrong.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from clouds.engine.cli import user_errors
from clouds.errors import UserError, check_name

logger = logging.getLogger("clouds.prepare")

SHOWN = 20  # problems of a set


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Convert and check; 0 where all is well."""
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    from clouds.data.check import check, write_list

    root = Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"There is no folder {root} for data sets; set DETECTRON2_DATASETS to the one that holds them.")
    wanted = choose(args.names)
    failed = [] if args.check else convert_labels(wanted, root, args.nproc)
    results = [check(folders, root, processes=args.nproc) for folders in wanted]
    for found in results:
        if args.names and found.missing:
            found.problems.append(f"{found.name}: neither {found.images} nor {found.labels} is there.")
        for problem in found.problems[: None if args.all_problems else SHOWN]:
            logger.error("%s", problem)
        if len(found.problems) > SHOWN and not args.all_problems:
            logger.error("... and %d more of %s; --all-problems shows them.", len(found.problems) - SHOWN, found.name)
        if args.write_lists and found.pairs:
            write_list(root / "lists" / f"{found.name}.txt", root, found.pairs)
            logger.info(
                "%s: list of %d pairs in %s", found.name, len(found.pairs), root / "lists" / f"{found.name}.txt"
            )
    there = [found for found in results if not found.missing]
    if not there:
        raise UserError(f"None of the data sets is in {root}; datasets/README.md has the folders.")
    logger.info("%s", summary(results))
    logger.info("%s", class_table(there))
    return 1 if failed or any(found.problems for found in results) else 0


def choose(names: Sequence[str]) -> list:
    """The catalogue's sets of these names, or whose names begin like that; without names all."""
    from clouds.data.catalog import DATASETS

    for name in names:
        if not any(folders.name.startswith(name.removesuffix("_val")) for folders in DATASETS):
            check_name("The command line", name, [folders.name for folders in DATASETS])
    return [
        folders
        for folders in DATASETS
        if not names
        or any(folders.name == name or folders.name.startswith(f"{name.removesuffix('_val')}_") for name in names)
    ]


def convert_labels(wanted: Sequence, root: Path, processes: int) -> list[str]:
    """Make train ids of what is there; the names of the sets where that did not work out."""
    from clouds.data.convert_command import convert_folder

    failed, done = [], set()
    for folders in wanted:
        images, _, labels, _ = folders.place(root)
        if folders.converter is None or not labels.is_dir():
            continue
        # The data set's own folder holds both. Cityscapes' splits are converted together.
        home = Path(os.path.commonpath([images, labels]))
        gt_folder = labels.parent if folders.converter == "cityscapes" else labels
        if gt_folder in done:
            continue
        done.add(gt_folder)
        try:
            convert_folder(folders.converter, home, gt_dir=gt_folder.relative_to(home).as_posix(), processes=processes)
        except UserError as error:
            logger.error("%s", error)
            failed.append(folders.name)
    return failed


def summary(results: Sequence) -> str:
    """A row a data set: pairs, complete size, image sizes, state."""
    rows = [("data set", "pairs", "complete", "height x width", "state")]
    for found in results:
        common = ", ".join(f"{h}x{w}: {count:,}" for (h, w), count in found.sizes.most_common(2))
        more = f", {len(found.sizes) - 2} more sizes" if len(found.sizes) > 2 else ""
        state = f"{len(found.problems)} problem(s)" if found.problems else "not there" if found.missing else "good"
        rows.append((found.name, f"{len(found.pairs):,}", f"{found.size:,}", common + more or "-", state))
    return aligned(rows)


def class_table(results: Sequence) -> str:
    """A row a class: its share of the pixels in each set, in percent; then the pixels without a class."""
    from clouds.data.labels import CITYSCAPES_CLASSES, IGNORE_LABEL, short_name

    names = {**{i: short_name(name) for i, name in enumerate(CITYSCAPES_CLASSES)}, IGNORE_LABEL: "ignored"}
    rows = [("% of pixels", *(found.name for found in results))]
    for train_id, name in names.items():
        shares = (100 * found.pixels[train_id] / max(1, found.pixels.sum()) for found in results)
        rows.append((name, *(f"{share:.2f}" if share else "-" for share in shares)))
    return aligned(rows)


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(["", lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a data set, or the beginning of several")
    parser.add_argument("--check", action="store_true", help="convert nothing")
    parser.add_argument("--write-lists", action="store_true", help="write lists/NAME.txt: image and label map a line")
    parser.add_argument("--all-problems", action="store_true", help=f"not only the first {SHOWN} of a set")
    parser.add_argument(
        "--nproc", type=int, default=os.cpu_count() or 1, help="processes (default: one a core, %(default)s here)"
    )
    args = parser.parse_args(argv)
    if args.nproc < 1:
        parser.error(f"--nproc must be at least 1, not {args.nproc}")
    return args


if __name__ == "__main__":
    sys.exit(main())
