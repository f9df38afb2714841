"""A run has an identity: what a start continues, what it moves aside, and what it refuses."""

import fnmatch
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from clouds.commands import train as train_command
from clouds.config import get_config, load_config
from clouds.config.settings import FREE_ON_RESUME, changed_settings, plain_settings, read_settings
from clouds.d2 import CfgNode, comm
from clouds.data.datasets import catalog
from clouds.engine.run import output_folder, record
from clouds.engine.run.output_folder import LOCKS, PREVIOUS, find_outputs, release, set_aside
from clouds.engine.run.record import current_run, read_record
from clouds.engine.setup import default_setup
from clouds.engine.trainer import Trainer
from clouds.errors import UserError, WriteError
from tests.engine.conftest import CLASSES, COLORS
from tests.engine.test_end_to_end import ROOT
from tests.engine.test_resume import Killed, rows, same, trained
from tests.engine.test_trainer import weights


@pytest.fixture
def short(tiny_cfg: CfgNode) -> CfgNode:
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.SOLVER.CHECKPOINT_PERIOD, tiny_cfg.TEST.EVAL_PERIOD = 4, 2, 2
    return tiny_cfg


@pytest.fixture
def output(short: CfgNode) -> Path:
    return Path(short.OUTPUT_DIR)


def train(cfg: CfgNode, *opts: object, kind: type[Trainer] = Trainer, **flags: bool) -> Trainer:
    """Start a training as train_net.py does; `opts` are keys and values, `flags` those of the command line."""
    cfg = cfg.clone()
    cfg.merge_from_list(list(opts))
    default_setup(cfg, Namespace(**flags))
    try:
        trainer = kind(cfg)
        trainer.resume_or_load(flags.get("resume", False))
        trainer.train()
    finally:
        release(Path(cfg.OUTPUT_DIR))
    return trainer


def killed(cfg: CfgNode, at: int, *opts: object, **flags: bool) -> None:
    """Start a training that ends without a word after iteration `at`, and after its checkpoint if there is one."""
    with pytest.raises(KeyboardInterrupt):
        train(cfg, *opts, kind=type("Killed", (Killed,), {"at": at}), **flags)


def log(output: Path) -> str:
    return (output / "log.txt").read_text()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- the files of a run


def test_the_list_has_every_file_that_a_run_leaves(short: CfgNode, output: Path) -> None:
    killed(short, 1, "MODEL.SAVE_PSEUDO_LABELS", True)
    train(short, resume=True)
    for _ in range(2):
        train_command_evaluation(short)
    left = {path.name for path in output.iterdir()}
    assert left >= {"config.yaml", "config_2.yaml", "config_eval.yaml", "config_eval_3.yaml", "pseudo_labels"}
    assert left == {path.name for path in find_outputs(output)} | set(LOCKS)


def train_command_evaluation(cfg: CfgNode, *opts: object, resume: bool = True) -> dict:
    cfg = cfg.clone()
    cfg.merge_from_list(list(opts))
    default_setup(cfg, Namespace(eval_only=True, resume=resume))
    return Trainer.test_weights(cfg, resume=resume)


@pytest.mark.parametrize(
    ("name", "is_output"),
    [
        *(
            (name, True)
            for name in ("log.txt", "log.txt.rank3", "git.diff", "git_eval_12.diff", "wandb", "metrics.json")
        ),
        *(
            (name, True)
            for name in ("model_0000123.pth", "model_best.pth", "run.json.77.part", "model_final.pth.12.part")
        ),
        *((name, True) for name in ("events.out.tfevents.17.host.1.0", "pseudo_label_panels", "last_checkpoint")),
        ("evaluations", True),
        *(
            (name, False)
            for name in ("model_mine.pth", "config_mine.yaml", "my.yaml", "notes.txt", "log.txt.gz", "sam")
        ),
        *((name, False) for name in ("previous", "console.txt", "job.json", "model_final.pth.bak", *LOCKS)),
    ],
)
def test_foreign_files_are_not_in_the_list(tmp_path: Path, name: str, is_output: bool) -> None:
    (tmp_path / name).touch()
    assert [path.name for path in find_outputs(tmp_path)] == [name] * is_output


def test_a_new_training_moves_the_earlier_run_aside(short: CfgNode, output: Path) -> None:
    first = train(short)
    earlier, run = contents(output), current_run(output).id
    (output / "notes.txt").write_text("mine")
    second = train(short, "SEED", 4)
    assert {k: v for k, v in earlier.items() if k not in LOCKS} == contents(output / PREVIOUS / run)
    assert (output / "notes.txt").read_text() == "mine"
    assert not same(weights(first), weights(second))
    assert [row["iteration"] for row in rows(output)] == [row["iteration"] for row in rows(output / PREVIOUS / run)]
    assert len(read_record(output)) == 1
    assert f"the earlier files in {output} are now in {output / PREVIOUS / run}" in log(output)

    # The folder of the earlier run is a complete output folder: it can go on there.
    longer = train(short, "OUTPUT_DIR", str(output / PREVIOUS / run), "SOLVER.MAX_ITER", 6, resume=True)
    assert longer.start_iter == 4
    assert current_run(output / PREVIOUS / run).id == run


@pytest.mark.parametrize("moves", range(1, 10))
def test_an_interrupted_move_goes_on(
    tmp_path: Path, short: CfgNode, output: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    monkeypatch.setattr(record, "git_state", lambda: ({"commit": "unknown"}, b""))
    train(short, "SOLVER.CHECKPOINT_PERIOD", 0)
    earlier, run = contents(output), current_run(output).id
    assert len(find_outputs(output)) == 8, "the 9th move renames the folder"
    rename, done = Path.rename, []

    def interrupted(path: Path, target: Path) -> Path:
        if len(done) == moves - 1:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        default_setup(short.clone(), Namespace())
    monkeypatch.undo()
    left = {k: v for k, v in contents(output).items() if not k.startswith(PREVIOUS)}
    both = contents(output / PREVIOUS / f"{run}.part") | left
    assert both == earlier, "nothing is lost on the way"
    resumed = train(short, resume=True)  # of the training that was killed on its way
    assert resumed.start_iter == 0
    assert contents(output / PREVIOUS / run) == {k: v for k, v in earlier.items() if k not in LOCKS}
    assert current_run(output).id != run
    assert [path.name for path in (output / PREVIOUS).iterdir()] == [run]
    assert "earlier runs are in" in log(output)


def test_a_name_that_is_taken_is_not_overwritten(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "log.txt").write_text(str(number))
        set_aside(tmp_path, "same")
    found = sorted((path.parent.name, path.read_text()) for path in (tmp_path / PREVIOUS).rglob("log.txt"))
    assert found == [("same", "0"), ("same_2", "1"), ("same_3", "2")]
    (tmp_path / PREVIOUS / "left.part").mkdir()
    for number in (3, 4):
        (tmp_path / "log.txt").write_text(str(number))
        (tmp_path / PREVIOUS / "left.part" / "log.txt").write_text("killed")
        set_aside(tmp_path, "other")
        (tmp_path / PREVIOUS / "left").rename(tmp_path / PREVIOUS / "left.part")
    assert sorted(path.read_text() for path in (tmp_path / PREVIOUS / "left.part").iterdir()) == ["3", "4", "killed"]


def test_what_cannot_be_written_is_one_sentence(short: CfgNode, output: Path) -> None:
    (output / "log.txt").mkdir(parents=True)
    with pytest.raises(WriteError, match=r"log\.txt cannot be written \(a folder has its name\)"):
        train_command_evaluation(short)
    (output / PREVIOUS).write_text("a file")
    with pytest.raises(WriteError, match=r"cannot be written \((another file|a file)"):
        train(short)


# --- inputs in the folder


@pytest.mark.parametrize("form", ["absolute", "relative", "dots", "link"])
def test_weights_in_the_same_folder_still_load(
    short: CfgNode, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    warm_up = train(short)
    run, file = current_run(output).id, output / "model_final.pth"
    if form == "link":
        file.rename(tmp_path / "elsewhere.pth")
        file.symlink_to("../elsewhere.pth")
    monkeypatch.chdir(tmp_path)
    name = {"relative": "run/model_final.pth", "dots": f"{output}/../run/./model_final.pth"}.get(form, str(file))
    opts = ("MODEL.WEIGHTS", name, "SOLVER.BASE_LR", 1e-9)
    if form == "relative":
        opts += ("OUTPUT_DIR", "run")
    killed(short, 0, *opts)
    new = Path(load_config(output / "config.yaml").MODEL.WEIGHTS)
    assert new.samefile(output / PREVIOUS / run / "model_final.pth")
    assert new.is_absolute() is (form != "relative")

    # The same command line with --resume, without a checkpoint and with one.
    assert train(short, *opts, resume=True).start_iter == 0
    second = train(short, *opts, resume=True)
    assert second.start_iter == 4
    for key, value in weights(warm_up).items():
        assert torch.allclose(value, weights(second)[key], atol=1e-6), key
    with pytest.raises(UserError, match=r"MODEL\.WEIGHTS '.* -> '/other\.pth'"):
        train(short, *opts, "MODEL.WEIGHTS", "/other.pth", resume=True)


def test_other_inputs_in_the_folder_stay_where_they_are(short: CfgNode, output: Path, tmp_path: Path) -> None:
    train(short)
    (output / "cache").mkdir()
    train(short, "MODEL.CLOUDS.SAM.CACHE_DIR", str(output / "cache"))
    assert (output / "cache").is_dir()
    assert load_config(output / "config.yaml").MODEL.CLOUDS.SAM.CACHE_DIR == str(output / "cache")


@pytest.mark.parametrize("missing", [("DATASETS.TEST", ("tiny_vel",)), ("MODEL.WEIGHTS", "/no/such.pth")])
def test_nothing_is_moved_for_a_training_that_cannot_start(short: CfgNode, output: Path, missing: tuple) -> None:
    train(short)
    before = contents(output)
    with pytest.raises(UserError, match=r"tiny_vel|such\.pth"):
        train(short, *missing)
    assert contents(output) == before


def test_a_data_set_of_the_earlier_run_s_label_maps_is_not_moved(short: CfgNode, output: Path) -> None:
    train(short, "MODEL.SAVE_PSEUDO_LABELS", True)
    before, folder = contents(output), output / "pseudo_labels"
    labels = sorted(folder.glob("tiny_val/*_labelTrainIds.png"))
    pairs = [{"file_name": str(x), "image_id": x.stem, "sem_seg_file_name": str(x)} for x in labels]
    catalog.register("tiny_own", lambda: pairs, classes=CLASSES, colors=COLORS)
    with pytest.raises(UserError, match=r"The data set tiny_own reads .*, which the earlier run wrote .* another OUTP"):
        train(short, "DATASETS.TRAIN", ("tiny_own",))
    assert contents(output) == before


# --- what is resumed


def test_the_checkpoint_of_another_run_is_not_resumed(short: CfgNode, output: Path, tmp_path: Path) -> None:
    train(short)
    other = current_run(output).id
    killed(short, 0, "SEED", 4)  # before its first checkpoint
    for path in (output / PREVIOUS / other).glob("*"):  # as older versions leave it
        if path.name.startswith("model_") or path.name == "last_checkpoint":
            shutil.copy(path, output)
    run = current_run(output).id
    with pytest.raises(UserError, match=r"No checkpoint in .* belongs to its current run, and MODEL\.WEIGHTS is empty"):
        train_command_evaluation(short)
    resumed = train(short, "SEED", -1, resume=True)
    straight = train(short, "SEED", 4, "OUTPUT_DIR", str(tmp_path / "straight"))
    assert (resumed.start_iter, resumed.seed, current_run(output).id) == (0, 4, run != other and run)
    assert same(weights(resumed), weights(straight))
    said = log(output)
    assert f"model_final.pth belongs to the run {other}, not to the current run {run}: it is not used" in said
    assert "belongs to this run: it starts from its beginning, at iteration 0 with the seed 4" in said
    assert same(trained(output / "model_final.pth"), trained(tmp_path / "straight/model_final.pth"))
    assert rows(output) == rows(tmp_path / "straight"), "each row once"
    assert train(short, "SEED", -1, resume=True).start_iter == 4


def test_a_checkpoint_says_which_run_it_belongs_to(short: CfgNode, output: Path) -> None:
    train(short)
    content = torch.load(output / "model_final.pth", weights_only=True)
    assert content["run"] == current_run(output).id == read_record(output)[0]["run"]
    assert content["settings"]["SOLVER.BASE_LR"] == 0.1
    assert content["settings"]["INPUT.CROP_SIZE"] == [24, 24]
    assert content["settings"].keys() == plain_settings(short).keys()


def test_a_folder_of_an_older_version_is_resumed(short: CfgNode, output: Path) -> None:
    killed(short, 1)
    (entry,) = read_record(output)
    entry["training"] = entry.pop("run")[:8]
    (output / "run.json").write_text(json.dumps([entry]))
    content = trained(output / "model_0000001.pth")
    torch.save(content, output / "model_0000001.pth")
    assert train(short, resume=True).start_iter == 2
    assert log(output).count("is of an older version and names no run: taken as one of ") == 1
    assert current_run(output).id == entry["training"]
    assert train(short, resume=True).start_iter == 4

    # In a run of this version it would be a stranger.
    train(short)
    torch.save(content, output / "model_final.pth")
    (output / "model_0000001.pth").unlink()
    assert train(short, resume=True).start_iter == 0
    assert "model_final.pth names no run, not to the current run" in log(output) or "names no run" in log(output)


def test_checkpoints_that_were_copied_to_a_new_folder(short: CfgNode, output: Path, tmp_path: Path) -> None:
    killed(short, 1)
    new = tmp_path / "new"
    new.mkdir()
    for name in ("model_0000001.pth", "last_checkpoint"):
        shutil.copy(output / name, new)
    with pytest.raises(UserError, match=r"SOLVER\.BASE_LR 0\.1 -> 0\.2"):
        train(short, "OUTPUT_DIR", str(new), "SOLVER.BASE_LR", 0.2, resume=True)
    assert train(short, "OUTPUT_DIR", str(new), "SEED", -1, resume=True).start_iter == 2
    assert current_run(new).id == current_run(output).id
    assert read_record(new)[0]["seed"] == 3


# --- settings of a resumed run


@pytest.mark.parametrize(
    ("opts", "said"),
    [
        (("SOLVER.BASE_LR", 0.05), "SOLVER.BASE_LR 0.1 -> 0.05"),
        (("INPUT.CROP_SIZE", (16, 16)), "INPUT.CROP_SIZE [24, 24] -> [16, 16]"),
        (("DATASETS.TRAIN", ("tiny_val",)), "DATASETS.TRAIN ['tiny_train'] -> ['tiny_val']"),
        (("MODEL.MASK_FORMER.NHEADS", 4), "MODEL.MASK_FORMER.NHEADS 8 -> 4"),
        (("SOLVER.STEPS", (2,)), "SOLVER.STEPS [100000] -> [2]"),
        (("SEED", 4), "SEED 3 -> 4"),
        (("MODEL.WEIGHTS", "/some.pth"), "MODEL.WEIGHTS '' -> '/some.pth'"),
    ],
)
def test_other_settings_stop_a_resume(short: CfgNode, output: Path, opts: tuple, said: str) -> None:
    killed(short, 1)
    before = contents(output)
    with pytest.raises(UserError) as caught:
        train(short, *opts, resume=True)
    assert f"with other settings, {said}: repeat the settings of {output}/config.yaml" in str(caught.value)
    assert "--resume-anyway" in str(caught.value)
    assert contents(output) == before, "a refused start leaves nothing behind"


def test_many_other_settings_are_one_line(short: CfgNode) -> None:
    killed(short, 1)
    keys = [key for key, value in plain_settings(short).items() if type(value) is float]
    opts = [word for key in keys for word in (key, 0.987)]
    with pytest.raises(UserError, match=r"MODEL\.\S+ \S+ -> 0\.987, .* and \d+ more: repeat .* --resume-anyway\.$"):
        train(short, *opts, resume=True)


def test_resume_anyway_continues_under_the_new_settings(short: CfgNode, output: Path) -> None:
    killed(short, 1)
    used = []

    class Watched(Trainer):
        def run_step(self) -> None:
            used.append(self.optimizer.param_groups[0]["lr"])
            super().run_step()

    opts = ("SOLVER.BASE_LR", 0.05, "SEED", 8)
    trainer = train(short, *opts, kind=Watched, resume=True, resume_anyway=True)
    assert (trainer.start_iter, trainer.seed) == (2, 3)
    assert "continues with other settings: SOLVER.BASE_LR 0.1 -> 0.05, SEED 3 -> 8" in log(output).replace(
        "\n", " "
    ) or ("SOLVER.BASE_LR 0.1 -> 0.05" in log(output) and "SEED 3 -> 8" in log(output))
    assert "The run keeps its seed, 3" in log(output)
    with pytest.raises(UserError, match=r"SOLVER\.BASE_LR 0\.05 -> 0\.1"):  # it has the new settings now
        train(short, resume=True)


def test_a_resumed_run_may_change_these(short: CfgNode, output: Path, tmp_path: Path) -> None:
    killed(short, 1)
    other = {
        bool: lambda v: not v,
        int: lambda v: v + 1,
        float: lambda v: v + 1,
        str: lambda v: f"{v}x",
        list: lambda v: [*v, 1],
    }
    old, new = plain_settings(short), {}
    for key, value in old.items():
        if any(f"{key}.".startswith(f"{free}.") for free in FREE_ON_RESUME):
            new[key] = other[type(value)](value)
    assert len(new) > 12
    assert not changed_settings(old, old | new, tmp_path)
    opts = ("SOLVER.MAX_ITER", 6, "DATALOADER.NUM_WORKERS", 1, "TEST.BOUNDARY_IOU", True, "SOLVER.CHECKPOINT_PERIOD", 1)
    assert train(short, *opts, "SOLVER.CHECKPOINTS_KEPT", 1, resume=True).start_iter == 2


def test_getting_started_lists_them() -> None:
    text = (ROOT / "GETTING_STARTED.md").read_text()
    listed = re.findall(r"`(\S+)`", text.partition("These may differ: ")[2].partition(", and the number")[0])
    keys = plain_settings(get_config())
    free = {key for key in keys if any(f"{key}.".startswith(f"{name}.") for name in FREE_ON_RESUME)}
    assert free == {key for key in keys if any(fnmatch.fnmatchcase(key, name) for name in listed)}


def test_the_length_matters_to_a_schedule_that_depends_on_it(short: CfgNode, output: Path) -> None:
    short.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    killed(short, 1)
    train(short, "SOLVER.MAX_ITER", 5, resume=True)
    assert "SOLVER.MAX_ITER is 5 instead of 4: the learning rate now follows this length" in log(output)


def test_names_of_one_file_are_equal(short: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("sub")
    old = plain_settings(short) | {"MODEL.CLOUDS.SAM.WEIGHTS": "sub/sam.pt", "DATASETS.CUSTOM": ["a.yaml", "b.yaml"]}
    for name in (str(tmp_path / "sub/sam.pt"), "./sub/sam.pt", "link/sam.pt", "sub/../sub/sam.pt"):
        custom = [str(tmp_path / "a.yaml"), "./b.yaml"]
        new = old | {"MODEL.CLOUDS.SAM.WEIGHTS": name, "DATASETS.CUSTOM": custom}
        assert not changed_settings(old, new, tmp_path)
    monkeypatch.chdir(tmp_path / "sub")
    assert not changed_settings(old, old | {"MODEL.CLOUDS.SAM.WEIGHTS": "sam.pt"}, tmp_path)
    assert changed_settings(old, old | {"MODEL.CLOUDS.SAM.WEIGHTS": "../sam.pt"}, tmp_path).keys() == {
        "MODEL.CLOUDS.SAM.WEIGHTS"
    }


def test_a_recorded_config_has_the_settings_of_the_run(short: CfgNode, tmp_path: Path) -> None:
    short.SOLVER.CLIP_GRADIENTS.NORM_TYPE, short.SOLVER.BASE_LR = float("inf"), 1e-5
    file = tmp_path / "config.yaml"
    file.write_text(short.dump())
    assert read_settings(file) == plain_settings(short) == plain_settings(load_config(file))
    file.write_text(f"{short.dump()}UNKNOWN: {{KEY: 1}}\n")  # a key of another version
    assert read_settings(file) == plain_settings(short)


def test_a_missing_config_is_told(short: CfgNode, output: Path) -> None:
    killed(short, 1)
    (output / "config.yaml").unlink()
    trainer = train(short, "SOLVER.BASE_LR", 0.05, "SEED", -1, resume=True)
    assert (trainer.start_iter, trainer.seed) == (2, 3)
    assert "config.yaml is missing: the settings of the run" in log(output)


# --- one training at a time

HOLDER = """
import sys, time
from pathlib import Path
from argparse import Namespace
from clouds.config import get_config, load_config
from clouds.engine.run.output_folder import hold
assert hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(short: CfgNode, output: Path) -> subprocess.Popen:
    """Start a training in the output folder in a process of its own, and kill it at the end."""
    killed(short, 1)
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(output)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_training_is_refused_until_the_first_has_ended(
    short: CfgNode, output: Path, holder: subprocess.Popen
) -> None:
    before = contents(output)
    for resume in (False, True):
        with pytest.raises(UserError) as caught:
            train(short, resume=resume)
        assert str(caught.value).startswith(f"Another training is running in {output} (process {os.getpid()} on ")
        assert str(caught.value).endswith("wait for its end, stop it, or choose another OUTPUT_DIR.")
    assert contents(output) == before
    assert train_command_evaluation(short)["tiny_val"], "an evaluation takes no lock"
    assert read_record(output)[-1]["kind"] == "evaluation"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert train(short, resume=True).start_iter == 2


def test_the_record_is_written_by_one_process_at_a_time(
    short: CfgNode, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_command_evaluation(short, resume=False)
    monkeypatch.setattr(output_folder, "_RECORD_SECONDS", 0.05)
    with (
        output_folder.record_lock(output),
        pytest.raises(UserError, match=r"Another process has been writing to .*json"),
    ):
        train_command_evaluation(short, resume=False)
    assert len(read_record(output)) == 1
    train_command_evaluation(short, resume=False)
    assert len(read_record(output)) == 2


def test_a_training_that_ends_or_fails_frees_its_folder(short: CfgNode, output: Path, tmp_path: Path) -> None:
    probe = (
        "from pathlib import Path; from clouds.engine.run.output_folder import hold; "
        + f"print(hold(Path({str(output)!r})))"
    )
    train(short)
    with pytest.raises(UserError, match="with other settings"):
        train(short, "SOLVER.BASE_LR", 0.7, resume=True)
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "True\n"


def test_a_file_system_without_locks_is_a_warning(
    short: CfgNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*args: object, **kwargs: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("clouds.engine.run.output_folder.FileLock.acquire", unsupported)
    monkeypatch.setattr("clouds.utils.locks.logger.propagate", True)
    assert train(short).iter == 4
    assert "do not start a second command in this folder" in caplog.text


def test_the_other_processes_of_a_refused_training_end_with_its_sentence(
    short: CfgNode, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = UserError("Another training is running.")
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "all_gather", lambda data: [pickle.loads(pickle.dumps(told)), data])
    with pytest.raises(UserError, match=r"^Another training is running\.$"):
        default_setup(short, Namespace())
    assert not list(output.iterdir()), "neither a log nor a lock"


def test_resume_anyway_is_a_resume() -> None:
    args = train_command.parse_arguments(["--config-file", "c.yaml", "--resume-anyway"])
    assert (args.resume, args.resume_anyway) == (True, True)
    args = train_command.parse_arguments(["--config-file", "c.yaml"])
    assert (args.resume, args.resume_anyway) == (False, False)


def test_torchrun_resumes_its_own_run_only(short: CfgNode, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    train(short)
    first = current_run(output)
    assert first is not None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    flags = Namespace(resume=False)
    for call, kind in (("first", "training, resumed"), ("second", "training")):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", call)
        default_setup(short.clone(), flags)
        release(output)
        assert read_record(output)[-1]["kind"] == kind
        assert flags.resume == (call == "first")
        flags.resume = False
    assert find_outputs(output / PREVIOUS / first.id), "a run of another call is not continued"
