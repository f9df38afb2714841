"""Two processes with half batches compared with one process, through the launcher, the command and torchrun."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from clouds.commands import train as train_command
from clouds.config import load_config
from clouds.d2 import CfgNode, comm, inference_on_dataset
from clouds.engine import launch as launching
from clouds.engine import parallel, training
from clouds.engine.launch import launch
from clouds.engine.losses import NonFiniteLoss
from clouds.engine.setup import default_setup
from clouds.engine.trainer import Trainer
from clouds.engine.training import train_or_evaluate
from clouds.errors import UserError
from clouds.evaluation.sem_seg import SemSegEvaluator
from clouds.modeling.backbone.clip import CLIP
from clouds.modeling.criterion import SetCriterion
from clouds.modeling.matcher import HungarianMatcher
from clouds.modeling.points import seeded_points
from clouds.modeling.structures import Prediction, Target
from tests.engine.conftest import write_images
from tests.engine.failing import fail_in_the_second
from tests.engine.joint import JOINT, JOINT_MODULE, JointTrainer, write_joint_images
from tests.engine.test_end_to_end import last_table, write_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
HEAD = "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"
# Steps of exactly the size of the gradient: AdamW's first ones have the size of its sign, also where that is noise.
# They are small, so that weights that differ by rounding choose the same uncertain points of a mask.
SGD = [
    *("SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 0.0005, "SOLVER.CLIP_GRADIENTS.ENABLED", False),
    *("SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 0, "INPUT.CROP_SIZE", (64, 64)),
]
CASES: dict[str, list] = {
    "linear head, trained tower": [HEAD, "OriginalMultiScaleMaskedTransformerDecoder"],
    # Whole images of random size: the halves of a batch have different canvases.
    "text head": [
        *(HEAD, "MultiScaleMaskedTransformerDecoder", "MODEL.BACKBONE.NAME", "CLIP"),
        *("INPUT.CROP.ENABLED", False, "INPUT.SCALE_RANGE", (1.0, 4.0)),
    ],
    # One image per process; half of the images have no label.
    "pooled linear head, images without labels": [
        *(HEAD, "BisMultiScaleMaskedTransformerDecoder", "MODEL.BACKBONE.NAME", "CLIP"),
        *("DATASETS.TRAIN", ("plugin_void",), "SOLVER.IMS_PER_BATCH", 2),
    ],
    # The second batch is labelled ahead, the third after an update of the teacher.
    "joint training": [*JOINT, "MODEL.CLOUDS.ITERATION_UPDATE", 2],
}
# Two processes of two parts each compute what one process computes at once.
ACCUMULATED = ("text head", "joint training")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with `c.yaml`, the config of a small CLOUDS, and images under `data`; one thread per process."""
    write_joint_images(tmp_path / "data", train=6, val=3)
    write_images(tmp_path / "data/void", 6)
    for label in sorted((tmp_path / "data/void/labels").iterdir())[::2]:
        from PIL import Image

        Image.new("L", Image.open(label).size, 255).save(label)
    module = JOINT_MODULE.replace('("train", "val")', '("train", "val", "void")')
    write_config(tmp_path / "c.yaml", plugin="plugin_for_processes", module=module)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(tmp_path)
    for variable in launching.TORCHRUN:
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def flags(processes: int = 1) -> Namespace:
    return Namespace(num_gpus=processes, num_machines=1, machine_rank=0, dist_url="auto", resume=False)


class Watched(JointTrainer):
    """Trainer that records the images, losses and gradients of each step."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        self.seen: list[list[str]] = []
        self.losses: list[dict[str, float]] = []
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.network.register_forward_pre_hook(self.see)
        if self.self_training:
            self.self_training.ahead = True

    def see(self, network: nn.Module, inputs: tuple[list[dict]]) -> None:
        if self.model.training:
            self.parts.append([sample["image_id"] for sample in inputs[0]])

    def before_step(self) -> None:
        super().before_step()
        self.parts: list[list[str]] = []

    def after_step(self) -> None:
        assert len(self.parts) == self.cfg.SOLVER.ACCUMULATION
        self.seen.append([image for part in self.parts for image in part])
        latest = self.storage.latest()
        self.losses.append({name: value for name, (value, _) in latest.items() if name.startswith("loss_")})
        super().after_step()

    def build_writers(self) -> list:
        return []

    def update(self, skip: torch.Tensor) -> None:
        super().update(skip)
        self.gradients.append({n: p.grad.clone() for n, p in self.model.named_parameters() if p.requires_grad})


class Scores(SemSegEvaluator):
    """Evaluator that keeps the scores of the network."""

    def reset(self) -> None:
        super().reset()
        self.answers: list[tuple[str, torch.Tensor]] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        super().process(inputs, outputs)
        self.answers += [(x["image_id"], y["sem_seg"]) for x, y in zip(inputs, outputs, strict=True)]


def train(folder: Path, out: Path, opts: list, *, resume: bool = False) -> dict:
    cfg = load_config(str(folder / "c.yaml"), [*SGD, "OUTPUT_DIR", str(out), *opts])
    default_setup(cfg, Namespace(resume=resume))
    trainer = Watched(cfg)
    trainer.resume_or_load(resume)
    evaluator = Scores("plugin_val")
    results = inference_on_dataset(trainer.model, trainer.build_test_loader(cfg, "plugin_val"), evaluator)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    return {
        "before": before,
        "seen": trainer.seen,
        "losses": trainer.losses,
        "gradient": trainer.gradients[0],
        "weights": trainer.model.state_dict(),
        "teacher": trainer.self_training.teacher.state_dict() if trainer.self_training else {},
        "labels": {k: v for k, (v, _) in trainer.storage.latest().items() if k.startswith("pseudo_labels/")},
        "answers": evaluator.answers,
        "results": results,
    }


class HalfBroken(Trainer):
    """Trainer whose last process gets images of NaN."""

    def run_step(self) -> None:
        batch = next(self.batches)
        for sample in batch:
            sample["file_name"] = f"image of process {comm.get_rank()}"
            if comm.get_rank() == comm.get_world_size() - 1:
                sample["image"] = torch.full(sample["image"].shape, float("nan"))
        self.batches = iter([batch])
        super().run_step()


def break_half(folder: Path, out: Path) -> str:
    cfg = load_config(str(folder / "c.yaml"), [*SGD, "OUTPUT_DIR", str(out)])
    default_setup(cfg, Namespace())
    trainer = HalfBroken(cfg)
    try:
        trainer.train()
    except NonFiniteLoss as error:
        return str(error)
    return "no error"


def all_cases(folder: Path, name: str) -> None:
    """Work of each process: train every case and save the results as `<name>/<case>/<rank>.pt`."""
    for case, opts in CASES.items():
        out = folder / name / case
        torch.save(train(folder, out, opts), out / f"{comm.get_rank()}.pt")
    for case in ACCUMULATED if name == "two" else ():
        out = folder / name / f"{case} in parts"
        torch.save(train(folder, out, [*CASES[case], "SOLVER.ACCUMULATION", 2]), out / f"{comm.get_rank()}.pt")
    (folder / name / f"nan{comm.get_rank()}.txt").write_text(break_half(folder, folder / name / "nan"))


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Norm of the difference of all numbers in `a` and `b`, relative to the norm of `b`."""
    assert a.keys() == b.keys()
    a_all, b_all = (torch.cat([x[key].double().flatten() for key in b]) for x in (a, b))
    return ((a_all - b_all).norm() / b_all.norm()).item()


def change(run: dict) -> dict[str, torch.Tensor]:
    return {key: run["weights"][key] - value for key, value in run["before"].items()}


def command_and_cases(cfg: CfgNode, args: Namespace, trainer: type[Trainer]) -> None:
    train_or_evaluate(cfg, args, trainer)
    all_cases(Path(cfg.OUTPUT_DIR).parent, "two")


def test_two_processes_are_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = folder / "run"
    monkeypatch.setattr(training, "train_or_evaluate", command_and_cases)  # in this process alone
    words = ["--config-file", str(folder / "c.yaml"), "--num-gpus", "2", "OUTPUT_DIR", str(run)]
    assert train_command.main([*words, "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "0"]) == 0
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert last_table(run).split()[9:13] == ["plugin_val", "images", "3", "mIoU"]
    assert "2 process(es)" in (run / "log.txt").read_text()
    assert "2 process(es)" in (run / "log.txt.rank1").read_text()
    assert sorted(path.name for path in run.glob("*.pth")) == ["model_final.pth"]
    rows = [json.loads(row) for row in (run / "metrics.json").read_text().splitlines()]
    assert {"total_loss", "plugin_val/sem_seg/mIoU"} <= {key for row in rows for key in row}

    text_head = [*CASES["text head"], "SOLVER.MAX_ITER", 5]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        all_cases(folder, "one")
        resumed = train(folder, folder / "two/text head", text_head, resume=True)
        straight = train(folder, folder / "five", text_head)
    finally:
        torch.set_num_threads(threads)

    for case in [*CASES, *(f"{case} in parts" for case in ACCUMULATED)]:
        one = torch.load(folder / "one" / case.removesuffix(" in parts") / "0.pt")
        first, second = (torch.load(folder / "two" / case / f"{rank}.pt") for rank in (0, 1))
        steps = zip(first["seen"], second["seen"], strict=True)
        together = [[image for pair in zip(*halves, strict=True) for image in pair] for halves in steps]
        assert together == one["seen"], "together they see the images of one process, in its order"
        assert first["losses"] == second["losses"], "both know the losses of the whole batch"
        assert len(one["losses"]) == 3
        for step, losses in enumerate(one["losses"]):
            assert first["losses"][step] == pytest.approx(losses, rel=1e-4, abs=1e-6), (case, step)
        # Rounding decides on which side of a pixel's border the deformable attention reads at the start, and there the
        # gradient of its positions jumps: 8e-5 in all, of the tower alone, has been seen, where losses agree to 7e-7.
        assert distance(first["gradient"], one["gradient"]) < 1e-3, case
        assert distance(change(first), change(one)) < 1e-3, case
        assert all(torch.equal(first["weights"][key], second["weights"][key]) for key in one["weights"])
        assert all(torch.equal(first["teacher"][key], second["teacher"][key]) for key in one["teacher"])
        assert first["labels"] == second["labels"] == pytest.approx(one["labels"], abs=0.5)
        if case.startswith("joint training"):
            assert distance(first["teacher"], one["teacher"]) < 1e-5
            assert one["labels"].keys() >= {"pseudo_labels/kept", "pseudo_labels/agreement"}

        assert first["results"] == one["results"]
        assert second["results"] == {}
        answers = [*first["answers"], *second["answers"]]
        assert [image for image, _ in answers] == [image for image, _ in one["answers"]], "each once"
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(answers, one["answers"], strict=True)), "bit for bit"

    assert resumed["seen"] == straight["seen"][3:]
    assert distance(change({**resumed, "before": straight["before"]}), change(straight)) < 1e-3
    said = {(folder / "two" / f"nan{rank}.txt").read_text() for rank in (0, 1)}
    assert len(said) == 1, "they stop together, with one sentence"
    assert (
        "iteration 0: the network's output is not finite (in the matching cost) on image of process 1, image"
        in said.pop()
    )
    stored = torch.load(folder / "two/text head/model_final.pth")
    assert not [key for key in stored["model"] if key.startswith("module.")]


def test_torchrun_and_a_failure_in_one_process(folder: Path) -> None:
    broken = folder / "data/train/images/5.png"  # which the second process is given in the second iteration
    broken.write_bytes(broken.read_bytes()[:200])
    run = folder / "run"
    words = ["--config-file", str(folder / "c.yaml"), "OUTPUT_DIR", str(run), "SOLVER.CHECKPOINT_PERIOD", "1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(ROOT / "train_net.py"), *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1, done.stderr
    assert "images/5.png cannot be read" in said[0]
    assert "train_net.py FAILED" in done.stderr
    assert done.stderr.count("Traceback") == 1, "torchrun's own"
    assert "images/5.png cannot be read" in (run / "log.txt.rank1").read_text()
    for log in (run / "log.txt", run / "log.txt.rank1"):
        assert "Traceback" not in log.read_text()
    assert last_table(run).split()[9:13] == ["plugin_val", "images", "3", "mIoU"]
    assert [path.name for path in run.glob("*.pth")] == ["model_0000000.pth"]


def test_the_module_of_getting_started_trains_in_two_processes(folder: Path) -> None:
    """Started processes import the script again, which registers its class head there, too."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "GETTING_STARTED.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "class MLPMasked" in block]
    (folder / "my_head.py").write_text(code)
    words = ["--config-file", str(folder / "c.yaml"), "--num-gpus", "2", HEAD, "MLPMaskedTransformerDecoder"]
    words += ["OUTPUT_DIR", str(folder / "run"), "SOLVER.MAX_ITER", "1", "TEST.EVAL_PERIOD", "0"]
    done = subprocess.run(
        [sys.executable, str(folder / "my_head.py"), *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stored = torch.load(folder / "run/model_final.pth")["model"]
    assert "sem_seg_head.predictor.class_embed.layers.1.weight" in stored


@pytest.mark.parametrize("error", [UserError, KeyError])
def test_one_that_fails_ends_all(error: type[Exception], folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as caught:
        launch(fail_in_the_second, flags(2), "cpu", (folder, error))
    if error is UserError:
        assert str(caught.value) == "The second cannot."
    else:
        assert str(caught.value).startswith("Process 1 of the run has failed; its log")
        assert str(caught.value).endswith("KeyError: 'The second cannot.'")
    printed = capfd.readouterr()
    assert printed.out == ""
    # detectron2's import warns, in every process; the failure itself is the caller's to tell.
    assert printed.err.count("Traceback") == (error is KeyError), "no log has been started"
    assert "clouds.errors.UserError: The second cannot." not in printed.err
    assert not multiprocessing.active_children()
    for rank in (0, 1):
        with pytest.raises(ProcessLookupError):
            os.kill(int((folder / f"{rank}.pid").read_text()), 0)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ or os.environ["CUDA_VISIBLE_DEVICES"]


def nothing() -> None:
    raise AssertionError("nothing is started")


@pytest.mark.parametrize(
    ("changes", "device", "said"),
    [
        ({"num_gpus": 3}, "auto", "3 processes on this machine need a GPU each, but torch finds 2"),
        ({"num_gpus": 2}, "cuda:1", "MODEL.DEVICE is cuda:1, which several processes cannot share"),
        ({"num_gpus": 2}, "meta", "MODEL.DEVICE is meta, which several processes cannot share"),
        ({"num_machines": 2}, "cpu", "--num-machines needs --dist-url tcp://HOST:PORT"),
    ],
)
def test_what_cannot_be_started(
    changes: dict, device: str, said: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=re.escape(said)):
        launch(nothing, Namespace(**{**vars(flags()), **changes}), device)


def test_torchrun_and_num_gpus_contradict_each_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable, value in {**dict.fromkeys(launching.TORCHRUN, "4"), "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert train_command.main(["--config-file", str(folder / "c.yaml"), "--num-gpus", "2"]) == 2
    assert capsys.readouterr().err == (
        "error: torchrun has started 4 process(es), but --num-gpus and --num-machines ask for 2: leave these two out "
        "under torchrun.\n"
    )


def test_one_process_under_torchrun_is_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in launching.TORCHRUN:
        monkeypatch.setenv(variable, "0" if variable.endswith("RANK") else "1")
    called = []
    launch(called.append, flags(), "cpu", ("here",))
    assert called == ["here"]
    assert comm.get_world_size() == 1


def test_batch_norms_that_are_trained_are_synchronized() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    model[1].requires_grad_(False)
    keys, parameters = list(model.state_dict()), list(model.parameters())
    parallel.synchronize_batch_norms(model)
    assert isinstance(model[0][1], nn.SyncBatchNorm)
    assert type(model[1]) is nn.BatchNorm2d
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True)), "an optimizer keeps its hold"


class OldWrapper:
    """The flags of torch up to 2.12."""

    _set_params_and_buffers_to_ignore_for_model = staticmethod(lambda module, names: None)

    def __init__(self, module: nn.Module, *, broadcast_buffers: bool = True, **flags: bool) -> None:
        self.flags = flags | {"sync": broadcast_buffers}


class NewWrapper:
    """The flags of torch from 2.13 on."""

    _set_params_and_buffers_to_ignore_for_model = staticmethod(lambda module, names: None)

    def __init__(
        self,
        module: nn.Module,
        *,
        broadcast_buffers: bool | None = None,
        forward_sync_buffers: bool | None = None,
        **flags: bool,
    ) -> None:
        assert broadcast_buffers is None, "deprecated"
        self.flags = flags | {"sync": forward_sync_buffers}


@pytest.mark.parametrize("wrapper", [OldWrapper, NewWrapper])
@pytest.mark.parametrize("trained", [False, True])
def test_buffers_are_sent_only_if_each_process_updates_its_own(
    wrapper: type, trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(parallel, "wait_for_all", lambda: None)
    monkeypatch.setattr(parallel, "DistributedDataParallel", wrapper)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4).requires_grad_(trained))
    assert parallel.data_parallel(model).flags == {"gradient_as_bucket_view": True, "sync": trained}


def test_points_of_an_image_are_its_own() -> None:
    def points(seeds: list[int], image: int) -> list[torch.Tensor]:
        draw = seeded_points(seeds, torch.device("cpu"))
        draw(1 - image, 35)  # what its neighbor takes
        return [draw(image, 6), draw(image, 4)]

    first, same, other = points([11, 12], 1), points([12, 13], 0), points([14, 11], 0)
    assert [p.shape for p in first] == [(6, 2), (4, 2)]
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0][:4], first[1])


def test_a_single_mask_in_one_of_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    matcher = HungarianMatcher(cost_class=2, cost_mask=5, cost_dice=5, num_points=8)
    weights = {"loss_ce": 2, "loss_mask": 5, "loss_dice": 5}
    points = {"num_points": 8, "oversample_ratio": 3, "importance_sample_ratio": 0.75}
    criterion = SetCriterion(num_classes=2, matcher=matcher, weights=weights, no_object_weight=0.1, **points)
    prediction = Prediction(torch.randn(1, 3, 3), torch.randn(1, 3, 4, 4))
    target = Target(torch.tensor([1]), torch.rand(1, 4, 4) > 0.5)

    def mask_losses() -> list[float]:
        losses = criterion([prediction], [target], seeded_points([1], torch.device("cpu")))
        return [losses["loss_mask"].item(), losses["loss_dice"].item()]

    alone = mask_losses()
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: None)  # the other process has no mask
    assert mask_losses() == pytest.approx([2 * loss for loss in alone]), "their mean over two is what it is alone"


def test_a_norm_behind_the_last_map_is_not_trained() -> None:
    """Data-parallel training fails if a parameter contributes to no loss."""
    clip_model = nn.Module()
    clip_model.visual = nn.Module()
    clip_model.visual.image_size = 64
    clip_model.visual.trunk = timm.create_model("test_convnext", head_norm_first=True, num_classes=0)
    CLIP(clip_model=clip_model, model_name="test", trainable=True)
    idle = {name for name, _ in clip_model.visual.trunk.named_parameters() if name.startswith(("norm_pre", "head"))}
    trained = {name for name, p in clip_model.visual.trunk.named_parameters() if p.requires_grad}
    assert idle
    assert trained
    assert not trained & idle
