"""The command ``clouds serve``: its flags and messages. `tests/web/browser` opens its page."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clouds.commands import serve
from clouds.web.addresses import Address
from tests.ports import free_port


@pytest.fixture
def port() -> int:
    return free_port()


def test_messages(sentence: Callable[..., str], tmp_path: Path, port: int) -> None:
    assert sentence(serve.main).startswith("A prediction needs a trained network: give --model")
    flags = ("--model", "no/such", "--port", str(port))
    assert sentence(serve.main, *flags, "--examples", "no/folder").startswith("There is no folder no/folder")
    assert sentence(serve.main, *flags, "--examples", str(tmp_path)).endswith("of --examples holds no image.")
    assert "no address of this machine" in sentence(serve.main, *flags, "--host", "192.0.2.7")
    with socket.create_server(("127.0.0.1", port)):
        assert sentence(serve.main, *flags).startswith(f"The port {port} of 127.0.0.1 is in use")


@pytest.mark.parametrize("package", ["gradio", "starlette"])
def test_without_the_extra(
    sentence: Callable[..., str], port: int, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "clouds.web.server", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    message = sentence(serve.main, "--model", "no/such", "--port", str(port))
    assert message.endswith(": install it with: pip install -e '.[web]'")


def test_flags() -> None:
    words = "--model run --window 300 --max-size 5 SEED 3"
    args, opts = serve.parse_arguments(words.split())
    assert (args.model, args.host, args.port, args.max_size) == ("run", "127.0.0.1", 7860, 5)
    assert opts == ["SEED", "3", "TEST.WINDOW", "300", "TEST.STRIDE", "200"]


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", "drive.mp4"):
        (tmp_path / name).touch()
    assert serve.find_examples(tmp_path) == [tmp_path / "a.JPG", tmp_path / "b.png"]
    monkeypatch.setattr(serve, "MOST_EXAMPLES", 1)
    assert serve.find_examples(tmp_path) == [tmp_path / "a.JPG"]


def test_the_environment_is_restored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    before = dict(os.environ)
    with serve._environment(serve._settings(Address("::1", 8000), str(tmp_path))):
        assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "example.org,127.0.0.1,localhost,::1"
        assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)
    assert dict(os.environ) == before
