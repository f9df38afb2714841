"""Report on a set of this program and on a set of another one."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds.errors import UserError
from clouds.generation.statistics import report
from tests.generation.test_run import run


def write_image(path: Path, width: int = 40, height: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)).save(path)


def test_a_set_of_ours(tmp_path: Path) -> None:
    target = run(tmp_path / "mine", images=7)
    text = report(target.folder)
    assert "mine: 7 images" in text
    assert "7 of 20x12 (width x height)" in text
    assert "prompts: 3 of 3 have images; images per prompt: min 2, median 2, max 3" in text
    assert "manifest: 7 rows" in text
    assert "damaged" not in text
    with Image.open(target.folder / "contact_sheet.jpg") as sheet:
        assert sheet.width > 1400
    (target.image_folder / "im_5_p0.png").with_suffix(".jpg").mkdir()  # a folder is no image
    # Damaged, missing and additional files are reported.
    for name in ("im_1_p1.png", "im_4_p1.png"):
        (target.image_folder / name).unlink()
    (target.image_folder / "im_2_p2.png").write_bytes(b"no image")
    write_image(target.image_folder / "im_90_p2.png")
    target.rejected_file.write_text(
        "".join(json.dumps({"index": i, "reason": f"blank (contrast {i}.5 of 255)"}) + "\n" for i in range(3))
    )
    text = report(target.folder)
    assert "  no image: 1 a bus" in text
    assert "3 in the manifest, but missing or damaged, first images/im_1_p1.png" in text
    assert "1 present, but not in the manifest, first images/im_90_p2.png" in text
    assert f"damaged: The image {target.image_folder / 'im_2_p2.png'} is a text file that begins with" in text
    assert "3 generated and rejected: blank" in text


def test_a_set_of_others(tmp_path: Path) -> None:
    write_image(tmp_path / "images/im_0_p0.png")
    write_image(tmp_path / "images/im_7_p3.png", 50, 50)
    write_image(tmp_path / "images/deep/photo.jpg")
    text = report(tmp_path)
    assert "prompts: 2 of 4 or more have images" in text
    assert "manifest: none" in text
    assert "2 of 40x30" in text
    assert "1 of 50x50" in text


@pytest.mark.parametrize("make", [False, True])
def test_nothing(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="There is no readable image in"):
        report(tmp_path)
