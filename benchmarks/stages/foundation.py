"""The foundation models: SAM's encoders and decoder, and Stable Diffusion, all with random weights."""

from functools import partial

import torch
from generation import PROMPT, write_pipeline
from segment_anything import sam_model_registry
from torch import Tensor

from clouds.generation.painter import Painter
from clouds.generation.settings import PaintingSettings
from clouds.self_training.sam.base import Embedding
from clouds.self_training.sam.frame import Frame
from clouds.self_training.sam.mobile_sam import mobile_network
from clouds.self_training.sam.segment_anything import SegmentAnything, set_image_size
from stages.bench import Bench, relative_error
from stages.inputs import Inputs


def build_random_sam(kind: str, bench: Bench) -> SegmentAnything:
    """Build MobileSAM ("mobile") or SAM with an encoder such as "vit_h", with random weights."""
    torch.manual_seed(0)
    network = mobile_network() if kind == "mobile" else sam_model_registry[kind]()
    side = 128 if bench.smoke else 1024
    if bench.smoke:
        set_image_size(network, side)
    return SegmentAnything(network, name=kind, frame=Frame(side), device=bench.device)


def measure_sam(bench: Bench, inputs: Inputs) -> None:
    """Measure the encoders by batch size (peer: one image) and by precision (peer: float32), and the decoder."""
    side = inputs.sizes.side
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator) for _ in range(8)]
    prompts = 8 if bench.smoke else 64
    points = torch.rand(prompts, 5, 2, generator=generator) * (side - 1)
    for kind in ("mobile",) if bench.smoke else ("mobile", "vit_h"):
        sam, name = build_random_sam(kind, bench), f"sam/{kind}"
        for batch in (1, 2) if bench.smoke else (1, 2, 4, 8):
            run = partial(sam.encode, images[:batch])
            bench.time(f"{name}/encode {batch}", run, peer=f"{name}/encode 1", images=batch, seconds=1)
        resize = partial(sam.frame.stack, images[:2], bench.device)
        bench.time(f"{name}/resize", resize, images=2, seconds=0.5)
        measure_encoder(bench, sam, f"{name}/network", resize())

        embedding = sam.encode(images[:1])[0]
        one_by_one = partial(predict_one_by_one, sam, embedding, points)
        bench.time(f"{name}/{prompts} prompts one by one", one_by_one, seconds=1)
        together = partial(sam.predict, embedding, points)
        bench.time(f"{name}/{prompts} prompts", together, peer=f"{name}/{prompts} prompts one by one", seconds=1)


@torch.no_grad()
def measure_encoder(bench: Bench, sam: SegmentAnything, name: str, pixels: Tensor) -> None:
    """Measure the encoder's network without its resizing, in three precisions; the peer is float32."""
    run = partial(sam.features, pixels)
    with bench.precision("fp32"):
        (exact,) = run()
    for precision in ("fp32", "tf32", "bf16"):
        with bench.precision(precision):
            error, images = relative_error(run()[0], exact), len(pixels)
            bench.time(f"{name}, {precision}", run, peer=f"{name}, fp32", images=images, seconds=1, error=error)


def predict_one_by_one(sam: SegmentAnything, embedding: Embedding, points: Tensor) -> None:
    for point in points:
        sam.predict(embedding, point[None])


def measure_diffusion(bench: Bench, inputs: Inputs) -> None:
    """Measure Stable Diffusion 2 by batch size; the peer is one image per call, as in the published loop."""
    steps, batches = (1, (1, 2)) if bench.smoke else (10, (1, 4, 8))
    folder, last = inputs.folder / "diffusion", batches[-1]
    write_pipeline(folder, "small" if bench.smoke else "sd2")
    on_gpu = bench.device.type == "cuda"
    settings = PaintingSettings(str(folder), steps=steps, dtype="fp16" if on_gpu else "fp32")
    device = "cuda:0" if on_gpu else "cpu"
    name = f"diffusion/{steps} steps, batch"
    painter = Painter(settings, device=device, batch_size=last)
    for batch in batches:
        run = partial(painter, [PROMPT] * batch, range(batch))
        bench.time(f"{name} {batch}", run, peer=f"{name} 1", images=batch, seconds=4)
    if on_gpu and bench.left() > 150:  # compilation takes a minute or two
        compiled = Painter(settings, device=device, batch_size=last, compile=True)
        run = partial(compiled, [PROMPT] * last, range(last))
        bench.time(f"{name} {last}, compiled", run, peer=f"{name} {last}", images=last, seconds=4)
