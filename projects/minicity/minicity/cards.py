"""Model cards of the miniatures, rendered from the templates in `templates/`."""

import platform
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import torch
from huggingface_hub import ModelCard, ModelCardData

from clouds.engine.run.record import code_version
from clouds.utils.atomic import write_atomically
from minicity.paths import PROJECT, shown

TEMPLATES = Path(__file__).parent / "templates"


def write_card(folder: Path, template: str, *, library: str, task: str, **values: Any) -> None:
    """Write `README.md`, the card of a model.

    Args:
        folder: folder of the model.
        template: file name in `TEMPLATES`.
        library: library that loads the model, for the metadata.
        task: name of the task on the model hub, for the metadata.
        values: values for the template. `card_data` and `folder` are added.

    Raises:
        jinja2.UndefinedError: the template needs a value that is missing.
        WriteError: the file cannot be written.
    """
    data = ModelCardData(
        license="apache-2.0", library_name=library, pipeline_tag=task, tags=["clouds", "minicity", "synthetic"]
    )
    content = render(template, card_data=data.to_yaml(), folder=shown(folder), **values)
    write_atomically(folder / "README.md", str(ModelCard(content)))


def render(template: str, **values: Any) -> str:
    """Render a template. Filters: `millions` (1.2 for 1,200,000) and `percent` (12.3 for 0.123).

    Raises:
        jinja2.UndefinedError: the template needs a value that is missing.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["millions"] = lambda count: f"{count / 1e6:.1f}"
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    return environment.get_template(template).render(**values)


def command_line(tool: str, flags: Mapping[str, Any]) -> str:
    """Return the command that runs a tool of the project.

    Args:
        tool: file name in `tools/`.
        flags: value of each flag, by its name with underscores. True stands for a flag without a value; False and None
            leave the flag out. Paths are shown relative to the repository.
    """
    words = ["python", shown(PROJECT / "tools" / tool)]
    for name, value in flags.items():
        if value is None or value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(shown(value) if isinstance(value, Path) else str(value))
    return shlex.join(words)


def environment_of(device: str) -> str:
    """Return the hardware and the versions that a training ran with, as text.

    Args:
        device: torch device, such as `cpu` or `cuda:0`.
    """
    threads = torch.get_num_threads()
    on_gpu = device.startswith("cuda")
    hardware = torch.cuda.get_device_name(device) if on_gpu else f"{threads} CPU core{'s' * (threads > 1)}"
    return f"{hardware} (torch {torch.__version__}, Python {platform.python_version()}, commit {code_version()})"
