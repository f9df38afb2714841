"""Coordinates of prompts in SAM's square, as in the published code."""

import pytest
import torch

from clouds.self_training.sam.frame import Frame
from tests.parity.golden import arrays


@pytest.mark.parametrize(("name", "size"), [("coords_sam", (768, 768)), ("coords_sam_1052x1914", (1052, 1914))])
def test_points_in_sams_frame(name: str, size: tuple[int, int]) -> None:
    stored = arrays("sam_coords")
    ours = Frame(1024).to_frame(torch.from_numpy(stored["coords_768"]), size)
    torch.testing.assert_close(ours, torch.from_numpy(stored[name]), rtol=1e-12, atol=0)
