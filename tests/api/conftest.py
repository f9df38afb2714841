"""A trained network in a folder, as a training leaves it, and images to predict."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import clouds
from clouds.config import load_config
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.checkpointing.weights import has_reloadable_backbone
from clouds.engine.trainer import Trainer
from tests.data.conftest import catalogs  # noqa: F401  (an autouse fixture)
from tests.engine.conftest import CLASSES
from tests.engine.test_end_to_end import CLIP, write_config

TEXT_HEAD = (
    *("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoder"),
    *("MODEL.CLOUDS.GEOMETRIC_ENSEMBLE", "True"),
)
"""Config keys of a head that predicts any classes, combined with CLIP's classes."""

SIZES = [(101, 67), (67, 101), (53, 53), (101, 67), (48, 48), (67, 101)]
"""Width and height of each image."""


@pytest.fixture(scope="session")
def save_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes ``config.yaml`` and ``model_final.pth`` of a small network to a new folder.

    Its head has random weights, so that a label map has several classes. The data sets of the config are not here.
    """

    def save(*opts: object, seed: int = 0, noise: float = 1.0) -> Path:
        folder = tmp_path_factory.mktemp("run")
        file = write_config(folder / "c.yaml", plugin="plugin_of_nobody")
        (folder / "plugin_of_nobody.py").unlink()
        # Other tests register sets of the names in the file.
        names = ("DATASETS.TRAIN", "('nobody_train',)", "DATASETS.TEST", "('nobody_val',)")
        cfg = load_config(file, [*names, *map(str, opts)])
        torch.manual_seed(seed)
        model = Trainer.build_model(cfg, train_classes=CLASSES, test_classes=CLASSES)
        with torch.no_grad():
            for parameter in model.sem_seg_head.predictor.parameters():
                parameter.add_(noise * torch.randn_like(parameter))
        checkpointer = Checkpointer(
            model, str(folder), classes=CLASSES, reloadable=has_reloadable_backbone(model), save_frozen=True
        )
        checkpointer.save("model_final", iteration=1)
        checkpointer.wait()
        (folder / "config.yaml").write_text(cfg.dump())
        return folder

    return save


@pytest.fixture(scope="session")
def closed(save_run: Callable[..., Path]) -> Path:
    """The folder of a network with a head without text."""
    return save_run()


@pytest.fixture(scope="session")
def text(save_run: Callable[..., Path]) -> Path:
    """The folder of a network with a text head."""
    return save_run(*TEXT_HEAD, seed=1, noise=0.3)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with weights in open_clip's layout."""
    folder = tmp_path_factory.mktemp("clip")
    sizes = folder / "tower_for_test.json"
    sizes.write_text(json.dumps(CLIP))
    open_clip.add_model_config(sizes)
    sizes.unlink()
    torch.manual_seed(7)
    save_file(open_clip.create_model("tower_for_test").state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": CLIP, "preprocess_cfg": {"mean": [0.4] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of several sizes."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    files = []
    for number, (width, height) in enumerate(SIZES):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
        files.append(folder / f"{number}.png")
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(files[-1])
    return files


@pytest.fixture(scope="module")
def model(closed: Path) -> clouds.Segmenter:
    """The network with a head without text."""
    return clouds.load(closed, device="cpu")


@pytest.fixture(scope="module")
def open_model(text: Path) -> clouds.Segmenter:
    """The network with a text head."""
    return clouds.load(text, device="cpu")


def same(a: clouds.Segmenter, b: clouds.Segmenter, image: Path) -> bool:
    """Return whether two networks have the same labels, scores, classes and colors, to the last bit."""
    first, second = (model.predict(image, scores=True) for model in (a, b))
    assert np.ptp(first.scores) > 0.01
    equal = np.array_equal(first.labels, second.labels) and np.array_equal(first.scores, second.scores)
    return equal and (first.classes, first.colors) == (second.classes, second.colors)
