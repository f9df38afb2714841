"""The commands ``clouds train`` and ``clouds eval``: train or evaluate a network."""

import argparse
from typing import TYPE_CHECKING

from clouds import d2
from clouds.commands.entry import user_errors
from clouds.config import check_weights, load_config
from clouds.errors import UserError
from clouds.utils.arguments import MOST_PROCESSES, CommandParser
from clouds.utils.signals import stop_on_signals
from clouds.utils.world import restarted_call

if TYPE_CHECKING:
    from clouds.d2 import CfgNode

EPILOG = """\
Train or evaluate a CLOUDS network.

Train:     clouds train --config-file configs/warmup/gta/train_gta.yaml OUTPUT_DIR output/gta
Resume:    the same command with --resume; it stops if settings differ that matter, unless --resume-anyway is given.
           Without it, a new run starts, and the files of the earlier run move to OUTPUT_DIR/previous/<run id>.
Evaluate:  clouds eval --model SOURCE DATASETS.TEST "('cityscapes_val',)"
           SOURCE is what clouds predict --model takes: the output folder of a training, a folder that save_pretrained
           wrote, its id on a hub (owner/name), a checkpoint, or its URL.
           clouds eval --config-file FILE MODEL.WEIGHTS output/gta/model_final.pth
           With --resume it evaluates the newest checkpoint in OUTPUT_DIR, and without it MODEL.WEIGHTS of the config:
           in a config of joint training, the checkpoint of the warm-up.
Dry run:   any of these commands with --dry-run. It tries one step and one image of each test set, writes nothing, and
           prints the memory, the time and the disk space that the run takes, and what it would write and move. The exit
           code is 2 if the run cannot end well.
8 GPUs:    the same command with --num-gpus 8, or torchrun --nproc-per-node 8 -m clouds train ...
Own data:  the same command with --dataset my.yaml, see datasets/README.md
Script:    in a clone, python train_net.py is clouds train, and with --eval-only clouds eval
"""


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Check everything that needs no torch, then start the process or processes.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    args = parse_arguments(argv)
    if args.model:
        evaluate(args)
        return 0
    cfg = load_config(args.config_file, args.opts)
    if not args.resume and not restarted_call():
        check_weights(cfg.MODEL.WEIGHTS)
    run(cfg, args)
    return 0


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate the network ``--model``.

    Args:
        args: parsed command line, see `parse_arguments`.
    """
    from clouds.api.evaluation import evaluate_network

    with stop_on_signals():
        evaluate_network(args)


def run(cfg: "CfgNode", args: argparse.Namespace) -> None:
    """Train, or evaluate with ``--eval-only``, in as many processes as the flags ask for.

    Args:
        cfg: config that is not frozen yet.
        args: parsed command line, see `parse_arguments`.
    """
    from clouds.engine.training import start

    with stop_on_signals():
        start(cfg, args)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse detectron2's flags and ours; ``opts`` has the KEY VALUE pairs."""
    parser = CommandParser(epilog=EPILOG, parents=[d2.default_argument_parser(epilog="")])
    parser.set_defaults(dist_url="auto")  # detectron2's default is a fixed port: one run per machine
    add = parser.add_argument
    add("--model", metavar="SOURCE", default="", help="network to evaluate, see below")
    add("--dataset", metavar="FILE", help="YAML file that describes a data set of your own to train and test on")
    add("--check-data", action="store_true", help="read every image and label map before the training starts")
    add("--resume-anyway", action="store_true", help="like --resume, and accept settings that differ from the run's")
    add("--force", action="store_true", help="train even if a data set is damaged or incomplete, or a disk too full")
    add("--dry-run", action="store_true", help="try one step and one image of each test set, write nothing; see above")
    args = parser.parse_args(argv)
    args.resume |= args.resume_anyway
    # detectron2's parser takes any whole number.
    for flag, low in (("num_gpus", 1), ("num_machines", 1), ("machine_rank", 0)):
        value = getattr(args, flag)
        if not low <= value <= MOST_PROCESSES:
            name = flag.replace("_", "-")
            parser.error(f"argument --{name}: must be a whole number from {low} to {MOST_PROCESSES:,}, not {value}")
    if args.machine_rank >= args.num_machines:
        parser.error(f"argument --machine-rank: must be below --num-machines, {args.num_machines}")
    if args.model:
        if not args.eval_only or args.resume:
            raise UserError("--model names a network to evaluate: give it to `clouds eval`, without --resume.")
        if "MODEL.WEIGHTS" in args.opts[::2]:
            raise UserError("--model and MODEL.WEIGHTS both name a network: leave out one of them.")
    elif not args.config_file:
        remedy = ", or the network as --model" if args.eval_only else ""
        raise UserError(f"Give a config, for example --config-file configs/warmup/gta/train_gta.yaml{remedy}.")
    return args
