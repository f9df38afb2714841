"""The Python modules in datasets/README.md work as they are printed."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from clouds.d2 import CfgNode
from clouds.data.datasets.catalog import load_dataset, register_datasets
from clouds.data.loading.loaders import build_test_loader
from tests.data.conftest import label_map, save, smooth_image

README = Path(__file__).resolve().parents[3] / "datasets/README.md"
MODULES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL))


@pytest.fixture
def module(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    (tmp_path / f"{name}.py").write_text(MODULES[name])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


@pytest.mark.parametrize("module", ["my_streets"], indirect=True)
def test_pairs(module: str, tmp_path: Path) -> None:
    save(tmp_path / "my_streets/images/a/1.jpg", smooth_image(0))
    save(tmp_path / "my_streets/labels/1.png", label_map(0))
    register_datasets(tmp_path, [module])
    assert [record["image_id"] for record in load_dataset("my_streets_val")] == ["1"]


@pytest.mark.parametrize("module", ["my_arrays"], indirect=True)
@pytest.mark.parametrize("workers", [0, 1])
def test_encodings(module: str, workers: int, tmp_path: Path, cfg: CfgNode) -> None:
    save(tmp_path / "my_arrays/1.jpg", smooth_image(0))
    np.savez(tmp_path / "my_arrays/1_labels.npz", train_ids=label_map(0))
    ids = np.resize(np.array([7, 8, 9], np.uint8), (40, 64))
    save(tmp_path / "my_arrays/1_ids.png", ids)
    register_datasets(tmp_path, [module])
    cfg.DATALOADER.NUM_WORKERS = workers
    for name, expected in (
        ("my_arrays_val", label_map(0)),
        ("my_ids_val", np.resize(np.array([0, 1, 255]), (40, 64))),
    ):
        ((sample,),) = build_test_loader(cfg, name)
        np.testing.assert_array_equal(sample["sem_seg"].numpy(), expected)
