"""Images of 256x512 that minicity draws in a second on one core: python projects/minicity/benchmarks/render.py [--images N].

OpenCV would use several threads for its filters, so pin the process: taskset -c 0 python projects/minicity/benchmarks/render.py.
The peer is OpenCV itself: the time of as many bare polygon fills as a scene has tells how much is left to gain.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from minicity.world.render import render_scene
from minicity.world.styles import STYLES

_FILLS = 1500  # polygons in a scene, about


def seconds_each(call: Callable[[int], object], count: int) -> float:
    """Processor time of one call: another process on the machine does not count."""
    start = time.process_time()
    for index in range(count):
        call(index)
    return (time.process_time() - start) / count


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the renderer, one style after the other.")
    parser.add_argument("--images", type=int, default=40, help="per style (default: %(default)s)")
    args = parser.parse_args(argv)
    canvas = np.zeros((256, 512, 4), np.uint8)
    corners = np.array([[160, 160], [960, 192], [928, 1120], [144, 1056]], np.int32)
    fill = seconds_each(lambda index: cv2.fillPoly(canvas, [corners], (1, 2, 3, 4), cv2.LINE_8, 4), 20000)
    sys.stdout.write(f"{_FILLS} bare polygon fills: {1000 * _FILLS * fill:.1f} ms\n")
    for style in STYLES:
        # The first scenes of a process also build the shapes that all later ones share.
        for index in range(args.images):
            render_scene(style, 1, index)
        each = seconds_each(lambda index, style=style: render_scene(style, 2, index), args.images)
        row = f"{style:15s} {1 / each:5.1f} images/s {1000 * each:6.1f} ms {each / (_FILLS * fill):5.1f} x the fills\n"
        sys.stdout.write(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
