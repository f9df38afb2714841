"""Run the first iteration of a training on the data set `gta5`, and print its loss and the seconds of each stage.

    python first_iteration.py FOLDER [--text] [--miniature]

This is the whole start of `train_net.py`, imports included; `rows.start` measures it.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from clouds.commands.train import parse_arguments
from clouds.config import load_config

CONFIG = Path(__file__).resolve().parents[2] / "configs/warmup/gta/train_gta.yaml"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", action="store_true", help="embed the names of all classes before")
    parser.add_argument("--miniature", action="store_true")
    args = parser.parse_args()
    opts = {
        "OUTPUT_DIR": args.folder / f"output{'_text' * args.text}",
        "MODEL.DEVICE": "cpu",
        "MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS": "",
        "DATASETS.TEST": "()",
        "SOLVER.IMS_PER_BATCH": 1,
        "SOLVER.MAX_ITER": 1,
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.CROP_SIZE": "(384,384)",
        "SEED": 1,
    }
    if args.miniature:
        # Not for a full start, whose imports are measured.
        from stages.inputs import MINIATURE, MINIATURE_CLIP

        clip = args.folder / f"clip_miniature{'_text' * args.text}.json"
        clip.write_text(json.dumps(MINIATURE_CLIP))
        opts |= {**MINIATURE, "MODEL.CLOUDS.CLIP_MODEL_NAME": clip, "INPUT.CROP_SIZE": "(64,64)"}
    words = [str(word) for pair in opts.items() for word in pair]
    flags = parse_arguments(["--config-file", str(CONFIG), "--force", *words])
    cfg = load_config(flags.config_file, flags.opts)

    from torch import nn

    from clouds.d2 import CfgNode
    from clouds.engine.trainer import Trainer
    from clouds.engine.training import train_or_evaluate

    stages = [("imports", time.process_time())]

    class FirstIteration(Trainer):
        """Ends the process after the first step, before checkpoint and evaluation."""

        @classmethod
        def build_model(cls, cfg: CfgNode) -> nn.Module:
            stages.append(("data sets and set-up", time.process_time()))
            model = super().build_model(cfg)
            stages.append(("building of the model", time.process_time()))
            return model

        def run_step(self) -> None:
            if args.text:
                self.model.backbone.text_classifier(self.model.train_classes)
            super().run_step()

        def after_step(self) -> None:
            stages.append(("optimizer and first step", time.process_time()))
            begin = 0.0
            for stage, end in stages:
                sys.stdout.write(f"seconds {end - begin:.3f} {stage}\n")
                begin = end
            sys.stdout.write(f"total_loss {self.storage.latest()['total_loss'][0]!r}\n")
            raise SystemExit

    train_or_evaluate(cfg, flags, FirstIteration)


if __name__ == "__main__":
    main()
