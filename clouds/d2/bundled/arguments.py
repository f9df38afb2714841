"""Command-line flags of a training script. Imports no torch, so `--help` answers at once."""

import argparse
import os


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Return a parser with detectron2's flags; the remaining arguments are `KEY VALUE` pairs in `args.opts`.

    Args:
        epilog: text that `--help` prints after the flags.
    """
    parser = argparse.ArgumentParser(epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    # The port is fixed per user: a run that was left behind is noticed because its port is taken.
    user = os.getuid() if hasattr(os, "getuid") else 1
    port = 2**15 + 2**14 + hash(user) % 2**14
    parser.add_argument("--config-file", default="", metavar="FILE", help="YAML config file")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS without training")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of processes on each machine, one per GPU")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="rank of this machine, from 0")
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        help="address at which the processes connect: host and port of machine 0",
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, default=None, help="config keys that override the file: KEY VALUE ..."
    )
    return parser
