"""A small reader of pages for the tests of the report, and its own test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest

VOID = {"img", "meta", "wbr"}


@dataclass
class Node:
    """An element: its name, its attributes, and what is in it."""

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    content: list[Node | str] = field(default_factory=list)

    def all(self, name: str = "", kind: str = "") -> list[Node]:
        """Elements inside, in order; only those of a name or a class where one is given."""
        return [
            node
            for node in self._inside()
            if name in ("", node.name) and (not kind or kind in node.attributes.get("class", "").split())
        ]

    def one(self, name: str = "", kind: str = "") -> Node:
        """The only such element."""
        (node,) = self.all(name, kind)
        return node

    @property
    def text(self) -> str:
        """All text inside."""
        return "".join(part if isinstance(part, str) else part.text for part in self.content)

    def number(self, attribute: str) -> float:
        """An attribute as a number."""
        return float(self.attributes[attribute])

    def _inside(self) -> Iterator[Node]:
        for part in self.content:
            if isinstance(part, Node):
                yield part
                yield from part._inside()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Node("")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({key for key, _ in attrs}) == len(attrs), f"an attribute of {tag} stands there twice"
        node = Node(tag, {key: value or "" for key, value in attrs})
        self.open[-1].content.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.open[-1].content.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def parse(markup: str) -> Node:
    """The elements of a page or a fragment below a nameless one; AssertionError where tags are not balanced."""
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    assert len(reader.open) == 1, f"never closed: {[node.name for node in reader.open[1:]]}"
    return reader.open[0]


@pytest.mark.parametrize("bad", ["<p>a", "</p>", "<b><i></b></i>", '<p id="a" id="b"></p>', "<!-- a -->"])
def test_the_reader_refuses(bad: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        parse(bad)


def test_the_reader_reads() -> None:
    root = parse('<p class="a b">1 &lt; <b>2<img alt="&quot;"></b></p><p>3</p>')
    assert root.one("p", "b").text == "1 < 2"
    assert [node.name for node in root.all()] == ["p", "b", "img", "p"]
    assert root.one("img").attributes == {"alt": '"'}
