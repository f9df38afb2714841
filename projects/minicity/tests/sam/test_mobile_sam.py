"""The real MobileSAM on drawn scenes; skipped if its weights are missing."""

import numpy as np
import pytest
import torch
from minicity.paths import REPOSITORY
from minicity.world.classes import Label
from minicity.world.records import Rendered
from minicity.world.render import render_scene

from clouds.config import get_config
from clouds.self_training.regions import choose_points, find_regions
from clouds.self_training.sam import Sam, build_sam
from clouds.self_training.sam.weights import GET_WEIGHTS, WEIGHTS

FILE = REPOSITORY / WEIGHTS["mobile_sam"]
VEHICLES = (Label.CAR, Label.TRUCK, Label.BUS, Label.TRAIN)
LARGE = {**dict.fromkeys(VEHICLES, 0.02), Label.ROAD: 0.2}  # share of the image

pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"needs {WEIGHTS['mobile_sam']}: {GET_WEIGHTS}")


def real_sam(**settings) -> Sam:
    cfg = get_config()
    for key, value in {"WEIGHTS": str(FILE), "CACHE_DIR": "", **settings}.items():
        cfg.MODEL.CLOUDS.SAM[key] = value
    return build_sam(cfg, "cpu")


def test_it_agrees_with_mobile_sams_own_code():
    """The expected numbers come from MobileSAM's own code, resizing included."""
    y, x = np.mgrid[:300, :400]
    image = np.stack([x * 255 // 399, y * 255 // 299, (x // 40 + y // 30) % 2 * 200], axis=0).astype(np.uint8)
    sam = real_sam(REFINEMENT=True)
    (embedding,) = sam.encode([torch.from_numpy(image)])
    # fmt: off
    theirs = [
        0.0941, 0.0308, 0.0050, -0.0437, -0.0188, -0.0125, 0.0007, -0.0050, -0.1222, -0.1100,
        -0.0606, -0.0318, -0.0152, -0.0115, 0.0591, 0.0167, 0.0121, -0.0034, -0.0046, -0.0193,
    ]
    # fmt: on
    ours = embedding.features[0][::60, 10:41:30, 20::40]
    torch.testing.assert_close(ours.flatten(), torch.tensor(theirs), rtol=0, atol=2e-4)
    masks = sam.predict(embedding, torch.tensor([[[60.0, 45], [70, 50]], [[220, 200], [230, 190]]]))
    torch.testing.assert_close(masks.flatten(1).sum(1), torch.tensor([1188, 1194]), rtol=0, atol=2)


def large_things(scene: Rendered) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return points (P, 5, 2), classes (P,) and true masks (P, H, W) of large roads and large whole vehicles."""
    regions = find_regions(scene.label, min_area=int(0.02 * scene.label.size))
    # Two cars that overlap form one region of the label map, but SAM separates them.
    whole = {(int(thing.label), thing.area) for thing in scene.objects}
    prompts = choose_points(regions, num_points=5, mode="random", erosion=3, rng=np.random.default_rng(0))
    areas = regions.areas[prompts.region]
    rows = [
        row
        for row, (label, area) in enumerate(zip(prompts.classes.tolist(), areas.tolist(), strict=True))
        if area >= LARGE.get(label, 2) * scene.label.size and (label == Label.ROAD or (label, area) in whole)
    ]
    truth = regions.ids == prompts.region[rows][:, None, None] + 1
    return torch.from_numpy(prompts.points[rows]), torch.from_numpy(prompts.classes[rows]), torch.from_numpy(truth)


def test_points_give_the_mask_of_the_object_that_they_lie_on():
    sam = real_sam(IMAGE_SIZE=512, REFINEMENT=True)
    found: dict[bool, list[float]] = {True: [], False: []}
    for style in ("minicity_sim", "minicity_snow"):
        for index in range(2):
            scene = render_scene(style, 11, index)
            points, classes, truth = large_things(scene)
            (embedding,) = sam.encode([torch.from_numpy(scene.image).permute(2, 0, 1)])
            masks = sam.predict(embedding, points)
            ious = (masks & truth).flatten(1).sum(1) / (masks | truth).flatten(1).sum(1)
            for label, iou in zip(classes.tolist(), ious.tolist(), strict=True):
                found[label == Label.ROAD].append(iou)
    for ious in found.values():
        assert len(ious) >= 4
        assert np.mean(ious) > 0.85
        assert min(ious) > 0.7
