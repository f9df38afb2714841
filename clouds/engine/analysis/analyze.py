"""Analysis of a config: what each part of its network costs, counted without memory and measured on this machine."""

import copy
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from clouds.clouds import CLOUDS
from clouds.d2 import CfgNode
from clouds.data.datasets.catalog import register_datasets
from clouds.engine.amp import Precision
from clouds.engine.analysis.flops import count_flops
from clouds.engine.analysis.meter import memory_of, timed
from clouds.engine.analysis.parameters import (
    CRITERION,
    LABEL_MAP,
    SAM,
    TEACHER,
    TEXT_TOWER,
    Weights,
    weights_by_part,
    weights_of,
)
from clouds.engine.analysis.stages import (
    Forward,
    Meter,
    Pass,
    inference_stages,
    random_batch,
    run_inference,
    run_training,
    training_stages,
)
from clouds.engine.optimizer import build_gradient_clipper
from clouds.engine.parts import Parts
from clouds.engine.preflight import enough_memory
from clouds.engine.setup import resolve_device, seed_everything, set_up_libraries
from clouds.errors import UserError
from clouds.modeling.backbone.clip import CLIP
from clouds.modeling.structures import ImageDict, batch_targets
from clouds.modeling.text_classifier import build_text_classifier
from clouds.self_training.sam import Sam
from clouds.self_training.sam.base import PointSam
from clouds.self_training.teacher import Teacher
from clouds.utils.memory import resident_size
from clouds.utils.signals import stop_here
from clouds.utils.sizes import Size, network_input_size

T = TypeVar("T")

OPTIMIZER, STEP = "optimizer step", "whole step"
ONCE = "once for all class names"
PROMPTS, POINTS = 16, 3
"""Prompts of an image that SAM is measured with, and points of a prompt."""

_REPEATS, _SECONDS = 5, 30.0  # of a measurement of time: at most so many passes, none begins after so many seconds


@dataclass
class Part:
    """Cost of a part; None where it has none, or none was measured.

    FLOPs, seconds and bytes of memory are those of the training batch, forward and backward, and of the prediction of
    one image.

    Attributes:
        name: name of the part.
        weights: its parameters.
        flops: FLOPs by pass, "forward", "backward" or "inference".
        seconds: seconds by pass.
        peak: most bytes by pass, above those before it.
        note: remark about the part.
    """

    name: str
    weights: Weights | None = None
    flops: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Analysis:
    """Costs of a network.

    Attributes:
        about: name -> value of the settings that were analyzed.
        parts: costs by part.
        machine: name -> value of the machine that times and memory belong to; empty without measurements.
    """

    about: Mapping[str, Any]
    parts: Sequence[Part]
    machine: Mapping[str, Any]


def analyze(cfg: CfgNode, *, size: Size | None, batch: int | None, measures: bool) -> Analysis:
    """Count, and measure on this machine, what a training step and a prediction of a config cost.

    Images and weights are random, so that neither data nor weights are needed; a folder with a model description must
    exist.

    Args:
        cfg: config, not frozen.
        size: (H, W) of the images in pixels; None for the crop, and for an image of the training set's size resized as
            test images are.
        batch: number of images of a training step; None for ``SOLVER.IMS_PER_BATCH``.
        measures: whether to measure time and memory, too.

    Raises:
        UserError: the network cannot be built, or the memory is too small.
    """
    register_datasets(modules=cfg.DATASETS.MODULES, custom=cfg.DATASETS.CUSTOM)
    resolve_device(cfg)
    seed_everything(0)
    train_size, test_size = size or training_size(cfg), size or inference_size(cfg)
    count = batch or cfg.SOLVER.IMS_PER_BATCH
    outline = Parts.build_model(outlined(cfg))
    parts = {name: Part(name, weights) for name, weights in weights_by_part(outline).items()}
    about: dict[str, Any] = {
        "architecture": type(outline).__name__,
        "training_images": count,
        "training_size": list(train_size),
        "inference_size": list(test_size),
    }
    if not isinstance(outline, CLOUDS):
        note = "FLOPs, time and memory are measured for the parts of the architecture CLOUDS only"
        return Analysis(about | {"note": note}, list(parts.values()), {})
    images = random_batch(count, train_size, len(outline.train_classes))
    image = random_batch(1, test_size, len(outline.test_classes))[0]
    count_network(outline, images, image, parts)
    if cfg.MODEL.CLOUDS.SAM.MINIBATCH:
        count_self_training(cfg, outline, images[0], parts)
    machine = measure(cfg, images, image, parts) if measures else {}
    return Analysis(about, list(parts.values()), machine)


def training_size(cfg: CfgNode) -> Size:
    """Return the size (H, W) of the images of a training step: the crop, or the whole image."""
    whole = (cfg.INPUT.INITIAL_HEIGHT, cfg.INPUT.INITIAL_WIDTH)
    return (cfg.INPUT.CROP_SIZE[0], cfg.INPUT.CROP_SIZE[1]) if cfg.INPUT.CROP.ENABLED else whole


def inference_size(cfg: CfgNode) -> Size:
    """Return the size (h, w) of the input for an image of the size of the training set's, resized as test images."""
    whole = (cfg.INPUT.INITIAL_HEIGHT, cfg.INPUT.INITIAL_WIDTH)
    return network_input_size(whole, cfg.INPUT.TEST_SHORT_EDGE, cfg.INPUT.TEST_MAX_PIXELS)


def outlined(cfg: CfgNode) -> CfgNode:
    """Return a config of the same network without memory: on the device "meta", and without files of weights."""
    cfg = with_random_weights(cfg)
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_ATTENTION = "auto"
    cfg.MODEL.CLOUDS.SAM.CACHE_DIR = ""
    return cfg


def with_random_weights(cfg: CfgNode) -> CfgNode:
    """Return a config of the same network with random weights, and without compilation."""
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = cfg.MODEL.ADAPTER.WEIGHTS = ""
    cfg.MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS = cfg.MODEL.BACKBONE.TIMM.WEIGHTS = ""
    cfg.MODEL.COMPILE = False
    return cfg


def count_network(model: CLOUDS, batch: Sequence[ImageDict], image: ImageDict, parts: dict[str, Part]) -> None:
    """Count the FLOPs of all parts of a network on "meta"."""
    stages = training_stages(model.train(), batch)
    del stages[CRITERION]  # its matching needs values
    add(parts, "flops", run_training(stages, count_flops))
    counted = count_criterion(model, (batch[0]["height"], batch[0]["width"]))
    parts[CRITERION] = Part(CRITERION, flops={name: len(batch) * flops for name, flops in counted.items()})
    tower = model.backbone.text_tower
    if isinstance(tower, CLIP) and model.sem_seg_head.uses_text:
        flops, _ = count_flops(partial(build_text_classifier, tower.encode_text, model.train_classes))
        parts[TEXT_TOWER].flops["forward"], parts[TEXT_TOWER].note = flops, ONCE
    stages = inference_stages(model.eval(), image)
    del stages[LABEL_MAP]
    add(parts, "flops", run_inference(stages, count_flops))


def count_criterion(model: CLOUDS, size: Size) -> dict[str, int]:
    """Count the FLOPs of the criterion for one image of `size` (H, W) that has all classes, forward and backward."""
    batch = random_batch(1, size, len(model.train_classes))
    stages = training_stages(model, batch)
    criterion = copy.deepcopy(model.criterion).to_empty(device="cpu")
    criterion.empty_weight.fill_(1.0)
    value: Any = None
    for name, forward in stages.items():
        value = value if name == CRITERION else forward(value)
    made: dict[int, Tensor] = {}  # tensors that several outputs share are made once
    predictions = tree_map_only(Tensor, lambda x: made.setdefault(id(x), random_like(x)), value)
    targets = batch_targets(batch, model.canvas(batch), torch.device("cpu"))
    counted = run_training(
        {"predictions": lambda _: predictions, CRITERION: lambda given: criterion(given, targets)}, count_flops
    )
    return {"forward": counted.forward[CRITERION], "backward": counted.backward[CRITERION]}


def random_like(x: Tensor) -> Tensor:
    """Return random numbers on the CPU of the shape of a tensor on "meta"; they require a gradient where it does."""
    return torch.rand(x.shape, dtype=x.dtype, requires_grad=x.requires_grad)


def count_self_training(cfg: CfgNode, student: CLOUDS, image: ImageDict, parts: dict[str, Part]) -> None:
    """Count the parameters of teacher and SAM, and their FLOPs for one generated image, on "meta"."""
    stages = inference_stages(student.eval(), image)
    del stages[LABEL_MAP]
    averaged = Teacher(cfg.MODEL.CLOUDS.SAM.ALPHA_EMA).averaged_names(student)
    tensors = [value for name, value in student.state_dict().items() if name in averaged]
    weights = Weights(sum(each.numel() for each in tensors), 0, sum(each.nbytes for each in tensors))
    flops = sum(run_inference(stages, count_flops).forward.values())
    parts[TEACHER] = Part(TEACHER, weights, {"forward": flops}, note="one image; only what it averages is its own")
    if not cfg.MODEL.CLOUDS.SAM.ENABLED:
        return
    try:
        sam = Parts.build_sam(outlined(cfg))
    except UserError as error:
        parts[SAM] = Part(SAM, note=f"not counted: {error}")
        return
    network = getattr(sam, "network", None)
    parts[SAM] = Part(SAM, weights_of(network) if isinstance(network, nn.Module) else None)
    if isinstance(sam, PointSam):
        parts[SAM].flops["forward"] = count_flops(partial(segment, sam, image))[0]
        parts[SAM].note = f"one image, {PROMPTS} prompts"


def segment(sam: PointSam, image: ImageDict) -> Tensor:
    """Encode an image and predict the masks of `PROMPTS` prompts at random points."""
    size = (image["image"].shape[1], image["image"].shape[2])
    (embedding,) = sam.encode([image["image"]])
    return sam.predict(embedding, torch.rand(PROMPTS, POINTS, 2) * torch.tensor([size[1], size[0]]))


def measure(cfg: CfgNode, batch: Sequence[ImageDict], image: ImageDict, parts: dict[str, Part]) -> dict[str, Any]:
    """Measure time and memory of a training step and of a prediction on this machine, with random weights.

    Returns:
        What was measured, and on which machine.

    Raises:
        UserError: the memory is too small.
    """
    device = torch.device(cfg.MODEL.DEVICE)
    set_up_libraries(cfg)
    precision = Precision.from_config(cfg, cfg.SOLVER.AMP.ENABLED)
    with enough_memory():
        model = cast(CLOUDS, Parts.build_model(with_random_weights(cfg)).train())
        with precision.autocast():
            measure_training(cfg, model, training_stages(model, batch), parts)
        with Precision.from_config(cfg, cfg.TEST.AMP).autocast():
            measure_inference(inference_stages(model.eval(), image), device, parts)
        measure_self_training(cfg, model, batch[0], parts)
    return {
        "device": device_name(device),
        "dtype": "float32" if precision.dtype is None else f"{precision.dtype} by autocast".removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "process_peak": resident_size(peak=True),
    }


def measure_training(cfg: CfgNode, model: CLOUDS, stages: Mapping[str, Forward], parts: dict[str, Part]) -> None:
    """Measure the stages of a training step, the step of the optimizer, and both together."""
    device = model.device
    optimizer, clip = Parts.build_optimizer(cfg, model), build_gradient_clipper(cfg)

    def update() -> None:
        clip(parameter for group in optimizer.param_groups for parameter in group["params"])
        optimizer.step()

    def step(meter: Meter) -> tuple[Pass, Any]:
        stop_here("nothing was written")
        optimizer.zero_grad()
        return run_training(stages, meter), meter(update)[0]

    memory = partial(memory_of, device=device)
    measured, of_update = step(memory)  # the first step allocates the state of the optimizer
    add(parts, "peak", peaks(measured))
    whole, _ = memory_of(lambda: step(lambda call: (None, call())), device)
    times = repeated(lambda: step(partial(timed, device=device)))
    add(parts, "seconds", median_pass([each for each, _ in times]))
    own = parts[OPTIMIZER] = Part(OPTIMIZER)
    own.seconds["forward"], own.peak["forward"] = statistics.median(each for _, each in times), of_update.peak
    total = statistics.median(sum([*a.forward.values(), *a.backward.values(), b]) for a, b in times)
    parts[STEP] = Part(STEP, seconds={"forward": total}, peak={"forward": whole.peak})


def measure_inference(stages: Mapping[str, Forward], device: torch.device, parts: dict[str, Part]) -> None:
    """Measure the stages of a prediction."""
    parts.setdefault(LABEL_MAP, Part(LABEL_MAP))
    add(parts, "peak", peaks(run_inference(stages, partial(memory_of, device=device))))
    add(parts, "seconds", median_pass(repeated(lambda: run_inference(stages, partial(timed, device=device)))))


def measure_self_training(cfg: CfgNode, model: CLOUDS, image: ImageDict, parts: dict[str, Part]) -> None:
    """Measure the teacher and, if its weights are there, SAM on one generated image."""
    if TEACHER in parts:
        stages = inference_stages(model, image)
        times = repeated(lambda: run_inference(stages, partial(timed, device=model.device)))
        parts[TEACHER].seconds["forward"] = sum(median_pass(times).forward.values())
    if SAM not in parts:
        return
    own = cfg.clone()
    own.MODEL.CLOUDS.SAM.CACHE_DIR = ""
    try:
        sam: Sam = Parts.build_sam(own)
    except UserError as error:
        parts[SAM].note += f"; not timed: {error}"
        return
    if isinstance(sam, PointSam):
        call = partial(timed, partial(segment, sam, image), model.device)
        parts[SAM].seconds["forward"] = statistics.median(seconds for seconds, _ in repeated(call))


def add(parts: dict[str, Part], kind: str, measured: Pass) -> None:
    """Add measurements of stages to the parts of the same names.

    Args:
        parts: parts by name; missing ones are added.
        kind: "flops", "seconds" or "peak".
        measured: measurements of a training step or, `Pass.training` being False, of a prediction.
    """
    for name, value in measured.forward.items():
        getattr(parts.setdefault(name, Part(name)), kind)["forward" if measured.training else "inference"] = value
    for name, value in measured.backward.items():
        getattr(parts[name], kind)["backward"] = value


def peaks(measured: Pass) -> Pass:
    """Return the peaks of measurements of memory."""
    forward = {name: memory.peak for name, memory in measured.forward.items()}
    return replace(measured, forward=forward, backward={name: each.peak for name, each in measured.backward.items()})


def median_pass(passes: Sequence[Pass]) -> Pass:
    """Return the median of each measurement."""
    first = passes[0]
    forward = {name: statistics.median(each.forward[name] for each in passes) for name in first.forward}
    backward = {name: statistics.median(each.backward[name] for each in passes) for name in first.backward}
    return replace(first, forward=forward, backward=backward)


def repeated(call: Callable[[], T]) -> list[T]:
    """Return the results of `_REPEATS` calls, or of fewer, if they take longer than `_SECONDS`; at least one."""
    end = time.perf_counter() + _SECONDS
    results = [call()]
    while len(results) < _REPEATS and time.perf_counter() < end:
        results.append(call())
    return results


def device_name(device: torch.device) -> str:
    """Return the type of a device and its name, or that of the processor."""
    if device.type == "cuda":
        return f"{device.type}, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {platform.processor() or platform.machine()}"
