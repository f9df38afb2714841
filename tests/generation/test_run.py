"""Sets on disk and the run that generates them, with a painter that needs no model."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from clouds.errors import UserError, WriteError
from clouds.generation.dataset import STALE_SECONDS, GeneratedSet
from clouds.generation.gate import Verdict, difference_hash
from clouds.generation.painter import Painted
from clouds.generation.plan import blocks, image_seed
from clouds.generation.records import read_manifest, read_record, read_rejected
from clouds.generation.run import FLAGGED, Run, choose, repaint
from clouds.utils.world import World

PROMPTS = ["a street", "a bus", "snow"]
RECIPE = {"model": "m", "revision": None, "scheduler": "euler", "steps": 2, "guidance": 7.5, "dtype": "fp32"}
SETTINGS = {**RECIPE, "height": None, "width": None, "negative_prompt": "", "fingerprint": "f", "seed": 3, "gate": None}
ALONE = World()


def paint(prompts: Sequence[str], seeds: Sequence[int]) -> list[Painted]:
    """Return noise that depends on the seed; the first pixel depends on the batch size, as rounding does."""
    images = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        pixels = np.random.default_rng([seed, len(prompt)]).integers(0, 256, (12, 20, 3)).astype(np.uint8)
        pixels[0, 0] = len(prompts)
        images.append(Painted(pixels, False))
    return images


def begin(folder: Path, settings: dict[str, object] = SETTINGS, prompts: list[str] = PROMPTS) -> GeneratedSet:
    images = GeneratedSet(folder)
    images.begin(settings, prompts, "cc0-1.0")
    return images


def run(folder: Path, images: int = 10, batch: int = 4, part: int = 0, world: World = ALONE, **changes) -> GeneratedSet:
    target = begin(folder)
    share = blocks(part, images, batch, world)
    settings = {"part": blocks(part, images, batch, World()), **changes}
    Run(target=target, paint=settings.pop("paint", paint), prompts=PROMPTS, seed=3, blocks=share, **settings)()
    target.finish({"seconds": 1.0, "versions": {"torch": "2"}, "rank": world.rank})
    return target


def contents(target: GeneratedSet) -> dict[str, bytes]:
    """Return the bytes of every image and of the manifest."""
    return {path.name: path.read_bytes() for path in [*target.image_folder.iterdir(), target.manifest_file]}


def test_files_and_manifest(tmp_path: Path) -> None:
    target = run(tmp_path / "set", images=4, batch=3)
    names = ["im_0_p0.png", "im_1_p1.png", "im_2_p2.png", "im_3_p0.png"]
    assert sorted(path.name for path in target.image_folder.iterdir()) == names
    rows = read_manifest(target.manifest_file)
    assert [row["file_name"] for row in rows] == [f"images/{name}" for name in names]
    assert [row["prompt"] for row in rows] == [*PROMPTS, PROMPTS[0]]
    assert [row["batch"] for row in rows] == [[0, 1, 2]] * 3 + [[3]]
    assert rows[3]["seed"] == image_seed(3, 3, 0)
    for row in rows:
        data = (target.folder / row["file_name"]).read_bytes()
        assert row["size"] == len(data)
        record = read_record(data)
        assert record is not None
        assert record.items() <= row.items()
    text = (target.folder / "README.md").read_text()
    assert text.startswith("---\nlicense: cc0-1.0\n")
    assert "| images | 4 |" in text
    assert "20x12: 4" in text


def test_parts_and_processes_make_what_one_makes(tmp_path: Path) -> None:
    whole = contents(run(tmp_path / "one", images=12))
    for part in (2, 0, 1):
        target = run(tmp_path / "parts", images=4, part=part)
    assert contents(target) == whole
    for rank in (1, 0, 2):
        target = run(tmp_path / "ranks", images=12, world=World(rank, 3))
    assert contents(target) == whole
    assert len(target.description()["runs"]) == 3


def test_stopped_twice(tmp_path: Path) -> None:
    whole = contents(run(tmp_path / "one"))
    calls = 0

    def stopped(prompts: Sequence[str], seeds: Sequence[int]) -> list[Painted]:
        nonlocal calls
        calls += 1
        if calls in (2, 4):
            raise KeyboardInterrupt
        return paint(prompts, seeds)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "two", paint=stopped)
    assert contents(run(tmp_path / "two", paint=stopped)) == whole
    # Existing images are not generated again.
    calls = 3
    assert contents(run(tmp_path / "two", paint=stopped)) == whole
    assert calls == 3


@pytest.mark.parametrize("harm", ["cut", "empty", "gone", "garbage", "another", "bit"])
def test_damage_is_repaired(tmp_path: Path, harm: str) -> None:
    target = run(tmp_path / "set")
    whole = contents(target)
    victim, other = target.image_folder / "im_5_p2.png", target.image_folder / "im_6_p0.png"
    data = victim.read_bytes()
    if harm == "gone":
        victim.unlink()
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        new = {"cut": data[:-20], "empty": b"", "garbage": b"x" * 99, "another": other.read_bytes(), "bit": flipped}
        victim.write_bytes(new[harm])
    assert contents(run(tmp_path / "set")) == whole
    # Also without a manifest that lists the expected file.
    if harm != "gone":
        victim.write_bytes(new[harm])
        target.manifest_file.unlink()
        assert contents(run(tmp_path / "set")) == whole


def test_what_a_killed_process_leaves(tmp_path: Path) -> None:
    target = run(tmp_path / "set")
    old, young = target.image_folder / "im_1_p1.png.4711.part", target.image_folder / "im_2_p2.png.4712.part"
    for stray in (old, young):
        stray.write_bytes(b"half")
    os.utime(old, (time.time() - STALE_SECONDS - 1,) * 2)
    assert len(read_manifest(run(tmp_path / "set").manifest_file)) == 10
    assert not old.exists()
    assert young.exists()  # another process may still write it


def reject_first(images: Sequence[npt.NDArray[np.uint8]], prompts: Sequence[str]) -> list[Verdict]:
    """Reject images with a bright second pixel, which are about half of them."""
    return [Verdict("bright" if image[0, 1, 0] > 127 else None, 0.5, difference_hash(image)) for image in images]


def test_rejected_images_are_painted_with_the_next_seed(tmp_path: Path) -> None:
    target = run(tmp_path / "set", gate=reject_first, attempts=20)
    rows, rejected = read_manifest(target.manifest_file), read_rejected(target.rejected_file)
    assert [row["index"] for row in rows] == list(range(10))
    assert {row["reason"] for row in rejected} == {"bright"}
    assert len(rejected) > 2
    for row in rows:
        tries = [bad["attempt"] for bad in rejected if bad["index"] == row["index"]]
        assert tries == list(range(row["attempt"]))
        assert row["seed"] == image_seed(3, row["index"], row["attempt"])
        assert row["index"] in row["batch"]
    # The set does not depend on the number of processes, and its manifest reproduces it.
    for rank in (1, 0):
        other = run(tmp_path / "ranks", gate=reject_first, attempts=20, world=World(rank, 2))
    assert contents(other) == contents(target)
    assert read_rejected(other.rejected_file) == rejected
    (target.image_folder / "im_4_p1.png").unlink()
    assert contents(run(tmp_path / "set", gate=reject_first, attempts=20)) == contents(other)
    again = begin(tmp_path / "again")
    assert repaint(again, paint, rows, PROMPTS, 3) == (10, [])
    again.finish({"seconds": 1.0, "versions": {}})
    assert contents(again) == contents(target)


def test_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def never(images: Sequence[npt.NDArray[np.uint8]], prompts: Sequence[str]) -> list[Verdict]:
        return [
            Verdict("a bus" if prompt == "a bus" else None, None, difference_hash(image))
            for image, prompt in zip(images, prompts, strict=True)
        ]

    calls = []

    def counted(prompts: Sequence[str], seeds: Sequence[int]) -> list[Painted]:
        calls.append(len(prompts))
        return paint(prompts, seeds)

    for _ in range(2):
        target = run(tmp_path / "set", gate=never, attempts=3, paint=counted)
        assert [row["index"] for row in read_manifest(target.manifest_file)] == [0, 2, 3, 5, 6, 8, 9]
        assert len(read_rejected(target.rejected_file)) == 9
    assert "were rejected 3 times and are left out" in caplog.text
    # In the blocks 0-3, 4-7, 8-9 the images 1, 4 and 7 are rejected; the second run generates nothing.
    assert calls == [4, 1, 1, 4, 2, 2, 2]


def test_the_safety_checker_needs_no_gate(tmp_path: Path) -> None:
    def offended(prompts: Sequence[str], seeds: Sequence[int]) -> list[Painted]:
        first = {image_seed(3, index, 0) for index in (1, 2)}
        return [Painted(p.pixels, seed in first) for p, seed in zip(paint(prompts, seeds), seeds, strict=True)]

    target = run(tmp_path / "set", images=4, paint=offended)
    assert [(row["index"], row["reason"]) for row in read_rejected(target.rejected_file)] == [
        (1, FLAGGED),
        (2, FLAGGED),
    ]
    assert [row["attempt"] for row in read_manifest(target.manifest_file)] == [0, 1, 1, 0]


def test_near_duplicates_are_painted_again(tmp_path: Path) -> None:
    twins = {image_seed(3, index, attempt) for index, attempt in ((2, 0), (7, 0), (7, 1), (9, 0))}

    def twin(prompts: Sequence[str], seeds: Sequence[int]) -> list[Painted]:
        one = paint(["one"], [1])[0]
        return [one if seed in twins else p for p, seed in zip(paint(prompts, seeds), seeds, strict=True)]

    one = run(tmp_path / "one", paint=twin, duplicate_distance=2)
    rows = {row["index"]: row for row in read_manifest(one.manifest_file)}
    assert sorted(rows) == list(range(10))
    assert [rows[index]["attempt"] for index in (2, 7, 9)] == [0, 2, 1]
    reasons = {(row["index"], row["attempt"]): row["reason"] for row in read_rejected(one.rejected_file)}
    assert reasons.keys() == {(7, 0), (7, 1), (9, 0)}
    assert reasons[9, 0] == "near-duplicate of image 2 (0 of 64 bits differ, more than 2 asked)"
    # With two processes, the first one to end cannot detect the duplicates.
    for rank in (1, 0):
        two = run(tmp_path / "two", paint=twin, duplicate_distance=2, world=World(rank, 2))
    assert contents(two) == contents(one)


def test_other_settings_or_prompts_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "set")
    with pytest.raises(UserError, match="was made with steps 2, and this run has 5"):
        begin(tmp_path / "set", {**SETTINGS, "steps": 5})
    with pytest.raises(UserError, match="was made with other prompts"):
        begin(tmp_path / "set", prompts=["else"])
    begin(tmp_path / "set", {**SETTINGS, "model": "elsewhere"})
    (tmp_path / "set" / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        begin(tmp_path / "set")
    (tmp_path / "set" / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"holds images, but .*dataset\.json is missing"):
        begin(tmp_path / "set")


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="a file is in the place of its folder"):
        begin(tmp_path / "file" / "set")


def test_rows_are_chosen() -> None:
    rows = [{"index": index} for index in (4, 7, 9)]
    assert choose(rows, None) == rows
    assert choose(rows, [9, 4]) == [rows[2], rows[0]]
    with pytest.raises(UserError, match="asks for 5, which the manifest does not have"):
        choose(rows, [4, 5])
