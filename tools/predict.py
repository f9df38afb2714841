"""Label your own images.

    python tools/predict.py --config-file FILE INPUT... --output DIR MODEL.WEIGHTS model_final.pth

INPUT is an image or a folder (searched with its sub-folders). For every image DIR gets, in the same sub-folders,
NAME_labels.png (train ids, 8 bit) and NAME_overlay.jpg (the classes' colours over the image).
"""

import argparse
import logging
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from clouds.engine.cli import check_weights, own_dataset, user_errors
from clouds.errors import UserError

logger = logging.getLogger("clouds.predict")

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)*")


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Label every input; an unreadable image is told at the end and does not keep the others from being done."""
    # Here, where a wrong CLOUDS_D2 in the environment is caught like any other error.
    from clouds.config import load_config

    args, opts = parse_arguments(argv)
    cfg = load_config(args.config_file, [*own_dataset(args.dataset), *opts])
    check_weights(cfg.MODEL.WEIGHTS)
    jobs = plan(args.inputs, args.output)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot create the folder {args.output} (--output): {error.strerror}.") from error

    import numpy as np
    from PIL import Image
    from tqdm import tqdm

    from clouds.data.datasets.catalog import register_datasets
    from clouds.engine.predictor import Predictor
    from clouds.engine.setup import resolve_device, start_log
    from clouds.utils.images import read_image
    from clouds.visualization.palette import overlay

    start_log(None)
    resolve_device(cfg)
    register_datasets(modules=cfg.DATASETS.MODULES, custom=cfg.DATASETS.CUSTOM)
    cfg.freeze()
    predict = Predictor(cfg)
    unreadable = []
    for source, target in tqdm(jobs.items(), unit="image"):
        try:
            labels = predict(source)
        except UserError as error:
            unreadable.append(str(error))
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(f"{target}_labels.png")
        picture = overlay(np.asarray(read_image(str(source))), labels, predict.colors)
        Image.fromarray(picture).save(f"{target}_overlay.jpg", quality=90)
    if unreadable:
        raise UserError(f"{len(unreadable)} of {len(jobs)} images failed, the others are done; first: {unreadable[0]}")
    logger.info(f"{len(jobs)} images labelled in {args.output}")
    return 0


def parse_arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Flags and inputs, and the KEY VALUE pairs: they begin at the first word that looks like a config key."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML file with the settings")
    parser.add_argument("--dataset", metavar="FILE", help="YAML file of a data set of your own, for its classes")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("words", nargs="*", metavar="INPUT | KEY VALUE", help="images and folders, then settings")
    args = parser.parse_intermixed_args(argv)
    first_key = next((at for at, word in enumerate(args.words) if looks_like_key(word)), len(args.words))
    args.inputs = [Path(word) for word in args.words[:first_key]]
    return args, args.words[first_key:]


def looks_like_key(word: str) -> bool:
    """``MODEL.WEIGHTS`` and ``SEED`` do, ``IMG.PNG`` and an existing folder ``IMAGES`` do not."""
    return bool(CONFIG_KEY.fullmatch(word)) and Path(word).suffix.lower() not in SUFFIXES and not Path(word).exists()


def plan(inputs: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Every image to label -> the path in ``output``, less its ending, that its results get; in sorted order."""
    found: dict[Path, Path] = {}
    for entry in inputs:
        if entry.is_file():
            found[entry] = Path(entry.name)
        elif entry.is_dir():
            files = sorted(path for path in entry.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
            # Results of an earlier run may lie inside the folder that is labelled again.
            found |= {path: path.relative_to(entry) for path in files if not path.is_relative_to(output)}
        else:
            raise UserError(f"Input not found: there is no file or folder '{entry}'.")
    if not found:
        where = ", ".join(map(str, inputs)) or "the command line"
        raise UserError(f"No image to label in {where}: give files or folders with {', '.join(sorted(SUFFIXES))}.")
    stems = Counter(path.with_suffix("") for path in found.values())
    # a.jpg beside a.png: the ending stays in the name of both results.
    shared = {stem for stem, count in stems.items() if count > 1}
    names = {source: name if name.with_suffix("") in shared else name.with_suffix("") for source, name in found.items()}
    twice = [str(name) for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise UserError(f"Two inputs are called {twice[0]}: label their folders one at a time, each with its --output.")
    return {source: output / name for source, name in names.items()}


if __name__ == "__main__":
    sys.exit(main())
