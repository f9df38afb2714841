"""Plan of an experiment: which networks are trained, from which weights, in which order."""

import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clouds.config import load_config
from clouds.config.keys import value_of
from clouds.config.settings import TOWERS
from clouds.d2 import CfgNode
from clouds.experiments.runner import Job, digest

FINAL_WEIGHTS = "model_final.pth"
"""File that a training leaves in its folder."""


@dataclass(frozen=True)
class Variant:
    """One way to train a network: a row of the result tables.

    Attributes:
        key: name of its folders.
        title: label in tables.
        config: config file.
        settings: `KEY VALUE` pairs that override the config file.
        after: key of the variant whose final weights of the same seed it starts from; None if the config decides.
        needs: names of further jobs that must be done before, such as the generation of images.
        group: heading above the row.
    """

    key: str
    title: str
    config: Path
    settings: tuple[str, ...] = ()
    after: str | None = None
    needs: tuple[str, ...] = ()
    group: str = ""


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
) -> list[Job]:
    """Return the jobs of an experiment: `prepared`, then the trainings, seed by seed.

    A job's `inputs` cover its resolved config, the local weights that the config names, and the inputs of the jobs it
    needs, so a change to any of them makes it another job.

    Args:
        variants: rows of the experiment, each after the one that it starts from.
        seeds: seeds of the trainings.
        configs: key of a variant -> its config, as `load_configs` returns them.
        root: folder in which the jobs run; relative names in the configs are resolved against it.
        output: folder of the results.
        settings: `KEY VALUE` pairs for all trainings.
        prepared: jobs that the variants name in `needs`.
    """
    jobs = {job.name: job for job in prepared}
    inputs = {key: digest(cfg.dump(), *_local_weights(cfg, root)) for key, cfg in configs.items()}
    for seed, variant in itertools.product(seeds, variants):
        folder = run_folder(output, variant.key, seed)
        flags = ("--config-file", str(variant.config), "--resume", *variant.settings, *settings)
        flags += ("SEED", str(seed), "OUTPUT_DIR", str(folder))
        needs = variant.needs
        if variant.after:
            needs = (f"{variant.after} {seed}", *needs)
            flags += ("MODEL.WEIGHTS", str(run_folder(output, variant.after, seed) / FINAL_WEIGHTS))
        name = f"{variant.key} {seed}"
        jobs[name] = Job(
            name=name,
            command=(sys.executable, "-m", "clouds", "train", *flags),
            folder=folder,
            needs=needs,
            steps=configs[variant.key].SOLVER.MAX_ITER,
            inputs=digest(inputs[variant.key], *(jobs[each].inputs for each in needs)),
            is_evaluated=bool(configs[variant.key].DATASETS.TEST),
        )
    return list(jobs.values())


def run_folder(output: Path, key: str, seed: int) -> Path:
    """Return the folder of one training: `<output>/<key>/seed<seed>`."""
    return output / key / f"seed{seed}"


def _local_weights(cfg: CfgNode, root: Path) -> list[Path]:
    """Weights that a config names and that exist here; names on a hub say everything themselves."""
    names = [value_of(cfg, key) for key in (*TOWERS, "MODEL.CLOUDS.SAM.WEIGHTS")]
    return [root / name for name in names if name and (root / name).exists()]
