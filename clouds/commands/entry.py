"""The error handling that all commands share. Imports nothing heavy."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from clouds.errors import UserError, one_line

Arguments = ParamSpec("Arguments")

INSTALL = "pip install -r requirements.txt -e ."

# Import names of the packages in requirements.txt.
DEPENDENCIES = frozenset((
    "PIL", "accelerate", "cv2", "diffusers", "filelock", "fvcore", "huggingface_hub", "jinja2", "markupsafe",
    "matplotlib", "numpy", "open_clip", "safetensors", "scipy", "segment_anything", "tensorboard", "termcolor", "timm",
    "torch", "torchvision", "tqdm", "transformers", "yaml",
))  # fmt: skip


def user_errors(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """Decorate the main function of a command so that errors meant for its user become one sentence.

    A `UserError` or the absence of a package in `DEPENDENCIES` is written to stderr, and the exit code is 2. Any other
    exception is a defect and keeps its traceback.

    Args:
        main: returns the exit code.

    Returns:
        A function of the same arguments.
    """

    @functools.wraps(main)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in DEPENDENCIES:
                raise
            message = f"{error}: install CLOUDS and its dependencies with: {INSTALL}"
            sys.stderr.write(f"error: {one_line(message)}\n")
        return 2

    return wrapped
