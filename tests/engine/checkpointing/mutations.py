"""A training of a few numbers with every part that checkpoints store, and mutations of its checkpoints."""

import copy
import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clouds.engine.amp import LossScaler
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.optimizer import Schedule
from clouds.errors import UserError
from clouds.self_training.teacher import Teacher


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(5, 4).requires_grad_(False)
        self.norm = nn.BatchNorm1d(4)
        self.sem_seg_head = nn.Linear(4, 3)
        self.register_buffer("pixel_mean", torch.full((3, 1, 1), 120.0), persistent=False)


class _Part:
    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def write(checkpointer: Checkpointer, name: str, **extra: Any) -> None:
    """Save a checkpoint and wait until it is on disk."""
    checkpointer.save(name, **extra)
    checkpointer.wait()


class Training:
    """Two steps of AdamW, its schedule, a loss scaler, a teacher, a position in the data, and counts of pixels."""

    def __init__(
        self, folder: Path, *, seed: int = 0, lr: float = 0.1, weight_decay: float = 0.0, keep: int = 0
    ) -> None:
        torch.manual_seed(seed)
        self.model = _Model()
        head, norm = self.model.sem_seg_head, self.model.norm
        groups = [{"params": list(head.parameters())}, {"params": list(norm.parameters())}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)
        schedule = Schedule(self.optimizer, lambda iteration: 1 / max(iteration, 1))
        self.teacher = Teacher(0.9)
        self.teacher.start(self.model)
        self.parts = {
            "optimizer": self.optimizer,
            "scheduler": schedule,
            "scaler": LossScaler("cpu", enabled=True),
            "teacher": self.teacher,
            "data": _Part({"position": 8, "seed": 3}),
            "counts": _Part({"fates": torch.ones(2, 3, dtype=torch.int64)}),
        }
        options = {"reloadable": False, "classes": ["a", "b", "c"], "keep": keep}
        self.checkpointer = Checkpointer(self.model, str(folder), **options, **self.parts)
        for _ in range(2):
            self.step()
            schedule.step()

    def step(self) -> None:
        """Train on one batch."""
        self.optimizer.zero_grad()
        self.model.sem_seg_head(self.model.norm(self.model.backbone(torch.rand(6, 5)))).square().sum().backward()
        self.optimizer.step()

    def save(self, name: str, **extra: Any) -> None:
        """Write a checkpoint."""
        write(self.checkpointer, name, **extra)

    def save_beside(self, name: str, **extra: Any) -> None:
        """Begin to write a checkpoint."""
        self.checkpointer.save(name, **extra)

    def resume(self) -> dict[str, Any]:
        """Continue from the newest checkpoint and return its other entries."""
        return self.checkpointer.resume_or_load("", resume=True)

    def state(self) -> dict[str, Any]:
        """Return the states of the model and of all parts."""
        self.teacher.start(self.model) if self.teacher._restored else None
        return {"model": self.model.state_dict(), **{key: part.state_dict() for key, part in self.parts.items()}}


def equal(one: Any, other: Any) -> bool:
    """Compare nested containers with tensors; a tuple and a list of equal values are equal."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        both = isinstance(one, Tensor) and isinstance(other, Tensor)
        plain = both and one.layout is other.layout is torch.strided and one.dtype == other.dtype
        return plain and not (one.is_meta or other.is_meta) and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


def mutate(content: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return a copy of a checkpoint in which one value, at any depth, is replaced, removed or added."""
    rng = random.Random(seed)
    while True:
        changed = copy.deepcopy(content)
        place: Any = changed
        while True:
            key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
            inner = place[key]
            if isinstance(inner, dict | list) and inner and rng.random() < 0.85:
                place = inner
                continue
            break
        action = rng.random()
        if action < 0.15:
            del place[key]
        elif action < 0.25 and isinstance(place, dict):
            place[rng.choice(["x", 99, (1,), "lr", "bias", "state"])] = inner
        else:
            place[key] = _other(inner, rng)
        if not equal(changed, content):
            return changed


def _other(value: Any, rng: random.Random) -> Any:
    choices: list[Any] = [None, True, 0, 1, -1, 10**30, 0.5, float("nan"), float("inf"), "", "abc", b"x", [], {}, [1]]
    choices += [torch.zeros(()), torch.zeros(0), torch.full((7,), float("nan")), torch.zeros(2, 2, dtype=torch.int8)]
    if isinstance(value, Tensor):
        wider = torch.zeros([*value.shape, 2])
        choices += 3 * [value[None], value.flatten()[:-1], wider, value.to(torch.float64), value.to(torch.complex64)]
        choices += 3 * [value.to("meta"), torch.zeros(()).expand(value.shape), value.float().to_sparse()]
        choices += 3 * [value.float() - 1e3, value.float() / 0, torch.zeros(value.shape, dtype=value.dtype)]
    return rng.choice(choices)


def main(count: int) -> None:
    """Resume from mutated checkpoints, train on, and print how many were refused and loaded."""
    refused = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Training(folder).save("m", iteration=1, seed=3, history={"loss": (True, [(0.5, 1)])})
        content = torch.load(folder / "m.pth")
        for seed in range(count):
            changed = mutate(content, seed)
            torch.save(changed, folder / "m.pth")
            training = Training(folder, seed=1)
            before = copy.deepcopy(training.state())
            try:
                training.resume()
            except UserError as error:
                refused += 1
                assert str(error).isprintable(), error
                assert equal(training.state(), before), f"mutation {seed} is half applied: {error}"
            else:
                for key, value in training.model.state_dict().items():
                    assert key not in changed["model"] or torch.equal(value, changed["model"][key].to(value.dtype)), (
                        seed
                    )
                training.step()
                assert all(torch.isfinite(value).all() for value in training.model.parameters()), seed
    print(refused, count - refused)


if __name__ == "__main__":
    main(int(sys.argv[1]))
