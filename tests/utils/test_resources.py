"""Files that come with the package, found by their names in the repository from any folder."""

from pathlib import Path

import pytest

from clouds.config import load_config
from clouds.data.datasets.custom import dataset_settings, read_custom
from clouds.errors import UserError
from clouds.generation.prompts import find_prompts
from clouds.utils.resources import existing_file, find_file, install_command, resource_root, resources, similar_file

ROOT = Path(__file__).resolve().parents[2]
GTA = "configs/warmup/gta/train_gta.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str = "SEED: 7\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_every_config_and_prompt_file_is_listed() -> None:
    assert resource_root() == ROOT
    listed = set(resources())
    assert listed == {p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("prompt*"), *ROOT.glob("configs/**/*.*")]}
    assert {GTA, "prompt_llama70b.txt", "configs/datasets/camvid.yaml"} <= listed


def test_the_current_folder_comes_first(elsewhere: Path) -> None:
    assert find_file(GTA) == ROOT / GTA
    assert find_file(f"./{GTA}") == ROOT / GTA
    mine = write(elsewhere / GTA)
    assert find_file(GTA).resolve() == mine
    assert load_config(GTA).SEED == 7


def test_a_name_leads_out_of_no_folder(elsewhere: Path) -> None:
    for name in ("../pyproject.toml", "pyproject.toml", "configs", "configs/../README.md", "clouds/clouds.py", ""):
        assert find_file(name) == Path(name)
    absolute = elsewhere / GTA
    assert find_file(absolute) == absolute


def test_configs_with_their_bases(elsewhere: Path) -> None:
    assert load_config("configs/joint_training/gta/train_jt_gta.yaml").SOLVER.MAX_ITER == 40000
    write(elsewhere / "deep/mine.yaml", f"_BASE_: {GTA}\nSOLVER: {{MAX_ITER: 3}}\n")
    cfg = load_config("deep/mine.yaml")
    assert (cfg.SOLVER.MAX_ITER, cfg.DATASETS.TRAIN) == (3, ("gta5",))


def test_data_sets_and_prompts() -> None:
    file = Path("configs/datasets/streets.yaml")
    assert [spec.name for spec in read_custom(file)] == ["streets_train", "streets_val"]
    assert str(file) in dataset_settings(file)[1]
    assert find_prompts("prompt_llama70b") == find_prompts("prompt_llama70b.txt") == ROOT / "prompt_llama70b.txt"


@pytest.mark.parametrize(
    ("read", "name", "nearest"),
    [
        (load_config, "configs/warmup/gta/train_gta_r5.yaml", "configs/warmup/gta/train_gta_r50.yaml"),
        (load_config, "warmup/synthia/train_syn.yaml", "configs/warmup/synthia/train_syn.yaml"),
        (load_config, "train_jt_city.yaml", "configs/joint_training/cityscapes/train_jt_city.yaml"),
        (load_config, "mine/sub.yaml", "mine/subs.yaml"),
        (lambda name: read_custom(Path(name)), "configs/datasets/camvi.yaml", "configs/datasets/camvid.yaml"),
        (find_prompts, "prompts_llama", "prompt_llama70b.txt"),
        (find_prompts, "streets.tx", "streets.txt"),
    ],
)
def test_the_most_similar_file_is_named(read, name: str, nearest: str, elsewhere: Path) -> None:
    write(elsewhere / "mine/subs.yaml")
    if "streets" in name:
        write(elsewhere / "streets.txt")
    with pytest.raises(UserError, match=f"{name}.*; the most similar one is {nearest}\\.$"):
        read(name)


def test_a_missing_base_is_named(elsewhere: Path) -> None:
    write(elsewhere / "mine.yaml", "_BASE_: ../segmentation/cloud_config.yaml\n")
    with pytest.raises(UserError, match=r"mine\.yaml, .* is configs/segmentation/clouds_config\.yaml\.$"):
        load_config("mine.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a" * 5000, r"cannot be read \(File name too long\)\.$"),
        ("a\0b.yaml", "does not exist; the most similar one is configs/.*$"),
        (".", r"is not a file\.$"),
        ("none.unknown", r"none\.unknown does not exist\.$"),
    ],
)
def test_other_names(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^A file .*{message}"):
        existing_file(name, "A file")
    assert similar_file("none.unknown") == ""


def test_a_clone_is_installed_from_its_folder_and_a_wheel_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert install_command("web") == "pip install -e '.[web]'"
    assert install_command() == "pip install -r requirements.txt -e ."
    monkeypatch.setattr("clouds.utils.resources.is_clone", lambda: False)
    assert install_command("web") == "pip install 'clouds-dgss[web]'"
    assert install_command() == "pip install clouds-dgss"
