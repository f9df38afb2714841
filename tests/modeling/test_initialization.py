"""Modules that are built without random numbers are the same after their weights are loaded."""

from pathlib import Path

import open_clip
import pytest
import torch

from clouds.errors import UserError
from clouds.modeling.backbone.open_clip_models import load_open_clip
from clouds.modeling.initialization import NoRandomInitialization
from tests.parity import golden


def test_no_random_number_is_drawn() -> None:
    before = torch.get_rng_state()
    with NoRandomInitialization():
        layers = [torch.nn.Linear(3, 4), torch.nn.Conv2d(3, 4, 1), torch.nn.MultiheadAttention(4, 2)]
        torch.nn.init.trunc_normal_(tensor=layers[0].weight)
        norm = torch.nn.LayerNorm(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert norm.weight.tolist() == [1, 1, 1]
    assert torch.rand(()) != torch.rand(()), "outside, numbers are random"


@pytest.mark.parametrize("tower", ["rn", "convnext"])
def test_a_tower_is_that_of_its_file(tower: str, tmp_path: Path) -> None:
    config = golden.ROOT / "clip_configs" / golden.CLIP_CONFIGS[tower]
    open_clip.add_model_config(config)
    made = open_clip.create_model(config.stem)
    torch.save(made.state_dict(), tmp_path / "weights.pt")
    loaded = load_open_clip(str(config), str(tmp_path / "weights.pt"))
    for ours, theirs in [(loaded.state_dict(), made.state_dict()), (buffers(loaded), buffers(made))]:
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    state = made.state_dict()
    del state["text_projection"]
    torch.save(state, tmp_path / "less.pt")
    with pytest.raises(UserError, match="text_projection"):
        load_open_clip(str(config), str(tmp_path / "less.pt"))


def buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Buffers by name, also those that are not in the state, such as the mask of the text tower."""
    return dict(model.named_buffers())
