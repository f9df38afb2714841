"""`Segmenter.predict`: batches, classes, test-time augmentation, and agreement with the commands."""

import dataclasses
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import clouds
from clouds.commands import predict, train
from clouds.data.classes import CITYSCAPES_COLORS
from clouds.errors import UserError
from tests.api.conftest import TEXT_HEAD
from tests.engine.conftest import CLASSES, COLORS
from tests.engine.test_end_to_end import write_config


def test_a_result_has_the_size_of_its_image(model: clouds.Segmenter, images: list[Path]) -> None:
    for path in images:
        result = model.predict(path)
        expected = np.asarray(Image.open(path))
        assert result.labels.shape == expected.shape[:2]
        assert result.labels.dtype == np.uint8
        assert len(np.unique(result.labels)) > 1
        assert (result.image == expected).all()
        assert result.classes == CLASSES
        assert result.colors == model.colors


@pytest.mark.parametrize("scores", [False, True])
def test_a_result_does_not_depend_on_its_batch(
    model: clouds.Segmenter, open_model: clouds.Segmenter, images: list[Path], scores: bool
) -> None:
    for each in (model, open_model):
        alone = [each.predict(path, scores=scores) for path in images]
        for batch_size in (1, 2, 3, 10):
            together = each.predict(images, batch_size=batch_size, scores=scores)
            for one, other in zip(alone, together, strict=True):
                assert (one.labels == other.labels).all()
                if scores:
                    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


def test_images_of_one_size_share_a_forward_pass(
    model: clouds.Segmenter, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, backbone = [], model.network.backbone
    forward = backbone.forward
    monkeypatch.setattr(backbone, "forward", lambda x: passes.append(tuple(x.shape)) or forward(x))
    model.predict(images, batch_size=2)
    # In the network, the sizes of the images are 48 x 72, 72 x 48, 48 x 48, and the next ones again.
    assert sorted(passes) == [(2, 3, 64, 64), (2, 3, 64, 96), (2, 3, 96, 64)]


def test_scores(model: clouds.Segmenter, images: list[Path]) -> None:
    for path in images[:3]:
        result = model.predict(path, scores=True)
        assert result.scores.shape == (3, *result.labels.shape)
        np.testing.assert_allclose(result.scores.sum(axis=0), 1, atol=1e-5)
        assert result.scores.min() >= 0
        assert (result.scores.argmax(axis=0) == result.labels).all()
        assert (result.labels == model.predict(path).labels).all()
        np.testing.assert_allclose(np.take_along_axis(result.scores, result.labels[None].astype(int), 0)[0],
                                   result.confidence)  # fmt: skip
        assert_shares(result.scores, raw_scores(model, path))


def assert_shares(found: np.ndarray, raw: np.ndarray, atol: float = 1e-6) -> None:
    """Compare shares with scores (K, H, W) where these are numbers with all their bits."""
    total = raw.sum(axis=0)
    exact = total > 1e-30
    assert exact.mean() > 0.5
    np.testing.assert_allclose(found[:, exact], (raw / np.where(exact, total, 1))[:, exact], atol=atol)


def raw_scores(
    model: clouds.Segmenter, path: Path, short_edge: int = 48, flip: bool = False, output: int = 0
) -> np.ndarray:
    """Return the scores (K, H, W) of the network itself, for an image whose shorter edge is resized.

    With `output` they have this size, (K, output, output).
    """
    image = Image.open(path)
    factor = short_edge / min(image.size)
    size = [int(length * factor + 0.5) for length in image.size]
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    pixels = torch.from_numpy(np.ascontiguousarray(pixels[..., ::-1] if flip else pixels))
    with torch.no_grad():
        [output] = model.network([{"image": pixels, "height": output or image.height, "width": output or image.width}])
    scores = output["sem_seg"].numpy()
    return scores[..., ::-1] if flip else scores


def test_augmentation_averages_six_views(model: clouds.Segmenter, images: list[Path]) -> None:
    for path in (images[2], images[4]):  # squares: sizes are multiples of the short edge
        views = [raw_scores(model, path, edge, flip, 48) for edge in (36, 48, 60) for flip in (False, True)]
        result = model.predict(path, tta=True, scores=True)
        mean = F.interpolate(torch.from_numpy(np.mean(views, axis=0))[None], result.labels.shape, mode="bilinear")[0]
        mean = mean.numpy()
        assert_shares(result.scores, mean, atol=1e-4)
        assert (result.labels == mean.argmax(axis=0)).mean() > 0.999
        assert (result.labels == model.predict(path, tta=True).labels).all()
        assert np.abs(result.scores - model.predict(path, scores=True).scores).max() > 0.01


def test_augmentation_is_symmetric(model: clouds.Segmenter, images: list[Path]) -> None:
    """The views of a mirror image are the views of the image, mirrored."""
    pixels = np.asarray(Image.open(images[4]))  # its size is that of the input: resizing is no matter of the side
    one, other = model.predict([pixels, pixels[:, ::-1]], tta=True, scores=True)
    np.testing.assert_allclose(one.scores, other.scores[..., ::-1], atol=1e-4)


def test_open_vocabulary(open_model: clouds.Segmenter, images: list[Path]) -> None:
    names = ["car,cars", "unicorn", "sky", "the moon,a moon"]
    result = open_model.predict(images[0], classes=names, scores=True)
    assert result.classes == tuple(names)
    assert len(result.scores) == 4
    assert result.colors[0] == CITYSCAPES_COLORS[13]
    assert result.colors[2] == CITYSCAPES_COLORS[10]
    assert len(set(result.colors)) == 4
    assert set(result.area) == {"car", "unicorn", "sky", "the moon"}
    again = open_model.predict(images[0], scores=True)
    assert again.classes == CLASSES
    same = open_model.predict(images[0], classes=CLASSES, scores=True)
    assert (same.scores == again.scores).all()
    # The order of the names is the order of the scores.
    turned = open_model.predict(images[0], classes=names[::-1], scores=True)
    np.testing.assert_allclose(turned.scores[::-1], result.scores, atol=1e-5)


def test_the_ensemble_knows_which_of_the_names_were_trained(
    text: Path, open_model: clouds.Segmenter, images: list[Path]
) -> None:
    """Other weights of CLIP for classes of the training change a prediction that has such a class, and no other one."""
    model = clouds.load(text, options=["MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_ALPHA", 1.0], device="cpu")
    for names, changes in ((["street", "car"], True), (["truck", "car"], False)):
        one, other = (each.predict(images[0], classes=names, scores=True).scores for each in (model, open_model))
        assert (np.abs(one - other).max() > 1e-4) == changes


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ([], r"The classes are 0: give a list of 1 to 255 names"),
        ([f"class {number}" for number in range(256)], r"The classes are 256: give"),
        ("car", r"The classes are 'car': give a list"),
        (3, r"The classes are 3: give a list"),
        (["car", ""], r"The classes have the name '': give"),
        (["car", "bus,"], r"The classes have the name 'bus,': give"),
        (["car", 3], r"The classes have the name 3: give"),
        (["car", "bus", "car,cars"], r"The classes have the name 'car' twice: give each class a name of its own"),
    ],
)
def test_class_names_that_are_none(
    open_model: clouds.Segmenter, images: list[Path], classes: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        open_model.predict(images[0], classes=classes)


def test_a_head_without_text_says_which_classes_it_knows(model: clouds.Segmenter, images: list[Path]) -> None:
    for names in (["unicorn"], ["sky"], list(CLASSES)):
        with pytest.raises(UserError) as error:
            model.predict(images[0], classes=names)
        assert str(error.value) == (
            "This network has a head without text, which predicts the classes of its training only (road, grass, "
            "sky): leave out classes, or load a network with a text head."
        )


def test_other_arguments(model: clouds.Segmenter, images: list[Path]) -> None:
    for size in (0, -1, 1.5, "2", None, True):
        with pytest.raises(UserError, match=f"batch_size is {size!r}: give a whole number from 1"):
            model.predict(images, batch_size=size)
    assert repr(model) == "Segmenter(CLOUDS on cpu, 3 classes: road, grass, sky)"


def test_a_service_keeps_the_embeddings_of_few_class_lists(open_model: clouds.Segmenter, images: list[Path]) -> None:
    kept = open_model.network.backbone._text_classifiers
    for number in range(20):
        open_model.predict(images[0])
        open_model.predict(images[0], classes=[f"class {number}"])
    assert len(kept) == 16
    assert list(kept)[-2:] == [CLASSES, ("class 19",)]


def test_threads_share_a_network(open_model: clouds.Segmenter, images: list[Path]) -> None:
    lists = [[f"class {number}", "sky"] for number in range(6)]
    expected = [open_model.predict(images[0], classes=names, scores=True).scores for names in lists]
    open_model.network.backbone._text_classifiers.clear()
    before = torch.get_float32_matmul_precision()
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda names: open_model.predict(images[0], classes=names, scores=True), lists))
    assert all((result.scores == scores).all() for result, scores in zip(results, expected, strict=True))
    assert torch.get_float32_matmul_precision() == before


def test_networks_and_results_can_be_pickled(open_model: clouds.Segmenter, images: list[Path]) -> None:
    result = open_model.predict(images[0], scores=True)
    again = pickle.loads(pickle.dumps(open_model)).predict(images[0], scores=True)
    for other in (again, pickle.loads(pickle.dumps(result))):
        assert (other.labels == result.labels).all()
        assert (other.scores == result.scores).all()
        assert (other.classes, other.colors) == (result.classes, result.colors)


def test_lack_of_memory_is_one_sentence(
    model: clouds.Segmenter, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(*_: object) -> None:
        torch.empty(1 << 50)

    monkeypatch.setattr(model.network.backbone, "forward", allocate)
    with pytest.raises(
        UserError, match=r"The memory is not sufficient.*: lower INPUT\.TEST_MAX_PIXELS.*number of images"
    ):
        model.predict(images[0])
    monkeypatch.setattr(model.network.backbone, "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.predict(images[0])


def copy_as_sample(image: Path, folder: Path) -> None:
    """Copy an image to ``images``, and write a label map of its size to ``labels``."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(image, folder / "images")
    height, width = np.asarray(Image.open(image)).shape[:2]
    Image.fromarray(np.zeros((height, width), np.uint8)).save(folder / f"labels/{image.stem}_labelTrainIds.png")


@pytest.mark.parametrize("folder", ["closed", "text"])
def test_it_agrees_with_the_commands_on_every_pixel(
    request: pytest.FixtureRequest,
    folder: str,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    for split in ("train", "val"):
        for path in images:
            copy_as_sample(path, tmp_path / "data" / split)
    monkeypatch.syspath_prepend(tmp_path)
    run: Path = request.getfixturevalue(folder)
    config = write_config(tmp_path / "c.yaml", plugin=f"plugin_of_{folder}")
    options = [] if folder == "closed" else list(TEXT_HEAD)
    words = ["MODEL.WEIGHTS", str(run / "model_final.pth"), *options]
    output = ["OUTPUT_DIR", str(tmp_path / "eval"), "MODEL.SAVE_PSEUDO_LABELS", "True"]
    assert train.main(["--config-file", str(config), "--eval-only", *words, *output]) == 0
    flags = ["--config-file", str(config), str(images[0].parent), "--output", str(tmp_path / "out")]
    assert predict.main([*flags, *words]) == 0
    capsys.readouterr()
    model = clouds.load(run, device="cpu")
    seen = set()
    for path, result in zip(images, model.predict(images, batch_size=2), strict=True):
        evaluated = Image.open(tmp_path / f"eval/pseudo_labels/plugin_val/{path.stem}_labelTrainIds.png")
        assert (result.labels == np.asarray(evaluated)).all()
        result.save(tmp_path / "mine.png")
        assert (tmp_path / "mine.png").read_bytes() == (tmp_path / f"out/{path.stem}_labels.png").read_bytes()
        dataclasses.replace(result, colors=COLORS).overlay().save(tmp_path / "mine.jpg", quality=90)
        assert (tmp_path / "mine.jpg").read_bytes() == (tmp_path / f"out/{path.stem}_overlay.jpg").read_bytes()
        seen |= set(np.unique(result.labels))
    assert len(seen) > 1
