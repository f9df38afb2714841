"""The report of the experiment: one HTML file with tables, curves and pictures, made of what the runs left behind."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_COLORS, short_name
from clouds.visualization.charts import grouped_bars, line_chart
from clouds.visualization.html import Html, Section, facts, notes, page, section, side_by_side
from clouds.visualization.html_pictures import color_key, gallery, picture, picture_grid
from clouds.visualization.html_tables import Difference, Score, difference_table, score_table
from clouds.visualization.palette import colorize
from minicity.experiment.rows import COMPARED
from minicity.experiment.runner import SOURCE, Scores, Variant, paired_difference, run_folder, spread, unseen_mean
from minicity.world.datasets import load
from minicity.world.sets import DRAWN_SETS

SETS = tuple(name for name in DRAWN_SETS if name.endswith("_val"))
UNSEEN = tuple(name for name in SETS if name != SOURCE)
CLASSES = [short_name(name) for name in CITYSCAPES_CLASSES]
_EXAMPLES, _GENERATED, _PANELS = 2, 24, 3
_SHOWN = ("scratch", "frozen", "joint")
"""Rows whose predictions are shown, where they were trained."""


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    Attributes:
        variants: the rows, in order.
        scores: of them.
        baselines: predictors that know no shapes: name -> test set -> mIoU.
        seeds: of the trainings.
        output: folder of the runs.
        data: the data root.
        generated: folder of the generated set that is shown.
        facts: what else is to be known, by name.
    """

    variants: Sequence[Variant]
    scores: Scores
    baselines: Mapping[str, Mapping[str, float]]
    seeds: Sequence[int]
    output: Path
    data: Path
    generated: Path
    facts: Mapping[str, str]


def write_report(material: Material, file: Path) -> None:
    """Write the page."""
    sections = [
        _results(material),
        _classes(material),
        _pictures(material),
        _generated(material),
        _pseudo_labels(material),
        _curves(material),
        _protocol(material),
    ]
    seeds = f"{len(material.seeds)} seeds" if len(material.seeds) > 1 else f"seed {material.seeds[0]}"
    subtitle = f"Trained on one drawn world, tested on it and on five that nothing has seen; {seeds}."
    text = page("CLOUDS in small", subtitle, [each for each in sections if each is not None])
    file.write_text(text, encoding="utf-8")


def domain(name: str) -> str:
    """`"minicity_fog_val"` -> `"fog"`."""
    return name.removeprefix("minicity_").removesuffix("_val")


def _results(material: Material) -> Section:
    columns = [*map(domain, SETS), "unseen mean"]
    rows: list[tuple[str, Sequence[Score | float | None]] | str] = ["Without looking at shapes"]
    for name, by_set in material.baselines.items():
        unseen = [by_set[each] for each in UNSEEN]
        rows.append((name, [*(by_set[each] for each in SETS), sum(unseen) / len(unseen)]))
    for variant in material.variants:
        if variant.group not in rows:
            rows.append(variant.group)
        runs = material.scores[variant.key]
        cells = [spread([run[name]["mIoU"] for run in runs.values()]) for name in SETS]
        rows.append((variant.title, [*cells, spread([unseen_mean(run) for run in runs.values()])]))
    table = score_table(columns, rows, caption="mIoU in %", digits=2)

    differences = [
        difference_table(
            unseen_differences(material.variants, material.scores, score),
            caption=f"Differences of the unseen mean, seed by seed, in {name}",
        )
        for score, name in (("mIoU", "mIoU"), ("fwIoU", "IoU weighted by how many pixels a class has"))
    ]
    return section("Results", table, *differences)


def unseen_differences(variants: Sequence[Variant], scores: Scores, score: str = "mIoU") -> list[Difference]:
    """The pairs of `COMPARED` that are there."""
    by_seed = {key: {seed: unseen_mean(run, score) for seed, run in runs.items()} for key, runs in scores.items()}
    titles = {variant.key: variant.title for variant in variants}
    return [
        paired_difference(f"{titles[one]} — less — {titles[other]}", by_seed[one], by_seed[other])
        for one, other in COMPARED
        if one in titles and other in titles
    ]


def _classes(material: Material) -> Section:
    series = {
        variant.title: [_class_mean(material, variant.key, name) for name in CLASSES]
        for variant in material.variants
        if variant.key in _SHOWN
    }
    return section("Classes", grouped_bars(CLASSES, series, caption="IoU by class, mean over the unseen worlds"))


def _class_mean(material: Material, key: str, name: str) -> float:
    values = [
        run[each].get(f"IoU-{name}", math.nan)
        for run in material.scores[key].values()
        for each in UNSEEN
        if each in run
    ]
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _pictures(material: Material) -> Section:
    shown = [variant for variant in material.variants if variant.key in _SHOWN]
    seed = material.seeds[0]
    rows = []
    for name in SETS:
        for number, record in enumerate(load(name, material.data)[:_EXAMPLES]):
            title = domain(name) if number == 0 else ""
            cells: list[Html | None] = [picture(Path(record["file_name"]), f"street of {domain(name)}", 260)]
            cells.append(_labels(Path(record["sem_seg_file_name"]), "truth"))
            for variant in shown:
                folder = run_folder(material.output, variant.key, seed) / "pseudo_labels" / name
                cells.append(_labels(folder / f"{record['image_id']}_labelTrainIds.png", variant.title))
            rows.append((title, cells))
    columns = ["image", "truth", *(variant.title for variant in shown)]
    return section("Pictures", picture_grid(columns, rows), color_key())


def _labels(file: Path, alt: str) -> Html | None:
    if not file.is_file():
        return None
    with Image.open(file) as opened:
        labels: npt.NDArray[np.uint8] = np.asarray(opened)
    return picture(colorize(labels, CITYSCAPES_COLORS), alt, 260)


def _generated(material: Material) -> Section | None:
    manifest = material.generated / "manifest.jsonl"
    if not manifest.is_file():
        return None
    rows: list[dict[str, Any]] = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    step = max(1, len(rows) // _GENERATED)
    items = []
    for row in rows[::step][:_GENERATED]:
        file = material.generated / row["file_name"]
        items.append((picture(file, row["prompt"], 240), row["prompt"]))
    return section(
        "Generated images",
        f"{len(rows)} images from the miniature Stable Diffusion, which has learnt captioned streets of many styles, "
        "none of them a test world's; every image has a prompt and a seed of its own.",
        gallery(items),
    )


def _pseudo_labels(material: Material) -> Section | None:
    if "joint" not in material.scores:
        return None
    parts: list[str] = []
    for variant in material.variants:
        if not variant.images:
            continue
        values = [_history(run_folder(material.output, variant.key, seed)) for seed in material.seeds]
        said = {
            name: spread([each[key] for each in values if key in each])
            for key, name in _LABEL_NUMBERS.items()
            if any(key in each for each in values)
        }
        if said:
            listed = ", ".join(f"{name} {score.mean:.1f} %" for name, score in said.items())
            parts.append(f"{variant.title}: {listed}.")
    panels = sorted((run_folder(material.output, "joint", material.seeds[0]) / "pseudo_label_panels").glob("*.png"))
    shown = [
        (picture(panel, f"pseudo-labels at iteration {int(panel.stem)}", 1000), f"iteration {int(panel.stem)}")
        for panel in panels[:: max(1, len(panels) // _PANELS)][:_PANELS]
    ]
    return section("Pseudo-labels", notes(parts), *(each for each, _ in shown))


_LABEL_NUMBERS = {
    "pseudo_labels/mIoU_teacher": "the teacher's mIoU",
    "pseudo_labels/mIoU_refined": "mIoU after SAM",
    "pseudo_labels/kept": "kept by SAM",
    "pseudo_labels/changed": "changed",
    "pseudo_labels/dropped": "dropped",
    "pseudo_labels/agreement": "student and teacher agree on",
}


def _history(folder: Path) -> dict[str, float]:
    """Mean over the training of every number about pseudo-labels."""
    values: dict[str, list[float]] = {}
    for row in _rows(folder):
        for key, value in row.items():
            if key.startswith("pseudo_labels/") and isinstance(value, int | float) and not math.isnan(value):
                values.setdefault(key, []).append(float(value))
    return {key: sum(each) / len(each) for key, each in values.items()}


def _curves(material: Material) -> Section:
    charts = []
    for variants, caption in (
        ([v for v in material.variants if not v.after], "Training on the source"),
        ([v for v in material.variants if v.after], "Trained on"),
    ):
        series = {}
        for variant in variants:
            rows = [
                row for row in _rows(run_folder(material.output, variant.key, material.seeds[0])) if "total_loss" in row
            ]
            series[variant.title] = ([row["iteration"] for row in rows], [row["total_loss"] for row in rows])
        if series:
            charts.append(line_chart(series, "iteration", "loss", caption=caption))
    return section("Training", side_by_side(*charts))


def _rows(folder: Path) -> list[dict[str, Any]]:
    """What a training recorded, from its last start at iteration 0 on."""
    file = folder / "metrics.json"
    rows: list[dict[str, Any]] = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        row = json.loads(line)
        if rows and row["iteration"] < rows[-1]["iteration"]:
            rows.clear()
        rows.append(row)
    return rows


def _protocol(material: Material) -> Section:
    return section(
        "How it was measured",
        facts(list(material.facts.items())),
        notes(
            [
                "The five unseen worlds are never used to train, to generate or to choose anything: the styles of what "
                "the foundation models learnt from keep out of theirs, which a test holds.",
                "Means are over the seeds, with the standard deviation of single runs behind them; differences are "
                "taken seed by seed.",
                "A class without a pixel in a world's ground truth counts nowhere.",
            ]
        ),
    )
