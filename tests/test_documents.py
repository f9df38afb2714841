"""The documents: their links lead somewhere, and the paths in their commands exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        ROOT / "datasets/README.md",
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
    ]
)
# Folders of this repository; what a command writes or a user brings is elsewhere.
OURS = re.compile(r"(?<![\w/.])(?:configs|tools|benchmarks|projects|clouds|tests)/[\w./-]*\w")


def anchors(document: Path) -> set[str]:
    """The anchors of the headings, as hubs of repositories make them."""
    headings = re.findall(r"^#+ (.*)$", without_code(document.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links(document: Path) -> None:
    text = without_code(document.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d.name != "CHANGELOG.md"], ids=lambda path: path.name)
def test_paths(document: Path) -> None:
    """Paths in commands and inline code exist; words with braces, such as {gta,synthia}, and patterns are left out."""
    text = document.read_text(encoding="utf-8")
    code = " ".join(
        [*re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE), *re.findall(r"`([^`\n]+)`", text)]
    )
    words = [word for word in code.split() if not set("{*<…") & set(word)]
    for path in OURS.findall(" ".join(words)):
        assert (ROOT / path).exists(), path
