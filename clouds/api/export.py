"""Networks as ONNX files and as programs of `torch.export`, for batches of images of any number and size.

A file computes everything between pixels and result: normalization, padding, the network with the text embeddings of
its classes as constants, and scores or label maps at the size of the images. It computes in float32.

Letters: B images, K classes, Q queries, H x W images.
"""

import contextlib
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.nn import functional as F
from torch.torch_version import TorchVersion

from clouds import __version__
from clouds.clouds import CLOUDS
from clouds.errors import UserError
from clouds.modeling.inference import class_shares
from clouds.modeling.preprocessing import canvas_size
from clouds.utils.atomic import atomic_file, make_folder
from clouds.utils.devices import float32_precision
from clouds.visualization.palette import Color

OPSET = 20
"""Default version of ONNX's operators."""
OPSETS = range(18, 24)
"""Versions of ONNX's operators that can be written."""
METADATA = "clouds.json"
"""Name under which a program of `torch.export` holds its metadata."""

SCORE_TOLERANCE, LABEL_AGREEMENT = 1e-3, 0.999
CHECKED_SIZES = ((2, 161, 227), (1, 160, 96))
"""Number, height and width of the images that a file is checked with."""
OLDEST_TORCH = "2.14"  # torch.export of older ones takes no sizes of which it must not assume anything
LARGEST_ONNX = 2**31 - 1  # bytes, a limit of its format

logger = logging.getLogger(__name__)

Run: TypeAlias = Callable[[Tensor], Tensor]
"""Function from images (B, 3, H, W) uint8 to the output of a file."""


class ExportMismatch(RuntimeError):
    """An exported network differs from the original. The message is one sentence for the user."""


@dataclass(frozen=True)
class Difference:
    """Difference between an exported network and the original on a batch of images.

    Attributes:
        size: B, H, W.
        scores: largest difference of a score; None for label maps.
        agreement: share of the pixels with equal labels, 0..1.
    """

    size: tuple[int, int, int]
    scores: float | None
    agreement: float

    @property
    def is_small(self) -> bool:
        """Whether scores and labels are within the tolerances."""
        return (self.scores is None or self.scores <= SCORE_TOLERANCE) and self.agreement >= LABEL_AGREEMENT

    def __str__(self) -> str:
        batch, height, width = self.size
        scores = "" if self.scores is None else f"scores differ by {self.scores:.1e} at most, "
        return f"batch of {batch} at {height} x {width}: {scores}{self.agreement:.3%} of the labels agree"


class Exportable(nn.Module):
    """Path from images to scores or label maps, for images of one size and in operations on tensors alone.

    `CLOUDS.forward` computes these numbers for images of several sizes, in strips that bound the memory.
    """

    def __init__(self, network: CLOUDS, classes: Sequence[str], *, labels: bool) -> None:
        """
        Args:
            network: network in evaluation mode.
            classes: names of the K classes.
            labels: whether `forward` returns label maps, otherwise scores.
        """
        super().__init__()
        self.network = network
        self.classes = tuple(classes)
        self.labels = labels

    def forward(self, images: Tensor) -> Tensor:
        """Predict images.

        Args:
            images: (B, 3, H, W) uint8 RGB.

        Returns:
            (B, K, H, W) float32 scores that sum to 1 over the classes; or (B, H, W) uint8 labels.
        """
        network, (height, width) = self.network, images.shape[-2:]
        canvas = canvas_size([(height, width)], network.size_divisibility)
        normalized = (images.to(network.pixel_mean) - network.pixel_mean) / network.pixel_std
        padded = F.pad(normalized, (0, canvas[1] - width, 0, canvas[0] - height))
        prediction = network.predict([{"features": network.backbone(padded), "classes": self.classes}], canvas)
        masks = F.interpolate(prediction.mask_logits, size=canvas, mode="bilinear", align_corners=False)
        # onnxruntime's sigmoid has an absolute error of 1e-8, which decides the shares where no mask covers a pixel.
        masks = (1 + masks.narrow(2, 0, height).narrow(3, 0, width).neg().exp()).reciprocal()
        weights = prediction.class_logits.softmax(dim=-1)[..., :-1].mT  # (B, K, Q)
        scores = (weights @ masks.flatten(2)).unflatten(2, (height, width))
        return scores.argmax(dim=1).to(torch.uint8) if self.labels else class_shares(scores, dim=1)


def export_network(
    network: nn.Module,
    path: str | Path,
    *,
    classes: Sequence[str],
    colors: Sequence[Color],
    short_edge: int = 0,
    max_pixels: int = 0,
    labels: bool = False,
    opset: int = OPSET,
) -> list[Difference]:
    """Write a network to a file, after a check of what will be written.

    The file has one input, `images`, (B, 3, H, W) uint8 RGB of any B, H and W, and one output: `scores`, (B, K, H, W)
    float32 that sum to 1 over the classes, or `labels`, (B, H, W) uint8.

    Its metadata are texts: `classes` and `colors` are JSON lists of K names and of K lists of R, G and B; `output` is
    "scores" or "labels"; `pixel_mean` and `pixel_std` are JSON lists of what the file normalizes R, G and B with;
    `short_edge` and `max_pixels` are the arguments; `clouds_version` is the version of this package.

    Args:
        network: a CLOUDS network in evaluation mode. A program of `torch.export` stays on its device.
        path: path of the file. The ending decides its kind: ``.onnx``, or ``.pt2`` for a program of `torch.export`.
        classes: names of the K classes; a head without text has its own only.
        colors: RGB of each class, 0..255.
        short_edge: length in pixels to which the shorter edge of an image is resized, before it is given to the file,
            for the results of `Segmenter.predict`; 0 = not at all.
        max_pixels: number of pixels to which a larger image is resized after that, with its aspect ratio; 0 = no limit.
        labels: whether the file returns label maps, otherwise scores.
        opset: version of ONNX's operators, one of `OPSETS`.

    Returns:
        Differences between the file, as onnxruntime or torch compute it, and the network, for `CHECKED_SIZES`.

    Raises:
        UserError: the ending is another one, a package is missing, or the network cannot be exported.
        ExportMismatch: the differences are too large. Nothing is written.
        WriteError: the file cannot be written.
    """
    path = Path(path)
    prepare_target(path, opset)
    if not isinstance(network, CLOUDS):
        raise UserError(f"The network is a {type(network).__name__}, and only the architecture CLOUDS can be exported.")
    metadata = {
        "classes": json.dumps([*classes], ensure_ascii=False),
        "colors": json.dumps([*colors]),
        "output": "labels" if labels else "scores",
        "pixel_mean": json.dumps(network.pixel_mean.flatten().tolist()),
        "pixel_std": json.dumps(network.pixel_std.flatten().tolist()),
        "short_edge": str(short_edge),
        "max_pixels": str(max_pixels),
        "clouds_version": __version__,
    }
    write: Callable[[ExportedProgram, BinaryIO, Mapping[str, str]], None] = partial(write_onnx, opset=opset)
    read = read_onnx
    if path.suffix == ".pt2":
        write, read = write_program, read_program
    with torch.no_grad(), float32_precision("highest", network.device):
        logger.info("Tracing the network for images of any size ...")
        program = trace(network, classes, labels=labels)
        with atomic_file(path) as file:
            logger.info("Converting it to %s ...", path.name)
            write(program, file, metadata)
            file.seek(0)
            run = read(file)
            logger.info("Comparing the file with the network ...")
            differences = [compare(run, network, classes, size, labels=labels) for size in CHECKED_SIZES]
            if wrong := [str(each) for each in differences if not each.is_small]:
                raise ExportMismatch(
                    f"{path} is not written, because it differs from the network by more than rounding: "
                    f"{'; '.join(wrong)}."
                )
    return differences


def prepare_target(path: Path, opset: int = OPSET) -> None:
    """Check that a path names a kind of file that can be written here, and create its folder.

    Args:
        path: path of the file.
        opset: version of ONNX's operators.

    Raises:
        UserError: its ending is neither ``.onnx`` nor ``.pt2``, torch is too old, or a package or the version for ONNX
            does not exist.
        WriteError: the folder cannot be created.
    """
    if path.suffix not in (".onnx", ".pt2"):
        raise UserError(f"The file {path} must end in .onnx, or in .pt2 for a program of torch.export.")
    if TorchVersion(torch.__version__) < OLDEST_TORCH:
        raise UserError(
            f"This is torch {torch.__version__}, and an export needs torch {OLDEST_TORCH} or newer: update it."
        )
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise UserError(f"An ONNX file needs {' and '.join(missing)}: pip install 'clouds-dgss[export]'.")
    if opset not in OPSETS:
        raise UserError(f"The version of ONNX's operators is {opset}: give one from {OPSETS[0]} to {OPSETS[-1]}.")
    make_folder(path.parent)


def trace(network: CLOUDS, classes: Sequence[str], *, labels: bool) -> ExportedProgram:
    """Return the program of `Exportable`, for batches of any number and size.

    Raises:
        UserError: the tower does something with the size of an image that `torch.export` cannot trace.
    """
    from torch.fx.experimental.dynamic_spec import ParamsSpec, ShapeVar, TensorSpec
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    if network.sem_seg_head.uses_text or network.geometric_ensemble:
        network.text_tower.text_classifier(classes)  # the tower keeps it: the program does not encode text
    # Unbacked sizes: the program has no branch for 0 or 1, nor for one layout in memory.
    batch, height, width = (ShapeVar(name, min=1) for name in ("batch", "height", "width"))
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # torch prints the whole program before it raises
            program = torch.export.export(
                Exportable(network, classes, labels=labels),
                (torch.zeros(2, 3, 70, 101, dtype=torch.uint8, device=network.device),),
                dynamic_shapes=ParamsSpec({"images": TensorSpec([batch, 3, height, width])}),
            )
    except GuardOnDataDependentSymNode as error:
        raise UserError(
            "torch.export cannot trace the image tower of this network for images of any size, so that it cannot be "
            "exported: GETTING_STARTED.md lists the towers that can."
        ) from error
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it holds paths of this machine
    keep_used_weights(program)
    return program


def keep_used_weights(program: ExportedProgram) -> None:
    """Remove weights that a program does not read, such as those of the text tower, and freeze the others, in place.

    The tensors of the network are not changed.
    """
    unused = {node.name: node for node in program.graph.nodes if node.op == "placeholder" and not node.users}
    specs = program.graph_signature.input_specs
    for spec in [each for each in specs if each.target in program.state_dict and each.arg.name in unused]:
        program.graph.erase_node(unused[spec.arg.name])
        specs.remove(spec)
        del program.state_dict[spec.target]
    for name, tensor in program.state_dict.items():
        if isinstance(tensor, nn.Parameter):
            program.state_dict[name] = nn.Parameter(tensor.detach(), requires_grad=False)
    program.graph_module.recompile()


def write_program(program: ExportedProgram, file: BinaryIO, metadata: Mapping[str, str]) -> None:
    """Write a program with its metadata as JSON."""
    torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})


def read_program(file: BinaryIO) -> Run:
    """Return the function of a program."""
    function: Run = torch.export.load(file).module()
    return function


def write_onnx(program: ExportedProgram, file: BinaryIO, metadata: Mapping[str, str], *, opset: int) -> None:
    """Write a program as an ONNX model.

    Raises:
        UserError: it is larger than an ONNX file can be.
    """
    import onnx

    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it warns of operators that it does not compute beforehand
    exported: Any = torch.onnx.export(
        program, input_names=["images"], output_names=[metadata["output"]], opset_version=opset, verbose=False
    )
    shape = exported.model.graph.inputs[0].shape
    exported.rename_axes({shape[0]: "batch", shape[2]: "height", shape[3]: "width"})
    for part in (exported.model.graph, *exported.model.graph.all_nodes()):
        part.metadata_props.clear()  # they hold paths of this machine
    exported.model.metadata_props.update(metadata)
    if (size := exported.model_proto.ByteSize()) > LARGEST_ONNX:
        raise UserError(
            f"This network takes {size / 2**30:.1f} GiB, and an ONNX file at most 2: give the file the ending .pt2."
        )
    onnx.save(exported.model_proto, file)


def read_onnx(file: BinaryIO) -> Run:
    """Return the function of an ONNX model, which onnxruntime computes on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file.read(), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.cpu().numpy()})[0])


def compare(
    run: Run, network: CLOUDS, classes: Sequence[str], size: tuple[int, int, int], *, labels: bool
) -> Difference:
    """Compare a file with its network on smooth random images.

    Args:
        run: function of the file.
        network: the network.
        classes: names of the classes.
        size: B, H, W.
        labels: whether the file returns label maps, otherwise scores.
    """
    batch, height, width = size
    coarse = torch.rand(batch, 3, 7, 7, generator=torch.Generator().manual_seed(0)) * 255
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 255)
    images = smooth.to(torch.uint8).to(network.device)
    samples = [{"image": image, "classes": classes} for image in images]
    result = run(images).to(network.device)
    if labels:
        own_labels = torch.stack(network.predict_labels(samples))
        return Difference(size, None, float((result == own_labels).float().mean()))
    own = class_shares(torch.stack([output["sem_seg"] for output in network(samples)]), dim=1)
    agreement = (result.argmax(dim=1) == own.argmax(dim=1)).float().mean()
    return Difference(size, float((result - own).abs().amax()), float(agreement))
