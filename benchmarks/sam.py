"""Speed of SAM's encoder, cache and decoder on the available device, each relative to a peer in the same run.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/sam.py [--image-size 512] [--images 4] ...

The peers: images encoded one by one, embeddings computed instead of read, prompts decoded one at a time. Needs
`weights/mobile_sam.pt` (`python tools/get_weights.py mobile_sam`).
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from scenes import image, label_map

from clouds.commands.entry import user_errors
from clouds.config import get_config
from clouds.self_training.sam import CachedSam, build_sam
from clouds.self_training.sam.base import PointSam
from clouds.utils.arguments import CommandParser, positive_int


def seconds(call: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest round; on a CPU processor time, which other processes on the machine do not affect."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    times = []
    for _ in range(rounds):
        start = clock()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser("Measure SAM on synthetic scenes of 256 x 512 pixels.")
    parser.add_argument(
        "--image-size",
        type=positive_int,
        default=512,
        help="side in pixels of the image that SAM sees (default: %(default)s)",
    )
    parser.add_argument(
        "--images", type=positive_int, default=4, help="number of images in a batch (default: %(default)s)"
    )
    parser.add_argument(
        "--prompts", type=positive_int, default=32, help="number of prompts per image (default: %(default)s)"
    )
    parser.add_argument(
        "--at-once", type=positive_int, default=16, help="number of prompts decoded together (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=positive_int, default=3, help="number of rounds; the fastest is printed (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cfg = get_config()
    cfg.MODEL.CLOUDS.SAM.CACHE_DIR = ""
    cfg.MODEL.CLOUDS.SAM.IMAGE_SIZE = args.image_size
    cfg.MODEL.CLOUDS.SAM.PROMPTS_AT_ONCE = args.at_once
    sam = build_sam(cfg, device)
    assert isinstance(sam, PointSam)
    drawn = [image(label_map((256, 512), index), index) for index in range(args.images)]
    images = [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in drawn]
    embedding = sam.encode(images)[0]  # also the warm-up
    points = torch.rand(args.prompts, 5, 2) * torch.tensor([embedding.size[1] - 1.0, embedding.size[0] - 1.0])

    def one_prompt_at_a_time() -> None:
        for point in points:
            sam.predict(embedding, point[None])

    with tempfile.TemporaryDirectory() as folder:
        cached = CachedSam(sam, Path(folder), gigabytes=10)
        cached.encode(images)

        def miss() -> None:
            for file in Path(folder).iterdir():
                file.unlink()
            cached.encode(images)

        def one_by_one() -> None:
            for each in images:
                sam.encode([each])

        together = f"{args.images} together", seconds(lambda: sam.encode(images), args.rounds)
        chunked = f"{args.at_once} together", seconds(lambda: sam.predict(embedding, points), args.rounds)
        missed = seconds(miss, args.rounds)
        rows = [
            ("encode, per image", args.images, ("one by one", seconds(one_by_one, args.rounds)), together),
            ("cache, per image", args.images, ("missed", missed), ("found", seconds(lambda: cached.encode(images), 3))),
            (
                "decode, per prompt",
                args.prompts,
                ("one at a time", seconds(one_prompt_at_a_time, args.rounds)),
                chunked,
            ),
        ]
    sys.stdout.write(f"MobileSAM at {args.image_size} pixels on {device}, {torch.get_num_threads()} thread(s)\n")
    for name, count, (peer, before), (ours, after) in rows:
        line = f"{name:18s} {peer:13s} {1000 * before / count:8.1f} ms   {ours:12s} {1000 * after / count:8.1f} ms"
        sys.stdout.write(f"{line}   {before / after:6.2f} x\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
