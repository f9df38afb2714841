"""Measure the speed of the renderer: images of 256 x 512 pixels per second on one core.

    taskset -c 0 python projects/minicity/benchmarks/render.py [--images N]

`taskset` pins the process, because OpenCV uses several threads for its filters. For comparison, the benchmark also
measures as many bare polygon fills of OpenCV as a scene has.
"""

import sys
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from minicity.world.render import render_scene
from minicity.world.styles import STYLES

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser, positive_int

_FILLS = 1500  # approximate number of polygons in a scene


def seconds_per_call(call: Callable[[int], object], count: int) -> float:
    """Return the processor time of one call, so that other processes on the machine do not count."""
    start = time.process_time()
    for index in range(count):
        call(index)
    return (time.process_time() - start) / count


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure the polygon fills, then one style after the other."""
    parser = CommandParser(__doc__)
    parser.add_argument("--images", type=positive_int, default=40, help="images per style (default: %(default)s)")
    args = parser.parse_args(argv)
    canvas = np.zeros((256, 512, 4), np.uint8)
    corners = np.array([[160, 160], [960, 192], [928, 1120], [144, 1056]], np.int32)
    fill = seconds_per_call(lambda index: cv2.fillPoly(canvas, [corners], (1, 2, 3, 4), cv2.LINE_8, 4), 20000)
    sys.stdout.write(f"{_FILLS} polygon fills: {1000 * _FILLS * fill:.1f} ms\n")
    for style in STYLES:
        # The first scenes of a process also build the meshes that later scenes share.
        for index in range(args.images):
            render_scene(style, 1, index)
        each = seconds_per_call(lambda index, style=style: render_scene(style, 2, index), args.images)
        row = f"{style:15s} {1 / each:5.1f} images/s {1000 * each:6.1f} ms {each / (_FILLS * fill):5.1f} x the fills\n"
        sys.stdout.write(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
