"""A hub on the loopback with repositories in memory, which the real client of the hub talks to."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_right"
_API = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(preupload|commit|revision|tree)/([^/]+))?")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """Files by path, and who may read them."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


class Hub(ThreadingHTTPServer):
    """Hub of these repositories, by type and id. Everybody with `TOKEN` may write, except to those of "others"."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := _FILE.fullmatch(path):
            repository = self._readable("dataset" if match[1] else "model", match[2])
            if repository is not None:
                self._file(repository, match[4])
        elif match := _API.fullmatch(path):
            repository = self._readable(match[1], match[2])
            if repository is not None and match[3] == "tree":
                self._json([
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in repository.files.items()
                ])  # fmt: skip
            elif repository is not None and match[4] in (None, "main", repository.commit):
                siblings = [{"rfilename": name} for name in repository.files]
                self._json({"id": match[2], "sha": repository.commit, "siblings": siblings})
            elif repository is not None:
                self._refuse(404, "RevisionNotFound")
        else:
            self._refuse(404, "EntryNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        if path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif not self._is_known():
            self._refuse(401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name, kind = f"{asked['organization'] or 'me'}/{asked['name']}", asked.get("type", "model")
            if name.startswith("others/"):
                self._refuse(403)
                return
            repository = self.server.repositories.setdefault((kind, name), Repository())
            repository.private = asked.get("visibility") == "private"
            self._json({"url": f"{self.server.url}/{'datasets/' if kind == 'dataset' else ''}{name}"})
        elif match := _API.fullmatch(path):
            repository = self.server.repositories[match[1], match[2]]
            if match[3] == "preupload":
                names = [each["path"] for each in json.loads(body)["files"]]
                self._json({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
                return
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    repository.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.url}/{match[2]}/commit/{repository.commit}"
            self._json({"success": True, "commitOid": repository.commit, "commitUrl": url})

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _readable(self, kind: str, name: str) -> Repository | None:
        """Return a repository; None if it is refused, with an answer as the hub gives it."""
        repository = self.server.repositories.get((kind, name))
        if "Authorization" in self.headers and not self._is_known():
            self._refuse(401, message="Invalid credentials in Authorization header")
        elif repository is not None and (not repository.private or self._is_known()):
            return repository
        else:
            self._refuse(404 if self._is_known() else 401, "RepoNotFound")
        return None

    def _file(self, repository: Repository, name: str) -> None:
        content = repository.files.get(name)
        if content is None:
            self._refuse(404, "EntryNotFound")
            return
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": repository.commit}
        self._answer(200, content, headers)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message or code}
        self._answer(status, b"", {key: value for key, value in headers.items() if value})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def running_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """Run a hub, and let the client talk to it alone, with a cache of its own and without a token."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(cache / "no_token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
