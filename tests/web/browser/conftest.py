"""A server with a small network, and Chromium to open its page."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from clouds.utils.frames import VideoWriter
from tests.api.conftest import closed, images, save_run, text  # noqa: F401  (fixtures)
from tests.data.conftest import (
    catalogs,  # noqa: F401  (a fixture)
    smooth_image,
)
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
PATIENCE = 300  # seconds


def pytest_configure() -> None:
    if CHROMIUM is None:
        raise pytest.UsageError("The page is tested in Chromium: install chromium or google-chrome, on the PATH.")


class Server:
    """The command ``clouds serve`` as a process.

    Attributes:
        port: port of the page.
        asked: number of connections to other hosts that the process has tried, through the proxy of its environment.
    """

    def __init__(self, network: Path, examples: Path, folder: Path) -> None:
        self._proxy = socket.create_server(("127.0.0.1", 0))
        self.asked = 0
        threading.Thread(target=self._refuse, daemon=True).start()
        self.port = free_port()
        self.log_file = folder / "log.txt"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        proxy = f"http://127.0.0.1:{self._proxy.getsockname()[1]}"
        proxies = {name: proxy for each in ("http_proxy", "https_proxy", "all_proxy") for name in (each, each.upper())}
        flags = ["--model", network, "--examples", examples, "--port", self.port, "--max-size", 1, "--frames", 4]
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "clouds", "serve", *map(str, flags)],
                cwd=folder,
                env={**os.environ, **proxies, "TMPDIR": str(self.temporary), "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _refuse(self) -> None:
        while True:
            self._proxy.accept()[0].close()
            self.asked += 1

    @property
    def log(self) -> str:
        """Output of the process so far, stdout and stderr."""
        return self.log_file.read_text()

    @property
    def predicted(self) -> int:
        """Number of images that were predicted."""
        return self.log.count(": Segmentation(")

    def wait_until_ready(self) -> None:
        """Wait until the page is served."""
        for _ in range(10 * PATIENCE):
            if "The page is at" in self.log:
                return
            assert self.process.poll() is None, self.log
            time.sleep(0.1)
        raise AssertionError(self.log)

    def stop(self, number: signal.Signals) -> int:
        """Send a signal; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@pytest.fixture(scope="session")
def server(text: Path, images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:  # noqa: F811
    """The server, with a network that has a text head."""
    started = Server(text, images[0].parent, tmp_path_factory.mktemp("server"))
    try:
        started.wait_until_ready()
        yield started
    finally:
        started.process.kill()


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 0.6 seconds."""
    path = tmp_path_factory.mktemp("video") / "drive.mp4"
    with path.open("w+b") as file, VideoWriter(file) as writer:
        for number in range(6):
            writer.write(np.asarray(smooth_image(number)), number / 10)
    return path


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """The page in a window of its own, and what it did wrong.

    Attributes:
        page: the page.
        wrong: messages of its console, and requests to other hosts.
    """

    def __init__(self, context: BrowserContext, server: Server) -> None:
        self.page: Page = context.new_page()
        self.wrong: list[str] = []
        self.page.set_default_timeout(1000 * PATIENCE)
        self.page.on("console", self._check_console)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self._check_host(request.url))
        self.page.on("websocket", lambda opened: self._check_host(opened.url))
        self.page.goto(f"http://127.0.0.1:{server.port}")
        self.page.wait_for_selector("#predict")

    def _check_console(self, said: ConsoleMessage) -> None:
        """Note an error, unless Gradio asks for the progress of an upload that has ended already."""
        of_progress = "/upload_progress" in said.location["url"] or said.text == "Response"
        if said.type == "error" and not of_progress:
            self.wrong.append(said.text)

    def _check_host(self, url: str) -> None:
        if not re.match(r"(https?|ws)://127\.0\.0\.1[:/]|data:|blob:", url):
            self.wrong.append(url)

    def upload(self, file: Path, to: str = "image") -> None:
        """Choose a file, and wait until the page has it."""
        self.page.set_input_files(f"#{to} input[type=file]", file)
        self.page.wait_for_selector(f"#{to} button[aria-label='Clear'], #{to} button[aria-label='Remove Image']")

    def source(self, name: str = "overlay") -> str:
        """Wait for an image or video of the result; returns its address."""
        return self.page.wait_for_selector(f"#{name} :is(img, video)").get_attribute("src") or ""

    def changed(self, before: str, name: str = "overlay") -> str:
        """Wait until an image of the result is another one; returns its address."""
        self.page.wait_for_function(
            "([name, before]) => {const found = document.querySelector(`#${name} :is(img, video)`);"
            " return found && found.getAttribute('src') !== before}",
            arg=[name, before],
        )
        return self.source(name)

    def message(self) -> str:
        """Wait for a message of an error and close it; returns its text."""
        found = self.page.locator("[data-testid=toast-text]").last
        found.wait_for()
        said = found.inner_text()
        self.page.locator("[data-testid=toast-close]").last.click()
        self.page.wait_for_selector("[data-testid=toast-text]", state="detached")
        return said


@pytest.fixture
def visit(chromium: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """The page, by default in a window of 1440 pixels; at the end nothing may have gone wrong."""
    width, scheme = getattr(request, "param", (1440, "light"))
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = Visit(context, server)
    yield opened
    context.close()
    assert opened.wrong == []
