"""The whole experiment in small: three miniature foundation models, a drawn world, the paper's ablation, one report.

    python projects/minicity/tools/experiment.py minicity            the smallest: one seed, four rows (what `make demo` runs)
    python projects/minicity/tools/experiment.py minicity --full     every row, three seeds, with means, deviations and paired differences

Warm-up on labelled streets of one look; generation of images by the miniature Stable Diffusion; joint training with the
labels of teacher and SAM; evaluation on that world and on five whose look and streets nothing has seen. Everything runs
through the code that trains on the real data. Stopped, the same command goes on; what is done is not done again.
"""

import argparse
import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from clouds.commands.entry import user_errors
from clouds.config import load_config
from clouds.errors import UserError
from clouds.utils.atomic import atomic_file

if TYPE_CHECKING:
    from minicity.experiment.runner import Variant

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "projects/minicity/configs"
MOBILE_SAM = ("MODEL.CLOUDS.SAM.MOBILE", "True", "MODEL.CLOUDS.SAM.WEIGHTS", "", "MODEL.CLOUDS.SAM.IMAGE_SIZE", "384")
BASELINE_IMAGES = 100

logger = logging.getLogger("clouds.experiment")


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    # Terminated, it ends what it has started, as on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from minicity.experiment.report import SETS
    from minicity.experiment.rows import FULL, SMALLEST, with_images
    from minicity.experiment.runner import GENERATION, digest, plan, run_jobs
    from minicity.world.writing import write_dataset

    start = time.perf_counter()
    rows = chosen(FULL if args.full else SMALLEST, args.rows.split(",") if args.rows else ())
    variants = with_images(rows, args.images)
    if args.sam == "mobile_sam":
        variants = [with_mobile_sam(each) for each in variants]
    settings = [*args.opts, "MODEL.SAVE_PSEUDO_LABELS", "True"]
    # All are read first: a misspelt setting is told before minutes of work.
    configs = {each.key: load_config(CONFIGS / each.config, [*each.training, *settings]) for each in variants}
    if any(tuple(cfg.DATASETS.TEST) != SETS for cfg in configs.values()):
        raise UserError(f"The experiment is measured on {', '.join(SETS)}: leave DATASETS.TEST out.")
    for path in (args.model, args.prompts):
        if not path.exists():
            raise UserError(f"There is no {path}, which the generation of images needs.")

    data = Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").absolute()
    os.environ["DETECTRON2_DATASETS"] = str(data)  # the jobs work where the configs' relative names are true
    for name in ("minicity_sim_train", *SETS):
        write_dataset(name, data, args.num_train if name.endswith("_train") else args.num_val, num_workers=args.workers)
    seeds = range(1, args.seeds + 1)
    model = ("--model", str(args.model.absolute()), "--input", str(args.prompts.absolute()))
    painting = ("--steps", str(args.steps), "--guidance", str(args.guidance), "--batch-size", "8")
    jobs = plan(
        variants,
        seeds,
        root=ROOT,
        output=args.output.absolute(),
        configs=CONFIGS,
        generate=(*model, *painting, "--output-root", str(data)),
        generated_folder=data / "stable_diffusion",
        iterations={key: cfg.SOLVER.MAX_ITER for key, cfg in configs.items()},
        inputs={
            GENERATION: digest(args.model, args.prompts),
            **{key: digest(cfg.dump(), *named_files(cfg)) for key, cfg in configs.items()},
        },
        settings=settings,
    )
    try:
        run_jobs(jobs, workers=args.workers, working_folder=ROOT)
    except KeyboardInterrupt:
        logger.info("Interrupted. The same command goes on with the trainings that are not done.")
        return 130
    seconds = {job.name: job.seconds for job in jobs}
    conclude(args, variants, seeds, next(iter(configs.values())), data, seconds)
    logger.info("Done in %.0f s.", time.perf_counter() - start)
    return 0


def named_files(cfg: Any) -> list[Path]:
    """The weights that a config names and that are here; the rest of it says everything itself."""
    names = (cfg.MODEL.CLOUDS.CLIP_MODEL_NAME, cfg.MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS, cfg.MODEL.CLOUDS.SAM.WEIGHTS)
    return [ROOT / name for name in names if name and (ROOT / name).exists()]


def chosen(variants: "Sequence[Variant]", keys: Sequence[str]) -> "list[Variant]":
    """The rows of these keys and those that they begin with; all of them without keys.

    Raises:
        UserError: there is no such row.
    """
    by_key = {each.key: each for each in variants}
    wanted = set(keys or by_key)
    if unknown := sorted(wanted - by_key.keys()):
        raise UserError(f"--rows names {', '.join(unknown)}; there are {', '.join(by_key)}.")
    for each in reversed(variants):
        if each.key in wanted and each.after:
            wanted.add(each.after)
    return [each for each in variants if each.key in wanted]


def with_mobile_sam(variant: "Variant") -> "Variant":
    """MobileSAM in the place of the miniature, where a SAM refines at all.

    Raises:
        UserError: its weights are missing.
    """
    if not variant.images or "MODEL.CLOUDS.SAM.ENABLED" in variant.settings:
        return variant
    if not (ROOT / "weights/mobile_sam.pt").is_file():
        raise UserError("There is no weights/mobile_sam.pt: get it with `python tools/get_weights.py mobile_sam`.")
    return replace(variant, settings=(*variant.settings, *MOBILE_SAM))


def conclude(
    args: argparse.Namespace,
    variants: Sequence[Any],
    seeds: Sequence[int],
    cfg: Any,
    data: Path,
    seconds: dict[str, float],
) -> None:
    """Gather the scores; write table, numbers and report."""
    from minicity.experiment.report import SETS, UNSEEN, Material, unseen_differences, write_report
    from minicity.experiment.runner import generated_name, read_scores, run_folder
    from minicity.world.datasets import read_captions

    from clouds.data.datasets.catalog import register_datasets
    from clouds.engine.record import code_version, machine, versions
    from clouds.evaluation.tables import Provenance, format_comparison

    register_datasets(modules=cfg.DATASETS.MODULES)
    scores = {
        each.key: {seed: read_scores(run_folder(args.output, each.key, seed)) for seed in seeds} for each in variants
    }
    simple = baselines(cfg)
    rows = {name: dict(by_set) for name, by_set in simple.items()}
    for each in variants:
        runs = list(scores[each.key].values())
        rows[each.title] = {name: fmean(run[name]["mIoU"] for run in runs) for name in SETS}
    counts = {name: len(read_captions(name, data)) for name in SETS}
    table = format_comparison(rows, Provenance(cfg.TEST.PROTOCOL, code_version(), seeds[0], counts, UNSEEN))
    means = f"Rows of trainings are means over the seeds {', '.join(map(str, seeds))}." if len(seeds) > 1 else ""
    lines = [table, means]
    differences = unseen_differences(variants, scores)
    lines += ["Differences of the unseen mean, seed by seed:"] if differences else []
    lines += [
        f"{each.mean:+.2f}"
        + (f" +- {each.error:.2f} ({each.count} seeds)" if each.count > 1 else "")
        + f"  {each.label}"
        for each in differences
    ]
    text = "\n".join(lines)
    (args.output / "table.txt").write_text(f"{text}\n", encoding="utf-8")
    with atomic_file(args.output / "scores.json") as part:
        part.write_text(json.dumps({"baselines": simple, "trained": scores}, indent=1), encoding="utf-8")

    spent = [value for value in seconds.values() if not math.isnan(value)]
    facts = {
        "Protocol": cfg.TEST.PROTOCOL,
        "Commit": code_version(),
        "Seeds": ", ".join(map(str, seeds)),
        "Images a world": str(counts[SETS[0]]),
        "Iterations": f"{cfg.SOLVER.MAX_ITER} of {cfg.SOLVER.IMS_PER_BATCH} images for the warm-up",
        "Machine": ", ".join(f"{key} {value}" for key, value in machine().items()),
        "Trainings and generation": f"{sum(spent) / 60:.0f} minutes, {args.workers} at a time",
        "Versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
    }
    most = max(each.images for each in variants)
    generated = data / "stable_diffusion" / generated_name(most)
    report = args.output / "report.html"
    write_report(Material(variants, scores, simple, list(seeds), args.output, data, generated, facts), report)
    logger.info("Trained on one world; tested on it and on five that it has never seen\n%s", text)
    logger.info("Report: %s", report)


def baselines(cfg: Any) -> dict[str, dict[str, float]]:
    """mIoU of predictors that know no shapes: what a network has to beat."""
    import numpy as np
    import torch
    from minicity.experiment.baselines import ColorPositionClassifier, ConstantPredictor
    from torch.nn import functional as F

    from clouds.d2 import inference_on_dataset
    from clouds.data.datasets.catalog import load_dataset
    from clouds.data.encoding import read_label
    from clouds.data.loading.loaders import build_test_loader
    from clouds.evaluation.sem_seg import SemSegEvaluator
    from clouds.utils.images import read_image

    class BaselineModel(torch.nn.Module):
        """A baseline in the place of the network, so that the same loop and evaluator score it."""

        def __init__(self, baseline: ConstantPredictor | ColorPositionClassifier) -> None:
            super().__init__()
            self.baseline = baseline

        def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
            outputs = []
            for x in batched_inputs:
                label = torch.from_numpy(self.baseline.predict(x["image"].permute(1, 2, 0).numpy())).long()
                scores = F.one_hot(label, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES).permute(2, 0, 1).float()
                outputs.append({"sem_seg": F.interpolate(scores[None], size=(x["height"], x["width"]))[0]})
            return outputs

    records = load_dataset(cfg.DATASETS.TRAIN[0])[:BASELINE_IMAGES]
    images = [np.asarray(read_image(record["file_name"])) for record in records]
    labels = [read_label(record["sem_seg_file_name"], cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) for record in records]

    def score(baseline: ConstantPredictor | ColorPositionClassifier) -> dict[str, float]:
        model = BaselineModel(baseline.fit(images, labels))
        return {
            name: inference_on_dataset(model, build_test_loader(cfg, name), SemSegEvaluator(name))["sem_seg"]["mIoU"]
            for name in cfg.DATASETS.TEST
        }

    return {"constant": score(ConstantPredictor()), "colour and position": score(ColorPositionClassifier())}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("world", choices=["minicity"], help="where the experiment takes place")
    add("--full", action="store_true", help="every row of the ablation, three seeds")
    add("--rows", metavar="KEY,KEY", help="only these rows, such as frozen,joint, and those that they begin with")
    add("--seeds", type=int, help="seeds of each training (default: 1, with --full 3)")
    add("--output", type=Path, help="folder of results (default: output/experiment, or output/experiment_full)")
    add(
        "--workers",
        type=int,
        default=min(os.cpu_count() or 1, 4),
        help="trainings at a time (default: %(default)s here)",
    )
    add(
        "--sam",
        choices=["minicity_sam", "mobile_sam"],
        default="minicity_sam",
        help="which SAM refines (default: %(default)s)",
    )
    add(
        "--model",
        type=Path,
        default=ROOT / "projects/minicity/weights/diffusion",
        help="folder of a diffusers pipeline",
    )
    add("--prompts", type=Path, default=CONFIGS / "prompts.txt", help="for it, one a line")
    add("--steps", type=int, default=20, help="of denoising (default: %(default)s)")
    add("--guidance", type=float, default=3.0, help="of the prompts (default: %(default)s)")
    add("--images", type=int, default=1 << 20, help="at most so many generated images")
    add("--num-train", type=int, help="drawn images per training set (default: all of them)")
    add("--num-val", type=int, help="drawn images per validation set (default: all of them)")
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides, for all networks")
    # Intermixed: the settings at the end belong to no flag, though the world stands before the flags.
    args = parser.parse_intermixed_args(argv)
    args.seeds = (3 if args.full else 1) if args.seeds is None else args.seeds
    args.output = args.output or Path("output/experiment_full" if args.full else "output/experiment")
    if min(args.seeds, args.workers, args.images, *(n for n in (args.num_train, args.num_val) if n is not None)) < 1:
        parser.error("--seeds, --workers, --images, --num-train and --num-val must be at least 1")
    return args


if __name__ == "__main__":
    sys.exit(main())
