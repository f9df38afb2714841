"""`torch.compile`: tower and head are one graph each, with and without autocast."""

import pytest
import torch

from clouds.modeling.backbone.towers import bfloat16_copy, feature_maps, image_tower, tower_stages
from tests.parity import golden

LEVELS = ("res2", "res3", "res4", "res5")


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("case", ["convnext_text", "convnext_closed", "rn_closed"])
def test_tower_and_head_have_no_graph_break(case: str, amp: bool) -> None:
    model = golden.build(case)
    images = golden.tensor(f"backbone_{case.split('_')[0]}", "images_norm")
    text = model.text_classifier(model.train_classes)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        features = model.backbone(images)
        stages = tower_stages(image_tower(model.backbone.clip_model))
        stages = bfloat16_copy(stages) if amp else stages
        parts = ((feature_maps, (stages, images, LEVELS)), (model.sem_seg_head, (features, text, model.void)))
        for function, args in parts:
            torch.compiler.reset()
            explained = torch._dynamo.explain(function)(*args)
            assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons
