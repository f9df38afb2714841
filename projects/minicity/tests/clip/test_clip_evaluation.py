"""Evaluation of a CLIP, on inputs whose scores are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from minicity.clip.evaluation import dense_scores, retrieval

from clouds.modeling.text_classifier import TextClassifier
from tests.commands import script

measure_clip = script("projects/minicity/tools/measure_clip.py")

UNITS = np.eye(8, dtype=np.float32)
TEXTS = [f"street {number}" for number in range(8)]


def test_retrieval_of_identical_features():
    found = retrieval(UNITS, UNITS, TEXTS)
    assert (found.at_1, found.at_5, found.chance) == (1, 1, 1 / 8)


def test_retrieval_counts_the_candidates_before_the_partner():
    queries = UNITS.copy()
    queries[0] = 0.5 * UNITS[0] + 0.8 * UNITS[1]  # one candidate before the partner
    queries[1] = 0.1 * UNITS[1] + 0.3 * UNITS[2:7].sum(axis=0)  # five candidates before it
    found = retrieval(queries, UNITS, TEXTS)
    assert found.at_1 == pytest.approx(6 / 8)
    assert found.at_5 == pytest.approx(7 / 8)


def test_ties_count_against_the_query():
    alike = np.tile(UNITS[:1], (8, 1))
    found = retrieval(alike, alike, TEXTS)
    assert (found.at_1, found.at_5) == (0, 0)


def test_partners_of_equal_captions_are_equally_correct():
    swapped = UNITS[[1, 0, *range(2, 8)]]
    assert retrieval(UNITS, swapped, TEXTS).at_1 == 6 / 8
    found = retrieval(UNITS, swapped, ["the same", "the same", *TEXTS[2:]])
    assert found.at_1 == 1
    assert found.chance == pytest.approx((2 * 2 + 6 * 1) / 64)


class Colors(torch.nn.Module):
    """A tower whose feature map is the mean color of 32 x 32 pixels. The embedding of a mask is the sum inside it."""

    def forward(self, images):
        return {"clip_vis_dense": torch.nn.functional.avg_pool2d(images, 32)}

    def embed_masks(self, dense, masks):
        return torch.einsum("bchw,bqhw->bqc", dense, (masks > 0).float())


@pytest.mark.parametrize("right", [True, False])
def test_dense_scores(right):
    labels = np.zeros((1, 64, 128), np.uint8)
    labels[:, :, 64:] = 1
    labels[:, :, 48:80] = 255  # where the interpolation mixes two elements
    image = np.zeros((1, 64, 128, 3), np.uint8)
    image[..., :64, 0] = image[..., 64:, 2] = 255
    red, blue = torch.tensor([[2.2, -2.0, -1.8]]), torch.tensor([[-2.1, -2.0, 2.6]])
    names = torch.cat([red, -red, blue] if right else [blue, -red, red])
    classifier = TextClassifier(torch.nn.functional.normalize(names, dim=-1), (2, 1))
    found = dense_scores(Colors(), classifier, image, labels)
    assert (found.pacc, found.miou) == ((100, 100) if right else (0, 0))


def test_the_command(capsys):
    assert measure_clip.main(["--scenes", "2"]) == 0
    text = capsys.readouterr().out
    assert text.count("| minicity_fog |") == 2
    assert "## Retrieval" in text


def test_the_command_without_a_model(tmp_path: Path, capsys):
    assert measure_clip.main([str(tmp_path)]) == 2
    assert "open_clip_config.json" in capsys.readouterr().err
