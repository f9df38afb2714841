"""Evaluation by several protocols: known answers, equal results in one run and in several, shared forward passes."""

import json
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from clouds.commands import report, train
from clouds.config import load_config
from clouds.d2 import CfgNode
from clouds.data.datasets import catalog
from clouds.data.encoding import read_train_ids
from clouds.data.protocols import build_protocols
from clouds.engine.inference import Predictions
from clouds.engine.measurement import measure_sets
from clouds.engine.predictor import Predictor
from clouds.engine.setup import default_setup
from clouds.engine.trainer import Trainer
from clouds.errors import UserError
from clouds.utils.images import read_image
from tests.engine.test_end_to_end import config  # noqa: F401  (a fixture)
from tests.marks import slow

CLASSES = ("road", "grass", "sky")
WINDOWS = "input: [36, 48]\nlabels: {default: 0.5}\nwindow: [24, 20]\nstride: [12, 14]\nabsent_classes: zero\n"
SEVERAL = ("full_resolution", "published_short_edge", "cityscapes_official", "rein_512", "windows.yaml")


@pytest.fixture
def register(tmp_path: Path, tiny_cfg: CfgNode) -> Callable[..., CfgNode]:
    """Return a function that writes one image with a label map, and returns a config that evaluates it."""

    def register(truth: np.ndarray, domain: str, *protocols: str) -> CfgNode:
        for folder, array in (("images", np.zeros((*truth.shape, 3), np.uint8)), ("labels", truth)):
            (tmp_path / folder).mkdir()
            Image.fromarray(array).save(tmp_path / folder / f"0{'' if folder == 'images' else '_labelTrainIds'}.png")

        def load() -> list[dict]:
            return catalog.pair_by_stem("one", tmp_path / "images", ".png", tmp_path / "labels", "_labelTrainIds.png")

        catalog.register("one", load, classes=CLASSES, colors=[(0, 0, 0)] * 3, domain=domain)
        tiny_cfg.DATASETS.TEST, tiny_cfg.TEST.PROTOCOLS = ("one",), protocols
        return tiny_cfg

    return register


def columns(height: int, width: int, *starts: int) -> np.ndarray:
    """Return a label map whose class is the number of `starts` at or left of a column."""
    labels = np.searchsorted(starts, np.arange(width), side="right").astype(np.uint8)
    return np.repeat(labels[None], height, axis=0)


class Fixed(nn.Module):
    """Predicts a class for the last column and another one for the rest, at the size that is asked for."""

    def __init__(self, rest: int, last: int) -> None:
        super().__init__()
        self.rest, self.last = rest, last

    def forward(self, batch: list[dict]) -> list[dict]:
        outputs = []
        for x in batch:
            labels = torch.full((x["height"], x["width"]), self.rest)
            labels[:, -1] = self.last
            outputs.append({"sem_seg": nn.functional.one_hot(labels, 3).permute(2, 0, 1).float()})
        return outputs


class Counting(nn.Module):
    """Predicts class n, with a score of 1 - 0.2 n, in its n-th window."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []

    def forward(self, batch: list[dict]) -> list[dict]:
        outputs = []
        for x in batch:
            scores = torch.zeros(3, *x["image"].shape[-2:])
            scores[len(self.sizes)] = 1 - 0.2 * len(self.sizes)
            self.sizes.append((x["height"], x["width"]))
            outputs.append({"sem_seg": scores})
        return outputs


def test_known_answers_of_the_protocols_by_short_edge(register: Callable[..., CfgNode]) -> None:
    cfg = register(columns(8, 16, 12), "any", "full_resolution", "published_short_edge", "cityscapes_official")
    cfg.INPUT.TEST_SHORT_EDGE = 4
    results = Trainer.test(cfg, Fixed(0, 1))["one"]
    # 12 of 16 columns have class 0, and the last one is predicted as class 1. The input has 8 columns, 6 of class 0.
    for task, zero, one in (("sem_seg", 12 / 15, 1 / 4), ("sem_seg@published_short_edge", 6 / 7, 1 / 2)):
        assert results[task]["IoU-road"] == pytest.approx(100 * zero)
        assert results[task]["IoU-grass"] == pytest.approx(100 * one)
        assert results[task]["mIoU"] == pytest.approx(50 * (zero + one))
    np.testing.assert_equal(results["sem_seg@cityscapes_official"], results["sem_seg"])  # no class is absent

    results = Trainer.test(cfg, Fixed(0, 2))["one"]
    assert np.isnan(results["sem_seg"]["IoU-sky"]) and results["sem_seg@cityscapes_official"]["IoU-sky"] == 0
    assert results["sem_seg"]["mIoU"] == pytest.approx(100 * (12 / 15) / 2)
    assert results["sem_seg@cityscapes_official"]["mIoU"] == pytest.approx(100 * (12 / 15) / 3)


def test_known_answer_of_rein_512_on_cityscapes(register: Callable[..., CfgNode]) -> None:
    cfg = register(columns(1024, 2048, 1024), "cityscapes", "rein_512")
    cfg.INPUT.TEST_SHORT_EDGE, cfg.INPUT.TEST_MAX_PIXELS = 64, 1024  # the protocol states its own input
    network = Counting()
    scores = Trainer.test(cfg, network)["one"]["sem_seg"]
    assert network.sizes == [(512, 512)] * 3
    # The windows begin at the columns 0, 341 and 512 of 1024. Where two overlap, the mean is highest for the first: the
    # classes change at the columns 512 and 853, and at 1023 and 1705 of 2048, with bilinear weights of 1/4 and 3/4.
    found = {"road": 1023 / 1024, "grass": (1705 - 1024) / 1025, "sky": 0.0}
    assert {name: scores[f"IoU-{name}"] for name in found} == pytest.approx({k: 100 * v for k, v in found.items()})
    assert scores["mIoU"] == pytest.approx(100 * sum(found.values()) / 3)


def test_known_answer_of_rein_1024_on_cityscapes(register: Callable[..., CfgNode]) -> None:
    network = Counting()
    scores = Trainer.test(register(columns(1024, 2048, 1024), "cityscapes", "rein_1024"), network)["one"]["sem_seg"]
    assert network.sizes == [(1024, 1024)] * 3
    # The windows begin at the columns 0, 683 and 1024: the classes change at the columns 1024 and 1707.
    found = {"road": 1.0, "grass": (1707 - 1024) / 1024, "sky": 0.0}
    assert {name: scores[f"IoU-{name}"] for name in found} == pytest.approx({k: 100 * v for k, v in found.items()})


def test_known_answer_of_rein_512_on_mapillary(register: Callable[..., CfgNode]) -> None:
    cfg = register(columns(60, 90, 48), "mapillary", "rein_512")
    network = Counting()
    scores = Trainer.test(cfg, network)["one"]["sem_seg"]
    assert network.sizes == [(30, 45)], "half of the image, which the window covers; compared at this size"
    assert scores["IoU-road"] == pytest.approx(100 * 24 / 45)
    assert scores["IoU-grass"] == 0 and np.isnan(scores["IoU-sky"])


class Confident(Trainer):
    """Trainer of a small CLOUDS whose random head predicts several classes in an image."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        torch.manual_seed(6)
        model = super().build_model(cfg)
        with torch.no_grad():
            model.sem_seg_head.predictor.class_embed.weight.mul_(100)
            model.sem_seg_head.predictor.mask_embed.layers[-1].weight.mul_(100)
        return model


@pytest.fixture
def small(
    config: Callable[..., str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., CfgNode]]:
    """Return a function that returns the config of a small CLOUDS. The current folder has the protocol `windows`."""
    monkeypatch.chdir(tmp_path)
    Path("windows.yaml").write_text(WINDOWS)
    file = config(weights="")

    def small(*options: object) -> CfgNode:
        cfg = load_config(file, [*map(str, options)])
        default_setup(cfg, Namespace(eval_only=True))
        return cfg

    return small


def passes(model: nn.Module) -> list[tuple[int, ...]]:
    """Return a list that gets the shape of the images of each forward pass."""
    shapes: list[tuple[int, ...]] = []
    model.backbone.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    return shapes


@pytest.mark.parametrize("augmented", [False, *slow(True)])
def test_one_run_with_five_protocols_is_five_runs(small: Callable[..., CfgNode], augmented: bool) -> None:
    options = ("TEST.AUG.ENABLED", augmented, "TEST.AUG.SCALES", "(0.75, 1.0)", "TEST.BOUNDARY_IOU", not augmented)
    cfg = small("TEST.PROTOCOLS", SEVERAL, *options)
    model = Confident.build_model(cfg)
    shapes = passes(model)
    together = Confident.test(cfg, model)["plugin_val"]
    shared, names = len(shapes), [protocol.name for protocol in build_protocols(cfg)]
    assert [*together] == ["sem_seg", *(f"sem_seg@{name}" for name in names[1:])]
    for number, protocol in enumerate(SEVERAL):
        own = Confident.test(small("TEST.PROTOCOLS", (protocol,), *options), model)["plugin_val"]["sem_seg"]
        np.testing.assert_equal(own, together["sem_seg" if number == 0 else f"sem_seg@{names[number]}"])
    assert len({together[task]["mIoU"] for task in together}) >= 4, "the protocols differ"
    # Three images. Three protocols share the input of 48 x 64 pixels; that of rein_512 is the image of 24 x 32 pixels.
    # The input of 36 x 48 has windows at 0 and 12, times 0, 14 and 28; its view of 27 x 36 at 0 and 3, times 0, 14, 16.
    # Each window has a mirror image. In runs of their own, two protocols have more passes.
    views = 4 if augmented else 1
    windows = 2 * (2 * 3 + 2 * 3) if augmented else 2 * 3
    assert shared == 3 * (views + views + windows)
    assert len(shapes) == shared + 3 * (4 * views + windows)


def test_a_network_that_returns_scores_shares_what_it_can(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    (tmp_path / "windows.yaml").write_text(WINDOWS)
    tiny_cfg.INPUT.TEST_SHORT_EDGE = 48
    protocols = [*SEVERAL[:4], str(tmp_path / "windows.yaml")]
    tiny_cfg.TEST.PROTOCOLS = protocols
    model = Trainer.build_model(tiny_cfg)
    shapes = passes(model)
    together = Trainer.test(tiny_cfg, model)["tiny_val"]
    # A pass for each size of the result: 24 x 32 for two protocols, 48 x 64, and 24 x 32 from the image; six windows.
    assert len(shapes) == 3 * (1 + 1 + 1 + 6)
    for protocol, task in zip(protocols, together, strict=True):
        tiny_cfg.TEST.PROTOCOLS = (protocol,)
        np.testing.assert_equal(Trainer.test(tiny_cfg, model)["tiny_val"]["sem_seg"], together[task])


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("TEST.WINDOW", 32, "TEST.STRIDE", 20),
        ("TEST.AUG.ENABLED", True),
        ("TEST.AUG.ENABLED", True, "TEST.WINDOW", 64),  # covers the input of 48 x 64 pixels, and not its largest view
    ],
)
def test_what_is_scored_is_what_is_predicted(small: Callable[..., CfgNode], tmp_path: Path, options: tuple) -> None:
    protocols = ("TEST.PROTOCOLS", ("full_resolution", "published_short_edge"))
    cfg = small("MODEL.SAVE_PSEUDO_LABELS", True, "OUTPUT_DIR", tmp_path / "out", *protocols, *options)
    model = Confident.build_model(cfg).eval()
    Confident.test(cfg, model)
    predictor, seen = Predictor(model, cfg), set()
    for record in catalog.load_dataset("plugin_val"):
        file = tmp_path / f"out/pseudo_labels/plugin_val/{record['image_id']}_labelTrainIds.png"
        [labels] = predictor.labels([read_image(record["file_name"])])
        np.testing.assert_array_equal(read_train_ids(str(file), 3), labels.numpy())
        seen |= {*labels.unique().tolist()}
    assert len(seen) > 1, "or equal maps would mean little"


def test_records_and_tables_have_all_protocols(
    tiny_cfg: CfgNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_cfg.TEST.PROTOCOLS = ("cityscapes_official", "published_short_edge")
    tiny_cfg.INPUT.TEST_SHORT_EDGE = 40
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.TEST.EVAL_PERIOD, tiny_cfg.TEST.SELECT_ON = 4, 2, "tiny_val"
    default_setup(tiny_cfg, Namespace(resume=False))
    trainer = Trainer(tiny_cfg)
    trainer.resume_or_load(False)
    results = trainer.train()["tiny_val"]
    run = tmp_path / "run"
    rows = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    evaluations = [row for row in rows if "tiny_val/sem_seg/mIoU" in row]
    assert len(evaluations) == 3 and (run / "model_best.pth").is_file()
    assert all("tiny_val/sem_seg@published_short_edge/mIoU" in row for row in evaluations)
    for name in ("cityscapes_official", "published_short_edge"):
        assert (run / "log.txt").read_text().count(f"protocol {name}, commit") == 3

    cfg = load_config(run / "config.yaml", ["MODEL.WEIGHTS", str(run / "model_final.pth")])
    cfg.OUTPUT_DIR = str(tmp_path / "evaluation")
    default_setup(cfg, Namespace(eval_only=True))
    assert Trainer.test_weights(cfg)["tiny_val"] == results
    (row,) = map(json.loads, (tmp_path / "evaluation/metrics_eval.json").read_text().splitlines())
    assert row["protocol"] == "cityscapes_official"
    assert row["tiny_val/sem_seg@published_short_edge/mIoU"] == results["sem_seg@published_short_edge"]["mIoU"]

    capsys.readouterr()
    assert report.main([str(run), str(tmp_path / "evaluation")]) == 0
    shown = capsys.readouterr().out.partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines()]
    expected = [
        [name, f"{results[task]['mIoU']:.2f}"]
        for name, task in zip(tiny_cfg.TEST.PROTOCOLS, ("sem_seg", "sem_seg@published_short_edge"), strict=True)
    ]
    assert [row[-2:] for row in cells[2:]] == expected * 2


def test_a_dry_run_measures_all_protocols(tiny_cfg: CfgNode) -> None:
    tiny_cfg.TEST.PROTOCOLS = ("full_resolution", "rein_512")
    assert measure_sets(tiny_cfg, Trainer, Trainer.build_model(tiny_cfg))["tiny_val"].images == 3


def test_unknown_classes_domains_and_protocols_stop_before_the_network_is_built(
    small: Callable[..., CfgNode], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "means.yaml").write_text("input: image\nlabels: image\nmeans: {mIoU_flat: [road, gras]}\n")
    (tmp_path / "domains.yaml").write_text("input: image\nlabels: {default: image, cityscape: input}\n")
    for protocol, message in (
        ("means.yaml", "mIoU_flat over some of the classes of plugin_val names 'gras', which does not exist"),
        (
            "domains.yaml",
            "The protocol domains (domains of labels) names 'cityscape', which does not exist; the nearest that do: "
            "cityscapes,",
        ),
        ("rein512", "TEST.PROTOCOLS names 'rein512', which does not exist; the nearest that do: rein_512"),
    ):
        options = ["OUTPUT_DIR", str(tmp_path / "out"), "TEST.PROTOCOLS", str((protocol,))]
        assert train.main(["--config-file", str(tmp_path / "c.yaml"), "--eval-only", *options]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="names 'gras'"):
        Trainer.load_model(small("TEST.PROTOCOLS", ("means.yaml",)))


def test_a_mean_over_some_classes(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    (tmp_path / "means.yaml").write_text("input: image\nlabels: image\nmeans: {mIoU_ground: [road, grass]}\n")
    tiny_cfg.TEST.PROTOCOLS = (str(tmp_path / "means.yaml"),)
    scores = Trainer.test(tiny_cfg, Trainer.build_model(tiny_cfg))["tiny_val"]["sem_seg"]
    assert scores["mIoU_ground"] == pytest.approx((scores["IoU-road"] + scores["IoU-grass"]) / 2)


@pytest.mark.parametrize("labels", [True, False])
def test_batches_of_other_loaders_keep_their_order(labels: bool) -> None:
    class Size(nn.Module):
        def forward(self, batch: list[dict]) -> list[dict]:
            return [{"sem_seg": torch.full((1, x["height"], x["width"]), x["image"][0, 0, 0])} for x in batch]

    samples = [
        {"image": torch.full((3, 4, width), float(width)), "height": 2, "width": 3, "window": window, "stride": window}
        for width, window in ((8, None), (6, (2, 2)), (8, (4, 4)), (6, None))
    ]
    outputs = Predictions(Size(), labels=labels)(samples)
    for sample, output in zip(samples, outputs, strict=True):
        (value,) = output.values()
        assert value.shape[-2:] == (2, 3)
        if "sem_seg" in output:
            assert (value == sample["image"][0, 0, 0]).all()
