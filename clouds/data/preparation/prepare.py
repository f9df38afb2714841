"""Preparation of data sets: conversion, check, and the tables that summarize them."""

import logging
from collections.abc import Sequence
from pathlib import Path

from clouds.d2 import DatasetCatalog, MetadataCatalog
from clouds.data.classes import IGNORE_LABEL, short_name
from clouds.data.datasets.builtin import BUILTIN_DATASETS, DATASET_GROUPS
from clouds.data.datasets.catalog import dataset_specs, load_dataset, register_datasets
from clouds.data.datasets.generated import find_generated
from clouds.data.datasets.lists import write_list
from clouds.data.datasets.selection import PARTS, whole_of
from clouds.data.datasets.spec import DatasetSpec, data_root
from clouds.data.preparation.check import CheckResult, check_dataset
from clouds.data.preparation.class_statistics import write_class_statistics
from clouds.data.preparation.converters import convert_folder
from clouds.data.preparation.listing import DatasetFiles, DescribedFiles, RegisteredFiles
from clouds.errors import UserError, check_name
from clouds.utils.atomic import make_folder

logger = logging.getLogger(__name__)

_SHOWN = 20  # problems of a data set that are logged by default


def prepare(
    names: Sequence[str] = (),
    custom: Sequence[str] = (),
    modules: Sequence[str] = (),
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
        modules: plug-in modules that register further data sets.
        only_check: do not convert label files.
        write_lists: write ``lists/<name>.txt``, the pairs of image and label map of each set.
        all_problems: log every problem of a set, not only the first ones.
        processes: number of worker processes.

    Returns:
        Whether every data set is complete and without a problem.

    Raises:
        UserError: there is no data root, no data set, or no data set of that name.
        WriteError: a file cannot be written. The same call continues.
    """
    root = data_root()
    if not root.is_dir():
        raise UserError(f"There is no folder {root} for data sets; set DETECTRON2_DATASETS to the one that holds them.")
    chosen = choose(names, custom, modules)
    asked_for = bool(names or custom or modules)
    failed = [] if only_check else convert_labels([files.spec for files in chosen if files.spec], root, processes)
    results = []
    for files in chosen:
        result = check_dataset(files, processes=processes)
        if asked_for and files.spec and not result.exists:
            result.problems.append(f"{files.name}: there is no {files.spec.image_pattern(root).folder}.")
        _log_problems(result, show_all=all_problems)
        if files.spec and result.records:
            if write_lists:
                file = files.spec.list_file(root)
                write_list(file, root, result.records)
                logger.info("%s: its %d images are listed in %s", files.name, len(result.records), file)
            if not only_check and not files.spec.converter:
                _write_statistics(files.spec, root, result)
        results.append(result)
    existing = [result for result in results if result.exists]
    if not existing and not asked_for:
        raise UserError(f"None of the data sets is in {root}; datasets/README.md has the folders.")
    for table in [summary(chosen, results), *class_tables(existing)]:
        logger.info("%s", table)
    return not failed and not any(result.problems for result in results)


def choose(names: Sequence[str] = (), custom: Sequence[str] = (), modules: Sequence[str] = ()) -> list[DatasetFiles]:
    """Find data sets by name.

    Args:
        names: data sets, groups or parts of them, or beginnings of their names. A part stands for its data set.
        custom: YAML files; their data sets are always included.
        modules: plug-in modules; their data sets are always included.

    Returns:
        The data sets; without `names` those of `custom` and `modules`, and without these all built-in ones and the
        generated ones that exist.

    Raises:
        UserError: there is no data set of that name, or a generated or registered data set cannot be loaded.
    """
    root = data_root()
    before = dict(DatasetCatalog)
    register_datasets(root, modules=modules, custom=custom)
    registered = [name for name, load in DatasetCatalog.items() if before.get(name) is not load]
    specs = {spec.name: spec for spec in dataset_specs(custom)}
    builtin = [spec.name for spec in BUILTIN_DATASETS]
    generated = find_generated(root)
    known = [*specs, *(name for name in registered if name not in {*specs, *DATASET_GROUPS, *PARTS})]
    own = [name for name in known if name not in builtin and name not in generated]
    chosen = set(own)
    if not names and not own:
        chosen |= {*builtin, *(name for name, folders in generated.items() if folders[0].is_dir())}
    for name in map(whole_of, names):
        beginning = f"{name.removesuffix('_val')}_"
        matches = DATASET_GROUPS.get(name) or [each for each in known if each == name or each.startswith(beginning)]
        if not matches:
            check_name("The command line", name, known)
        chosen |= set(matches)
    return [
        DescribedFiles(specs[name], root)
        if name in specs
        else RegisteredFiles(name, MetadataCatalog.get(name).stuff_classes, root, load_dataset(name))
        for name in known
        if name in chosen
    ]


def convert_labels(specs: Sequence[DatasetSpec], root: Path, processes: int) -> list[str]:
    """Convert the label files of the data sets that exist and need it.

    Args:
        specs: data sets.
        root: data root.
        processes: number of worker processes.

    Returns:
        The names of the data sets whose conversion failed; the reasons are logged.
    """
    failed, done = [], set()
    for spec in specs:
        labels = spec.label_pattern(root)
        if spec.converter is None or labels is None or not labels.folder.is_dir():
            continue
        folder = spec.folder(root)
        # The splits of Cityscapes are converted together.
        gt_folder = labels.folder.parent if spec.converter == "cityscapes" else labels.folder
        if gt_folder in done:
            continue
        done.add(gt_folder)
        try:
            convert_folder(spec.converter, folder, gt_dir=gt_folder.relative_to(folder).as_posix(), processes=processes)
        except UserError as error:
            logger.error("%s", error)
            failed.append(spec.name)
    return failed


def summary(chosen: Sequence[DatasetFiles], results: Sequence[CheckResult]) -> str:
    """Format a table with a row per data set: images, pairs, sizes and state."""
    rows = [("data set", "images", "of", "used", "of", "height x width", "state")]
    for files, result in zip(chosen, results, strict=True):
        num_pairs = files.spec.num_pairs if files.spec else None
        num_downloaded = files.spec.num_downloaded if files.spec else None
        complete, downloaded = (f"{n:,}" if n else "?" for n in (num_pairs, num_downloaded or num_pairs))
        common = ", ".join(f"{h}x{w}: {count:,}" for (h, w), count in result.sizes.most_common(2))
        more = f", {len(result.sizes) - 2} more sizes" if len(result.sizes) > 2 else ""
        state = f"{len(result.problems)} problem(s)" if result.problems else "good" if result.exists else "not there"
        used = f"{len(result.records):,}"
        rows.append((files.name, f"{result.num_images:,}", downloaded, used, complete, common + more or "-", state))
    return _aligned(rows)


def class_tables(results: Sequence[CheckResult]) -> list[str]:
    """Format the share of each class in the pixels, in percent: one table for each list of classes."""
    tables = []
    for classes in dict.fromkeys(result.classes for result in results):
        sets = [result for result in results if result.classes == classes and result.pixels.any()]
        if not sets:
            continue
        names = {**{i: f"{i} {short_name(name)}" for i, name in enumerate(classes)}, IGNORE_LABEL: "255 ignored"}
        rows = [("% of pixels", *(result.name for result in sets))]
        for train_id, name in names.items():
            shares = (100 * result.pixels[train_id] / max(1, result.pixels.sum()) for result in sets)
            rows.append((name, *(f"{share:.2f}" if share else "-" for share in shares)))
        tables.append(_aligned(rows))
    return tables


def _write_statistics(spec: DatasetSpec, root: Path, result: CheckResult) -> None:
    """Write the class statistics of a data set that needs no conversion; elsewhere the converter writes them."""
    folder = spec.statistics_folder(root)
    if result.counts and all(file.is_relative_to(root) for file in result.counts):
        make_folder(folder)
        write_class_statistics(folder, root, result.counts)
        logger.info("%s: class statistics in %s", spec.name, folder)


def _log_problems(result: CheckResult, *, show_all: bool) -> None:
    """Log each problem in a line."""
    for problem in result.problems[: None if show_all else _SHOWN]:
        logger.error("%s", problem)
    if len(result.problems) > _SHOWN and not show_all:
        more = f"... and {len(result.problems) - _SHOWN} more of {result.name}"
        where = f": {result.file} has them all, and" if result.file else ";"
        logger.error("%s%s --all-problems shows them.", more, where)


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Join cells to columns of equal width, with a line below the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(["", lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])
