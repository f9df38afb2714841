"""Samplers: one sequence for all processes, which can be entered anywhere."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds.d2 import CfgNode
from clouds.data.loading.samplers import (
    SAMPLER_REGISTRY,
    Draw,
    TrainingSampler,
    WeightedTrainingSampler,
    build_sampler,
    contiguous_share,
)
from clouds.errors import UserError


@given(
    size=st.integers(1, 30),
    seed=st.integers(0, 2**40),
    world_size=st.integers(1, 4),
    position=st.integers(0, 70),
)
def test_ranks_share_one_sequence_that_can_be_entered_anywhere(
    size: int, seed: int, world_size: int, position: int
) -> None:
    whole = list(itertools.islice(TrainingSampler(size, seed), 140))
    assert [draw.number for draw in whole] == list(range(140))
    for epoch in range(140 // size):
        assert sorted(draw.index for draw in whole[epoch * size : (epoch + 1) * size]) == list(range(size))
    shares = [
        itertools.islice(TrainingSampler(size, seed, position=position, rank=rank, world_size=world_size), 10)
        for rank in range(world_size)
    ]
    merged = [draw for together in zip(*shares, strict=True) for draw in together]
    assert merged == whole[position : position + 10 * world_size]


def test_epochs_and_seeds_shuffle_differently() -> None:
    orders = [
        tuple(draw.index for draw in itertools.islice(TrainingSampler(50, seed, position=start), 50))
        for seed in (0, 1)
        for start in (0, 50)
    ]
    assert len(set(orders)) == 4 and tuple(range(50)) not in orders


factor_lists = st.lists(st.floats(0.01, 3.5) | st.integers(1, 3).map(float), min_size=1, max_size=12).filter(
    lambda factors: max(factors) >= 1
)


@settings(max_examples=50)
@given(factors=factor_lists, seed=st.integers(0, 2**40), world_size=st.integers(1, 4), position=st.integers(0, 30))
def test_weighted_ranks_share_one_sequence_that_can_be_entered_anywhere(
    factors: list[float], seed: int, world_size: int, position: int
) -> None:
    sampler = WeightedTrainingSampler(factors, seed)
    whole = list(itertools.islice(sampler, 60))
    assert [draw.number for draw in whole] == list(range(60))
    start = epoch = 0
    while start < 60:
        order = sampler.order(epoch).tolist()
        assert [draw.index for draw in whole[start : start + len(order)]] == order[: 60 - start]
        assert sampler.locate(start) == sampler.locate(start + len(order) - 1) == (epoch, start)
        for index, factor in enumerate(factors):
            assert order.count(index) in (math.floor(factor), math.ceil(factor))
        start, epoch = start + len(order), epoch + 1
    shares = [
        itertools.islice(WeightedTrainingSampler(factors, seed, position=position, rank=rank, world_size=world_size), 7)
        for rank in range(world_size)
    ]
    merged = [draw for together in zip(*shares, strict=True) for draw in together]
    assert merged == whole[position : position + 7 * world_size]


@given(size=st.integers(1, 30), seed=st.integers(0, 2**40))
def test_factors_of_one_are_the_plain_sequence(size: int, seed: int) -> None:
    plain, weighted = TrainingSampler(size, seed), WeightedTrainingSampler([1.0] * size, seed)
    assert list(itertools.islice(plain, 70)) == list(itertools.islice(weighted, 70))


def test_a_fraction_is_a_probability_of_each_epoch() -> None:
    factors = [1.0] * 10 + [0.2] * 10 + [2.7] * 10
    sampler = WeightedTrainingSampler(factors, seed=3)
    counts = np.stack([np.bincount(sampler.order(epoch), minlength=30) for epoch in range(2000)])
    # Standard error of a mean: below 0.5 / sqrt(2000) = 0.011 of one image, a third of that of ten.
    assert counts.mean(axis=0) == pytest.approx(factors, abs=0.045)
    assert counts.mean(axis=0).reshape(3, 10).mean(axis=1) == pytest.approx([1.0, 0.2, 2.7], abs=0.015)
    assert len({row.tobytes() for row in counts[:, 10:]}) > 1700
    together = np.corrcoef(counts[:, 10:].T) - np.eye(20)
    assert np.abs(together).max() < 0.1, "images are chosen independently"


@pytest.mark.parametrize("factors", [[], [1.0, 0.0], [1.0, -1.0], [0.9, 0.9], [1.0, math.nan], [1.0, math.inf]])
def test_factors_that_cannot_be(factors: list[float]) -> None:
    with pytest.raises(ValueError):
        WeightedTrainingSampler(factors, seed=0)


@given(size=st.integers(0, 100), world_size=st.integers(1, 12))
def test_contiguous_shares_cover_everything_once(size: int, world_size: int) -> None:
    shares = [contiguous_share(size, rank, world_size) for rank in range(world_size)]
    assert list(itertools.chain(*shares)) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_an_unknown_sampler_is_named_with_the_nearest(cfg: CfgNode) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = "RareClassesSampler"
    with pytest.raises(
        UserError, match=r"SAMPLER_TRAIN names 'RareClassesSampler', .* nearest that do: RareClassSampler"
    ):
        build_sampler(cfg, [("set", [{"image_id": "a"}])])


def test_a_sampler_of_ones_own_is_one_class(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    class LastFirst(TrainingSampler):
        def order(self, epoch: int) -> np.ndarray:
            return np.arange(self.size)[::-1]

    monkeypatch.setitem(SAMPLER_REGISTRY._obj_map, "LastFirst", LastFirst)
    cfg.DATALOADER.SAMPLER_TRAIN = "LastFirst"
    sampler = build_sampler(cfg, [("one", [{}, {}]), ("two", [{}])])
    assert list(itertools.islice(sampler, 4)) == [Draw(0, 2), Draw(1, 1), Draw(2, 0), Draw(3, 2)]
