"""Generated sets on a hub."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clouds.commands import generate
from clouds.errors import UserError
from clouds.generation.sharing import download_set, upload_set
from tests.generation.test_run import contents, run
from tests.hub_server import TOKEN, Hub, running_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub(monkeypatch, tmp_path / "cache") as server:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def test_a_set_comes_back(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], sentence: Callable[..., str]
) -> None:
    target = run(tmp_path / "stable_diffusion/mine", images=4)
    flags = ["--output-root", str(tmp_path), "--folder"]
    assert generate.main([*flags, "mine", "--to-hub", "somebody/mine", "--private"]) == 0
    repository = hub.repositories["dataset", "somebody/mine"]
    assert capsys.readouterr().out == f"{hub.url}/somebody/mine/commit/{repository.commit}\n"
    assert repository.private
    assert len(repository.files) == 4 + 3  # no locks
    assert "| license of each image | cc0-1.0 |" in repository.files["README.md"].decode()

    assert generate.main([*flags, "theirs", "--from-hub", "somebody/mine"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/stable_diffusion/theirs: 4 images.\n"
    found = {path.name for path in (tmp_path / "stable_diffusion").iterdir()}
    assert found == {"mine", "theirs"}
    copy = tmp_path / "stable_diffusion/theirs"
    assert {path.name: path.read_bytes() for path in copy.rglob("*.png")} == {
        name: content for name, content in contents(target).items() if name.endswith(".png")
    }
    assert not (copy / ".cache").exists()
    assert sentence(generate.main, *flags, "theirs", "--from-hub", "somebody/mine").endswith(
        "theirs exists already: give another --folder, or move it away."
    )
    assert sentence(generate.main, *flags, "x", "--from-hub", "somebody/none") == (
        "The generated set 'somebody/none' cannot be loaded: the hub has no such data set, or it is private; check the "
        "name, or log in with `hf auth login`."
    )


def test_damage_is_found_before_and_after(hub: Hub, tmp_path: Path) -> None:
    target = run(tmp_path / "mine", images=3)
    upload_set(target.folder, "somebody/mine")
    files = hub.repositories["dataset", "somebody/mine"].files
    image = next(name for name in files if name.endswith(".png"))
    kept, files[image] = files[image], b"damaged"
    with pytest.raises(UserError, match=rf"'somebody/mine' cannot be loaded: its image {image} differs from its manif"):
        download_set("somebody/mine", tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()
    files[image] = kept
    assert download_set("somebody/mine", tmp_path / "theirs") == 3
    (target.folder / image).unlink()
    with pytest.raises(UserError, match=rf"mine cannot be uploaded: its image {image} is missing; generate the"):
        upload_set(target.folder, "somebody/mine")
