"""Properties of the pure functions and small classes of the model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from clouds.modeling.inference import resize_scores, semantic_scores
from clouds.modeling.layers import mask_pool, sine_position_embedding
from clouds.modeling.open_vocabulary import geometric_ensemble, seen_classes
from clouds.modeling.text_classifier import VILD_TEMPLATES, TextClassifier, build_text_classifier, prompts_for
from clouds.modeling.transformer_decoder.decoder import attention_mask

seeds = st.integers(0, 2**31)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, rows=st.integers(1, 9), strip=st.integers(1, 40))
def test_strips_give_the_scores_of_one_piece(seed, rows, strip):
    g = torch.Generator().manual_seed(seed)
    classes, masks = torch.randn(5, 4, generator=g), torch.randn(5, rows, 6, generator=g)
    whole = torch.einsum(
        "qc,qhw->chw",
        classes.softmax(-1)[:, :-1],
        F.interpolate(masks[None], scale_factor=4, mode="bilinear", align_corners=False)[0].sigmoid(),
    )
    torch.testing.assert_close(semantic_scores(classes, masks, (rows * 4, 24), strip), whole, rtol=1e-5, atol=1e-6)


def test_upsampled_strips_never_hold_all_masks(monkeypatch):
    sizes = []
    real = F.interpolate
    monkeypatch.setattr(F, "interpolate", lambda x, **k: sizes.append(k["size"][0]) or real(x, **k))
    semantic_scores(torch.randn(3, 4), torch.randn(3, 64, 2), (256, 8), strip_rows=16)
    assert max(sizes) <= 16 + 2 * 4


def test_canvas_must_fit():
    with pytest.raises(ValueError, match=r"^canvas is 21 x 20; it must be a multiple"):
        semantic_scores(torch.randn(3, 4), torch.randn(3, 5, 5), (21, 20))


def test_resizing_cuts_the_padding_first():
    scores = torch.zeros(2, 8, 8)
    scores[0, :4, :4] = 1
    scores[1, 4:, 4:] = 9
    torch.testing.assert_close(resize_scores(scores, (4, 4), 10, 12)[0], torch.ones(10, 12))
    assert resize_scores(scores, (4, 4), 4, 4).shape == (2, 4, 4)


def test_position_embedding_is_bounded_and_tells_places_apart():
    embedding = sine_position_embedding(5, 7, 32, torch.zeros(1))
    assert embedding.shape == (32, 5, 7)
    assert embedding.abs().max() <= 1
    flat = embedding.flatten(1).T
    assert torch.cdist(flat, flat).add(torch.eye(35) * 9).min() > 0.1


class TestAttentionMask:
    def test_inside_only_and_never_nothing(self):
        logits = torch.full((1, 2, 4, 4), -1.0)
        logits[0, 0, :2] = 1
        allowed = attention_mask(logits, (4, 4)).view(1, 2, 4, 4)
        assert allowed[0, 0, :2].all()
        assert not allowed[0, 0, 2:].any()
        assert allowed[0, 1].all()


class TestGeometricEnsemble:
    @settings(max_examples=20, deadline=None)
    @given(seed=seeds, alpha=st.floats(0, 1), beta=st.floats(0, 1))
    def test_is_a_distribution_that_keeps_void(self, seed, alpha, beta):
        g = torch.Generator().manual_seed(seed)
        inside, outside = torch.randn(2, 3, 6, generator=g), torch.randn(2, 3, 6, generator=g)
        seen = torch.rand(5, generator=g) > 0.5
        result = geometric_ensemble(inside, outside, seen, alpha=alpha, beta=beta).exp()
        torch.testing.assert_close(result.sum(-1), torch.ones(2, 3), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(result[..., -1], inside.softmax(-1)[..., -1], rtol=1e-4, atol=1e-6)

    def test_without_weight_clip_has_no_say(self):
        inside, outside = torch.randn(1, 4, 6), torch.randn(1, 4, 6)
        seen = torch.ones(5, dtype=torch.bool)
        none = geometric_ensemble(inside, outside, seen, alpha=0.0, beta=0.0)
        torch.testing.assert_close(none.exp(), inside.softmax(-1), rtol=1e-4, atol=1e-6)
        invalid = torch.zeros(1, 4, dtype=torch.bool)
        torch.testing.assert_close(geometric_ensemble(inside, outside, seen, alpha=0.4, beta=0.8, valid=invalid), none)

    def test_an_underflow_does_not_spoil_the_other_classes(self):
        inside, outside = torch.zeros(1, 1, 4), torch.zeros(1, 1, 4)
        inside[..., 0] = -1e4  # softmax gives exactly 0; without log-probabilities, all classes would be NaN
        result = geometric_ensemble(inside, outside, torch.tensor([False, True, True]), alpha=0.4, beta=0.8)
        assert result.isfinite().all()
        assert result[0, 0, 1] > result[0, 0, 0]

    def test_seen_classes_share_a_name(self):
        assert seen_classes(["car,cars", "sky", "tram"], ["cars", "sky,clouds"]).tolist() == [True, True, False]


def test_mask_pool_is_the_mean_inside_and_zero_for_nothing():
    features = torch.randn(1, 3, 4, 4)
    masks = torch.full((1, 2, 4, 4), -1.0)
    masks[0, 0, 1:3, 2] = 1
    pooled = mask_pool(features, masks)
    torch.testing.assert_close(pooled[0, 0], features[0, :, 1:3, 2].mean(dim=1))
    assert (pooled[0, 1] == 0).all()


class TestTextClassifier:
    def test_prompts_come_class_major(self):
        prompts = prompts_for(["car, cars", "sky"])
        assert len(prompts) == 3 * len(VILD_TEMPLATES) == 42
        assert prompts[0] == "a photo of a car."
        assert prompts[14] == "a photo of a cars."
        assert prompts[-1] == "There is a large sky in the scene."

    @settings(max_examples=10, deadline=None)
    @given(batch=st.integers(1, 50))
    def test_batches_do_not_change_it(self, batch):
        def encode(prompts):
            return torch.stack([torch.tensor([len(p), p.count("a"), 1.0]) for p in prompts])

        text = build_text_classifier(encode, ["car,cars", "sky"], batch_size=batch)
        torch.testing.assert_close(text.embeddings, build_text_classifier(encode, ["car,cars", "sky"]).embeddings)
        torch.testing.assert_close(text.embeddings.norm(dim=-1), torch.ones(3))
        assert text.names_per_class == (2, 1)

    def test_the_best_synonym_counts_and_void_is_last(self):
        text = TextClassifier(torch.eye(4)[:3], (2, 1))
        logits = text.logits(
            torch.tensor([[0.0, 2.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0, 3.0]]), torch.zeros(())
        )
        assert logits.tolist() == [[1.0, 0.0, 0.0]]
