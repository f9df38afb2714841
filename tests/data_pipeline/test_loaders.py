import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clouds.d2 import CfgNode
from clouds.data.catalog import register, register_datasets
from clouds.data.loaders import TestLoader, TrainLoader, build_test_loader, build_train_loader
from clouds.data.samplers import TrainingSampler, contiguous_share
from clouds.errors import UserError
from tests.data_pipeline.conftest import label_map, save, write_gta5


def take(loader: TrainLoader, batches: int) -> list[list[dict]]:
    return list(itertools.islice(loader, batches))


def ids(batches: list[list[dict]]) -> list[str]:
    return [sample["image_id"] for batch in batches for sample in batch]


def same(left: list[list[dict]], right: list[list[dict]]) -> bool:
    pairs = list(zip(itertools.chain(*left), itertools.chain(*right), strict=True))
    return all(a["image_id"] == b["image_id"] and torch.equal(a["image"], b["image"]) for a, b in pairs)


@pytest.fixture
def gta5(tmp_path: Path, cfg: CfgNode) -> CfgNode:
    write_gta5(tmp_path, 5)
    register_datasets(tmp_path)
    cfg.DATASETS.TRAIN = ("gta5",)
    return cfg


# --- order


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
    assert [draw for draw, _ in whole] == list(range(140))
    for epoch in range(140 // size):
        assert sorted(index for _, index in whole[epoch * size : (epoch + 1) * size]) == list(range(size))
    shares = [
        itertools.islice(TrainingSampler(size, seed, position=position, rank=rank, world_size=world_size), 10)
        for rank in range(world_size)
    ]
    merged = [draw for together in zip(*shares, strict=True) for draw in together]
    assert merged == whole[position : position + 10 * world_size]


def test_epochs_and_seeds_shuffle_differently() -> None:
    orders = [
        tuple(index for _, index in itertools.islice(TrainingSampler(50, seed, position=start), 50))
        for seed in (0, 1)
        for start in (0, 50)
    ]
    assert len(set(orders)) == 4 and tuple(range(50)) not in orders


@given(size=st.integers(0, 100), world_size=st.integers(1, 12))
def test_contiguous_shares_cover_everything_once(size: int, world_size: int) -> None:
    shares = [contiguous_share(size, rank, world_size) for rank in range(world_size)]
    assert list(itertools.chain(*shares)) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# --- training


def test_train_loader_gives_batches_of_mapped_records_without_end(gta5: CfgNode) -> None:
    batches = take(build_train_loader(gta5), 6)
    assert [len(batch) for batch in batches] == [2] * 6
    assert Counter(ids(batches)[:10]) == Counter({f"{n:05d}": 2 for n in range(1, 6)})
    assert batches[0][0]["image"].shape == (3, 32, 48)
    assert len(batches[0][0]["instances"].gt_classes) > 0


def test_neither_workers_nor_another_run_change_what_comes_out(gta5: CfgNode) -> None:
    here = take(build_train_loader(gta5), 5)
    assert same(here, take(build_train_loader(gta5), 5))
    gta5.DATALOADER.NUM_WORKERS = 2
    assert same(here, take(build_train_loader(gta5), 5))
    gta5.SEED = 8
    assert not same(here, take(build_train_loader(gta5), 5))


def test_a_picture_is_seen_differently_in_every_epoch(gta5: CfgNode) -> None:
    views = [s for batch in take(build_train_loader(gta5), 10) for s in batch if s["image_id"] == "00003"]
    assert len(views) == 4
    assert len({view["image"].numpy().tobytes() for view in views}) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_training_resumes_where_it_was(gta5: CfgNode, workers: int) -> None:
    gta5.DATALOADER.NUM_WORKERS = workers  # a worker has prepared later batches already when the state is taken
    loader = build_train_loader(gta5)
    batches = iter(loader)
    before = [next(batches) for _ in range(3)]
    state = loader.state_dict()
    after = [next(batches) for _ in range(4)]
    assert state["position"] == 6

    gta5.SEED = 99  # the state brings its own
    resumed = build_train_loader(gta5)
    resumed.load_state_dict(state)
    assert same(after, take(resumed, 4))
    assert not same(after[:3], before)


def test_processes_share_a_batch(gta5: CfgNode) -> None:
    whole = build_train_loader(gta5)
    shares = [
        TrainLoader(whole.records, whole.mapper, batch_size=2, seed=7, rank=rank, world_size=2) for rank in (0, 1)
    ]
    parts = [take(share, 5) for share in shares]
    assert all(len(batch) == 1 for part in parts for batch in part)
    assert same(take(whole, 5), [[*a, *b] for a, b in zip(*parts, strict=True)])
    assert shares[1].state_dict() == whole.state_dict()


def test_batch_that_cannot_be_shared(gta5: CfgNode) -> None:
    whole = build_train_loader(gta5)
    with pytest.raises(UserError, match=r"IMS_PER_BATCH is 2; it must be a multiple of 3"):
        TrainLoader(whole.records, whole.mapper, batch_size=2, seed=0, world_size=3)


def test_several_training_sets_are_one(gta5: CfgNode, tmp_path: Path) -> None:
    record = {
        "file_name": str(tmp_path / "gta5/images/00001.png"),
        "sem_seg_file_name": str(tmp_path / "gta5/labels/00001_labelTrainIds.png"),
        "image_id": "extra",
    }
    register("extra", lambda: [record])
    gta5.DATASETS.TRAIN = ("gta5", "extra")
    assert Counter(ids(take(build_train_loader(gta5), 3))) == Counter(
        ["00001", "00002", "00003", "00004", "00005", "extra"]
    )


def test_no_training_set(cfg: CfgNode) -> None:
    with pytest.raises(UserError, match=r"DATASETS\.TRAIN is empty"):
        build_train_loader(cfg)


def test_negative_seed_is_drawn(gta5: CfgNode) -> None:
    gta5.SEED = -1
    seeds = {build_train_loader(gta5).seed for _ in range(3)}
    assert len(seeds) == 3 and min(seeds) >= 0


# --- testing


@pytest.mark.parametrize("workers", [0, 1])
def test_test_loader_gives_every_picture_once_in_order(gta5: CfgNode, workers: int) -> None:
    gta5.DATALOADER.NUM_WORKERS = workers
    loader = build_test_loader(gta5, "gta5")
    batches = list(loader)
    assert len(loader) == len(batches) == 5
    assert ids(batches) == [f"{n:05d}" for n in range(1, 6)]
    assert all(len(batch) == 1 for batch in batches)
    assert np.array_equal(batches[4][0]["sem_seg"].numpy(), label_map(5))


def test_test_loaders_of_several_processes_cover_the_set(gta5: CfgNode) -> None:
    whole = build_test_loader(gta5, "gta5")
    shares = [TestLoader(whole.records, whole.mapper, rank=rank, world_size=7) for rank in range(7)]
    assert [n for share in shares for n in ids(list(share))] == ids(list(whole))
    assert sum(map(len, shares)) == 5


# --- errors


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_reach_the_user_as_one_sentence(gta5: CfgNode, tmp_path: Path, workers: int) -> None:
    gta5.DATALOADER.NUM_WORKERS = workers
    bad = label_map(4)
    bad[0, :5] = 77
    path = save(tmp_path / "gta5/labels/00004_labelTrainIds.png", bad)
    for loader in (build_train_loader(gta5), build_test_loader(gta5, "gta5")):
        with pytest.raises(UserError) as error:
            list(loader)
        assert type(error.value) is UserError
        assert str(error.value).startswith(f"{path} has the label id 77 on 5 pixels;")
        assert "Traceback" not in str(error.value) and "\n" not in str(error.value)


def test_other_errors_keep_their_traceback() -> None:
    def broken(record: dict) -> dict:
        raise ZeroDivisionError("a defect of ours")

    with pytest.raises(ZeroDivisionError, match="a defect of ours"):
        list(TestLoader([{"file_name": "x"}], broken))
