"""Weights of other projects: their files become checkpoints that are loaded and predict the same."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from clouds.commands import convert_weights
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.checkpointing.foreign import converted, find_state_dict, own_key
from clouds.errors import UserError
from tests.parity import golden

CASE = "convnext_text"  # FC-CLIP's network


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Weights of the published implementation, by its keys."""
    return dict(golden.build(CASE).state_dict())


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("config") / "c.yaml"
    file.write_text(golden.golden_config(CASE).dump())
    return str(file)


def convert(capsys: pytest.CaptureFixture[str], *argv: object) -> list[str]:
    assert convert_weights.main([*map(str, argv)]) == 0
    return capsys.readouterr().out.splitlines()


def predicted(path: Path) -> Tensor:
    """Load a checkpoint as for an evaluation, and return the scores of an image."""
    model = golden.build(CASE).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    Checkpointer(model, reloadable=False, complete=True).load(str(path))
    with torch.inference_mode():
        return model(golden.batch()[:1])[0]["sem_seg"]


def wrapped(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in weights.items()}


FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "detectron2": lambda w: {"model": w, "optimizer": {"state": {}}, "iteration": 3, "trainer": {"hooks": {}}},
    "lightning": lambda w: {"state_dict": wrapped(w, "model."), "epoch": 2},
    "data-parallel": lambda w: wrapped(w, "module."),
    "compiled": lambda w: {"model": wrapped(w, "module._orig_mod.")},
    "a compiled part": lambda w: {k.replace("sem_seg_head.", "sem_seg_head._orig_mod."): v for k, v in w.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_file(
    weights: dict[str, Tensor], config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    torch.save(FORMS[form](weights), tmp_path / "in.pth")
    lines = convert(capsys, tmp_path / "in.pth", tmp_path / "out.pth", "--config-file", config)
    assert lines == [
        f"Matched: {len(weights)} of the {len(weights)} tensors of the model",
        "Missing: none",
        "Unexpected: none",
        f"Written: {tmp_path}/out.pth",
    ]
    content = torch.load(tmp_path / "out.pth")["model"]
    assert content.keys() == weights.keys()
    assert all(torch.equal(content[key], weights[key]) for key in weights)


def test_a_pickle_of_arrays_predicts_the_same(
    weights: dict[str, Tensor], config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = {key: value.numpy() for key, value in weights.items()}
    (tmp_path / "in.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}))
    save_file(weights, tmp_path / "in.safetensors")
    for name in ("in.pkl", "in.safetensors"):
        convert(capsys, tmp_path / name, tmp_path / "out.safetensors", "--config-file", config)
        assert torch.equal(predicted(tmp_path / "out.safetensors"), predicted(tmp_path / "in.safetensors"))


def test_mask2former(
    weights: dict[str, Tensor], config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The earlier version of its keys, the backbone of detectron2, and another number of classes.
    def old(key: str) -> str:
        return key.replace("query_feat", "static_query").replace("sem_seg_head.pixel_decoder.", "sem_seg_head.")

    head = {old(key): value.numpy() for key, value in weights.items() if key.startswith("sem_seg_head.")}
    head["sem_seg_head.predictor.level_embed.weight"] = torch.zeros(4, 64).numpy()
    head |= {
        "backbone.stem.conv1.weight": torch.zeros(64, 3, 7, 7).numpy(),
        "criterion.empty_weight": torch.ones(134).numpy(),
    }
    (tmp_path / "in.pkl").write_bytes(pickle.dumps({"model": head, "matching_heuristics": True}))
    lines = convert(capsys, tmp_path / "in.pkl", tmp_path / "out.pth", "--config-file", config)
    own = [key for key in weights if key.startswith("sem_seg_head.")]
    assert lines[0] == f"Matched: {len(own) - 1} of the {len(weights)} tensors of the model"
    assert lines[1].startswith(f"Missing: {len(weights) - len(own) + 1} (")
    assert lines[2] == (
        "Unexpected: 3 (sem_seg_head.predictor.level_embed.weight, backbone.stem.conv1.weight, "
        "criterion.empty_weight); of another shape: 2 (sem_seg_head.predictor.level_embed.weight (4, 64), not (3, 64), "
        "criterion.empty_weight (134,), not (20,))"
    )
    assert lines[3] == "The head was trained on another backbone: it has to learn the features of this one"
    content = torch.load(tmp_path / "out.pth")["model"]
    assert all(torch.equal(content[key], weights[key]) for key in own if "predictor.level_embed" not in key)


def test_a_number_may_be_an_array_of_one_number() -> None:
    model = torch.nn.Module()
    model.scale = torch.nn.Parameter(torch.tensor(2.0))
    assert converted({"scale": torch.tensor([3.0])}, model, "x.pth").weights["scale"].shape == ()


def test_the_teacher_is_taken_with_ema(
    weights: dict[str, Tensor], config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = {
        k.replace("sem_seg_head.", "sem_seg_head_ema."): v + 1 for k, v in weights.items() if "sem_seg_head" in k
    }
    sam = {"sam.sam.mask_decoder.iou_token.weight": torch.ones(1, 4)}
    torch.save({"model": weights | teacher | sam}, tmp_path / "published.pth")
    torch.save(
        {"model": weights, "ema_state": {"module": {k: v + 1 for k, v in weights.items()}}}, tmp_path / "nested.pth"
    )
    lines = convert(capsys, tmp_path / "published.pth", tmp_path / "o.pth", "--config-file", config)
    assert lines[2].startswith(f"Unexpected: {len(teacher) + 1} (sem_seg_head_ema.")
    key = "sem_seg_head.predictor.query_feat.weight"
    assert torch.equal(torch.load(tmp_path / "o.pth")["model"][key], weights[key])
    for name in ("published", "nested"):
        lines = convert(capsys, tmp_path / f"{name}.pth", tmp_path / "o.pth", "--config-file", config, "--ema")
        assert lines[2] == (
            "Unexpected: 1 (sam.sam.mask_decoder.iou_token.weight)" if name == "published" else "Unexpected: none"
        )
        assert torch.equal(torch.load(tmp_path / "o.pth")["model"][key], weights[key] + 1)
    torch.save(weights, tmp_path / "none.pth")
    with pytest.raises(UserError, match="holds no moving average of the weights: convert it without --ema"):
        find_state_dict(weights, "none.pth", ema=True)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch touched",)


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_a_pickle_that_would_run_code_is_refused(
    sentence: Callable[..., str], config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"in.{suffix}"
    torch.save({"model": Trap()}, path) if suffix == "pth" else path.write_bytes(pickle.dumps({"model": Trap()}))
    said = sentence(convert_weights.main, str(path), "out.pth", "--config-file", config)
    assert said == (
        f"Cannot read weights from {path}: the file is missing or damaged, or holds more than tensors, arrays and "
        f"plain values (it asks for posix.system)."
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["w.pth", "out.bin"], "out.bin has to end in .safetensors or .pth, the formats of a checkpoint."),
        (["w.pth", "w.pth"], "w.pth is the file to convert: give another name."),
        (
            ["none.pth", "o.pth"],
            "Cannot read weights from none.pth: the file is missing or damaged, or holds more than ",
        ),
        (["empty.pth", "o.pth"], "empty.pth holds no model weights: neither a state dict nor a dict with one."),
        (["nan.pth", "o.pth"], "nan.pth cannot be used: 'a' is not finite; take another file."),
        (["w.pth", "o.pth"], "w.pth has 1 tensors, and none is one of this model: give a file of "),
        (["w.pth", "w.pth/o.pth"], "w.pth/o.pth cannot be written (a file is in the place of its folder)"),
    ],
)
def test_sentences(
    sentence: Callable[..., str],
    config: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    key = "sem_seg_head.predictor.query_feat.weight" if "/" in argv[1] else "a"
    torch.save({key: torch.ones(25, 64)}, "w.pth")
    torch.save({"epoch": 1}, "empty.pth")
    torch.save({"a": torch.tensor(torch.nan)}, "nan.pth")
    assert sentence(convert_weights.main, *argv, "--config-file", config).startswith(says)


def test_two_keys_of_one_name() -> None:
    model = torch.nn.Linear(2, 2)
    tensors = {"weight": torch.ones(2, 2), "module.weight": torch.ones(2, 2)}
    with pytest.raises(UserError, match=r"has 'weight' twice, as 'weight' and as 'module\.weight': remove one of them"):
        converted(tensors, model, "x.pth")


PARTS = st.sampled_from(
    ["module", "model", "_orig_mod", "backbone", "sem_seg_head", "predictor", "static_query", "weight"]
)


@given(st.lists(PARTS, min_size=1, max_size=6).map(".".join))
def test_a_name_is_stable_and_an_own_key_stays(key: str) -> None:
    name = own_key(key, ())
    assert own_key(name, ()) == name
    assert own_key(key, {key}) == key
    assert "_orig_mod" not in name.split(".") or name == "_orig_mod"
