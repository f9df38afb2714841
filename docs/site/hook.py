"""Hook of MkDocs: puts the documents of the repository into the site, and checks that no page needs another host."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pages import Site, anchor

logger = get_plugin_logger("site")

_LOADED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")


def on_config(config: MkDocsConfig) -> None:
    """Give headings the anchors that links in the documents have."""
    config.mdx_configs["toc"]["slugify"] = lambda heading, separator: anchor(heading)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages and images of `pages.Site`, in place of the documents in `docs`."""
    site = Site(Path(config.config_file_path).parent)
    for file in [*files.documentation_pages()]:
        files.remove(file)
    for name, text in site.pages.items():
        files.append(File.generated(config, name, content=text))
    for name, path in site.files.items():
        if name not in files.src_uris:
            files.append(File.generated(config, name, abs_src_path=str(path)))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
    """Warn, which ends a strict build, if a page loads anything from another host."""
    for tag in _LOADED.findall(output):
        logger.warning("%s loads from another host: %s", page.file.src_uri, tag)
