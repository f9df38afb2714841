"""The published EMA of the head, update by update."""

import torch
from safetensors.torch import load_file

from clouds.self_training.teacher import Teacher
from tests.parity import golden


def stored(name: str) -> dict[str, torch.Tensor]:
    """Return stored tensors by their name in the head."""
    return {key.partition(".")[2]: value for key, value in load_file(golden.ROOT / f"{name}.safetensors").items()}


def test_three_updates() -> None:
    model = golden.build("convnext_closed")
    head = model.sem_seg_head
    assert not head.load_state_dict(stored("ema_student_initial"), strict=False).unexpected_keys
    teacher = Teacher(decay=0.9)
    teacher.start(model)
    for step in (1, 2, 3):
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(1 + 0.01 * step).add_(0.001 * step)
        teacher.update(model)
        if step == 2:
            continue
        theirs, ours = stored(f"ema_after_{step}"), teacher.state_dict()
        assert len(theirs) >= 80
        assert theirs.keys() <= ours.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-6, atol=1e-7)
