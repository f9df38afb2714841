"""Predictions of a model for the samples of test images, in as few forward passes as their protocols allow."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from clouds.evaluation.label_maps import predict_labels
from clouds.modeling.inference import Passes, averaged_scores, labels_of_scores, resize_scores
from clouds.modeling.structures import ImageDict


class Predictions(nn.Module):
    """A model that predicts samples of the test mapper, in the windows that they ask for.

    Samples of one image with equal windows share their forward passes, except if there is one pass over the whole image
    and the model returns scores: then each sample, with its size of the result, has a pass.

    Args:
        model: returns a dict with scores in `sem_seg`, (K, height, width), for each image dict. If it has a method
            `predict_labels`, that returns label maps, (height, width) uint8, and computes an image once that several
            dicts hold.
        labels: whether label maps are sufficient; otherwise scores are returned.
        scales: factors of the input size, one for each view in `views` of the samples.
        flip: whether the mirror image of each view is predicted, too.
    """

    def __init__(
        self, model: nn.Module, *, labels: bool, scales: tuple[float, ...] = (1.0,), flip: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self.labels = labels
        self.views = Passes(scales=scales, flip=flip)

    def forward(self, samples: Sequence[ImageDict]) -> list[dict[str, Any]]:
        """Predict samples.

        Args:
            samples: image dicts, with the entries `window` and `stride` for a sliding window.

        Returns:
            For each sample a dict with `label_map`, (height, width) uint8, or with `sem_seg`, (K, height, width).
        """
        # Images of different sizes would share a canvas in a batch, and results would depend on it.
        groups: dict[tuple[torch.Size, Passes], list[int]] = {}
        for number, sample in enumerate(samples):
            passes = replace(self.views, window=sample.get("window"), stride=sample.get("stride"))
            groups.setdefault((sample["image"].shape, passes), []).append(number)
        outputs: dict[int, dict[str, Any]] = {}
        for (_, passes), numbers in groups.items():
            own = [samples[number] for number in numbers]
            outputs |= zip(numbers, self._single(own) if passes.is_single else self._several(own, passes), strict=True)
        return [outputs[number] for number in range(len(samples))]

    def _single(self, samples: Sequence[ImageDict]) -> list[dict[str, Any]]:
        if self.labels and hasattr(self.model, "predict_labels"):
            return [{"label_map": labels} for labels in predict_labels(self.model, samples)]
        return [output for sample in samples for output in self.model([sample])]

    def _several(self, samples: Sequence[ImageDict], passes: Passes) -> list[dict[str, Any]]:
        images = {id(sample["image"]): sample for sample in samples}
        scores = {image: averaged_scores(self.model, sample, passes) for image, sample in images.items()}
        outputs = []
        for sample in samples:
            own, size = scores[id(sample["image"])], (sample["height"], sample["width"])
            outputs.append(
                {"label_map": labels_of_scores(own, size)}
                if self.labels
                else {"sem_seg": resize_scores(own, (own.shape[-2], own.shape[-1]), *size)}
            )
        return outputs
