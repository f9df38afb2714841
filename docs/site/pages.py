"""Pages of the documentation site, made of the documents of this repository.

The documents stay where they are, and this module turns them into Markdown for the site:

* Long documents become one page per section.
* A link to a document leads to the page that shows it; a link whose text is the name of the document gets the title of
  the page as its text.
* A link to another file or folder of the repository leads to a page with its text.

Page names are paths in the source of the site, with `/`, such as ``guide/joint-training.md``.
"""

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SPLIT = {"GETTING_STARTED.md": "guide", "datasets/README.md": "data"}
"""Documents with one page per section, and the folders of these pages."""
_FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(rf"{_FENCE.pattern}|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
_LINK = re.compile(r"(?:\[(?P<name>[\w./]+\.md)\]|\])\((?P<target>[^)\s]+)\)")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LANGUAGES = {".yaml": "yaml", ".py": "python", ".json": "json"}
_IMAGES = {".svg", ".jpg", ".png"}


@dataclass(frozen=True)
class Part:
    """Document, or a section of it, that becomes a page.

    Attributes:
        document: path relative to the repository.
        page: name of the page.
        text: its Markdown as in the document.
    """

    document: str
    page: str
    text: str

    @property
    def headings(self) -> list[str]:
        """Texts of the headings; the first one is the title."""
        return [text for _, text in _HEADING.findall(_FENCE.sub("", self.text))]


class Site:
    """All pages and files of the site.

    Attributes:
        pages: name -> Markdown of each page.
        files: name -> file of each image.
    """

    def __init__(self, root: Path) -> None:
        """
        Args:
            root: folder of the repository.
        """
        self.root = root
        self.pages: dict[str, str] = {}
        self.files: dict[str, Path] = {}
        self._parts = [part for document in documents(root) for part in split(root, document)]
        self._titles = {part.page: part.headings[0] for part in self._parts}
        self._places = {
            (part.document, anchor(heading)): (part.page, heading) for part in self._parts for heading in part.headings
        }
        self._first = {part.document: part.page for part in reversed(self._parts)}
        for part in self._parts:
            self.pages[part.page] = self._markdown(part)

    def _markdown(self, part: Part) -> str:
        text = part.text
        if part.document in SPLIT and text.startswith("## "):
            text = _outside(_FENCE, text, lambda prose: re.sub(r"^##", "#", prose, flags=re.MULTILINE))
        text = _outside(_FENCE, text, lambda prose: _COMMENT.sub("", prose))
        return _outside(_CODE, text, lambda prose: _LINK.sub(lambda link: self._link(part, link), prose))

    def _link(self, part: Part, link: re.Match[str]) -> str:
        target, name = link["target"], link["name"]
        if "://" in target:
            return link[0]
        file, _, fragment = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(part.document), file)) if file else part.document
        if path not in self._first:
            page, title = self._source(path), path
        elif (path, fragment) in self._places:
            page, title = self._places[path, fragment]
            fragment = "" if title == self._titles[page] else fragment
        else:
            page, title = self._first[path], self._titles[self._first[path]]
        relative = posixpath.relpath(page, posixpath.dirname(part.page))
        text = f"[{title}]" if name else "]"
        return f"{text}({relative}{'#' * bool(fragment)}{fragment})"

    def _source(self, path: str) -> str:
        """Add the page or the image for a path of the repository that is no document, and return its name."""
        file = self.root / path
        if file.suffix in _IMAGES:
            name = path.removeprefix("docs/")
            self.files[name] = file
            return name
        name = f"source/{path}.md"
        if name not in self.pages:
            files = [file] if file.is_file() else sorted(each for each in file.rglob("*") if each.is_file())
            titles = [each.relative_to(self.root).as_posix() for each in files if each != file] or [""]
            blocks = map(_block, files, titles)
            self.pages[name] = f"# `{path}`\n\n" + "\n".join(blocks)
        return name


def documents(root: Path) -> list[str]:
    """Return the paths of all documents that the site shows, relative to the repository."""
    patterns = "*.md datasets/README.md benchmarks/*.md docs/**/*.md projects/*/*.md projects/*/weights/*/README.md"
    return sorted({path.relative_to(root).as_posix() for pattern in patterns.split() for path in root.glob(pattern)})


def split(root: Path, document: str) -> Iterator[Part]:
    """Yield the parts of a document: the whole, or the text before its first section and each section."""
    text = (root / document).read_text(encoding="utf-8")
    if document not in SPLIT:
        path = document.removeprefix("docs/")
        folder, _, file = path.rpartition("/")
        # `README.md` would be the index of its folder.
        page = "overview.md" if file == "README.md" else file.lower()
        yield Part(document, posixpath.join(folder, page), text)
        return
    folder = SPLIT[document]
    code = [range(*each.span()) for each in _FENCE.finditer(text)]
    starts = [each.start() for each in re.finditer(r"^## ", text, re.MULTILINE)]
    starts = [start for start in starts if not any(start in span for span in code)]
    yield Part(document, f"{folder}/index.md", text[: starts[0]])
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        section = text[start:end]
        yield Part(document, f"{folder}/{anchor(section.splitlines()[0][3:])}.md", section)


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as hubs of repositories make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _block(file: Path, title: str) -> str:
    language = _LANGUAGES.get(file.suffix, "text")
    text = file.read_text(encoding="utf-8").rstrip()
    heading = f"## `{title}`\n\n" if title else ""
    return f"{heading}````{language}\n{text}\n````\n"


def _outside(code: re.Pattern[str], text: str, change: Callable[[str], str]) -> str:
    """Apply a function to the text between the matches of a pattern."""
    pieces, end = [], 0
    for match in code.finditer(text):
        pieces += [change(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*pieces, change(text[end:])])
