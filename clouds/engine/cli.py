"""What every command line of the project does with an error meant for its user (imports nothing heavy)."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

from clouds.errors import UserError

Main = Callable[[list[str] | None], int]


def user_errors(main: Main) -> Main:
    """Decorate ``main(argv) -> exit code``: a `UserError` becomes one sentence on stderr and exit code 2."""

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        try:
            return main(argv)
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            return 2

    return wrapped


def own_dataset(file: str | None) -> list[str]:
    """The `KEY VALUE` pairs that ``--dataset FILE`` stands for; none without a file."""
    if not file:
        return []
    from clouds.data.datasets.custom import dataset_settings

    return dataset_settings(Path(file))


def check_weights(path: str) -> None:
    """`UserError` if ``MODEL.WEIGHTS`` names a local file that is not there (empty: none is asked for)."""
    if path and not path.startswith(("http://", "https://")) and not Path(path).is_file():
        raise UserError(f"Weights not found: there is no file '{path}' (MODEL.WEIGHTS).")
