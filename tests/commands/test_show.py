"""clouds show: the files it writes, and its errors."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from clouds.commands import show
from clouds.d2 import DatasetCatalog, MetadataCatalog
from tests.data.conftest import save, smooth_image, write_generated, write_gta5
from tests.data.official import palette_png

ROOT = Path(__file__).resolve().parents[2]
GTA = str(ROOT / "configs/warmup/gta/train_gta.yaml")
NAMES = [f"class <{number}>" for number in range(30)]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with three images of GTA5 and three generated ones."""
    write_gta5(tmp_path / "data", 3)
    write_generated(tmp_path / "data", 3)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    before = dict(DatasetCatalog), dict(MetadataCatalog)
    yield tmp_path
    for catalog, entries in zip((DatasetCatalog, MetadataCatalog), before, strict=True):
        catalog.clear()
        catalog.update(entries)


def test_sheets_of_several_sets(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show.main(["gta5", "sd_mine", "--images", "2"]) == 0
    assert capsys.readouterr().out.split() == ["gta5_images.png", "sd_mine_images.png"]
    labelled, generated = (Image.open(place / f"{name}_images.png").size for name in ("gta5", "sd_mine"))
    assert labelled[0] == 2 * 24 + 6 * 290 - 10  # image, label map and overlay of both
    assert generated[0] == 2 * 24 + 2 * 290 - 10


def test_a_page_before_and_after_the_augmentation(place: Path) -> None:
    flags = ["--config-file", GTA, "--augmented", "--images", "1", "--output", "page.html"]
    crop = ["INPUT.INITIAL_HEIGHT", "40", "INPUT.INITIAL_WIDTH", "64", "INPUT.CROP_SIZE", "(32, 48)"]
    assert show.main(["gta5", "sd_mine", *flags, *crop]) == 0
    page = (place / "page.html").read_text()
    assert page.count("<img ") == 12 + 7
    assert page.count("48 x 32 pixels, as the network sees it") == 2 * 3
    assert page.count("as the teacher sees it") == 2 * 3
    assert "<dt>Crop</dt><dd>48 x 32 pixels</dd>" in page
    assert page.count('<p class="file">/') == 2  # a remark would begin with a capital, "/Data/gta5"
    assert "<script" not in page and not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_a_set_of_ones_own_into_a_folder(place: Path) -> None:
    """30 classes, label maps with a palette, and an image without a label map in another split."""
    for number in range(2):
        save(place / f"own/im/{number}.png", smooth_image(number))
        palette_png(place / f"own/lab/{number}.png", np.full((40, 64), 29 - number, np.uint8))
    save(place / "own/test/a.png", smooth_image(5))
    described = {
        "name": "own",
        "folder": str(place / "own"),
        "splits": {"train": {"images": "im/*.png", "labels": "lab/*.png"}, "test": {"images": "test/*.png"}},
        "classes": [{"name": name, "color": [number, 9, 9]} for number, name in enumerate(NAMES)],
    }
    (place / "own.yaml").write_text(yaml.safe_dump(described))
    assert show.main(["--dataset", "own.yaml", "--output", "sheets"]) == 0
    assert {path.name for path in (place / "sheets").iterdir()} == {
        *("own_train_images.png", "own_test_images.png", "data_sets.html")
    }
    page = (place / "sheets/data_sets.html").read_text()
    assert "class &lt;29&gt; 50.0 %" in page and "class <29>" not in page
    assert "Without a pixel: class &lt;0&gt;, " in page


def test_the_training_sets_of_a_config(place: Path) -> None:
    assert show.main(["--config-file", GTA, "--names", "00002", "--output", "one.png"]) == 0
    assert (place / "one.png").is_file()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Name a data set, such as cityscapes_val, or give --config-file or --dataset."),
        (["gta5", "--augmented"], "--augmented shows the augmentation of a config: give it as --config-file."),
        (["gta6"], "There is no data set called 'gta6': did you mean gta5?"),
        (["gta5", "sd_mine", "--output", "a.png"], "--output a.png is one image, and there are 2 data sets: "),
        (["gta5", "--output", "a.jpg"], "--output a.jpg ends in .jpg: give a folder, or a file *.png or *.html."),
        (["gta5", "--names", "x"], "--names has x, which no image of the data set is called: the first is "),
        (["gta5", "INPUT.FLIPP", "True"], "Unknown config key INPUT.FLIPP on the command line"),
        (["--config-file", "no.yaml"], "Config file no.yaml"),
    ],
)
def test_mistakes(sentence: Callable[..., str], argv: list[str], message: str) -> None:
    assert sentence(show.main, *argv).startswith(message)


def test_a_damaged_file(place: Path, sentence: Callable[..., str]) -> None:
    for path in (place / "data/gta5/labels").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    assert "The label map " in sentence(show.main, "gta5")
    assert not list(place.glob("*.png"))
