"""Work for a process, in a module of its own so that the process loads nothing else."""

import os
from pathlib import Path

from clouds.d2 import comm


def fail_in_the_second(folder: Path, error: type[Exception]) -> None:
    """Raise in the second process, while the first one waits for it."""
    (folder / f"{comm.get_rank()}.pid").write_text(str(os.getpid()))
    if comm.get_rank() == 1:
        raise error("The second cannot.")
    comm.synchronize()
