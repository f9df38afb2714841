import hashlib
from pathlib import Path

from clouds.utils.hashing import file_sha256, model_digest


def test_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"weights").hexdigest()


def test_digest_of_a_model_sees_names_and_content_of_its_files_only(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/model.safetensors").write_bytes(b"weights")
    (tmp_path / "model_index.json").write_bytes(b"{}")
    digest = model_digest(tmp_path)

    for about in ("README.md", "sheet.png", ".cache/x", "unet/model.safetensors.sha256"):
        (tmp_path / about).parent.mkdir(exist_ok=True)
        (tmp_path / about).write_bytes(b"about the model")
    assert model_digest(tmp_path) == digest

    (tmp_path / "model_index.json").write_bytes(b"{ }")
    assert model_digest(tmp_path) != digest
    (tmp_path / "model_index.json").write_bytes(b"{}")
    (tmp_path / "unet/model.safetensors").rename(tmp_path / "unet/other.safetensors")
    assert model_digest(tmp_path) != digest
