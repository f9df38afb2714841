"""Weights are compared with their checksums and with the model that they were trained as, before they are loaded."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from clouds.config import get_config
from clouds.d2 import CfgNode
from clouds.data.datasets import catalog
from clouds.data.datasets.catalog import load_dataset
from clouds.engine.checkpointing import origin
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.checkpointing.origin import check_test_classes, differing_classes
from clouds.engine.checkpointing.weights import sampled_digest
from clouds.engine.trainer import Trainer
from clouds.errors import UserError
from clouds.utils.hashing import write_sha256
from clouds.utils.tensors import tensors_sha256
from tests.engine.checkpointing.mutations import write

CLASSES = ("road,street", "wall", "sky")


class Model(nn.Module):
    """A frozen backbone of many values, a head, and the statistics of the input."""

    def __init__(self, mean: float = 120.0, *, text: bool = False) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(60, 60), nn.BatchNorm1d(60)).requires_grad_(False)
        self.sem_seg_head = nn.Linear(60, 3)
        self.sem_seg_head.uses_text = text
        for name, value in (("pixel_mean", mean), ("pixel_std", 60.0)):
            self.register_buffer(name, torch.full((3, 1, 1), value), persistent=False)


def save(folder: Path, model: Model, **options: Any) -> Path:
    write(Checkpointer(model, str(folder), classes=CLASSES, **options), "m", iteration=1)
    return folder / "m.pth"


def like(model: Model, **options: Any) -> Model:
    """Build a model with the backbone of another one."""
    other = Model(**options)
    other.backbone.load_state_dict(model.backbone.state_dict())
    return other


def lines(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


def refused(model: Model, path: Path, words: str, **options: Any) -> None:
    """Check that a file is refused with a message, and that the model stays as it is."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match=words):
        Checkpointer(model, **options).load(str(path))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class TestRecords:
    @pytest.mark.parametrize("evaluates", [True, False])
    @pytest.mark.parametrize("form", ["zip", "safetensors", "old torch"])
    def test_changed_bytes_are_refused(self, tmp_path: Path, form: str, evaluates: bool) -> None:
        model = Model()
        path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
        if form == "safetensors":
            save_file(model.state_dict(), path)
        else:
            torch.save({"model": model.state_dict()}, path, _use_new_zipfile_serialization=form == "zip")
        if form != "zip":
            write_sha256(path)
        content = path.read_bytes()
        at = content.index(model.backbone[0].weight.numpy().tobytes()) + 1000
        path.write_bytes(content[:at] + bytes(byte ^ 1 for byte in content[at : at + 64]) + content[at + 64 :])
        assert path.stat().st_size == len(content)
        refused(Model(), path, r"Cannot read weights from .*w\.\w+: .* \(its checksum differs\)", complete=evaluates)
        path.write_bytes(content)
        other = Model()
        Checkpointer(other, complete=evaluates).load(str(path))
        assert torch.equal(other.backbone[0].weight, model.backbone[0].weight)

    @pytest.mark.parametrize("form", ["safetensors", "old torch", "no checksums"])
    def test_a_file_without_one_is_reported_in_one_line(
        self, tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
        if form == "safetensors":
            save_file(Model().state_dict(), path)
        elif form == "old torch":
            torch.save(Model().state_dict(), path, _use_new_zipfile_serialization=False)
        else:
            torch.serialization.set_crc32_options(False)
            torch.save(Model().state_dict(), path)
            torch.serialization.set_crc32_options(True)
        Checkpointer(Model()).load(str(path))
        (line,) = lines(caplog, "is not verified")
        assert line.startswith(f"{path} is not verified: it has no checksum")

    def test_a_checked_file_is_not_reported(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        path = tmp_path / "w.safetensors"
        save_file(Model().state_dict(), path)
        write_sha256(path)
        Checkpointer(Model()).load(str(path))
        Checkpointer(Model()).load(str(save(tmp_path, Model(), save_frozen=True)))
        assert not lines(caplog, "is not verified")

    @pytest.mark.parametrize("record", [b"", b"\xff\xfe", b"00  w.safetensors", b"x" * 64, b"0" * 65])
    def test_a_damaged_record_is_an_error(self, tmp_path: Path, record: bytes) -> None:
        path = tmp_path / "w.safetensors"
        save_file(Model().state_dict(), path)
        (tmp_path / "w.safetensors.sha256").write_bytes(record)
        refused(Model(), path, r"its record w\.safetensors\.sha256 is damaged")

    def test_the_hubs_cache_names_files_by_their_digest(self, tmp_path: Path) -> None:
        good, blobs = tmp_path / "good.safetensors", tmp_path / "blobs"
        save_file(Model().state_dict(), good)
        write_sha256(good)
        digest = (tmp_path / "good.safetensors.sha256").read_text().split()[0]
        blobs.mkdir()
        good.rename(blobs / digest)
        link = tmp_path / "model.safetensors"
        link.symlink_to(blobs / digest)
        Checkpointer(Model()).load(str(link))
        content = (blobs / digest).read_bytes()
        (blobs / digest).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        refused(Model(), link, "its checksum differs")


class TestBackbone:
    def test_one_changed_value_is_refused(self, tmp_path: Path) -> None:
        model = Model()
        path, other = save(tmp_path, model), like(model)
        Checkpointer(other, complete=True).load(str(path))
        other.backbone[0].weight[30, 31] += 1e-6
        assert sampled_digest(other.backbone.state_dict()) == sampled_digest(model.backbone.state_dict())
        refused(other, path, "other frozen backbone weights", complete=True)

    def test_an_older_checkpoint_has_a_sample_only(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        model = Model()
        content = torch.load(save(tmp_path, model))
        del content["tower_sha256"]
        frozen = {f"backbone.{key}": value for key, value in model.backbone.state_dict().items()}
        torch.save({**content, "tower": sampled_digest(frozen)}, tmp_path / "old.pth")
        Checkpointer(like(model), complete=True).load(str(tmp_path / "old.pth"))
        assert lines(caplog, "not verified") == [
            f"{tmp_path}/old.pth does not record all values of the frozen backbone: not verified"
        ]
        refused(Model(), tmp_path / "old.pth", "other frozen backbone weights", complete=True)

    def test_the_digest_is_computed_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        computed = []
        digest = tensors_sha256
        monkeypatch.setattr(origin, "tensors_sha256", lambda weights: computed.append(1) or digest(weights))
        model = Model()
        save(tmp_path, model)
        other = like(model)
        checkpointer = Checkpointer(other, str(tmp_path))
        checkpointer.load(str(tmp_path / "m.pth"))
        for name in ("a", "b"):
            write(checkpointer, name)
        assert len(computed) == 2

    def test_the_digest_follows_a_backbone_that_is_loaded(self, tmp_path: Path) -> None:
        model, other = Model(), Model()
        checkpointer = Checkpointer(other, str(tmp_path))
        write(checkpointer, "before")
        checkpointer.load(str(save(tmp_path, model, save_frozen=True)))
        write(checkpointer, "after")
        Checkpointer(like(model), complete=True).load(str(tmp_path / "after.pth"))
        refused(like(model), tmp_path / "before.pth", "other frozen backbone weights", complete=True)

    @given(st.integers(0, 4999), st.sampled_from([torch.float16, torch.bfloat16, torch.float64]))
    def test_every_value_counts_and_the_number_type_does_not(self, position: int, dtype: torch.dtype) -> None:
        weights: dict[str, Tensor] = {"a": torch.arange(5000).float() % 200, "b": torch.tensor(3)}
        assert tensors_sha256({"b": weights["b"], "a": weights["a"].to(dtype)}) == tensors_sha256(weights)
        changed = weights["a"].clone()
        changed[position] += 1e-4
        others = [{**weights, "a": changed}, {**weights, "a": weights["a"][None]}, {**weights, "b": torch.tensor(4)}]
        assert len({tensors_sha256(each) for each in [weights, {"c": weights["a"]}, *others]}) == 5
        assert tensors_sha256({}) == ""


@pytest.mark.parametrize("evaluates", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float, evaluates: bool) -> None:
    model = Model()
    nn.init.constant_(model.sem_seg_head.bias[1:2], value)
    path = save(tmp_path, model)
    refused(like(model), path, r"m\.pth cannot be used: 'sem_seg_head.bias' is not finite; take", complete=evaluates)


class TestNormalization:
    @pytest.mark.parametrize("name", ["pixel_mean", "pixel_std"])
    def test_another_one_is_an_error_for_evaluation_and_a_warning_for_fine_tuning(
        self, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = Model()
        path, other = save(tmp_path, model), like(model)
        getattr(other, name).add_(1)
        words = (
            rf"m\.pth was trained with MODEL\.{name.upper()} \[\d+.* and this model has .*: set MODEL\.{name.upper()}"
        )
        refused(other, path, words, complete=True)
        Checkpointer(other).load(str(path))
        assert len(lines(caplog, f"was trained with MODEL.{name.upper()}")) == 1

    def test_rounding_is_no_difference(self, tmp_path: Path) -> None:
        model = Model(122.7709383)
        path = save(tmp_path, model)
        Checkpointer(like(model, mean=122.771), complete=True).load(str(path))
        assert torch.load(path)["pixel_mean"] == [pytest.approx(122.7709383)] * 3


class TestClasses:
    @pytest.mark.parametrize(
        "other", [("wall", "road", "sky"), ("road", "wall", "water"), ("road", "wall"), ("road", "wall", "sky", "car")]
    )
    def test_other_ones_are_refused_without_a_text_head(self, tmp_path: Path, other: tuple[str, ...]) -> None:
        model = Model()
        path = save(tmp_path, model)
        sets = {"good": CLASSES, "my_val": other}
        refused(
            like(model),
            path,
            r"on other classes than my_val has \(.* training and .* there\)",
            complete=True,
            evaluated=sets,
        )
        model.sem_seg_head.uses_text = True
        Checkpointer(model, complete=True, evaluated=sets).load(str(path))

    def test_synonyms_are_one_class(self, tmp_path: Path) -> None:
        model = Model()
        sets = {"mine": ("Street", "Mauer, wall", "sky,clouds")}
        Checkpointer(model, complete=True, evaluated=sets).load(str(save(tmp_path, model)))

    def test_fine_tuning_on_others_is_a_warning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        model = Model()
        path = save(tmp_path, model)
        Checkpointer(model, classes=("road", "sky", "wall")).load(str(path))
        (line,) = lines(caplog, "other classes than DATASETS.TRAIN")
        assert line.endswith("(class 1 is 'wall' in training and 'sky' there)")

    def test_differences(self) -> None:
        assert differing_classes(CLASSES, CLASSES) == ""
        assert differing_classes(CLASSES, CLASSES[:2]) == "3 in training and 2 there"


class TestTestSets:
    """A test set has the classes that the model predicts, also without a checkpoint."""

    def config(self, **sets: tuple[str, ...]) -> CfgNode:
        cfg = get_config()
        for name, classes in sets.items():
            catalog.register(name, list, classes=classes, colors=[(0, 0, 0)] * len(classes))
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("trained",), tuple(sets)[1:]
        return cfg

    def test_a_head_without_text_predicts_those_of_training(self) -> None:
        check_test_classes(self.config(trained=CLASSES, a_val=CLASSES, b_val=("Street", "wall", "clouds,sky")), Model())
        cfg = self.config(trained=CLASSES, a_val=CLASSES, b_val=("road", "sky", "wall"))
        with pytest.raises(
            UserError, match=r"b_val \(DATASETS.TEST\) has other classes than trained \(DATASETS.TRAIN\)"
        ):
            check_test_classes(cfg, Model())

    def test_without_training_sets_the_number_of_label_maps_is_compared(self) -> None:
        cfg = self.config(trained=CLASSES, a_val=CLASSES)
        cfg.DATASETS.TRAIN = ()
        check_test_classes(cfg, Model())  # its scores show their number
        model = Model()
        model.predict_labels = None
        with pytest.raises(UserError, match=r"a_val .* has 3 classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is 19"):
            check_test_classes(cfg, model)
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
        check_test_classes(cfg, model)

    def test_a_text_head_predicts_those_of_the_first_test_set(self) -> None:
        check_test_classes(self.config(trained=CLASSES, a_val=("tree", "car")), Model(text=True))
        cfg = self.config(trained=CLASSES, a_val=("tree", "car"), b_val=("car", "tree"))
        with pytest.raises(
            UserError, match=r"b_val .* than a_val \(DATASETS.TEST\), class 0 is 'tree' .*evaluate it alone"
        ):
            check_test_classes(cfg, Model(text=True))


def test_a_training_stops_before_it_is_tested_on_other_classes(tiny_cfg: CfgNode) -> None:
    images = partial(load_dataset, "tiny_val")
    catalog.register("other_val", images, classes=("grass", "road", "sky"), colors=[(0, 0, 0)] * 3)
    tiny_cfg.DATASETS.TEST = ("other_val",)
    with pytest.raises(UserError, match=r"other_val .* has other classes than tiny_train"):
        Trainer(tiny_cfg)


def test_what_is_not_recorded_is_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    model = Model()
    head = {key: value for key, value in model.state_dict().items() if key.startswith("sem_seg_head")}
    torch.save({"model": head}, tmp_path / "old.pth")
    Checkpointer(Model(), complete=True, evaluated={"my_val": CLASSES}).load(str(tmp_path / "old.pth"))
    assert lines(caplog, "not verified") == [
        f"{tmp_path}/old.pth does not record the frozen backbone, pixel_mean, pixel_std, classes: not verified"
    ]
    caplog.clear()
    Checkpointer(model, complete=True).load(str(save(tmp_path, model)))
    assert not lines(caplog, "not verified")


def test_resuming_compares_the_backbone_only(tmp_path: Path) -> None:
    """Other differences of a run that continues are found by comparing its settings."""
    model = Model()

    def part(model: Model) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.sem_seg_head.parameters(), lr=0.1)

    save(tmp_path, model, optimizer=part(model))
    other = like(model, mean=1.0)
    Checkpointer(other, str(tmp_path), classes=("a", "b", "c"), optimizer=part(other)).resume_or_load("", resume=True)
    other.backbone[0].weight[30, 31] += 1e-6
    with pytest.raises(UserError, match="other frozen backbone weights"):
        Checkpointer(other, str(tmp_path), optimizer=part(other)).resume_or_load("", resume=True)
