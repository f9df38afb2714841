"""The experiment: draw the data, run the jobs, gather the scores, write table and report."""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from clouds.d2 import CfgNode
from clouds.data.datasets.catalog import load_dataset, register_datasets
from clouds.data.protocols import main_protocol
from clouds.engine.run.record import code_version, machine, versions
from clouds.errors import UserError
from clouds.evaluation.tables import Provenance, format_comparison
from clouds.experiments.conclusion import verdict
from clouds.experiments.jobs import Job, digest
from clouds.experiments.plan import Variant, build_jobs, load_configs
from clouds.experiments.report import Report, write_report
from clouds.experiments.results import Results, read_results
from clouds.experiments.runner import run_jobs
from clouds.utils.atomic import write_atomically
from clouds.utils.signals import stop_on_signals
from minicity.experiment.baselines import baseline_scores
from minicity.experiment.rows import (
    ADAPTERS,
    COMPARED,
    FULL,
    SHOWN,
    SMALLEST,
    TEST_SETS,
    UNSEEN,
    Row,
    as_variant,
    generated_name,
    short_name,
    with_images,
    with_mobile_sam,
)
from minicity.paths import PROJECT, REPOSITORY
from minicity.world.writing import write_dataset

ROWS = {None: SMALLEST, "full": FULL, "adapters": ADAPTERS}
"""Rows of each ablation, by the name of its flag; None: those of `make demo`."""
TITLE = "CLOUDS in small"
GENERATED = (
    "{count} images from the miniature Stable Diffusion, which was trained on captioned streets of many styles, none "
    "of them a test world's. Every image has its own prompt and seed."
)
NOTES = (
    "The five unseen worlds are used neither for training nor for generation nor for any decision. The styles that the "
    "foundation models were trained on differ from theirs, which a test checks.",
    "Means are over the seeds, with the standard deviation of single runs; differences are taken seed by seed.",
    "A class without a pixel in the ground truth of a world counts in no mean.",
)

logger = logging.getLogger("clouds.experiment")


def run(args: argparse.Namespace) -> int:
    """Run the experiment.

    Args:
        args: flags of `projects/minicity/tools/experiment.py`.

    Returns:
        Exit code: 0.

    Raises:
        UserError: a flag or setting is invalid, or a job failed.
        Stopped: a signal has asked to stop.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    start = time.perf_counter()
    rows = choose(ROWS[args.ablation], args)
    variants = [as_variant(each, PROJECT / "configs") for each in rows]
    settings = [*args.opts, "MODEL.SAVE_PSEUDO_LABELS", "True"]
    configs = load_configs(variants, settings)
    check(args, configs)

    data = Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").absolute()
    # The jobs run in the repository's root, where the relative names in the configs are valid.
    os.environ["DETECTRON2_DATASETS"] = str(data)
    for name in ("minicity_sim_train", *TEST_SETS):
        write_dataset(name, data, args.num_train if name.endswith("_train") else args.num_val, num_workers=args.workers)
    jobs = build_jobs(
        variants,
        range(1, args.seeds + 1),
        configs=configs,
        root=REPOSITORY,
        output=args.output.absolute(),
        settings=settings,
        prepared=generation_jobs(args, sorted({row.images for row in rows} - {0}), data),
    )
    with stop_on_signals():
        run_jobs(jobs, workers=args.workers, working_folder=REPOSITORY)
    conclude(args, rows, variants, next(iter(configs.values())), data, jobs)
    logger.info("Done in %.0f s.", time.perf_counter() - start)
    return 0


def choose(rows: Sequence[Row], args: argparse.Namespace) -> list[Row]:
    """Return the rows that the flags ask for, and those that they start from.

    Args:
        rows: all rows.
        args: `rows`, keys separated by commas, None for all; `images` and `sam` as in the flags.

    Raises:
        UserError: there is no such row, or the weights of MobileSAM are missing.
    """
    by_key = {each.key: each for each in rows}
    wanted = set(args.rows.split(",") if args.rows else by_key)
    if unknown := sorted(wanted - by_key.keys()):
        raise UserError(f"--rows names {', '.join(unknown)}; there are {', '.join(by_key)}.")
    for each in reversed(rows):
        if each.key in wanted and each.after:
            wanted.add(each.after)
    chosen = with_images([each for each in rows if each.key in wanted], args.images)
    if args.sam != "mobile_sam":
        return chosen
    if not (REPOSITORY / "weights/mobile_sam.pt").is_file():
        raise UserError("There is no weights/mobile_sam.pt: get it with `clouds weights mobile_sam`.")
    return [with_mobile_sam(each) for each in chosen]


def check(args: argparse.Namespace, configs: Mapping[str, CfgNode]) -> None:
    """Check what the jobs need before anything is drawn.

    Raises:
        UserError: other test sets are set, or the generator or its prompts are missing.
    """
    if any(tuple(cfg.DATASETS.TEST) != TEST_SETS for cfg in configs.values()):
        raise UserError(f"The experiment is measured on {', '.join(TEST_SETS)}: leave DATASETS.TEST out.")
    for path in (args.model, args.prompts):
        if not path.exists():
            raise UserError(f"There is no {path}, which the generation of images needs.")


def generation_jobs(args: argparse.Namespace, counts: Sequence[int], data: Path) -> list[Job]:
    """Return a job for each of these numbers of generated images.

    Args:
        args: `model`, `prompts`, `steps` and `guidance` as in the flags.
        counts: numbers of images.
        data: folder of the data sets; the images go into its folder `stable_diffusion`.
    """
    model = ("--model", str(args.model.absolute()), "--input", str(args.prompts.absolute()))
    painting = ("--steps", str(args.steps), "--guidance", str(args.guidance), "--batch-size", "8")
    script, inputs = str(REPOSITORY / "generate_txt_im.py"), digest(args.model, args.prompts)
    jobs = []
    for count in counts:
        name = generated_name(count)
        flags = ("--folder", name, "--num-images", str(count), *model, *painting, "--output-root", str(data))
        folder = data / "stable_diffusion" / name
        jobs.append(Job(name, (sys.executable, script, *flags), folder, steps=count, inputs=inputs))
    return jobs


def conclude(
    args: argparse.Namespace,
    rows: Sequence[Row],
    variants: Sequence[Variant],
    cfg: CfgNode,
    data: Path,
    jobs: Sequence[Job],
) -> None:
    """Write `table.txt`, `scores.json` and `report.html` into the output folder, and log the table.

    Args:
        args: flags of the command.
        rows: rows of the experiment.
        variants: the rows as trainings.
        cfg: config of the first row.
        data: folder of the data sets.
        jobs: jobs, all done.
    """
    register_datasets(modules=cfg.DATASETS.MODULES)
    results = read_results(
        variants,
        range(1, args.seeds + 1),
        args.output,
        test_sets=TEST_SETS,
        unseen=UNSEEN,
        baselines=baseline_scores(cfg),
        comparisons=COMPARED,
    )
    counts = {name: len(load_dataset(name)) for name in TEST_SETS}
    protocol = main_protocol(cfg)
    text = text_table(results, Provenance(protocol, code_version(), results.seeds[0], counts, UNSEEN))
    write_atomically(args.output / "table.txt", f"{text}\n")
    content = {"baselines": results.baselines, "trained": results.scores}
    write_atomically(args.output / "scores.json", json.dumps(content, indent=1))
    facts = {
        "Protocol": protocol,
        "Commit": code_version(),
        "Seeds": ", ".join(map(str, results.seeds)),
        "Images a world": str(counts[TEST_SETS[0]]),
        "Iterations": f"{cfg.SOLVER.MAX_ITER} of {cfg.SOLVER.IMS_PER_BATCH} images for the warm-up",
        "Machine": ", ".join(f"{key} {value}" for key, value in machine().items()),
        "Trainings and generation": f"{sum(job.seconds for job in jobs) / 60:.0f} minutes, {args.workers} at a time",
        "Versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
    }
    generated = data / "stable_diffusion" / generated_name(max(row.images for row in rows))
    file = args.output / "report.html"
    write_report(report(results, args.output, generated, facts), file)
    logger.info("Trained on one world; tested on it and on five unseen ones\n%s", text)
    logger.info("Report: %s", file)


def text_table(results: Results, provenance: Provenance) -> str:
    """Return mIoU of all rows and the paired differences as text."""
    rows = {name: dict(by_set) for name, by_set in results.baselines.items()}
    for each in results.variants:
        runs = list(results.scores[each.key].values())
        rows[each.title] = {name: fmean(run[name]["mIoU"] for run in runs) for name in results.test_sets}
    many = len(results.seeds) > 1
    seeds = f"Rows of trainings are means over the seeds {', '.join(map(str, results.seeds))}." if many else ""
    differences = results.differences()
    heading = "Paired differences of the unseen mean" + (" with 95 % t intervals:" if many else ":")
    return "\n".join(
        [
            format_comparison(rows, provenance),
            seeds,
            *([heading] if differences else []),
            *(
                f"{each.mean:+.2f}"
                + (f" ({each.low:+.2f} to {each.high:+.2f}, {verdict(each)})" if each.count > 1 else "")
                + f"  {each.label}"
                for each in differences
            ),
        ]
    )


def report(results: Results, output: Path, generated: Path, facts: Mapping[str, str]) -> Report:
    """Return the content of the report.

    Args:
        results: scores of all runs.
        output: folder of the runs.
        generated: folder of the generated images.
        facts: name -> value of what is needed to repeat the experiment.
    """
    seeds = f"{len(results.seeds)} seeds" if len(results.seeds) > 1 else f"seed {results.seeds[0]}"
    there = (generated / "manifest.jsonl").is_file()
    return Report(
        results=results,
        output=output,
        title=TITLE,
        subtitle=f"Trained on one drawn world, tested on it and on five unseen ones; {seeds}.",
        headings={name: short_name(name) for name in results.test_sets},
        shown=SHOWN,
        baselines="Without looking at shapes",
        generated=generated if there else None,
        generated_text=GENERATED.format(count=generated.name.rpartition("_")[2]),
        facts=facts,
        notes=NOTES,
    )
