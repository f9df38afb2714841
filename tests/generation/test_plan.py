"""Indices, file names, seeds and blocks of a generated set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.errors import UserError
from clouds.generation.plan import blocks, image_file_name, image_seed, parse_indices, prompt_of
from clouds.utils.world import World


@given(st.integers(0, 3), st.integers(1, 60), st.integers(1, 9), st.integers(1, 5))
def test_processes_share_a_part_without_gap_or_overlap(part: int, images: int, batch: int, size: int) -> None:
    shares = [blocks(part, images, batch, World(rank, size)) for rank in range(size)]
    indices = sorted(index for share in shares for block in share for index in block)
    assert indices == list(range(part * images, (part + 1) * images))
    whole = blocks(part, images, batch, World())
    assert sorted((block for share in shares for block in share), key=lambda block: block.start) == whole
    assert all(len(block) == batch for block in whole[:-1])


def test_published_numbers() -> None:
    (block,) = blocks(2, 3, 8, World())
    prompts = ["a", "b", "c"]
    assert [image_file_name(index, prompt_of(index, prompts)[0]) for index in block] == [
        "im_6_p0.png",
        "im_7_p1.png",
        "im_8_p2.png",
    ]


@given(st.integers(0, 2**63), st.integers(0, 10**7), st.integers(0, 10))
def test_seed(base: int, index: int, attempt: int) -> None:
    seed = image_seed(base, index, attempt)
    assert 0 <= seed < 2**63
    assert seed == image_seed(base, index, attempt)
    assert len({seed, image_seed(base + 1, index, attempt), image_seed(base, index + 1, attempt)}) == 3
    assert image_seed(base, index, attempt + 1) != seed


def test_seeds_stay_what_they_are() -> None:
    # Existing sets are extended and repeated with these seeds.
    assert image_seed(0, 0, 0) == 7896617691693857887
    assert image_seed(0, 1, 0) == 2918264622725855778


def test_indices() -> None:
    assert parse_indices("3,17, 40-42,41") == [3, 17, 40, 41, 42]
    for bad in ("", "3,", "x", "5-3", "-1", "3-", "1.5"):
        with pytest.raises(UserError, match="not a list of numbers"):
            parse_indices(bad)
