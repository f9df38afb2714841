"""The parts of the source sets: disjoint, complete, and of the files of their data set."""

from pathlib import Path

import numpy as np
import pytest

from clouds.data.datasets.builtin import BUILTIN_DATASETS, GTA5_OMITTED
from clouds.data.datasets.catalog import domain, load_dataset, register_datasets
from clouds.data.datasets.selection import HELD_OUT_CITIES, PARTS, fit_part, overlap, whole_of
from clouds.data.loading.rare_classes import labelled_counts
from clouds.data.preparation.check import find_problem
from clouds.data.preparation.converters import convert_folder
from clouds.data.preparation.prepare import choose
from clouds.errors import UserError
from tests.data.conftest import save, smooth_image
from tests.data.official import palette_png

CITIES = {
    "aachen": 174,
    "bochum": 96,
    "bremen": 316,
    "cologne": 154,
    "darmstadt": 85,
    "dusseldorf": 221,
    "erfurt": 109,
    "hamburg": 248,
    "hanover": 196,
    "jena": 119,
    "krefeld": 99,
    "monchengladbach": 94,
    "strasbourg": 365,
    "stuttgart": 196,
    "tubingen": 144,
    "ulm": 95,
    "weimar": 142,
    "zurich": 122,
}
IDS = {
    "gta5": [name for name in (f"{number:05d}" for number in range(1, 24967)) if name not in GTA5_OMITTED],
    "synthia": [f"{number:07d}" for number in range(9400)],
    "urbansyn": [f"{number:04d}" for number in range(1, 7540)],
    "cityscapes_train": [f"{city}_{number:06d}_000019" for city, count in CITIES.items() for number in range(count)],
}
WHOLES = {spec.name: spec for spec in BUILTIN_DATASETS if spec.name in IDS}


@pytest.mark.parametrize("whole", IDS)
def test_two_parts_make_the_whole(whole: str) -> None:
    assert len(IDS[whole]) == WHOLES[whole].num_pairs
    parts = {name: part for name, part in PARTS.items() if part.whole == whole}
    assert {name.rpartition("_")[2] for name in parts} == {"fit", "holdout"}
    found = {name: [image_id for image_id in IDS[whole] if part.has(image_id)] for name, part in parts.items()}
    fit, held_out = found.values()
    assert not set(fit) & set(held_out) and len(fit) + len(held_out) == len(IDS[whole])
    assert {name: len(ids) for name, ids in found.items()} == {name: part.num_pairs for name, part in parts.items()}
    assert 300 <= len(held_out) <= 500


def test_whole_blocks_and_cities_are_held_out() -> None:
    held_out = {name: part for name, part in PARTS.items() if part.held_out}
    numbers = [int(image_id) for image_id in IDS["gta5"] if held_out["gta5_holdout"].has(image_id)]
    assert sorted({number // 100 for number in numbers}) == [25, 75, 125, 175, 225]
    cities = {name.split("_")[0] for name in IDS["cityscapes_train"] if held_out["cityscapes_holdout"].has(name)}
    assert cities == set(HELD_OUT_CITIES)
    assert not held_out["gta5_holdout"].has("a photo")


def test_parts_overlap_with_their_whole_only() -> None:
    assert overlap("gta5", "gta5_holdout") and overlap("gta5_fit", "gta5")
    assert not overlap("gta5_fit", "gta5_holdout") and not overlap("gta5", "gta5")
    assert not overlap("synthia_fit", "gta5") and not overlap("cityscapes_val", "cityscapes_holdout")
    assert (whole_of("cityscapes_fit"), whole_of("bdd_val")) == ("cityscapes_train", "bdd_val")
    assert fit_part("cityscapes_holdout") == "cityscapes_fit"


@pytest.fixture
def gta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with four images of GTA5, the second and the third of which are held out."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for number in (2499, 2500, 2599, 2600):
        save(tmp_path / f"gta5/images/{number:05d}.png", smooth_image(number))
        palette_png(tmp_path / f"gta5/labels/{number:05d}.png", np.full((40, 64), 7))
    convert_folder("gta", tmp_path / "gta5")
    register_datasets(tmp_path)
    return tmp_path


def test_parts_are_data_sets_of_the_domain(gta: Path) -> None:
    ids = {name: [record["image_id"] for record in load_dataset(name)] for name in ("gta5_fit", "gta5_holdout")}
    assert ids == {"gta5_fit": ["02499", "02600"], "gta5_holdout": ["02500", "02599"]}
    assert all(record in load_dataset("gta5") for record in load_dataset("gta5_holdout"))
    assert {name: domain(name) for name in PARTS} == {name: domain(part.whole) for name, part in PARTS.items()}
    assert domain("gta5_fit") == "gta5" and domain("cityscapes_holdout") == "cityscapes"
    (gta / "lists").mkdir()
    (gta / "lists/gta5.txt").write_text("gta5/images/02500.png\tgta5/labels/02500_labelTrainIds.png\n")
    register_datasets(gta)
    assert [record["image_id"] for record in load_dataset("gta5_holdout")] == ["02500"]
    with pytest.raises(UserError, match="gta5_fit has no images"):
        load_dataset("gta5_fit")


def test_parts_share_the_check_and_the_statistics(gta: Path) -> None:
    assert [files.name for files in choose(["gta5"])] == ["gta5"]
    assert [files.name for files in choose(["gta5_fit", "gta5_holdout"])] == ["gta5"]
    assert not {files.name for files in choose()} & PARTS.keys()
    records = [("gta5_holdout", load_dataset("gta5_holdout"))]
    assert labelled_counts(records) == {0: {0: 2560}, 1: {0: 2560}}
    (gta / "gta5/labels/02500_labelTrainIds.png").unlink()
    assert "The data set gta5 has" in find_problem(["gta5_fit", "gta5_holdout"])
