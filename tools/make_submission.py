"""Label the test split of Cityscapes or ACDC, and make the zip that its server takes.

    python tools/make_submission.py --config-file FILE --benchmark cityscapes|acdc --output DIR \\
        MODEL.WEIGHTS model_final.pth

Every image is labelled at its own size. DIR gets `<benchmark>_<split>/` with a PNG an image, `<benchmark>_<split>.zip`,
and `<benchmark>_<split>.json`, which says what made them. Cityscapes wants label ids (7, 8, 11, ...), ACDC train ids;
clouds/evaluation/submission.py has all that the servers want. The same command goes on after a stop: what is there and
whole is kept. With --split val the files are those for the validation split, to be scored with the data set's own
scripts. No label map is needed.
"""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouds.engine.cli import check_weights, user_errors
from clouds.errors import UserError

if TYPE_CHECKING:
    from clouds.d2 import CfgNode

logger = logging.getLogger("clouds.make_submission")


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Label what is missing, then zip. An unreadable image is told at the end, when the others are done."""
    # Here, where a wrong CLOUDS_D2 in the environment is caught like any other error.
    from clouds.config import load_config

    args = parse_arguments(argv)
    cfg = load_config(args.config_file, args.opts)
    check(cfg)

    from clouds.data.datasets.builtin import data_root
    from clouds.data.datasets.catalog import register_datasets
    from clouds.engine.setup import start_log
    from clouds.evaluation.submission import BENCHMARKS, find_images, is_whole, keep_origin, write_archive

    start_log(None)
    benchmark, name = BENCHMARKS[args.benchmark], f"{args.benchmark}_{args.split}"
    images = find_images(benchmark, args.split, data_root())
    folder, archive = args.output / name, args.output / f"{name}.zip"
    register_datasets(modules=cfg.DATASETS.MODULES, custom=cfg.DATASETS.CUSTOM)
    settings = origin(cfg)
    with told(args.output):
        args.output.mkdir(parents=True, exist_ok=True)
        keep_origin(args.output / f"{name}.json", settings, folder)
        folder.mkdir(exist_ok=True)
    missing = {file: image for file, image in images.items() if not is_whole(folder / file, image, benchmark.ids)}
    if missing:
        label(cfg, missing, folder, benchmark.ids)
    with told(archive):
        size = write_archive(archive, benchmark, folder, images)
    logger.info(
        f"{archive} is made and checked: {len(images)} predictions, {len(missing)} of them new, {size / 1e6:.1f} MB"
    )
    if benchmark.limit and size > benchmark.limit:
        logger.warning(f"The server of {benchmark.title} is said to take {benchmark.limit / 1e6:.0f} MB at most")
    if args.split == "test":
        logger.info(f"Hand it in at {benchmark.advice}")
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Flags, and the KEY VALUE pairs in `opts`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML file with the settings")
    parser.add_argument("--benchmark", required=True, choices=("cityscapes", "acdc"), help="whose server it is for")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--split", default="test", choices=("test", "val"), help="default: %(default)s")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings")
    return parser.parse_intermixed_args(argv)


def check(cfg: "CfgNode") -> None:
    """`UserError` unless there are weights, and of a network with as many classes as the servers know."""
    from clouds.data.classes import CITYSCAPES_CLASSES

    if not cfg.MODEL.WEIGHTS:
        raise UserError("A submission needs a trained network: give MODEL.WEIGHTS model_final.pth.")
    check_weights(cfg.MODEL.WEIGHTS)
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if classes != len(CITYSCAPES_CLASSES):
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {classes}, but the servers know the {len(CITYSCAPES_CLASSES)} classes "
            "of Cityscapes: take a network that was trained on these."
        )


def origin(cfg: "CfgNode") -> dict[str, Any]:
    """Everything that decides a prediction: the weights' SHA-256, the network, its input, the names of the classes."""
    from clouds.clouds import class_names
    from clouds.d2 import PathManager
    from clouds.data.classes import CITYSCAPES_CLASSES, short_name
    from clouds.utils.hashing import file_sha256

    names = [short_name(name) for name in class_names(cfg.DATASETS.TEST)]
    if names != [short_name(name) for name in CITYSCAPES_CLASSES]:
        raise UserError(
            f"The network would label by the classes of {cfg.DATASETS.TEST[0]} (DATASETS.TEST), which are not those of "
            "Cityscapes: give DATASETS.TEST \"('cityscapes_val',)\"."
        )
    try:
        digest = file_sha256(Path(PathManager.get_local_path(cfg.MODEL.WEIGHTS)))
    except OSError as error:
        raise UserError(f"Weights not found: {cfg.MODEL.WEIGHTS} cannot be read ({error}).") from error
    settings = {key: value for key, value in leaves(cfg.MODEL, "MODEL") if key not in ("MODEL.WEIGHTS", "MODEL.DEVICE")}
    return {
        "weights": digest,
        "classes": list(class_names(cfg.DATASETS.TEST)),
        "INPUT.TEST_SHORT_EDGE": cfg.INPUT.TEST_SHORT_EDGE,
        **settings,
    }


def leaves(tree: "CfgNode", prefix: str) -> list[tuple[str, Any]]:
    """Every setting below a section by its full name."""
    found = []
    for key, value in tree.items():
        name = f"{prefix}.{key}"
        found += leaves(value, name) if isinstance(value, dict) else [(name, value)]
    return found


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Where writing fails, for want of space or of permission, it is the user's to hear."""
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot write {path} (--output): {error.strerror or error}.") from error


def label(cfg: "CfgNode", missing: dict[str, Path], folder: Path, ids: tuple[int, ...]) -> None:
    """Write the predictions that are missing; `UserError` at the end if images could not be read."""
    from tqdm import tqdm

    from clouds.engine.predictor import Predictor
    from clouds.engine.setup import resolve_device
    from clouds.evaluation.submission import write_labels

    resolve_device(cfg)
    cfg.freeze()
    predict = Predictor(cfg)
    unreadable = []
    for file, image in tqdm(missing.items(), unit="image"):
        try:
            labels = predict(image)
        except UserError as error:
            unreadable.append(str(error))
            continue
        with told(folder / file):
            write_labels(folder / file, labels, ids)
    if unreadable:
        raise UserError(
            f"{len(unreadable)} of {len(missing)} images failed, the others are labelled; mend them and give the same "
            f"command again, which then makes the zip; first: {unreadable[0]}"
        )


if __name__ == "__main__":
    sys.exit(main())
