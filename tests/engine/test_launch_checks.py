"""Flags and variables that say which processes a run has: one sentence for what cannot be meant, before any starts."""

import socket
from argparse import Namespace
from pathlib import Path

import pytest

from clouds.commands import train
from clouds.engine import launch as launching
from clouds.engine.launch import launch
from clouds.engine.launch_checks import TORCHRUN
from clouds.errors import UserError

FLAGS = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
VARIABLES = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    resolve = socket.getaddrinfo

    def without_network(host: str, *args: object) -> object:
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *args)

    monkeypatch.setattr(socket, "getaddrinfo", without_network)
    return monkeypatch


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"num_gpus": 0}, "--num-gpus is 0, but it must be at least 1; use MODEL.DEVICE cpu to use no GPU"),
        ({"num_gpus": -1}, "--num-gpus is -1"),
        ({"num_gpus": 10**6}, "--num-gpus is 1000000, but at most 256 processes start on a machine"),
        ({"num_machines": 0}, "--num-machines is 0"),
        ({"num_gpus": -1, "num_machines": -1}, "--num-gpus is -1"),
        ({"num_machines": 2, "machine_rank": 5}, "--machine-rank is 5, .* 0 to 1 for --num-machines 2"),
        ({"machine_rank": 1}, "--machine-rank is 1, .* 0 to 0"),
        ({"machine_rank": -1}, "--machine-rank is -1"),
        ({"num_machines": 2}, "--num-machines needs --dist-url tcp://HOST:PORT"),
        *(
            ({"num_gpus": 2, "dist_url": url}, "--dist-url is .*, but it must be auto, or tcp://HOST:PORT")
            for url in ("", "abc", "tcp://", "tcp://host", "tcp://:5", "tcp://h:0", "tcp://h:x", "tcp://h:65536")
        ),
        *(
            ({"num_gpus": 2, "dist_url": url}, "--dist-url is ")
            for url in ("http://host:5", "env://", "tcp://[::1", "file://", "localhost:29500", "tcp://h:-1")
        ),
        ({"num_machines": 2, "dist_url": "file:///tmp/x"}, "--dist-url is 'file:///tmp/x'"),
        ({"num_gpus": 2, "dist_url": "tcp://no.such.host.invalid:5"}, "'no.such.host.invalid', which has no address"),
        ({"num_gpus": 2, "dist_url": f"tcp://{'a' * 300}:5"}, "which has no address"),
    ],
)
def test_flags(flags: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        launch(pytest.fail, Namespace(**{**FLAGS, **flags}), "cpu", ("it must not start",))


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE is 'abc', but it must be a whole number of at least 1"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is ''"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2'"),
        ({"RANK": "2"}, "RANK is 2, but WORLD_SIZE is 2"),
        ({"RANK": "x"}, "RANK is 'x'"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK is 2, LOCAL_WORLD_SIZE 2 and WORLD_SIZE 2, which contradict each other"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
        ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE is '0'"),
        ({"LOCAL_WORLD_SIZE": "3"}, "which contradict each other"),
        ({"LOCAL_WORLD_SIZE": None}, "WORLD_SIZE is 2, but LOCAL_WORLD_SIZE is not set: start .* torchrun"),
        (
            {"LOCAL_RANK": None, "LOCAL_WORLD_SIZE": None},
            "WORLD_SIZE is 2, but LOCAL_RANK, LOCAL_WORLD_SIZE is not set",
        ),
        ({"RANK": None}, "RANK is not set, but it must be a whole number"),
        ({"WORLD_SIZE": None}, "WORLD_SIZE is not set"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR names the host '', which has no address"),
        ({"MASTER_ADDR": "no.such.host.invalid"}, "MASTER_ADDR names the host 'no.such.host.invalid', which has no"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "abc"}, "MASTER_PORT is 'abc'"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT is 65536, but the last port is 65535"),
    ],
)
def test_variables(variables: dict, says: str, environment: pytest.MonkeyPatch) -> None:
    for name, value in {**VARIABLES, **variables}.items():
        if value is not None:
            environment.setenv(name, value)
    with pytest.raises(UserError, match=says):
        launch(pytest.fail, Namespace(**FLAGS), "cpu", ("it must not start",))


@pytest.mark.parametrize(
    "variables",
    [
        {"LOCAL_RANK": "3"},
        {"MASTER_ADDR": "nowhere", "MASTER_PORT": "x"},
        {"RANK": "0", "WORLD_SIZE": "1"},  # a scheduler with one machine
        dict.fromkeys(TORCHRUN, "1") | {"RANK": "0", "LOCAL_RANK": "0"},
    ],
)
def test_variables_of_one_process(variables: dict, environment: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    called: list[str] = []
    launch(called.append, Namespace(**FLAGS), "cpu", ("here",))
    assert called == ["here"]


def test_several_machines_of_a_scheduler(environment: pytest.MonkeyPatch) -> None:
    """Some schedulers set RANK and WORLD_SIZE once per machine; the flags count."""
    started: list[Namespace] = []
    environment.setattr(launching, "_start", lambda work, flags, device, args: started.append(flags))
    environment.setenv("RANK", "1")
    environment.setenv("WORLD_SIZE", "2")
    flags = {"num_gpus": 2, "num_machines": 2, "machine_rank": 1, "dist_url": "tcp://127.0.0.1:5000"}
    launch(pytest.fail, Namespace(**flags), "cpu")
    assert started == [Namespace(**flags)]


@pytest.mark.slow
def test_a_port_that_is_taken(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"The processes cannot meet at {url} \(--dist-url\); .*EADDRINUSE"):
            launch(print, Namespace(**{**FLAGS, "num_gpus": 2, "dist_url": url}), "cpu", ("it must not start",))
    assert "Traceback" not in capfd.readouterr().err


def test_torchruns_port_that_is_taken(environment: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for name, value in {**VARIABLES, "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": taken.getsockname()[1]}.items():
            environment.setenv(name, str(value))
        with pytest.raises(UserError, match=r"cannot meet at 127\.0\.0\.1:\d+ \(MASTER_ADDR, MASTER_PORT\); .*address"):
            launch(pytest.fail, Namespace(**FLAGS), "cpu")


def test_the_command_prints_the_sentence(
    tmp_path: Path, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**VARIABLES, "WORLD_SIZE": "abc"}.items():
        environment.setenv(name, value)
    config = "configs/segmentation/clouds_config.yaml"
    root = Path(__file__).parents[2]
    assert train.main(["--config-file", str(root / config), "OUTPUT_DIR", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: The environment variable WORLD_SIZE is 'abc'")
    assert not (tmp_path / "out").exists()
