"""The command-line flags. No torch: `--help` answers at once."""

import argparse
import os
import sys


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The flags that detectron2's users know; what follows them are `KEY VALUE` pairs, in `args.opts`."""
    parser = argparse.ArgumentParser(
        epilog=epilog
        or f"""
Examples:

    {sys.argv[0]} --config-file cfg.yaml
    {sys.argv[0]} --config-file cfg.yaml --num-gpus 8 SOLVER.BASE_LR 0.0001
    {sys.argv[0]} --config-file cfg.yaml --eval-only MODEL.WEIGHTS model.pth
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Each user gets a fixed port of their own: a run left behind is noticed because its port is taken.
    user = os.getuid() if sys.platform != "win32" else 1
    port = 2**15 + 2**14 + hash(user) % 2**14
    parser.add_argument("--config-file", default="", metavar="FILE", help="YAML file with the settings")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of processes on each machine, one per GPU")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="which machine this is, from 0")
    parser.add_argument(
        "--dist-url", default=f"tcp://127.0.0.1:{port}", help="where the processes meet, host and port of machine 0"
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, default=None, help="settings that override the file: KEY VALUE KEY VALUE ..."
    )
    return parser
