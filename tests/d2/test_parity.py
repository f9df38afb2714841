"""The bundled subset compared with detectron2, where that is installed, in either mode of the suite."""

import importlib
import importlib.util
import inspect

import pytest

from clouds import d2
from clouds.config import get_config, load_config
from clouds.config.defaults import DEFAULTS, IGNORED_KEYS, IGNORED_SECTIONS

SPEC = importlib.util.find_spec("detectron2")
pytestmark = [
    pytest.mark.d2,
    pytest.mark.skipif(SPEC is None or SPEC.origin is None, reason="detectron2 is not installed"),
]

# Intended differences, with the reason.
DIFFERENT = {"Backbone.forward": "detectron2's abstract method takes no arguments, its implementations take some"}


def pair(name):
    """(detectron2's object, the bundled one)."""
    theirs, ours = (
        importlib.import_module(f"{package}.{module}")
        for package, module in zip(("detectron2", "clouds.d2.bundled"), d2._NAMES[name], strict=True)
    )
    return (theirs, ours) if name == "comm" else (getattr(theirs, name), getattr(ours, name))


def differences(ours, theirs):
    """Parameters of ours that theirs does not take in the same place, under the same name, with the same default.

    Ours may lack parameters and may require one that is optional in theirs: a call that ours accepts then means the
    same to theirs.
    """
    ours, theirs = (inspect.signature(function).parameters for function in (ours, theirs))
    places = {name: place for place, name in enumerate(theirs)}
    return [
        name
        for place, (name, parameter) in enumerate(ours.items())
        if name not in theirs
        or parameter.kind != theirs[name].kind
        or (parameter.kind != parameter.KEYWORD_ONLY and place != places[name])
        or parameter.default not in (parameter.empty, theirs[name].default)
    ]


def methods(thing):
    """The public functions that the bundled class, instance or module defines itself."""
    owner = thing if inspect.isclass(thing) or inspect.ismodule(thing) else type(thing)
    return [
        name
        for name, value in vars(owner).items()
        if (not name.startswith("_") or name == "__init__")
        and inspect.isroutine(getattr(owner, name))
        and getattr(value, "__module__", owner.__name__).startswith("clouds.")
    ]


@pytest.mark.parametrize("name", d2._NAMES)
def test_signatures(name):
    theirs, ours = pair(name)
    if inspect.isfunction(ours):
        assert differences(ours, theirs) == []
        return
    for method in methods(ours):
        if f"{name}.{method}" not in DIFFERENT:
            assert differences(getattr(ours, method), getattr(theirs, method)) == [], method


@pytest.mark.parametrize("where", DIFFERENT)
def test_intended_differences_are_differences(where):
    name, method = where.split(".")
    theirs, ours = (getattr(owner, method) for owner in pair(name))
    assert differences(ours, theirs)


def test_signatures_are_compared():
    compared = {name: methods(pair(name)[1]) for name in ("Instances", "comm", "DatasetCatalog", "EventStorage")}
    assert {"to", "__init__"} <= set(compared["Instances"])
    assert {"all_gather", "shared_random_seed"} <= set(compared["comm"])
    assert {"register", "get"} <= set(compared["DatasetCatalog"])
    assert {"put_scalar", "histories"} <= set(compared["EventStorage"])


def takes(a, b=1, *, c=2):
    pass


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (lambda a, b=1: None, []),
        (lambda a, b, *, c=2: None, []),
        (lambda b, a: None, ["b", "a"]),
        (lambda a, b=3: None, ["b"]),
        (lambda a, c=2: None, ["c"]),
        (lambda a, d=0: None, ["d"]),
    ],
)
def test_the_comparison_finds(ours, expected):
    assert differences(ours, takes) == expected


def test_registries_in_use():
    from detectron2.modeling import META_ARCH_REGISTRY

    assert (d2.META_ARCH_REGISTRY is META_ARCH_REGISTRY) == (d2.MODE == "detectron2")


def test_default_config():
    real, ours = (get_cfg() for get_cfg in pair("get_cfg"))

    def compare(node, other):
        for key, value in node.items():
            if isinstance(value, dict):
                compare(value, other[key])
            else:
                assert value == other[key], key

    compare(ours, real)


def _leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_dump_of_detectron2_mode_loads(tmp_path, monkeypatch):
    real, _ = pair("get_cfg")
    known = set(_leaves(DEFAULTS))
    for key in _leaves(real()):
        assert key in known or key in IGNORED_KEYS or key.startswith(tuple(f"{s}." for s in IGNORED_SECTIONS)), key
    with monkeypatch.context() as patch:
        patch.setattr(d2, "get_cfg", real)
        dumped = get_config()
    assert set(_leaves(real())) <= set(_leaves(dumped))
    dumped.SOLVER.IMS_PER_BATCH = 6
    (tmp_path / "real.yaml").write_text(dumped.dump())
    cfg = load_config(tmp_path / "real.yaml")
    assert cfg.SOLVER.IMS_PER_BATCH == 6
    assert cfg.MODEL.CLOUDS == get_config().MODEL.CLOUDS


def test_console_and_smoothed_scalars(monkeypatch):
    lines, rows = [], []
    for side in (0, 1):
        printer = pair("CommonMetricPrinter")[side](50)
        monkeypatch.setattr(printer.logger, "info", lambda text: lines.append(text.split()))
        with pair("EventStorage")[side](3) as storage:
            for iteration in range(3, 30):
                storage.iter = iteration
                storage.put_scalar("loss_ce", iteration**2 % 7)
                storage.put_scalar("time", 0.5 + iteration)
                storage.put_scalar("data_time", 0.1 * iteration)
                storage.put_scalar("lr", 1e-4, smoothing_hint=False)
                storage.put_scalar("[metric] share", iteration / 3)
            printer.write()
            rows.append(storage.latest_with_smoothing_hint(20))
    assert lines[0] == lines[1]
    assert len(lines[0]) > 15
    assert rows[0] == rows[1]


@pytest.mark.parametrize("line", ["", "--resume --num-gpus 2 SEED 1", "--config-file x.yaml --eval-only A b --resume"])
def test_flags(line):
    theirs, ours = (parser().parse_args(line.split()) for parser in pair("default_argument_parser"))
    assert vars(theirs) == vars(ours)
