"""The record of the runs in an output folder."""

import json
import os
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

import clouds
from clouds import d2
from clouds.config import load_config
from clouds.d2 import MODE, CfgNode
from clouds.engine.run import record
from clouds.engine.run.output_folder import LOCKS
from clouds.engine.run.record import code_version, git_state, read_record
from clouds.engine.setup import default_setup
from clouds.errors import UserError


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Clean git checkout of two files, which this package seems to be in."""
    root = tmp_path / "checkout"
    (root / "clouds").mkdir(parents=True)
    (root / "clouds" / "__init__.py").write_text("# first\n")
    (root / "kept.py").write_text("x = 1\n")
    for command in (
        "init -q .",
        "add .",
        "-c user.name=me -c user.email=me@example.org -c commit.gpgsign=false commit -q -m first",
    ):
        subprocess.run(["git", *shlex.split(command)], cwd=root, check=True)
    monkeypatch.setattr(d2, "__file__", str(root / "clouds" / "d2" / "__init__.py"))
    code_version.cache_clear()
    yield root
    code_version.cache_clear()


def start(cfg: CfgNode, **flags: object) -> dict:
    """Set up a run as train_net.py does, and return its entry."""
    cfg = cfg.clone()
    default_setup(cfg, Namespace(**flags))
    return read_record(Path(cfg.OUTPUT_DIR))[-1]


def test_a_training_is_recorded_completely(tiny_cfg: CfgNode, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", "a b.yaml", "SEED", "-1"])
    tiny_cfg.SEED = -1
    start(tiny_cfg, config_file="a b.yaml", resume=False, eval_only=False, opts=["SEED", "-1"])
    output = Path(tiny_cfg.OUTPUT_DIR)
    assert {path.name for path in output.iterdir()} == {"config.yaml", "run.json", "log.txt", *LOCKS}, (
        "a clean tree has no diff"
    )
    (entry,) = json.loads((output / "run.json").read_text())

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
    assert entry["code"] == {"commit": commit.stdout.strip(), "dirty": False, "untracked": []}
    assert code_version() == commit.stdout[:10]
    assert entry["kind"] == "training"
    assert entry["command"] == "train_net.py --config-file 'a b.yaml' SEED -1"
    assert entry["arguments"]["opts"] == ["SEED", "-1"]
    assert entry["folder"] == str(Path.cwd())
    assert entry["started"][:2] == "20" and entry["started"][-6] in "+-"
    assert entry["seed"] == load_config(output / entry["config"]).SEED >= 0
    assert entry["processes"] == 1
    assert entry["machine"]["threads"] == torch.get_num_threads()
    assert entry["machine"].keys() >= {"host", "system", "cpus", "cuda", "cudnn", "gpus"}
    assert entry["versions"]["torch"] == torch.__version__
    assert entry["versions"]["python"] == sys.version.split()[0]
    assert entry["versions"]["clouds.d2"] == MODE
    assert entry["versions"].keys() >= {"torchvision", "open_clip_torch", "timm", "fvcore", "numpy"}


def test_local_changes_are_kept_as_a_diff_that_applies(tiny_cfg: CfgNode, checkout: Path) -> None:
    (checkout / "kept.py").write_text("x = 2\n")
    (checkout / "new.py").write_text("y = 3\n")
    code = start(tiny_cfg)["code"]
    assert (code["dirty"], code["untracked"], code["diff"]) == (True, ["new.py"], "git.diff")
    assert code_version().endswith("+dirty")
    (checkout / "kept.py").write_text("x = 1\n")
    subprocess.run(["git", "apply", str(Path(tiny_cfg.OUTPUT_DIR) / "git.diff")], cwd=checkout, check=True)
    assert (checkout / "kept.py").read_text() == "x = 2\n"


def test_outside_of_git_the_version_is_that_of_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(d2, "__file__", str(tmp_path / "clouds" / "d2" / "__init__.py"))
    assert code_version.__wrapped__() == f"v{clouds.__version__}"
    assert git_state() == ({"commit": "unknown"}, b"")
    (tmp_path / ".git").touch()  # no repository, or no git
    assert git_state() == ({"commit": "unknown"}, b"")


def test_a_resumed_run_adds_and_an_evaluation_stands_beside(tiny_cfg: CfgNode, checkout: Path) -> None:
    output = Path(tiny_cfg.OUTPUT_DIR)
    (checkout / "kept.py").write_text("x = 2\n")
    first = start(tiny_cfg, resume=False)
    begun = {name: (output / name).read_text() for name in ("config.yaml", "git.diff")}

    (checkout / "kept.py").write_text("x = 3\n")
    (output / "last_checkpoint").write_text("model_0000004.pth")
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.SEED = 77, -1
    resumed = start(tiny_cfg, resume=True)
    tiny_cfg.SEED = 99
    evaluated = start(tiny_cfg, eval_only=True)
    tiny_cfg.TEST.BOUNDARY_IOU = True
    again = start(tiny_cfg, eval_only=True)

    for name, content in begun.items():
        assert (output / name).read_text() == content, "the record of the training stays as it was"
    assert [entry["kind"] for entry in read_record(output)] == ["training", "training, resumed", *["evaluation"] * 2]
    assert read_record(output)[0] == first
    assert (resumed["config"], resumed["code"]["diff"]) == ("config_2.yaml", "git_2.diff")
    assert "x = 3" in (output / "git_2.diff").read_text()
    assert load_config(output / "config_2.yaml").SOLVER.MAX_ITER == 77
    assert (first["seed"], resumed["seed"], evaluated["seed"]) == (3, 3, 99), "a resumed run keeps its seed"
    assert first["run"] == resumed["run"]
    assert evaluated["run"] is None
    # The second evaluation took the name; the first one's files are still there, and the record knows where.
    assert again["config"] == "config_eval.yaml"
    assert [entry["config"] for entry in read_record(output)][2:] == ["config_eval_3.yaml", "config_eval.yaml"]
    flags = [load_config(output / entry["config"]).TEST.BOUNDARY_IOU for entry in read_record(output)]
    assert flags == [False, False, False, True]
    assert all((output / entry["code"]["diff"]).is_file() for entry in read_record(output))


def test_a_new_training_in_the_same_folder_finds_it_empty_and_loses_nothing(tiny_cfg: CfgNode, checkout: Path) -> None:
    output = Path(tiny_cfg.OUTPUT_DIR)
    (checkout / "kept.py").write_text("x = 2\n")
    first = start(tiny_cfg)
    subprocess.run(["git", "checkout", "-q", "kept.py"], cwd=checkout, check=True)
    tiny_cfg.SEED = 8
    second = start(tiny_cfg)
    assert second["run"] != first["run"]
    earlier = output / "previous" / first["run"]
    assert (read_record(earlier), read_record(output)) == ([first], [second])
    assert [load_config(folder / "config.yaml").SEED for folder in (earlier, output)] == [3, 8]
    assert not (output / "git.diff").exists(), "the new one has no changes"
    assert "x = 2" in (earlier / "git.diff").read_text()
    for folder, entry in ((earlier, first), (output, second)):
        assert (folder / "log.txt").read_text().count("Command line:") == 1, "each run has its own log"
        assert f"seed {entry['seed']}," in (folder / "log.txt").read_text()


def test_a_folder_from_before_there_was_a_record(tiny_cfg: CfgNode) -> None:
    output = Path(tiny_cfg.OUTPUT_DIR)
    output.mkdir()
    for name in ("config.yaml", "last_checkpoint"):
        (output / name).write_text("SEED: 12\n")
    tiny_cfg.SEED = -1
    assert start(tiny_cfg, resume=True)["seed"] == 12
    assert (output / "config.yaml").read_text() == "SEED: 12\n"
    run = read_record(output)[-1]["run"]
    start(tiny_cfg)
    assert (output / "previous" / run / "config.yaml").read_text() == "SEED: 12\n"


def test_an_earlier_run_without_an_id_gets_its_time_as_name(tiny_cfg: CfgNode) -> None:
    output = Path(tiny_cfg.OUTPUT_DIR)
    output.mkdir()
    (output / "config.yaml").write_text("SEED: 12\n")
    os.utime(output / "config.yaml", (1e9, 1e9))
    start(tiny_cfg)
    (earlier,) = (output / "previous").iterdir()
    assert earlier.name.startswith("20010909-") or earlier.name.startswith("20010908-"), "the day depends on the zone"
    assert (earlier / "config.yaml").read_text() == "SEED: 12\n"


def test_resuming_what_never_began_is_a_training(tiny_cfg: CfgNode) -> None:
    assert start(tiny_cfg, resume=True)["kind"] == "training"


ENTRY = {"kind": "training", "run": "r", "config": "config.yaml", "code": {"commit": "unknown"}}
OTHER_FORMS = {
    "not JSON": "[{",
    "another list": "[1]",
    "a number": "3",
    "deep": "[" * 5000,
    "not UTF-8": b"[\xff]",
    "Infinity": json.dumps([{**ENTRY, "seed": float("inf")}]),
    "no kind": json.dumps([{"kind": "dance"}]),
    "a kind that is a list": json.dumps([{**ENTRY, "kind": []}]),
    "an id that is a path": json.dumps([{**ENTRY, "run": "../../away"}]),
    "an id that is a number": json.dumps([{**ENTRY, "run": 7}]),
    "an old id that is a path": json.dumps([{"kind": "training", "training": "/away", "config": "c", "code": {}}]),
    "a config elsewhere": json.dumps([{**ENTRY, "config": "../config.yaml"}]),
    "no code": json.dumps([{**ENTRY, "code": None}]),
    "a diff elsewhere": json.dumps([{**ENTRY, "code": {"diff": "/etc/passwd"}}]),
    "a seed in words": json.dumps([{**ENTRY, "seed": "three"}]),
    "a host of no machine": json.dumps([{**ENTRY, "machine": []}]),
    "moved": json.dumps([{**ENTRY, "moved": {"a": 1}}]),
}


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"eval_only": True}], ids=["training", "resume", "evaluation"])
@pytest.mark.parametrize("damage", OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_a_record_of_another_form_is_said_and_kept(tiny_cfg: CfgNode, damage: str | bytes, flags: dict) -> None:
    output = Path(tiny_cfg.OUTPUT_DIR)
    output.mkdir()
    damage = damage if isinstance(damage, bytes) else damage.encode()
    (output / "run.json").write_bytes(damage)
    (output / "model_final.pth").write_text("weights")
    with pytest.raises(UserError, match=r"run\.json .* it is not a record of runs; repair it or move it away\.$"):
        start(tiny_cfg, **flags)
    assert (output / "run.json").read_bytes() == damage
    assert {path.name for path in output.iterdir()} <= {"run.json", "model_final.pth", "log.txt", *LOCKS}


def test_a_record_that_is_a_folder(tiny_cfg: CfgNode) -> None:
    (Path(tiny_cfg.OUTPUT_DIR) / "run.json").mkdir(parents=True)
    with pytest.raises(UserError, match=r"run\.json cannot be read \(Is a directory\): it is not a record of runs"):
        start(tiny_cfg)


def test_a_command_line_that_is_not_utf_8_is_recorded(tiny_cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", os.fsdecode(b"caf\xe9.yaml")])
    assert "caf" in start(tiny_cfg)["command"]


def test_a_killed_start_leaves_the_older_record(tiny_cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    first = start(tiny_cfg)

    rename = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if target.name == "run.json":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        record.write_record(Path(tiny_cfg.OUTPUT_DIR), tiny_cfg, Namespace(), record.Kind.RESUMED, "id")
    assert read_record(Path(tiny_cfg.OUTPUT_DIR)) == [first]
