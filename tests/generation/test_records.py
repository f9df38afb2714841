"""Records of a generated set that were edited, cut or exchanged: one sentence each."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from clouds.commands import generate as command
from clouds.errors import UserError
from clouds.generation.dataset import GeneratedSet
from clouds.generation.records import CHUNK, read_description, read_manifest, read_record, read_rejected
from clouds.generation.statistics import report
from tests.generation.test_run import PROMPTS, SETTINGS, begin, contents, reject_first, run

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Set of ten images, some of which were rejected once."""
    return run(tmp_path_factory.mktemp("records") / "whole", gate=reject_first, attempts=20).folder


def changed(row: dict[str, Any], **fields: object) -> dict[str, Any]:
    return {**row, **fields}


BAD_FIELDS = [
    ("index", 10**9),
    ("index", -1),
    ("index", True),
    ("index", 3.0),
    ("index", "3"),
    ("index", None),
    ("prompt_index", 10**9),
    ("prompt", 3),
    ("seed", 2**63),
    ("attempt", -1),
    ("batch", []),
    ("batch", [0, 10**9]),
    ("batch", "0123"),
    ("height", 10**12),
    ("similarity", "high"),
    ("dhash", "xyz"),
]
BAD_PLACES = [
    ("file_name", "../../outside.png"),
    ("file_name", "/etc/passwd"),
    ("file_name", "images/../../../im_3_p0.png"),
    ("file_name", "images/im_4_p1.png"),
    ("file_name", 7),
    ("size", -1),
    ("sha256", "f" * 63),
]


@pytest.mark.parametrize(("field", "value"), [*BAD_FIELDS, *BAD_PLACES], ids=lambda value: repr(value)[:30])
def test_a_bad_field_of_a_manifest(whole: Path, tmp_path: Path, field: str, value: object) -> None:
    rows = read_manifest(whole / "manifest.jsonl")
    rows[3][field] = value
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=rf"manifest\.jsonl.* line 4.*{field}.*restore it from a copy; or delete it"):
        read_manifest(path)
    del rows[3][field]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=f"in line 4, see {field}; "):
        read_manifest(path)


@pytest.mark.parametrize(("field", "value"), [*BAD_FIELDS, ("reason", None)], ids=lambda value: repr(value)[:30])
def test_a_bad_field_of_a_rejected_image(whole: Path, tmp_path: Path, field: str, value: object) -> None:
    row = read_rejected(whole / "rejected.jsonl")[0]
    path = tmp_path / "rejected.jsonl"
    path.write_text(json.dumps({**row, field: value}) + "\n")
    with pytest.raises(UserError, match=rf"rejected\.jsonl is damaged in line 1, see {field}; "):
        read_rejected(path)


@pytest.mark.parametrize(
    "data",
    [b"\xff\xfe{}\n", b'{"index": Infinity}\n', b"[]\n", b"\n", b"{" * 10**5, b'{"index": ' + b"9" * 5000 + b"}"],
)
def test_files_that_are_no_manifest(whole: Path, tmp_path: Path, data: bytes) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "set"))
    for name, read in (("manifest.jsonl", read_manifest), ("rejected.jsonl", read_rejected)):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + data)
        with pytest.raises(UserError, match=rf"{name} is damaged in line \d+; restore it"):
            read(folder / name)
        with pytest.raises(UserError, match=f"{name} is damaged"):
            report(folder)
        (folder / name).write_bytes(content)


def test_an_index_twice_and_a_batch_without_its_index(whole: Path, tmp_path: Path) -> None:
    rows = read_manifest(whole / "manifest.jsonl")
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[2]]))
    with pytest.raises(UserError, match=r"line 11: index 2 is also that of line 3"):
        read_manifest(path)
    path.write_text(json.dumps({**rows[2], "batch": [0, 1]}) + "\n")
    with pytest.raises(UserError, match=r"line 1: index 2 is not in its batch"):
        read_manifest(path)


BAD_DESCRIPTIONS: list[tuple[Change, str]] = [
    (lambda content: content.pop("prompts"), "prompts"),
    (lambda content: content.update(prompts=[]), "prompts"),
    (lambda content: content.update(prompts=["a", 3]), "prompts"),
    (lambda content: content.update(licence=None), "licence"),
    (lambda content: content.update(runs={}), "runs"),
    (lambda content: content["runs"].append({"seconds": "long", "versions": {}}), r"runs\[1\]\.seconds"),
    (lambda content: content["runs"].append(3), r"runs\[1\]"),
    (lambda content: content["settings"].pop("steps"), r"settings\.steps"),
    (lambda content: content["settings"].update(model=3), r"settings\.model"),
    (lambda content: content["settings"].update(seed=-1), r"settings\.seed"),
    (lambda content: content["settings"].update(height="768"), r"settings\.height"),
    (lambda content: content.update(settings="fast"), "settings"),
    (lambda content: content.update(settings={"guidance": math.inf}), "Infinity is not a number"),
]


@pytest.mark.parametrize(("change", "says"), BAD_DESCRIPTIONS, ids=[says for _, says in BAD_DESCRIPTIONS])
def test_a_bad_description(whole: Path, tmp_path: Path, change: Change, says: str) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "set"))
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    for read in (lambda: read_description(path), lambda: begin(folder), lambda: report(folder)):
        with pytest.raises(UserError, match=rf"dataset\.json is damaged, .*{says}.*: restore it from a copy\.$"):
            read()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3),
)


@given(data=st.data())
def test_any_value_in_any_field_is_read_or_refused(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name, read = data.draw(
        st.sampled_from([("manifest.jsonl", read_manifest), ("rejected.jsonl", read_rejected)])
    )  # fmt: skip
    row = json.loads((whole / name).read_text().split("\n")[0])
    row[data.draw(st.sampled_from(sorted(row)))] = data.draw(values)
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(json.dumps(row, ensure_ascii=data.draw(st.booleans())).encode(errors="surrogatepass"))
    try:
        read(path)
    except UserError as error:
        assert "restore it from a copy" in str(error)


@pytest.mark.parametrize("chunk", ["{}", "[1]", "{" * 10**5, '{"index": Infinity, "prompt_index": 0}', "x"])
def test_a_bad_record_in_an_image(whole: Path, tmp_path: Path, chunk: str) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "set"))
    info = PngImagePlugin.PngInfo()
    info.add_itxt(CHUNK, chunk)
    path = folder / "images/im_5_p2.png"
    with Image.open(path) as image:
        image.save(path, pnginfo=info)
    assert read_record(path.read_bytes()) is None
    assert "1 of another size than in the manifest" in report(folder)
    assert contents(run(folder, gate=reject_first, attempts=20)) == contents(GeneratedSet(whole))


def test_an_image_of_another_set_is_generated_again(whole: Path, tmp_path: Path) -> None:
    other = GeneratedSet(tmp_path / "other")
    other.begin({**SETTINGS, "seed": 4}, PROMPTS, "cc0-1.0")
    folder = Path(shutil.copytree(whole, tmp_path / "set"))
    record = read_manifest(folder / "manifest.jsonl")[5]
    with Image.open(folder / record["file_name"]) as image:
        pixels = image.copy()
    for change in ({"seed": 1}, {"prompt": "a tram"}):
        info = PngImagePlugin.PngInfo()
        info.add_itxt(CHUNK, json.dumps({**record, **change}))
        pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / record["file_name"], pnginfo=info)
        assert contents(run(folder, gate=reject_first, attempts=20)) == contents(GeneratedSet(whole))


def test_statistics_of_absurd_names(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("im_1000000000_p1000000000", f"im_{'9' * 200}_p0", "im_0_p999999999", "im_3_p0"):
        Image.new("RGB", (9, 9)).save(tmp_path / f"images/{name}.png")
    text = report(tmp_path)
    assert "4 images" in text
    assert "prompts: 1 of 1 or more have images" in text


def test_a_manifest_of_another_set_is_not_generated_again(
    whole: Path, tmp_path: Path, sentence: Callable[..., str]
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "set"))
    content = json.loads((folder / "dataset.json").read_text())
    for change in ({"prompts": ["a tram"]}, {"settings": {**content["settings"], "seed": 9}}):
        (folder / "dataset.json").write_text(json.dumps({**content, **change}))
        said = sentence(
            command.main, "--folder", "new", "--output-root", str(tmp_path), "--from-manifest", str(folder)
        )  # fmt: skip
        assert said.startswith(f"{folder / 'manifest.jsonl'} is the manifest of another set than dataset.json")
    assert not (tmp_path / "stable_diffusion").exists()


@pytest.mark.parametrize("kind", ["folder", "circle"])
def test_an_image_that_is_no_file(whole: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "set"
    shutil.copytree(whole, folder)
    path = next((folder / "images").glob("im_0_*.png"))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.name)
    with pytest.raises(UserError, match=rf"{path.name} cannot be read \(.+\): remove it"):
        begin(folder).all_rows()


def test_an_edited_manifest_is_made_again_from_the_images(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(whole, folder)
    before = (folder / "manifest.jsonl").read_bytes()
    rows = read_manifest(folder / "manifest.jsonl")
    edited = [{**row, "height": 7, "similarity": 0.5} for row in rows]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in edited))
    begin(folder).finish({"seconds": 1.0, "versions": {"torch": "2"}})
    assert (folder / "manifest.jsonl").read_bytes() == before
