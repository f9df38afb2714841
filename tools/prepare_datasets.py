"""Make the real data sets ready, and say what they lack.

    python tools/prepare_datasets.py [NAME ...]            convert labels where that is needed, then check
    python tools/prepare_datasets.py --check [NAME ...]    only check
    python tools/prepare_datasets.py --dataset my.yaml     a set of your own

Everything lies under $DETECTRON2_DATASETS, else datasets/. NAME is a data set such as gta5 or acdc_fog_val, or the
beginning of several, such as acdc; without one all are meant that are there. Every image and label map is read: pairs,
sizes, label ids, damage. Ends with a table; the exit code is 1 where something is wrong.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clouds.engine.cli import user_errors
from clouds.errors import UserError, check_name

if TYPE_CHECKING:
    from pathlib import Path

    from clouds.data.datasets.spec import DatasetSpec
    from clouds.data.preparation.check import CheckResult

logger = logging.getLogger("clouds.prepare")

SHOWN = 20  # problems of a set


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Convert and check; 0 where all is well."""
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    from clouds.data.datasets.spec import data_root, write_list
    from clouds.data.preparation.check import check_dataset, dataset_fingerprint, save_result

    root = data_root()
    if not root.is_dir():
        raise UserError(f"There is no folder {root} for data sets; set DETECTRON2_DATASETS to the one that holds them.")
    wanted = choose(args.names, args.dataset)
    asked_for = bool(args.names or args.dataset)
    failed = [] if args.check else convert_labels(wanted, root, args.nproc)
    results = []
    for spec in wanted:
        before = dataset_fingerprint(spec, root)
        found = check_dataset(spec, root, processes=args.nproc)
        if not found.missing:
            save_result(found, before)
        elif asked_for:
            found.problems.append(f"{spec.name}: there is no {spec.image_pattern(root).folder}.")
        report(found, show_all=args.all_problems)
        if args.write_lists and found.records:
            write_list(spec.list_file(root), root, found.records)
            logger.info("%s: its %d images are listed in %s", spec.name, len(found.records), spec.list_file(root))
        if not args.check and not spec.converter:
            write_statistics(found)
        results.append(found)
    there = [found for found in results if not found.missing]
    if not there and not asked_for:
        raise UserError(f"None of the data sets is in {root}; datasets/README.md has the folders.")
    logger.info("%s", summary(results))
    for table in class_tables(there):
        logger.info("%s", table)
    return 1 if failed or any(found.problems for found in results) else 0


def choose(names: Sequence[str], custom: Sequence[str]) -> "list[DatasetSpec]":
    """The catalogue's sets of these names or whose names begin like that, and those of these YAML files; else all."""
    from clouds.data.datasets.builtin import BUILTIN_DATASETS, DATASET_GROUPS
    from clouds.data.datasets.catalog import dataset_specs

    rows = dataset_specs(custom)
    own = rows[len(BUILTIN_DATASETS) :]
    if not names:
        return own or list(BUILTIN_DATASETS)
    chosen = set()
    for name in names:
        begins = DATASET_GROUPS.get(name) or [
            row.name for row in rows if row.name == name or row.name.startswith(f"{name.removesuffix('_val')}_")
        ]
        if not begins:
            check_name("The command line", name, [row.name for row in rows])
        chosen |= set(begins)
    return [row for row in rows if row.name in chosen or row in own]


def convert_labels(wanted: "Sequence[DatasetSpec]", root: "Path", processes: int) -> list[str]:
    """Make train ids of what is there; the names of the sets where that did not work out."""
    from clouds.commands.convert_datasets import convert_folder

    failed, done = [], set()
    for spec in wanted:
        if spec.converter is None:
            continue
        labels = spec.patterns(root)[1].folder
        if not labels.is_dir():
            continue
        home = spec.folder(root)
        # Cityscapes' splits are converted together.
        gt_folder = labels.parent if spec.converter == "cityscapes" else labels
        if gt_folder in done:
            continue
        done.add(gt_folder)
        try:
            convert_folder(spec.converter, home, gt_dir=gt_folder.relative_to(home).as_posix(), processes=processes)
        except UserError as error:
            logger.error("%s", error)
            failed.append(spec.name)
    return failed


def write_statistics(found: "CheckResult") -> None:
    """The class statistics that converters write, of a set that needs none."""
    from clouds.data.preparation.converters import write_class_statistics

    folder = found.spec.statistics_folder(found.root)
    if found.counts and all(file.is_relative_to(found.root) for file in found.counts):
        folder.mkdir(parents=True, exist_ok=True)
        write_class_statistics(folder, found.root, found.counts)
        logger.info("%s: class statistics in %s", found.spec.name, folder)


def report(found: "CheckResult", *, show_all: bool) -> None:
    """A line a problem."""
    for problem in found.problems[: None if show_all else SHOWN]:
        logger.error("%s", problem)
    if len(found.problems) > SHOWN and not show_all:
        more = len(found.problems) - SHOWN
        logger.error("... and %d more of %s; --all-problems shows them.", more, found.spec.name)


def summary(results: "Sequence[CheckResult]") -> str:
    """A row a data set: pictures, pairs, sizes, state."""
    rows = [("data set", "images", "of", "used", "of", "height x width", "state")]
    for found in results:
        spec = found.spec
        common = ", ".join(f"{h}x{w}: {count:,}" for (h, w), count in found.sizes.most_common(2))
        more = f", {len(found.sizes) - 2} more sizes" if len(found.sizes) > 2 else ""
        state = f"{len(found.problems)} problem(s)" if found.problems else "not there" if found.missing else "good"
        size, downloaded = (f"{n:,}" if n else "?" for n in (spec.num_pairs, spec.num_downloaded or spec.num_pairs))
        used = f"{len(found.records):,}"
        rows.append((spec.name, f"{found.num_images:,}", downloaded, used, size, common + more or "-", state))
    return aligned(rows)


def class_tables(results: "Sequence[CheckResult]") -> list[str]:
    """For each list of classes a table of the sets that have it. A row a class: its share of the pixels in percent,
    with its train id; then the pixels without a class."""
    from clouds.data.classes import IGNORE_LABEL, short_name

    tables = []
    for classes in dict.fromkeys(found.spec.classes for found in results):
        sets = [found for found in results if found.spec.classes == classes and found.pixels.any()]
        if not sets:
            continue
        names = {**{i: f"{i} {short_name(name)}" for i, name in enumerate(classes)}, IGNORE_LABEL: "255 ignored"}
        rows = [("% of pixels", *(found.spec.name for found in sets))]
        for train_id, name in names.items():
            shares = (100 * found.pixels[train_id] / max(1, found.pixels.sum()) for found in sets)
            rows.append((name, *(f"{share:.2f}" if share else "-" for share in shares)))
        tables.append(aligned(rows))
    return tables


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(["", lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a data set, or the beginning of several")
    parser.add_argument("--dataset", action="append", default=[], metavar="FILE", help="YAML file of a set of your own")
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
