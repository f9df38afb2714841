"""Draw a picture of all domains: python projects/minicity/tools/contact_sheet.py [--output FILE] [--columns N] [--seed N].

Rows of domains, columns of scenes; every scene is its image above its label map, with its caption below.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from minicity.tool import check_counts
from minicity.world.render import Rendered, render_scene
from minicity.world.styles import STYLES
from PIL import Image, ImageDraw, ImageFont

from clouds.commands.entry import user_errors
from clouds.data.classes import CITYSCAPES_COLORS

_GAP = 6
_LINES = 3
_LINE_HEIGHT = 12
_SHOWN = (160, 320)  # shrunk from 256x512, to keep the file small
_COLOURS = 56
_PALETTE = np.array(CITYSCAPES_COLORS, dtype=np.uint8)


def contact_sheet(styles: Sequence[str], columns: int, seed: int, start: int = 0) -> Image.Image:
    """The sheet as a PIL image."""
    height, width = _SHOWN
    cell = (width + _GAP, 2 * height + _LINES * _LINE_HEIGHT + 2 * _GAP)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, len(styles) * cell[1] + _GAP), "white")
    for row, style in enumerate(styles):
        for column in range(columns):
            rendered = render_scene(style, seed, start + column)
            _paste(sheet, rendered, style, (_GAP + column * cell[0], _GAP + row * cell[1]))
    return sheet


def _paste(sheet: Image.Image, rendered: Rendered, style: str, corner: tuple[int, int]) -> None:
    height, width = _SHOWN
    x, y = corner
    image = Image.fromarray(rendered.image).resize((width, height), Image.Resampling.BOX)
    # Few colours for each picture, chosen from its own, keep the file small and are hardly seen.
    image = image.quantize(_COLOURS, dither=Image.Dither.NONE).convert("RGB")
    label = Image.fromarray(_PALETTE[rendered.label]).resize((width, height), Image.Resampling.NEAREST)
    sheet.paste(image, (x, y))
    sheet.paste(label, (x, y + height))
    text = textwrap.wrap(f"{style}: {rendered.caption}", 62)[:_LINES]
    for index, line in enumerate(text):
        position = (x, y + 2 * height + 1 + index * _LINE_HEIGHT)
        ImageDraw.Draw(sheet).text(position, line, fill="black", font=ImageFont.load_default(size=10))


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw a sheet of scenes, label maps and captions of every domain.")
    parser.add_argument(
        "--output", type=Path, default=Path("projects/minicity/docs/worlds.png"), help="default: %(default)s"
    )
    parser.add_argument("--columns", type=int, default=3, help="scenes per domain (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes (default: %(default)s)")
    parser.add_argument("--start", type=int, default=44, help="number of the first scene (default: %(default)s)")
    parser.add_argument("--styles", nargs="+", default=list(STYLES), metavar="NAME", help="default: all domains")
    args = parser.parse_args(argv)
    check_counts(args, "columns")
    sheet = contact_sheet(args.styles, args.columns, args.seed, args.start)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.output, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
