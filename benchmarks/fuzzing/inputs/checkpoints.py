"""Checkpoints: torch files of both formats, safetensors, and last_checkpoint."""

import io
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from clouds.engine.checkpointing.build import build_checkpointer, load_for_inference
from clouds.engine.optimizer import build_lr_scheduler, build_optimizer
from clouds.errors import UserError
from clouds.self_training.teacher import Teacher
from fuzzing.inputs.kind import KEYS, Kind
from fuzzing.inputs.network import FuzzSegmenter, tiny_config
from fuzzing.mutation import hostile_text, hostile_value, mutate_bytes, mutate_file, mutate_tree, weighted


def _model(folder: Path) -> tuple[Any, dict[str, Any], Any]:
    """Return a model, its checkpointables and its config."""
    torch.manual_seed(0)
    cfg = tiny_config(folder)
    model = FuzzSegmenter(cfg)
    optimizer = build_optimizer(cfg, model)
    parts = {"optimizer": optimizer, "scheduler": build_lr_scheduler(cfg, optimizer), "teacher": Teacher(0.5)}
    parts["teacher"].start(model)
    return model, parts, cfg


def _step(model: Any, parts: dict[str, Any]) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    parts["optimizer"].step()
    parts["scheduler"].step()
    parts["teacher"].update(model)


@cache
def _valid() -> dict[str, Any]:
    """Content of a valid checkpoint, written by the code that is tested."""
    folder = Path(tempfile.mkdtemp(prefix="valid-"))
    model, parts, cfg = _model(folder)
    _step(model, parts)
    checkpointer = build_checkpointer(cfg, model, **parts)
    checkpointer.save("model_0000001", iteration=1, seed=3)
    checkpointer.wait()
    content: dict[str, Any] = torch.load(folder / "model_0000001.pth", weights_only=True)
    return content


def _hostile_tensor(rng: random.Random, tensor: Tensor) -> Any:
    values = tensor.float()
    return rng.choice(
        (
            lambda: values.flatten(),
            lambda: values[None],
            lambda: values.flatten()[:0],
            lambda: values.double(),
            lambda: values.half(),
            lambda: values.to(torch.int64),
            lambda: values.to(torch.complex64),
            lambda: values > 0,
            lambda: values.to_sparse(),
            lambda: torch.full_like(values, rng.choice((float("nan"), float("inf"), 1e30))),
            lambda: torch.cat([values.flatten()] * 3),
            lambda: values.reshape(-1)[:1].expand(1000),
            lambda: torch.zeros(()),
            lambda: torch.nn.Parameter(values),
            lambda: torch.empty(3, device="meta"),
            lambda: values.tolist(),
            lambda: None,
        )
    )()


def _mutated(rng: random.Random) -> Any:
    """Return the content of a checkpoint with hostile entries: other tensors, other values, other keys."""
    content = _valid()
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        if rng.random() < 0.5:
            content = _with_tensor(rng, content)
        elif rng.random() < 0.6:
            content = _change(rng, content)
        else:
            content = mutate_tree(rng, content)
        if not isinstance(content, dict):
            break
    return content


def _with_tensor(rng: random.Random, content: Any) -> Any:
    """Replace one tensor somewhere in a tree."""
    if isinstance(content, Tensor):
        changed = content.is_sparse or content.is_meta  # an earlier mutation; such tensors have no values to change
        return content if changed else _hostile_tensor(rng, content)
    if isinstance(content, dict) and content:
        holding = [key for key in content if isinstance(content[key], dict | Tensor)]
        if holding:
            key = rng.choice(holding)
            return {**content, key: _with_tensor(rng, content[key])}
    return content


def _change(rng: random.Random, content: dict[str, Any]) -> dict[str, Any]:
    key = rng.choice(list(content))
    return rng.choice(
        (
            lambda: {name: value for name, value in content.items() if name != key},
            lambda: {**content, key: hostile_value(rng)},
            lambda: {**content, hostile_text(rng)[:100]: content[key]},
            lambda: {**content, key: content[rng.choice(list(content))]},
            lambda: dict(content["model"]) if isinstance(content.get("model"), dict) else {},
        )
    )()


def _saved(content: Any, file_format: str) -> bytes:
    stream = io.BytesIO()
    try:
        if file_format == "safetensors":
            model = content["model"] if isinstance(content, dict) and "model" in content else content
            return save_safetensors({str(key): value.clone().contiguous() for key, value in model.items()})
        torch.save(content, stream, _use_new_zipfile_serialization=file_format == "zip")
    except (ValueError, AttributeError, TypeError, RuntimeError, KeyError):
        torch.save(_valid(), stream)  # this content cannot be saved in this format
    return stream.getvalue()


def _write(folder: Path, rng: random.Random) -> str:
    """Write checkpoints and last_checkpoint, and return the name of one file to load directly."""
    file_format = weighted(rng, (5, "zip"), (2, "legacy"), (3, "safetensors"))
    name = {"zip": "model_0000001.pth", "legacy": "model_0000001.pth", "safetensors": "weights.safetensors"}[
        file_format
    ]
    data = _saved(_mutated(rng), file_format)
    if rng.random() < 0.4:
        data = mutate_bytes(rng, data, rng.choice((1, 1, 2, 10)))
    if rng.random() < 0.05:
        data = rng.choice((b"\x80\x04cos\nsystem\n(S'touch x'\ntR.", b"PK\x03\x04", b"", b"version https://git-lfs\n"))
    (folder / name).write_bytes(data)
    if rng.random() < 0.3:
        (folder / "model_0000000.pth").write_bytes(_saved(_valid() if rng.random() < 0.5 else _mutated(rng), "zip"))
    if rng.random() < 0.9:
        tagged = name if rng.random() < 0.7 else hostile_text(rng)[:300]
        tag = mutate_bytes(rng, tagged.encode("utf-8", "surrogatepass"), rng.choice((0, 0, 0, 1)))
        (folder / "last_checkpoint").write_bytes(tag)
    for path in (folder / name, folder / "last_checkpoint"):
        if rng.random() < 0.04:
            mutate_file(rng, path)
    return name


def _read(folder: Path, name: str) -> None:
    refusals = []
    try:
        model, parts, cfg = _model(folder)
        build_checkpointer(cfg, model, **parts).resume_or_load("", resume=True)
        parts["teacher"].start(model)
        _step(model, parts)
        _step(model, parts)
    except UserError as error:
        refusals.append(error)
    try:
        model, parts, cfg = _model(folder)
        cfg.MODEL.WEIGHTS = str(folder / name)
        load_for_inference(cfg, model)
        with torch.no_grad():
            model.eval()([{"image": torch.zeros(3, 4, 4, dtype=torch.uint8), "height": 4, "width": 4}])
        if not all(torch.isfinite(each).all() for each in model.state_dict().values()):
            raise AssertionError("weights that are not finite were accepted")
    except UserError as error:
        refusals.append(error)
    if refusals:
        raise refusals[-1]


KIND = Kind(_write, _read, KEYS)
