"""Files by URL, from a server on this machine: nothing is written outside the cache, and no URL gets another's file."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clouds.errors import UserError
from clouds.utils.downloads import local_file
from clouds.utils.paths import is_url
from clouds.utils.torch_files import verify

WEIGHTS = b"PK\x03\x04weights of "
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


class Server(ThreadingHTTPServer):
    """Answers with a content that names the server and the path; counts the requests."""

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.name = name
        self.requests: list[str] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        content = WEIGHTS + self.server.name.encode() + self.path.encode()
        code, length, location = 200, None, None
        if "missing" in self.path:
            code, content = 404, PAGE
        elif "page" in self.path:
            content = PAGE
        elif "text" in self.path:
            content = b"Quota exceeded"
        elif "empty" in self.path:
            content = b""
        elif "raw" in self.path:
            content = b"\x80\x02" + WEIGHTS
        elif "cut" in self.path:
            length = len(content) + 1000
        elif "moved" in self.path:
            code, location = 302, "/elsewhere.pth"
        elif "to_file" in self.path:
            code, location = 302, "file:///etc/passwd"
        self.send_response(code)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    both = [Server("one"), Server("two")]
    for server in both:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield both
    for server in both:
        server.shutdown()
        server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "deep/cache"
    monkeypatch.setenv("FVCORE_CACHE", str(folder))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return folder


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_path_is_itself() -> None:
    assert local_file("weights/a.pth") == Path("weights/a.pth")
    assert local_file("~/a.pth") == Path.home() / "a.pth"
    assert [is_url(path) for path in ("http://a/b", "https://a/b", "file:///a", "a/http://b", "")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_hosts_and_queries_never_share_a_file(servers: list[Server], cache: Path) -> None:
    urls = [server.url(path) for server in servers for path in ("/a/model.pth", "/b/model.pth", "/a/model.pth?v=2")]
    found = {url: local_file(url) for url in urls}
    assert len(set(found.values())) == 6
    for server in servers:
        for path in ("/a/model.pth", "/b/model.pth", "/a/model.pth?v=2"):
            assert found[server.url(path)].read_bytes() == WEIGHTS + server.name.encode() + path.encode()
    assert all(file.suffix == ".pth" for url, file in found.items() if "?" not in url)
    # Each is downloaded once.
    before = len(servers[0].requests)
    assert {url: local_file(url) for url in urls} == found
    assert len(servers[0].requests) == before


def test_a_file_without_checksums_gets_a_record(servers: list[Server], cache: Path) -> None:
    file = local_file(servers[0].url("/raw.pth"))
    verify(file)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="its checksum differs"):
        verify(local_file(servers[0].url("/raw.pth")))
    file.with_name(f"{file.name}.sha256").unlink()
    verify(file)


@pytest.mark.parametrize(
    "path",
    [
        "/../../../outside.pth",
        "/a/../../../../outside.pth",
        "/%2e%2e/%2e%2e/outside.pth",
        "/..%2f..%2foutside.pth",
        "/..",
        "//etc/outside.pth",
        "/" + "x" * 400 + ".pth",
        "/",
    ],
)
def test_nothing_is_written_outside_the_cache(servers: list[Server], cache: Path, tmp_path: Path, path: str) -> None:
    file = local_file(servers[0].url(path))
    assert file.resolve().parent == cache.resolve()
    assert files(tmp_path) == [file]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/missing.pth", r"Cannot download .*missing\.pth: the server answers 404"),
        ("/page.pth", r"page\.pth is a web page.* instead of a weight file: check the URL"),
        ("/text.pth", r"text\.pth is a text file that begins with 'Quota exceeded' instead of a weight file"),
        ("/empty.pth", r"empty\.pth is an empty file instead of a weight file"),
        ("/cut.pth", r"the connection ended after \d+ of 1,\d+ bytes"),
        ("/to_file.pth", r"Cannot download .*to_file\.pth: the server answers 302"),
        ("/a b.pth", r"Cannot download .*a b\.pth"),
        ("/a\nb.pth", r"Cannot download .*a\\nb\.pth"),
    ],
)
def test_what_is_no_weight_file_is_one_sentence_and_leaves_nothing(
    servers: list[Server], cache: Path, tmp_path: Path, path: str, says: str
) -> None:
    for _ in range(2):
        with pytest.raises(UserError, match=says):
            local_file(servers[0].url(path))
    assert files(tmp_path) == []


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://127.0.0.1:99999/a.pth", "https://127.0.0.1:1/a.pth"])
def test_urls_without_a_server(cache: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"Cannot download|is not a URL"):
        local_file(url)


def test_a_redirect_is_followed(servers: list[Server], cache: Path) -> None:
    assert local_file(servers[1].url("/moved.pth")).read_bytes() == WEIGHTS + b"two/elsewhere.pth"


def test_a_cache_that_is_not_writable(servers: list[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(UserError, match=r"Cannot write the download of .*Not a directory.*FVCORE_CACHE"):
        local_file(servers[0].url("/a.pth"))
