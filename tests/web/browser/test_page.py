"""The page of ``clouds serve`` in Chromium."""

import io
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FilePayload

from tests.web.browser.conftest import Server, Visit

# Text that is hard to read: [text, contrast, color, background]. WCAG 2.2, 1.4.3: large text needs 3, other text 4.5.
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = color => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const background = element => {
    if (!element) return [255, 255, 255, 1];
    const own = rgba(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own : over(own, background(element.parentElement)); };
  const light = color => {
    const [r, g, b] = color.map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let number = 0;
  for (let node; node = walker.nextNode();) {
    const element = node.parentElement, style = getComputedStyle(element);
    if (!node.data.trim() || !element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (element.closest('script, style, svg, :disabled')) continue;
    number++;
    const behind = background(element), shown = over(rgba(style.color), behind), contrast = ratio(shown, behind);
    const size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
    if (contrast < (size >= 24 || (bold && size >= 18.66) ? 3 : 4.5))
      found.push([node.data.trim().slice(0, 40), contrast, style.color, behind.join()]); }
  return [number, found]; }"""
# Controls that can be used, by a number each.
CONTROLS = """() => {
  const all = [...document.querySelectorAll('button, input, textarea, select, a[href], [role=tab], video[controls]')];
  const usable = all.filter(e => !e.disabled && e.tabIndex >= 0 && e.type !== 'file' && e.checkVisibility()
    && e.offsetParent && e.getClientRects().length);
  usable.forEach((e, i) => e.dataset.control = i);
  return usable.map(e => e.outerHTML.slice(0, 200)); }"""
FOCUSED = """() => {
  const e = document.activeElement;
  if (e === document.body) return null;
  const style = getComputedStyle(e);
  return [e.dataset.control ?? '', style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
    e.outerHTML.slice(0, 200)]; }"""


def area(visit: Visit) -> dict[str, float]:
    """Return the rows of the table of areas."""
    rows = visit.page.locator("#area tbody tr").all_inner_texts()
    pairs = [re.fullmatch(r"(.*)\s([\d.]+) %", row.strip(), re.DOTALL) for row in rows]
    return {found[1].strip(): float(found[2]) for found in pairs if found}


def test_an_image(visit: Visit, server: Server, images: list[Path]) -> None:
    """Overlay, maps, areas, legend, label map, opacity and other classes."""
    page = visit.page
    visit.upload(images[0])
    page.click("#predict")
    overlay = visit.source()
    for name in ("confidence", "entropy"):
        assert visit.source(name)
    areas = area(visit)
    assert areas.keys() <= {"road", "grass", "sky"}
    assert round(sum(areas.values()), 6) == 100
    assert page.locator("#legend li").all_inner_texts() == ["road", "grass", "sky"]

    with page.expect_download() as download:
        page.click("#download")
    labels = np.asarray(Image.open(download.value.path()))
    assert (labels.shape, labels.dtype) == ((67, 101), np.uint8)
    for number, name in enumerate(("road", "grass", "sky")):
        assert abs(100 * (labels == number).mean() - areas.get(name, 0)) < 0.1

    predicted = server.predicted
    assert predicted >= 1
    page.fill("#opacity input[type=number]", "0")
    page.keyboard.press("Tab")
    plain = visit.changed(overlay)
    shown = Image.open(io.BytesIO(page.request.get(plain).body()))
    assert np.array_equal(np.asarray(shown.convert("RGB")), np.asarray(Image.open(images[0]).convert("RGB")))
    page.focus("#opacity input[type=range]")
    page.keyboard.press("End")
    visit.changed(plain)
    assert server.predicted == predicted

    page.fill("#classes textarea", "tree, wood\nwater")
    page.click("#predict")
    page.wait_for_function("document.querySelectorAll('#legend li').length === 2")
    assert page.locator("#legend li").all_inner_texts() == ["tree", "water"]
    assert area(visit).keys() <= {"tree", "water"}
    assert server.predicted == predicted + 1


def test_an_example(visit: Visit, server: Server) -> None:
    predicted = server.predicted
    visit.page.locator("button.gallery-item").first.click()
    visit.page.wait_for_selector("#image img")
    visit.page.click("#predict")
    assert visit.source()
    assert server.predicted == predicted + 1


def test_mistakes(visit: Visit, server: Server, images: list[Path], tmp_path: Path) -> None:
    """A mistake is one sentence in the page, and the next prediction works."""
    page = visit.page
    page.click("#predict")
    assert visit.message() == "There is no image yet: upload one first."
    (tmp_path / "notes.png").write_text("<b>no image</b>")
    visit.upload(tmp_path / "notes.png")
    page.click("#predict")
    said = visit.message()
    assert said.startswith("The image notes.png is ")
    assert "<b>no image</b>" in said  # the text of the file is no HTML
    page.reload()
    page.wait_for_selector("#predict")
    large = FilePayload(name="a.png", mimeType="image/png", buffer=bytes(2 << 20))
    page.set_input_files("#image input[type=file]", large)
    assert "exceed the maximum allowed size of 1" in visit.message()
    visit.upload(images[0])
    page.fill("#classes textarea", "road\nroad")
    page.click("#predict")
    assert visit.message() == "The classes have the name 'road' twice: give each class a name of its own."
    page.fill("#classes textarea", "")
    page.click("#predict")
    assert visit.source()
    assert "Traceback" not in server.log


def test_a_video(visit: Visit, video: Path) -> None:
    page = visit.page
    page.get_by_role("tab", name="Video").click()
    assert "The first 10 seconds are predicted, 4 frames of them at most" in page.inner_text("body")
    visit.upload(video, "video")
    assert page.locator("#video button[aria-label^=Trim]").is_hidden()
    page.click("#predict-video")
    visit.source("video-overlay")
    page.wait_for_function("document.querySelector('#video-overlay video').readyState >= 2")
    assert page.evaluate("document.querySelector('#video-overlay video').videoWidth") == 64
    assert "frames are predicted" in page.inner_text("#video-summary")


SIZES = [(390, "light"), (390, "dark"), (1440, "light"), (1440, "dark")]


@pytest.mark.parametrize("visit", SIZES, indirect=True, ids=str)
def test_the_look(visit: Visit, images: list[Path]) -> None:
    """No horizontal scrolling, and text that can be read, before and after a prediction, also of messages."""
    page = visit.page
    visit.upload(images[0])
    page.click("#predict")
    visit.source("entropy")
    check_look(visit)
    page.get_by_role("tab", name="Video").click()
    check_look(visit)
    page.click("#predict-video")
    page.wait_for_selector("[data-testid=toast-text]")
    page.wait_for_timeout(500)  # it fades in
    check_look(visit)


def check_look(visit: Visit) -> None:
    width, window = visit.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= window
    number, found = visit.page.evaluate(CONTRAST)
    assert number > 10
    assert found == []


def test_the_keyboard(visit: Visit, images: list[Path]) -> None:
    """Tab reaches every control, and each shows that it has the focus."""
    page = visit.page
    visit.upload(images[0])
    page.focus("#predict")
    page.keyboard.press("Enter")
    visit.source("entropy")
    assert_reachable(visit, more_than=8)
    page.get_by_role("tab", name="Video").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#predict-video", state="visible")
    assert_reachable(visit, more_than=6)  # classes, two tabs, upload, opacity as number and slider, the button


def assert_reachable(visit: Visit, *, more_than: int) -> None:
    """Check that Tab reaches all controls, which are more than a number, and that the focus shows."""
    page = visit.page
    controls = page.evaluate(CONTROLS)
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(2 * len(controls) + 20):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused is None:
            continue
        number, is_visible, html = focused
        assert is_visible, html
        reached.add(number)
    missing = [html for number, html in enumerate(controls) if str(number) not in reached]
    assert missing == []
    assert len(controls) > more_than


def test_it_asks_nobody_and_ends(server: Server) -> None:
    """The last test: SIGTERM ends the server, which leaves nothing behind."""
    assert list(server.temporary.iterdir())
    assert server.stop(signal.SIGTERM) == 0
    assert "Traceback" not in server.log
    assert not list(server.temporary.iterdir())
    assert server.asked == 0
