"""Baselines that do not look at shapes. A network has to beat them, otherwise the world is too easy."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn import functional as F

from clouds.config import load_config
from clouds.d2 import CfgNode, inference_on_dataset
from clouds.data.datasets.catalog import load_dataset, register_datasets
from clouds.data.encoding import read_train_ids
from clouds.data.loading.loaders import build_test_loader
from clouds.evaluation.confusion import confusion_matrix, score
from clouds.evaluation.sem_seg import SemSegEvaluator
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.images import read_image

Image = npt.NDArray[np.uint8]
LabelMap = npt.NDArray[np.uint8]

CONSTANT, COLOR = "constant", "color and position"
"""Names of the baselines."""
NUM_CLASSES = 19
FITTED_IMAGES = 100
"""Number of training images that the baselines are fitted on."""


class ConstantPredictor:
    """Predicts the most frequent class of the training labels everywhere."""

    def __init__(self) -> None:
        self.label = 0

    def fit(self, images: Iterable[Image], labels: Iterable[LabelMap]) -> "ConstantPredictor":
        """Count the classes.

        Args:
            images: unused.
            labels: (H, W) uint8 train ids; 255 is ignored.
        """
        counts = sum(np.bincount(label.ravel(), minlength=256)[:NUM_CLASSES] for label in labels)
        self.label = int(np.argmax(counts))
        return self

    def predict(self, image: Image) -> LabelMap:
        """Return (H, W) uint8 train ids of an (H, W, 3) image."""
        return np.full(image.shape[:2], self.label, dtype=np.uint8)


class ColorPositionClassifier:
    """Multinomial logistic regression from the color and position of a pixel.

    Features: red, green, blue, saturation, direction of the hue, row and distance from the middle column, all their
    products, and a few cubes. (Joint histograms with back-off reach 4 mIoU less on the source and as much elsewhere.)
    Since a mean over classes rewards rare ones, probabilities are divided by (class frequency)^balance, with the
    balance that scores best on held-out images.
    """

    PIXELS = 1200
    """Number of pixels drawn from each image; more add time but no accuracy, because neighbors are alike."""
    BALANCES = (0.0, 0.2, 0.4, 0.6, 0.8)
    """Values of the balance that are tried."""
    STEPS = 60
    """Maximum number of optimizer steps."""
    _PENALTY = 1e-5

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._weights = np.zeros((_NUM_FEATURES, NUM_CLASSES))
        self._log_frequency = np.zeros(NUM_CLASSES)
        self._middle, self._scale = np.zeros(_NUM_FEATURES), np.ones(_NUM_FEATURES)
        self.balance = 0.0

    def fit(self, images: Sequence[Image], labels: Sequence[LabelMap]) -> "ColorPositionClassifier":
        """Fit the regression. With two images or more, a fifth is held out to choose the balance, then fitted as well.

        Args:
            images: (H, W, 3) uint8 RGB.
            labels: (H, W) uint8 train ids; 255 is ignored.
        """
        rng = np.random.default_rng(self._seed)
        features, targets = zip(
            *(self._draw(image, label, rng) for image, label in zip(images, labels, strict=True)), strict=True
        )
        if len(images) > 1:
            held_out = max(1, len(images) // 5)
            self._regress(np.concatenate(features[:-held_out]), np.concatenate(targets[:-held_out]))
            scores = []
            for balance in self.BALANCES:
                self.balance = balance
                pairs = zip(images[-held_out:], labels[-held_out:], strict=True)
                scores.append(mean_iou((self.predict(image), label) for image, label in pairs))
            self.balance = self.BALANCES[int(np.argmax(scores))]
        self._regress(np.concatenate(features), np.concatenate(targets))
        return self

    def predict(self, image: Image) -> LabelMap:
        """Return (H, W) uint8 train ids of an (H, W, 3) uint8 RGB image."""
        logits = self._normal(_features(image)) @ self._weights.astype(np.float32)
        logits -= (self.balance * self._log_frequency).astype(np.float32)
        return logits.argmax(axis=1).astype(np.uint8).reshape(image.shape[:2])

    def _draw(
        self, image: Image, label: LabelMap, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        known = np.flatnonzero(label.ravel() < NUM_CLASSES)
        chosen = rng.choice(known, min(self.PIXELS, len(known)), replace=False)
        return _features(image)[chosen], label.ravel()[chosen]

    def _normal(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return ((features - self._middle) / self._scale).astype(np.float32)

    def _regress(self, features: npt.NDArray[np.float32], targets: npt.NDArray[np.uint8]) -> None:
        self._middle, self._scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-3)
        self._middle[0], self._scale[0] = 0.0, 1.0  # the constant stays one
        inputs = self._normal(features)
        counts = np.bincount(targets, minlength=NUM_CLASSES)
        # A class without pixels must not be predicted because it is rare.
        self._log_frequency = np.where(counts > 0, np.log(np.maximum(counts, 1) / len(targets)), 0.0)
        wanted = np.eye(NUM_CLASSES, dtype=np.float32)[targets]

        def loss(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
            weights = flat.reshape(_NUM_FEATURES, NUM_CLASSES)
            logits = inputs @ weights.astype(np.float32)
            logits -= logits.max(axis=1, keepdims=True)
            odds = np.exp(logits)
            total = odds.sum(axis=1, keepdims=True)
            cross_entropy = float((np.log(total[:, 0]) - (logits * wanted).sum(axis=1)).mean())
            slope = inputs.T @ (odds / total - wanted) / np.float32(len(targets))
            value = cross_entropy + self._PENALTY * float((weights**2).sum())
            return value, (slope + 2 * self._PENALTY * weights).ravel().astype(np.float64)

        start = np.zeros(_NUM_FEATURES * NUM_CLASSES)
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": self.STEPS})
        self._weights = found.x.reshape(_NUM_FEATURES, NUM_CLASSES)


_PAIRS = np.triu_indices(8)
_NUM_FEATURES = 1 + 8 + len(_PAIRS[0]) + 4


def _features(image: Image) -> npt.NDArray[np.float32]:
    """Features of an (H, W, 3) uint8 RGB image: (H * W, _NUM_FEATURES)."""
    height, width = image.shape[:2]
    rgb = image.astype(np.float32) / 255
    largest, smallest = rgb.max(axis=2), rgb.min(axis=2)
    chroma = largest - smallest
    saturation = chroma / np.maximum(largest, 1e-6)
    red, green, blue = np.moveaxis(rgb, 2, 0)
    # Hue as a vector whose length is the saturation: as an angle, red would lie at both ends.
    east, north = red - (green + blue) / 2, (green - blue) * np.float32(np.sqrt(0.75))
    length = saturation / np.maximum(np.hypot(east, north), 1e-6)
    row = np.broadcast_to(np.linspace(-1, 1, height, dtype=np.float32)[:, None], (height, width))
    aside = np.broadcast_to(np.abs(np.linspace(-1, 1, width, dtype=np.float32)), (height, width))
    base = np.stack([red, green, blue, saturation, east * length, north * length, row, aside], axis=2).reshape(-1, 8)
    products = base[:, _PAIRS[0]] * base[:, _PAIRS[1]]
    row_squared = base[:, 6:7] ** 2
    ones = np.ones((len(base), 1), dtype=np.float32)
    return np.concatenate([ones, base, products, row_squared * base[:, 6:7], row_squared * base[:, :3]], axis=1)


def mean_iou(pairs: Iterable[tuple[LabelMap, LabelMap]]) -> float:
    """Return mIoU in percent, counted over all images; see `clouds.evaluation.confusion.Scores`.

    Args:
        pairs: prediction and ground truth, (H, W) uint8 train ids each.
    """
    matrices = [
        confusion_matrix(torch.from_numpy(predicted), torch.tensor(label), NUM_CLASSES).numpy()
        for predicted, label in pairs
    ]
    return score(np.sum(matrices, axis=0)).miou


class BaselineModel(nn.Module):
    """A baseline with the interface of the network, so that the same loop and evaluator score it."""

    def __init__(self, baseline: ConstantPredictor | ColorPositionClassifier) -> None:
        super().__init__()
        self.baseline = baseline

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
        """Return `{"sem_seg": (C, height, width)}` scores, 0 or 1, for each image dict of the test mapper."""
        outputs = []
        for x in batched_inputs:
            label = torch.from_numpy(self.baseline.predict(x["image"].permute(1, 2, 0).numpy())).long()
            scores = F.one_hot(label, NUM_CLASSES).permute(2, 0, 1).float()
            outputs.append({"sem_seg": F.interpolate(scores[None], size=(x["height"], x["width"]))[0]})
        return outputs


def baseline_scores(cfg: CfgNode) -> dict[str, dict[str, float]]:
    """Fit all baselines on the first training set and return their mIoU: name -> test set -> percent."""
    records = load_dataset(cfg.DATASETS.TRAIN[0])[:FITTED_IMAGES]
    images = [np.asarray(read_image(record["file_name"])) for record in records]
    labels = [read_train_ids(record["sem_seg_file_name"], NUM_CLASSES) for record in records]

    def evaluate(baseline: ConstantPredictor | ColorPositionClassifier) -> dict[str, float]:
        model = BaselineModel(baseline.fit(images, labels))
        return {
            name: inference_on_dataset(model, build_test_loader(cfg, name), SemSegEvaluator(name))["sem_seg"]["mIoU"]
            for name in cfg.DATASETS.TEST
        }

    return {CONSTANT: evaluate(ConstantPredictor()), COLOR: evaluate(ColorPositionClassifier())}


def write_baselines(config: str, settings: Sequence[str], file: Path) -> None:
    """Measure all baselines on the test sets of a config, whose files must exist, and write them as JSON."""
    cfg = load_config(config, settings)
    register_datasets(modules=cfg.DATASETS.MODULES)
    make_folder(file.parent)
    write_atomically(file, json.dumps(baseline_scores(cfg), indent=1))
