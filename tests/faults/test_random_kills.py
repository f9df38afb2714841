"""Jobs interrupted at random moments and continued have the results of undisturbed ones, bit by bit."""

import random
import signal
from collections.abc import Iterator

import pytest

from tests.faults.kills import Kill, Trials
from tests.faults.processes import Line, Processes

pytestmark = pytest.mark.slow

ROUNDS = 4  # of each job
STARTS = "Starting training"
SAVES = "Saving checkpoint to .*model"
COMMANDS = [  # real commands and real signals, in lines of their logs; the continued run is a fork of the template
    ("warm-up", Line(SAVES), signal.SIGKILL),
    ("warm-up", Line(STARTS), signal.SIGTERM),
    ("joint training", Line(SAVES, 2), signal.SIGKILL),
    ("joint training", Line(SAVES), signal.SIGINT),
    ("generation", Line("[1-7]/8"), signal.SIGKILL),
    ("generation", Line("0/8"), signal.SIGTERM),
    ("conversion", Line("0/12"), signal.SIGKILL),
    ("conversion", Line("0/12"), signal.SIGINT),
    ("prediction", Line("0/8"), signal.SIGKILL),
    ("prediction", Line("Missing: none"), signal.SIGTERM),
]


@pytest.fixture(scope="session")
def trials(_template: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    folder = tmp_path_factory.mktemp("kills")
    processes = Processes(folder)
    yield Trials(folder / "trials", processes)
    processes.end()


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("name", ["warm-up", "joint training", "generation", "conversion", "prediction"])
def test_forks_killed_at_random_moments(trials: Trials, name: str, number: int) -> None:
    kills = trials.random_kills(name, random.Random(f"{name} {number}"))
    verdict = trials.interrupt(name, kills)
    assert verdict.is_good, (kills, verdict)


@pytest.mark.parametrize(("name", "when", "number"), COMMANDS)
def test_commands_killed(trials: Trials, name: str, when: Line, number: int) -> None:
    for _ in range(5):  # a small job may end before its signal comes
        verdict = trials.interrupt(name, [Kill(when, number, is_script=True)])
        assert verdict.is_good, verdict
        if verdict.kills:
            return
    pytest.fail("every signal came after the end")
