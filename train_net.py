"""Train or evaluate a CLOUDS network.

Train:     python train_net.py --config-file configs/warmup/gta/train_gta.yaml OUTPUT_DIR output/gta
Continue:  the same with --resume
Evaluate:  python train_net.py --config-file FILE --eval-only MODEL.WEIGHTS output/gta/model_final.pth
On 8 GPUs: the same with --num-gpus 8, or torchrun --nproc-per-node 8 train_net.py ...
Own data:  the same with --dataset my.yaml, see datasets/README.md
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from clouds.engine.cli import check_weights, own_dataset, user_errors
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
    parser.add_argument("--dataset", metavar="FILE", help="YAML file of a data set of your own to train and test on")
    parser.add_argument("--force", action="store_true", help="train on data sets that are damaged or not whole, too")
    args = parser.parse_args(argv)
    if not args.config_file:
        raise UserError("Give a config, for example --config-file configs/warmup/gta/train_gta.yaml.")
    cfg = load_config(args.config_file, [*own_dataset(args.dataset), *args.opts])
    if not args.resume:
        check_weights(cfg.MODEL.WEIGHTS)

    from clouds.engine.launch import launch

    launch(run, args, cfg.MODEL.DEVICE, (cfg, args))
    return 0


def run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """The work of one process."""
    from clouds.engine.setup import default_setup, refuse_broken_sets
    from clouds.engine.trainer import Trainer

    default_setup(cfg, args)
    if args.eval_only:
        Trainer.test_weights(cfg, resume=args.resume)
        return
    if not args.force:
        refuse_broken_sets(cfg)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


if __name__ == "__main__":
    sys.exit(main())
