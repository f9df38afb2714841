"""The quality gate: blanks, likeness to the prompt, near-duplicates."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from minicity.world.render import render_scene
from minicity.world.styles import STYLES
from PIL import Image

from clouds.errors import UserError
from clouds.generation.gate import (
    Gate,
    GateSettings,
    Similarity,
    difference_hash,
    duplicate_reason,
    luminance_contrast,
    near_duplicates,
)

CLIP = Path(__file__).resolve().parents[2] / "projects/minicity/weights/clip"


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


def test_hash_sees_the_picture_and_not_its_grain() -> None:
    y, x = np.mgrid[:64, :96]
    wave = (128 + 60 * np.sin(x / 7.0) * np.cos(y / 9.0)).astype(np.uint8)
    picture = np.repeat(wave[..., None], 3, axis=2)
    grainy = (picture.astype(int) + np.random.default_rng(0).integers(-4, 5, picture.shape)).clip(0, 255)
    bits = [int(difference_hash(image), 16) for image in (picture, grainy.astype(np.uint8), picture[:, ::-1])]
    assert (bits[0] ^ bits[1]).bit_count() <= 6
    assert (bits[0] ^ bits[2]).bit_count() > 20
    assert len(difference_hash(picture)) == 16


def test_reason_of_a_duplicate() -> None:
    reason = duplicate_reason({"index": 9, "dhash": f"{7:016x}"}, {"index": 4, "dhash": f"{0:016x}"}, 6)
    assert reason == "near-duplicate of image 4 (3 of 64 bits differ, more than 6 asked)"


@pytest.mark.parametrize("level", [0, 30, 128, 255])
def test_blank(level: int) -> None:
    image = noise(0, level)
    (verdict,) = Gate(GateSettings(), device="cpu")([image], ["a street"])
    assert verdict.reason is not None
    assert verdict.reason.startswith("blank (contrast ")
    assert verdict.similarity is None


@pytest.mark.parametrize("style", STYLES)
def test_no_street_is_blank(style: str) -> None:
    for seed in range(3):
        image = render_scene(style, 0, seed, (64, 128)).image
        assert luminance_contrast(image) > 1.5 * GateSettings().contrast


def test_likeness_to_the_prompt() -> None:
    clip = Similarity(str(CLIP), "", device="cpu")
    sky = np.zeros((64, 64, 3), np.uint8)
    sky[:] = (110, 160, 230)
    leaves = np.random.default_rng(0).integers(0, 60, (64, 64, 3)).astype(np.uint8)
    leaves[..., 1] += 70
    prompts = ["sky", "vegetation"]
    right = clip([sky, leaves], prompts)
    wrong = clip([sky, leaves], prompts[::-1])
    assert sum(right) > sum(wrong)
    assert all(-1 <= value <= 1 for value in right + wrong)
    gate = Gate(GateSettings(similarity=1.0, clip=str(CLIP), clip_weights=""), device="cpu")
    (verdict,) = gate([np.asarray(Image.effect_noise((64, 64), 90).convert("RGB"))], ["sky"])
    assert verdict.reason is not None
    assert verdict.reason.startswith("similarity to its prompt ")


def test_no_such_clip(tmp_path: Path) -> None:
    for model, weights in (("ViT-B-99", ""), ("ViT-B-32", "no_such_tag"), (str(tmp_path), "")):
        with pytest.raises(UserError, match=r"The gate's CLIP .* cannot be loaded"):
            Similarity(model, weights, device="cpu")
