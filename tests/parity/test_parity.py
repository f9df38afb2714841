"""Every stored array of the published implementation, reproduced."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clouds.modeling.backbone import CLIP
from clouds.modeling.inference import semantic_scores
from clouds.modeling.layers import mask_pool
from clouds.modeling.matcher import pad_targets
from clouds.modeling.points import uncertain_points
from clouds.modeling.structures import Prediction, targets_from_instances
from clouds.modeling.text_classifier import prompts_for
from tests.parity import golden
from tests.parity.golden import arrays, batch, tensor, thinned
from tests.parity.pack import CASES

TOWERS = {"convnext": "convnext_closed", "rn": "rn_closed"}
FEATURES = ("stem", "res2", "res3", "res4", "res5", "clip_vis_dense")
OUTPUTS = ("aux0_", "aux1_", "aux2_", "")
NAMES = ("aux0", "aux1", "aux2", "final")


def agree(ours, theirs, rtol=1e-4, atol=1e-5):
    np.testing.assert_allclose(
        ours.detach().numpy() if torch.is_tensor(ours) else ours, np.asarray(theirs), rtol=rtol, atol=atol
    )


@pytest.fixture(scope="module")
def models():
    return {case: golden.build(case) for case in CASES}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module", params=TOWERS)
def tower(request):
    return request.param


def stored_features(case):
    """Return the backbone's stored maps, so that each stage is tested alone and rounding does not add up."""
    return {name: tensor(f"backbone_{case.split('_')[0]}", name) for name in FEATURES}


def head(model, case):
    return model.sem_seg_head(stored_features(case), model.text_classifier(model.test_classes), model.void)


class TestBackbone:
    def test_preprocessing(self, models, tower):
        model = models[TOWERS[tower]]
        canvas = model.canvas(batch())
        assert canvas == (96, 128)
        agree(model.preprocess([x["image"] for x in batch()], canvas), arrays(f"backbone_{tower}")["images_norm"])

    def test_features(self, models, tower):
        backbone = CLIP(clip_model=models[TOWERS[tower]].backbone.clip_model, model_name="")  # with all its maps
        ours = backbone(tensor(f"backbone_{tower}", "images_norm"))
        assert set(ours) == set(FEATURES)
        for name in FEATURES:
            agree(ours[name], arrays(f"backbone_{tower}")[name])

    def test_output_shape_tells_the_truth(self, models, tower):
        ours = stored_features(TOWERS[tower])
        for name, shape in models[TOWERS[tower]].backbone.output_shape().items():
            assert ours[name].shape[1] == shape.channels
            assert 96 // ours[name].shape[2] == shape.stride

    def test_prompts_and_tokens(self, models, tower):
        prompts = prompts_for(models[TOWERS[tower]].train_classes)
        assert prompts == golden.prompts()["prompts"]
        tokens = models[TOWERS[tower]].backbone.tokenize(prompts)
        np.testing.assert_array_equal(tokens.numpy(), arrays(f"backbone_{tower}")["text_tokens"])

    def test_text_classifier(self, models, tower):
        model = models[TOWERS[tower]]
        text = model.backbone.text_classifier(model.train_classes)
        agree(text.embeddings, arrays(f"backbone_{tower}")["text_classifier"])
        assert text.names_per_class == tuple(arrays(f"backbone_{tower}")["num_templates"])
        void = F.normalize(model.void_embedding.weight, dim=-1)
        agree(void, arrays(f"backbone_{tower}")["void_embedding_normalised"])
        agree(model.backbone.logit_scale, arrays(f"backbone_{tower}")["clip_logit_scale"])


class TestHead:
    def test_pixel_decoder(self, models, case):
        mask_features, maps = models[case].sem_seg_head.pixel_decoder(stored_features(case))
        stored = arrays(f"head_{case}")
        agree(mask_features, stored["mask_features"])
        agree(maps[0], stored["transformer_encoder_features"])
        for i, ours in enumerate(maps):
            agree(ours, stored[f"multi_scale_features_{i}"])

    def test_predictions(self, models, case):
        predictions = head(models[case].train(), case)
        for prefix, prediction in zip(OUTPUTS, predictions, strict=True):
            agree(prediction.class_logits, arrays(f"head_{case}")[f"{prefix}pred_logits"])
            agree(prediction.mask_logits, arrays(f"head_{case}")[f"{prefix}pred_masks"])


class Replay:
    """Returns the recorded random numbers: for each output the matching points, candidates, and random points."""

    def __init__(self, stored):
        counts = [len(stored[f"match_final_img{i}_src"]) for i in range(2)]
        rows = [slice(0, counts[0]), slice(counts[0], None)]
        self.streams = [
            np.concatenate(
                [
                    draw.reshape(-1, 2)
                    for name in ("final", "aux0", "aux1", "aux2")
                    for draw in (
                        stored[f"rand_{name}_match_img{i}"],
                        stored[f"rand_{name}_oversample"][rows[i]],
                        stored[f"rand_{name}_random"][rows[i]],
                    )
                ]
            )
            for i in range(2)
        ]

    def __call__(self, image, count):
        assert len(self.streams[image]) == count
        return torch.from_numpy(self.streams[image])


class TestLoss:
    def test_targets(self, case):
        stored = arrays(f"loss_{case}")
        for i, target in enumerate(targets_from_instances([x["instances"] for x in batch()], (96, 128))):
            np.testing.assert_array_equal(target.labels.numpy(), stored[f"target_labels_img{i}"])
            np.testing.assert_array_equal(target.masks.numpy(), stored[f"target_masks_img{i}"])

    def test_matching(self, models, case):
        stored = arrays(f"loss_{case}")
        predictions = [
            Prediction(tensor(f"head_{case}", f"{p}pred_logits"), tensor(f"head_{case}", f"{p}pred_masks"))
            for p in OUTPUTS
        ]
        targets = pad_targets(targets_from_instances([x["instances"] for x in batch()], (96, 128)))
        points = [np.stack([stored[f"rand_{name}_match_img{i}"][0] for i in range(2)]) for name in NAMES]
        matching = models[case].criterion.matcher(predictions, targets, 2 * torch.from_numpy(np.stack(points)) - 1)
        rows, padded = predictions[0].class_logits.shape[1], targets.labels.shape[1]
        for layer, name in enumerate(NAMES):
            queries = [i * rows + stored[f"match_{name}_img{i}_src"] for i in range(2)]
            np.testing.assert_array_equal(matching.queries[layer].numpy(), np.concatenate(queries))
            matched = [i * padded + stored[f"match_{name}_img{i}_tgt"] for i in range(2)]
            np.testing.assert_array_equal(matching.targets[layer].numpy(), np.concatenate(matched))

    def test_points(self, case):
        stored = arrays(f"loss_{case}")
        for name, prefix in zip(NAMES, OUTPUTS, strict=True):
            masks = tensor(f"head_{case}", f"{prefix}pred_masks")
            logits = torch.cat([masks[i][stored[f"match_{name}_img{i}_src"]] for i in range(2)])
            candidates = 2 * torch.from_numpy(stored[f"rand_{name}_oversample"]) - 1
            points, random = 2 * stored[f"points_{name}"] - 1, 2 * stored[f"rand_{name}_random"] - 1
            count = points.shape[1] - random.shape[1]
            np.testing.assert_array_equal(points[:, count:], random)
            uncertain = uncertain_points(logits, candidates, count).numpy()
            for ours, theirs in zip(uncertain, points[:, :count], strict=True):  # in any order
                np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])

    def test_losses_and_gradients(self, models, case):
        stored = arrays(f"loss_{case}")
        model = models[case].train()
        model.zero_grad()
        predictions = head(model, case)
        targets = targets_from_instances([x["instances"] for x in batch()], (96, 128))
        losses = model.criterion(predictions, targets, Replay(stored))
        assert set(losses) == {key[1:] for key in stored if key.startswith("wloss_")} - {"loss_total"}
        for name, loss in losses.items():
            agree(loss, stored[f"w{name}"])
            weight = model.criterion.weights["_".join(name.split("_")[:2])]
            agree(loss / weight, stored[name])
        total = sum(losses.values())
        agree(total, stored["wloss_total"])

        total.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert set(gradients) == set(stored["grad_names"])
        for name, norm in zip(stored["grad_names"], stored["grad_l2"], strict=True):
            agree(gradients[name].double().norm(), norm, atol=1e-4)
        for key in (key for key in stored if key.startswith("grad:")):
            agree(gradients[key.removeprefix("grad:")], stored[key])
        # The published void embedding of a closed-set head is trainable and never trained; ours is frozen.
        assert {n for n, p in model.named_parameters() if p.requires_grad} == set(gradients)


class TestInference:
    SIZES = ((100, 140), (64, 64))

    def run(self, model):
        inputs = [x | {"height": h, "width": w} for x, (h, w) in zip(batch(), self.SIZES, strict=True)]
        with torch.no_grad():
            return model.eval()(inputs)

    def test_plain(self, models, case):
        stored = arrays(f"infer_{case}")
        for i, result in enumerate(self.run(models[case])):
            golden_map = stored[f"plain_semseg_img{i}"]
            assert result["sem_seg"].shape == (19, *self.SIZES[i])
            agree(thinned(result["sem_seg"], golden_map), golden_map)

    def test_scores_before_resizing(self, models, case):
        stored = arrays(f"infer_{case}")
        logits, masks = (torch.from_numpy(stored[f"eval_pred_{kind}"]) for kind in ("logits", "masks"))
        scores = semantic_scores(logits[0], masks[0], (96, 128))
        agree(thinned(scores, stored["semantic_inference_img0"]), stored["semantic_inference_img0"])

    def test_clip_opinion(self, models, case):
        stored = arrays(f"infer_{case}")
        model = models[case].eval()
        with torch.no_grad():
            prediction = head(model, case)[-1]
            agree(prediction.class_logits, stored["eval_pred_logits"])
            agree(prediction.mask_logits, stored["eval_pred_masks"])
            dense = stored_features(case)["clip_vis_dense"]
            masks = F.interpolate(prediction.mask_logits, size=dense.shape[-2:], mode="bilinear", align_corners=False)
            agree(masks, stored["mask_for_pooling"])
            np.testing.assert_array_equal((masks > 0).flatten(2).any(-1).numpy(), stored["valid_masking"])
            embedded = model.backbone.embed_masks(dense, masks)
            agree(embedded, stored["clip_mask_embedding"])
            text = model.backbone.text_classifier(model.test_classes)
            agree(
                text.logits(embedded, model.void_embedding.weight, model.backbone.logit_scale),
                stored["out_vocab_logits"],
            )
            if "pooled_clip_feature" in stored:
                agree(mask_pool(dense, masks), stored["pooled_clip_feature"])

    @pytest.mark.parametrize("valid", [0, 1])
    @pytest.mark.parametrize("overlap", ["all", "mixed"])
    def test_geometric_ensemble(self, models, case, overlap, valid, monkeypatch):
        stored = arrays(f"infer_{case}")
        model = models[case].eval()
        monkeypatch.setattr(model, "geometric_ensemble", True)
        monkeypatch.setattr(model, "ensemble_on_valid_mask", bool(valid))
        if overlap == "mixed":  # The other classes count as unseen.
            seen = stored["overlap_mixed"].astype(bool)
            assert 0 < seen.sum() < 19
            trained = tuple(name for name, keep in zip(model.test_classes, seen, strict=True) if keep)
            monkeypatch.setattr(model, "train_classes", trained)
        tag = f"ens_valid{valid}_{overlap}"
        with torch.no_grad():
            result = model.ensemble(head(model, case)[-1], stored_features(case), model.test_classes)
        agree(result.class_logits, stored[f"{tag}_mask_cls"])
        for i, out in enumerate(self.run(model)):
            golden_map = stored[f"{tag}_semseg_img{i}"]
            agree(thinned(out["sem_seg"], golden_map), golden_map)

    def test_empty_masks_give_the_output_bias(self, models):
        stored = arrays("rn_attnpool_emptymask")
        assert not (stored["masks"][0, 1] > 0).any()
        with torch.no_grad():
            ours = models["rn_closed"].backbone.embed_masks(*(torch.from_numpy(stored[k]) for k in ("x", "masks")))
        agree(ours, stored["out"])
        agree(ours[0, 1], models["rn_closed"].backbone.clip_model.visual.attnpool.c_proj.bias)


def test_canvas_padding_is_zero_after_normalization(models):
    images = models["rn_closed"].preprocess([x["image"] for x in batch()], (96, 128))
    assert (images[1, :, 64:] == 0).all()
    assert (images[1, :, :, 64:] == 0).all()
    assert (images[1, :, :64, :64] != 0).any()
