"""Words of docstrings, comments, help texts and messages.

Each description stands alone, an image is called an image, and messages have American spelling.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("clouds", "tools", "projects", "benchmarks")
FILES = [
    *sorted(ROOT.glob("*.py")),
    *(
        path
        for name in FOLDERS
        for path in sorted((ROOT / name).rglob("*.py"))
        if "tests" not in path.relative_to(ROOT).parts
    ),
]

# A description that begins like this needs its neighbors to be understood.
DEPENDENT = re.compile(r"\W*(?:of|what|who|likewise|the\s+same|another)\b", re.IGNORECASE)
PICTURE = re.compile(r"\bpictures?\b", re.IGNORECASE)
# "    name: description" in the sections of a docstring; `name` may carry a type.
ARGUMENT = re.compile(r"^\s+(\*{0,2}\w+(?: \([^)]*\))?|`[^`]+`): (.+)$", re.MULTILINE)
BRITISH = re.compile(
    r"label(?:led|ling)|colour|behaviour|neighbour|favour|artefact|cancelled|"
    r"(?:initial|normal|optim|recogn|serial|synchron|visual|general|summar)is(?:e|ing|ation)",
    re.IGNORECASE,
)
HELP = {"help", "description", "epilog"}

Text = tuple[int, str]


def docstrings(tree: ast.AST) -> Iterator[Text]:
    """Yield line and text of every docstring, also of those below an assignment."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            places = [None, *node.body]
            for before, statement in zip(places, node.body, strict=False):
                is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
                if is_text and (before is None or isinstance(before, ast.Assign | ast.AnnAssign)):
                    yield statement.lineno, str(statement.value.value)


def help_texts(tree: ast.Module) -> Iterator[Text]:
    """Yield line and text of every help text, given directly or by the name of a constant of the module."""
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        for keyword in node.keywords if isinstance(node, ast.Call) else []:
            if keyword.arg in HELP:
                value = keyword.value
                value = constants.get(value.id, value) if isinstance(value, ast.Name) else value
                parts = value.values if isinstance(value, ast.JoinedStr) else [value]
                texts = [part.value if isinstance(part, ast.Constant) else "value" for part in parts]
                yield value.lineno, "".join(map(str, texts))


def comments(source: str) -> Iterator[Text]:
    """Yield line and text of every comment."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def messages(tree: ast.AST) -> Iterator[Text]:
    """Yield line and text of every string of several words that is no docstring: messages, lines of the log, help."""
    docs = set(docstrings(tree))
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip()
        if is_text and (node.lineno, node.value) not in docs:
            yield node.lineno, node.value


def findings(source: str) -> list[str]:
    """Return what breaks a rule, as "line: rule: text"."""
    tree = ast.parse(source)
    docs, helps = list(docstrings(tree)), list(help_texts(tree))
    described = [*docs, *helps, *((line, match[2]) for line, text in docs for match in ARGUMENT.finditer(text))]
    found = [f"{line}: begins: {first_line(text)}" for line, text in described if DEPENDENT.match(text)]
    for line, text in [*docs, *helps, *comments(source)]:
        found += [f"{line}: picture: {first_line(text[match.start() - 30 if match.start() > 30 else 0 :])}"
                  for match in PICTURE.finditer(text)]  # fmt: skip
    found += [f"{line}: British: {first_line(text)}" for line, text in messages(tree) if BRITISH.search(text)]
    return sorted(found, key=lambda each: int(each.partition(":")[0]))


def first_line(text: str) -> str:
    return text.strip().splitlines()[0][:90] if text.strip() else ""


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('"""Of the first."""', 1),
        ('"""What is done."""', 1),
        ('"""The same\nfor others."""', 1),
        ('"""Officially another way to say what the same is."""', 0),
        ('"""Whole images."""', 0),
        ('def f(a):\n    """Whole.\n\n    Args:\n        a: of the images.\n    """', 1),
        ('def f(a):\n    """Whole.\n\n    Args:\n        a: side of the images.\n        *b: likewise.\n    """', 1),
        ('class A:\n    a: int\n    """Another one."""', 1),
        ("A = 1\n'''Who reads it.'''", 1),
        ('f()\n"""Of no docstring."""', 0),
        ("f('of a')", 0),
        ("add('--a', help='of a reply (default 4)')", 1),
        ("add('--a', help=f'{1} of a reply')", 0),
        ("D = 'Paint a picture.'\nParser(description=D)", 1),
        ("D = 'Paint a picture.'", 0),
        ('"""Two pictures and\na picture."""', 2),
        ("a = 1  # the picture", 1),
        ("a = 1  # depicture", 0),
        ("picture = 1", 0),
        ("log('3 labelled images')", 1),
        ("log(f'{n} images are normalised')", 1),
        ("log('labelled', labelled=1)", 0),
        ("log('labeled images')", 0),
        ('"""Labelled images."""', 0),
    ],
)
def test_the_check_finds(source: str, count: int) -> None:
    assert len(findings(source)) == count, findings(source)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_words(path: Path) -> None:
    found = findings(path.read_text(encoding="utf-8"))
    assert not found, "\n".join(["", *(f"{path.relative_to(ROOT)}:{each}" for each in found)])
