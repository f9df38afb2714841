"""Content of checkpoints, and loading with its messages."""

import functools
import resource
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.checkpointing.weights import frozen_keys, load_weights, read_checkpoint, sampled_digest
from clouds.errors import UserError, machine_error
from tests.engine.checkpointing.mutations import write


class Model(nn.Module):
    """A frozen backbone with the statistics of a norm, a head of four tensors, and a buffer."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).requires_grad_(False)
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, classes, 1))
        self.register_buffer("empty_weight", torch.rand(3))


TOWER = {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
TOWER = {f"backbone.{key}" for key in TOWER}
TRAINED = {"head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias", "empty_weight"}


def equal(model: nn.Module, other: nn.Module) -> set[str]:
    theirs = other.state_dict()
    return {key for key, value in model.state_dict().items() if torch.equal(value, theirs[key])}


def test_frozen_keys_are_the_towers_parameters_and_statistics() -> None:
    model = Model()
    assert frozen_keys(model) == TOWER
    model.backbone[0].requires_grad_(True)  # a norm whose own parameters stay frozen is not updated
    assert frozen_keys(model) == {key for key in TOWER if key.startswith("backbone.1")}
    model.backbone[1].weight.requires_grad_(True)
    assert frozen_keys(model) == {"backbone.1.bias"}
    model.head.requires_grad_(False)  # no other file has weights that are frozen outside of the backbone
    assert frozen_keys(model) == {"backbone.1.bias"}


def test_a_module_of_buffers_alone_follows_the_tower() -> None:
    model = Model()
    model.backbone.append(nn.BatchNorm2d(4, affine=False))
    assert "backbone.2.running_mean" in frozen_keys(model)
    model.backbone[0].requires_grad_(True)
    assert "backbone.2.running_mean" not in frozen_keys(model)


def same_tower(model: Model) -> Model:
    """Build a model with the backbone of another one and its own head."""
    other = Model()
    other.backbone.load_state_dict(model.backbone.state_dict())
    return other


def test_saves_what_is_trained_and_loads_it_back(tmp_path: Path) -> None:
    model = Model()
    other = same_tower(model)
    write(Checkpointer(model, str(tmp_path)), "model_final", iteration=7, seed=3)
    content = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert content["model"].keys() == TRAINED
    assert (content["iteration"], content["seed"]) == (7, 3)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"]

    rest = Checkpointer(other, complete=True).load(str(tmp_path / "model_final.pth"))
    assert equal(model, other) >= TRAINED
    assert rest == {"iteration": 7, "seed": 3}


def test_stores_the_tower_when_asked_to(tmp_path: Path) -> None:
    model, other = Model(), Model()
    write(Checkpointer(model, str(tmp_path), save_frozen=True), "full")
    assert torch.load(tmp_path / "full.pth")["model"].keys() == TRAINED | TOWER
    Checkpointer(other).load(str(tmp_path / "full.pth"))
    assert equal(model, other) == TRAINED | TOWER


def test_a_failing_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    checkpointer = Checkpointer(model, str(tmp_path))
    write(checkpointer, "model_final", iteration=1)

    def full_disk(content: object, file: object) -> None:
        file.write(b"half a che")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        write(checkpointer, "model_final", iteration=2)
    assert torch.load(tmp_path / "model_final.pth")["iteration"] == 1
    assert Checkpointer(model, str(tmp_path)).resume_or_load("", resume=True)["iteration"] == 1


@pytest.mark.parametrize("values", [10, 100_000], ids=["at the end of the file", "at a tensor"])
def test_a_full_disk_names_the_checkpoint(tmp_path: Path, values: int) -> None:
    write(Checkpointer(Model(), str(tmp_path)), "model_final", iteration=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError) as caught:
            write(Checkpointer(Model(), str(tmp_path)), "model_final", more=torch.zeros(values))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = f"{tmp_path / 'model_final.pth'} cannot be written (no file may become this large): raise"
    assert str(machine_error(caught.value)).startswith(said)
    assert Checkpointer(Model(), str(tmp_path)).resume_or_load("", resume=True)["iteration"] == 1
    assert not list(tmp_path.glob("*.part"))


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    write(Checkpointer(Model(), str(tmp_path), save_to_disk=False), "model_final")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["pth with model", "bare pth", "safetensors", "from data-parallel training"])
def test_reads_every_form_of_weights(form: str, tmp_path: Path) -> None:
    model, other = Model(), Model()
    weights = dict(model.state_dict())
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(weights, path)
    elif form == "bare pth":
        torch.save(weights, path)
    elif form == "pth with model":
        torch.save({"model": weights, "trainer": {"iteration": 9, "hooks": {}}}, path)
    else:
        torch.save({"model": {f"module.{key}": value for key, value in weights.items()}}, path)
    Checkpointer(other, complete=True).load(str(path))
    assert equal(model, other) == TRAINED | TOWER


def test_report_of_a_whole_checkpoint() -> None:
    model, weights = Model(), {key: value for key, value in Model().state_dict().items() if key in TRAINED}
    assert load_weights(model, weights, source="w.pth") == [
        "Loaded 5 tensors from w.pth (7 of the frozen backbone are not in the file and keep their values)",
        "Missing: none",
        "Unexpected: none",
    ]


def test_report_names_at_most_three_keys() -> None:
    model, weights = Model(), Model().state_dict()
    del weights["head.0.bias"], weights["empty_weight"]
    weights |= {f"sam.{number}": torch.zeros(1) for number in range(5)}
    assert load_weights(model, weights, source="w.pth") == [
        "Loaded 10 tensors from w.pth",
        "Missing: 2 (empty_weight, head.0.bias)",
        "Unexpected: 5 (sam.0, sam.1, sam.2, ...)",
    ]


def test_evaluation_refuses_a_head_that_is_partly_untrained() -> None:
    weights = Model().state_dict()
    del weights["head.0.bias"]
    model = Model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match=r"w.pth lacks 1 \(head.0.bias\) of this model"):
        load_weights(model, weights, source="w.pth", complete=True)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    weights = Model().state_dict()
    del weights["empty_weight"]  # buffers need not be in the file
    load_weights(model, weights, source="w.pth", complete=True)


def test_a_backbone_without_a_source_is_expected_in_the_file(tmp_path: Path) -> None:
    weights = {key: value for key, value in Model().state_dict().items() if key in TRAINED}
    with pytest.raises(UserError, match=r"w\.pth holds no frozen backbone weights, .* at random: set MODEL"):
        load_weights(Model(), weights, source="w.pth", reloadable=False)
    weights |= {"backbone.0.weight": torch.zeros(4, 3, 1, 1), "backbone.0.bias": torch.zeros(4)}
    with pytest.raises(UserError, match=r"w.pth lacks 2 \(backbone.1.weight, backbone.1.bias\)"):
        load_weights(Model(), weights, source="w.pth", complete=True, reloadable=False)
    write(Checkpointer(Model(), str(tmp_path), reloadable=False), "own")
    Checkpointer(Model(), reloadable=False, complete=True).load(str(tmp_path / "own.pth"))


def test_another_models_checkpoint_is_one_sentence() -> None:
    with pytest.raises(UserError) as shape:
        load_weights(Model(classes=3), Model(classes=5).state_dict(), source="five.pth")
    assert str(shape.value) == (
        "five.pth is a checkpoint of another model: 'head.1.weight' is (5, 4, 1, 1) in the file and (3, 4, 1, 1) in "
        "the model; check MODEL.* against the config it was trained with."
    )
    with pytest.raises(UserError, match="it has 0 of the 5 tensors this model trains"):
        load_weights(Model(), nn.Linear(2, 2).state_dict(), source="linear.pth")
    tower = {key: value for key, value in Model().state_dict().items() if key in TOWER}
    with pytest.raises(UserError, match="it has 0 of the 5 tensors"):  # has the backbone only
        load_weights(Model(), tower, source="tower.pth")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_get_past_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    for name in ("w.pth", "w.safetensors"):
        path = tmp_path_factory.mktemp("bytes") / name
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"(Cannot read weights from|holds no model weights)"):
            read_checkpoint(path)


def test_a_truncated_checkpoint_and_one_with_code(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": Model().state_dict()}, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"Cannot read weights from .*w\.pth: the file is damaged") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    torch.save(Model(), path)  # a pickled module would run code when read
    with pytest.raises(UserError, match="holds more than tensors") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    for content in ({"model": 3}, {"model": {}}, {"model": {"a": 1}}, {}, [torch.zeros(1)]):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"holds no model weights.*: `clouds convert` makes a checkpoint"):
            read_checkpoint(path)


def test_weights_not_found() -> None:
    with pytest.raises(UserError, match=r"Weights not found: there is no file 'no/such\.pth' \(MODEL\.WEIGHTS\)\."):
        Checkpointer(Model()).load("no/such.pth")


def parts(model: Model) -> dict[str, torch.optim.Optimizer]:
    return {"optimizer": torch.optim.SGD(model.head.parameters(), lr=1.0)}


class TestTower:
    """Loading a head without its frozen backbone into a model with a backbone from the config."""

    def save(self, folder: Path, **options: bool) -> Model:
        model = Model()
        write(Checkpointer(model, str(folder), **options, **parts(model)), "m", iteration=1)
        return model

    def test_another_one_is_an_error_when_evaluating(self, tmp_path: Path) -> None:
        self.save(tmp_path)
        other = Model()
        before = {key: value.clone() for key, value in other.state_dict().items()}
        with pytest.raises(
            UserError, match=r"m\.pth was trained on other frozen backbone weights .*: set MODEL\.BACKBONE\.\* and "
        ):
            Checkpointer(other, complete=True).load(str(tmp_path / "m.pth"))
        assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())

    def test_another_one_is_an_error_when_resuming(self, tmp_path: Path) -> None:
        self.save(tmp_path)
        other = Model()
        with pytest.raises(UserError, match="other frozen backbone weights"):
            Checkpointer(other, str(tmp_path), **parts(other)).resume_or_load("", resume=True)

    def test_another_one_is_a_warning_when_fine_tuning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        model, other = self.save(tmp_path), Model()
        Checkpointer(other, **parts(other)).resume_or_load(str(tmp_path / "m.pth"), resume=False)
        assert [r.levelname for r in caplog.records if "other frozen backbone weights" in r.getMessage()] == ["WARNING"]
        assert equal(model, other) >= TRAINED

    @pytest.mark.parametrize("complete", [True, False])
    def test_its_own_is_no_matter(self, tmp_path: Path, complete: bool, caplog: pytest.LogCaptureFixture) -> None:
        other = same_tower(self.save(tmp_path))
        Checkpointer(other, str(tmp_path), complete=complete, **parts(other)).resume_or_load("", resume=True)
        assert not [r for r in caplog.records if "backbone weights" in r.getMessage()]

    def test_in_the_file_it_replaces_any_other(self, tmp_path: Path) -> None:
        model, other = self.save(tmp_path, save_frozen=True), Model()
        Checkpointer(other, str(tmp_path), complete=True).resume_or_load("", resume=True)
        assert equal(model, other) == TRAINED | TOWER

    def test_one_that_was_trained_is_compared_in_what_stayed_frozen(self, tmp_path: Path) -> None:
        """Trained with MODEL.BACKBONE.NAME TrainableCLIP, evaluated with CLIP."""
        model = Model()
        model.backbone[0].requires_grad_(True)
        write(Checkpointer(model, str(tmp_path)), "m")
        other = Model()
        other.backbone[1].load_state_dict(model.backbone[1].state_dict())
        Checkpointer(other, complete=True).load(str(tmp_path / "m.pth"))
        assert equal(model, other) == TRAINED | TOWER
        other.backbone[1].running_mean += 1
        with pytest.raises(UserError, match="other frozen backbone weights"):
            Checkpointer(other, complete=True).load(str(tmp_path / "m.pth"))

    def test_published_checkpoints_say_nothing_of_it(self, tmp_path: Path) -> None:
        torch.save({"model": {k: v for k, v in Model().state_dict().items() if k in TRAINED}}, tmp_path / "m.pth")
        Checkpointer(Model(), complete=True).load(str(tmp_path / "m.pth"))


@given(st.integers(0, 4999), st.sampled_from(["small", "large"]))
def test_a_fingerprint_sees_names_shapes_and_values(position: int, name: str) -> None:
    weights = {"small": torch.arange(100.0), "large": torch.arange(5000.0)}
    same = {key: weights[key].clone() for key in ("large", "small")}
    assert sampled_digest(weights) == sampled_digest(same)
    assert len(sampled_digest(weights)) == 16
    others = [{**weights, name: weights[name] + 1}, {**weights, name: weights[name][None]}, {f"{name}r": weights[name]}]
    if name == "small":
        changed = weights[name].clone()
        changed[position % 100] += 1e-3  # the digest covers every value of a small tensor
        others.append({**weights, name: changed})
    assert len({sampled_digest(other) for other in [weights, *others]}) == len(others) + 1
    assert sampled_digest({}) == ""


class TestSeveralCheckpoints:
    """Save iterations with a head whose values are the iteration."""

    def save(self, folder: Path, *names: str, keep: int = 0) -> None:
        model = Model()
        for name in names:
            number = int("".join(filter(str.isdigit, name)) or 99)
            nn.init.constant_(model.head[0].weight, number)
            write(Checkpointer(model, str(folder), save_frozen=True, keep=keep, **parts(model)), name, iteration=number)

    def resume(self, folder: Path) -> int:
        model = Model()
        rest = Checkpointer(model, str(folder), **parts(model)).resume_or_load("", resume=True)
        assert model.head[0].weight.unique().tolist() == [rest["iteration"]], "weights and iteration are of one file"
        return rest["iteration"]

    @settings(max_examples=25)
    @given(
        numbers=st.lists(st.integers(0, 12_000_000), min_size=1, max_size=6, unique=True).map(sorted),
        keep=st.integers(0, 4),
    )
    def test_the_last_are_kept(self, tmp_path_factory: pytest.TempPathFactory, numbers: list[int], keep: int) -> None:
        folder = tmp_path_factory.mktemp("kept")
        for other in ("model_best.pth", "model_final.pth", "model_0000001.part", "model_1.pth.bak"):
            (folder / other).write_text("not ours to delete, or left by a killed process")
        self.save(folder, *(f"model_{number:07d}" for number in numbers), keep=keep)
        kept = {f"model_{number:07d}.pth" for number in (numbers[-keep:] if keep else numbers)}
        others = {"model_best.pth", "model_final.pth", "model_1.pth.bak", "last_checkpoint"}
        assert {path.name for path in folder.iterdir()} == kept | others
        assert self.resume(folder) == numbers[-1]

    def test_the_final_one_stays_and_counts_for_none(self, tmp_path: Path) -> None:
        self.save(tmp_path, "model_0000001", "model_0000002", "model_0000003", "model_final", keep=2)
        names = sorted(path.name for path in tmp_path.glob("*.pth"))
        assert names == ["model_0000002.pth", "model_0000003.pth", "model_final.pth"]
        assert self.resume(tmp_path) == 99

    def test_those_of_another_training_in_the_folder_are_left_alone(self, tmp_path: Path) -> None:
        self.save(tmp_path, "model_0000050", "model_0000060")
        self.save(tmp_path, "model_0000010", "model_0000020", keep=1)
        assert sorted(path.stem[-2:] for path in tmp_path.glob("*.pth")) == ["20", "50", "60"]
        (tmp_path / "model_0000020.pth").unlink()
        with pytest.raises(UserError, match="None of the checkpoints"):
            self.resume(tmp_path)

    @settings(max_examples=30)
    @given(
        harms=st.lists(st.sampled_from(["", "empty", "short", "flipped", "missing", "code"]), min_size=3, max_size=3),
        final=st.booleans(),
        share=st.floats(0.01, 0.99),
    )
    def test_a_broken_one_is_skipped(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        harms: list[str],
        final: bool,
        share: float,
    ) -> None:
        folder = tmp_path_factory.mktemp("broken")
        names = ["model_0000001", "model_0000002", "model_final" if final else "model_0000003"]
        self.save(folder, *names)
        for name, harm in zip(names, harms, strict=True):
            path = folder / f"{name}.pth"
            content = path.read_bytes()
            if harm == "empty":
                path.write_bytes(b"")
            elif harm == "short":
                path.write_bytes(content[: int(share * len(content))])
            elif harm == "flipped":  # inside the stored numbers, where only the checksum shows it
                at = content.index(
                    torch.full((4,), float(int(name[-1]) if name[-1].isdigit() else 99)).numpy().tobytes()
                )
                path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            elif harm == "missing":
                path.unlink()
            elif harm == "code":
                torch.save(Model(), path)
        good = [name for name, harm in zip(names, harms, strict=True) if not harm]
        if good:
            assert self.resume(folder) == int("".join(filter(str.isdigit, good[-1])) or 99)
        else:
            with pytest.raises(UserError, match=r"None of the checkpoints in .* can be read \(\d tried, .*--resume\.$"):
                self.resume(folder)

    def test_skipping_is_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.save(tmp_path, "model_0000001", "model_0000002")
        (tmp_path / "model_0000002.pth").write_bytes(b"")
        assert self.resume(tmp_path) == 1
        (message,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert message.startswith(f"Cannot read weights from {tmp_path}/model_0000002.pth: the file is damaged")
        assert message.endswith("The previous checkpoint is tried.")

    def test_an_empty_note_of_the_last_one(self, tmp_path: Path) -> None:
        self.save(tmp_path, "model_0000001", "model_0000002")
        (tmp_path / "last_checkpoint").write_text("")
        assert self.resume(tmp_path) == 2

    def test_a_good_one_of_another_model_is_not_skipped(self, tmp_path: Path) -> None:
        self.save(tmp_path, "model_0000001", "model_0000002")
        other = Model(classes=5)
        with pytest.raises(UserError, match=r"model_0000002\.pth is a checkpoint of another model"):
            Checkpointer(other, str(tmp_path), **parts(other)).resume_or_load("", resume=True)

    def test_a_part_without_state_begins_anew(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.save(tmp_path, "model_0000001")
        model = Model()
        scaler = torch.amp.GradScaler("cpu")
        Checkpointer(model, str(tmp_path), scaler=scaler, **parts(model)).resume_or_load("", resume=True)
        assert "model_0000001.pth holds no state of the scaler: it starts from its initial state" in caplog.text


def test_resume_with_another_optimizer_is_one_sentence(tmp_path: Path) -> None:
    model = Model()
    write(Checkpointer(model, str(tmp_path), optimizer=torch.optim.SGD(model.head.parameters(), lr=1.0)), "m")
    other = torch.optim.SGD([{"params": [p]} for p in model.head.parameters()], lr=1.0)
    with pytest.raises(UserError, match=r"m\.pth cannot be continued with this config: .*parameter group"):
        Checkpointer(model, str(tmp_path), optimizer=other).resume_or_load("", resume=True)


def test_weights_of_two_hosts_with_one_path(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = []
    for name, value in (("one", 1.0), ("two", 2.0)):
        folder = tmp_path / name / "shared"
        folder.mkdir(parents=True)
        torch.save({"model": {"weight": torch.full((1, 1), value), "bias": torch.zeros(1)}}, folder / "model.pth")
        handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / name))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            model = nn.Linear(1, 1)
            Checkpointer(model).load(f"http://127.0.0.1:{server.server_port}/shared/model.pth")
            found.append(model.weight.item())
            server.shutdown()
    assert found == [1.0, 2.0]
