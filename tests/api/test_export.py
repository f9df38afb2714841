"""Exported networks: the numbers of the files, what they say about themselves, the command, and every sentence."""

import copy
import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

import clouds
from clouds.api import export
from clouds.api.export import Run
from clouds.clouds import CLOUDS
from clouds.commands.main import main
from clouds.d2 import build_model
from clouds.errors import UserError
from tests.api.conftest import TEXT_HEAD
from tests.modeling.timm_folders import write_tower
from tests.parity import golden

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
# Landscape and portrait, multiples of 32 and others, of less than 32 pixels, and batches of one and more.
SIZES = [(1, 70, 101), (2, 161, 97), (3, 64, 32), (2, 20, 40), (1, 1, 1)]
CLASSES = ("road,street", "a purple cow", "sky,clouds", "person")


class Exported(NamedTuple):
    network: CLOUDS
    program: ExportedProgram
    model: bytes


ONE_LAYER = ("MODEL.MASK_FORMER.DEC_LAYERS", 2, "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1)


def small() -> CLOUDS:
    """Build a ResNet with a text head and the ensemble, with random weights that give label maps several classes."""
    torch.manual_seed(1)
    network = build_model(golden.golden_config("rn_text", *ONE_LAYER, "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE", True)).eval()
    with torch.no_grad():
        for parameter in network.sem_seg_head.predictor.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        network.sem_seg_head.predictor.logit_scale.fill_(4.6)  # a random text tower embeds all texts alike
    return network


@pytest.fixture(scope="module")
def exported() -> Exported:
    """A network, its program and its ONNX model, of one trace, which takes seconds.

    The command exports the other networks: a ConvNeXt without text as ONNX model, one with text as program.
    """
    network = small()
    with torch.no_grad():
        program = export.trace(network, CLASSES, labels=False)
    file = io.BytesIO()
    export.write_onnx(program, file, {"output": "any"}, opset=export.OPSET)
    return Exported(network, program, file.getvalue())


def random_images(batch: int, height: int, width: int) -> Tensor:
    coarse = 255 * torch.rand(batch, 3, 5, 6)
    return F.interpolate(coarse, size=(height, width), mode="bilinear").to(torch.uint8)


def agree(run: Run, network: CLOUDS, classes: tuple[str, ...], *, labels: bool) -> None:
    """Compare the outputs of a file with those of its network for batches of all sizes."""
    spread = 0.0
    for size in SIZES:
        images = random_images(*size)
        samples = [{"image": image, "classes": classes} for image in images]
        with torch.no_grad():
            theirs = run(images)
            if labels:
                ours = torch.stack(network.predict_labels(samples))
            else:
                ours = torch.stack([output["sem_seg"] for output in network(samples)])
                total = ours.sum(dim=1, keepdim=True)
                ours = torch.where(total > 0, ours / total, 1 / len(classes))
        assert (theirs.shape, theirs.dtype) == (ours.shape, ours.dtype), size
        spread = max(spread, float(ours.float().amax((-2, -1)).sub(ours.float().amin((-2, -1))).amax()))
        if not labels:
            assert (theirs - ours).abs().amax() < 1e-3, size
            theirs, ours = theirs.argmax(dim=1), ours.argmax(dim=1)
        assert (theirs == ours).float().mean() >= 0.999, size
    assert spread > 0.02, "the results are not the same everywhere"


def session_of(model: bytes | Path) -> tuple[onnxruntime.InferenceSession, Run]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session, lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def test_onnxruntime_computes_the_network_at_any_size(exported: Exported) -> None:
    agree(session_of(exported.model)[1], exported.network, CLASSES, labels=False)


def test_a_program_computes_the_network_at_any_size(exported: Exported) -> None:
    agree(exported.program.module(), exported.network, CLASSES, labels=False)


def test_a_file_holds_nothing_but_what_it_needs(exported: Exported) -> None:
    onnx.checker.check_model(exported.model)
    names = {*exported.program.state_dict}
    assert not [name for name in names if "clip_model.transformer" in name or "token_embedding" in name]
    assert [name for name in names if "sem_seg_head" in name]
    assert not any(weight.requires_grad for weight in exported.program.state_dict.values())
    assert any(weight.requires_grad for weight in exported.network.parameters()), "the network is as before"
    assert not paths_in(exported.model)


def paths_in(content: bytes) -> list[bytes]:
    """Return the folders of this machine that a file names."""
    folders = [str(ROOT).encode(), Path(torch.__file__).parent.as_posix().encode()]
    return [folder for folder in folders if folder in content]


@pytest.fixture(scope="module")
def training(save_run: Callable[..., Path]) -> Path:
    """Folder of a training, which the command exports."""
    return save_run(*ONE_LAYER)


@pytest.fixture(scope="module")
def labels_of_training(training: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX file that the command has made of the folder of a training."""
    path = tmp_path_factory.mktemp("exported") / "labels.onnx"
    assert main(["export", str(training), str(path), "--labels", "--opset", "21"]) == 0
    return path


def test_the_command_writes_a_file_that_describes_itself(training: Path, labels_of_training: Path) -> None:
    network = clouds.load(training, device="cpu")
    model = onnx.load(labels_of_training)
    described = {entry.key: entry.value for entry in model.metadata_props}
    assert tuple(json.loads(described["classes"])) == network.classes
    assert tuple(map(tuple, json.loads(described["colors"]))) == network.colors
    assert (described["output"], described["short_edge"], described["max_pixels"]) == ("labels", "48", str(2**22))
    assert described["clouds_version"] == clouds.__version__
    mean, std = (np.array(json.loads(described[f"pixel_{name}"])) for name in ("mean", "std"))
    np.testing.assert_allclose(mean, network.network.pixel_mean.flatten())
    np.testing.assert_allclose(std, network.network.pixel_std.flatten())
    assert [each.version for each in model.opset_import if not each.domain] == [21]
    shapes = [
        [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim]
        for x in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [["batch", 3, "height", "width"], ["batch", "height", "width"]]
    assert [x.name for x in (*model.graph.input, *model.graph.output)] == ["images", "labels"]


def test_a_file_predicts_as_the_python_api_does(training: Path, labels_of_training: Path, images: list[Path]) -> None:
    session, run = session_of(labels_of_training)
    short_edge = int(session.get_modelmeta().custom_metadata_map["short_edge"])
    network = clouds.load(training, device="cpu")
    agree(run, network.network, network.classes, labels=True)
    for path in images[:3]:
        image = Image.open(path)
        factor = short_edge / min(image.size)
        resized = image.resize([int(side * factor + 0.5) for side in image.size], Image.Resampling.BILINEAR)
        [labels] = run(torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None])
        assert (labels.numpy() == network.predict(resized).labels).mean() >= 0.999


def test_the_command_writes_a_program(
    save_run: Callable[..., Path], images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, path = save_run(*ONE_LAYER, *TEXT_HEAD, seed=2, noise=0.3), tmp_path / "new" / "network.pt2"
    assert main(["export", str(source), str(path), "INPUT.TEST_SHORT_EDGE", "0"]) == 0
    *log, size = capsys.readouterr().out.splitlines()
    differences = [line for line in log if line.startswith("batch of ")]
    assert len(differences) == len(export.CHECKED_SIZES)
    assert all(line.endswith("% of the labels agree") for line in differences)
    assert size.startswith(f"{path}: ")

    extra = {export.METADATA: ""}
    program = torch.export.load(path, extra_files=extra)
    described = json.loads(extra[export.METADATA])
    assert (described["output"], described["short_edge"]) == ("scores", "0")
    network = clouds.load(source, device="cpu", options=["INPUT.TEST_SHORT_EDGE", 0])
    agree(program.module(), network.network, network.classes, labels=False)
    own = network.predict(images[0], scores=True)
    [scores] = program.module()(torch.from_numpy(own.image).permute(2, 0, 1)[None])
    np.testing.assert_allclose(scores.numpy(), own.scores, atol=1e-3)
    with zipfile.ZipFile(path) as archive:
        assert not [name for name in archive.namelist() if paths_in(archive.read(name))]


def test_a_file_that_differs_is_not_written(
    exported: Exported, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "network.pt2"
    path.write_text("what was there")
    other = copy.deepcopy(exported.network)
    torch.nn.init.normal_(other.sem_seg_head.predictor.query_feat.weight)
    loaded = clouds.Segmenter(other, clouds.load(text, device="cpu").cfg, classes=CLASSES)
    monkeypatch.setattr("clouds.api.segmenter.load", lambda *_, **__: loaded)
    monkeypatch.setattr(export, "trace", lambda *_, **__: exported.program)  # as a defect of torch would
    assert main(["export", str(text), str(path)]) == 1
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()[-3:]] == ["Tracing", "Converting", "Comparing"]
    [line] = printed.err.splitlines()
    assert line.startswith(f"error: {path} is not written, because it differs from the network by more than rounding: ")
    assert path.read_text() == "what was there"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/such.pth", "a.onnx"], "There is no network at no/such.pth: give a checkpoint"),
        (["{closed}", "a.torch"], "The file a.torch must end in .onnx, or in .pt2 for a program of torch.export."),
        (["{closed}", "a.onnx", "--classes", "cow"], "This network has a head without text"),
        (["{closed}", "a.onnx", "--opset", "9"], "The version of ONNX's operators is 9: give one from 18 to 23."),
        (
            ["{closed}", "{closed}/config.yaml/a.pt2"],
            "{closed}/config.yaml cannot be written (another file has its name)",
        ),
    ],
)
def test_sentences(words: list[str], message: str, closed: Path, sentence: Callable[..., str]) -> None:
    said = sentence(main, "export", *(word.format(closed=closed) for word in words))
    assert said.startswith(message.format(closed=closed))


def test_missing_packages(closed: Path, sentence: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    said = sentence(main, "export", str(closed), "a.onnx")
    assert said == "An ONNX file needs onnxscript and onnxruntime: pip install 'clouds-dgss[export]'."
    export.prepare_target(Path("a.pt2"))


def test_an_old_torch_and_other_architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"classes": ("a",), "colors": ((1, 2, 3),)}
    with pytest.raises(UserError, match=r"^The network is a Linear, and only the architecture CLOUDS can be exported"):
        export.export_network(nn.Linear(1, 1), tmp_path / "a.pt2", **arguments)
    for version in ("2.9.1", "2.13.0+cpu"):
        monkeypatch.setattr(torch, "__version__", version)
        with pytest.raises(UserError) as caught:
            export.export_network(nn.Linear(1, 1), tmp_path / "new/a.pt2", **arguments)
        assert str(caught.value) == f"This is torch {version}, and an export needs torch 2.14 or newer: update it."
    for version in ("2.14.1+cu130", "2.15.0"):
        monkeypatch.setattr(torch, "__version__", version)
        export.prepare_target(tmp_path / "a.pt2")
    assert not [*tmp_path.iterdir()]


def test_a_network_that_an_onnx_file_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.fx.experimental.dynamic_spec import ParamsSpec, ShapeVar, TensorSpec

    sides = [ShapeVar("b", min=1), 3, ShapeVar("h", min=1), ShapeVar("w", min=1)]
    shapes = ParamsSpec({"input": TensorSpec(sides)})
    program = torch.export.export(nn.Conv2d(3, 4, 1), (torch.zeros(2, 3, 4, 5),), dynamic_shapes=shapes)
    monkeypatch.setattr(export, "LARGEST_ONNX", 100)
    with pytest.raises(UserError, match=r"an ONNX file at most 2: give the file the ending \.pt2\.$"):
        export.write_onnx(program, io.BytesIO(), {"output": "scores"}, opset=20)


@pytest.mark.parametrize(("kind", "adapter"), [("convnext", ""), ("dinov2_reg", "Rein"), ("eva02", "LoRA")])
def test_towers_of_timm(save_run: Callable[..., Path], tmp_path: Path, kind: str, adapter: str) -> None:
    adapted = ("MODEL.ADAPTER.NAME", adapter, "MODEL.ADAPTER.RANK", 2, "MODEL.ADAPTER.TOKENS", 8)
    source = save_run(*ONE_LAYER, *timm_tower(tmp_path, kind), *adapted, noise=0.1)
    network = clouds.load(source, device="cpu").network
    with torch.no_grad():
        for parameter in network.backbone.parameters():
            if parameter.requires_grad:  # of the adapter, which starts as if it were not there
                parameter.add_(0.1 * torch.randn_like(parameter))
        program = export.trace(network, network.test_classes, labels=False)
    agree(program.module(), network, network.test_classes, labels=False)


def timm_tower(folder: Path, kind: str) -> tuple[object, ...]:
    """Write a tower, and return the config keys that name it."""
    written = write_tower(folder / "tower", kind)
    return ("MODEL.BACKBONE.NAME", "TimmTower", "MODEL.BACKBONE.TIMM.MODEL_NAME", written)


def test_a_tower_that_cannot_be_traced(
    save_run: Callable[..., Path], tmp_path: Path, sentence: Callable[..., str]
) -> None:
    source = save_run(*ONE_LAYER, *timm_tower(tmp_path, "dinov3"))
    said = sentence(main, "export", str(source), str(tmp_path / "network.pt2"))
    assert said.startswith("torch.export cannot trace the image tower of this network for images of any size")
    assert not (tmp_path / "network.pt2").exists()
