"""The documentation site, without building it: its pages, their links, the navigation and the names of the API."""

import ast
import importlib.util
import posixpath
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from clouds.utils.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[1]
FENCED = re.compile(r"^ *(```+).*?^ *\1$", re.DOTALL | re.MULTILINE)
# Pages that other pages lead to, and that the navigation does not have.
HIDDEN = re.compile(r"source/|projects/\w+/weights/")


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs/site/pages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(pages: ModuleType) -> Any:
    return pages.Site(ROOT)


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)


def test_every_section_of_every_document_is_on_one_page(pages: ModuleType, site: Any) -> None:
    documents = pages.documents(ROOT)
    assert {"README.md", "GETTING_STARTED.md", "docs/CONFIG.md", "docs/api/index.md"} <= set(documents)
    written = sorted(each for name in documents for each in headings((ROOT / name).read_text(encoding="utf-8")))
    shown = [each for name, text in site.pages.items() if not name.startswith("source/") for each in headings(text)]
    assert sorted(shown) == written


def entries(navigation: Any) -> list[str]:
    if isinstance(navigation, str):
        return [navigation]
    return [
        name for each in (navigation.values() if isinstance(navigation, dict) else navigation) for name in entries(each)
    ]


def test_the_navigation_has_every_page_once(site: Any) -> None:
    names = entries(read_yaml(ROOT / "mkdocs.yml", "The site")["nav"])
    shown = {name for name in site.pages if not HIDDEN.match(name)}
    assert not shown - set(names), "add these pages to nav in mkdocs.yml"
    assert not set(names) - shown, "remove these pages from nav in mkdocs.yml"
    assert len(names) == len(shown)


def test_links(pages: ModuleType, site: Any) -> None:
    anchors = {name: {pages.anchor(each) for each in headings(text)} for name, text in site.pages.items()}
    count = 0
    for name, text in site.pages.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]+`", "", FENCED.sub("", text))):
            if "://" not in target:
                page, _, anchor = target.partition("#")
                page = posixpath.normpath(posixpath.join(posixpath.dirname(name), page)) if page else name
                assert page in site.pages or page in site.files, f"{name}: {target}"
                assert not anchor or anchor in anchors[page], f"{name}: {target}"
                count += 1
    assert count > 200


def definitions(module: Path) -> set[str]:
    """Names of the classes, functions and variables at the top level of a module."""
    names = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return names


def test_the_names_of_the_api_exist() -> None:
    """Modules, and what they define; without importing them, as the site reads them."""
    names = [
        name
        for page in sorted((ROOT / "docs/api").glob("*.md"))
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(names) > 80
    for name in names:
        module, _, last = name.rpartition(".")
        place, parent = ROOT / name.replace(".", "/"), ROOT / f"{module.replace('.', '/')}.py"
        is_module = place.with_suffix(".py").is_file() or place.is_dir()
        assert is_module or last in definitions(parent), name


def test_a_site_of_three_documents(pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections become pages, links lead to them and have their titles; code is not changed."""
    for folder in ("docs/api", "guides"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data.yaml").write_text("a: 1\n")
    (tmp_path / "docs/figure.svg").write_text("<svg/>")
    (tmp_path / "docs/OWN.md").write_text("# Own\n\n[GUIDE.md](../GUIDE.md#deep-one) `[a](b)`\n")
    (tmp_path / "README.md").write_text("# Read\n\n[GUIDE.md](GUIDE.md) [the data](data.yaml)\n![f](docs/figure.svg)\n")
    (tmp_path / "GUIDE.md").write_text(
        "# Guide\n\n<!-- hidden -->\n[one](#one)\n\n"
        "## One\n\n[OWN.md](docs/OWN.md)\n\n```sh\n## code [x](y)\n```\n\n### Deep one\n"
    )
    monkeypatch.setattr(pages, "SPLIT", {"GUIDE.md": "guides"})
    site = pages.Site(tmp_path)
    assert site.pages == {
        "guides/index.md": "# Guide\n\n\n[one](one.md)\n\n",
        "guides/one.md": "# One\n\n[Own](../own.md)\n\n```sh\n## code [x](y)\n```\n\n## Deep one\n",
        "overview.md": "# Read\n\n[Guide](guides/index.md) [the data](source/data.yaml.md)\n![f](figure.svg)\n",
        "own.md": "# Own\n\n[Deep one](guides/one.md#deep-one) `[a](b)`\n",
        "source/data.yaml.md": "# `data.yaml`\n\n````yaml\na: 1\n````\n",
    }
    assert site.files == {"figure.svg": tmp_path / "docs/figure.svg"}
