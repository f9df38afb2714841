"""Preparation of data sets: conversion, check, and the tables that summarize them."""

import logging
from collections.abc import Sequence
from pathlib import Path

from clouds.data.classes import IGNORE_LABEL, short_name
from clouds.data.datasets.builtin import BUILTIN_DATASETS, DATASET_GROUPS
from clouds.data.datasets.catalog import dataset_specs
from clouds.data.datasets.spec import DatasetSpec, data_root, write_list
from clouds.data.preparation.check import CheckResult, check_dataset, dataset_fingerprint, save_result
from clouds.data.preparation.conversion import SHOWN, convert_folder
from clouds.data.preparation.converters import write_class_statistics
from clouds.errors import UserError, check_name

logger = logging.getLogger(__name__)


def prepare(
    names: Sequence[str] = (),
    custom: Sequence[str] = (),
    *,
    only_check: bool = False,
    write_lists: bool = False,
    all_problems: bool = False,
    processes: int = 1,
) -> bool:
    """Convert label files where this is needed, check every file, and log what is wrong.

    Args:
        names: data sets, or beginnings of their names; default: all that exist under the data root.
        custom: YAML files that describe further data sets.
        only_check: do not convert label files.
        write_lists: write ``lists/<name>.txt``, the pairs of image and label map of each set.
        all_problems: log every problem of a set, not only the first ones.
        processes: number of worker processes.

    Returns:
        Whether every data set is complete and without a problem.

    Raises:
        UserError: there is no data root, no data set, or no data set of that name.
    """
    root = data_root()
    if not root.is_dir():
        raise UserError(f"There is no folder {root} for data sets; set DETECTRON2_DATASETS to the one that holds them.")
    wanted = choose(names, custom)
    asked_for = bool(names or custom)
    failed = [] if only_check else convert_labels(wanted, root, processes)
    results = []
    for spec in wanted:
        before = dataset_fingerprint(spec, root)
        found = check_dataset(spec, root, processes=processes)
        if not found.missing:
            save_result(found, before)
        elif asked_for:
            found.problems.append(f"{spec.name}: there is no {spec.image_pattern(root).folder}.")
        _report(found, show_all=all_problems)
        if write_lists and found.records:
            write_list(spec.list_file(root), root, found.records)
            logger.info("%s: its %d images are listed in %s", spec.name, len(found.records), spec.list_file(root))
        if not only_check and not spec.converter:
            _write_statistics(found)
        results.append(found)
    existing = [found for found in results if not found.missing]
    if not existing and not asked_for:
        raise UserError(f"None of the data sets is in {root}; datasets/README.md has the folders.")
    for table in [summary(results), *class_tables(existing)]:
        logger.info("%s", table)
    return not failed and not any(found.problems for found in results)


def choose(names: Sequence[str], custom: Sequence[str]) -> list[DatasetSpec]:
    """Find data sets by name.

    Args:
        names: data sets, groups of them, or beginnings of their names.
        custom: YAML files; their data sets are always included.

    Returns:
        The data sets; without `names` those of `custom`, and without these all built-in ones.

    Raises:
        UserError: there is no data set of that name.
    """
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


def convert_labels(wanted: Sequence[DatasetSpec], root: Path, processes: int) -> list[str]:
    """Convert the label files of the data sets that exist and need it.

    Returns:
        The names of the data sets whose conversion failed; the reasons are logged.
    """
    failed, done = [], set()
    for spec in wanted:
        if spec.converter is None:
            continue
        labels = spec.patterns(root)[1].folder
        if not labels.is_dir():
            continue
        home = spec.folder(root)
        # The splits of Cityscapes are converted together.
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


def summary(results: Sequence[CheckResult]) -> str:
    """Format a table with a row per data set: images, pairs, sizes and state."""
    rows = [("data set", "images", "of", "used", "of", "height x width", "state")]
    for found in results:
        spec = found.spec
        common = ", ".join(f"{h}x{w}: {count:,}" for (h, w), count in found.sizes.most_common(2))
        more = f", {len(found.sizes) - 2} more sizes" if len(found.sizes) > 2 else ""
        state = f"{len(found.problems)} problem(s)" if found.problems else "not there" if found.missing else "good"
        size, downloaded = (f"{n:,}" if n else "?" for n in (spec.num_pairs, spec.num_downloaded or spec.num_pairs))
        used = f"{len(found.records):,}"
        rows.append((spec.name, f"{found.num_images:,}", downloaded, used, size, common + more or "-", state))
    return _aligned(rows)


def class_tables(results: Sequence[CheckResult]) -> list[str]:
    """Format the share of each class in the pixels, in percent: one table for each list of classes."""
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
        tables.append(_aligned(rows))
    return tables


def _write_statistics(found: CheckResult) -> None:
    """Write the class statistics of a data set that needs no conversion; elsewhere the converter writes them."""
    folder = found.spec.statistics_folder(found.root)
    if found.counts and all(file.is_relative_to(found.root) for file in found.counts):
        folder.mkdir(parents=True, exist_ok=True)
        write_class_statistics(folder, found.root, found.counts)
        logger.info("%s: class statistics in %s", found.spec.name, folder)


def _report(found: CheckResult, *, show_all: bool) -> None:
    """Log each problem in a line."""
    for problem in found.problems[: None if show_all else SHOWN]:
        logger.error("%s", problem)
    if len(found.problems) > SHOWN and not show_all:
        more = len(found.problems) - SHOWN
        logger.error("... and %d more of %s; --all-problems shows them.", more, found.spec.name)


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Join cells to columns of equal width, with a line below the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(["", lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])
