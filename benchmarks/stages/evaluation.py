"""Evaluation of test images one by one, from the upload to the confusion matrix."""

from functools import partial

import torch
from torch import Tensor, nn

from clouds.evaluation.confusion import confusion_matrix
from clouds.evaluation.label_maps import predict_labels
from clouds.modeling.inference import semantic_scores
from stages.bench import Bench
from stages.inputs import Inputs
from stages.peers import PEER, build_peer, peer_labels


@torch.no_grad()
def measure_evaluation(bench: Bench, inputs: Inputs) -> None:
    """Measure one test image; the peer is HF Mask2Former, from the normalized image to the label map on the host."""
    height, width = inputs.sizes.test
    peer = partial(
        peer_labels,
        build_peer(smoke=bench.smoke).to(bench.device).eval(),
        torch.randn(1, 3, height, width, device=bench.device),
    )
    for name in ("default", "tf32", "bf16"):
        with bench.precision(name):
            bench.time(f"evaluation/{PEER}/{name}", peer, images=1)
    del peer

    run = partial(evaluate, inputs.model.eval(), *inputs.test_image(), bench)
    try:
        for name in ("default", "tf32", "bf16"):
            with bench.precision(name):
                bench.time(f"evaluation/{name}", run, peer=f"evaluation/{PEER}/{name}", images=1)
                bench.note_host(f"evaluation/{name}/host", run)
    finally:
        inputs.model.train()
    measure_strips(bench, inputs)


def evaluate(model: nn.Module, image: Tensor, truth: Tensor, bench: Bench) -> None:
    """Predict an image and count its pixels, as the evaluator does in the loop of `inference_on_dataset`."""
    height, width = truth.shape
    [labels] = predict_labels(model, [{"image": image, "height": height, "width": width}])
    confusion_matrix(labels, truth, 19).cpu()


def measure_strips(bench: Bench, inputs: Inputs) -> None:
    """Measure the class scores in strips of some rows, which bound its memory; the peer is a single strip."""
    height, width = inputs.sizes.test
    queries = inputs.cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES
    classes = torch.randn(queries, 20, device=bench.device)
    masks = torch.randn(queries, height // 4, width // 4, device=bench.device)
    for rows in (height, *(rows for rows in (512, 128, 64, 16) if rows < height)):
        run = partial(semantic_scores, classes, masks, (height, width), rows)
        bench.time(f"scores/strips of {rows}", run, peer=f"scores/strips of {height}", seconds=0.5)
