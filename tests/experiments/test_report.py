"""The page as a whole, on a tiny experiment."""

import glob
import json
import re
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import clouds.experiments
from clouds.errors import UserError
from clouds.experiments.report import Report, gather, write_report
from tests.experiments.conftest import CLASSES, HOSTILE, report_of, runs_in

STYLE = (Path(clouds.experiments.__file__).parent / "templates/style.css").read_text()
VOID = {"img", "meta"}


class Page(HTMLParser):
    """Elements of a page and their text; fails on an element that is not closed or that nothing opened."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.setdefault(self.open[-1] if self.open else "", []).append(data.strip())

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.elements for key, value in attributes.items() if key == name and value]


def written(report: Report, folder: Path) -> str:
    write_report(report, folder)
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The page of a report, written twice. Its figures take long, so the tests share it."""
    folder = tmp_path_factory.mktemp("report")
    with runs_in(folder):
        return [written(report_of(folder), folder) for _ in range(2)]


@pytest.fixture
def text(pages: list[str]) -> str:
    return pages[0]


def test_report_is_the_same_each_time(pages: list[str]) -> None:
    assert pages[0] == pages[1]


def test_page_is_one_file_without_scripts(text: str) -> None:
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.elements}
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    for source in page.attributes("src"):
        assert re.fullmatch(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*", source)
    for target in [*page.attributes("href"), *re.findall(r"url\((.*?)\)", text)]:
        assert target.startswith("#")
        assert target[1:] in ids
    assert "@import" not in text
    assert "default-src 'none'" in page.attributes("content")[0]


def test_page_has_every_section_and_number(text: str) -> None:
    page = Page(text)
    titles = ["Results", "Differences", "Classes", "Worst and best images", "Generated images", "Pseudo-labels"]
    assert page.texts["h2"] == [*titles, "Training", "What is missing", "How it was measured"]
    assert page.texts["a"] == page.texts["h2"]
    shown = page.texts["td"] + page.texts["strong"] + page.texts["span"]
    # Baseline, means and deviations, difference, error and interval, classes, pseudo-labels.
    for number in (
        "1.75",
        "27.25",
        "22.25",
        "41.70",
        "± 1.00",
        "± 1.10",
        "+10.45",
        "+10.20 to +10.70",
        "10.5",
        "87.7",
    ):
        assert number in shown, number
    assert page.texts["strong"] == ["41.70", "32.70", "32.70"], "the highest mean of each column"
    (sentence,) = [text for text in page.texts["p"] if "95 %" in text]
    assert sentence == "Over 3 seeds, the 95 % interval excludes zero in the only comparison."
    assert "no effect shown" in page.texts["td"], "frequency-weighted IoU"
    assert {"full_resolution"} == set(page.texts["dd"])
    assert "a street & a <bus>" in page.texts["figcaption"]


def test_every_figure_has_a_text_alternative(text: str) -> None:
    page = Page(text)
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    # Of 2 test sets: 2 images and their ground truth, 1 prediction; 1 generated image; 1 panel.
    assert len(images) == 2 * (2 * 2 + 1) + 1 + 1
    assert all(each["alt"] for each in images)
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(drawings) == 2 + 1 + 2, "losses, classes, and classes on each test set"
    assert all(each["role"] == "img" and each["aria-label"] for each in drawings)


def test_legend_of_classes_comes_before_the_images(text: str) -> None:
    section = text[text.index('id="images"') : text.index('id="generated"')]
    assert section.index('class="key classes"') < section.index("<img")


@pytest.mark.usefixtures("no_figure_files")
def test_names_are_text(report: Report, folder: Path) -> None:
    text = written(replace(report, title=HOSTILE, notes=[HOSTILE], facts={HOSTILE: HOSTILE}), folder)
    page = Page(text)
    assert HOSTILE not in text
    for tag in ("title", "h1", "dt", "dd"):
        assert page.texts[tag] == [HOSTILE]
    assert HOSTILE in page.texts["th"], "a class"


@pytest.mark.usefixtures("no_figure_files")
def test_parts_without_content_are_left_out(report: Report, folder: Path) -> None:
    results = replace(report.results, comparisons=(), baselines={})
    page = Page(written(replace(report, results=results, shown=(), generated=None, facts={}, notes=()), folder))
    assert page.texts["h2"] == ["Results", "Worst and best images", "Pseudo-labels", "Training", "What is missing"]
    assert not [text for text in page.texts.get("p", []) if "95 %" in text]
    assert page.texts["figcaption"].count("mIoU in %") == 1


def test_more_variants_than_colors(report: Report, folder: Path) -> None:
    variants = [replace(report.results.variants[0], key=str(index)) for index in range(7)]
    results = replace(report.results, variants=variants)
    with pytest.raises(ValueError, match="shown: 7 variants"):
        write_report(replace(report, results=results, shown=[each.key for each in variants]), folder)


def test_wheel_holds_every_template() -> None:
    package = Path(clouds.experiments.__file__).parents[1]
    settings = tomllib.loads((package.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["clouds"]
    # As setuptools does: `**` at the end also matches files, other than in pathlib.
    held = {path for each in patterns for path in glob.glob(each, root_dir=package, recursive=True)}  # noqa: PTH207
    templates = {str(path.relative_to(package)) for path in package.glob("*/templates/**/*") if path.is_file()}
    assert "experiments/templates/style.css" in templates
    assert templates <= held


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2."""
    channels = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colors_have_contrast_by_day_and_by_night() -> None:
    day, night, paper = (
        dict(re.findall(r"(--[\w-]+): (#\w+)", block)) for block in re.findall(r":root {(.*?)}", STYLE, re.S)
    )
    assert day.keys() == night.keys(), "every color has a dark one"
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for scheme, background in ((day, day["--paper"]), (day, "#ffffff"), (night, night["--paper"])):
        series = [color for name, color in scheme.items() if name.startswith("--series-")]
        assert len(series) == len(set(series)) == 6
        assert min(contrast(color, background) for color in series) >= 3, "graphics"
        assert min(contrast(scheme[name], background) for name in ("--ink", "--soft", "--link")) >= 4.5, "text"
    assert paper["--paper"] == "#fff"


def test_style_uses_only_what_it_defines() -> None:
    used, defined = set(re.findall(r"var\((--[\w-]+)\)", STYLE)), set(re.findall(r"(--[\w-]+):", STYLE))
    assert used - {"--characters", "--color"} <= defined
    assert CLASSES[0] not in STYLE


@pytest.mark.usefixtures("no_figure_files")
@pytest.mark.parametrize("values", [(1e308, -1e308), (10**300, 1.0), (5e-324, 0.0)])
def test_losses_of_any_size_are_drawn(report: Report, folder: Path, values: tuple[float, ...]) -> None:
    file = folder / "runs/plain/seed1/metrics.json"
    before = [{"iteration": 0, "total_loss": value} for value in (*values, "large", None)]
    file.write_text("".join(json.dumps(row) + "\n" for row in before) + file.read_text())
    assert "<svg" in written(report, folder)
    for _, chart in gather(report).curves:
        assert b"<svg" in chart.file("svg")
        assert chart.file("pdf").startswith(b"%PDF")


def test_a_damaged_manifest_is_a_sentence(report: Report, folder: Path) -> None:
    file = folder / "generated/manifest.jsonl"
    row = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in row.items() if key != "prompt"}) + "\n")
    with pytest.raises(UserError, match=r"manifest\.jsonl is damaged in line 1, see prompt;"):
        written(report, folder)
    assert not (folder / "figures").exists()
