"""Overview of the domains: a contact sheet of scenes, label maps and captions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.images import encoded
from clouds.visualization.contact_sheet import contact_sheet
from clouds.visualization.palette import colorize
from minicity.world.render import render_scene
from minicity.world.styles import STYLES

COLUMNS, CELL_WIDTH = 3, 320
COLORS = 192


def write_overview(
    file: Path, *, styles: Sequence[str] | None = None, scenes: int = 1, seed: int = 0, start: int = 0
) -> None:
    """Write a PNG file that shows scenes of each domain above their label maps.

    Args:
        file: PNG file to write. Its colors are reduced to a palette of `COLORS`, to keep it small.
        styles: names of domains; default all of `STYLES`.
        scenes: number of scenes per domain.
        seed: seed of the scenes.
        start: index of the first scene.

    Raises:
        UserError: there is no style of such a name.
    """
    images, captions = [], []
    for index in range(start, start + scenes):
        for style in styles or STYLES:
            rendered = render_scene(style, seed, index)
            images.append(Image.fromarray(np.vstack([rendered.image, colorize(rendered.label)])))
            captions.append(f"{style}: {rendered.caption}")
    sheet = contact_sheet(
        images, captions, title="minicity: scenes and label maps", columns=COLUMNS, cell_width=CELL_WIDTH
    )
    make_folder(file.parent)
    write_atomically(file, encoded(sheet.quantize(COLORS), "PNG", optimize=True))
