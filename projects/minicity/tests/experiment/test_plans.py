"""The plans of the experiment."""

import itertools
from pathlib import Path

import pytest
from minicity.paths import PROJECT
from minicity.world.sets import DRAWN_SETS

from clouds.config import load_config
from clouds.experiments.plan import Plan
from clouds.experiments.plan_file import read_plan

PLANS = ("demo", "readme", "full", "adapters")
TEST_SETS = tuple(name for name in DRAWN_SETS if name.endswith("_val"))
DRAWS = 100  # generated images in an epoch


def plan(name: str) -> Plan:
    return read_plan(PROJECT / f"configs/plans/{name}.yaml")


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_is_measured_on_the_drawn_worlds(name: str) -> None:
    found = plan(name)
    assert tuple(found.headings) == TEST_SETS
    assert found.unseen == TEST_SETS[1:]
    groups = [each.group for each in found.variants]
    assert all(groups)
    assert sum(one != other for one, other in itertools.pairwise(groups)) == len(set(groups)) - 1
    for each in found.variants:
        assert "scenes" in each.needs
        assert tuple(load_config(each.config, each.settings).DATASETS.TEST) == TEST_SETS


@pytest.mark.parametrize("name", PLANS)
def test_rows_learn_from_the_images_that_they_wait_for(name: str) -> None:
    found = plan(name)
    images = {each.name: each for each in found.prepare if "generate" in each.command}
    for each in found.variants:
        cfg = load_config(each.config, each.settings)
        generated = [each for each in cfg.DATASETS.TRAIN if each.startswith("sd_")]
        assert bool(generated) == cfg.MODEL.CLOUDS.SAM.MINIBATCH
        assert [images[need].folder for need in each.needs if need in images] == [
            f"{{data}}/stable_diffusion/{name}" for name in generated
        ]
        if generated:
            count = int(generated[0].rpartition("_")[2])
            assert pytest.approx(DRAWS) == cfg.DATASETS.TARGET_FACTOR * count
            assert "images" not in each.title or str(count) in each.title or each.key == "plain"
    for each in images.values():
        words = dict(itertools.pairwise(each.command))
        assert int(words["--num-images"]) == each.steps
        assert words["--folder"] == Path(each.folder).name == f"sd_minicity_{each.steps}"
        assert [words["--model"], words["--input"]] == list(each.inputs)


def test_the_demo_is_the_first_seed_of_four_rows() -> None:
    demo, readme = plan("demo"), plan("readme")
    assert demo.seeds == (1,)
    assert readme.seeds == (1, 2, 3, 4, 5)
    assert [each.key for each in demo.variants] == ["scratch", "frozen", "plain", "joint"]
    assert set(demo.variants) < set(readme.variants)
    assert (demo.settings, demo.prepare) == (readme.settings, readme.prepare)


def test_adapted_towers_differ_from_the_frozen_one_in_the_adapter_alone() -> None:
    configs = {each.key: load_config(each.config) for each in plan("adapters").variants}
    for tower, names in {"": ("lora", "soma"), "vit_": ("vit_lora", "vit_rein")}.items():
        frozen = configs[f"{tower}frozen"]
        for name in names:
            assert configs[name].MODEL.BACKBONE == frozen.MODEL.BACKBONE
            assert configs[name].SOLVER.BASE_LR == frozen.SOLVER.BASE_LR
            assert configs[name].MODEL.ADAPTER.NAME.lower() == name.removeprefix("vit_")
        trained = configs[f"{tower}trained"]
        assert trained.MODEL.BACKBONE.NAME == f"Trainable{frozen.MODEL.BACKBONE.NAME}"
        assert trained.MODEL.ADAPTER.NAME == ""
    assert len({cfg.SOLVER.MAX_ITER for cfg in configs.values()}) == 1
