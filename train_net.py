"""Train or evaluate a CLOUDS network.

Train:     python train_net.py --config-file configs/warmup/gta/train_gta.yaml OUTPUT_DIR output/gta
Continue:  the same with --resume
Evaluate:  python train_net.py --config-file FILE --eval-only MODEL.WEIGHTS output/gta/model_final.pth
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

    args = default_argument_parser(epilog=__doc__).parse_args(argv)
    if not args.config_file:
        raise UserError("Give a config, for example --config-file configs/warmup/gta/train_gta.yaml.")
    cfg = load_config(args.config_file, args.opts)
    processes = args.num_gpus * args.num_machines
    if processes > 1 and not args.eval_only:
        raise UserError(f"Training runs in one process so far, not in {processes}: use --num-gpus 1 --num-machines 1.")
    if not args.resume:
        check_weights(cfg.MODEL.WEIGHTS)

    from clouds.d2 import launch

    launch(
        run,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(cfg, args),
    )
    return 0


def run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """The work of one process."""
    from clouds.engine.setup import default_setup
    from clouds.engine.trainer import Trainer

    if args.eval_only:
        # Under its own name: evaluating into a training's folder must not replace the record of that training.
        default_setup(cfg, args, config_name="config_eval.yaml")
        Trainer.test_weights(cfg, resume=args.resume)
        return
    default_setup(cfg, args)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


if __name__ == "__main__":
    sys.exit(main())
