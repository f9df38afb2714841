"""Plan files: an experiment as a YAML file, which `clouds experiment` runs.

    title: Joint training against its warm-up
    output: output/gta_seeds     # one folder for each row and seed: <output>/<row>/seed<N>
    seeds: 3                     # 1, 2, 3; or a list, such as [1, 7, 20]
    settings:                    # config keys of all rows
      TEST.EVAL_PERIOD: 0
    prepare:                     # commands before the trainings
      images:
        command: clouds generate --folder sd_llama70b_v2
        folder: "{data}/stable_diffusion/sd_llama70b_v2"
        steps: 5000
    rows:
      warmup:
        title: warm-up
        config: configs/warmup/gta/train_gta.yaml
      joint:
        title: joint training
        config: configs/joint_training/gta/train_jt_gta.yaml
        after: warmup            # starts from the weights of the same seed: model_final.pth, see `weights`
        needs: [images]
    compare:
      - [joint, warmup]          # is the first row better than the second?

A plan with `_BASE_` takes the keys that it does not set from another plan. Its `rows` may be a list of keys: those rows
of the base.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from clouds.errors import UserError
from clouds.experiments.plan import BEST_WEIGHTS, FINAL_WEIGHTS, Plan, Preparation, Selection, Variant
from clouds.experiments.plan_values import Section
from clouds.utils.atomic import write_atomically
from clouds.utils.resources import existing_file
from clouds.utils.yaml_files import read_yaml

KIND = "Plan"
PREPARED = "prepare"
"""Folder of preparations without a `folder` of their own; no row can have this name."""

_BASE = "_BASE_"
_KEYS = (
    *("title", "subtitle", "output", "seeds", "settings", "prepare", "rows", "compare", "shown", "unseen", "baselines"),
    *("select", "headings", "generated", "notes"),
)
_ROW_KEYS = ("title", "config", "settings", "after", "weights", "needs", "group")
_PREPARE_KEYS = ("command", "folder", "needs", "inputs", "steps")
_MOST_SHOWN = 6  # colors of a report


def read_plan(path: str | Path) -> Plan:
    """Read a plan file.

    Config files are named relative to the folder of the plan, or as in this repository.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown or missing, a value has a wrong type, a config
            file does not exist, rows start from each other, or something names a row that there is not.
    """
    file = existing_file(path, KIND)
    content = Section(_content(file, ()), f"{KIND} {file}")
    content.check_keys(_KEYS)
    title, output = content.text("title"), content.text("output")
    variants = tuple(_variant(row) for row in content.sections("rows"))
    if not variants:
        raise content.error("has no rows", "add one with its title and config")
    prepare = tuple(_preparation(each) for each in content.sections("prepare", optional=True))
    plan = Plan(
        title=title,
        output=Path(output),
        variants=variants,
        seeds=content.seeds("seeds"),
        subtitle=content.text("subtitle", ""),
        settings=content.settings("settings"),
        prepare=prepare,
        comparisons=content.pairs("compare"),
        shown=content.texts("shown") or tuple(each.key for each in variants[:_MOST_SHOWN]),
        unseen=content.texts("unseen"),
        selection=_selection(content),
        headings=content.mapping_of_texts("headings"),
        notes=content.texts("notes"),
        **_baselines(content),
        **_generated(content),
    )
    _check(plan, content)
    return plan


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan as a file that `read_plan` reads.

    Raises:
        WriteError: the file cannot be written.
    """
    rows = {
        each.key: _without_defaults(
            title=each.title,
            config=str(each.config.absolute()),
            settings=_pairs(each.settings),
            after=each.after or "",
            weights=each.weights if each.after else "",
            needs=list(each.needs),
            group=each.group,
        )
        for each in plan.variants
    }
    prepare = {
        each.name: _without_defaults(
            command=list(each.command),
            folder=each.folder,
            needs=list(each.needs),
            inputs=list(each.inputs),
            steps=each.steps,
        )
        for each in plan.prepare
    }
    content = _without_defaults(
        title=plan.title,
        subtitle=plan.subtitle,
        output=str(plan.output.absolute()),
        seeds=list(plan.seeds),
        settings=_pairs(plan.settings),
        prepare=prepare,
        rows=rows,
        compare=[list(pair) for pair in plan.comparisons],
        shown=list(plan.shown),
        unseen=list(plan.unseen),
        baselines=plan.baselines_file or {name: dict(scores) for name, scores in plan.baselines.items()},
        select=plan.selection and {"by": plan.selection.by, "among": list(plan.selection.among)},
        headings=dict(plan.headings),
        generated=plan.generated and {"folder": plan.generated, "text": plan.generated_text},
        notes=list(plan.notes),
    )
    write_atomically(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))


def choose_rows(plan: Plan, keys: Sequence[str]) -> Plan:
    """Return a plan with some of its rows and those that they start from.

    Preparations that only other rows need are left out, and so is what names other rows.

    Raises:
        UserError: there is no such row.
    """
    by_key = {each.key: each for each in plan.variants}
    if unknown := [key for key in keys if key not in by_key]:
        raise UserError(f"--rows names {', '.join(unknown)}; the plan has {', '.join(by_key)}.")
    wanted = set(keys)
    pending = list(keys)
    while pending:
        after = by_key[pending.pop()].after
        if after and after not in wanted:
            wanted.add(after)
            pending.append(after)
    variants = tuple(each for each in plan.variants if each.key in wanted)
    selection = plan.selection
    if selection:
        among = tuple(key for key in selection.among if key in wanted)
        selection = replace(selection, among=among) if among else None
    needed = _needed({name for each in variants for name in each.needs}, plan.prepare)
    for_rows = _needed({name for each in plan.variants for name in each.needs}, plan.prepare)
    return replace(
        plan,
        variants=variants,
        prepare=tuple(each for each in plan.prepare if each.name in needed or each.name not in for_rows),
        comparisons=tuple(pair for pair in plan.comparisons if wanted.issuperset(pair)),
        shown=tuple(key for key in plan.shown if key in wanted),
        selection=selection,
    )


def _needed(names: set[str], prepare: Sequence[Preparation]) -> set[str]:
    """Return the names with those of the preparations that they need."""
    by_name = {each.name: each for each in prepare}
    found, pending = set(names), list(names)
    while pending:
        for each in by_name[pending.pop()].needs:
            if each not in found:
                found.add(each)
                pending.append(each)
    return found


def _content(file: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The content of a plan with that of its bases; configs are paths relative to the working folder."""
    section = Section(read_yaml(file, KIND), f"{KIND} {file}")
    content = dict(section.content)
    rows = content.get("rows")
    if isinstance(rows, dict):
        content["rows"] = {key: _located(row, f"{KIND} {file}, row {key}", file.parent) for key, row in rows.items()}
    if _BASE not in content:
        return content
    base = existing_file(section.text(_BASE), KIND, file.parent, f" ({_BASE} in {file})")
    if base.resolve() in above or base.resolve() == file.resolve():
        raise section.error(f"is its own {_BASE}", "name another plan there")
    inherited = _content(base, (*above, file.resolve()))
    merged = inherited | content
    del merged[_BASE]
    if isinstance(rows, list):
        known = inherited.get("rows", {})
        if unknown := [key for key in rows if not isinstance(key, str) or key not in known]:
            raise section.error(f"names the row {unknown[0]!r} in rows", f"the base has {', '.join(known)}")
        merged["rows"] = {key: known[key] for key in rows}
        for key in ("compare", "shown"):
            if isinstance(named := merged.get(key), list):
                merged[key] = [each for each in named if all(one in rows for one in _listed(each))]
    return merged


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _located(row: Any, where: str, folder: Path) -> Any:
    """A row whose config is a path of a file that exists."""
    if not isinstance(row, dict) or not isinstance(row.get("config"), str):
        return row
    return row | {"config": str(existing_file(row["config"], "Config file", folder, f" ({where})"))}


def _variant(row: Section) -> Variant:
    row.check_keys(_ROW_KEYS)
    row.check_name(reserved=(PREPARED, "slurm"))
    after, weights = row.text("after", ""), row.text("weights", "")
    if weights not in ("", FINAL_WEIGHTS, BEST_WEIGHTS):
        raise row.error(f"has the weights {weights!r}", f"give {FINAL_WEIGHTS} or {BEST_WEIGHTS}")
    if weights and not after:
        raise row.error("has weights without after", "name the row whose weights they are as after")
    return Variant(
        key=row.name,
        title=row.text("title"),
        config=Path(row.text("config")),
        settings=row.settings("settings"),
        after=after or None,
        needs=row.texts("needs"),
        group=row.text("group", ""),
        weights=weights or FINAL_WEIGHTS,
    )


def _preparation(section: Section) -> Preparation:
    section.check_keys(_PREPARE_KEYS)
    section.check_name()
    return Preparation(
        name=section.name,
        command=section.words("command"),
        folder=section.text("folder", ""),
        needs=section.texts("needs"),
        inputs=section.texts("inputs"),
        steps=section.count("steps", 1),
    )


def _selection(content: Section) -> Selection | None:
    section = content.section("select")
    if section is None:
        return None
    section.check_keys(("by", "among"))
    return Selection(section.text("by"), section.texts("among"))


def _baselines(content: Section) -> dict[str, Any]:
    if isinstance(content.content.get("baselines"), str):
        return {"baselines_file": content.text("baselines")}
    return {"baselines": {each.name: each.numbers() for each in content.sections("baselines", optional=True)}}


def _generated(content: Section) -> dict[str, Any]:
    section = content.section("generated")
    if section is None:
        return {}
    section.check_keys(("folder", "text"))
    return {"generated": section.text("folder"), "generated_text": section.text("text", "")}


def _check(plan: Plan, content: Section) -> None:
    """Check what refers to something else in the plan."""
    keys = {each.key: each for each in plan.variants}
    prepared = {each.name for each in plan.prepare}
    rows = {each.name: each for each in content.sections("rows")}
    for each in plan.variants:
        row = rows[each.key]
        if each.after is not None and each.after not in keys:
            raise row.error(f"starts after {each.after}, which is no row", f"there are {', '.join(keys)}")
        row.check_known("needs", each.needs, prepared, "preparation")
        above = [each.key]
        while (after := keys[above[-1]].after) is not None and after in keys:
            if after in above:
                raise row.error(
                    f"starts from itself ({' after '.join([*above, after])})", "change after in one of them"
                )
            above.append(after)
    _check_preparations(plan, content)
    for name, values in (
        ("compare", [key for pair in plan.comparisons for key in pair]),
        ("shown", plan.shown),
        ("select", plan.selection.among if plan.selection else ()),
    ):
        content.check_known(name, values, keys, "row")
    if len(plan.shown) > _MOST_SHOWN:
        raise content.error(f"has {len(plan.shown)} rows in shown", f"a report has colors for {_MOST_SHOWN}")


def _check_preparations(plan: Plan, content: Section) -> None:
    sections = {each.name: each for each in content.sections("prepare", optional=True)}
    known: set[str] = set()
    for each in plan.prepare:
        if set(each.needs) - known and set(each.needs) <= sections.keys():
            raise sections[each.name].error(f"needs {each.needs[0]}, which does not stand before it", "move it up")
        sections[each.name].check_known("needs", each.needs, known, "preparation")
        known.add(each.name)


def _pairs(settings: Sequence[str]) -> dict[str, str]:
    return dict(zip(settings[::2], settings[1::2], strict=True))


def _without_defaults(**values: Any) -> Mapping[str, Any]:
    """The values that are not empty."""
    return {key: value for key, value in values.items() if value not in (None, "", [], {})}
