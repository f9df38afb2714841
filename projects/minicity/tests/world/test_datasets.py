"""Writing and loading of the data sets: complete, resumable, with clear errors."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from minicity.world import datasets, writing
from minicity.world.datasets import read_captions
from minicity.world.render import render, render_scene
from minicity.world.scene import sample_scene, scene_rng
from minicity.world.sets import DRAWN_SETS
from minicity.world.wide import WIDE_STYLES
from minicity.world.writing import style_of, write_dataset

from clouds.data.datasets.catalog import domain, load_dataset, register_datasets
from clouds.errors import UserError
from tests.commands import script

command = script("projects/minicity/tools/render.py")

SIZE = (64, 128)
NAME = "minicity_fog_val"
GENERATED = "minicity_generated_train"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_files_hold_the_rendered_scenes(tmp_path):
    folder = write_dataset(NAME, tmp_path, 2, SIZE)
    assert folder == tmp_path / "minicity" / NAME
    for index in range(2):
        scene = render_scene("minicity_fog", DRAWN_SETS[NAME].seed, index, SIZE)
        image = cv2.imread(str(folder / "images" / f"{index:06d}.png"))[:, :, ::-1]
        label = cv2.imread(str(folder / "labels" / f"{index:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(image, scene.image)
        assert np.array_equal(label, scene.label)
        assert label.dtype == np.uint8
        assert read_captions(NAME, tmp_path)[index] == {"image_id": f"{index:06d}", "caption": scene.caption}


def test_interrupted_writing_is_completed(tmp_path, monkeypatch):
    whole = contents(write_dataset(NAME, tmp_path / "whole", 4, SIZE))

    drawn = []
    original = writing._write_image

    def fails_at_two(folder, part, size, index):
        if index == 2:
            raise KeyboardInterrupt
        drawn.append(index)
        return original(folder, part, size, index)

    monkeypatch.setattr(writing, "_write_image", fails_at_two)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(NAME, tmp_path / "broken", 4, SIZE)
    with pytest.raises(UserError, match=r"python projects/minicity/tools/render.py --root"):
        datasets.load(NAME, tmp_path / "broken")

    # The interruption also cut off a line, and a label map is missing.
    folder = tmp_path / "broken" / "minicity" / NAME
    with (folder / "captions.partial.jsonl").open("a") as file:
        file.write('{"image_id": "00')
    (folder / "labels" / "000001.png").unlink()
    drawn.clear()

    def counted(folder, part, size, index):
        drawn.append(index)
        return original(folder, part, size, index)

    monkeypatch.setattr(writing, "_write_image", counted)
    write_dataset(NAME, tmp_path / "broken", 4, SIZE)
    assert drawn == [1, 2, 3]
    assert contents(folder) == whole


def test_complete_set_is_left_alone_and_grows_on_demand(tmp_path, monkeypatch):
    folder = write_dataset(NAME, tmp_path, 2, SIZE)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.*")}
    write_dataset(NAME, tmp_path, 2, SIZE)
    write_dataset(NAME, tmp_path, 1, SIZE)
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.*")} == before
    write_dataset(NAME, tmp_path, 3, SIZE)
    assert [line["image_id"] for line in read_captions(NAME, tmp_path)] == ["000000", "000001", "000002"]


def test_other_settings_are_refused(tmp_path, monkeypatch):
    write_dataset(NAME, tmp_path, 1, SIZE)
    with pytest.raises(UserError, match=r"size \[64, 128\] instead of \[32, 64\]"):
        write_dataset(NAME, tmp_path, 1, (32, 64))
    monkeypatch.setattr(writing, "DRAWING_VERSION", writing.DRAWING_VERSION + 1)
    with pytest.raises(UserError, match="delete that folder"):
        write_dataset(NAME, tmp_path, 1, SIZE)


def test_the_catalog_finds_the_sets(tmp_path):
    register_datasets(tmp_path, ["minicity.world.datasets"])
    with pytest.raises(UserError, match=f"{NAME}.*python projects/minicity/tools/render.py --root"):
        load_dataset(NAME)
    write_dataset(NAME, tmp_path, 2, SIZE)
    records = load_dataset(NAME)
    assert [record["image_id"] for record in records] == [f"{NAME}_000000", f"{NAME}_000001"]
    assert all(Path(record[key]).is_file() for record in records for key in ("file_name", "sem_seg_file_name"))
    Path(records[1]["sem_seg_file_name"]).unlink()
    register_datasets(tmp_path, ["minicity.world.datasets"])  # a registered set is listed only once
    with pytest.raises(UserError, match=r"000001.*missing"):
        load_dataset(NAME)


def test_training_and_validation_scenes_are_disjoint():
    scenes = {(part.style, part.seed) for part in DRAWN_SETS.values()}
    assert len(scenes) == len(DRAWN_SETS)
    assert {part.style for name, part in DRAWN_SETS.items() if name.endswith("_train")} == {"minicity_sim", "wide"}


def test_the_held_out_set_is_of_the_source_and_drawn_on_demand(tmp_path):
    held_out = "minicity_sim_holdout"
    register_datasets(tmp_path, ["minicity.world.datasets"])
    assert domain(held_out) == domain("minicity_sim_train") == "minicity_sim"
    assert DRAWN_SETS[held_out].style == DRAWN_SETS["minicity_sim_train"].style
    with pytest.raises(UserError, match=f"--only {held_out}"):
        load_dataset(held_out)
    argv = ["--root", str(tmp_path), "--num-train", "1", "--num-val", "1", "--num-generated", "1", "--size", "32", "64"]
    assert command.main([*argv, "--workers", "1"]) == 0
    assert {path.name for path in (tmp_path / "minicity").iterdir()} == DRAWN_SETS.keys() - {held_out}
    assert command.main([*argv, "--only", held_out]) == 0
    register_datasets(tmp_path, ["minicity.world.datasets"])
    assert len(load_dataset(held_out)) == 1


def test_a_set_of_generated_images(tmp_path):
    part = DRAWN_SETS[GENERATED]
    folder = write_dataset(GENERATED, tmp_path, 3, SIZE)
    for index in range(3):
        style = style_of(part, index)
        rng = scene_rng(style, part.seed, index)
        scene = render(sample_scene(style, rng, SIZE), rng)
        image = cv2.imread(str(folder / "images" / f"{index:06d}.png"))[:, :, ::-1]
        truth = cv2.imread(str(folder / "labels" / f"{index:06d}.png"), cv2.IMREAD_UNCHANGED)
        # A stored pixel is the mean of four drawn pixels, and has the class of one of them.
        blocks = scene.image.reshape(SIZE[0] // 2, 2, SIZE[1] // 2, 2, 3).astype(float)
        assert np.abs(image - blocks.mean(axis=(1, 3))).max() <= 0.5
        classes = scene.label.reshape(SIZE[0] // 2, 2, SIZE[1] // 2, 2)
        assert (classes == truth[:, None, :, None]).any(axis=(1, 3)).all()
        assert read_captions(GENERATED, tmp_path)[index] == {"image_id": f"{index:06d}", "caption": scene.caption}
    records = datasets.load(GENERATED, tmp_path)
    assert records[2] == {
        "file_name": str(folder / "images" / "000002.png"),
        "truth_file_name": str(folder / "labels" / "000002.png"),
        "image_id": f"{GENERATED}_000002",
        "is_generated": True,
    }


def test_generated_images_have_different_styles_that_no_other_set_has():
    part = DRAWN_SETS[GENERATED]
    styles = [style_of(part, index) for index in range(part.num_images)]
    assert len({style.name for style in styles}) == part.num_images
    assert all(style in WIDE_STYLES for style in styles)  # disjoint from the other domains, see test_wide.py
    assert not {style.name for style in styles} & {other.style for other in DRAWN_SETS.values()}
    # Neighbors differ in light, weather and camera.
    for index in range(part.num_images - 6):
        names = [style.name.split("_") for style in styles[index : index + 6]]
        assert all(len(set(kinds)) >= 3 for kinds in zip(*(name[1:] for name in names), strict=True))


def test_the_other_sets_keep_their_settings(tmp_path):
    """Sets that users have drawn stay complete and can be extended."""
    for name, part in DRAWN_SETS.items():
        if name != GENERATED:
            assert (part.shrink, part.generated) == (1, False)
    write_dataset(NAME, tmp_path, 1, SIZE)
    settings = json.loads((tmp_path / "minicity" / NAME / "settings.json").read_text())
    assert settings == {"style": "minicity_fog", "seed": 2, "size": list(SIZE), "drawing": 1}
    for damage in ("{", "[]"):
        (tmp_path / "minicity" / NAME / "settings.json").write_text(damage)
        with pytest.raises(UserError, match=r"settings\.json .*: delete the folder .* to draw the set again"):
            write_dataset(NAME, tmp_path, 1, SIZE)


def test_command_line(tmp_path, capsys):
    argv = ["--root", str(tmp_path), "--num-train", "2", "--num-val", "1", "--num-generated", "3", "--workers", "1"]
    assert command.main([*argv, "--only", "minicity_sim_train", GENERATED, NAME, "--size", "32", "64"]) == 0
    lines = (tmp_path / "minicity" / "minicity_sim_train" / "captions.jsonl").read_text().splitlines()
    assert [json.loads(line)["image_id"] for line in lines] == ["000000", "000001"]
    assert len(list((tmp_path / "minicity" / NAME / "images").iterdir())) == 1
    assert len(list((tmp_path / "minicity" / GENERATED / "images").iterdir())) == 3
    capsys.readouterr()
    assert command.main([*argv, "--only", NAME, "--size", "64", "64"]) == 2
    assert "delete that folder or choose another --root" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "size", "words"), [(0, SIZE, "0 images of 64 x 128"), (2, (0, 8), "of 0 x 8")])
def test_sizes_below_one_are_refused(tmp_path, count, size, words):
    with pytest.raises(UserError, match=words):
        write_dataset(NAME, tmp_path, count, size)
    assert not list(tmp_path.iterdir())
