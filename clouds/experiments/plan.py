"""Plan of an experiment: which networks are trained, from which weights, in which order."""

import graphlib
import itertools
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clouds.config import load_config
from clouds.config.keys import value_of
from clouds.config.settings import TOWERS
from clouds.d2 import CfgNode
from clouds.data.datasets.spec import data_root
from clouds.experiments.jobs import Job, digest

PLAN_FILE = "plan.yaml"
"""File in the output folder of an experiment with its plan."""
FINAL_WEIGHTS = "model_final.pth"
"""File that a training leaves in its folder."""
BEST_WEIGHTS = "model_best.pth"
"""File that a training with ``TEST.SELECT_ON`` leaves in its folder."""


@dataclass(frozen=True)
class Variant:
    """One way to train a network: a row of the result tables.

    Attributes:
        key: name of its folders.
        title: label in tables.
        config: config file.
        settings: `KEY VALUE` pairs that override the config file.
        after: key of the variant whose weights of the same seed it starts from; None if the config decides.
        needs: names of further jobs that must be done before, such as the generation of images.
        group: heading above the row.
        weights: file with these weights in the folder of `after`.
    """

    key: str
    title: str
    config: Path
    settings: tuple[str, ...] = ()
    after: str | None = None
    needs: tuple[str, ...] = ()
    group: str = ""
    weights: str = FINAL_WEIGHTS


@dataclass(frozen=True)
class Preparation:
    """A command that runs before trainings, such as one that draws or generates images.

    In `command`, `folder` and `inputs`, `{data}` stands for the folder of the data sets and `{output}` for that of the
    results.

    Attributes:
        name: unique name of the job.
        command: program and its arguments; as the program, ``clouds`` and ``python`` are those of this process.
        folder: folder of its state and its output; default `<output>/prepare/<name>`.
        needs: names of preparations that must be done before.
        inputs: files and folders that its results depend on: if one changes, it runs again.
        steps: amount of work, in iterations or images.
    """

    name: str
    command: tuple[str, ...]
    folder: str = ""
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    steps: int = 1


@dataclass(frozen=True)
class Selection:
    """Choice of the best row in each group by its mIoU on one data set.

    Attributes:
        by: name of the data set.
        among: keys of the rows among which is chosen.
    """

    by: str
    among: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that an experiment is made of.

    Attributes:
        title: title of the report.
        subtitle: line below the title.
        output: folder of the results.
        variants: rows of the result tables.
        seeds: seeds of the trainings.
        settings: `KEY VALUE` pairs for all rows; those of a row come after them.
        prepare: commands that run before the trainings.
        comparisons: pairs of keys; the report answers whether the first row is better than the second.
        shown: keys of the rows whose class scores and predictions the report shows.
        unseen: test sets of domains that no row was trained on; empty: derived from the configs.
        baselines: name of a method that is not trained here -> test set -> mIoU in percent.
        baselines_file: JSON file with such a mapping, which a preparation writes; "" for none.
        selection: choice among rows; None for none.
        headings: test set -> its short name in tables.
        generated: folder of generated images that the report shows; "" for none.
        generated_text: paragraph about these images.
        notes: sentences about the method.
    """

    title: str
    output: Path
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    subtitle: str = ""
    settings: tuple[str, ...] = ()
    prepare: tuple[Preparation, ...] = ()
    comparisons: tuple[tuple[str, str], ...] = ()
    shown: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    baselines_file: str = ""
    selection: Selection | None = None
    headings: Mapping[str, str] = field(default_factory=dict)
    generated: str = ""
    generated_text: str = ""
    notes: tuple[str, ...] = ()

    def path(self, text: str) -> Path:
        """Return a path of the plan with its placeholders replaced."""
        return Path(self.filled(text))

    def filled(self, text: str) -> str:
        """Return a text of the plan with `{data}` and `{output}` replaced by the absolute folders."""
        output = os.path.abspath(self.output)  # noqa: PTH100  (a link keeps its own name)
        return text.replace("{data}", str(data_root().absolute())).replace("{output}", output)


def load_configs(variants: Iterable[Variant], settings: Sequence[str] = ()) -> dict[str, CfgNode]:
    """Read the config of every variant, so that a misspelt setting is reported before anything runs.

    Args:
        variants: rows of the experiment.
        settings: `KEY VALUE` pairs for all of them.

    Returns:
        Key of a variant -> config.

    Raises:
        UserError: a config file or setting is invalid.
    """
    return {each.key: load_config(each.config, [*each.settings, *settings]) for each in variants}


def build_jobs(
    variants: Sequence[Variant],
    seeds: Iterable[int],
    *,
    configs: Mapping[str, CfgNode],
    root: Path,
    output: Path,
    settings: Sequence[str] = (),
    prepared: Sequence[Job] = (),
    gpus: int = 1,
) -> list[Job]:
    """Return the jobs of an experiment: `prepared`, then the trainings, seed by seed.

    A job's `inputs` cover its resolved config, the local weights that the config names, and the inputs of the jobs it
    needs, so a change to any of them makes it another job.

    Args:
        variants: rows of the experiment.
        seeds: seeds of the trainings.
        configs: key of a variant -> its config, as `load_configs` returns them.
        root: folder in which the jobs run; relative names in the configs are resolved against it.
        output: folder of the results.
        settings: `KEY VALUE` pairs for all trainings.
        prepared: jobs that the variants name in `needs`.
        gpus: number of GPUs of a training, which does not change its results: another number continues it.
    """
    jobs = {job.name: job for job in prepared}
    inputs = {key: digest(cfg.dump(), *_local_weights(cfg, root)) for key, cfg in configs.items()}
    train = (sys.executable, "-m", "clouds", "train")
    for seed, variant in itertools.product(seeds, in_order(variants)):
        folder = run_folder(output, variant.key, seed)
        flags = ("--config-file", str(variant.config), "--resume", *variant.settings, *settings)
        flags += ("SEED", str(seed), "OUTPUT_DIR", str(folder))
        needs = variant.needs
        if variant.after:
            needs = (job_name(variant.after, seed), *needs)
            flags += ("MODEL.WEIGHTS", str(run_folder(output, variant.after, seed) / variant.weights))
        name = job_name(variant.key, seed)
        jobs[name] = Job(
            name=name,
            command=(*train, *flags),
            folder=folder,
            needs=needs,
            steps=configs[variant.key].SOLVER.MAX_ITER,
            inputs=digest(inputs[variant.key], *(jobs[each].inputs for each in needs)),
            is_evaluated=bool(configs[variant.key].DATASETS.TEST),
            started=(*train, "--num-gpus", str(gpus), *flags) if gpus > 1 else (),
        )
    return list(jobs.values())


def in_order(variants: Sequence[Variant]) -> list[Variant]:
    """Return the variants, each after the one that it starts from.

    Raises:
        graphlib.CycleError: some of them start from each other.
    """
    by_key = {each.key: each for each in variants}
    graph = {each.key: [each.after] if each.after else [] for each in variants}
    return [by_key[key] for key in graphlib.TopologicalSorter(graph).static_order() if key in by_key]


def job_name(key: str, seed: int) -> str:
    """Return the name of the job of one training."""
    return f"{key} {seed}"


def run_folder(output: Path, key: str, seed: int) -> Path:
    """Return the folder of one training: `<output>/<key>/seed<seed>`."""
    return output / key / f"seed{seed}"


def _local_weights(cfg: CfgNode, root: Path) -> list[Path]:
    """Weights that a config names and that exist here; names on a hub say everything themselves."""
    names = [value_of(cfg, key) for key in (*TOWERS, "MODEL.CLOUDS.SAM.WEIGHTS")]
    return [root / name for name in names if name and (root / name).exists()]
