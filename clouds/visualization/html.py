"""The frame of a report in one HTML file: escaped markup, page, sections, text and facts.

A page needs nothing but itself: no network, no script, no font of its own. Tables are in `html_tables`, pictures in
`html_pictures`, charts in `charts`. Everywhere a plain string is text and is escaped; `Html` is markup and is not.
"""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clouds.visualization.html_style import STYLE

_VOID = frozenset({"img", "meta", "wbr"})
# What HTML forbids or UTF-8 cannot hold: control characters, halves of surrogate pairs, non-characters.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
# Nothing is loaded and nothing runs, whatever the text in a report may be.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Markup whose text is escaped. Joined to a plain string it is one again, which is escaped: too much, never too
    little."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A part of the page with an entry in its table of contents."""

    title: str
    body: Html


def escape(text: str) -> Html:
    """Text as markup; `Html` as it is. A character that no page may have becomes U+FFFD."""
    return text if isinstance(text, Html) else _quoted(text)


def join(fragments: Iterable[str]) -> Html:
    """Fragments one after the other; plain strings are escaped."""
    return Html("".join(map(escape, fragments)))


def element(name: str, /, *content: str, **attributes: str | float | None) -> Html:
    """An element: `element("td", "a < b", class_="number", aria_label="x")`.

    Args:
        name: of the element.
        content: plain strings are escaped, `Html` is not.
        attributes: always escaped; one that is None is left out. "class_" is class, "aria_label" aria-label; floats
            have two decimals.
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_quoted(_value(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{words}>" if name in _VOID else f"<{name}{words}>{join(content)}</{name}>")


def page(title: str, subtitle: str, sections: Sequence[Section], footer: str = "", *, language: str = "en") -> str:
    """The whole document, to be written as UTF-8.

    Args:
        title: of the page and of the browser's window.
        subtitle: a line below the title; empty for none.
        sections: in order; from two on there is a table of contents.
        footer: a line at the end; empty for none.
        language: BCP 47 tag of the text.
    """
    anchors = _anchors([section.title for section in sections])
    entries = [
        element("li", element("a", section.title, href=f"#{anchor}"))
        for section, anchor in zip(sections, anchors, strict=True)
    ]
    contents = element("nav", element("ol", *entries), aria_label="Contents") if len(entries) > 1 else Html()
    parts = [
        element("section", element("h2", section.title, id=anchor), section.body, aria_labelledby=anchor)
        for section, anchor in zip(sections, anchors, strict=True)
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    body = element(
        "body",
        element(
            "header",
            element("h1", title),
            element("p", subtitle, class_="subtitle") if subtitle else Html(),
            contents,
        ),
        element("main", *parts),
        element("footer", element("p", footer)) if footer else Html(),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang=language)}\n"


def section(title: str, *fragments: str) -> Section:
    """A section of the page; a plain string among the fragments is a paragraph."""
    return Section(title, join(f if isinstance(f, Html) else paragraph(f) for f in fragments))


def paragraph(text: str) -> Html:
    """Plain text."""
    return element("p", text)


def notes(items: Iterable[str]) -> Html:
    """A list in small print; nothing where there are no items."""
    entries = [element("li", item) for item in items]
    return element("ul", *entries, class_="notes") if entries else Html()


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """A box of names and what they stand for: protocol, commit, seeds, versions. Nothing where there are none."""
    entries = [element("div", element("dt", name), element("dd", value)) for name, value in pairs]
    return element("dl", *entries, class_="facts") if entries else Html()


def figure(content: Html, caption: str = "", *, remark: str = "", kind: str | None = None) -> Html:
    """Anything with a caption above it.

    Args:
        content: what is shown.
        caption: what it is; empty for none.
        remark: how to read it, in small print after the caption.
        kind: class of the element, for the style.
    """
    said = [*([caption] if caption else []), *([element("span", remark, class_="remark")] if remark else [])]
    return element("figure", element("figcaption", *said) if said else Html(), content, class_=kind)


def side_by_side(*fragments: Html) -> Html:
    """Fragments in columns of equal width as far as the screen has room, else below each other."""
    return element("div", *(element("div", fragment) for fragment in fragments), class_="columns")


def scrolling(content: Html, label: str) -> Html:
    """Content in a box that scrolls on its own where the screen is too small, by keyboard too; `label`: what it is."""
    return element("div", content, class_="scroll", tabindex=0, role="region", aria_label=label)


def _quoted(text: str) -> Html:
    return Html(html.escape(_FORBIDDEN.sub("\ufffd", text)))


def _value(value: str | float) -> str:
    return f"{round(value, 2) + 0.0:g}" if isinstance(value, float) else str(value)  # + 0.0: no minus before a zero


def _anchors(titles: Iterable[str]) -> list[str]:
    """A unique id for each title: "Training curves" -> "training-curves"."""
    anchors: list[str] = []
    for title in titles:
        stem = re.sub("[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(anchors) + 2))
        anchors.append(next(name for name in names if name not in anchors))
    return anchors
