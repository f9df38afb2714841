"""Every config key: its name, its default, and what it means. Published names keep their published meaning.

One tree for both modes of `clouds.d2`: every key below is set explicitly, whatever detectron2's own default is, and
what a user sets is checked against these keys alone. The defaults are the paper's network and GTA5 recipe.
"""

from typing import Any

DEFAULTS: dict[str, Any] = {
    "VERSION": 2,  # of the config format; the only one there is
    "OUTPUT_DIR": "./output",  # logs, metrics, checkpoints, the resolved config
    "SEED": -1,  # of everything random; negative: drawn at the start and logged
    "MODEL": {
        "META_ARCHITECTURE": "CLOUDS",
        "WEIGHTS": "",  # checkpoint to start from or to evaluate; "" starts from CLIP and a fresh head
        "DEVICE": "auto",  # "auto": cuda if there is one, else cpu
        "SAVE_PSEUDO_LABELS": False,  # evaluation also writes its predictions to OUTPUT_DIR/pseudo_labels/<data set>
        "PIXEL_MEAN": [122.7709383, 116.7460125, 104.09373615],  # CLIP's, RGB, of 0..255
        "PIXEL_STD": [68.5005327, 66.6321579, 70.32316305],
        "BACKBONE": {"NAME": "CLIP"},  # "CLIP": frozen towers; "TrainableCLIP": the same, trained
        "SEM_SEG_HEAD": {
            "NAME": "CLOUDSHead",
            "IN_FEATURES": ["res2", "res3", "res4", "res5"],  # backbone maps handed to the pixel decoder
            "IGNORE_VALUE": 255,  # label of pixels that count nowhere
            "NUM_CLASSES": 19,
            "CONVS_DIM": 256,  # channels inside the pixel decoder
            "MASK_DIM": 256,  # channels of the mask features
            "NORM": "GN",
            "PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
            "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],  # the others join in the FPN
            "DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,  # sampled per head and level
            "DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": 8,
            "TRANSFORMER_ENC_LAYERS": 6,
            "TRANSFORMER_ENC_DIM_FEEDFORWARD": 1024,
            "COMMON_STRIDE": 4,  # of the mask features, in input pixels
        },
        "MASK_FORMER": {
            # The class head: Original... is a linear layer, MultiScale... compares with CLIP's text embeddings, Bis...
            # classifies the features pooled under each mask.
            "TRANSFORMER_DECODER_NAME": "OriginalMultiScaleMaskedTransformerDecoder",
            "HIDDEN_DIM": 256,
            "NUM_OBJECT_QUERIES": 100,
            "NHEADS": 8,
            "DIM_FEEDFORWARD": 2048,
            "DEC_LAYERS": 10,  # predictions: nine layers, and the learnt queries before the first
            "DROPOUT": 0.0,
            "PRE_NORM": False,  # normalise before each block instead of after it
            "ENFORCE_INPUT_PROJ": False,  # a 1x1 convolution on the decoder's input even where the widths agree
            "SIZE_DIVISIBILITY": 32,  # batches are padded to a multiple of this
            "DEEP_SUPERVISION": True,  # the losses on every prediction, not only the last
            "CLASS_WEIGHT": 2.0,  # of cross-entropy, in the loss and in the matching; the next two likewise
            "MASK_WEIGHT": 5.0,
            "DICE_WEIGHT": 5.0,
            "NO_OBJECT_WEIGHT": 0.1,  # of the class "no object" within the cross-entropy
            "TRAIN_NUM_POINTS": 12544,  # a mask is compared at this many points
            "OVERSAMPLE_RATIO": 3.0,  # this many times as many are drawn to choose the uncertain ones from
            "IMPORTANCE_SAMPLE_RATIO": 0.75,  # share of the points that are chosen so; the rest is random
        },
        "CLOUDS": {
            "CLIP_MODEL_NAME": "convnext_large_d_320",  # open_clip's name
            "CLIP_PRETRAINED_WEIGHTS": "laion2b_s29b_b131k_ft_soup",  # open_clip's tag or a local file; "" for none
            "EMBED_DIM": 768,  # of CLIP's common space of images and texts
            "GEOMETRIC_ENSEMBLE": False,  # mix in CLIP's own class scores when predicting
            "GEOMETRIC_ENSEMBLE_ALPHA": 0.4,  # CLIP's exponent for classes seen in training
            "GEOMETRIC_ENSEMBLE_BETA": 0.8,  # and for the others
            "ENSEMBLE_ON_VALID_MASK": False,  # only for masks that are not empty; the ResNet towers need it
            "GEOMETRIC_ENSEMBLE_EMA": False,  # the same mixing where the teacher labels generated images
            "ITERATION_UPDATE": 100,  # iterations between two updates of the teacher
            # Self-training on generated images.
            "SAM": {
                "MINIBATCH": False,  # a teacher labels the generated images of every batch; joint training needs it
                "ENABLED": False,  # SAM refines these labels
                "ALPHA_EMA": 0.999,  # share of the teacher that an update keeps; the rest is the student's
                "SIZE_THRESHOLD": 5000,  # pixels; only larger regions of a label map are shown to SAM
                "NUM_POINTS": 5,  # prompts for each region
                "SELECTION_MODE": "random",  # of the prompts within a region: or "center", "largest_component"
                "EROSION": False,  # keep the prompts off the border of a region
                "EROSION_SIZE": 3,  # pixels, side of the square that erodes
                "RM_INTERSECTION": True,  # drop pixels that masks of two classes claim
                "KEEP_TEACHER": False,  # pixels that SAM leaves without a label keep the teacher's
                "REFINEMENT": False,  # a second pass of SAM that is shown the masks of the first
                "MOBILE": True,  # MobileSAM; else what TYPE says
                "TYPE": "vit_h",  # "vit_l", "vit_b"; or the folder WEIGHTS: "transformers", "segment_anything"
                "WEIGHTS": "",  # file or folder; "": that of the type in the folder weights
                "IMAGE_SIZE": 1024,  # pixels, longest side of the image that SAM sees; a multiple of 64
                "PROMPTS_AT_ONCE": 64,  # regions decoded together; bounds the memory
                "CACHE_DIR": "",  # keep SAM's image embeddings here; "": compute them anew each time
                "CACHE_SIZE": 25.0,  # GB; 5,000 images and their mirrors are 21; beyond, the longest unused leave
            },
            "PANEL_PERIOD": 0,  # iterations between two pictures of pseudo-labels; 0: none
        },
    },
    "INPUT": {
        "INITIAL_HEIGHT": 1052,  # the size of training images before the random scale
        "INITIAL_WIDTH": 1914,
        "RESIZE": {"ENABLED": True},  # random scale by a factor within SCALE_RANGE
        "SCALE_RANGE": (0.5, 2.0),
        "CROP": {"ENABLED": True},  # random window of CROP_SIZE
        "CROP_SIZE": (768, 768),  # [height, width]; smaller images are padded
        "COLOR_AUG_SSD": True,  # jitter of brightness, contrast, saturation and hue
        "COLOR_AUG_STRENGTH": 1.0,  # scales the published ranges of that jitter; 2 and above also takes all colour away
        "FLIP": True,  # mirror every second image
        "PL_THRESHOLD": 0.0,  # pseudo-labels with a lower confidence (0..1) are left out
        "TEST_SHORT_EDGE": 1024,  # images are resized to this shortest edge before the network; 0 keeps their size
    },
    "DATASETS": {
        "TRAIN": (),
        "TEST": (),
        "SOURCE_FACTOR": 1.0,  # repeats of a labelled image in an epoch; a fraction is a probability
        "TARGET_FACTOR": 1.0,  # likewise of a generated one
        "CUSTOM": (),  # YAML files that describe data sets of your own, see datasets/README.md
        "MODULES": (),  # python modules with register(root), which add data sets of their own
    },
    "DATALOADER": {
        "NUM_WORKERS": 4,  # processes that load images, for each training process
        # "TrainingSampler"; "WeightedTrainingSampler", which heeds the two factors above; or "RareClassSampler", which
        # also draws the labelled images by their classes.
        "SAMPLER_TRAIN": "TrainingSampler",
        "RARE_CLASS": {
            "TEMPERATURE": 0.01,  # of exp((1 - share of the pixels) / T), by which a class is drawn; high: all alike
            "MIN_PIXELS": 3000,  # an image counts as one of a class from so many pixels of it on
            "MIN_CROP_RATIO": 0.5,  # a crop is drawn again, up to ten times, below this share of MIN_PIXELS
        },
    },
    "SOLVER": {
        "IMS_PER_BATCH": 8,  # on all processes together
        "MAX_ITER": 40000,
        "OPTIMIZER": "ADAMW",  # or "SGD"
        "BASE_LR": 1e-5,
        "BACKBONE_MULTIPLIER": 0.1,  # on the learning rate of the backbone
        "MOMENTUM": 0.9,  # SGD's
        "WEIGHT_DECAY": 0.05,
        "WEIGHT_DECAY_NORM": 0.0,  # of normalisation layers
        "WEIGHT_DECAY_EMBED": 0.0,  # of embeddings
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR",  # or "WarmupPolyLR"
        "STEPS": (100000,),  # WarmupMultiStepLR multiplies by GAMMA here; the published recipes end before
        "GAMMA": 0.1,
        "POLY_LR_POWER": 0.9,
        "POLY_LR_CONSTANT_ENDING": 0.0,  # WarmupPolyLR does not fall below this share of BASE_LR
        "WARMUP_METHOD": "linear",  # or "constant"
        "WARMUP_FACTOR": 1.0,  # share of BASE_LR at the first iteration
        "WARMUP_ITERS": 10,
        # The gradient norm of the whole model is clipped ("full_model"), or each parameter's ("norm", "value").
        "CLIP_GRADIENTS": {"ENABLED": True, "CLIP_TYPE": "full_model", "CLIP_VALUE": 0.01, "NORM_TYPE": 2.0},
        "CHECKPOINT_PERIOD": 0,  # iterations; 0: at every fifth evaluation
        "CHECKPOINTS_KEPT": 3,  # so many of the newest, and the final one, stay on disk; 0: all
        "CHECKPOINT_FROZEN": False,  # also store what is not trained, as the published checkpoints do
        # Mixed precision. "auto": bfloat16 on a GPU that has it, float16 with loss scaling on another, none on a
        # CPU, where neither pays; "bfloat16" and "float16" hold on every device.
        "AMP": {"ENABLED": False, "DTYPE": "auto"},
    },
    "TEST": {
        "EVAL_PERIOD": 4000,  # iterations; 0: only at the end
        # "full_resolution": ground truth at its own size. "published_short_edge": resized to the network's input.
        "PROTOCOL": "full_resolution",
        "AMP": False,  # evaluate in the precision of SOLVER.AMP.DTYPE too; scores then depend on the device
        "BOUNDARY_IOU": False,  # also score how well the outlines of the classes are met
    },
    "WANDB": {
        "PROJECT": "",  # training curves also go to this project of Weights & Biases; "": they do not
        "NAME": "",  # of the run there; "": W&B makes one up
    },
}

# What published configs and detectron2's own dumps set and nothing here reads: accepted, with one log line.
IGNORED_SECTIONS = (
    *("GLOBAL", "TEST.AUG", "TEST.PRECISE_BN", "MODEL.MASK_FORMER.TEST"),
    *(f"MODEL.{name}" for name in ("ANCHOR_GENERATOR", "FPN", "PANOPTIC_FPN", "PROPOSAL_GENERATOR", "RESNETS")),
    *(f"MODEL.{name}" for name in ("RETINANET", "ROI_BOX_CASCADE_HEAD", "ROI_BOX_HEAD", "ROI_HEADS")),
    *(f"MODEL.{name}" for name in ("ROI_KEYPOINT_HEAD", "ROI_MASK_HEAD", "RPN", "SWIN")),
)
IGNORED_KEYS = frozenset(
    f"{section}{key}"
    for section, keys in {
        "": "CUDNN_BENCHMARK FLOAT32_PRECISION VIS_PERIOD",
        "MODEL.": "FLASH KEYPOINT_ON LOAD_PROPOSALS MASK_ON",
        "MODEL.BACKBONE.": "FREEZE_AT",
        "MODEL.CLOUDS.": "OVERWRITING",
        "MODEL.SEM_SEG_HEAD.": "LOSS_WEIGHT LOSS_TYPE PROJECT_FEATURES PROJECT_CHANNELS ASPP_CHANNELS ASPP_DILATIONS "
        "ASPP_DROPOUT USE_DEPTHWISE_SEPARABLE_CONV",
        "MODEL.MASK_FORMER.": "ENC_LAYERS TRANSFORMER_IN_FEATURE",
        "INPUT.": "DATASET_MAPPER_NAME FORMAT IMAGE_SIZE MASK_FORMAT MAX_SCALE MAX_SIZE_TEST MAX_SIZE_TRAIN MIN_SCALE "
        "MIN_SIZE_TEST MIN_SIZE_TRAIN MIN_SIZE_TRAIN_SAMPLING RANDOM_FLIP RESIZE_HEIGHT RESIZE_WIDTH "
        "SIZE_DIVISIBILITY",
        "INPUT.RESIZE.": "SIZE_TRAIN",
        "INPUT.CROP.": "SINGLE_CATEGORY_MAX_AREA SIZE TYPE",
        "DATASETS.": "PRECOMPUTED_PROPOSAL_TOPK_TEST PRECOMPUTED_PROPOSAL_TOPK_TRAIN PROPOSAL_FILES_TEST "
        "PROPOSAL_FILES_TRAIN TRAIN_REPEAT_FACTOR",
        "DATALOADER.": "ASPECT_RATIO_GROUPING FILTER_EMPTY_ANNOTATIONS REPEAT_SQRT REPEAT_THRESHOLD",
        "SOLVER.": "BASE_LR_END BIAS_LR_FACTOR NESTEROV NUM_DECAYS REFERENCE_WORLD_SIZE RESCALE_INTERVAL "
        "WEIGHT_DECAY_BIAS",
        "TEST.": "DETECTIONS_PER_IMAGE EXPECTED_RESULTS KEYPOINT_OKS_SIGMAS",
    }.items()
    for key in keys.split()
)
