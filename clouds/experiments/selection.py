"""Rows that are chosen by their score on a data set, and rows that were chosen by a test domain."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from clouds.d2 import CfgNode
from clouds.data.datasets.catalog import domain
from clouds.engine.run.metrics import read_scores
from clouds.experiments.plan import BEST_WEIGHTS, Plan, Variant, run_folder


def with_selection(plan: Plan, variants: Sequence[Variant], seeds: Mapping[str, Sequence[int]]) -> list[Variant]:
    """Return the rows, of which the best in each group has the score that it was chosen by in its title.

    Args:
        plan: the plan; without a `selection` the rows are returned as they are.
        variants: rows of which a training is done.
        seeds: key of a row -> seeds of its trainings that are done.
    """
    selection = plan.selection
    if selection is None:
        return list(variants)
    scores: dict[str, float] = {}
    for each in variants:
        if each.key in selection.among:
            files = [run_folder(plan.output, each.key, seed) / "metrics.json" for seed in seeds[each.key]]
            scores[each.key] = fmean(read_scores(file).get(selection.by, {}).get("mIoU", math.nan) for file in files)
    chosen: dict[str, str] = {}
    for each in variants:
        if not math.isnan(scores.get(each.key, math.nan)):
            best = chosen.setdefault(each.group, each.key)
            chosen[each.group] = each.key if scores[each.key] > scores[best] else best
    return [
        replace(each, title=f"{each.title} (selected: {scores[each.key]:.2f} on {selection.by})")
        if chosen.get(each.group) == each.key
        else each
        for each in variants
    ]


def selected_on_unseen(plan: Plan, configs: Mapping[str, CfgNode]) -> dict[str, str]:
    """Return the rows that were selected, or whose first weights were, by a data set of an unseen domain.

    Args:
        plan: the plan.
        configs: key of a row -> its config.

    Returns:
        Key of a row -> name of that data set.
    """
    unseen = set(map(domain, plan.unseen))
    found: dict[str, str] = {}
    for each in plan.variants:
        names = [configs[each.key].TEST.SELECT_ON]
        if plan.selection and each.key in plan.selection.among:
            names.append(plan.selection.by)
        if each.after and each.weights == BEST_WEIGHTS:
            names.append(configs[each.after].TEST.SELECT_ON)
        on = next((name for name in names if name and domain(name) in unseen), None)
        if on:
            found[each.key] = on
    return found
