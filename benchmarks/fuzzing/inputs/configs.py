"""Configs: YAML files with their bases, and KEY VALUE pairs of the command line."""

import random
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from clouds.config import check_weights, load_config
from clouds.config.defaults import DEFAULTS, IGNORED_KEYS
from clouds.config.keys import leaves
from fuzzing.inputs.kind import KEYS, Kind
from fuzzing.mutation import HOSTILE, hostile_text, json_bytes, mutate_bytes, mutate_file, mutate_tree, weighted

_SHIPPED = Path(__file__).resolve().parents[3] / "configs"


@cache
def _trees() -> list[dict[str, Any]]:
    """Shipped configs, and all defaults."""
    files = sorted(path for path in _SHIPPED.rglob("*.yaml") if path.parent.name != "datasets")
    return [_plain(DEFAULTS), *(yaml.safe_load(path.read_text(encoding="utf-8")) for path in files)]


def _plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    return list(tree) if isinstance(tree, tuple) else tree


def _text(rng: random.Random, tree: Any) -> bytes:
    if rng.random() < 0.3:
        return json_bytes(rng, tree)  # flow style: YAML reads most of JSON
    try:
        return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, RecursionError, UnicodeError, ValueError):
        return json_bytes(rng, tree)


_LINES = (
    *(
        "MODEL: &m {WEIGHTS: *m}\n",
        "a: &a [*a, *a]\n",
        "<<: {SEED: 1}\n",
        "SEED: 1\nSEED: 2\n",
        "SEED: !!python/name:os\n",
    ),
    *("? [1, 2]\n: 3\n", "--- 1\n--- 2\n", "SEED: 0x1F\n", "SEED: 1_000\n", "SEED: 12:30:45\n", "SEED: 2026-01-01\n"),
    *("SOLVER:\n\tMAX_ITER: 5\n", "SEED: !!binary aGVsbG8=\n", "SEED: !!set {1, 2}\n", "%YAML 9.9\n---\nSEED: 1\n"),
    "x: " + "[" * 400 + "]" * 400 + "\n",
    "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: &d [*c, *c]\ne: &e [*d, *d]\nf: [*e, *e]\n" * 2,
)


def _write(folder: Path, rng: random.Random) -> list[str]:
    """Write config.yaml with its bases, and return KEY VALUE pairs."""
    tree = mutate_tree(rng, rng.choice(_trees()), rng.choice((0, 0, 0, 1, 1, 2)))
    if isinstance(tree, dict) and isinstance(tree.get("MODEL"), dict):
        tree["MODEL"].pop("WEIGHTS", None)  # no such file here
    if isinstance(tree, dict) and "_BASE_" in tree:
        base = "base.yaml" if rng.random() < 0.8 else rng.choice(("config.yaml", "base.yaml/", "../x", tree["_BASE_"]))
        tree["_BASE_"] = base if rng.random() < 0.9 else [base, base]
        (folder / "base.yaml").write_bytes(_text(rng, rng.choice(_trees()[1:]) | {"_BASE_": []}))
    content = _text(rng, tree)
    if rng.random() < 0.1:
        content = rng.choice(_LINES).encode() + (content if rng.random() < 0.5 else b"")
    if rng.random() < 0.15:
        content = mutate_bytes(rng, content, rng.choice((1, 1, 3)))
    (folder / "config.yaml").write_bytes(content)
    if rng.random() < 0.01:
        mutate_file(rng, folder / "config.yaml")
    return [word for _ in range(rng.choice((0, 0, 1, 1, 2))) for word in _pair(rng)][: rng.choice((99, 99, 99, 1))]


def _pair(rng: random.Random) -> tuple[str, str]:
    key, default = rng.choice(list(leaves(DEFAULTS)))
    ignored = sorted(IGNORED_KEYS)
    key = weighted(
        rng,
        (20, key),
        (1, key.lower()),
        (1, key[:-1]),
        (1, rng.choice(ignored)),
        (1, key.rpartition(".")[0]),
        (1, hostile_text(rng)[:200]),
    )
    value = weighted(
        rng, (3, str(rng.choice(HOSTILE))[:30_000]), (3, str(default)), (1, f"[{default}]"), (1, f"-{default}")
    )
    return str(key), value


def _read(folder: Path, opts: list[str]) -> None:
    cfg = load_config(folder / "config.yaml", opts)
    check_weights(cfg.MODEL.WEIGHTS)
    copy = folder / "resolved.yaml"
    copy.write_text(cfg.dump(), encoding="utf-8")  # as the record of a run does
    if load_config(copy).dump() != cfg.dump():
        raise AssertionError("the resolved config does not read as the config that was written")


KIND = Kind(_write, _read, KEYS)
