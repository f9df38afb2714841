"""The command ``clouds``: the first word names another command, whose module alone is imported."""

import importlib
import sys
from typing import NamedTuple

from clouds.commands.entry import user_errors
from clouds.errors import check_name
from clouds.version import __version__


class Command(NamedTuple):
    """A command of ``clouds``.

    Attributes:
        module: module of `clouds.commands` with its function ``main(argv)``.
        summary: its line in the overview.
        flags: flags that it gives to the module.
    """

    module: str
    summary: str
    flags: tuple[str, ...] = ()


COMMANDS = {
    "prepare": Command("prepare_datasets", "convert the labels of data sets and check every file"),
    "show": Command("show", "draw images of a data set with their labels, also augmented"),
    "weights": Command("get_weights", "download the weights of MobileSAM"),
    "train": Command("train", "train a network"),
    "eval": Command("train", "evaluate a network on the test sets of a config", ("--eval-only",)),
    "predict": Command("predict", "predict the label maps of images"),
    "serve": Command("serve", "predict images and videos in a page of this machine's browser"),
    "experiment": Command("experiment", "train the rows of a plan with several seeds and compare them"),
    "report": Command("report", "compare the final scores of trainings: a table, or a page"),
    "compare": Command("compare_runs", "say what differs between two trainings"),
    "analyze": Command("analyze", "count and measure what each part of a network costs"),
    "submit": Command("make_submission", "make the file that a test server takes"),
    "prompts": Command("generate_prompts", "let a chat model write prompts for images"),
    "generate": Command("generate", "generate images without labels from prompts"),
    "convert": Command("convert_weights", "convert weights of other code"),
    "export": Command("export", "export a network to ONNX or torch.export"),
    "adapter": Command("adapter", "write the adapter of a network, or merge it into the tower"),
}


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Run the command that the first word names.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    word, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if word in ("--help", "-h"):
        sys.stdout.write(overview())
        return 0
    if word == "--version":
        sys.stdout.write(f"clouds {__version__}\n")
        return 0
    check_name("The command line", word, COMMANDS)
    command = COMMANDS[word]
    module = importlib.import_module(f"clouds.commands.{command.module}")
    code: int = module.main([*command.flags, *rest])
    return code


def overview() -> str:
    """Return the help text, with one line for each command."""
    lines = [f"  {word:<12}{command.summary}" for word, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: clouds COMMAND ...",
            "",
            "Train, evaluate and use networks for semantic segmentation of unseen domains.",
            "",
            *lines,
            "",
            "clouds COMMAND --help explains a command; clouds --version prints the version.",
            "",
        ]
    )
