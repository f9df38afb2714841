"""Measure a CLIP on minicity: captions of streets found again, and classes of pixels without a segmenter.

    python tools/minicity/measure_clip.py [FOLDER]

FOLDER (default: weights/minicity_clip) is in open_clip's layout. Prints two tables in Markdown, those of its card.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from clouds.engine.cli import user_errors
from clouds.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SEED = 1
"""Not that of the training."""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "weights/minicity_clip", metavar="FOLDER")
    parser.add_argument("--scenes", type=int, default=60, help="new streets a row (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.scenes < 1:
        raise UserError(f"--scenes is {args.scenes}; it must be 1 or more.")
    if not (args.folder / "open_clip_config.json").is_file():
        raise UserError(f"There is no CLIP in {args.folder}: it must be a folder with open_clip_config.json in it.")
    logging.disable(logging.INFO)
    for line in measured(args.folder, args.scenes):
        sys.stdout.write(f"{line}\n")
    return 0


def measured(folder: Path, scenes: int) -> Iterator[str]:
    """The lines of both tables."""
    from clouds.data.labels import CITYSCAPES_CLASSES
    from clouds.minicity.clip_quality import dense_scores, features, retrieval
    from clouds.minicity.diffusion_pool import draw_captioned
    from clouds.minicity.sam_pool import draw_streets
    from clouds.minicity.wide import test_sets
    from clouds.modeling.backbone.clip import CLIP

    clip = CLIP.from_folder(folder)
    yield "## Retrieval"
    yield ""
    yield f"Of {scenes} new streets a row, at 128 x 256 pixels, and their captions, each finds its own among all, in %."
    yield ""
    yield "| | caption of a street: first | first five | street of a caption: first | first five | chance, first |"
    yield "|---|---|---|---|---|---|"
    for row, styles in test_sets().items():
        drawn = draw_captioned(styles, SEED, range(scenes))
        seen, read = features(clip, drawn.images, drawn.captions)
        ways = retrieval(seen, read, drawn.captions), retrieval(read, seen, drawn.captions)
        cells = [*(share for way in ways for share in (way.first, way.first_five)), ways[0].chance]
        yield f"| {row} | " + " | ".join(f"{100 * cell:.1f}" for cell in cells) + " |"
    yield ""
    yield "## Zero-shot accuracy of pixels"
    yield ""
    yield f"Of {scenes} new streets a row, at 256 x 512 pixels: each element of the last map, 32 pixels a side, against"
    yield "the names of the 19 classes; in %."
    yield ""
    yield "| | pixels right | mean of classes | mIoU |"
    yield "|---|---|---|---|"
    classifier = clip.text_classifier(CITYSCAPES_CLASSES)
    for row, styles in test_sets().items():
        streets = draw_streets(styles, SEED, range(scenes))
        found = dense_scores(clip, classifier, streets.images, streets.labels)
        yield f"| {row} | {found.pacc:.1f} | {found.macc:.1f} | {found.miou:.1f} |"


if __name__ == "__main__":
    sys.exit(main())
