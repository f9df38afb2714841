"""The cache of embeddings on disk."""

import logging
import multiprocessing
import os
import time

import pytest
import safetensors.torch
import torch

from clouds.errors import WriteError
from clouds.self_training.sam import CachedSam, Embedding, Sam
from clouds.self_training.sam.cache import _checksum

ENTRY = 2 * 4 * 8 * 8  # bytes of one embedding of `Counting`, without its header


class Counting(Sam):
    """Back end whose embeddings identify their images, and which counts its calls."""

    def __init__(self, model_id="stand-in"):
        self._model_id = model_id
        self.batches = []

    @property
    def model_id(self):
        return self._model_id

    def encode(self, images):
        self.batches.append(len(images))
        return [
            Embedding(tuple(i.shape[1:]), (i.float().mean() / 3 + torch.rand(4, 8, 8) * 0, torch.ones(1)))
            for i in images
        ]

    def predict(self, embedding, points):
        return torch.zeros(len(points), *embedding.size, dtype=torch.bool)


def image(value, size=(6, 10)):
    return torch.full((3, *size), value, dtype=torch.uint8)


def cached(folder, gigabytes=1.0, model_id="stand-in"):
    return CachedSam(Counting(model_id), folder, gigabytes=gigabytes)


def entries(folder):
    return sorted(path for path in folder.iterdir() if path.suffix == ".sam")


def test_a_hit_is_a_miss_to_the_last_bit(tmp_path):
    sam = cached(tmp_path)
    (first,) = sam.encode([image(7)])
    (again,) = sam.encode([image(7)])
    (elsewhere,) = cached(tmp_path).encode([image(7)])
    assert sam.sam.batches == [1, 0]
    for other in (again, elsewhere):
        assert other.size == first.size == (6, 10)
        assert [each.dtype for each in other.features] == [torch.float16] * 2
        assert all(torch.equal(a, b) for a, b in zip(first.features, other.features, strict=True))
    assert torch.allclose(first.features[0].float(), torch.tensor(7 / 3), rtol=1e-3)
    assert sam.predict(again, torch.zeros(2, 1, 2)).shape == (2, 6, 10)


def test_what_is_missing_is_encoded_together_and_once(tmp_path):
    sam = cached(tmp_path)
    sam.encode([image(2)])
    found = sam.encode([image(1), image(2), image(3), image(1)])
    assert sam.sam.batches == [1, 2]
    assert [round(each.features[0].float().mean().item() * 3) for each in found] == [1, 2, 3, 1]
    assert sam.encode([]) == []


def test_pixels_shape_and_model_make_the_key(tmp_path):
    sam = cached(tmp_path)
    picture = torch.arange(180, dtype=torch.uint8).view(3, 6, 10)
    keys = {sam.key(each) for each in (picture, picture.flip(2), picture.reshape(3, 10, 6), picture + 1)}
    keys.add(cached(tmp_path, model_id="other").key(picture))
    assert len(keys) == 5
    assert sam.key(picture.flip(2).flip(2)) == sam.key(picture)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "swap"])
def test_a_damaged_entry_is_told_and_computed_anew(damage, tmp_path, caplog):
    sam = cached(tmp_path)
    whole = sam.encode([image(1)])[0]
    (path,) = entries(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 4
    elif damage == "cut":
        content = content[:-1]
    elif damage == "empty":
        content = b""
    else:  # the entry of another image under the name of this one
        sam.encode([image(9)])
        (other,) = set(entries(tmp_path)) - {path}
        content = other.read_bytes()
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        (again,) = sam.encode([image(1)])
    assert "damaged" in caplog.text
    assert torch.equal(again.features[0], whole.features[0])
    caplog.clear()
    sam.encode([image(1)])
    assert not caplog.text


@pytest.mark.parametrize(
    "payload",
    [
        b"no safetensors",
        safetensors.torch.save({}),
        safetensors.torch.save({"1": torch.zeros(2, 3, 3).half()}),
        safetensors.torch.save({"0": torch.zeros(2, 3, 3)}),
    ],
)
def test_an_entry_with_a_checksum_that_holds_something_else_is_computed_anew(payload, tmp_path, caplog):
    sam = cached(tmp_path)
    whole = sam.encode([image(1)])[0]
    (path,) = entries(tmp_path)
    path.write_bytes(_checksum(sam.key(image(1)), payload) + payload)
    (again,) = sam.encode([image(1)])
    assert "damaged" in caplog.text
    assert torch.equal(again.features[0], whole.features[0])


def test_the_longest_unused_leave_first_and_strangers_stay(tmp_path):
    sam = cached(tmp_path)
    sam.encode([image(0)])
    size = entries(tmp_path)[0].stat().st_size
    (tmp_path / "notes.sam").write_text("mine")
    sam = cached(tmp_path, gigabytes=10.5 * size / 1e9)
    for value in range(10):
        sam.encode([image(value)])
        age = time.time() - 1000 + value
        os.utime(tmp_path / f"{sam.key(image(value))}.sam", (age, age))
    assert len(entries(tmp_path)) == 11
    sam.encode([image(0)])  # used just now
    sam.encode([image(10)])
    left = {value for value in range(11) if (tmp_path / f"{sam.key(image(value))}.sam").exists()}
    assert left == {0, *range(2, 11)}
    assert (tmp_path / "notes.sam").exists()


def test_the_limit_holds_whatever_was_there_before(tmp_path):
    first = cached(tmp_path)
    first.encode([image(value) for value in range(30)])
    size = entries(tmp_path)[0].stat().st_size
    sam = cached(tmp_path, gigabytes=8 * size / 1e9)
    for value in range(40, 60):
        sam.encode([image(value)])
        assert sum(path.stat().st_size for path in entries(tmp_path)) <= 8 * size


def test_half_written_files_of_a_killed_process_go(tmp_path):
    sam = cached(tmp_path)
    old, new = (tmp_path / f"{number:064x}.sam.17.part" for number in (1, 2))
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (0, 0))
    sam.encode([image(1)])
    assert not old.exists()
    assert new.exists()


def hammer(folder, number):
    sam = cached(folder, gigabytes=4 * 700 / 1e9)
    for turn in range(60):
        batch = [image((turn * 3 + number + other) % 12) for other in range(3)]
        for embedding, each in zip(sam.encode(batch), batch, strict=True):
            expected = torch.tensor(each.float().mean().item() / 3).half()
            if not (embedding.features[0] == expected).all():
                os._exit(1)


@pytest.mark.slow
def test_processes_share_a_folder_that_is_too_small(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=hammer, args=(tmp_path, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert not list(tmp_path.glob("*.part"))


def test_mistakes(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="another file has its name"):
        cached(tmp_path / "file")
    with pytest.raises(ValueError, match=r"^gigabytes is 0"):
        cached(tmp_path, gigabytes=0)
