"""The command ``clouds predict`` with ``--dataset``: a YAML file names the classes to predict."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clouds
from clouds.commands import predict

DATASET = """
name: mine
splits: {{val: {{images: "*.png"}}}}
classes:
  - {{name: "{}", color: [10, 20, 30], values: [0]}}
  - {{name: lawn, color: [40, 50, 60], values: [1]}}
  - {{name: sky, color: [70, 80, 90], values: [2]}}
encoding: ids
"""


@pytest.mark.parametrize("head", ["closed", "text"])
@pytest.mark.parametrize("place", ["run", "shared", "shared, without --config-file"])
def test_the_classes_of_a_file(
    request: pytest.FixtureRequest,
    head: str,
    place: str,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A folder of save_pretrained records its classes; those of the file take their place."""
    folder, weights = request.getfixturevalue(head), "model_final.pth"
    if place != "run":
        clouds.load(folder, device="cpu").save_pretrained(tmp_path / "shared")
        folder, weights = tmp_path / "shared", "model.safetensors"
    (tmp_path / "mine.yaml").write_text(DATASET.format("highway"))
    words = ["--dataset", str(tmp_path / "mine.yaml"), str(images[0]), "--output", str(tmp_path / "out")]
    words += ["MODEL.DEVICE", "cpu"]
    if place.endswith("without --config-file"):
        words = ["--model", str(folder), *words]
    else:
        words = ["--config-file", str(folder / "config.yaml"), *words, "MODEL.WEIGHTS", str(folder / weights)]
    code = predict.main(words)
    if head == "closed":
        assert code == 2
        assert "The network was trained on other classes than" in capsys.readouterr().err
        return
    assert code == 0
    model = clouds.load(folder, device="cpu")
    expected = model.predict(images[0], classes=["highway", "lawn", "sky"]).labels
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/0_labels.png")), expected)
