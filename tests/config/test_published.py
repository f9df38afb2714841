"""The published configs load without a warning and have the published values."""

from pathlib import Path

import pytest

from clouds.config import load_config
from clouds.config.keys import value_of
from tests.config.keys import KNOWN

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

UNSEEN = ("mapillary_val", "bdd_val", "cityscapes_val")
ADVERSE = ("acdc_night_val", "acdc_rain_val", "acdc_snow_val", "acdc_fog_val", "cityscapes_val")
STEPS, POLY = "WarmupMultiStepLR", "WarmupPolyLR"
# source: file stem, train set, height, width, test sets, iterations, rate, evaluation period, schedule, warm-up
SOURCES = {
    "gta": ("train_gta", "gta5", 1052, 1914, UNSEEN, 40000, 1e-5, 4000, STEPS, 10),
    "synthia": ("train_syn", "synthia", 760, 1280, UNSEEN, 30000, 1e-5, 1500, POLY, 0),
    "cityscapes": ("train_city", "cityscapes_train", 1024, 2048, ADVERSE, 5000, 1e-4, 500, STEPS, 10),
}
# file suffix: CLIP model, weights, embedding, ensemble only on masks that are not empty
TOWERS = {
    "": ("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup", 768, False),
    "_r50": ("RN50", "openai", 1024, True),
    "_r101": ("RN101", "openai", 512, True),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("tower", TOWERS)
def test_published_figures(source, tower, caplog):
    stem, train, height, width, test, iterations, rate, period, schedule, warmup = SOURCES[source]
    cfg = load_config(CONFIGS / "warmup" / source / f"{stem}{tower}.yaml")
    assert caplog.records == []  # our own files set nothing that is not read

    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == ((train,), test)
    assert (cfg.INPUT.INITIAL_HEIGHT, cfg.INPUT.INITIAL_WIDTH) == (height, width)
    assert (cfg.INPUT.CROP_SIZE, cfg.INPUT.SCALE_RANGE) == ((768, 768), (0.5, 2.0))
    assert cfg.INPUT.RESIZE.ENABLED
    assert cfg.INPUT.CROP.ENABLED
    assert cfg.INPUT.FLIP
    assert cfg.INPUT.COLOR_AUG_SSD
    assert (cfg.INPUT.TEST_SHORT_EDGE, cfg.TEST.PROTOCOL) == (1024, "full_resolution")

    clip = cfg.MODEL.CLOUDS
    model, weights, width, valid = TOWERS[tower]
    assert (clip.CLIP_MODEL_NAME, clip.CLIP_PRETRAINED_WEIGHTS, clip.EMBED_DIM) == (model, weights, width)
    assert (clip.ENSEMBLE_ON_VALID_MASK, clip.GEOMETRIC_ENSEMBLE) == (valid, False)
    assert (clip.GEOMETRIC_ENSEMBLE_ALPHA, clip.GEOMETRIC_ENSEMBLE_BETA) == (0.4, 0.8)

    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.BASE_LR, cfg.TEST.EVAL_PERIOD) == (iterations, rate, period)
    assert (solver.LR_SCHEDULER_NAME, solver.WARMUP_ITERS, solver.WARMUP_FACTOR) == (schedule, warmup, 1.0)
    assert (solver.STEPS, solver.POLY_LR_POWER) == ((100000,), 0.9)
    assert (solver.IMS_PER_BATCH, solver.OPTIMIZER, solver.WEIGHT_DECAY) == (8, "ADAMW", 0.05)
    assert (solver.WEIGHT_DECAY_NORM, solver.WEIGHT_DECAY_EMBED, solver.BACKBONE_MULTIPLIER) == (0.0, 0.0, 0.1)
    assert dict(solver.CLIP_GRADIENTS) == {
        "ENABLED": True,
        "CLIP_TYPE": "full_model",
        "CLIP_VALUE": 0.01,
        "NORM_TYPE": 2.0,
    }


# source: file stem, train set, iterations, repeat factor of generated images
JOINT = {
    "gta": ("train_jt_gta", "gta5", 40000, 2.0),
    "synthia": ("train_jt_syn", "synthia", 30000, 0.7),
    "cityscapes": ("train_jt_city", "cityscapes_train", 10000, 0.2),
}


@pytest.mark.parametrize("source", JOINT)
@pytest.mark.parametrize("tower", TOWERS)
def test_published_joint_training(source, tower, caplog):
    stem, train, iterations, factor = JOINT[source]
    warmup = load_config(CONFIGS / "warmup" / source / f"{SOURCES[source][0]}{tower}.yaml")
    cfg = load_config(CONFIGS / "joint_training" / source / f"{stem}{tower}.yaml")
    assert caplog.records == []
    changed = {
        "MODEL.WEIGHTS": f"{warmup.OUTPUT_DIR}/model_final.pth",
        "MODEL.CLOUDS.SAM.MINIBATCH": True,
        "MODEL.CLOUDS.SAM.ENABLED": True,
        "DATASETS.TRAIN": (train, "sd_llama70b_v2"),
        "DATASETS.TARGET_FACTOR": factor,
        "DATALOADER.SAMPLER_TRAIN": "WeightedTrainingSampler",
        "SOLVER.MAX_ITER": iterations,
        "OUTPUT_DIR": warmup.OUTPUT_DIR.replace("warmup", "joint"),
    }
    assert {key: value_of(cfg, key) for key in KNOWN} == {key: value_of(warmup, key) for key in KNOWN} | changed
    assert (cfg.DATASETS.SOURCE_FACTOR, cfg.INPUT.PL_THRESHOLD) == (1.0, 0.0)
    clouds, sam = cfg.MODEL.CLOUDS, cfg.MODEL.CLOUDS.SAM
    assert (sam.ALPHA_EMA, clouds.ITERATION_UPDATE, clouds.GEOMETRIC_ENSEMBLE_EMA) == (0.999, 100, False)
    assert (sam.SIZE_THRESHOLD, sam.NUM_POINTS, sam.SELECTION_MODE) == (5000, 5, "random")
    assert (sam.EROSION, sam.EROSION_SIZE, sam.RM_INTERSECTION, sam.REFINEMENT) == (False, 3, True, False)
    assert (sam.MOBILE, sam.TYPE) == (True, "vit_h")


def test_every_published_recipe_has_a_folder_of_its_own():
    files = [*CONFIGS.glob("warmup/*/*.yaml"), *CONFIGS.glob("joint_training/*/*.yaml")]
    assert len({load_config(file).OUTPUT_DIR for file in files}) == len(files) == 18


def test_published_network():
    cfg = load_config(CONFIGS / "segmentation" / "clouds_config.yaml")
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME, cfg.MODEL.WEIGHTS) == ("CLOUDS", "CLIP", "")
    assert cfg.MODEL.PIXEL_MEAN == cfg.MODEL.PIXEL_STD == []  # the backbone's own
    head, former = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    assert (head.NAME, head.PIXEL_DECODER_NAME, head.NUM_CLASSES) == ("CLOUDSHead", "MSDeformAttnPixelDecoder", 19)
    assert (head.TRANSFORMER_ENC_LAYERS, head.CONVS_DIM, head.MASK_DIM, head.COMMON_STRIDE) == (6, 256, 256, 4)
    assert head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES == ["res3", "res4", "res5"]
    assert (head.TRANSFORMER_ENC_DIM_FEEDFORWARD, head.NORM, head.IGNORE_VALUE) == (1024, "GN", 255)
    assert former.TRANSFORMER_DECODER_NAME == "OriginalMultiScaleMaskedTransformerDecoder"
    assert (former.NUM_OBJECT_QUERIES, former.DEC_LAYERS, former.NHEADS, former.DIM_FEEDFORWARD) == (100, 10, 8, 2048)
    assert (former.CLASS_WEIGHT, former.MASK_WEIGHT, former.DICE_WEIGHT) == (2.0, 5.0, 5.0)
    assert (former.NO_OBJECT_WEIGHT, former.DROPOUT, former.PRE_NORM) == (0.1, 0.0, False)
    assert (former.TRAIN_NUM_POINTS, former.OVERSAMPLE_RATIO, former.IMPORTANCE_SAMPLE_RATIO) == (12544, 3.0, 0.75)
