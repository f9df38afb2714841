"""The command as GETTING_STARTED.md prints it, in this process."""

import json
import urllib.request
from pathlib import Path

import pytest

from clouds.commands import serve
from tests.ports import free_port
from tests.snippets import blocks, commands


def test_the_documented_command(
    closed: Path,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It serves a network with a head without text, which has no list of classes to edit; here for everybody."""
    found = [words for block in blocks("GETTING_STARTED.md", "sh") for words in commands(block.text)]
    [(_, _, *flags)] = [words for words in found if words[:2] == ["clouds", "serve"]]
    (tmp_path / "output/gta").mkdir(parents=True)
    (tmp_path / "output/gta/warmup").symlink_to(closed)
    (tmp_path / "photos").symlink_to(images[0].parent)
    monkeypatch.chdir(tmp_path)
    port = free_port()
    pages = []

    def look_and_stop() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/config") as answer:
            pages.append(json.load(answer))
        return "SIGINT"

    monkeypatch.setattr("clouds.web.server.stop_requested", look_and_stop)
    assert serve.main([*flags, "--port", str(port), "--host", "0.0.0.0"]) == 0
    names = {component["props"].get("elem_id") for component in pages[0]["components"]}
    assert {"image", "predict", "overlay", "video", "legend"} <= names
    assert "classes" not in names
    out = capsys.readouterr().out
    assert f"The page is at http://127.0.0.1:{port}" in out
    assert "Everybody who reaches 0.0.0.0 over the network can use this page" in out
