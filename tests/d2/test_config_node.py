"""CfgNode and @configurable, in whichever mode the suite runs."""

import pytest

from clouds.d2 import CfgNode, configurable, get_cfg


@pytest.fixture
def cfg():
    tree = get_cfg()
    tree.A = CfgNode({"NUMBER": 1, "NAMES": ("x",), "RATE": 0.5})
    return tree


def test_file_with_base(cfg, tmp_path):
    (tmp_path / "base.yaml").write_text("VERSION: 2\nA:\n  NUMBER: 2\n  RATE: 0.25\n")
    (tmp_path / "top.yaml").write_text('_BASE_: base.yaml\nA:\n  NUMBER: 3\n  NAMES: ("y", "z")\n')
    cfg.merge_from_file(str(tmp_path / "top.yaml"))
    assert dict(cfg.A) == {"NUMBER": 3, "NAMES": ("y", "z"), "RATE": 0.25}


def test_list_and_dump(cfg, tmp_path):
    cfg.merge_from_list(["A.NUMBER", "7", "A.NAMES", "['q']"])
    assert cfg.A.NUMBER == 7
    assert cfg.A.NAMES == ("q",)
    (tmp_path / "dumped.yaml").write_text(cfg.dump())
    again = get_cfg()
    again.A = CfgNode({"NUMBER": 0, "NAMES": (), "RATE": 0.0})
    again.merge_from_file(str(tmp_path / "dumped.yaml"))
    assert again.A == cfg.A


def test_invalid_settings(cfg, tmp_path):
    with pytest.raises(AssertionError, match=r"A\.NUMBRE"):
        cfg.merge_from_list(["A.NUMBRE", "7"])
    with pytest.raises(ValueError, match=r"A\.NUMBER"):
        cfg.merge_from_list(["A.NUMBER", "seven"])
    (tmp_path / "unknown.yaml").write_text("VERSION: 2\nB: 1\n")
    with pytest.raises(KeyError, match="B"):
        cfg.merge_from_file(str(tmp_path / "unknown.yaml"))


def test_freeze(cfg):
    copy = cfg.clone()
    cfg.freeze()
    with pytest.raises(AttributeError):
        cfg.A.NUMBER = 2
    copy.A.NUMBER = 2
    assert cfg.A.NUMBER == 1


def test_defaults_are_copies():
    get_cfg().MODEL.DEVICE = "elsewhere"
    assert get_cfg().MODEL.DEVICE == "cuda"


class Part:
    @configurable
    def __init__(self, number, *, rate=0.0, shape=None):
        self.values = (number, rate, shape)

    @classmethod
    def from_config(cls, cfg, shape=None):
        return {"number": cfg.A.NUMBER, "shape": shape and shape * 2}


class Heir(Part):
    @classmethod
    def from_config(cls, cfg, **kwargs):
        return {"number": -cfg.A.NUMBER, **kwargs}


def test_configurable_class(cfg):
    assert Part(4, rate=1.0).values == (4, 1.0, None)
    assert Part(cfg).values == (1, 0.0, None)
    assert Part(cfg, 3).values == (1, 0.0, 6)
    assert Part(cfg=cfg, rate=2.0, number=9).values == (9, 2.0, None)
    assert Heir(cfg, rate=3.0).values == (-1, 3.0, None)


def test_configurable_misused(cfg):
    class Without:
        @configurable
        def __init__(self, number):
            pass

    class NotClassmethod(Without):
        def from_config(self, cfg):
            return {}

    class Misnamed(Without):
        @classmethod
        def from_config(cls, config):
            return {}

    with pytest.raises(AttributeError, match="from_config"):
        Without(cfg)
    with pytest.raises(TypeError, match="from_config"):
        NotClassmethod(cfg)
    with pytest.raises(TypeError, match="cfg"):
        Misnamed(cfg)
    with pytest.raises(AssertionError):
        configurable(lambda number: number)
