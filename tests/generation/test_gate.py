"""Quality gate: blank images, similarity to the prompt, near-duplicates."""

import os
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clouds.errors import UserError
from clouds.generation.gate import (
    Gate,
    difference_hash,
    duplicate_reason,
    luminance_contrast,
    near_duplicates,
)
from clouds.generation.settings import GateSettings
from clouds.generation.similarity import ClipSimilarity
from clouds.utils.hashing import write_sha256


def noise(seed: int, level: int = 128, spread: int = 2) -> np.ndarray:
    values = np.random.default_rng(seed).integers(level - spread, level + spread + 1, (64, 96, 3))
    return values.clip(0, 255).astype(np.uint8)


def naive(hashes: list[tuple[int, str]], distance: int) -> dict[int, int]:
    kept: list[tuple[int, int]] = []
    near = {}
    for index, text in sorted(hashes):
        word = int(text, 16)
        close = [other for other, bits in kept if (bits ^ word).bit_count() <= distance]
        if close:
            near[index] = close[0]
        else:
            kept.append((index, word))
    return near


@given(
    st.dictionaries(
        st.integers(0, 99), st.integers(0, 2**64 - 1).map(lambda word: f"{word & 0xF00000000000000F:016x}")
    ),
    st.integers(0, 8),
)
def test_near_duplicates(hashes: dict[int, str], distance: int) -> None:
    assert near_duplicates(list(hashes.items()), distance) == naive(list(hashes.items()), distance)


def test_hash_depends_on_the_image_and_not_on_its_grain() -> None:
    y, x = np.mgrid[:64, :96]
    wave = (128 + 60 * np.sin(x / 7.0) * np.cos(y / 9.0)).astype(np.uint8)
    image = np.repeat(wave[..., None], 3, axis=2)
    grainy = (image.astype(int) + np.random.default_rng(0).integers(-4, 5, image.shape)).clip(0, 255)
    bits = [int(difference_hash(each), 16) for each in (image, grainy.astype(np.uint8), image[:, ::-1])]
    assert (bits[0] ^ bits[1]).bit_count() <= 6
    assert (bits[0] ^ bits[2]).bit_count() > 20
    assert len(difference_hash(image)) == 16


def test_reason_of_a_duplicate() -> None:
    reason = duplicate_reason({"index": 9, "dhash": f"{7:016x}"}, {"index": 4, "dhash": f"{0:016x}"}, 6)
    assert reason == "near-duplicate of image 4 (3 of 64 bits differ, more than 6 asked)"


@pytest.mark.parametrize("level", [0, 30, 128, 255])
def test_blank(level: int) -> None:
    image = noise(0, level)
    (verdict,) = Gate(GateSettings())([image], ["a street"])
    assert verdict.reason is not None
    assert verdict.reason.startswith("blank (contrast ")
    assert verdict.similarity is None


def test_an_image_with_contrast_passes() -> None:
    (verdict,) = Gate(GateSettings())([noise(0, spread=40)], ["a street"])
    assert verdict.reason is None
    assert luminance_contrast(noise(0, spread=40)) > GateSettings().contrast > luminance_contrast(noise(0))


def test_similarity_to_the_prompt(clip: Path) -> None:
    images = [noise(seed, spread=100) for seed in range(3)]
    prompts = ["a busy street", "fog", "a busy street"]
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{clip}")
    model.eval()
    with torch.no_grad():
        seen = model.encode_image(torch.stack([transform(Image.fromarray(image)) for image in images]))
        read = model.encode_text(open_clip.get_tokenizer(f"local-dir:{clip}")(prompts))
    expected = torch.cosine_similarity(seen, read).tolist()
    assert len({round(value, 3) for value in expected}) == 3
    similarity = ClipSimilarity(str(clip), "", device="cpu")
    assert similarity(images, prompts) == pytest.approx(expected, abs=1e-5)

    least = sorted(expected)[1] - 1e-3  # the lowest of the three is rejected
    verdicts = Gate(GateSettings(similarity=least), similarity)(images, prompts)
    assert [verdict.reason is None for verdict in verdicts] == [value > least for value in expected]
    assert [verdict.similarity for verdict in verdicts] == pytest.approx(expected, abs=1e-4)
    (reason,) = [verdict.reason for verdict in verdicts if verdict.reason]
    assert reason.startswith("similarity to its prompt ")


def test_the_gate_needs_a_function_for_the_similarity() -> None:
    with pytest.raises(ValueError, match="needs the argument similarity"):
        Gate(GateSettings(similarity=0.2))
    images = [noise(seed, spread=60) for seed in range(2)]
    verdicts = Gate(GateSettings(similarity=0.2), lambda images, prompts: [0.1, 0.25678])(images, ["a", "b"])
    assert [verdict.reason for verdict in verdicts] == ["similarity to its prompt 0.100, at least 0.2 asked", None]
    assert [verdict.similarity for verdict in verdicts] == [0.1, 0.2568]


def test_no_such_clip(tmp_path: Path) -> None:
    for model, weights in (("ViT-B-99", ""), ("ViT-B-32", "no_such_tag"), (str(tmp_path), "")):
        with pytest.raises(UserError, match=r"The gate's CLIP .* cannot be loaded"):
            ClipSimilarity(model, weights, device="cpu")


def test_a_clip_that_differs_from_its_record(clip: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(clip, tmp_path / "clip"))
    write_sha256(copied / "open_clip_model.safetensors")
    ClipSimilarity(str(copied), "", device="cpu")
    with (copied / "open_clip_model.safetensors").open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(bytes(64))
    with pytest.raises(UserError, match=r"cannot be loaded: .* is damaged \(its checksum differs\)"):
        ClipSimilarity(str(copied), "", device="cpu")
