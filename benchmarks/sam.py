"""SAM's encoder and decoder on the device there is: python benchmarks/sam.py [--image-size 512] [--images 4] ...

Three peers in one run: images encoded one by one, embeddings computed anew, prompts decoded one at a time. Needs
weights/mobile_sam.pt. Give it a core of its own: OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/sam.py
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from minicity.world.render import render_scene

from clouds.config import get_config
from clouds.self_training.sam import CachedSam, build_sam
from clouds.self_training.sam.base import NetworkSam


def seconds(call: Callable[[], object], rounds: int) -> float:
    """Of the fastest round; on a CPU processor time, so that another process on the machine does not count."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    times = []
    for _ in range(rounds):
        start = clock()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure SAM on drawn streets of 256 x 512.")
    parser.add_argument("--image-size", type=int, default=512, help="pixels that SAM sees (default: %(default)s)")
    parser.add_argument("--images", type=int, default=4, help="in a batch (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=32, help="of an image (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=16, help="prompts decoded together (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts (default: %(default)s)")
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cfg = get_config()
    cfg.MODEL.CLOUDS.SAM.IMAGE_SIZE = args.image_size
    cfg.MODEL.CLOUDS.SAM.PROMPTS_AT_ONCE = args.at_once
    sam = build_sam(cfg, device)
    assert isinstance(sam, NetworkSam)
    scenes = [render_scene("minicity_city", 1, index) for index in range(args.images)]
    images = [torch.from_numpy(scene.image).permute(2, 0, 1) for scene in scenes]
    embedding = sam.encode(images)[0]  # also warms up
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
            for image in images:
                sam.encode([image])

        together = f"{args.images} together", seconds(lambda: sam.encode(images), args.rounds)
        chunked = f"{args.at_once} together", seconds(lambda: sam.predict(embedding, points), args.rounds)
        missed = seconds(miss, args.rounds)
        rows = [
            ("encode, an image", args.images, ("one by one", seconds(one_by_one, args.rounds)), together),
            ("cache, an image", args.images, ("missed", missed), ("found", seconds(lambda: cached.encode(images), 3))),
            ("decode, a prompt", args.prompts, ("one at a time", seconds(one_prompt_at_a_time, args.rounds)), chunked),
        ]
    sys.stdout.write(f"MobileSAM at {args.image_size} pixels on {device}, {torch.get_num_threads()} thread(s)\n")
    for what, count, (peer, before), (ours, after) in rows:
        line = f"{what:17s} {peer:13s} {1000 * before / count:8.1f} ms   {ours:12s} {1000 * after / count:8.1f} ms"
        sys.stdout.write(f"{line}   {before / after:6.2f} x\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
