"""Joint training in the real loop: teacher, pseudo-labels, their record, and evaluation without them."""

import random
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from clouds.config import load_config
from clouds.d2 import CfgNode, HookBase
from clouds.engine.hooks import PseudoLabelMonitor, SelfTrainingHook
from clouds.engine.run.output_folder import LOCKS, find_outputs
from clouds.engine.setup import default_setup
from clouds.engine.trainer import Trainer
from clouds.errors import UserError
from clouds.self_training.pseudo_labels import PseudoLabeller
from clouds.self_training.sam import Sam
from clouds.self_training.teacher import Teacher
from tests.engine.joint import JOINT, JOINT_MODULE, JointTrainer, write_joint_images
from tests.engine.test_end_to_end import last_table, write_config
from tests.engine.test_resume import Killed, rows, same, trained
from tests.marks import slow
from tests.self_training.sam3_folders import write_sam3

Config = Callable[..., CfgNode]
MONITOR = {"MODEL.CLOUDS.PANEL_PERIOD": 2, "TEST.EVAL_PERIOD": 0, "SOLVER.IMS_PER_BATCH": 2}
BACKBONES = ("CLIP", *slow("TrainableCLIP"))


@pytest.fixture
def joint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return a function that builds the config of a small joint training whose output goes to the given folder."""
    data = tmp_path / "data"
    write_joint_images(data, train=4, val=2)
    config = write_config(tmp_path / "c.yaml", backbone="CLIP", plugin="plugin_for_joint", module=JOINT_MODULE)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    monkeypatch.syspath_prepend(tmp_path)

    def build(run: str, *opts: object, **settings: object) -> CfgNode:
        words = [*JOINT, *(x for pair in MONITOR.items() for x in pair), *opts, "OUTPUT_DIR", str(tmp_path / run)]
        return load_config(str(config), words)

    return build


def train(cfg: CfgNode, *, resume: bool = False, anyway: bool = False, kind: type[Trainer] = JointTrainer) -> Trainer:
    default_setup(cfg, Namespace(resume=resume, resume_anyway=anyway))
    trainer = kind(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def snapshot(head: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in head.state_dict().items()}


class WithSam(JointTrainer):
    """Trainer with the SAM that the config describes; records what it is asked."""

    asked: list[object]

    @classmethod
    def build_sam(cls, cfg: CfgNode) -> Sam:
        sam = Trainer.build_sam(cfg)
        cls.asked, predict = [], sam.predict
        sam.predict = lambda embedding, prompts: cls.asked.extend(prompts) or predict(embedding, prompts)
        return sam


@pytest.mark.parametrize("prompts", ["points", "text"])
def test_a_training_with_sam3(joint: Config, tmp_path: Path, prompts: str) -> None:
    folder = write_sam3(tmp_path / "sam3", "sam3_video")
    settings = {"MOBILE": False, "TYPE": "transformers", "WEIGHTS": str(folder), "IMAGE_SIZE": 64, "PROMPTS": prompts}
    settings |= {"SCORE_THRESHOLD": 0.2, "NUM_POINTS": 3, "CACHE_DIR": str(tmp_path / "cache")}
    opts = [word for key, value in settings.items() for word in (f"MODEL.CLOUDS.SAM.{key}", value)]
    trainer = train(joint("run", "SOLVER.MAX_ITER", 2, "DATASETS.TRAIN", ("plugin_generated",), *opts), kind=WithSam)
    labels = trainer.self_training.latest
    assert labels and WithSam.asked and list((tmp_path / "cache").iterdir())
    if prompts == "text":
        names = {each.names for each in WithSam.asked}
        assert names <= {("road", "street"), ("grass",), ("sky",)}, "of the training set, with their synonyms"
        assert all(each.regions.sum() > 12 for each in WithSam.asked)
    else:
        assert all(each.shape == (3, 2) for each in WithSam.asked)
    for label in labels:
        assert label.prompts.points.shape[1] == (0 if prompts == "text" else 3)
        assert set(label.refined.labels.tolist()) <= set(label.prompts.classes.tolist())
    assert any(row.get("pseudo_labels/kept", 0) > 0 for row in rows(tmp_path / "run"))


class Watched(JointTrainer):
    """Records student and teacher at the beginning of every step."""

    def run_step(self) -> None:
        heads = self.__dict__.setdefault("heads", [])
        heads.append((snapshot(self.model.sem_seg_head), snapshot(self.self_training.teacher.model.sem_seg_head)))
        super().run_step()


def test_the_teacher_follows_at_its_period(joint: Config) -> None:
    trainer = train(joint("run", "SOLVER.MAX_ITER", 7), kind=Watched)
    students, teachers = zip(*trainer.heads, strict=True)
    assert same(teachers[0], students[0]), "a copy, after the weights are loaded; the update at 0 changes nothing"
    for i in range(1, 7):
        if i % 3:
            assert same(teachers[i], teachers[i - 1])
        else:
            assert not same(teachers[i], teachers[i - 1])
            for key, value in teachers[i].items():
                torch.testing.assert_close(value, (teachers[i - 1][key] + students[i][key]) / 2)

    content = torch.load(f"{trainer.cfg.OUTPUT_DIR}/model_final.pth", weights_only=True)
    assert same(content["teacher"], teachers[6])
    head = {key for key in content["model"] if key.startswith("sem_seg_head.")}
    assert head == {f"sem_seg_head.{key}" for key in content["teacher"]}
    assert "teacher" not in " ".join(content["model"])
    assert same(content["model"], trainer.model.state_dict())
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in trainer.model.parameters() if p.requires_grad}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_killed_anywhere_and_resumed(joint: Config, backbone: str) -> None:
    at = random.Random().randrange(7)
    opts = ("SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINTS_KEPT", 1)
    opts += ("MODEL.BACKBONE.NAME", backbone, "SOLVER.BACKBONE_MULTIPLIER", 1.0)
    straight = train(joint("straight", *opts))
    with pytest.raises(KeyboardInterrupt):
        train(joint("killed", *opts), kind=type("Dying", (Killed, JointTrainer), {"at": at}))
    resumed = train(joint("killed", *opts), resume=True)
    assert resumed.start_iter == at + 1
    ours, theirs = (trained(Path(t.cfg.OUTPUT_DIR) / "model_final.pth") for t in (resumed, straight))
    assert same(ours, theirs), f"killed after iteration {at}"
    assert ours.keys() >= {"teacher", "pseudo_label_counts", "optimizer"}
    assert not same(ours["teacher"], resumed.self_training.teacher.state_of(resumed.model))
    assert any(key.startswith("backbone.") for key in ours["teacher"]) is (backbone == "TrainableCLIP")
    assert rows(resumed.cfg.OUTPUT_DIR) == rows(straight.cfg.OUTPUT_DIR), f"killed after iteration {at}"


class Observed(JointTrainer):
    """Reports every third iteration."""

    def build_hooks(self) -> list[HookBase]:
        hooks = super().build_hooks()
        [monitor] = [hook for hook in hooks if isinstance(hook, PseudoLabelMonitor)]
        monitor.period = 3
        return hooks


class Unobserved(JointTrainer):
    def build_hooks(self) -> list[HookBase]:
        return [hook for hook in super().build_hooks() if not isinstance(hook, PseudoLabelMonitor)]


def test_what_the_monitor_says_and_that_it_only_looks(joint: Config, tmp_path: Path) -> None:
    seen = train(joint("seen", "SOLVER.MAX_ITER", 7), kind=Observed)
    unseen = train(joint("unseen", "SOLVER.MAX_ITER", 7), kind=Unobserved)
    assert same(snapshot(unseen.model), snapshot(seen.model))
    assert seen.model.training

    events = EventAccumulator(str(tmp_path / "seen")).Reload()
    [row] = [row for row in rows(tmp_path / "seen") if "pseudo_labels/kept" in row]
    assert row["iteration"] == 6, "the end"
    assert [event.step for event in events.Scalars("pseudo_labels/kept")] == [6]
    values = {key.partition("/")[2]: value for key, value in row.items() if key.startswith("pseudo_labels/")}
    assert values["kept"] + values["changed"] + values["dropped"] == pytest.approx(100)
    assert values["kept"] > 0
    assert values["dropped"] > 0
    assert {name.partition("-")[2] for name in values if name.startswith("kept-")} <= {"road", "grass", "sky"}
    assert any(tag.startswith("pseudo_labels/kept-") for tag in events.Tags()["scalars"])
    assert all(0 <= value <= 100 for value in values.values())
    assert values.keys() >= {"mIoU_teacher", "mIoU_refined", "agreement"}

    log = (tmp_path / "seen" / "log.txt").read_text()
    assert log.count("Pseudo-labels: kept ") == 3, "in iterations 2, 5 and 6"
    assert "kept-" not in log
    folder = tmp_path / "seen"
    assert {path.name for path in folder.iterdir()} == {path.name for path in find_outputs(folder)} | set(LOCKS)
    panels = sorted((folder / "pseudo_label_panels").iterdir())
    assert [panel.name for panel in panels] == ["0000001.png", "0000003.png", "0000005.png"]
    assert Image.open(panels[0]).width > 4 * 320
    assert [event.step for event in events.Images("pseudo_labels")] == [1, 3, 5]
    assert not (tmp_path / "unseen/pseudo_label_panels").exists()


def test_evaluation_knows_nothing_of_it(
    joint: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = ("MODEL.WEIGHTS", str(tmp_path / "run/model_final.pth"))
    trained = train(joint("run", "SOLVER.MAX_ITER", 4))
    cfg = joint("eval", *weights)
    default_setup(cfg, Namespace(eval_only=True))
    capsys.readouterr()
    monkeypatch.setattr(JointTrainer, "build_self_training", None)
    monkeypatch.chdir(tmp_path)  # a folder without weights of SAM
    assert JointTrainer.test_weights(cfg) == Trainer.test_weights(cfg) == trained.results
    assert last_table(tmp_path / "eval") == last_table(tmp_path / "run")
    said = capsys.readouterr().out
    assert "teacher" not in said
    assert "WARNING" not in said
    assert "Unexpected: none" in said


def test_weights_of_a_joint_run_begin_a_fresh_teacher(joint: Config, tmp_path: Path) -> None:
    first = train(joint("first", "SOLVER.MAX_ITER", 4))
    weights = ("MODEL.WEIGHTS", str(tmp_path / "first/model_final.pth"), "SOLVER.MAX_ITER", 1)
    second = train(joint("second", *weights), kind=Watched)
    [(student, teacher)] = second.heads
    assert same(teacher, student)
    assert same(student, snapshot(first.model.sem_seg_head))
    assert not same(student, first.self_training.teacher.state_dict())


def test_a_warm_up_that_goes_on_as_joint_training(joint: Config, tmp_path: Path) -> None:
    warm_up = ("MODEL.CLOUDS.SAM.MINIBATCH", False, "DATASETS.TRAIN", ("plugin_train",), "SOLVER.MAX_ITER", 2)
    first = train(joint("run", *warm_up))
    assert first.self_training is None
    with pytest.raises(UserError, match=r"SAM\.MINIBATCH False -> True, DATASETS\.TRAIN .* --resume-anyway"):
        train(joint("run", "SOLVER.MAX_ITER", 3), resume=True)
    second = train(joint("run", "SOLVER.MAX_ITER", 3), resume=True, anyway=True, kind=Watched)
    [(student, teacher)] = second.heads
    assert same(teacher, student)
    assert "holds no state of the teacher: it starts from its initial state" in (tmp_path / "run/log.txt").read_text()


def test_sam_is_optional(joint: Config, tmp_path: Path) -> None:
    trainer = train(joint("run", "SOLVER.MAX_ITER", 3, "MODEL.CLOUDS.SAM.ENABLED", False), kind=Trainer)
    assert trainer.self_training.labeller.sam is None
    names = {key for row in rows(tmp_path / "run") for key in row if key.startswith("pseudo_labels/")}
    assert names <= {"pseudo_labels/mIoU_teacher", "pseudo_labels/agreement"}
    assert "pseudo_labels/mIoU_teacher" in names


def test_generated_images_without_self_training_are_told(joint: Config) -> None:
    cfg = joint("run", "MODEL.CLOUDS.SAM.MINIBATCH", False, "DATASETS.TRAIN", ("plugin_train",))
    default_setup(cfg, Namespace())
    trainer = Trainer(cfg)
    labelled = next(iter(trainer.data_loader))
    assert trainer.label(labelled) is labelled
    with pytest.raises(UserError, match=r"images without labels; set MODEL\.CLOUDS\.SAM\.MINIBATCH True"):
        trainer.label([*labelled, {"is_generated": True}])


@pytest.mark.parametrize("period", [0, -100])
def test_the_period_of_updates_is_positive(period: int) -> None:
    with pytest.raises(ValueError, match=f"^update_period is {period}"):
        SelfTrainingHook(Teacher(0.9), PseudoLabeller(None), update_period=period)


def test_missing_sam_weights_are_told_before_the_model_is_built(joint: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = joint("run", "MODEL.CLOUDS.SAM.WEIGHTS", "/nowhere/sam.pt")
    default_setup(cfg, Namespace())
    monkeypatch.setattr(Trainer, "build_model", None)
    with pytest.raises(UserError, match=r"/nowhere/sam\.pt"):
        Trainer(cfg)


ONE_CANVAS = ("INPUT.CROP_SIZE", (32, 64))  # that of batches with generated images, too


class Ahead(JointTrainer):
    """Labels ahead also on a CPU, and records for each labelled batch whether a thread of its own did."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        hook = self.self_training
        hook.ahead, self.beside, label = True, [], hook._label

        def recorded(batch: list[dict]) -> object:
            self.beside.append(threading.current_thread() is not threading.main_thread())
            return label(batch)

        hook._label = recorded


@pytest.mark.parametrize("backbone", BACKBONES)
def test_labelling_ahead_changes_no_bit(joint: Config, backbone: str) -> None:
    opts = ("SOLVER.MAX_ITER", 8, *ONE_CANVAS, "MODEL.BACKBONE.NAME", backbone)
    turn, ahead = train(joint("turn", *opts)), train(joint("ahead", *opts), kind=Ahead)
    # In turn at the beginning, and after an update of the teacher.
    assert ahead.beside == [False, False, True, False, True, True, False, True]
    ours, theirs = (trained(Path(t.cfg.OUTPUT_DIR) / "model_final.pth") for t in (ahead, turn))
    assert same(ours, theirs)
    assert rows(ahead.cfg.OUTPUT_DIR) == rows(turn.cfg.OUTPUT_DIR)
    assert ahead.data_loader.position == turn.data_loader.position == 8 * 2


@pytest.mark.slow
def test_killed_while_the_next_batch_is_labelled(joint: Config) -> None:
    opts = ("SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINTS_KEPT", 1, *ONE_CANVAS)
    straight = train(joint("straight", *opts))
    with pytest.raises(KeyboardInterrupt):
        train(joint("killed", *opts), kind=type("Dying", (Killed, Ahead), {"at": 3}))
    resumed = train(joint("killed", *opts), resume=True, kind=Ahead)
    assert resumed.start_iter == 4, "the batch that was labelled ahead is read again"
    assert resumed.beside == [False, False, False, True]
    ours, theirs = (trained(Path(t.cfg.OUTPUT_DIR) / "model_final.pth") for t in (resumed, straight))
    assert same(ours, theirs)
    assert rows(resumed.cfg.OUTPUT_DIR) == rows(straight.cfg.OUTPUT_DIR)
    assert "beside" not in {thread.name for thread in threading.enumerate()}


def test_the_time_of_a_step_has_the_wait_for_the_next_labels(joint: Config) -> None:
    class Slow(Ahead):
        def run_step(self) -> None:
            label = self.self_training.labeller
            self.self_training.labeller = Later(label)
            super().run_step()
            self.self_training.labeller = label
            at_work.append("beside" in {thread.name for thread in threading.enumerate()})

    class Later:
        def __init__(self, labeller: PseudoLabeller) -> None:
            self.labeller, self.threshold = labeller, labeller.threshold

        def __call__(self, *args: object) -> object:
            if threading.current_thread().name == "beside":
                time.sleep(0.1)
            return self.labeller(*args)

    at_work: list[bool] = []
    opts = ("SOLVER.MAX_ITER", 4, "MODEL.CLOUDS.ITERATION_UPDATE", 100, "DATASETS.TRAIN", ("plugin_generated",))
    trainer = train(joint("run", *opts, *ONE_CANVAS), kind=Slow)
    assert any(trainer.beside)
    assert at_work == [False] * 4


def test_a_canvas_is_known_before_a_batch_on_it_is_labelled_ahead(joint: Config) -> None:
    class Sizes(Ahead):
        def run_step(self) -> None:
            super().run_step()
            self.__dict__.setdefault("canvases", []).append(self.self_training._canvas)

    trainer = train(joint("run", "SOLVER.MAX_ITER", 8, "MODEL.CLOUDS.ITERATION_UPDATE", 100), kind=Sizes)
    known = [canvas in trainer.canvases[: max(step - 1, 0)] for step, canvas in enumerate(trainer.canvases)]
    assert trainer.beside == known
    assert len(set(trainer.canvases)) == 2


@pytest.mark.parametrize("failing", ["labeller", "loader"])
def test_an_error_ahead_is_raised_as_it_is_when_its_batch_is_due(joint: Config, failing: str) -> None:
    class Failing(Ahead):
        def run_step(self) -> None:
            if self.iter == 0:  # batch 1 is read beside this step, batch 2 read and labelled beside the next
                part, name = (self.batches, "_batches") if failing == "loader" else (self.self_training, "labeller")
                setattr(part, name, FailsLater(getattr(part, name)))
            super().run_step()

    class FailsLater:
        """Stands in for an iterator or a labeller, and fails at the third call."""

        def __init__(self, wrapped: object) -> None:
            self.wrapped, self.calls = wrapped, 0
            self.threshold, self.sam = getattr(wrapped, "threshold", 0.0), getattr(wrapped, "sam", None)

        def count(self) -> None:
            self.calls += 1
            if self.calls == 3:
                raise UserError("this batch is bad")

        def __next__(self) -> object:
            self.count()
            return next(self.wrapped)

        def __call__(self, *args: object) -> object:
            self.count()
            return self.wrapped(*args)

    cfg = joint("run", "SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 1, "DATASETS.TRAIN", ("plugin_generated",))
    with pytest.raises(UserError, match=r"^this batch is bad$"):
        train(cfg, kind=Failing)
    names = {path.name for path in Path(cfg.OUTPUT_DIR).glob("model_*.pth")}
    assert max(names) == "model_0000001.pth", "the steps before it are done and saved"


@pytest.mark.parametrize(
    "opts",
    [
        ("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoder"),
        ("MODEL.BACKBONE.NAME", "TrainableCLIP"),
        ("MODEL.CLOUDS.ITERATION_UPDATE", 1),
    ],
)
def test_labels_that_depend_on_the_last_step_are_made_in_turn(joint: Config, opts: tuple[object, ...]) -> None:
    class TextAhead(Ahead):
        @classmethod
        def build_model(cls, cfg: CfgNode) -> nn.Module:
            return Trainer.build_model(cfg)

    assert train(joint("run", "SOLVER.MAX_ITER", 3, *opts), kind=TextAhead).beside == [False] * 3
