"""A training starts after decoding one pair of each data set."""

import sys
from pathlib import Path

import pytest

from clouds.data.datasets.catalog import register_datasets
from clouds.engine import setup
from clouds.errors import UserError
from tests.data.conftest import write_generated
from tests.engine.conftest import CfgNode, write_images

OPENED: list[str] = []
sys.addaudithook(lambda event, args: OPENED.append(str(args[0])) if event == "open" else None)


@pytest.fixture
def camp(tiny_cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    """A config with a set of a plug-in (`tiny_train`), a custom one, and a generated one."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_images(tmp_path / "own", 4)
    write_generated(tmp_path, 3)
    (tmp_path / "own.yaml").write_text(
        "{name: own, splits: {all: {images: images/*.png, labels: labels/*_labelTrainIds.png}}, "
        "classes: [{name: road, color: [200, 40, 40]}, {name: grass, color: [40, 200, 40]}, "
        "{name: sky, color: [40, 40, 200]}]}"
    )
    tiny_cfg.DATASETS.CUSTOM = (str(tmp_path / "own.yaml"),)
    tiny_cfg.DATASETS.TRAIN = ("tiny_train", "own_all", "sd_mine")
    register_datasets(custom=tiny_cfg.DATASETS.CUSTOM)
    return tiny_cfg


def test_by_default_one_pair_of_each_labelled_set_is_opened(camp: CfgNode, tmp_path: Path) -> None:
    OPENED.clear()
    setup.refuse_broken_sets(camp)
    assert len({path for path in OPENED if path.endswith(".png")}) == 2 * 3
    setup.refuse_broken_sets(camp, full=True)
    assert len({path for path in OPENED if path.endswith(".png")}) == 2 * 6 + 2 * 3 + 2 * 4 + 3


def test_damage_is_found_on_request(camp: CfgNode, tmp_path: Path) -> None:
    damaged = tmp_path / "stable_diffusion/sd_mine/images/im_0_p0.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    setup.refuse_broken_sets(camp)
    for full in (True, False):  # the second time because the first one is known
        with pytest.raises(UserError, match=r"^The data set sd_mine has 1 problem.*, or train .* with --force\.$"):
            setup.refuse_broken_sets(camp, full=full)
