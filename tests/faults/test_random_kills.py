"""Jobs interrupted at random moments and continued have the results of undisturbed ones, bit by bit."""

import random

import pytest

from tests.faults.kills import Trials
from tests.faults.processes import Processes

JOBS = ("warm-up", "joint training", "generation", "conversion", "prediction")
ROUNDS = 4  # of each job


@pytest.fixture(scope="session")
def trials(_template: None, tmp_path_factory: pytest.TempPathFactory) -> Trials:
    folder = tmp_path_factory.mktemp("kills")
    return Trials(folder, Processes(folder))


@pytest.mark.parametrize("round", range(ROUNDS))
@pytest.mark.parametrize("name", JOBS)
def test_forks_killed_at_random_moments(trials: Trials, name: str, round: int) -> None:
    kills = trials.random_kills(name, random.Random(f"{name} {round}"))
    verdict = trials.interrupt(name, kills)
    assert verdict.is_good, (kills, verdict)
