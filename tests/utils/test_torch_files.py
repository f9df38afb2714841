"""Weight files are read as tensors and plain values, or not at all."""

import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clouds.utils.torch_files import read_tensors, verify_model

STATE = {"weight": torch.arange(600.0), "bias": torch.ones(2)}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_tensors_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    save_file(STATE, path) if suffix == "safetensors" else torch.save(STATE, path)
    read = read_tensors(path)
    assert read.keys() == STATE.keys() and all(torch.equal(read[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("length", [0, 1, 40, 700])
def test_a_truncated_file_is_an_error_named_by_its_exception(tmp_path: Path, suffix: str, length: int) -> None:
    path = tmp_path / f"x.{suffix}"
    save_file(STATE, path) if suffix == "safetensors" else torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"^\w+$"):
        read_tensors(path)


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("touched"),)


def test_code_in_a_file_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Trap()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"^it asks for getattr$"):
        read_tensors(tmp_path / "x.pth")
    assert not (tmp_path / "touched").exists()


def test_checksums_count(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(STATE, path)
    content = bytearray(path.read_bytes())
    place = content.index(STATE["weight"].numpy().tobytes())
    content[place + 100] ^= 1
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is not None
    assert not torch.equal(torch.load(path)["weight"], STATE["weight"]), "torch ignores the checksums"
    with pytest.raises(ValueError, match="its checksum differs"):
        read_tensors(path)


def test_names_that_are_no_files_are_not_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(STATE, tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors.sha256").write_text("0" * 64)
    for name in ("", "owner/model", "a_tag"):
        verify_model(name)
    for model in (tmp_path, tmp_path / "x.safetensors", "x.safetensors"):
        with pytest.raises(ValueError, match=r"x\.safetensors is damaged \(its checksum differs\)"):
            verify_model(model)
