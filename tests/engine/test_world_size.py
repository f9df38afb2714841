"""Shares of a batch that differ in kind, and runs that change their number of processes, compared with one process."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from clouds.d2 import comm
from clouds.data.loading.samplers import SAMPLER_REGISTRY, TrainingSampler
from clouds.engine.launch import launch
from clouds.engine.run.output_folder import release
from clouds.errors import UserError
from tests.engine.joint import JOINT
from tests.engine.test_processes import HEAD, change, distance, flags, train
from tests.engine.test_processes import folder as folder

pytestmark = pytest.mark.slow


class Ordered(TrainingSampler):
    """Every epoch in the same order, so that it is known which process gets which image."""

    # Of nine images, six are labelled and three generated. Of six, those with even numbers can be void.
    orders = {9: [0, 6, 1, 7, 2, 8, 3, 4, 5], 6: [0, 1, 2, 4, 3, 5]}

    def order(self, epoch: int) -> np.ndarray:
        return np.array(self.orders[self.size])


if "Ordered" not in SAMPLER_REGISTRY:
    SAMPLER_REGISTRY.register(Ordered)

BASE = [*("SOLVER.IMS_PER_BATCH", 2, "DATALOADER.SAMPLER_TRAIN", "Ordered")]
LINEAR = [HEAD, "OriginalMultiScaleMaskedTransformerDecoder", "MODEL.BACKBONE.NAME", "CLIP"]
CASES = {
    # The second process has generated images only.
    "generated": [*JOINT, *BASE],
    # First one process has an image without a label, then both; then the first one cannot read its image.
    "void": [*LINEAR, *BASE, "DATASETS.TRAIN", ("plugin_void",), "DATALOADER.ON_ERROR", "skip"],
}
# Six images: the third batch goes from one epoch to the next.
RESUMED = [*LINEAR, "SOLVER.IMS_PER_BATCH", 4]


def part_of_run(place: Path, end: int, resume: bool) -> None:
    result = train(place, place / "run", [*RESUMED, "SOLVER.MAX_ITER", end], resume=resume)
    torch.save(result, place / "run" / f"until-{end}-{comm.get_rank()}.pt")


@pytest.fixture
def data(folder: Path) -> Iterator[Path]:
    """The folder of `test_processes` with one test image, fewer than processes."""
    for number in (1, 2):
        (folder / f"data/val/images/{number}.png").unlink()
        (folder / f"data/val/labels/{number}_labelTrainIds.png").unlink()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)


def results(place: Path, name: str, processes: int) -> list[dict]:
    return [torch.load(place / f"{name}{rank}.pt", weights_only=False) for rank in range(processes)]


def merged(parts: list[dict]) -> list[list[str]]:
    """Images of each step, in the order of the draws."""
    steps = zip(*(part["seen"] for part in parts), strict=True)
    return [[image for together in zip(*shares, strict=True) for image in together] for shares in steps]


def test_any_share_of_a_batch_is_as_one_process(data: Path) -> None:
    (data / "data/void/images/3.png").write_bytes(b"no image")
    for name, processes in (("two", 2), ("one", 1)):
        launch(shares, flags(processes), "cpu", (data, name))
    for case in CASES:
        (one,) = results(data, f"one/{case}/", 1)
        two = results(data, f"two/{case}/", 2)
        assert merged(two) == one["seen"], case
        assert two[0]["losses"] == two[1]["losses"]
        for step, losses in enumerate(one["losses"]):
            assert two[0]["losses"][step] == pytest.approx(losses, rel=1e-4, abs=1e-6), (case, step)
        assert distance(two[0]["gradient"], one["gradient"]) < 1e-3, case
        assert distance(change(two[0]), change(one)) < 1e-3, case
        assert all(torch.equal(two[0]["weights"][key], two[1]["weights"][key]) for key in one["weights"]), case
        assert two[0]["results"] == one["results"] and two[1]["results"] == {}
        assert [len(each["answers"]) for each in two] in ([0, 1], [1, 0]), "one process has no test image"
    void = torch.load(data / "one/void/0.pt", weights_only=False)["losses"]
    assert [step["loss_mask"] == 0 for step in void] == [False, True, False]
    lists = [(data / name / "void/skipped.jsonl").read_text() for name in ("one", "two")]
    assert lists[0] == lists[1]
    assert json.loads(lists[0])["iteration"] == 2


def shares(place: Path, name: str) -> None:
    for case, opts in CASES.items():
        out = place / name / case
        torch.save(train(place, out, opts), out / f"{comm.get_rank()}.pt")


def test_two_then_one_then_two_processes_see_every_image_once(data: Path) -> None:
    (data / "straight").mkdir()
    straight = train(data, data / "straight", [*RESUMED, "SOLVER.MAX_ITER", 6])
    seen = []
    for end, processes in ((2, 2), (4, 1), (6, 2)):
        launch(part_of_run, flags(processes), "cpu", (data, end, end > 2))
        release(data / "run")  # a single process is this one
        parts = results(data, f"run/until-{end}-", processes)
        seen += merged(parts)
    assert seen == straight["seen"]
    images = [image for step in seen for image in step]
    assert len(images) == 24
    for epoch in range(4):
        assert len(set(images[6 * epoch : 6 * epoch + 6])) == 6, "every image of an epoch once"
    assert distance(change({**parts[0], "before": straight["before"]}), change(straight)) < 1e-3


def joint(place: Path) -> None:
    train(place, place / "joint", CASES["generated"])


def test_an_image_that_is_broken_ahead_of_its_step_ends_all_processes(data: Path) -> None:
    (data / "data/train/images/1.png").write_bytes(b"no image")  # of the first process, in the second step
    with pytest.raises(UserError, match=r"images/1\.png is "):
        launch(joint, flags(2), "cpu", (data,))
