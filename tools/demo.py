"""The whole story in minutes: draw a small world, train CLOUDS on one part of it, measure it on parts never seen.

First the warm-up on labelled streets; beside it, in a process of its own, the same network with a tower that knows
nothing (--compare). Then joint training with generated streets, whose labels come from the teacher and SAM (--joint).

    python tools/demo.py [--config-file FILE] [--compare FILE] [--joint FILE] [--output DIR] [KEY VALUE ...]

Everything runs through the code that trains on the real data; the last lines are one table and the path of one picture.
"""

import argparse
import functools
import itertools
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clouds.config import load_config
from clouds.engine.cli import user_errors
from clouds.errors import UserError
from clouds.minicity.datasets import PARTS, write_dataset

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs/minicity"
Results = dict[str, Any]
SOURCE = "minicity_sim_val"
UNSEEN = tuple(name for name in PARTS if name.endswith("_val") and name != SOURCE)
SHEET_EXAMPLES = 2
BASELINE_IMAGES = 100
THREADS = max(1, (os.cpu_count() or 2) // 2)
"""For each of two trainings that run at the same time."""

logger = logging.getLogger("clouds.demo")


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default=f"{CONFIGS}/warmup_clip.yaml", help="default: %(default)s")
    parser.add_argument(
        "--compare",
        default=f"{CONFIGS}/warmup_convnext.yaml",
        help="another network; '' for none (default: %(default)s)",
    )
    parser.add_argument(
        "--joint", default=f"{CONFIGS}/joint.yaml", help="the joint training; '' for none (default: %(default)s)"
    )
    parser.add_argument("--output", default="output/demo", help="folder of results (default: %(default)s)")
    parser.add_argument("--num-train", type=int, help="images per training set (default: all of them)")
    parser.add_argument("--num-val", type=int, help="images per validation set (default: all of them)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides, for all networks")
    args = parser.parse_args(argv)

    def config(file: str, name: str, *settings: str) -> Any:
        return load_config(file, [*settings, "OUTPUT_DIR", f"{args.output}/{name}", "SEED", "1", *args.opts])

    # All are read first: a misspelt setting is told before minutes of work.
    warmup = config(args.config_file, "warmup")
    other = config(args.compare, "compared") if args.compare else None
    weights = ("MODEL.WEIGHTS", f"{warmup.OUTPUT_DIR}/model_final.pth")
    joint = config(args.joint, "joint", *weights) if args.joint else None

    start = time.perf_counter()
    root = Path(os.environ.get("DETECTRON2_DATASETS") or "datasets")
    for name in PARTS:
        write_dataset(name, root, args.num_train if name.endswith("_train") else args.num_val, num_workers=2)
    training = start_training(args.compare, other, args.opts) if other else None
    compared = functools.partial(finish, training, other) if training else None
    try:
        run(args, warmup, joint, compared)
    finally:
        if training:
            training.kill()
    logger.info(f"Done in {time.perf_counter() - start:.0f} s.")
    return 0


def start_training(config_file: str, cfg: Any, opts: Sequence[str]) -> subprocess.Popen[bytes]:
    """Train in a process of its own: so small a network makes little use of a second core."""
    output = Path(cfg.OUTPUT_DIR)
    output.mkdir(parents=True, exist_ok=True)
    # It is evaluated here, with the other.
    settings = ["OUTPUT_DIR", str(output), "SEED", str(cfg.SEED), *opts, "DATASETS.TEST", "()"]
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", config_file, *settings]
    with (output / "console.txt").open("wb") as console:
        return subprocess.Popen(
            command, stdout=console, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": str(THREADS)}
        )


def run(
    args: argparse.Namespace, warmup: Any, joint: Any | None, compared: Callable[[], tuple[Any, Results]] | None
) -> None:
    """Train in two stages, evaluate beside the baselines and what ``compared`` returns, draw."""
    # Torch is loaded here, so that drawing the world and a wrong argument do without.
    import torch

    from clouds.data.catalog import load_dataset
    from clouds.engine.setup import code_version, default_setup
    from clouds.engine.trainer import Trainer
    from clouds.evaluation.tables import Provenance, format_comparison

    default_setup(warmup, args)
    if compared:
        torch.set_num_threads(THREADS)
        logger.info(f"Meanwhile {args.compare} is trained, too: {args.output}/compared/console.txt")
    trainer = Trainer(warmup)
    trainer.resume_or_load()
    untrained = trainer.evaluate()
    rows = {**baselines(warmup), "CLOUDS, untrained head": untrained}
    trained, models = trainer.train(), {}
    if compared:
        models["tower from scratch"], rows[f"CLOUDS, {Path(args.compare).stem}"] = compared()
    models["warm-up"], rows["CLOUDS, warm-up"] = trainer.model, trained
    labels = ""
    if joint:
        default_setup(joint, args)
        trainer = Trainer(joint)
        trainer.resume_or_load()
        rows["CLOUDS, joint training"] = trainer.train()
        models["joint training"] = trainer.model
        labels = pseudo_label_quality(trainer.storage)

    mious = {
        row: {name: result["sem_seg"]["mIoU"] for name, result in results.items()} for row, results in rows.items()
    }
    counts = {name: len(load_dataset(name)) for name in warmup.DATASETS.TEST}
    table = format_comparison(mious, Provenance(warmup.TEST.PROTOCOL, code_version(), warmup.SEED, counts, UNSEEN))
    (Path(args.output) / "table.txt").write_text(f"{table}\n{labels}\n")
    logger.info(f"Trained on {warmup.DATASETS.TRAIN[0]}; tested on that world and on five it has never seen\n{table}")
    if joint:
        logger.info(f"{labels} Pictures of them: {joint.OUTPUT_DIR}/pseudo_label_panels")
    logger.info(f"Pictures: {draw(models, warmup, Path(args.output))}")


def baselines(cfg: Any) -> dict[str, Results]:
    """Scores of predictors that know no shapes: what a network has to beat."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    from clouds.d2 import inference_on_dataset
    from clouds.data.catalog import load_dataset
    from clouds.data.files import read_image, read_label
    from clouds.engine.trainer import Trainer
    from clouds.minicity.baselines import ColorPositionClassifier, ConstantPredictor

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

    def score(baseline: ConstantPredictor | ColorPositionClassifier) -> Results:
        model = BaselineModel(baseline.fit(images, labels))
        return {
            name: inference_on_dataset(model, Trainer.build_test_loader(cfg, name), Trainer.build_evaluator(cfg, name))
            for name in cfg.DATASETS.TEST
        }

    return {"constant": score(ConstantPredictor()), "colour and position": score(ColorPositionClassifier())}


def pseudo_label_quality(storage: Any) -> str:
    """One sentence: how right the labels of the generated images were, before and after SAM, over the training."""
    means = {
        said: storage.history(f"pseudo_labels/mIoU_{name}").global_avg()
        for name, said in (("teacher", "the teacher's"), ("refined", "refined by SAM"))
        if f"pseudo_labels/mIoU_{name}" in storage.histories()
    }
    scores = ", ".join(f"{said} {mean:.2f}" for said, mean in means.items())
    return f"Pseudo-labels of the generated streets against the truth that training never saw, mIoU in %: {scores}."


def finish(training: "subprocess.Popen[bytes]", cfg: Any) -> tuple[Any, Results]:
    """Wait for the other training; the model it made, and its evaluation."""
    import torch

    from clouds.config import resolve_device
    from clouds.engine.checkpoint import load_for_inference
    from clouds.engine.trainer import Trainer

    logger.info(f"Waiting for the training in {cfg.OUTPUT_DIR}")
    if training.wait():
        raise UserError(f"The training in {cfg.OUTPUT_DIR} failed; {cfg.OUTPUT_DIR}/console.txt says why.")
    torch.set_num_threads(os.cpu_count() or 1)
    cfg.MODEL.WEIGHTS = f"{cfg.OUTPUT_DIR}/model_final.pth"
    resolve_device(cfg)
    model = Trainer.build_model(cfg)
    load_for_inference(cfg, model)
    return model, Trainer.test(cfg, model)


def draw(models: dict[str, Any], cfg: Any, folder: Path) -> Path:
    """The sheet of image, truth and predictions, two examples a test set; returns its path."""
    import torch

    from clouds.data.loaders import build_test_loader
    from clouds.evaluation.sem_seg import predicted_labels
    from clouds.visualization.sheet import picture_sheet

    rows = []
    for name in cfg.DATASETS.TEST:
        for [sample] in itertools.islice(build_test_loader(cfg, name), SHEET_EXAMPLES):
            pictures = [sample["image"].permute(1, 2, 0).numpy(), sample["sem_seg"].numpy()]
            for model in models.values():
                with torch.inference_mode():
                    [output] = model.eval()([sample])
                pictures.append(predicted_labels(output["sem_seg"]).byte().cpu().numpy())
            rows.append((name, pictures))
    path = folder / "pictures.png"
    picture_sheet(("image", "truth", *models), rows, title="minicity: trained on sim, tested everywhere").save(path)
    return path


if __name__ == "__main__":
    sys.exit(main())
