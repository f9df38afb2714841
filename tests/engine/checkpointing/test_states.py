"""The state in a checkpoint is compared with the training that continues, before anything of it is applied."""

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clouds.engine.amp import LossScaler
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.optimizer import Schedule
from clouds.errors import UserError
from clouds.self_training.teacher import Teacher
from tests.engine.checkpointing.mutations import Training, equal, mutate, write

INF, NAN = float("inf"), float("nan")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    Training(tmp_path).save("model_0000001", iteration=1, seed=3, history={"loss": (True, [(0.5, 1)])})
    return tmp_path / "model_0000001.pth"


def refused(saved: Path, change: Callable[[dict[str, Any]], Any], words: str) -> None:
    """Check that a changed checkpoint is refused, and that the training keeps its own state."""
    content = torch.load(saved)
    change(content)
    torch.save(content, saved)
    training = Training(saved.parent, seed=1)
    before = copy.deepcopy(training.state())
    with pytest.raises(UserError, match=words) as error:
        training.resume()
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert equal(training.state(), before)


def first(content: dict[str, Any]) -> dict[str, Any]:
    return content["optimizer"]["state"][0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: first(c).update(exp_avg=torch.zeros(1)), r"optimizer\.state\[0\]\.exp_avg is \(1,\) float32 in the"),
        (lambda c: first(c).update(exp_avg=torch.zeros(3, 4).double()), r"exp_avg is \(3, 4\) float64 in the file and"),
        (lambda c: first(c).update(exp_avg_sq=-torch.ones(3, 4)), r"exp_avg_sq is 'negative' and should be at least 0"),
        (lambda c: first(c).update(exp_avg=torch.full((3, 4), NAN)), r"optimizer\.state\[0\]\.exp_avg is not finite"),
        (lambda c: first(c).update(exp_avg=torch.zeros(3, 4).to_sparse()), "exp_avg is sparse"),
        (lambda c: first(c).update(exp_avg=[0.0]), r"exp_avg is \[0\.0\] and should be a tensor"),
        (lambda c: first(c).update(step=torch.zeros(5)), r"step is \(5,\) float32 in the file and \(\) float32 here"),
        (lambda c: first(c).update(step=7), "step is 7 and should be a tensor"),
        (lambda c: first(c).pop("exp_avg_sq"), r"optimizer\.state\[0\] lacks 'exp_avg_sq'"),
        (lambda c: first(c).update(max_exp_avg_sq=torch.zeros(3, 4)), "has the unknown entry 'max_exp_avg_sq'"),
        (lambda c: c["optimizer"]["state"].update({9: first(c)}), r"optimizer\.state has the unknown parameter 9"),
        (lambda c: c["optimizer"]["state"].update({"0": first(c)}), "has the unknown parameter '0'"),
        (lambda c: c["optimizer"].update(state=[1, 2]), r"optimizer\.state is \[1, 2\] and should be a dict"),
        (lambda c: c.update(optimizer=[]), r"optimizer is \[\] and should be its state"),
        (lambda c: c["optimizer"]["param_groups"].pop(), "optimizer has 1 parameter groups in the file and 2 here"),
        (lambda c: c["optimizer"].update(param_groups=3), "optimizer has no parameter groups in the file"),
        (lambda c: c["optimizer"]["param_groups"][0].update(params=[1, 0]), "has other parameters in the file"),
        (lambda c: c["optimizer"]["param_groups"][0].update(lr="fast"), r"param_groups\[0\]\.lr is 'fast' and should"),
        (lambda c: c["optimizer"]["param_groups"][0].update(weight_decay=NAN), "weight_decay is nan and should be"),
        (
            lambda c: c["optimizer"]["param_groups"][0].update(betas=(0.9,)),
            r"betas is \(0\.9,\) and should be 2 values",
        ),
        (lambda c: c["scheduler"].update(last_epoch="abc"), r"scheduler\.last_epoch is 'abc' and should be an integer"),
        (lambda c: c["scheduler"].update(last_epoch=-3), r"scheduler\.last_epoch is -3"),
        (lambda c: c["scheduler"].pop("last_epoch"), "scheduler lacks 'last_epoch'"),
        (lambda c: c["scheduler"].update(base_lrs=[0.1]), r"scheduler\.base_lrs is \[0\.1\] and should be 2 values"),
        (lambda c: c["scheduler"].update(lr_lambdas=[True, None]), r"lr_lambdas\[0\] is True and should be None"),
        (lambda c: c.update(scheduler=torch.zeros(2)), "scheduler is .* and should be a dict"),
        (lambda c: c["scaler"].update(scale=0.0), r"scaler\.scale is 0\.0 and should be above 0"),
        (lambda c: c["scaler"].update(scale=INF), r"scaler\.scale is inf and should be a finite number"),
        (
            lambda c: c["scaler"].update(_growth_tracker=0.5),
            r"scaler\._growth_tracker is 0\.5 and should be an integer",
        ),
        (lambda c: c["teacher"].pop("bias"), "teacher lacks 'bias'"),
        (lambda c: c["teacher"].update(bias=torch.zeros(5)), r"teacher\.bias is \(5,\) float32 in the file and \(3,\)"),
        (lambda c: c["teacher"].update(bias=torch.full((3,), INF)), r"teacher\.bias is not finite"),
        (lambda c: c.update(teacher=[1]), r"teacher is \[1\] and should be a dict"),
        (lambda c: c["data"].update(position=-1), r"data\.position is -1 and should be an integer of at least 0"),
        (lambda c: c["data"].update(seed=None), r"data\.seed is None and should be an integer"),
        (lambda c: c["data"].pop("position"), "data lacks 'position'"),
        (lambda c: c["counts"].update(fates=torch.zeros(2, 3)), r"counts\.fates is \(2, 3\) float32 in the file and"),
        (lambda c: c["counts"].update(fates=torch.full((2, 3), -1)), r"counts\.fates has negative numbers"),
        (lambda c: c["counts"].update({5: torch.zeros(1)}), "counts has the unknown entry 5"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(saved: Path, change: Callable[[Any], Any], words: str) -> None:
    refused(saved, change, rf"model_0000001\.pth cannot be continued with this config: .*{words}")


def test_a_state_that_fits_comes_back(saved: Path) -> None:
    training = Training(saved.parent, seed=1)
    assert training.resume()["iteration"] == 1
    assert equal(training.state(), Training(saved.parent).state())


def test_a_strided_state_gets_the_layout_of_its_parameter(saved: Path) -> None:
    """A fused optimizer reads memory in order, whatever the strides of its state are."""
    content = torch.load(saved)
    first(content)["exp_avg"] = first(content)["exp_avg"].t().contiguous().t()
    first(content)["exp_avg_sq"] = torch.ones(1, 1).expand(3, 4)
    torch.save(content, saved)
    training = Training(saved.parent, seed=1)
    training.resume()
    state = training.optimizer.state[training.model.sem_seg_head.weight]
    assert state["exp_avg"].is_contiguous() and state["exp_avg_sq"].is_contiguous()
    assert torch.equal(state["exp_avg"], first(content)["exp_avg"])


def test_settings_of_an_optimizer_are_those_of_this_training(saved: Path) -> None:
    training = Training(saved.parent, lr=0.5, weight_decay=0.25)
    training.resume()
    assert [group["weight_decay"] for group in training.optimizer.param_groups] == [0.25, 0.25]
    assert [group["lr"] for group in training.optimizer.param_groups] == [0.25, 0.25]  # half the rate at iteration 2


def test_settings_that_a_version_of_torch_does_not_know_are_no_matter(saved: Path) -> None:
    content = torch.load(saved)
    for group in content["optimizer"]["param_groups"]:
        del group["decoupled_weight_decay"]
        group["of_a_later_version"] = True
    del content["scheduler"]["_is_initial"]
    content["scheduler"]["verbose"] = False
    torch.save(content, saved)
    training = Training(saved.parent, seed=1)
    training.resume()
    assert equal(training.state(), Training(saved.parent).state())


def test_sgd_keeps_momenta(tmp_path: Path) -> None:
    def training() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Linear(3, 2)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)

    model, optimizer = training()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    write(Checkpointer(model, str(tmp_path), optimizer=optimizer), "m", iteration=0)
    other, loaded = training()
    Checkpointer(other, str(tmp_path), optimizer=loaded).resume_or_load("", resume=True)
    assert equal(loaded.state_dict(), optimizer.state_dict())
    content = torch.load(tmp_path / "m.pth")
    content["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(1)
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(UserError, match=r"momentum_buffer is \(1,\) float32 in the file and \(2, 3\) float32 here"):
        Checkpointer(other, str(tmp_path), optimizer=loaded).resume_or_load("", resume=True)


class TestEntries:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"iteration": "abc"}, "'iteration' is 'abc' and should be an integer from 0 to 2147483647"),
            ({"iteration": 10**30}, "'iteration' is 10000+"),
            ({"iteration": -1}, "'iteration' is -1"),
            ({"iteration": NAN}, "'iteration' is nan"),
            ({"iteration": True}, "'iteration' is True"),
            ({"iteration": torch.tensor(3)}, r"'iteration' is tensor\(3\)"),
            ({"seed": None}, "'seed' is None"),
            ({"history": [1]}, r"'history' is \[1\]"),
            ({"history": {"loss": (True, [])}}, "'history' is"),
            ({"history": {"loss": (True, [("a", 1)])}}, "'history' is"),
            ({"classes": 19}, "'classes' is 19 and should be a list of names"),
            ({"pixel_mean": [1, NAN, 2]}, r"'pixel_mean' is \[1, nan, 2\]"),
            ({"pixel_mean": [1, 10**400, 2]}, r"'pixel_mean' is \[1, 1000+\.\.\.0+, 2\]"),
            ({"history": {"loss": (True, [(10**400, 0)])}}, "'history' is .* and should be values of scalars by name"),
            ({"run": 3}, "'run' is 3"),
            ({"settings": {"SEED": [torch.zeros(1)]}}, "'settings' is"),
            ({"tower_sha256": b"x"}, "'tower_sha256' is b'x'"),
            ({"model": [1]}, "holds no model weights"),
            ({"model": {}}, "holds no model weights"),
            ({"model": {"bias": torch.zeros(3), 7: torch.zeros(1)}}, "7 is not the name of a tensor"),
            ({"model": {"bias": torch.zeros(3).to_sparse()}}, "'bias' is sparse"),
            ({"model": {"bias": torch.zeros(3, device="meta")}}, "'bias' is without values"),
            ({"model": {"bias": torch.zeros(3, dtype=torch.complex64)}}, "'bias' is of the type torch.complex64"),
            ({"model": {"bias": torch.full((3,), NAN)}}, "'bias' is not finite"),
        ],
    )
    def test_a_wrong_one_makes_resume_take_the_previous_checkpoint(
        self, saved: Path, change: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        content = torch.load(saved)
        torch.save({**content, "iteration": 5, **change}, saved.with_name("model_0000005.pth"))
        (saved.parent / "last_checkpoint").write_text("model_0000005.pth")
        training = Training(saved.parent, seed=1)
        assert training.resume()["iteration"] == 1
        (line,) = [r.getMessage() for r in caplog.records if "The previous checkpoint is tried" in r.getMessage()]
        assert re.search(words, line)
        with pytest.raises(UserError, match=words):
            Checkpointer(training.model).load(str(saved.with_name("model_0000005.pth")))

    def test_another_number_type_is_refused(self, saved: Path) -> None:
        refused(saved, lambda c: c["model"].update({"sem_seg_head.bias": torch.ones(3, dtype=torch.int64)}), "bias' is")

    def test_a_scalar_of_a_vector_is_refused(self, saved: Path) -> None:
        refused(
            saved, lambda c: c["model"].update({"sem_seg_head.bias": torch.tensor(1.0)}), r"bias' is \(\) in the file"
        )


class TestLastCheckpoint:
    NOTES = [
        b"",
        b"\x00",
        b"\xff\xfe\x00m",
        b"../other/model_0000005.pth",
        b"/etc/passwd",
        b".",
        b"..",
        b"model_0000001",
    ]
    NOTES += [
        b"x" * 10_000_000,
        b"a" * 252 + b".pth",
        b"model\n0000001.pth",
        b"sub/model_0000001.pth",
        "\u202e.pth".encode(),
    ]

    @pytest.mark.parametrize("note", NOTES, ids=range(len(NOTES)))
    def test_damaged(self, saved: Path, note: bytes, caplog: pytest.LogCaptureFixture) -> None:
        (saved.parent / "last_checkpoint").write_bytes(note)
        assert Training(saved.parent, seed=1).resume()["iteration"] == 1
        assert "last_checkpoint is damaged: it names no checkpoint" in caplog.text

    def test_a_folder(self, saved: Path) -> None:
        (saved.parent / "last_checkpoint").unlink()
        (saved.parent / "last_checkpoint").mkdir()
        training = Training(saved.parent, seed=1)
        assert training.resume()["iteration"] == 1
        with pytest.raises(UserError, match=r"last_checkpoint cannot be written, a folder has its name: move it away"):
            training.save("model_0000002", iteration=2)

    def test_damaged_with_nothing_but_the_final_one(self, saved: Path) -> None:
        saved.rename(saved.with_name("model_final.pth"))
        (saved.parent / "last_checkpoint").write_bytes(b"")
        assert Training(saved.parent, seed=1).resume()["iteration"] == 1

    def test_damaged_without_any(self, saved: Path) -> None:
        saved.unlink()
        (saved.parent / "last_checkpoint").write_bytes(b"\xff")
        with pytest.raises(UserError, match=r"None of the checkpoints in .* can be read \(0 tried, none first\)"):
            Training(saved.parent, seed=1).resume()


class TestFolders:
    def test_as_a_checkpoint(self, saved: Path, caplog: pytest.LogCaptureFixture) -> None:
        for name in ("model_0000009.pth", "model_0000001.pth.part"):
            (saved.parent / name).mkdir()
        (saved.parent / "last_checkpoint").write_text("model_0000009.pth")
        training = Training(saved.parent, seed=1, keep=1)
        assert training.resume()["iteration"] == 1
        assert "the file is damaged, or holds more than tensors and plain values (it is a folder)" in caplog.text
        training.save("model_0000010", iteration=10)
        assert (saved.parent / "model_0000009.pth").is_dir() and not saved.exists()
        with pytest.raises(
            UserError, match=r"model_0000009\.pth cannot be written, a folder has its name: move it away"
        ):
            training.save("model_0000009", iteration=9)

    @pytest.mark.parametrize("name", ["folder.pth", "x" * 5000])
    def test_as_weights(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "folder.pth").mkdir()
        with pytest.raises(UserError, match=r"Weights not found: .*(is a folder|there is no file)"):
            Checkpointer(nn.Linear(2, 2)).load(str(tmp_path / name))


def test_parts_of_this_project_are_compared() -> None:
    """Each has a state of its own, so that a class without one does not go unnoticed."""
    training = Training(Path())
    kinds = {type(part) for part in training.parts.values()}
    assert kinds >= {torch.optim.AdamW, Schedule, LossScaler, Teacher}


@pytest.mark.slow
def test_no_mutation_is_applied_wrongly() -> None:
    """Run hundreds of mutated checkpoints in a process of their own: damage to its memory would end it."""
    command = [sys.executable, "-m", "tests.engine.checkpointing.mutations", "100"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    refused_, loaded = map(int, result.stdout.split()[-2:])
    assert refused_ + loaded == 100 and min(refused_, loaded) > 10


def test_mutations_change_one_value() -> None:
    content = {"a": [1, {"b": torch.zeros(3)}]}
    changed = [mutate(content, seed) for seed in range(50)]
    assert content["a"][0] == 1 and not any(equal(each, content) for each in changed)
