"""Mappers: from a record to the tensors of a sample."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clouds.d2 import CfgNode
from clouds.data.loading.augmentation import TrainAugmentation
from clouds.data.loading.batch import Batch
from clouds.data.loading.mappers import TestMapper, TrainMapper
from clouds.data.protocols import read_protocol
from clouds.errors import UserError
from clouds.utils.sizes import limited_size, short_edge_size
from tests.data.conftest import label_map, save, smooth_image
from tests.utils.image_files import by_pillow

RNG = np.random.default_rng(0)


@pytest.fixture
def record(tmp_path: Path) -> dict:
    return {
        "file_name": save(tmp_path / "street.png", smooth_image(1)),
        "sem_seg_file_name": save(tmp_path / "street_labelTrainIds.png", label_map(1)),
        "image_id": "street",
    }


def train_mapper(**augmentation: object) -> TrainMapper:
    return TrainMapper(augmentation=TrainAugmentation(**augmentation), num_classes=19)


# --- training


def test_train_mapper_keeps_the_record_and_adds_tensors(record: dict, cfg: CfgNode) -> None:
    mapped = TrainMapper(cfg)(record, np.random.default_rng(0))
    assert record.items() <= mapped.items()
    assert mapped["image"].shape == (3, 32, 48) and mapped["image"].dtype == torch.uint8
    assert mapped["image"].is_contiguous()
    assert mapped["sem_seg"].shape == (32, 48) and mapped["sem_seg"].dtype == torch.uint8
    assert (mapped["height"], mapped["width"]) == (32, 48)
    assert "instances" not in mapped


def test_train_mapper_without_augmentation_hands_on_the_files(record: dict) -> None:
    mapped = train_mapper()(record, RNG)
    assert (mapped["image"].numpy().transpose(1, 2, 0) == np.asarray(smooth_image(1))).all()
    assert (mapped["sem_seg"].numpy() == label_map(1)).all()


def test_the_classes_that_occur_are_listed_without_ignore(record: dict) -> None:
    mapped = train_mapper()(record, RNG)
    assert mapped["sem_seg_classes"] == sorted(set(label_map(1).ravel().tolist()) - {255})
    assert all(type(train_id) is int for train_id in mapped["sem_seg_classes"])


def test_image_with_nothing_but_ignore_has_no_classes(record: dict) -> None:
    save(Path(record["sem_seg_file_name"]), np.full((40, 64), 255, dtype=np.uint8))
    mapped = train_mapper(crop=(32, 48))(record, RNG)
    assert mapped["sem_seg_classes"] == [] and mapped["sem_seg"].unique().tolist() == [255]


def test_a_crop_lists_the_classes_of_its_pixels_alone(record: dict) -> None:
    mapper = train_mapper(box=(80, 128), crop=(12, 12), flip=True)
    for seed in range(10):
        mapped = mapper(record, np.random.default_rng(seed))
        assert mapped["sem_seg_classes"] == sorted(set(mapped["sem_seg"].unique().tolist()) - {255})


def test_a_training_image_without_label_map_is_an_error(record: dict) -> None:
    del record["sem_seg_file_name"]
    with pytest.raises(UserError, match=r"street\.png has no label map"):
        train_mapper()(record, RNG)


# --- generated records


@pytest.fixture
def generated(tmp_path: Path) -> dict:
    return {
        "file_name": save(tmp_path / "im_0_p0.png", smooth_image(2, 30, 50)),
        "image_id": "im_0_p0",
        "is_generated": True,
    }


def test_generated_record_gives_two_views_at_its_own_size(generated: dict, cfg: CfgNode) -> None:
    original = np.asarray(smooth_image(2, 30, 50))
    flips = []
    for seed in range(20):
        mapped = TrainMapper(cfg)(generated, np.random.default_rng(seed))
        assert set(mapped) == {*generated, "image", "image_clean", "height", "width"}
        assert generated.items() <= mapped.items()
        assert (mapped["height"], mapped["width"]) == (30, 50)
        for key in ("image", "image_clean"):
            assert mapped[key].shape == (3, 30, 50)
            assert mapped[key].dtype == torch.uint8
            assert mapped[key].is_contiguous()
        clean = mapped["image_clean"].numpy().transpose(1, 2, 0)
        flips.append((clean == original[:, ::-1]).all())
        assert flips[-1] or (clean == original).all()
        # One view is a function of the other, color by color.
        student = mapped["image"].numpy().transpose(1, 2, 0)
        pairs = np.unique(np.concatenate([clean, student], axis=2).reshape(-1, 6), axis=0)
        assert len(pairs) == len(np.unique(clean.reshape(-1, 3), axis=0))
    assert 3 < sum(flips) < 17


def test_generated_record_without_jitter_has_one_view(generated: dict, cfg: CfgNode) -> None:
    cfg.INPUT.COLOR_AUG_SSD = cfg.INPUT.FLIP = False
    mapped = TrainMapper(cfg)(generated, np.random.default_rng(0))
    assert set(mapped) == {*generated, "image", "height", "width"}
    assert (mapped["image"].numpy().transpose(1, 2, 0) == np.asarray(smooth_image(2, 30, 50))).all()


def test_strength_of_the_jitter_is_that_of_labelled_images(generated: dict, cfg: CfgNode) -> None:
    def change() -> float:
        mapped = [TrainMapper(cfg)(generated, np.random.default_rng(seed)) for seed in range(10)]
        return float(np.mean([(m["image"].float() - m["image_clean"].float()).abs().mean() for m in mapped]))

    cfg.INPUT.COLOR_AUG_STRENGTH = 0.2
    weak = change()
    cfg.INPUT.COLOR_AUG_STRENGTH = 1.5
    assert 0 < 3 * weak < change()


def test_truth_is_flipped_with_the_image(generated: dict, cfg: CfgNode, tmp_path: Path) -> None:
    truth = label_map(3, 30, 50)
    generated["truth_file_name"] = save(tmp_path / "truth.png", truth)
    for seed in range(10):
        mapped = TrainMapper(cfg)(generated, np.random.default_rng(seed))
        flipped = (
            mapped["image_clean"].numpy().transpose(1, 2, 0) == np.asarray(smooth_image(2, 30, 50))[:, ::-1]
        ).all()
        assert mapped["truth"].dtype == torch.uint8
        assert (mapped["truth"].numpy() == (truth[:, ::-1] if flipped else truth)).all()
        assert "sem_seg" not in mapped and "sem_seg_classes" not in mapped
    save(tmp_path / "truth.png", truth[:20])
    with pytest.raises(UserError, match=r"im_0_p0\.png is 30x50 .*truth\.png is 20x50"):
        TrainMapper(cfg)(generated, RNG)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (513, 5)])
def test_generated_images_may_have_any_size(size: tuple[int, int], tmp_path: Path, cfg: CfgNode) -> None:
    record = {"file_name": save(tmp_path / "a.png", smooth_image(1, *size)), "image_id": "a", "is_generated": True}
    mapped = TrainMapper(cfg)(record, RNG)
    assert mapped["image"].shape == mapped["image_clean"].shape == (3, *size)


def test_a_record_is_generated_by_its_field_not_its_name(record: dict, cfg: CfgNode) -> None:
    record["image_id"] = "generated_1"
    assert "sem_seg" in TrainMapper(cfg)(record, RNG)
    assert "sem_seg" in TrainMapper(cfg)(record | {"is_generated": False}, RNG)
    assert "sem_seg" not in TrainMapper(cfg)(record | {"is_generated": True}, RNG)


# --- inference


def test_test_mapper_full_resolution(record: dict) -> None:
    [mapped] = TestMapper(protocols=[read_protocol("full_resolution")], short_edge=60, num_classes=19)(record)
    expected = np.asarray(smooth_image(1).resize((96, 60), Image.Resampling.BILINEAR))
    assert record.items() <= mapped.items()
    assert mapped["image"].dtype == torch.uint8 and mapped["image"].is_contiguous()
    assert (mapped["image"].numpy().transpose(1, 2, 0) == expected).all()
    assert (mapped["height"], mapped["width"]) == (40, 64)
    assert mapped["sem_seg"].dtype == torch.uint8
    assert (mapped["sem_seg"].numpy() == label_map(1)).all()


def test_test_mapper_published_protocol_resizes_the_ground_truth(record: dict, cfg: CfgNode) -> None:
    cfg.TEST.PROTOCOL = "published_short_edge"
    [mapped] = TestMapper(cfg)(record)
    expected = np.asarray(Image.fromarray(label_map(1)).resize((96, 60), Image.Resampling.NEAREST))
    assert (mapped["height"], mapped["width"]) == (60, 96) == tuple(mapped["sem_seg"].shape)
    assert mapped["image"].shape == (3, 60, 96)
    assert (mapped["sem_seg"].numpy() == expected).all()


def test_protocols_share_samples_and_samples_share_tensors(record: dict) -> None:
    names = ("full_resolution", "published_short_edge", "cityscapes_official")
    mapper = TestMapper(protocols=[read_protocol(name) for name in names], short_edge=60, num_classes=19)
    full, published = mapper(record)
    assert (full["protocols"], published["protocols"]) == ((names[0], names[2]), (names[1],))
    assert full["image"] is published["image"]
    assert (tuple(full["sem_seg"].shape), tuple(published["sem_seg"].shape)) == ((40, 64), (60, 96))
    first, second = Batch.collate([[full, published]]).samples()
    assert first["image"] is second["image"] and torch.equal(first["image"], full["image"])
    assert torch.equal(second["sem_seg"], published["sem_seg"])
    [only] = TestMapper(protocols=mapper.protocols, short_edge=40, num_classes=19)(record)
    assert only["protocols"] == names, "the input has the size of the image"
    del record["sem_seg_file_name"]
    [only] = mapper(record)
    assert only["protocols"] == names[:1]


def test_test_mapper_limits_only_the_input_of_the_config(record: dict) -> None:
    protocols = [read_protocol(name) for name in ("full_resolution", "rein_512")]
    full, rein = TestMapper(protocols=protocols, short_edge=60, num_classes=19, max_pixels=1024)(record)
    assert full["image"].shape[1] * full["image"].shape[2] <= 1024
    assert rein["image"].shape == (3, 40, 64)


def test_test_mapper_views(record: dict) -> None:
    protocols = [read_protocol("full_resolution")]
    [mapped] = TestMapper(protocols=protocols, short_edge=60, num_classes=19, scales=(0.5, 1.0))(record)
    assert [tuple(view.shape) for view in mapped["views"]] == [(3, 30, 48), (3, 60, 96)]
    assert torch.equal(mapped["views"][1], mapped["image"])


def test_test_mapper_without_resize_and_without_labels(record: dict) -> None:
    del record["sem_seg_file_name"]
    for protocol in ("full_resolution", "published_short_edge"):
        [mapped] = TestMapper(protocols=[read_protocol(protocol)], short_edge=0, num_classes=19)(record)
        assert (mapped["image"].numpy().transpose(1, 2, 0) == np.asarray(smooth_image(1))).all()
        assert (mapped["height"], mapped["width"]) == (40, 64)
        assert "sem_seg" not in mapped


@given(st.tuples(st.integers(8, 4000), st.integers(8, 4000)), st.integers(8, 2000))
def test_short_edge_size(size: tuple[int, int], edge: int) -> None:
    height, width = short_edge_size(size, edge)
    assert min(height, width) == edge
    assert abs(height * size[1] - width * size[0]) <= max(size)  # the aspect ratio, to within a pixel
    assert short_edge_size(size, 0) == size


def test_short_edge_of_the_benchmarks() -> None:
    assert short_edge_size((1024, 2048), 1024) == (1024, 2048)
    assert short_edge_size((720, 1280), 1024) == (1024, 1820)
    assert short_edge_size((1080, 1920), 1024) == (1024, 1820)
    assert short_edge_size((3264, 2448), 1024) == (1365, 1024)


@given(st.tuples(st.integers(1, 100_000), st.integers(1, 100_000)), st.integers(1, 2**22))
def test_limited_size(size: tuple[int, int], most: int) -> None:
    height, width = limited_size(size, most)
    assert min(height, width) >= 1
    assert height * width <= most
    if size[0] * size[1] <= most:
        assert (height, width) == size
    elif max(height, width) < most // 32 and min(height, width) > 1:
        factor = math.sqrt(most / (size[0] * size[1]))
        assert all(0 <= factor * old - new < 1 + 1e-6 for old, new in zip(size, (height, width), strict=True))
    assert limited_size(size, 0) == size


def test_limit_of_the_benchmarks() -> None:
    """The default limit leaves the driving data sets as they are, and makes a network's input of strips small."""
    for size in ((1024, 2048), (1024, 1820), (1365, 1024), (1024, 1861)):
        assert limited_size(size, 2**22) == size
    assert limited_size((1024, 96_000), 2**22) == (211, 19_829)
    assert limited_size((1, 10**9), 2**22) == (1, 131_072)


def test_different_sizes_name_both_files_and_sizes(record: dict, cfg: CfgNode) -> None:
    save(Path(record["sem_seg_file_name"]), label_map(1, 40, 60))
    for mapped in (lambda: TrainMapper(cfg)(record, RNG), lambda: TestMapper(cfg)(record)):
        with pytest.raises(UserError) as error:
            mapped()
        for part in (record["file_name"], "40x64", record["sem_seg_file_name"], "40x60"):
            assert part in str(error.value)


@pytest.mark.parametrize(
    "mapper", [train_mapper(), TestMapper(protocols=[read_protocol("full_resolution")], short_edge=0, num_classes=19)]
)
def test_a_turned_image_has_no_label_map_that_fits(record: dict, mapper: TrainMapper | TestMapper) -> None:
    arguments = (RNG,) if isinstance(mapper, TrainMapper) else ()
    Path(record["file_name"]).write_bytes(by_pillow(smooth_image(1), "PNG", 3))
    with pytest.raises(UserError, match="has the EXIF orientation 3, but its label map does not"):
        mapper(record, *arguments)
    del record["sem_seg_file_name"]
    mapped = mapper({**record, "is_generated": True}, *arguments)
    mapped = mapped[0] if isinstance(mapped, list) else mapped
    np.testing.assert_array_equal(mapped["image"].flip(1, 2).numpy().transpose(1, 2, 0), np.asarray(smooth_image(1)))
