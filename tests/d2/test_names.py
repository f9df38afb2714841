"""The table of names and the choice between the two modes."""

import importlib.machinery
import importlib.util
import re
from pathlib import Path

import pytest

from clouds import d2
from clouds.errors import UserError


@pytest.fixture
def choose(monkeypatch):
    """Return a function that returns the mode for a value of CLOUDS_D2 and a spec of detectron2."""

    def ask(forced, spec):
        monkeypatch.setenv("CLOUDS_D2", forced)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
        d2._mode.cache_clear()
        return d2._mode()

    yield ask
    d2._mode.cache_clear()


INSTALLED = importlib.machinery.ModuleSpec("detectron2", None, origin="/somewhere/detectron2/__init__.py")
FOLDER = importlib.machinery.ModuleSpec("detectron2", None, is_package=True)


@pytest.mark.parametrize(
    ("forced", "spec", "mode"),
    [
        ("", None, "bundled"),
        ("", INSTALLED, "detectron2"),
        ("", FOLDER, "bundled"),
        ("bundled", INSTALLED, "bundled"),
        ("detectron2", INSTALLED, "detectron2"),
    ],
)
def test_mode(choose, forced, spec, mode):
    assert choose(forced, spec) == mode


@pytest.mark.parametrize("spec", [None, FOLDER])
def test_detectron2_forced_but_missing(choose, spec):
    with pytest.raises(UserError, match="detectron2 is not installed"):
        choose("detectron2", spec)


def test_unknown_mode(choose):
    with pytest.raises(UserError, match="use bundled or detectron2"):
        choose("detectron", INSTALLED)


def test_every_name_belongs_to_the_mode():
    expected = {"bundled": "clouds.d2.bundled", "detectron2": "detectron2"}[d2.MODE]
    elsewhere = {"Registry"}  # fvcore's, in both
    for name in set(d2.__all__) - {"MODE"}:
        value = getattr(d2, name)
        module = getattr(value, "__module__", None) or getattr(value, "__name__", None) or type(value).__module__
        assert (
            module.startswith(expected) or name in elsewhere or type(value).__module__.startswith(("fvcore", "iopath"))
        )


def test_unknown_name():
    with pytest.raises(AttributeError, match="DefaultTrainer"):
        d2.DefaultTrainer  # noqa: B018
    assert "TrainerBase" in dir(d2)


def test_every_name_is_used():
    root = Path(__file__).resolve().parents[2]
    files = [root / "train_net.py", root / "generate_txt_im.py"]
    for folder in ("clouds", "tools", "projects"):
        files += [
            path for path in (root / folder).rglob("*.py") if not {"d2", "tests"} & set(path.relative_to(root).parts)
        ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert [name for name in d2.__all__ if not re.search(rf"\b{name}\b", text)] == []
