"""The documents: links lead somewhere, paths in commands exist, messages are those of the code."""

import ast
import re
from pathlib import Path

import pytest

import clouds
from clouds.utils.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        ROOT / "datasets/README.md",
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
# Folders of this repository; what a command writes or a user brings is elsewhere.
OURS = re.compile(r"(?<![\w/.])(?:configs|tools|benchmarks|projects|clouds|tests)/[\w./-]*\w")


def anchors(document: Path) -> set[str]:
    """The anchors of the headings, as hubs of repositories make them."""
    headings = re.findall(r"^#+ (.*)$", without_code(document.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)


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
        [*re.findall(r"^ *```sh\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE), *re.findall(r"`([^`\n]+)`", text)]
    )
    words = [word for word in code.split() if not set("{*<…") & set(word)]
    for path in OURS.findall(" ".join(words)):
        assert (ROOT / path).exists(), path


# The project's own address is not known yet: `ADDRESS` stands for it, in the README.
LINKS = {"https://github.com/yasserben/CLOUDS", "https://arxiv.org/abs/2312.09788"}
TEMPLATES = sorted((ROOT / ".github").rglob("*.*"))


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, *TEMPLATES, ROOT / "CITATION.cff", ROOT / "pyproject.toml"], ids=lambda path: path.name
)
def test_addresses(document: Path) -> None:
    """Documents name the address of the authors' work, and no other."""
    text = document.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s)\]\"'`>]+", text)) <= LINKS
    assert text.count("ADDRESS") == (document == ROOT / "README.md")


def test_forms() -> None:
    """The forms for issues have what the hub of repositories demands: a name, a description, fields with a label."""
    names = {path.stem for path in TEMPLATES if path.parent.name == "ISSUE_TEMPLATE"}
    assert names == {"bug", "config", "question", "reproduction"}
    for name in sorted(names - {"config"}):
        form = read_yaml(ROOT / f".github/ISSUE_TEMPLATE/{name}.yml", "The form")
        assert form.keys() == {"name", "description", "labels", "body"}
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert {field["type"] for field in fields} <= {"input", "textarea"}
        assert all(field["attributes"]["label"] for field in fields)
        assert len({field["id"] for field in fields}) == len(fields)


def test_citation() -> None:
    """`CITATION.cff` has the fields of its format that are required, and the version of the package."""
    citation = read_yaml(ROOT / "CITATION.cff", "The citation")
    assert citation["cff-version"] == "1.2.0"
    assert citation.keys() >= {"message", "title", "authors", "version", "license"}
    assert citation["version"] == clouds.__version__
    paper = citation["preferred-citation"]
    assert paper["type"] == "conference-paper"
    assert [author["family-names"] for author in paper["authors"]][::4] == ["Benigmim", "Lathuilière"]
    assert "2312.09788" in paper["doi"]
    assert paper["title"] in (ROOT / "README.md").read_text(encoding="utf-8").replace("\n", " ")


# Messages of other programs.
FOREIGN = {"No module named", "Cannot use weights_only=True", "CUDA out of memory", "torch.jit.script is deprecated"}


WORDS = 14  # characters that a message and the code have in common


def strings() -> str:
    """The fixed parts of all strings in `clouds`, one per line."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "clouds").rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\n".join(node.value for node in nodes if isinstance(node.value, str))


def test_messages() -> None:
    """Each message in TROUBLESHOOTING.md has words of a message in the code."""
    text = (ROOT / "TROUBLESHOOTING.md").read_text(encoding="utf-8")
    messages = [each for each in re.findall(r"^\| `([^`]+)`", text, re.MULTILINE) if not each.isdigit()]
    assert len(messages) > 50
    known = strings()
    unknown = [
        message
        for message in messages
        if not any(message.startswith(each) for each in FOREIGN)
        and not any(message[at : at + WORDS] in known for at in range(max(len(message) - WORDS, 0) + 1))
    ]
    assert not unknown
