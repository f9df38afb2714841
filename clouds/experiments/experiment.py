"""An experiment from its plan to its report: jobs, scores, tables."""

import json
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean

from clouds.config.settings import evaluated_sets
from clouds.d2 import CfgNode
from clouds.data.datasets.catalog import dataset_names, domain, load_dataset, register_datasets
from clouds.engine.run.metrics import stated_protocol
from clouds.engine.run.record import code_version, machine, versions
from clouds.errors import UserError
from clouds.evaluation.tables import Provenance, format_comparison
from clouds.experiments.conclusion import verdict
from clouds.experiments.jobs import Job, digest
from clouds.experiments.plan import PLAN_FILE, Plan, Preparation, build_jobs, load_configs, run_folder
from clouds.experiments.plan_file import PREPARED, write_plan
from clouds.experiments.report import Report, write_report
from clouds.experiments.results import Results, read_results
from clouds.experiments.selection import selected_on_unseen, with_selection
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.json_files import read_json
from clouds.utils.values import is_number

logger = logging.getLogger("clouds.experiment")

TABLE, SCORES = "table.txt", "scores.json"
"""Files of an experiment, beside its plan and its report."""


@dataclass(frozen=True)
class Experiment:
    """A plan whose configs are read: what is to be done, and what it is measured on.

    Attributes:
        plan: the plan, in which every row has all of its settings.
        configs: key of a row -> its config.
        jobs: preparations and trainings, each after those it needs.
    """

    plan: Plan
    configs: Mapping[str, CfgNode]
    jobs: Sequence[Job]

    @cached_property
    def test_sets(self) -> tuple[str, ...]:
        """Names of the test sets, which all rows have."""
        return tuple(dataset_names(self.first.DATASETS.TEST))

    @property
    def first(self) -> CfgNode:
        """The config of the first row."""
        return self.configs[self.plan.variants[0].key]

    def job(self, name: str) -> Job:
        """Return a job by its name.

        Raises:
            UserError: there is no such job.
        """
        found = {job.name: job for job in self.jobs}
        if name not in found:
            raise UserError(f"--only names {name!r}, which is no job of the plan: --list prints all of them.")
        return found[name]


def set_up(plan: Plan, settings: Sequence[str] = (), *, gpus_per_job: int = 1) -> Experiment:
    """Read the configs of a plan and build its jobs; nothing is written.

    Args:
        plan: the plan.
        settings: `KEY VALUE` pairs for all rows, which override those of the plan.
        gpus_per_job: number of GPUs of a training.

    Raises:
        UserError: a config or setting is invalid, the rows have different test sets or protocols, a data set is
            unknown, or no test set is of an unseen domain.
    """
    common = dict(zip(plan.settings[::2], plan.settings[1::2], strict=True))
    last = dict(zip(settings[::2], settings[1::2], strict=True))
    variants = []
    for each in plan.variants:
        own = dict(zip(each.settings[::2], each.settings[1::2], strict=True))
        merged = {**common, **own, **last}
        pairs = tuple(text for pair in merged.items() for text in pair)
        variants.append(replace(each, config=each.config.absolute(), settings=pairs))
    configs = load_configs(variants)
    _check_comparable(configs)
    output = Path(os.path.abspath(plan.output))  # noqa: PTH100  (a link keeps its own name)
    plan = replace(plan, output=output, settings=(), variants=tuple(variants))
    for cfg in configs.values():
        register_datasets(modules=cfg.DATASETS.MODULES, custom=cfg.DATASETS.CUSTOM)
    plan = replace(plan, unseen=plan.unseen or _unseen(configs))
    _check_sets(plan, configs)
    jobs = build_jobs(
        plan.variants,
        plan.seeds,
        configs=configs,
        root=Path.cwd(),
        output=output,
        prepared=_prepared_jobs(plan),
        gpus=gpus_per_job,
    )
    return Experiment(plan, configs, jobs)


def gather(experiment: Experiment) -> Results:
    """Return the scores of all trainings that are done.

    Raises:
        UserError: none is done, or a file with scores is damaged.
    """
    plan = experiment.plan
    done = {job.folder for job in experiment.jobs if job.is_done}
    seeds = {
        each.key: [seed for seed in plan.seeds if run_folder(plan.output, each.key, seed) in done]
        for each in plan.variants
    }
    variants = [each for each in plan.variants if seeds[each.key]]
    if not variants:
        raise UserError(f"No training in {plan.output} is done: run the plan without --report first.")
    results = read_results(
        variants,
        plan.seeds,
        plan.output,
        test_sets=experiment.test_sets,
        unseen=plan.unseen,
        baselines=_baselines(plan, experiment.test_sets),
        comparisons=plan.comparisons,
        done=seeds,
    )
    return replace(
        results, variants=with_selection(plan, variants, seeds), selected=selected_on_unseen(plan, experiment.configs)
    )


def conclude(experiment: Experiment, *, workers: int = 1) -> Results:
    """Write the plan, the scores, the table and the report into the output folder, and log the table.

    Args:
        experiment: the experiment; trainings that are not done are left out.
        workers: number of jobs that have run at the same time, which the report states.

    Raises:
        UserError: no training is done, or a file with scores or images is damaged.
    """
    plan, results = experiment.plan, gather(experiment)
    output = plan.output
    make_folder(output)
    known = {
        name: {key: value for key, value in each.items() if not math.isnan(value)}
        for name, each in results.baselines.items()
    }
    write_plan(replace(plan, baselines=known, baselines_file=""), output / PLAN_FILE)
    content = {"baselines": results.baselines, "trained": results.scores}
    write_atomically(output / SCORES, json.dumps(content, indent=1))
    counts = {name: len(load_dataset(name)) for name in experiment.test_sets}
    protocol = stated_protocol(experiment.first)
    text = text_table(results, Provenance(protocol, code_version(), results.seeds[0], counts, results.unseen))
    write_atomically(output / TABLE, f"{text}\n")
    seconds = [job.seconds for job in experiment.jobs if not math.isnan(job.seconds)]
    solver = experiment.first.SOLVER
    facts = {
        "Protocol": protocol,
        "Commit": code_version(),
        "Seeds": ", ".join(map(str, results.seeds)),
        "Test images": ", ".join(f"{plan.headings.get(name, name)} {count}" for name, count in counts.items()),
        "Iterations": f"{solver.MAX_ITER} of {solver.IMS_PER_BATCH} images for “{results.variants[0].title}”",
        "Machine": ", ".join(f"{key} {value}" for key, value in machine().items()),
        "Time": f"{sum(seconds) / 60:.0f} minutes in all jobs, {workers} at a time",
        "Versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
    }
    write_report(_report(plan, results, facts), output)
    logger.info("%s\n%s", plan.title, text)
    logger.info("Report: %s", output / "report.html")
    return results


def text_table(results: Results, provenance: Provenance) -> str:
    """Return mIoU of all rows and the paired differences as text."""
    rows = {name: dict(by_set) for name, by_set in results.baselines.items()}
    notes = []
    for each in results.variants:
        runs = list(results.scores[each.key].values())
        on = results.selected.get(each.key)
        title = f"{each.title} †" if on else each.title
        rows[title] = {name: fmean(run[name]["mIoU"] for run in runs) for name in results.test_sets}
        notes += [f"† {each.title}: selected on {on}, a test domain."] if on else []
    many = len(results.seeds) > 1
    if many:
        notes.append(f"Rows of trainings are means over the seeds {', '.join(map(str, results.seeds))}.")
        notes += [
            f"{each.title}: only the seeds {', '.join(map(str, results.scores[each.key]))}."
            for each in results.variants
            if len(results.scores[each.key]) < len(results.seeds)
        ]
    differences = results.differences()
    if differences:
        notes.append("Paired differences of the unseen mean" + (" with 95 % t intervals:" if many else ":"))
    for found in differences:
        interval = f" ({found.low:+.2f} to {found.high:+.2f}, {verdict(found)})" if found.has_interval else ""
        notes.append(f"{found.mean:+.2f}{interval}  {found.label}")
    return "\n".join([format_comparison(rows, provenance), *notes])


def _report(plan: Plan, results: Results, facts: Mapping[str, str]) -> Report:
    generated = plan.path(plan.generated) if plan.generated else None
    there = generated is not None and (generated / "manifest.jsonl").is_file()
    return Report(
        results=results,
        title=plan.title,
        subtitle=plan.subtitle,
        headings={name: plan.headings.get(name, name) for name in results.test_sets},
        shown=plan.shown,
        generated=generated if there else None,
        generated_text=plan.generated_text,
        facts=facts,
        notes=plan.notes,
    )


def _prepared_jobs(plan: Plan) -> list[Job]:
    jobs: dict[str, Job] = {}
    for each in plan.prepare:
        needed = [jobs[name].inputs for name in each.needs]
        folder = plan.path(each.folder or f"{{output}}/{PREPARED}/{each.name}").absolute()
        inputs = digest(*(_existing(plan, each, name) for name in each.inputs), *needed)
        jobs[each.name] = Job(
            name=each.name,
            command=_command([plan.filled(word) for word in each.command]),
            folder=folder,
            needs=each.needs,
            steps=each.steps,
            inputs=inputs,
        )
    return list(jobs.values())


def _existing(plan: Plan, preparation: Preparation, name: str) -> Path:
    path = plan.path(name)
    if not path.exists():
        raise UserError(f"There is no {path}, which {preparation.name} in prepare needs: correct its inputs.")
    return path


def _command(words: Sequence[str]) -> tuple[str, ...]:
    """A command whose program is that of this process if it is Python or ours."""
    programs = {"clouds": (sys.executable, "-m", "clouds"), "python": (sys.executable,)}
    return (*programs.get(words[0], (words[0],)), *words[1:])


def _check_comparable(configs: Mapping[str, CfgNode]) -> None:
    first, *others = configs
    for key in others:
        for name, value in (
            ("DATASETS.TEST", lambda cfg: tuple(dataset_names(cfg.DATASETS.TEST))),
            ("the protocol", stated_protocol),
        ):
            if value(configs[key]) != value(configs[first]):
                raise UserError(
                    f"The rows {first} and {key} differ in {name}, so their scores cannot be compared: set it in the "
                    "settings of the plan."
                )
    if not configs[first].DATASETS.TEST:
        raise UserError(f"The row {first} has no DATASETS.TEST: name the test sets in the settings of the plan.")


def _unseen(configs: Mapping[str, CfgNode]) -> tuple[str, ...]:
    """The test sets of domains that no row trains on."""
    seen = {domain(name) for cfg in configs.values() for name in dataset_names(cfg.DATASETS.TRAIN)}
    tests = dataset_names(next(iter(configs.values())).DATASETS.TEST)
    unseen = tuple(name for name in tests if domain(name) not in seen)
    if not unseen:
        raise UserError(
            f"Every test set ({', '.join(tests)}) is of a domain that a row trains on: name the test sets that the "
            "comparisons are about as unseen."
        )
    return unseen


def _check_sets(plan: Plan, configs: Mapping[str, CfgNode]) -> None:
    """Check that the plan names data sets that are evaluated."""
    tests = dataset_names(configs[plan.variants[0].key].DATASETS.TEST)
    for key, names in (("unseen", plan.unseen), ("headings", plan.headings)):
        for name in names:
            if name not in tests:
                raise UserError(f"{key} in the plan names {name}, which is no test set: there are {', '.join(tests)}.")
    if plan.selection:
        for key in plan.selection.among:
            if plan.selection.by not in evaluated_sets(configs[key]):
                raise UserError(
                    f"select in the plan chooses by {plan.selection.by}, which the row {key} is not evaluated on: add "
                    "it to DATASETS.TEST, or set TEST.SELECT_ON to it."
                )


def _baselines(plan: Plan, test_sets: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
    """The baselines of the plan, or those that a preparation has written; a missing score is NaN."""
    found = plan.baselines
    if plan.baselines_file:
        file = plan.path(plan.baselines_file)
        found = read_json(file, dict, "run the preparation that writes it again") if file.is_file() else {}
        if not all(isinstance(scores, dict) and all(map(is_number, scores.values())) for scores in found.values()):
            raise UserError(f"{file} has no baselines: it must map names to the mIoU on each test set.")
    return {name: {each: scores.get(each, math.nan) for each in test_sets} for name, scores in found.items()}
