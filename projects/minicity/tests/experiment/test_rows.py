"""The rows of the experiment and their jobs."""

import argparse
import itertools
from pathlib import Path

import pytest
from minicity.experiment.rows import (
    ADAPTERS,
    COMPARED,
    FULL,
    MOBILE_SAM,
    SHOWN,
    SMALLEST,
    TEST_SETS,
    UNSEEN,
    Row,
    as_variant,
    short_name,
    with_images,
    with_mobile_sam,
)
from minicity.experiment.run import choose, generation_jobs
from minicity.paths import PROJECT, REPOSITORY

from clouds.config import load_config
from clouds.errors import UserError


@pytest.mark.parametrize("rows", [SMALLEST, FULL, ADAPTERS], ids=["smallest", "full", "adapters"])
def test_every_row_comes_after_the_one_it_starts_from(rows: tuple[Row, ...]) -> None:
    keys = [row.key for row in rows]
    assert len(set(keys)) == len(keys)
    for number, row in enumerate(rows):
        assert (PROJECT / "configs" / row.config).is_file()
        assert row.after is None or row.after in keys[:number]
    groups = [row.group for row in rows]
    assert all(groups)
    assert sum(one != other for one, other in itertools.pairwise(groups)) == len(set(groups)) - 1
    assert {key for pair in COMPARED for key in pair} | set(SHOWN) <= {row.key for row in (*FULL, *ADAPTERS)}


def test_adapted_towers_differ_from_the_frozen_one_in_the_adapter_alone() -> None:
    configs = {row.key: load_config(PROJECT / "configs" / row.config) for row in ADAPTERS}
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


def test_rows_learn_from_the_number_of_images_in_their_title() -> None:
    rows = {row.key: row for row in with_images(FULL, 60)}
    assert [row.images for row in rows.values() if row.images] == [60] * 3
    assert rows.keys() == {row.key for row in FULL} - {"joint_few", "joint_many"}
    assert {row.key: row.title for row in with_images(FULL, 1000)}["joint_many"] == "joint training, 480 images"
    variant = as_variant(rows["joint"], PROJECT / "configs")
    assert variant.needs == ("sd_minicity_60",)
    cfg = load_config(variant.config, variant.settings)
    assert tuple(cfg.DATASETS.TRAIN) == ("minicity_sim_train", "sd_minicity_60")
    assert pytest.approx(100) == cfg.DATASETS.TARGET_FACTOR * 60
    assert as_variant(rows["frozen"], PROJECT / "configs").needs == ()


def test_mobile_sam_is_for_the_rows_that_use_sam() -> None:
    changed = [row.key for row in FULL if with_mobile_sam(row) != row]
    assert changed == ["joint", "joint_few", "joint_many", "joint_text"]
    assert with_mobile_sam(FULL[6]).settings[-len(MOBILE_SAM) :] == MOBILE_SAM


def chosen(rows: str | None, **flags: object) -> list[str]:
    args = argparse.Namespace(**{"rows": rows, "images": 1000, "sam": "minicity_sam", **flags})
    return [row.key for row in choose(FULL, args)]


def test_chosen_rows_come_with_those_they_start_from() -> None:
    assert chosen("joint_text") == ["text", "joint_text"]
    assert chosen(None) == [row.key for row in FULL]
    assert "joint_few" not in chosen(None, images=60)
    with pytest.raises(UserError, match="--rows names jiont; there are scratch, "):
        chosen("frozen,jiont")


def test_test_sets() -> None:
    assert [short_name(name) for name in TEST_SETS] == ["sim", *map(short_name, UNSEEN)]
    assert len(UNSEEN) == 5


def test_generation_jobs(tmp_path: Path) -> None:
    for name in ("model", "prompts.txt"):
        (tmp_path / name).write_text(name)
    args = argparse.Namespace(model=tmp_path / "model", prompts=tmp_path / "prompts.txt", steps=3, guidance=2.0)
    first, second = generation_jobs(args, [7, 9], Path("/data"))
    assert (first.name, second.name, second.steps) == ("sd_minicity_7", "sd_minicity_9", 9)
    assert first.command[1:6] == (
        str(REPOSITORY / "generate_txt_im.py"),
        "--folder",
        "sd_minicity_7",
        "--num-images",
        "7",
    )
    assert first.folder == Path("/data/stable_diffusion/sd_minicity_7")
    flags = dict(zip(first.command[6::2], first.command[7::2], strict=True))
    assert flags["--output-root"] == "/data"
    assert flags["--steps"] == "3"
    (tmp_path / "prompts.txt").write_text("another")
    assert generation_jobs(args, [7], Path("/data"))[0].inputs != first.inputs
