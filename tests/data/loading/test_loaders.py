"""Loaders: batches that depend on the seed alone, and a position to resume from."""

import copy
import gc
import itertools
import logging
import multiprocessing
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from clouds.d2 import CfgNode, comm
from clouds.data.datasets.catalog import register, register_datasets
from clouds.data.loading.batch import Batch
from clouds.data.loading.loaders import (
    TestLoader,
    TrainLoader,
    automatic_workers,
    build_test_loader,
    build_train_loader,
)
from clouds.data.loading.samplers import TrainingSampler
from clouds.errors import UserError
from clouds.utils.transfer import stack_views
from tests.data.conftest import label_map, save, write_generated, write_gta5


def take(loader: TrainLoader, batches: int) -> list[list[dict]]:
    return list(itertools.islice(loader, batches))


def ids(batches: list[list[dict]]) -> list[str]:
    return [sample["image_id"] for batch in batches for sample in batch]


def same(left: list[list[dict]], right: list[list[dict]]) -> bool:
    pairs = list(zip(itertools.chain(*left), itertools.chain(*right), strict=True))
    return all(a["image_id"] == b["image_id"] and torch.equal(a["image"], b["image"]) for a, b in pairs)


def shared(sampler: TrainingSampler, rank: int) -> TrainingSampler:
    """Return the sampler of one of two processes."""
    own = copy.copy(sampler)
    own.rank, own.world_size = rank, 2
    return own


@pytest.fixture
def gta5(tmp_path: Path, cfg: CfgNode) -> CfgNode:
    write_gta5(tmp_path, 5)
    register_datasets(tmp_path)
    cfg.DATASETS.TRAIN = ("gta5",)
    return cfg


@pytest.fixture
def joint(gta5: CfgNode, tmp_path: Path) -> CfgNode:
    """Five labelled images and three generated ones, which occur twice in an epoch."""
    write_generated(tmp_path, 3)
    register_datasets(tmp_path)
    gta5.DATASETS.TRAIN = ("gta5", "sd_mine")
    gta5.DATASETS.TARGET_FACTOR = 2.0
    gta5.DATALOADER.SAMPLER_TRAIN = "WeightedTrainingSampler"
    gta5.MODEL.CLOUDS.SAM.MINIBATCH = True
    return gta5


# --- training


def test_train_loader_gives_batches_of_mapped_records_without_end(gta5: CfgNode) -> None:
    batches = take(build_train_loader(gta5), 6)
    assert [len(batch) for batch in batches] == [2] * 6
    assert Counter(ids(batches)[:10]) == Counter({f"{n:05d}": 2 for n in range(1, 6)})
    assert batches[0][0]["image"].shape == (3, 32, 48)
    assert len(batches[0][0]["sem_seg_classes"]) > 0


def test_neither_workers_nor_another_run_change_what_comes_out(gta5: CfgNode) -> None:
    here = take(build_train_loader(gta5), 5)
    assert same(here, take(build_train_loader(gta5), 5))
    gta5.DATALOADER.NUM_WORKERS = 2
    assert same(here, take(build_train_loader(gta5), 5))
    gta5.SEED = 8
    assert not same(here, take(build_train_loader(gta5), 5))


def test_an_image_is_seen_differently_in_every_epoch(gta5: CfgNode) -> None:
    views = [s for batch in take(build_train_loader(gta5), 10) for s in batch if s["image_id"] == "00003"]
    assert len(views) == 4
    assert len({view["image"].numpy().tobytes() for view in views}) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_training_resumes_where_it_was(gta5: CfgNode, workers: int) -> None:
    gta5.DATALOADER.NUM_WORKERS = workers  # a worker has loaded later batches before the state is saved
    loader = build_train_loader(gta5)
    batches = iter(loader)
    before = [next(batches) for _ in range(3)]
    state = loader.state_dict()
    after = [next(batches) for _ in range(4)]
    assert state["position"] == 6

    gta5.SEED = 99  # the state has the seed
    resumed = build_train_loader(gta5)
    resumed.load_state_dict(state)
    assert same(after, take(resumed, 4))
    assert not same(after[:3], before)


def test_processes_share_a_batch(gta5: CfgNode) -> None:
    whole = build_train_loader(gta5)
    shares = [TrainLoader(whole.records, whole.mapper, shared(whole.sampler, rank), batch_size=2) for rank in (0, 1)]
    parts = [take(share, 5) for share in shares]
    assert all(len(batch) == 1 for part in parts for batch in part)
    assert same(take(whole, 5), [[*a, *b] for a, b in zip(*parts, strict=True)])
    assert shares[1].state_dict() == whole.state_dict()


def test_batch_that_cannot_be_shared(gta5: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build_train_loader(gta5)
    with pytest.raises(ValueError, match="batch_size is 2; it must be a multiple of world_size, 3"):
        TrainLoader(whole.records, whole.mapper, TrainingSampler(5, 0, world_size=3), batch_size=2)
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(UserError, match=r"IMS_PER_BATCH is 2; it must be a multiple of 3"):
        build_train_loader(gta5)


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
    with pytest.raises(UserError, match=r"DATASETS\.TRAIN is empty: name at least one data set\.$"):
        build_train_loader(cfg)
    cfg.DATASETS.CUSTOM = (str(Path(__file__).resolve().parents[3] / "configs/datasets/a2d2.yaml"),)
    with pytest.raises(UserError, match=r"at least one data set, such as a2d2_all of .*a2d2\.yaml\.$"):
        build_train_loader(cfg)


def test_negative_seed_is_drawn(gta5: CfgNode) -> None:
    gta5.SEED = -1
    seeds = {build_train_loader(gta5).seed for _ in range(3)}
    assert len(seeds) == 3 and min(seeds) >= 0


# --- joint training


def test_generated_images_come_as_often_as_the_factors_say(joint: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        loader = build_train_loader(joint)
    assert "gta5: 5 training images" in caplog.text
    assert "sd_mine: 3 training images" in caplog.text
    assert "An epoch has 11 images: 5 labeled x 1, 3 generated x 2" in caplog.text
    samples = [sample for batch in take(loader, 11) for sample in batch]
    labelled = Counter(s["image_id"] for s in samples if not s.get("is_generated", False))
    generated = Counter(s["image_id"] for s in samples if s.get("is_generated", False))
    assert labelled == {f"{n:05d}": 2 for n in range(1, 6)}
    assert generated == {"im_0_p0": 4, "im_1_p1": 4, "im_2_p0": 4}
    assert all("sem_seg" in s for s in samples if s["image_id"] in labelled)
    assert all("sem_seg" not in s and "image_clean" in s for s in samples if s["image_id"] in generated)
    assert {tuple(s["image"].shape[1:]) for s in samples if s["image_id"] in generated} == {
        (40, 64),
        (25, 80),
        (26, 80),
    }


def test_the_plain_sampler_ignores_the_factors(joint: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    joint.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    joint.DATASETS.SOURCE_FACTOR = 0.0
    with caplog.at_level(logging.INFO):
        batches = take(build_train_loader(joint), 8)
    assert "An epoch has 8 images: 5 labeled x 1, 3 generated x 1" in caplog.text
    assert set(Counter(ids(batches)).values()) == {2}


@pytest.mark.parametrize("workers", [0, 1])
def test_joint_training_resumes_where_it_was(joint: CfgNode, workers: int) -> None:
    joint.DATALOADER.NUM_WORKERS = workers
    joint.DATASETS.TARGET_FACTOR = 0.6
    whole = take(build_train_loader(joint), 14)
    resumed = build_train_loader(joint)
    resumed.load_state_dict({"position": 14, "seed": 7})
    assert same(whole[7:], take(resumed, 7))


def test_processes_share_a_batch_of_joint_training(joint: CfgNode) -> None:
    joint.DATASETS.TARGET_FACTOR = 0.6
    whole = build_train_loader(joint)
    shares = [TrainLoader(whole.records, whole.mapper, shared(whole.sampler, rank), batch_size=2) for rank in (0, 1)]
    parts = [take(share, 8) for share in shares]
    assert same(take(whole, 8), [[*a, *b] for a, b in zip(*parts, strict=True)])


def test_factors_that_cannot_work(joint: CfgNode) -> None:
    joint.DATASETS.SOURCE_FACTOR, joint.DATASETS.TARGET_FACTOR = 0.5, 0.9
    with pytest.raises(UserError, match=r"SOURCE_FACTOR is 0\.5 and TARGET_FACTOR 0\.9: .* an epoch could be empty"):
        build_train_loader(joint)


def test_only_a_factor_in_use_keeps_an_epoch_from_being_empty(joint: CfgNode) -> None:
    joint.DATASETS.TRAIN = ("gta5",)
    joint.DATASETS.SOURCE_FACTOR, joint.DATASETS.TARGET_FACTOR = 0.9, 2.0
    with pytest.raises(UserError, match="an epoch could be empty"):
        build_train_loader(joint)
    joint.DATASETS.TRAIN = ("gta5", "sd_mine")
    assert ids(take(build_train_loader(joint), 5))


def test_generated_images_ask_for_self_training(joint: CfgNode) -> None:
    joint.MODEL.CLOUDS.SAM.MINIBATCH = False
    with pytest.raises(UserError, match=r"images without labels in sd_mine, .*set MODEL\.CLOUDS\.SAM\.MINIBATCH True"):
        build_train_loader(joint)


def test_self_training_without_generated_images_is_a_warning(joint: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    build_train_loader(joint)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    joint.DATASETS.TRAIN = ("gta5",)
    loader = build_train_loader(joint)
    assert "no set in DATASETS.TRAIN has generated images" in caplog.text
    assert len(take(loader, 2)) == 2


# --- transport


def storages(samples: list[dict]) -> set[int]:
    tensors = [value for sample in samples for value in sample.values() if isinstance(value, torch.Tensor)]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_labelled_batch_has_two_tensors(gta5: CfgNode, workers: int) -> None:
    gta5.DATALOADER.NUM_WORKERS = workers
    for batch in take(build_train_loader(gta5), 3):
        assert len(storages(batch)) == 2
        for key in ("image", "sem_seg"):
            stacked = stack_views([sample[key] for sample in batch])
            assert stacked.data_ptr() == batch[0][key].data_ptr()  # no copy
            assert stacked.is_shared() == (workers > 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_one_size_share_a_tensor(joint: CfgNode, workers: int) -> None:
    joint.SOLVER.IMS_PER_BATCH = 8
    joint.DATALOADER.NUM_WORKERS = workers
    mapper = build_train_loader(joint).mapper
    for batch in take(build_train_loader(joint), 3):
        shapes = {(key, value.shape) for x in batch for key, value in x.items() if isinstance(value, torch.Tensor)}
        assert len(storages(batch)) == len(shapes) > 3
    records = build_train_loader(joint).records
    samples = [mapper(record, np.random.default_rng(number)) for number, record in enumerate(records)]
    for sample, other in zip(samples, Batch.collate(samples).samples(), strict=True):
        assert sample.keys() == other.keys()
        assert all(
            torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
            for key, value in sample.items()
        )


def test_the_tensors_of_a_batch_are_pinned_together(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = []

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    samples = [{"image": torch.full((3, 2, 2), number), "image_id": str(number)} for number in range(4)]
    batch = Batch.collate([*samples]).pin_memory().samples()
    assert len(pinned) == 1 and storages(batch) == storages([{"image": pinned[0]}])
    assert [sample["image"].unique().item() for sample in batch] == [0, 1, 2, 3] and ids([batch]) == list("0123")


def test_memory_is_pinned_for_a_gpu(gta5: CfgNode) -> None:
    for device, pinned in (("cpu", False), ("cuda", True), ("cuda:1", True)):
        gta5.MODEL.DEVICE = device
        assert build_train_loader(gta5).pin_memory == build_test_loader(gta5, "gta5").pin_memory == pinned


def test_the_number_of_workers_follows_the_cores(gta5: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [automatic_workers(cores, 1) for cores in (1, 2, 4, 9, 64)] == [1, 1, 3, 8, 8]
    assert [automatic_workers(16, processes) for processes in (1, 2, 4, 8, 16, 32)] == [8, 7, 3, 1, 1, 1]
    monkeypatch.setattr(comm, "get_local_size", lambda: 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(10)), raising=False)
    gta5.DATALOADER.NUM_WORKERS = -1
    assert build_train_loader(gta5).num_workers == build_test_loader(gta5, "gta5").num_workers == 4
    gta5.DATALOADER.NUM_WORKERS = 0
    assert build_train_loader(gta5).num_workers == 0


def test_a_batch_that_is_only_looked_at_does_not_count(gta5: CfgNode) -> None:
    loader = build_train_loader(gta5)
    batches = iter(loader)
    first = next(batches)
    second = batches.peek()
    assert batches.peek() is second
    assert loader.state_dict()["position"] == len(first) == 2
    assert next(batches) is second
    assert loader.state_dict()["position"] == 4
    assert same([first, second, next(batches)], take(build_train_loader(gta5), 3))


def test_an_error_that_was_looked_at_is_raised_again(gta5: CfgNode) -> None:
    batches = iter(build_train_loader(gta5))
    record = build_train_loader(gta5).records[0]
    for file in Path(record["file_name"]).parent.iterdir():
        file.write_bytes(b"")
    for look in (batches.peek, batches.peek, batches.__next__, batches.__next__):
        with pytest.raises(UserError, match="is an empty file"):
            look()


@pytest.mark.slow
def test_the_workers_end_with_the_iterator(gta5: CfgNode) -> None:
    before = set(multiprocessing.active_children())
    gta5.DATALOADER.NUM_WORKERS = 2
    for loader in (build_train_loader(gta5), build_test_loader(gta5, "gta5")):
        batches = iter(loader)
        next(batches)
        assert len(set(multiprocessing.active_children()) - before) == 2
        del batches
        gc.collect()
        assert not set(multiprocessing.active_children()) - before


# --- testing


@pytest.mark.parametrize("workers", [0, 1])
def test_test_loader_gives_every_image_once_in_order(gta5: CfgNode, workers: int) -> None:
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
