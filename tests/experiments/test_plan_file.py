"""Plan files: what they hold, and the sentence for each mistake."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from clouds.errors import UserError
from clouds.experiments.plan import Plan, Preparation, Selection, Variant
from clouds.experiments.plan_file import choose_rows, read_plan, write_plan

PLAN = """\
title: A title
subtitle: A subtitle.
output: out
seeds: 2
settings: {TEST.EVAL_PERIOD: 0, DATASETS.TEST: [one_val, two_val]}
prepare:
  scenes:
    command: [python, draw.py, "--number", 3]
  images:
    command: clouds generate --folder 'my set'
    folder: "{data}/stable_diffusion/my_set"
    needs: [scenes]
    inputs: [model]
    steps: 5
rows:
  joint:
    title: joint training
    config: sub/b.yaml
    settings: {SOLVER.BASE_LR: 0.5, MODEL.WEIGHTS: ""}
    after: warmup
    weights: model_best.pth
    needs: [images]
    group: second
  warmup:
    title: warm-up
    config: configs/warmup/gta/train_gta.yaml
compare:
  - [joint, warmup]
shown: [joint]
unseen: [two_val]
baselines:
  constant: {one_val: 1.5, two_val: 2}
select: {by: one_val, among: [joint, warmup]}
headings: {one_val: one}
generated: {folder: "{data}/stable_diffusion/my_set", text: Images.}
notes: [A note.]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.yaml").write_text("SOLVER: {MAX_ITER: 3}\n")
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path / "plan.yaml"


def test_everything_is_read(file: Path) -> None:
    plan = read_plan(file)
    joint, warmup = plan.variants
    assert joint == Variant(
        "joint",
        "joint training",
        file.parent / "sub/b.yaml",
        ("SOLVER.BASE_LR", "0.5", "MODEL.WEIGHTS", ""),
        "warmup",
        ("images",),
        "second",
        "model_best.pth",
    )
    assert (warmup.key, warmup.after, warmup.weights) == ("warmup", None, "model_final.pth")
    assert warmup.config.is_file(), "a config of this repository"
    assert plan == Plan(
        title="A title",
        output=Path("out"),
        variants=(joint, warmup),
        seeds=(1, 2),
        subtitle="A subtitle.",
        settings=("TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "('one_val', 'two_val')"),
        prepare=(
            Preparation("scenes", ("python", "draw.py", "--number", "3")),
            Preparation(
                "images",
                ("clouds", "generate", "--folder", "my set"),
                "{data}/stable_diffusion/my_set",
                ("scenes",),
                ("model",),
                5,
            ),
        ),
        comparisons=(("joint", "warmup"),),
        shown=("joint",),
        unseen=("two_val",),
        baselines={"constant": {"one_val": 1.5, "two_val": 2.0}},
        selection=Selection("one_val", ("joint", "warmup")),
        headings={"one_val": "one"},
        generated="{data}/stable_diffusion/my_set",
        generated_text="Images.",
        notes=("A note.",),
    )


def test_a_written_plan_is_read_again(file: Path, tmp_path: Path) -> None:
    plan, copy = read_plan(file), tmp_path / "sub/copy.yaml"
    write_plan(plan, copy)
    assert read_plan(copy) == replace(plan, output=plan.output.absolute())


def test_placeholders(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data")
    plan = replace(read_plan(file), output=Path("/results"))
    assert plan.path("{data}/a") == Path("/data/a")
    assert plan.filled("--output {output}/b") == "--output /results/b"


def test_chosen_rows_come_with_those_they_start_from(file: Path) -> None:
    plan = read_plan(file)
    assert choose_rows(plan, ["joint"]) == plan
    warmup = choose_rows(plan, ["warmup"])
    assert [each.key for each in warmup.variants] == ["warmup"]
    assert (warmup.prepare, warmup.comparisons, warmup.shown) == ((), (), ())
    assert warmup.selection == Selection("one_val", ("warmup",))
    with pytest.raises(UserError, match="--rows names jiont; the plan has joint, warmup"):
        choose_rows(plan, ["warmup", "jiont"])


def test_a_plan_may_continue_another(file: Path) -> None:
    folder = file.parent / "sub"
    (folder / "few.yaml").write_text("_BASE_: ../plan.yaml\nseeds: [7]\nrows: [warmup]\nselect:\nsettings:\n")
    plan = read_plan(folder / "few.yaml")
    assert [each.key for each in plan.variants] == ["warmup"]
    assert (plan.title, plan.seeds, plan.settings, plan.comparisons, plan.shown) == (
        "A title",
        (7,),
        (),
        (),
        ("warmup",),
    )
    (folder / "own.yaml").write_text("_BASE_: few.yaml\nrows: {a: {title: A, config: b.yaml}}\n")
    assert [each.config for each in read_plan(folder / "own.yaml").variants] == [folder / "b.yaml"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tilte": "x"}, r"Plan .*plan\.yaml has the unknown key tilte: there are title, "),
        ({"title": None}, r"plan\.yaml has no title: add it\."),
        ({"title": 3}, r"has 3 as its title, which is no text: put it in quotes\."),
        ({"seeds": 0}, "has 0 as its seeds: give a number up to 1,000 or a list of seeds"),
        ({"seeds": [1, 1]}, r"has \[1, 1\] as its seeds"),
        ({"seeds": [1, -2]}, "has the seed -2: give whole numbers of at least 0"),
        ({"seeds": True}, "has True as its seeds"),
        ({"rows": {}}, "has no rows: add one"),
        ({"rows": ["joint"]}, "rows is no mapping: write KEY: VALUE"),
        ({"rows": {"a": {"title": "A"}}}, r"plan\.yaml, row a has no config: add it\."),
        ({"rows": {"a": {"title": "A", "config": "no.yaml"}}}, r"Config file .*no\.yaml \(.*row a\) does not exist"),
        ({"rows": {"a/b": {"title": "A", "config": "sub/b.yaml"}}}, "row a/b has a name that no folder can have"),
        ({"rows": {"slurm": {"title": "A", "config": "sub/b.yaml"}}}, "row slurm has a name that no folder"),
        ({"rows.joint.after": "wramup"}, "row joint starts after wramup, which is no row: there are joint, warmup"),
        ({"rows.warmup.after": "joint"}, r"row joint starts from itself \(joint after warmup after joint\)"),
        ({"rows.joint.after": "joint"}, r"row joint starts from itself \(joint after joint\): change after"),
        ({"rows.joint.weights": "model_last.pth"}, "has the weights 'model_last.pth': give model_final.pth or"),
        ({"rows.warmup.weights": "model_best.pth"}, "row warmup has weights without after"),
        ({"rows.joint.needs": ["pictures"]}, "row joint names pictures in needs, which is no preparation"),
        ({"rows.joint.settings": {"SOLVER": {"BASE_LR": 1}}}, "row joint sets SOLVER to .*write config keys with dots"),
        ({"prepare.scenes.needs": ["images"]}, "prepare scenes needs images, which does not stand before it: move it"),
        ({"prepare.scenes.command": []}, "prepare scenes has no command: give a program"),
        ({"prepare.scenes.command": "a 'b"}, "prepare scenes has a command that cannot be read .*close the quotes"),
        ({"prepare.scenes.steps": 0}, "prepare scenes has 0 as its steps: give a whole number of at least 1"),
        ({"compare": [["joint", "frozen"]]}, "names frozen in compare, which is no row: there are joint, warmup"),
        ({"compare": [["joint"]]}, r"has \['joint'\] in compare: give pairs of two rows"),
        ({"shown": ["x"]}, "names x in shown, which is no row"),
        ({"select": {"by": "one_val", "among": ["x"]}}, "names x in select, which is no row"),
        ({"select": {"among": ["joint"]}}, "select has no by: add it"),
        ({"baselines": {"constant": {"one_val": 101}}}, "baselines constant has 101 for one_val: give a percentage"),
        ({"_BASE_": "plan.yaml"}, "is its own _BASE_: name another plan"),
    ],
    ids=str,
)
def test_a_mistake_is_one_sentence(file: Path, change: dict, message: str) -> None:
    content = yaml.safe_load(PLAN)
    for key, value in change.items():
        *sections, last = key.split(".") if "." in key else [key]
        place = content
        for each in sections:
            place = place[each]
        place[last] = value
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(UserError, match=message):
        read_plan(file)


def test_a_file_that_is_no_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("- a\n")
    with pytest.raises(UserError, match=r"Plan .*plan\.yaml is no mapping"):
        read_plan(tmp_path / "plan.yaml")
    with pytest.raises(UserError, match=r"Plan .*missing\.yaml does not exist"):
        read_plan(tmp_path / "missing.yaml")
