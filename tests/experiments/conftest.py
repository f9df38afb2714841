"""A finished experiment that is as small as it gets."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds.d2 import DatasetCatalog, MetadataCatalog
from clouds.data.datasets.catalog import register
from clouds.experiments.plan import Variant
from clouds.experiments.report import Report
from clouds.experiments.results import read_results

HOSTILE = "</td><script>alert('\"&amp;')</script>"
"""Name of a class."""
CLASSES = ("road", HOSTILE)
TEST_SETS = ("experiment_day_val", "experiment_night_val")


def write_image(path: Path, pixels: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return str(path)


def write_run(folder: Path, scores: dict[str, list[float]], **metrics: float) -> None:
    """`scores`: test set -> mIoU, fwIoU and the IoU of each class."""
    folder.mkdir(parents=True)
    names = ("mIoU", "fwIoU", *(f"IoU-{name}" for name in CLASSES))
    last = {f"{each}/sem_seg/{k}": v for each, values in scores.items() for k, v in zip(names, values, strict=True)}
    rows = [{"iteration": step, "total_loss": 9.0 - step, **metrics} for step in range(3)]
    lines = map(json.dumps, [*rows, {"iteration": 3, **last}])
    (folder / "metrics.json").write_text("".join(f"{line}\n" for line in lines))


@contextmanager
def runs_in(folder: Path) -> Iterator[None]:
    """Write data and runs: two variants, three seeds, two test sets of two images, which are registered meanwhile."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(2, dtype=np.uint8), (8, 8))
    for name in TEST_SETS:
        records = []
        for index in range(2):
            image = write_image(folder / name / f"{index}.png", rng.integers(0, 256, (8, 16, 3), dtype=np.uint8))
            label = write_image(folder / name / f"{index}_label.png", labels)
            records.append({"file_name": image, "sem_seg_file_name": label, "image_id": str(index)})
        register(name, lambda records=records: records, classes=CLASSES, colors=((128, 64, 128), (0, 0, 142)))
    for seed in (1, 2, 3):
        # The first test set, which the networks are trained on, is the easier one.
        plain = {n: [20.25 + seed + gain, 60.0, 30.0, 10.5] for n, gain in zip(TEST_SETS, (5, 0), strict=True)}
        joint = {
            n: [30.5 + 1.1 * seed + gain, 60.0 + (-1) ** seed, 40.0, 21.25]
            for n, gain in zip(TEST_SETS, (9, 0), strict=True)
        }
        write_run(folder / f"runs/plain/seed{seed}", plain)
        write_run(folder / f"runs/joint/seed{seed}", joint, **{"pseudo_labels/kept": 87.65})
    run = folder / "runs/joint/seed1"
    write_image(run / "pseudo_label_panels/00000001.png", np.zeros((4, 4, 3), np.uint8))
    for name in TEST_SETS:
        write_image(run / f"pseudo_labels/{name}/0_labelTrainIds.png", labels)
    row = {"file_name": "images/im_0_p0.png", "prompt": "a street & a <bus>", "prompt_index": 0, "seed": 1}
    row |= {"index": 0, "attempt": 0, "batch": [0], "height": 4, "width": 8, "similarity": None, "dhash": "0" * 16}
    row |= {"size": 1, "sha256": "0" * 64}
    write_image(folder / "generated/images/im_0_p0.png", np.full((4, 8, 3), 99, np.uint8))
    (folder / "generated/manifest.jsonl").write_text(json.dumps(row) + "\n")
    yield
    for name in TEST_SETS:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def report_of(folder: Path) -> Report:
    """Return the report of the runs that `runs_in` has written."""
    results = read_results(
        [
            Variant("plain", "plain training", Path("a.yaml"), group="first"),
            Variant("joint", "joint training", Path("b.yaml"), after="plain", group="second"),
        ],
        [1, 2, 3],
        folder / "runs",
        test_sets=TEST_SETS,
        unseen=TEST_SETS[1:],
        baselines={"constant": dict.fromkeys(TEST_SETS, 1.75)},
        comparisons=[("joint", "plain"), ("joint", "absent")],
    )
    return Report(
        results=results,
        title="A small experiment",
        subtitle="Three seeds.",
        headings={"experiment_day_val": "day", "experiment_night_val": "night"},
        shown=("plain", "joint"),
        generated=folder / "generated",
        generated_text="One image.",
        facts={"Protocol": "full_resolution"},
        notes=["A note."],
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with runs_in(tmp_path):
        yield tmp_path


@pytest.fixture
def report(folder: Path) -> Report:
    return report_of(folder)


@pytest.fixture
def no_figure_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report has its page and tables only: the fonts of PDF files take most of its time."""
    monkeypatch.setattr("clouds.experiments.report.KINDS", ())
