"""The command ``clouds serve``: a page in which images and videos are predicted."""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from clouds.commands.entry import user_errors
from clouds.commands.predict import add_network_flags, check_named, named_network, network_opts
from clouds.errors import UserError
from clouds.utils.arguments import CommandParser, int_from
from clouds.utils.signals import stop_on_signals
from clouds.utils.sources import IMAGE_ENDINGS
from clouds.web.addresses import Address

if TYPE_CHECKING:
    from clouds.d2 import CfgNode

DESCRIPTION = """\
Predict images and short videos in a page of this machine's browser.

    %(prog)s --model SOURCE
    %(prog)s --model SOURCE --examples photos/ --port 8000
    %(prog)s --config-file FILE MODEL.WEIGHTS model_final.pth

SOURCE and --config-file are those of `clouds predict`. The page shows the overlay, confidence and entropy, the area of
each class and the colors; a network with a text head predicts the classes that are typed into the page. Ctrl-C ends it.

Only programs of this machine reach the page, unless --host says otherwise. It loads nothing from other hosts; uploads
and results are in a temporary folder, which is removed at the end.
"""

MOST_EXAMPLES = 24
"""Largest number of images of --examples that are shown."""


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Check everything that needs no torch, then serve.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    args, opts = parse_arguments(argv)
    source, cfg = named_network(args, opts)
    check_named(source)
    examples = find_examples(args.examples) if args.examples else []
    address = Address(args.host, args.port)
    address.check()
    with stop_on_signals(), TemporaryDirectory(prefix="clouds-") as folder, _environment(_settings(address, folder)):
        run(source, cfg, opts, address, examples, Path(folder), args)
    return 0


def run(
    source: str,
    cfg: "CfgNode | None",
    opts: Sequence[str],
    address: Address,
    examples: Sequence[Path],
    folder: Path,
    args: argparse.Namespace,
) -> None:
    """Load the network and serve the page until a signal asks to stop.

    Args:
        source: trained network, see `clouds.load`.
        cfg: config that was read from ``args.config_file`` and `opts`, not frozen yet.
        opts: alternating config keys and values.
        address: host and port of the page.
        examples: paths of images to try.
        folder: folder of all uploads and results.
        args: parsed flags, see `parse_arguments`.

    Raises:
        UserError: the network cannot be loaded, or the port is in use.
    """
    from clouds.web.server import Limits, Network, serve

    limits = Limits(args.max_size, args.seconds, args.frames)
    network = Network(source, cfg, args.config_file, opts, args.dataset)
    serve(network, address, limits, args.queue, examples, folder)


def parse_arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse flags and config keys.

    Returns:
        The flags; and the KEY VALUE pairs, to which the flags for windows and augmentation are added.
    """
    parser = CommandParser(DESCRIPTION)
    add_network_flags(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen at (default: %(default)s)")
    add("--port", type=int_from(1, 65_535), default=7860, metavar="N", help="port (default: %(default)s)")
    add("--examples", type=Path, metavar="FOLDER", help="folder with images to try")
    add("--max-size", type=int_from(1, 10_000), default=50, metavar="MB", help="largest upload (default: %(default)s)")
    add("--seconds", type=int_from(1, 3600), default=10, metavar="N", help="predict the first N seconds (default: 10)")
    add("--frames", type=int_from(1, 10_000), default=50, metavar="N", help="frames of a video (default: 50)")
    add("--queue", type=int_from(1, 1000), default=16, metavar="N", help="predictions that may wait (default: 16)")
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys and their values")
    args = parser.parse_intermixed_args(argv)
    return args, args.opts + network_opts(args)


def find_examples(folder: Path) -> list[Path]:
    """Return the absolute paths of the first images in a folder, `MOST_EXAMPLES` at most, sorted by name.

    Raises:
        UserError: there is no such folder, or it holds no image.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: --examples names a folder with images.")
    found = [path for path in sorted(folder.resolve().iterdir()) if path.suffix.lower() in IMAGE_ENDINGS]
    if not found:
        raise UserError(f"The folder {folder} of --examples holds no image.")
    return found[:MOST_EXAMPLES]


def _settings(address: Address, folder: str) -> dict[str, str]:
    """Return the environment of Gradio: its folder, no messages to its makers, no proxy before its own address."""
    direct = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1,localhost"]))
    direct = f"{direct},{address.host}"
    return {
        "GRADIO_TEMP_DIR": folder,
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, and restore them afterwards."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
