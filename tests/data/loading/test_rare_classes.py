"""Rare-class sampling: probabilities of DAFormer, images that have the class, crops that show it."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.d2 import CfgNode
from clouds.data.datasets.catalog import register_datasets
from clouds.data.loading.augmentation import RequiredClass, TrainAugmentation
from clouds.data.loading.loaders import build_train_loader
from clouds.data.loading.rare_classes import RareClasses
from clouds.data.preparation.converters import convert_folder
from clouds.errors import UserError
from tests.data.conftest import save, smooth_image, write_generated
from tests.data.official import palette_png

# Pixels of five images by train id. Class 18 is the rarest, no image has enough of class 5.
COUNTS = {
    0: {0: 5000, 10: 4000},
    1: {0: 6000, 18: 90},
    2: {0: 7000, 10: 3000},
    3: {5: 10, 0: 9000},
    4: {18: 60, 10: 5000},
}


def test_probabilities_are_those_of_the_paper() -> None:
    """Compare with equation 9: P(c) is the softmax of (1 - f_c) / T, f_c the share of class c in all pixels."""
    rare = RareClasses.from_counts(COUNTS, temperature=0.1, min_pixels=50)
    assert rare.classes == (0, 10, 18)
    total = 5000 + 4000 + 6000 + 90 + 7000 + 3000 + 10 + 9000 + 60 + 5000
    shares = np.array([27000, 12000, 150]) / total
    expected = np.exp((1 - shares) / 0.1) / np.exp((1 - shares) / 0.1).sum()
    np.testing.assert_allclose(rare.probabilities, expected, rtol=1e-12)
    assert [images.tolist() for images in rare.images] == [[0, 1, 2, 3], [0, 2, 4], [1, 4]]


@given(
    st.dictionaries(
        st.integers(0, 30),
        st.dictionaries(st.integers(0, 18), st.integers(1, 10**6), min_size=1),
        min_size=1,
        max_size=8,
    ),
    st.floats(1e-4, 10),
)
def test_the_rarer_the_likelier_and_only_images_that_have_it(counts: dict, temperature: float) -> None:
    rare = RareClasses.from_counts(counts, temperature=temperature, min_pixels=1)
    totals = [sum(count.get(c, 0) for count in counts.values()) for c in rare.classes]
    order = np.argsort(totals, kind="stable")
    assert (np.diff(rare.probabilities[order]) <= 1e-12).all()
    assert np.isclose(rare.probabilities.sum(), 1)
    index, label = rare.choose(np.random.default_rng(1))
    assert counts[index][label] >= 1


def test_no_image_has_enough_of_anything() -> None:
    with pytest.raises(ValueError, match="min_pixels is 1000000, but no image has as many"):
        RareClasses.from_counts(COUNTS, temperature=0.1, min_pixels=10**6)


def test_a_crop_is_drawn_again_until_it_shows_the_class() -> None:
    label = np.zeros((80, 128), np.uint8)
    label[70:, 118:] = 7
    augmentation = TrainAugmentation(crop=(40, 64))
    shown = {True: 0, False: 0}
    for seed in range(100):
        for wanted in (False, True):
            views = augmentation(
                smooth_image(1, 80, 128), label, np.random.default_rng(seed), RequiredClass(7, 20) if wanted else None
            )
            shown[wanted] += int((views[1] == 7).sum() >= 20)
    assert shown[False] < 20
    assert shown[True] > 4 * shown[False]
    # A requirement that the first crop meets does not change the view.
    plain = augmentation(smooth_image(1, 80, 128), label, np.random.default_rng(3))
    content = augmentation(smooth_image(1, 80, 128), label, np.random.default_rng(3), RequiredClass(0, 1))
    np.testing.assert_array_equal(plain[0], content[0])


@pytest.fixture
def gta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten images of road, the last of them with a bicycle."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for number in range(1, 11):
        ids = np.full((40, 64), 7)
        if number == 10:
            ids[:20, :32] = 33
        save(tmp_path / f"gta5/images/{number:05d}.png", smooth_image(number))
        palette_png(tmp_path / f"gta5/labels/{number:05d}.png", ids)
    convert_folder("gta", tmp_path / "gta5")
    return tmp_path


def rare_cfg(cfg: CfgNode, root: Path) -> CfgNode:
    register_datasets(root)
    cfg.DATASETS.TRAIN = ("gta5",)
    cfg.DATALOADER.SAMPLER_TRAIN = "RareClassSampler"
    cfg.DATALOADER.RARE_CLASS.MIN_PIXELS = 100
    cfg.DATALOADER.RARE_CLASS.TEMPERATURE = 0.5
    return cfg


def drawn(cfg: CfgNode, batches: int, skipped: int = 0) -> list[str]:
    loader = build_train_loader(cfg)
    loader.load_state_dict({"position": skipped, "seed": cfg.SEED})
    return [sample["image_id"] for _, batch in zip(range(batches), loader, strict=False) for sample in batch]


def test_the_image_with_the_rare_class_comes_often(gta: Path, cfg: CfgNode) -> None:
    often = Counter(drawn(rare_cfg(cfg, gta), 100))
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    seldom = Counter(drawn(cfg, 100))
    assert seldom["00010"] == 20
    assert often["00010"] > 80


def test_what_is_drawn_follows_from_the_position(gta: Path, cfg: CfgNode) -> None:
    cfg = rare_cfg(cfg, gta)
    assert drawn(cfg, 20)[10:] == drawn(cfg, 15, skipped=10)


def test_generated_images_keep_their_turns(gta: Path, cfg: CfgNode) -> None:
    write_generated(gta, 5)
    cfg = rare_cfg(cfg, gta)
    register_datasets(gta)
    cfg.DATASETS.TRAIN = ("gta5", "sd_mine")
    cfg.DATASETS.TARGET_FACTOR = 2.0
    cfg.MODEL.CLOUDS.SAM.MINIBATCH = True
    counts = Counter(drawn(cfg, 10))  # 20 draws: an epoch of 10 + 2 x 5
    assert sum(count for name, count in counts.items() if name.startswith("im_")) == 10


def test_statistics_of_the_published_converters_serve(gta: Path, cfg: CfgNode) -> None:
    path = gta / "gta5/sample_class_stats.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([{**row, "file": f"/elsewhere/gta/{row['file']}"} for row in rows]))
    assert drawn(rare_cfg(cfg, gta), 2)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda path: path.unlink(),
            r"has no class statistics .*make them with: clouds prepare gta5",
        ),
        (lambda path: path.write_text("[]"), r"lack 10 label maps of gta5, first .*/labels/00001_labelTrainIds\.png"),
        (lambda path: path.write_text("{"), r"sample_class_stats\.json .*make them again"),
        (lambda path: path.write_text('{"a": 1}'), r"sample_class_stats\.json .*make them again"),
        (
            lambda path: path.write_bytes(b'[{"file": "\xff"}]'),
            r"sample_class_stats\.json .*not UTF-8.*make them again",
        ),
        (lambda path: path.write_text('[{"0": Infinity, "file": "a"}]'), r"Infinity.*make them again"),
        (lambda path: path.write_text('[{"0": NaN, "file": "a"}]'), r"NaN.*make them again"),
        (lambda path: path.write_text('[{"0": 1e3, "file": "a"}]'), r"entry 1 \(1000\.0 is no number of pixels\)"),
        (lambda path: path.write_text('[{"0": -1, "file": "a"}]'), r"entry 1 \(-1 is no number of pixels\)"),
        (lambda path: path.write_text('[{"0": true, "file": "a"}]'), r"\(True is no number of pixels\)"),
        (lambda path: path.write_text('[{"0": "7", "file": "a"}]'), r"\('7' is no number of pixels\)"),
        (lambda path: path.write_text(f'[{{"0": {10**30}, "file": "a"}}]'), r"0 is no number of pixels\)"),
        (lambda path: path.write_text('[{"255": 1, "file": "a"}]'), r"\('255' is no train id\)"),
        (lambda path: path.write_text('[{"-1": 1, "file": "a"}]'), r"\('-1' is no train id\)"),
        (lambda path: path.write_text('[{"road": 1, "file": "a"}]'), r"\('road' is no train id\)"),
        (lambda path: path.write_text('[{"0": 1}]'), r"entry 1 \(there is no 'file'\): make them again"),
        (lambda path: path.write_text('[{"0": 1, "file": 3}]'), r"entry 1 \(file is 3, which is no text"),
        (lambda path: path.write_text('[{"file": "a"}, {"file": "a"}]'), r"entry 2 \(file is 'a', .* twice\)"),
        (lambda path: path.write_text("[[1]]"), r"are damaged in entry 1 .*make them again"),
        (
            lambda path: path.write_text(path.read_text().replace('"0":', '"30":')),
            r"have the train id 30, but there are 19 classes",
        ),
    ],
)
def test_statistics_that_do_not_serve(gta: Path, cfg: CfgNode, spoil: object, message: str) -> None:
    spoil(gta / "gta5/sample_class_stats.json")  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        build_train_loader(rare_cfg(cfg, gta))


def test_too_many_pixels_are_asked_for(gta: Path, cfg: CfgNode) -> None:
    cfg = rare_cfg(cfg, gta)
    cfg.DATALOADER.RARE_CLASS.MIN_PIXELS = 10**6
    with pytest.raises(UserError, match=r"min_pixels is 1000000, but .*: lower it \(.*RARE_CLASS\.MIN_PIXELS\)"):
        build_train_loader(cfg)
