"""Networks on a hub: they predict the same, their towers are found again, and errors are sentences."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import clouds
from clouds.api.segmenter import Segmenter
from clouds.errors import UserError
from tests.api.conftest import same
from tests.hub_server import TOKEN, Hub, Repository, running_hub

TOWER = "backbone.clip_model."


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub(monkeypatch, tmp_path / "cache") as server:
        yield server


def on_hub(hub: Hub, name: str, folder: Path, **options: Any) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repositories["model", name] = Repository(files, **options)


@pytest.fixture
def named(hub: Hub, clip_folder: Path, save_run: Callable[..., Path]) -> Segmenter:
    """A network whose frozen tower is on the hub."""
    on_hub(hub, "somebody/tower", clip_folder)
    opts = ["MODEL.BACKBONE.NAME", "CLIP", "MODEL.CLOUDS.CLIP_MODEL_NAME", "hf-hub:somebody/tower"]
    return clouds.load(save_run(*opts), device="cpu")


def test_a_frozen_tower_is_named(named: Segmenter, hub: Hub, images: list[Path], tmp_path: Path) -> None:
    named.save_pretrained(tmp_path / "named")
    named.save_pretrained(tmp_path / "whole", include_backbone=True)
    stored, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("named", "whole"))
    assert whole.keys() == named.network.state_dict().keys()
    assert whole.keys() - stored.keys() == {key for key in whole if key.startswith(TOWER)}
    description = json.loads((tmp_path / "named/clouds.json").read_text())
    assert description["backbone"] == {"name": "hf-hub:somebody/tower", "pretrained": "", "stored": False}
    assert len(description["tower_sha256"]) == 64
    assert same(named, clouds.load(tmp_path / "named", device="cpu"), images[0])
    # The owner of the tower changes its weights: it is refused, and the folder with the tower does not need it.
    weights = tmp_path / "other.safetensors"
    tower = load_file(next((tmp_path / "cache").rglob("open_clip_model.safetensors")))
    save_file(tower | {"logit_scale": tower["logit_scale"] + 1}, weights)
    hub.repositories["model", "somebody/tower"].files["open_clip_model.safetensors"] = weights.read_bytes()
    with pytest.raises(UserError, match=r"named/model\.safetensors was trained on other frozen backbone weights than"):
        clouds.load(tmp_path / "named", device="cpu")
    hub.repositories.clear()
    shutil.rmtree(tmp_path / "cache")
    assert same(named, clouds.load(tmp_path / "whole", device="cpu"), images[0])


def test_through_a_hub(
    closed: Path, hub: Hub, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = clouds.load(closed, device="cpu")
    url = model.push_to_hub("somebody/streets", token=TOKEN, license="cc-by-4.0", private=True, commit_message="First")
    repository = hub.repositories["model", "somebody/streets"]
    assert url == f"{hub.url}/somebody/streets/commit/{repository.commit}"
    assert {"model.safetensors", "config.yaml", "clouds.json", "README.md"} < repository.files.keys()
    card = repository.files["README.md"].decode()
    assert 'clouds.load("somebody/streets")' in card
    assert "license: cc-by-4.0\n" in card
    with pytest.raises(UserError, match="the hub has no such model, or it is private; check the name, or log in"):
        clouds.load("somebody/streets", device="cpu")
    with pytest.raises(UserError, match="the hub refuses the token; log in with `hf auth login`"):
        Segmenter.from_pretrained("somebody/streets", token="hf_wrong", device="cpu")
    repository.private = False
    commit = repository.commit
    assert same(model, clouds.load("somebody/streets", device="cpu"), images[0])
    options = {"revision": commit, "cache_dir": tmp_path / "mine", "device": "cpu"}
    assert same(model, Segmenter.from_pretrained("somebody/streets", **options), images[0])
    assert (tmp_path / "mine/models--somebody--streets/snapshots" / commit / "model.safetensors").is_file()
    # What is in the cache needs no network.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same(model, clouds.load("somebody/streets", device="cpu"), images[0])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert model.save_pretrained(tmp_path / "s", repo_id="somebody/two", push_to_hub=True, token=TOKEN) is not None
    assert hub.repositories["model", "somebody/two"].files["config.yaml"] == (tmp_path / "s/config.yaml").read_bytes()


def test_sentences_of_a_hub(closed: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = clouds.load(closed, device="cpu")
    model.save_pretrained(tmp_path / "saved")
    on_hub(hub, "somebody/streets", tmp_path / "saved")
    start = "There is no folder {}, and a network of this name cannot be loaded from the hub: "
    with pytest.raises(UserError) as caught:
        clouds.load("nobody/nothing")
    assert str(caught.value) == start.format("nobody/nothing") + (
        "the hub has no such model, or it is private; check the name, or log in with `hf auth login`."
    )
    with pytest.raises(UserError, match="but not the revision v9; check it"):
        Segmenter.from_pretrained("somebody/streets", revision="v9")
    for name in ("a/b/c", "no such"):
        with pytest.raises(UserError, match=f"There is no (folder|network at) {name}"):
            clouds.load(name)
    with pytest.raises(UserError, match=r"cannot be uploaded to 'somebody/x': log in with `hf auth login`, or give a"):
        model.push_to_hub("somebody/x")
    with pytest.raises(UserError, match="the token may not write there; check the name, or give another token"):
        model.push_to_hub("others/x", token=TOKEN)
    with pytest.raises(UserError, match="a name on the hub has the form owner/name"):
        model.push_to_hub("a/b/c", token=TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, so nothing is uploaded; unset it"):
        model.push_to_hub("somebody/x", token=TOKEN)
    with pytest.raises(UserError, match="in the cache: HF_HUB_OFFLINE is set, so nothing is downloaded"):
        clouds.load("somebody/streets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the hub cannot be reached, and the model is not in the cache; check the netw"):
        clouds.load("somebody/streets")


def test_a_pickle_is_refused(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    (tmp_path / "config.yaml").write_text("VERSION: 2\n")
    on_hub(hub, "somebody/pickle", tmp_path)
    for source in ("somebody/pickle", tmp_path):
        with pytest.raises(UserError) as caught:
            Segmenter.from_pretrained(source)
        assert str(caught.value) == (
            f"{source} holds no model.safetensors, only pytorch_model.bin, a pickle, which could run code: load a "
            "checkpoint with clouds.load, or write one with `clouds convert`."
        )
