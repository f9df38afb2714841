"""Pages from the templates: HTML files that need no other file. Every text is escaped."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from clouds.utils.atomic import write_atomically


def write_page(template: str, file: Path, values: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]]) -> None:
    """Render a template of `templates/` and write the page.

    Args:
        template: name of the template.
        file: path of the page.
        values: values of the names in the template.
        filters: filters of the template by name.

    Raises:
        WriteError: the file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clouds.experiments"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    environment.globals |= values  # macros see them, too
    # The name of a file may contain bytes that are not text.
    write_atomically(file, environment.get_template(template).render().encode("utf-8", errors="replace"))
