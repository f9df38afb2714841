"""Training images that cannot be read: the next draw's image takes their place, whatever loads it."""

import copy
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds.data.loading.loaders import TestLoader, TrainLoader
from clouds.data.loading.rare_classes import RareClasses, RareClassSampler
from clouds.data.loading.samplers import TrainingSampler, WeightedTrainingSampler
from clouds.errors import UserError

RECORDS = [{"file_name": f"{number}.png", "number": number} for number in range(12)]
BAD = {3, 4, 9}


def read(record: dict, rng: np.random.Generator | None = None) -> dict:
    if record["number"] in BAD:
        raise UserError(f"The image {record['file_name']} is damaged.")
    view = torch.rand(2) if rng is None else torch.from_numpy(rng.random(2))
    return {**record, "image": view}


def rare(seed: int) -> RareClassSampler:
    counts = {number: {number % 3: 100 * (1 + number % 3)} for number in range(10)}
    classes = RareClasses.from_counts(counts, temperature=0.5, min_pixels=1)
    return RareClassSampler([1.0] * 10 + [1.5] * 2, classes, [True] * 10 + [False] * 2, seed)


SAMPLERS = [
    lambda seed: TrainingSampler(12, seed),
    lambda seed: WeightedTrainingSampler([1.0] * 8 + [2.3] * 4, seed),
    rare,
]


def loaders(sampler: TrainingSampler, world_size: int, batch_size: int, **options: object) -> list[TrainLoader]:
    shares = [copy.copy(sampler) for _ in range(world_size)]
    for rank, share in enumerate(shares):
        share.rank, share.world_size = rank, world_size
    return [TrainLoader(RECORDS, read, share, batch_size=batch_size, **options) for share in shares]


def together(parts: Sequence[TrainLoader], batches: int) -> list[tuple]:
    """Take batches of all processes and return their samples in the order of the draws."""
    taken = [itertools.chain.from_iterable(itertools.islice(part, batches)) for part in parts]
    samples = itertools.chain.from_iterable(zip(*taken, strict=True))
    return [(x["number"], x["seed"], x.get("rare_class"), x["image"].tolist(), x.get("skipped")) for x in samples]


@settings(max_examples=15, deadline=None)
@given(
    sampler=st.sampled_from(SAMPLERS),
    seed=st.integers(0, 2**40),
    pieces=st.lists(st.sampled_from([1, 2, 3, 4]), max_size=5),
)
def test_what_replaces_an_image_depends_on_seed_and_number_alone(sampler: object, seed: int, pieces: list[int]) -> None:
    whole = together(loaders(sampler(seed), 1, 1, skip_errors=True), 60)
    found, state = [], {"position": 0, "seed": seed}
    for world_size in pieces:  # a run that is stopped and resumed by another number of processes
        parts = loaders(sampler(seed), world_size, world_size, skip_errors=True)
        for part in parts:
            part.load_state_dict(state)
        found += together(parts, 3)
        assert all(part.state_dict() == parts[0].state_dict() for part in parts)
        state = parts[0].state_dict()
    assert found == whole[: len(found)]
    met = {skipped.file_name for *_, skips in whole for skipped in skips or ()}
    assert met and met <= {f"{number}.png" for number in BAD}
    assert not BAD & {number for number, *_ in whole}


def test_the_next_draw_replaces_an_image() -> None:
    sampler = TrainingSampler(12, 0)
    draws = list(itertools.islice(sampler, 40))
    assert [sampler.at(number) for number in range(40)] == draws
    (loader,) = loaders(sampler, 1, 1, skip_errors=True)
    for draw, (sample,) in zip(draws, itertools.islice(loader, 36), strict=False):
        following = next(other for other in draws[draw.number :] if other.index not in BAD)
        assert sample["number"] == following.index
        view = np.random.default_rng([0, draw.number]).random(2)
        assert sample["image"].tolist() == view.tolist(), "the view is that of the draw"
        before = draws[draw.number : following.number]
        assert [skipped.file_name for skipped in sample.get("skipped", ())] == [f"{d.index}.png" for d in before]
    skipped = loader.take_skipped()
    assert {each.number for each in skipped} == {draw.number for draw in draws[:36] if draw.index in BAD}
    assert loader.take_skipped() == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_do_not_change_it(num_workers: int) -> None:
    without = together(loaders(rare(5), 1, 2, skip_errors=True), 15)
    (loader,) = loaders(rare(5), 1, 2, skip_errors=True, num_workers=num_workers)
    batches = iter(loader)
    next(batches)
    ahead = [skipped.number for skipped in loader.take_skipped()]
    batches.peek()
    assert not loader.take_skipped(), "a batch that is only looked at does not count"
    assert together(loaders(rare(5), 1, 2, skip_errors=True, num_workers=num_workers), 15) == without
    assert ahead == [skipped.number for *_, skips in without[:2] for skipped in skips or ()]


def test_a_whole_set_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.data.loading.test_samples.BAD", set(range(12)))
    (loader,) = loaders(TrainingSampler(12, 0), 1, 1, skip_errors=True)
    with pytest.raises(UserError, match=r"10 images in a row cannot be read; the first: The image \d+.png is damaged"):
        next(iter(loader))


def test_nothing_is_skipped_unasked() -> None:
    with pytest.raises(UserError, match="is damaged"):
        together(loaders(TrainingSampler(12, 0), 1, 1), 12)
    with pytest.raises(UserError, match=r"3\.png is damaged"):
        list(TestLoader(RECORDS, read))


@settings(max_examples=30, deadline=None)
@given(
    sampler=st.sampled_from(SAMPLERS),
    seed=st.integers(0, 2**40),
    pieces=st.lists(st.tuples(st.sampled_from([1, 2, 3]), st.integers(1, 3)), min_size=1, max_size=6),
)
def test_another_number_of_processes_or_batch_size_loses_and_repeats_nothing(
    sampler: object, seed: int, pieces: list[tuple[int, int]]
) -> None:
    """An epoch is seen once, whatever sizes divide it, though it is resumed in its middle."""
    source = sampler(seed)
    whole = list(itertools.islice(source, 400))
    seen, position = [], 0
    for world_size, share in itertools.islice(itertools.cycle(pieces), 40):
        parts = []
        for rank in range(world_size):
            own = copy.copy(source)
            own.rank, own.world_size, own.position = rank, world_size, position
            parts.append(list(itertools.islice(own, share)))
        seen += itertools.chain.from_iterable(zip(*parts, strict=True))
        position += share * world_size
    assert seen == whole[: len(seen)]
    if type(source) is TrainingSampler:
        for start in range(0, len(seen) - 11, 12):
            assert {draw.index for draw in seen[start : start + 12]} == set(range(12))
