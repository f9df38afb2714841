"""The report as a whole: nothing unescaped, nothing unbalanced, nothing from outside."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clouds.visualization.charts import grouped_bars, line_chart
from clouds.visualization.html import Html, element, escape, facts, figure, join, notes, page, paragraph, section
from clouds.visualization.html import side_by_side as beside
from clouds.visualization.html_pictures import color_key, gallery, picture, picture_grid
from clouds.visualization.html_style import STYLE
from clouds.visualization.html_tables import Difference, Score, difference_table, score_table
from tests.visualization.test_html_markup import Node, parse

NASTY = [
    "<script src=http://x.org/a.js>\"'&amp;</title></style><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "</svg></td> --> ]]>",
    "&lt;&#60;&amp;lt;",
    "\x00\x1b\x85\ud800\uffff\r\n\t",
]
TEXT = st.one_of(st.sampled_from(NASTY), st.text(st.characters(codec=None), min_size=1))
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "footer", "h1", "h2"),
    *("p", "a", "ol", "ul", "li", "dl", "div", "dt", "dd", "figure", "figcaption", "span", "strong", "img"),
    *("table", "thead", "tbody", "tr", "th", "td", "svg", "g", "rect", "line", "text", "path", "circle", "wbr"),
}


def shown(text: str) -> str:
    """What is left of a text in a page: one character for each of it."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]", "\ufffd", text)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "image.png"
    Image.new("RGB", (4, 2), (1, 2, 3)).save(path)
    return path


def everything(text: str, image: Path) -> str:
    """A page of all building blocks with the same text wherever text can stand."""
    tile = picture(image, text, 100)
    bars = grouped_bars([text], {text: [1.0], f"{text}2": [None]}, caption=text, label=text)
    curves = line_chart({text: ([1, 2, 3, 4], [1, np.nan, 2, 3])}, text, text, caption=text)
    scores = score_table([text], [text, (text, [Score(1, 2, 3)]), (text, [None])], caption=text, corner=text)
    differences = difference_table([Difference(text, 1, 2, 3)], caption=text, corner=text)
    sections = [
        section(text, text, paragraph(text), notes([text, text]), facts([(text, text)])),
        section(text, scores, differences, figure(paragraph(text), text, remark=text)),
        section(text, beside(bars, curves), color_key([text.replace(",", ".")], [(1, 2, 3)])),
        section(text, picture_grid([text, text], [(text, [tile, None])], caption=text)),
        section(text, gallery([(tile, text)], caption=text)),
    ]
    return page(text, text, sections, text)


def check(document: str) -> Node:
    """The page's elements, after a look whether they are what a report may have."""
    assert document.startswith("<!DOCTYPE html>\n") and document.encode("utf-8")
    root = parse(document.removeprefix("<!DOCTYPE html>\n"))
    nodes = root.all()
    assert {node.name for node in nodes} <= ALLOWED
    ids = [node.attributes["id"] for node in nodes if "id" in node.attributes]
    assert len(ids) == len(set(ids)) and all(re.fullmatch("[a-z0-9-]+", name) for name in ids)
    for node in nodes:
        for key, value in node.attributes.items():
            assert not key.startswith("on") and key not in ("srcset", "action", "poster", "xlink:href"), key
            if key == "src":
                assert re.fullmatch(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*", value)
            if key in ("href", "aria-labelledby"):
                assert value.removeprefix("#") in ids
            if key == "style":
                assert re.fullmatch(r"--characters:\d+|width:[\d.]+em", value)
        if node.name == "img":
            assert "alt" in node.attributes
        if node.name == "th":
            assert node.attributes["scope"] in ("row", "col", "rowgroup")
    return root


@given(text=TEXT)
def test_text_stays_text_wherever_it_stands(image: Path, text: str) -> None:
    same_length = "曲" * len(text)
    plain, root = check(everything(same_length, image)), check(everything(text, image))
    names = [node.name for node in root.all() if node.name != "wbr"]
    assert names == [node.name for node in plain.all()], "text became an element"
    style = plain.one("style").text
    assert root.one("style").text == style == STYLE
    if len(text) <= 26 and text == text.strip() and "," not in text:  # not cut, no synonyms
        assert root.text.replace(style, "") == plain.text.replace(style, "").replace(same_length, shown(text))
    assert root.one("h1").text == root.one("footer").text == root.one("dd").text == shown(text)
    assert {node.attributes["alt"] for node in root.all("img")} == {shown(text)}


def test_nothing_comes_from_outside(image: Path) -> None:
    document = everything("plain", image)
    for name in ("http:", "https:", "//", "url(", "@import", "<script", "<link", "<iframe", "javascript:"):
        assert name not in re.sub('base64,[^"]*', "", document), name
    (policy,) = [m for m in check(document).all("meta") if "http-equiv" in m.attributes]
    assert policy.attributes["content"].startswith("default-src 'none';")


def test_page_has_contents_that_lead_to_its_sections() -> None:
    titles = ["Training curves", "Training  curves!", "Straße", "曲線", "", "training-curves-2"]
    root = check(page("A", "", [section(title, "text") for title in titles]))
    links = root.one("nav").all("a")
    assert [link.text for link in links] == titles
    targets = {node.attributes["id"]: node.text for node in root.all("h2")}
    assert [targets[link.attributes["href"][1:]] for link in links] == titles
    assert links[0].attributes["href"] == "#training-curves"
    assert [part.one("p").text for part in root.all("section")] == ["text"] * 6
    assert root.one("html").attributes["lang"] == "en" and root.one("title").text == "A"
    assert check(page("A", "", [], language="de")).one("html").attributes["lang"] == "de"


def test_empty_page_has_no_empty_boxes() -> None:
    root = check(page("A", "", [section("only", notes([]), facts([]), gallery([]), picture_grid(["a"], []))]))
    assert [node.name for node in root.one("body").all()] == ["header", "h1", "main", "section", "h2"]


def test_markup_is_not_escaped_twice_and_plain_strings_always_are() -> None:
    bold = element("b", "a < b", title='"', data_x=None, class_="c")
    assert bold == '<b title="&quot;" class="c">a &lt; b</b>'
    assert escape(bold) == bold and isinstance(bold, Html)
    assert join([bold, "<"]) == f"{bold}&lt;"
    assert escape(bold + "") != bold, "a plain string again"
    assert element("i", title=bold) == f'<i title="{escape(str(bold) + "")}"></i>', "attributes are text"
    assert element("img", width=1.0, height=-0.001, x=12.3456) == '<img width="1" height="0" x="12.35">'


def test_style_serves_screen_night_and_paper() -> None:
    assert STYLE.count("{") == STYLE.count("}") and "</" not in STYLE
    assert "@media screen and (prefers-color-scheme: dark)" in STYLE and "@media print" in STYLE
    day, night = (
        set(re.findall(r"(--[a-z0-9-]+): #", block)) for block in re.findall(r":root {(.*?)}", STYLE, re.S)[:2]
    )
    assert day == night and len(day) == 13, "every colour has a dark one"
    used, defined = set(re.findall(r"var\((--[a-z0-9-]+)\)", STYLE)), set(re.findall(r"(--[a-z0-9-]+):", STYLE))
    assert used - {"--characters"} == defined
