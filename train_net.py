"""Train or evaluate a CLOUDS network.

Train:     python train_net.py --config-file configs/warmup/gta/train_gta.yaml OUTPUT_DIR output/gta
Continue:  the same with --resume
Evaluate:  python train_net.py --config-file FILE --eval-only MODEL.WEIGHTS output/gta/model_final.pth
On 8 GPUs: the same with --num-gpus 8, or torchrun --nproc-per-node 8 train_net.py ...
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from clouds.engine.cli import check_weights, user_errors
from clouds.errors import UserError

if TYPE_CHECKING:
    from clouds.d2 import CfgNode


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Parse and check everything that needs no torch, then start the process(es)."""
    # Here, where a wrong CLOUDS_D2 in the environment is caught like any other error.
    from clouds.config import load_config
    from clouds.d2 import default_argument_parser

    parser = default_argument_parser(epilog=__doc__)
    parser.set_defaults(dist_url="auto")  # a fixed port, as detectron2 has it, allows one run a machine
    args = parser.parse_args(argv)
    if not args.config_file:
        raise UserError("Give a config, for example --config-file configs/warmup/gta/train_gta.yaml.")
    cfg = load_config(args.config_file, args.opts)
    if not args.resume:
        check_weights(cfg.MODEL.WEIGHTS)

    from clouds.engine.launch import launch

    launch(run, args, cfg.MODEL.DEVICE, (cfg, args))
    return 0


def run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """The work of one process."""
    from clouds.engine.setup import default_setup
    from clouds.engine.trainer import Trainer

    default_setup(cfg, args)
    if args.eval_only:
        Trainer.test_weights(cfg, resume=args.resume)
        return
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


if __name__ == "__main__":
    sys.exit(main())
