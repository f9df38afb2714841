"""Every key with every kind of bad value, from a command line and from a file: one sentence that names the key."""

import math

import pytest

from clouds.config import load_config
from clouds.config.keys import value_of
from clouds.errors import MESSAGE_LENGTH, UserError
from clouds.utils.yaml_files import parse_yaml
from tests.config.keys import KNOWN

LITERALS = (
    *("0", "-1", "-5", "1.5", "10**9", str(10**9), str(10**400), "0x" + "f" * 5000, "nan", "1e999", "-1e999"),
    *(
        "()",
        "[]",
        "(0,)",
        "(0, 0)",
        "(-1, -1)",
        "(1, 2, 3, 4)",
        "('a', 1)",
        "(None,)",
        "((1, 2), 3)",
        f"({10**400}, 1)",
    ),
    *("True", "None", "''", "soon", "{}", "{'a': 1}", "{[]: 1}", "{1, 2}", "1j", "(1 + 1j, 2)", "b'a'", "...", "a\0b"),
    *("a\nb" * 1000, "\u202e"),
)
IN_YAML = (
    *(
        "0",
        "-1",
        "1.5",
        "1000000000",
        "1" * 99,
        ".nan",
        ".inf",
        "-.inf",
        "yes",
        "~",
        '""',
        "soon",
        "{}",
        "{a: {b: [1]}}",
    ),
    *("[]", "[0]", "[0, 0]", "[-1, -1]", "[1, 2, 3, 4]", "[~]", "[[1, 2], 3]", "[.nan, .nan]", "[a, a]", "[{a: 1}]"),
    *('"{[]: 1}"', '"a\\nb"', '"a\\0b"', "x" * 300, "2026-11-27"),
)
# Texts that Python's parser cannot take; slow, so tried with one key of each type.
UNPARSABLE = (*("-" * 20_000, "[" * 20_000, "[" * 150 + "]" * 150, "{1:" * 20_000, "1+" * 20_000 + "1", "1" * 5000),)
ONE_OF_EACH_TYPE = (
    "INPUT.FLIP",
    "SOLVER.MAX_ITER",
    "SOLVER.BASE_LR",
    "SOLVER.OPTIMIZER",
    "INPUT.CROP_SIZE",
    "SOLVER.STEPS",
)


def usable(key, value):
    """Whether a value that was accepted is of the type of the default and finite, and its texts are printable."""
    items = value if isinstance(value, list | tuple) else [value]
    finite = all(math.isfinite(item) or key.endswith("NORM_TYPE") for item in items if isinstance(item, int | float))
    return type(value) is type(KNOWN[key]) and finite and all(i.isprintable() for i in items if isinstance(i, str))


def outcome(key, load):
    """The config if it is accepted, after checks of the message if it is not."""
    try:
        cfg = load()
    except UserError as error:
        assert key in str(error)
        assert len(str(error)) <= MESSAGE_LENGTH
        assert str(error).isprintable()
        return None
    assert usable(key, value_of(cfg, key)), value_of(cfg, key)
    return cfg


@pytest.mark.parametrize("key", KNOWN)
def test_command_line(key):
    accepted = [text for text in LITERALS if outcome(key, lambda text=text: load_config(None, [key, text]))]
    if not isinstance(KNOWN[key], str):
        assert len(accepted) < len(LITERALS) / 2


@pytest.mark.parametrize("key", KNOWN)
def test_file(key, tmp_path):
    file = tmp_path / "a.yaml"
    for text in IN_YAML:
        file.write_text(f"{key}: {text}\n", encoding="utf-8")
        if cfg := outcome(key, lambda: load_config(file)):
            written, value = parse_yaml(text, "x"), value_of(cfg, key)
            assert (list(value) if isinstance(value, tuple) else value) == ("" if written is None else written)


@pytest.mark.parametrize("key", [*ONE_OF_EACH_TYPE, "MODEL.PIXEL_MEAN", "DATASETS.TRAIN", "OUTPUT_DIR"])
@pytest.mark.parametrize("text", UNPARSABLE, ids=lambda text: text[:4])
def test_unparsable(key, text, tmp_path):
    assert not outcome(key, lambda: load_config(None, [key, text]))
    (tmp_path / "a.yaml").write_text(f"{key}: '{text}'\n", encoding="utf-8")
    assert not outcome(key, lambda: load_config(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(("SOLVER.MAX_ITER", text) for text in ("0", "-5", str(10**30))),
        *(("INPUT.CROP_SIZE", text) for text in ("(0, 0)", "(8,)", "()", str((10**9, 10**9)))),
        *(("DATALOADER.NUM_WORKERS", text) for text in ("-2", str(10**9))),
        *(("SOLVER.WARMUP_FACTOR", text) for text in ("-3", "nan", "True")),
        *(("SOLVER.BASE_LR", text) for text in ("{[]:1}", "-" * 20_000, "1e999", "1e300")),
        *(("MODEL.PIXEL_STD", text) for text in ("[0, 0, 0]", "[1]")),
        *(("SEED", text) for text in (str(2**63), "1.0")),
        *(("SOLVER.IMS_PER_BATCH", text) for text in ("0", str(10**9))),
        *(("MODEL.DEVICE", text) for text in ("", "tpu", "cuda:-1")),
        *(("DATASETS.TRAIN", text) for text in ("('a', 'a')", "('',)", "{'a'}")),
        ("OUTPUT_DIR", "x" * 300),
    ],
)
def test_rejected(key, text):
    with pytest.raises(UserError, match=key):
        load_config(None, [key, text])
