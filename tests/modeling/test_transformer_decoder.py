"""The transformer decoder in evaluation: the result of training mode, without what only the losses read."""

import pytest
import torch

from clouds.clouds import CLOUDS
from clouds.d2 import build_model
from clouds.modeling.layers import mask_products
from clouds.modeling.transformer_decoder import decoder
from tests.parity import golden

HEADS = (
    "OriginalMultiScaleMaskedTransformerDecoder",
    "BisMultiScaleMaskedTransformerDecoder",
    "MultiScaleMaskedTransformerDecoder",
)


def build(name: str) -> CLOUDS:
    case = "convnext_text" if name.startswith("Multi") else "convnext_closed"
    model = build_model(golden.golden_config(case, "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", name))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.sem_seg_head.predictor.parameters():  # masks that are neither empty nor full
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)
    return model


@pytest.mark.parametrize("name", HEADS)
def test_evaluation_gives_the_last_prediction_of_training(name, monkeypatch):
    model = build(name)
    masks: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    real = decoder.attention_mask

    def recorded(*args):
        masks[model.training].append(real(*args))
        return masks[model.training][-1]

    monkeypatch.setattr(decoder, "attention_mask", recorded)
    classified, head = [], type(model.sem_seg_head.predictor)
    classify = head.classify
    monkeypatch.setattr(head, "classify", lambda *x: classified.append(model.training) or classify(*x))
    text = model.text_classifier(model.train_classes)
    with torch.no_grad():
        features = model.features(golden.batch(), (96, 128))
        every = model.train().sem_seg_head(features, text, model.void)
        (last,) = model.eval().sem_seg_head(features, text, model.void)
    for ours, theirs in zip(last, every[-1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert classified == [True] * len(every) + [False]
    assert len(masks[True]) == len(masks[False]) == len(every) - 1
    for ours, theirs in zip(masks[False], masks[True], strict=True):
        assert torch.equal(ours, theirs)
        assert 0.02 < ours.float().mean() < 0.98


def test_masks_of_training_are_the_products_of_their_factors_which_carry_the_gradient():
    predictor = build(HEADS[0]).sem_seg_head.predictor
    maps, features = [torch.randn(1, 64, 2 * n, 4 * n) for n in (1, 2, 4)], torch.randn(1, 64, 16, 32)
    for prediction in predictor.train()(maps, features, None, None):
        assert torch.equal(mask_products(*prediction.mask_factors), prediction.mask_logits)
        assert not prediction.mask_logits.requires_grad
        assert prediction.mask_factors.embeddings.requires_grad
    (last,) = predictor.eval()(maps, features, None, None)
    assert last.mask_factors is None


def test_inner_masks_are_multiplied_at_the_size_of_the_attention_masks(monkeypatch):
    predictor = build(HEADS[0]).sem_seg_head.predictor
    sizes = []
    real = decoder.mask_products
    monkeypatch.setattr(decoder, "mask_products", lambda *x: sizes.append((x[1].shape[-2], x[1].shape[-1])) or real(*x))
    maps, features = [torch.randn(1, 64, 2 * n, 4 * n) for n in (1, 2, 4)], torch.randn(1, 64, 16, 32)
    predictor.eval()(maps, features, None, None)
    assert sizes == [(2, 4), (4, 8), (8, 16), (16, 32)]
    sizes.clear()
    predictor.train()(maps, features, None, None)
    assert sizes == [(16, 32)] * 4


def test_no_operation_of_the_decoder_waits_for_a_value():
    """A tensor on `meta` has no values, so any read of a value fails."""
    predictor = build(HEADS[0]).sem_seg_head.predictor.to("meta").eval()
    maps = [torch.zeros(1, 64, 2 * n, 4 * n, device="meta") for n in (1, 2, 4)]
    (last,) = predictor(maps, torch.zeros(1, 64, 16, 32, device="meta"), None, None)
    assert last.mask_logits.shape[-2:] == (16, 32)
