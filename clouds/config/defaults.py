"""Every config key with its default and a comment on its meaning. Published keys keep their published meaning.

`clouds.config.schema` has the range of each value. The keys are the same in both modes of `clouds.d2`: each one is set
here, whatever the default of detectron2 is, and files and command lines may only set these keys. The defaults are the
network of the paper and its recipe for GTA5.
"""

from typing import Any

DEFAULTS: dict[str, Any] = {
    "VERSION": 2,  # version of the config format
    "OUTPUT_DIR": "./output",  # folder for logs, metrics, checkpoints and the resolved config
    "SEED": -1,  # seed of everything random; a negative value is replaced by a random one, which is logged
    # Precision of products and convolutions of float32 numbers: "highest": float32; "high": TF32 on a GPU; "medium":
    # bfloat16; "": high on a GPU, highest elsewhere.
    "FLOAT32_PRECISION": "",
    # On a GPU, cuDNN measures its algorithms and uses the fastest: in training, where all crops have one size.
    "CUDNN_BENCHMARK": True,
    # On a GPU, use deterministic algorithms: runs with one SEED have equal weights. An operation that has no such
    # algorithm is reported. It costs speed. On a CPU, runs are always deterministic.
    "DETERMINISTIC": False,
    "MODEL": {
        "META_ARCHITECTURE": "CLOUDS",  # name in the registry of architectures
        "WEIGHTS": "",  # checkpoint to start from or to evaluate; "": CLIP's weights and a randomly initialized head
        "DEVICE": "auto",  # torch device; "auto": a GPU if there is one, else the CPU
        # Compile backbone and head with torch.compile, which needs Triton on a GPU and a C++ compiler on a CPU. It pays
        # in long runs: compiling takes minutes.
        "COMPILE": False,
        "SAVE_PSEUDO_LABELS": False,  # evaluation also writes label maps to OUTPUT_DIR/pseudo_labels/<data set>
        "PIXEL_MEAN": [],  # mean of the input in RGB, 0..255; empty: the backbone's own
        "PIXEL_STD": [],  # standard deviation of the input in RGB, 0..255; empty: the backbone's own
        "BACKBONE": {
            # Name in the registry of backbones: "CLIP" has frozen towers, "TimmTower" a frozen image tower of timm;
            # that of "TrainableCLIP" or "TrainableTimmTower" is trained.
            "NAME": "CLIP",
            "CHECKPOINTING": False,  # recompute the activations of a trained or adapted tower: less memory, more time
            "TIMM": {
                # timm name with the tag of its weights, "hf-hub:" name, or folder with config.json and weights.
                "MODEL_NAME": "convnext_large.dinov3_lvd1689m",
                "WEIGHTS": "pretrained",  # or a file (.safetensors, .pth); "": random
                "PATCH_SIZE": 16,  # pixels to which the patches of a plain transformer are resampled; 0: its own size
            },
        },
        # A few trained parameters that change the features of a frozen tower.
        "ADAPTER": {
            "NAME": "",  # name in the registry of adapters: "LoRA", "SoMA" or "Rein"; "": none
            # Folder in peft's layout that the adapter starts from, as `clouds adapter` writes it; "": none.
            "WEIGHTS": "",
            "RANK": 16,  # rank of each matrix that the adapter learns
            "ALPHA": 16.0,  # the difference of LoRA has the factor ALPHA / RANK
            # Regular expressions for names of linear layers inside a block, such as "mlp\.fc[12]", which LoRA and SoMA
            # adapt; empty: those of the tower.
            "PATTERNS": (),
            "SKIP_BLOCKS": 0,  # number of blocks at the beginning of the tower that are not adapted
            "TOKENS": 100,  # number of Rein's tokens
            "LINK_QUERIES": True,  # Rein's tokens, as many as queries, give the queries their position embeddings
        },
        "SEM_SEG_HEAD": {
            "NAME": "CLOUDSHead",  # name in the registry of heads
            "IN_FEATURES": ["res2", "res3", "res4", "res5"],  # feature maps of the backbone for the pixel decoder
            "IGNORE_VALUE": 255,  # label of pixels that neither the loss nor a metric counts; fixed
            "NUM_CLASSES": 19,  # number of classes without void
            "CONVS_DIM": 256,  # channels of the pixel decoder
            "MASK_DIM": 256,  # channels of the mask features
            "NORM": "GN",  # normalization in the pixel decoder: "GN" (group normalization) or "" for none
            "PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",  # name in the registry of heads
            # Feature maps for the deformable encoder; the finer ones are added by a feature pyramid.
            "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
            "DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,  # sampling points per head and feature level
            "DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": 8,  # attention heads of the deformable encoder
            # Implementation of the deformable attention: "triton" (CUDA), "embedding_bag" (CPU), "grid_sample" (any
            # device); "auto": the fastest for the device. The results are equal but for rounding.
            "DEFORMABLE_ATTENTION": "auto",
            "TRANSFORMER_ENC_LAYERS": 6,  # layers of the deformable encoder
            "TRANSFORMER_ENC_DIM_FEEDFORWARD": 1024,  # hidden channels of its feed-forward networks
            "COMMON_STRIDE": 4,  # stride of the mask features, in input pixels
        },
        "MASK_FORMER": {
            # Name in the registry of transformer decoders, which differ in the class head:
            # "OriginalMultiScaleMaskedTransformerDecoder" has a linear layer, "MultiScaleMaskedTransformerDecoder"
            # compares queries and the features pooled under their masks with CLIP's text embeddings,
            # "BisMultiScaleMaskedTransformerDecoder" has a linear layer on these features.
            "TRANSFORMER_DECODER_NAME": "OriginalMultiScaleMaskedTransformerDecoder",
            "HIDDEN_DIM": 256,  # channels of the queries
            "NUM_OBJECT_QUERIES": 100,  # number of queries
            "NHEADS": 8,  # attention heads of the transformer decoder
            "DIM_FEEDFORWARD": 2048,  # hidden channels of its feed-forward networks
            "DEC_LAYERS": 10,  # number of predictions: one of the learned queries, then one after each of nine layers
            "DROPOUT": 0.0,  # dropout probability in the deformable encoder
            "PRE_NORM": False,  # normalize before each block of the transformer decoder instead of after it
            "ENFORCE_INPUT_PROJ": False,  # project the decoder's input by a 1x1 convolution even if the channels agree
            "SIZE_DIVISIBILITY": 32,  # pad batches to a multiple of this and of the backbone's own divisor
            "DEEP_SUPERVISION": True,  # compute the losses on every prediction instead of the last one only
            "CLASS_WEIGHT": 2.0,  # weight of the cross-entropy, in the loss and in the matching
            "MASK_WEIGHT": 5.0,  # weight of the binary mask loss, in the loss and in the matching
            "DICE_WEIGHT": 5.0,  # weight of the dice loss, in the loss and in the matching
            "NO_OBJECT_WEIGHT": 0.1,  # weight of the void class in the cross-entropy
            "TRAIN_NUM_POINTS": 12544,  # number of points at which masks are compared
            "OVERSAMPLE_RATIO": 3.0,  # candidates per point from which the most uncertain ones are chosen
            "IMPORTANCE_SAMPLE_RATIO": 0.75,  # share of the points chosen by uncertainty; the others are random
        },
        "CLOUDS": {
            "CLIP_MODEL_NAME": "convnext_large_d_320",  # CLIP: name of an open_clip model, a .json config or a folder
            "CLIP_PRETRAINED_WEIGHTS": "laion2b_s29b_b131k_ft_soup",  # open_clip tag or local file; "": none
            "EMBED_DIM": 768,  # dimension of CLIP's common space of images and texts
            "GEOMETRIC_ENSEMBLE": False,  # combine the class scores with CLIP's own when predicting
            "GEOMETRIC_ENSEMBLE_ALPHA": 0.4,  # exponent of CLIP's scores for classes of the training set
            "GEOMETRIC_ENSEMBLE_BETA": 0.8,  # exponent of CLIP's scores for other classes
            "ENSEMBLE_ON_VALID_MASK": False,  # combine for masks that are not empty only; ResNet towers need it
            "GEOMETRIC_ENSEMBLE_EMA": False,  # combine in the same way when the teacher labels generated images
            "ITERATION_UPDATE": 100,  # iterations between two updates of the teacher
            # Self-training on generated images.
            "SAM": {
                "MINIBATCH": False,  # switch of self-training: the teacher labels the generated images of each batch
                "ENABLED": False,  # SAM refines these pseudo-labels; no effect without MINIBATCH
                "ALPHA_EMA": 0.999,  # share of the teacher's weights that an update keeps
                "SIZE_THRESHOLD": 5000,  # pixels; only regions of a label map that are larger are prompted
                # "points": points in each region; "text": the names of the classes of these regions, for SAM 3.
                "PROMPTS": "points",
                "SCORE_THRESHOLD": 0.5,  # score above which SAM 3 has found an instance of a class name
                "NUM_POINTS": 5,  # point prompts per region
                "SELECTION_MODE": "random",  # choice of the points in a region: or "center", "largest_component"
                "EROSION": False,  # keep the points away from the border of the region
                "EROSION_SIZE": 3,  # pixels, side of the square of the erosion
                "RM_INTERSECTION": True,  # leave pixels in the masks of two classes without a label
                "KEEP_TEACHER": False,  # pixels without a label after the refinement keep the teacher's label
                "REFINEMENT": False,  # a second pass of SAM with the masks of the first as prompts
                "MOBILE": True,  # use MobileSAM and ignore TYPE
                # "vit_h", "vit_l" or "vit_b"; with a folder in WEIGHTS also "transformers" or "segment_anything".
                "TYPE": "vit_h",
                "WEIGHTS": "",  # file or folder with SAM's weights; "": the file of the type in the folder weights
                "IMAGE_SIZE": 1024,  # pixels, longer side of SAM's input; a multiple of 16; 1008 for SAM 3
                "PROMPTS_AT_ONCE": 64,  # regions decoded at once; limits the memory
                # Number type of SAM's image encoder: "float32", "bfloat16", or "auto": bfloat16 in a mixed-precision
                # training on a GPU that has it, otherwise float32.
                "DTYPE": "auto",
                # Folder for SAM's image embeddings, which runs can share; "": they are computed again each time.
                "CACHE_DIR": "output/sam_cache",
                # GB; above this size the least recently used embeddings are deleted. 5,000 images with their mirror
                # images take 21 GB.
                "CACHE_SIZE": 25.0,
            },
            "PANEL_PERIOD": 0,  # iterations between two panels of pseudo-labels; 0: none
        },
    },
    "INPUT": {
        "INITIAL_HEIGHT": 1052,  # pixels; training images are fitted into this height before the random scale
        "INITIAL_WIDTH": 1914,  # pixels; training images are fitted into this width before the random scale
        "RESIZE": {
            "ENABLED": True,  # resize training images, with a random factor in SCALE_RANGE
        },
        "SCALE_RANGE": (0.5, 2.0),  # smallest and largest factor of the random scale
        "CROP": {
            "ENABLED": True,  # take a random crop of CROP_SIZE
            # Share of the labeled pixels, 0..1: a crop in which one class has as much or more is drawn again, at most
            # ten crops in all; 1: no limit. It is cat_max_ratio of mmsegmentation.
            "SINGLE_CATEGORY_MAX_AREA": 1.0,
        },
        "CROP_SIZE": (768, 768),  # [height, width] in pixels; smaller images are padded
        "COLOR_AUG_SSD": True,  # jitter brightness, contrast, saturation and hue
        "COLOR_AUG_STRENGTH": 1.0,  # factor on the published ranges of that jitter; from 2 on it may remove all color
        "FLIP": True,  # mirror images with probability 1/2
        "PL_THRESHOLD": 0.0,  # pseudo-labels with a lower confidence, 0..1, are left out
        "TEST_SHORT_EDGE": 1024,  # pixels; test images are resized to this shorter edge; 0: they keep their size
        # Largest number of pixels of a resized test image, which limits memory and time; a larger one is resized to it.
        # 0: no limit.
        "TEST_MAX_PIXELS": 2**22,
    },
    "DATASETS": {
        "TRAIN": (),  # names of the training sets
        "TEST": (),  # names of the test sets
        "SOURCE_FACTOR": 1.0,  # repeats of a labeled image in an epoch; a fraction is a probability
        "TARGET_FACTOR": 1.0,  # repeats of a generated image in an epoch; a fraction is a probability
        "CUSTOM": (),  # YAML files that describe further data sets, see datasets/README.md
        "MODULES": (),  # Python modules whose function register(root) registers further data sets
    },
    "DATALOADER": {
        "NUM_WORKERS": -1,  # processes that load images, for each training process; -1: by the number of cores
        # "raise": an image that cannot be read stops the training; "skip": another one takes its place, it is listed in
        # skipped.jsonl, and the training stops at more than 1 % of all images and more than 10. Evaluation never skips.
        "ON_ERROR": "raise",
        # "TrainingSampler"; "WeightedTrainingSampler", which uses SOURCE_FACTOR and TARGET_FACTOR; or
        # "RareClassSampler", which uses them and samples labeled images by their classes.
        "SAMPLER_TRAIN": "TrainingSampler",
        "RARE_CLASS": {
            "TEMPERATURE": 0.01,  # T in exp((1 - share of pixels) / T), the weight of a class; high: all are equal
            "MIN_PIXELS": 3000,  # smallest number of pixels for which an image counts as one of a class
            "MIN_CROP_RATIO": 0.5,  # a crop with a smaller share of MIN_PIXELS is drawn again, at most ten times
        },
    },
    "SOLVER": {
        "IMS_PER_BATCH": 8,  # images in a batch, over all processes
        # Parts into which each process divides its images of a batch, one forward and backward pass each: less memory,
        # and the result of the whole batch but for rounding. 1: no division.
        "ACCUMULATION": 1,
        "MAX_ITER": 40000,  # number of iterations
        "OPTIMIZER": "ADAMW",  # or "SGD"
        "BASE_LR": 1e-5,  # learning rate after the warm-up
        "BACKBONE_MULTIPLIER": 0.1,  # factor on the learning rate of a trained backbone
        "ADAPTER_MULTIPLIER": 1.0,  # factor on the learning rate of an adapter
        # Weight decay of an adapter: "constant": WEIGHT_DECAY; "cosine": from there to 0 at MAX_ITER.
        "ADAPTER_DECAY": "constant",
        "MOMENTUM": 0.9,  # momentum of SGD
        "WEIGHT_DECAY": 0.05,  # weight decay
        "WEIGHT_DECAY_NORM": 0.0,  # weight decay of normalization layers
        "WEIGHT_DECAY_EMBED": 0.0,  # weight decay of embeddings
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR",  # or "WarmupPolyLR"
        "STEPS": (100000,),  # iterations at which WarmupMultiStepLR multiplies by GAMMA; published recipes end earlier
        "GAMMA": 0.1,  # factor on the learning rate at each of STEPS
        "POLY_LR_POWER": 0.9,  # exponent of WarmupPolyLR
        "POLY_LR_CONSTANT_ENDING": 0.0,  # lowest share of BASE_LR in WarmupPolyLR
        "WARMUP_METHOD": "linear",  # or "constant"
        "WARMUP_FACTOR": 1.0,  # share of BASE_LR at the first iteration
        "WARMUP_ITERS": 10,  # iterations of the warm-up
        "CLIP_GRADIENTS": {
            "ENABLED": True,  # clip gradients
            # "full_model": norm of all gradients together; "norm": norm of each parameter; "value": each entry.
            "CLIP_TYPE": "full_model",
            "CLIP_VALUE": 0.01,  # largest norm or absolute value; 0: no clipping
            "NORM_TYPE": 2.0,  # p of the p-norm
        },
        # Decay of a moving average of the trained weights, which moves after each iteration; evaluations, and whatever
        # loads a checkpoint but --resume, take it instead of the weights of the last iteration. 0: none.
        "EMA_DECAY": 0.0,
        "CHECKPOINT_PERIOD": 0,  # iterations between two checkpoints; 0: at every fifth evaluation
        "CHECKPOINT_MINUTES": 10.0,  # a further checkpoint once the newest one is this old; 0: none
        # Number of the newest checkpoints on disk, and of the newest at CHECKPOINT_PERIOD, besides the final and the
        # best one; 0: all.
        "CHECKPOINTS_KEPT": 3,
        "CHECKPOINT_FROZEN": False,  # also store parameters that are not trained, as the published checkpoints do
        "AMP": {
            "ENABLED": False,  # train in mixed precision
            # "bfloat16" or "float16"; "auto": bfloat16 on a GPU or a CPU (AVX512_BF16, AMX) that has it in hardware,
            # float16 with loss scaling on other GPUs, and full precision on other CPUs.
            "DTYPE": "auto",
        },
    },
    "TEST": {
        "EVAL_PERIOD": 4000,  # iterations between two evaluations; 0: only at the end
        # Data set that each evaluation also scores, to keep the best weights on it as model_best.pth: a validation set
        # of the source domain, because scores on a set that weights are chosen by are not unseen; "": none.
        "SELECT_ON": "",
        # Images of each test set that TensorBoard shows after every evaluation, with truth and prediction. 0: none.
        "SHOWN_IMAGES": 3,
        # Evaluation protocols, one table for each: names of files in configs/protocols, without .yaml, or paths of YAML
        # files. The first is the main one; scores of another one are named sem_seg@<protocol>. (): that of PROTOCOL.
        "PROTOCOLS": (),
        # The protocol where PROTOCOLS is empty, for earlier configs.
        "PROTOCOL": "full_resolution",
        # Pixels, side of the square windows in which a resized test image is predicted; the scores are averaged where
        # they overlap. 0: the whole image at once.
        "WINDOW": 0,
        "STRIDE": 0,  # pixels from one window to the next, at most WINDOW; 0: WINDOW, so that they do not overlap
        # Test-time augmentation: the scores are averaged over several sizes of an image and their mirror images.
        "AUG": {
            "ENABLED": False,  # switch of test-time augmentation
            "SCALES": (0.75, 1.0, 1.25),  # factors of the usual input size
            "FLIP": True,  # also predict the mirror images
        },
        "AMP": False,  # evaluate in the precision of SOLVER.AMP.DTYPE; scores then depend on the device
        "BOUNDARY_IOU": False,  # also compute boundary IoU
    },
    "WANDB": {
        "PROJECT": "",  # project of Weights & Biases that gets the training curves; "": none
        "NAME": "",  # name of the run in that project; "": chosen by Weights & Biases
    },
}

# Keys and sections that published configs and detectron2's dumps contain and that are not used here. They are accepted
# and reported in one line of the log.
IGNORED_SECTIONS = (
    *("GLOBAL", "TEST.PRECISE_BN", "MODEL.MASK_FORMER.TEST"),
    *(f"MODEL.{name}" for name in ("ANCHOR_GENERATOR", "FPN", "PANOPTIC_FPN", "PROPOSAL_GENERATOR", "RESNETS")),
    *(f"MODEL.{name}" for name in ("RETINANET", "ROI_BOX_CASCADE_HEAD", "ROI_BOX_HEAD", "ROI_HEADS")),
    *(f"MODEL.{name}" for name in ("ROI_KEYPOINT_HEAD", "ROI_MASK_HEAD", "RPN", "SWIN")),
)
IGNORED_KEYS = frozenset(
    f"{section}{key}"
    for section, keys in {
        "": "VIS_PERIOD",
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
        "INPUT.CROP.": "SIZE TYPE",
        "DATASETS.": "PRECOMPUTED_PROPOSAL_TOPK_TEST PRECOMPUTED_PROPOSAL_TOPK_TRAIN PROPOSAL_FILES_TEST "
        "PROPOSAL_FILES_TRAIN TRAIN_REPEAT_FACTOR",
        "DATALOADER.": "ASPECT_RATIO_GROUPING FILTER_EMPTY_ANNOTATIONS REPEAT_SQRT REPEAT_THRESHOLD",
        "SOLVER.": "BASE_LR_END BIAS_LR_FACTOR NESTEROV NUM_DECAYS REFERENCE_WORLD_SIZE RESCALE_INTERVAL "
        "WEIGHT_DECAY_BIAS",
        "TEST.": "DETECTIONS_PER_IMAGE EXPECTED_RESULTS KEYPOINT_OKS_SIGMAS",
        "TEST.AUG.": "MAX_SIZE MIN_SIZES",
    }.items()
    for key in keys.split()
)
