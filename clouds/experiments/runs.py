"""Report of any output folders: seeds of a row by the names of their folders, other runs as rows of their own."""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from clouds.d2 import DatasetCatalog
from clouds.data.datasets.catalog import dataset_names, domain, register_datasets
from clouds.engine.run.metrics import final_row, scores_of
from clouds.errors import UserError, check_name
from clouds.experiments.drawing import SERIES
from clouds.experiments.evidence import RunFiles, read_files
from clouds.experiments.plan import PLAN_FILE, Plan, Variant, load_configs
from clouds.experiments.plan_file import read_plan
from clouds.experiments.report import Report
from clouds.experiments.results import Results, RunScores
from clouds.experiments.selection import selected_on_unseen
from clouds.experiments.statistics import Unit

_SEED = re.compile(r"seed(\d+)")
_SPLIT = re.compile(r"_(train|val|test)$")


def report_of(folders: Sequence[Path], compared: Sequence[Sequence[str]] = (), unit: Unit = "image") -> Report:
    """Return the report of output folders.

    Args:
        folders: output folders of runs. `<row>/seed<N>` is a seed of the row `<row>`; a folder that holds such folders
            stands for all of them; any other folder is a row of its own. If the only folder is that of an experiment,
            titles, comparisons and unseen test sets are those of its plan.
        compared: pairs of names of rows, as the report has them; default: each later row with the first one.
        unit: unit that the bootstrap resamples.

    Raises:
        UserError: no folder has scores, a file is damaged, or there is no row of a given name.
    """
    rows, missing = _read_rows(folders)
    if not rows:
        raise UserError(
            f"{folders[0]} has no final scores: give the OUTPUT_DIR of a training that ended with an evaluation, or of "
            "one."
        )
    plan = _plan_of(folders, missing)
    names = _names(list(rows))
    if plan:
        names = {each.key: names[each.key] for each in plan.variants if each.key in names} | names
    titles = {each.key: each for each in plan.variants} if plan else {}
    variants = [titles.get(name) or Variant(name, name, row) for name, row in names.items()]
    scores = {name: rows[row][0] for name, row in names.items()}
    where = {name: rows[row][1] for name, row in names.items()}
    files = [read_files(folder, scores[name][seed]) for name in names for seed, folder in where[name].items()]
    _register(files, missing)
    test_sets = list(dict.fromkeys(each for runs in scores.values() for run in runs.values() for each in run))
    trained = {each for run in files for each in _trained(run)}
    unseen = [each for each in test_sets if _domain(each) not in set(map(_domain, trained))] or test_sets
    if plan:
        unseen = [each for each in plan.unseen if each in test_sets] or unseen
    for name in itertools.chain(*compared):
        check_name("--compare", name, names)
    pairs = [(one, other) for one, other in compared]
    if not pairs and plan:
        pairs = [pair for pair in plan.comparisons if names.keys() >= set(pair)]
    if not pairs:
        pairs = [(each, next(iter(names))) for each in list(names)[1:]]
    seeds = sorted({seed for runs in scores.values() for seed in runs})
    results = Results(variants, seeds, test_sets, unseen, scores, {}, pairs, where)
    report = Report(
        results=results,
        title="Scores of " + (", ".join(names) if len(names) <= 3 else f"{len(names)} rows"),
        subtitle=f"Tested on {', '.join(test_sets)}.",
        headings={},
        shown=list(names)[:SERIES],
        facts=_facts(files, results),
        unit=unit,
        missing=missing,
    )
    return report if plan is None else _as_planned(report, plan)


def _plan_of(folders: Sequence[Path], missing: list[str]) -> Plan | None:
    """The plan in the only folder, if it is that of an experiment; `missing` gets a sentence if it is damaged."""
    if len(folders) != 1 or not (folders[0] / PLAN_FILE).is_file():
        return None
    try:
        return read_plan(folders[0] / PLAN_FILE)
    except UserError as error:
        missing.append(f"The plan of the experiment cannot be read, so its titles and comparisons are missing: {error}")
        return None


def _as_planned(report: Report, plan: Plan) -> Report:
    """A report with the texts, baselines and marks of a plan."""
    results, test_sets = report.results, report.results.test_sets
    baselines = {
        name: {each: scores.get(each, math.nan) for each in test_sets} for name, scores in plan.baselines.items()
    }
    return replace(
        report,
        results=replace(results, baselines=baselines, selected=selected_on_unseen(plan, load_configs(plan.variants))),
        title=plan.title,
        subtitle=plan.subtitle or report.subtitle,
        headings={name: plan.headings.get(name, name) for name in test_sets},
        shown=[key for key in plan.shown if key in results.scores] or report.shown,
        notes=plan.notes,
    )


def _read_rows(folders: Iterable[Path]) -> tuple[dict[Path, tuple[dict[int, RunScores], dict[int, Path]]], list[str]]:
    """Folder of a row -> its scores and its folders by seed; and sentences about runs without scores."""
    rows: dict[Path, tuple[dict[int, RunScores], dict[int, Path]]] = {}
    missing = []
    for folder in itertools.chain.from_iterable(map(_runs_in, folders)):
        scores = scores_of(final_row(folder)[0])
        named = _SEED.fullmatch(folder.name)
        if not scores:
            missing.append(f"{folder} has no final scores: continue the training with --resume, or evaluate it.")
            continue
        row, seed = (folder.parent, int(named[1])) if named else (folder, 0)
        by_seed, where = rows.setdefault(row, ({}, {}))
        by_seed[seed], where[seed] = scores, folder
    return rows, missing


def _runs_in(folder: Path) -> list[Path]:
    """The run in a folder, or the runs in its folders seed<N>, or in those of its rows."""
    if any((folder / name).exists() for name in ("run.json", "metrics.json", "metrics_eval.json")):
        return [folder]
    for pattern in ("seed*", "*/seed*"):
        if found := [each for each in folder.glob(pattern) if _SEED.fullmatch(each.name)]:
            return sorted(found, key=lambda each: (each.parent, int(each.name.removeprefix("seed"))))
    return [folder]


def _names(rows: Sequence[Path]) -> dict[str, Path]:
    """Shortest endings of the paths that differ -> path."""
    paths = [row.absolute() for row in rows]
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, rows, strict=True))


def _register(files: Sequence[RunFiles], missing: list[str]) -> None:
    """Register the data sets of the runs, for class names, colors and ground truth."""
    for modules, custom in dict.fromkeys(map(_sources, files)):
        try:
            register_datasets(modules=modules, custom=custom)
        except UserError as error:
            missing.append(f"The data sets are not registered, so no ground truth is shown: {error}")


def _sources(run: RunFiles) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The modules and YAML files that register the data sets of a run."""
    started = Path(run.entry.get("folder", "."))  # relative paths start there, if the run was trained on this machine
    custom = (Path(file) for file in run.settings.get("DATASETS.CUSTOM", ()))
    found = (str(started / file if (started / file).exists() else file) for file in custom)
    return tuple(run.settings.get("DATASETS.MODULES", ())), tuple(found)


def _trained(run: RunFiles) -> list[str]:
    about = run.evaluation.about if run.evaluation else {}
    return list(about.get("train") or dataset_names(run.settings.get("DATASETS.TRAIN", ())))


def _domain(name: str) -> str:
    return domain(name) if name in DatasetCatalog.list() else _SPLIT.sub("", name)


def _facts(files: Sequence[RunFiles], results: Results) -> dict[str, str]:
    """Name -> value of what is needed to repeat the measurement."""
    data = {name: digest for run in files for name, digest in run.data.items() if name in results.test_sets}
    sizes = {name: len(counts.images) for name in results.test_sets for run in files if (counts := run.counts(name))}
    versions: Mapping[str, str] = next((run.entry["versions"] for run in files if run.entry.get("versions")), {})
    facts = {
        "Protocol": _joined(run.protocol for run in files),
        "Commit": _joined(run.commit for run in files),
        "Seeds": _joined(str(run.entry["seed"]) for run in files if "seed" in run.entry),
        "Images": ", ".join(f"{name} {count:,}" for name, count in sizes.items()),
        "Test sets": ", ".join(f"{name} {digest[:12]}" for name, digest in data.items()),
        "Weights": _joined(_weights(run) for run in files),
        "Versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    return {name: value for name, value in facts.items() if value}


def _weights(run: RunFiles) -> str:
    """Digest of the weights of a run, shortened; "" if unknown."""
    about = run.evaluation.about if run.evaluation else run.entry.get("ending", {})
    digest = str(about.get("weights_sha256") or "")[:12]
    return f"{run.folder.name} {digest}" if digest else ""


def _joined(values: Iterable[str]) -> str:
    return ", ".join(filter(None, dict.fromkeys(values)))
