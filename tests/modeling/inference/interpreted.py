"""Compares the fused kernel with the reference in Triton's interpreter; a script of its own, since the interpreter is
chosen when Triton is imported. Prints one line per case and fails if a label differs."""

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch

from clouds.modeling.inference import kernel
from clouds.modeling.inference.labels import reference_label_map
from tests.modeling.inference.answers import answer

# The entries are the kind of answer, Q, K, the size of the masks, the factors, image, output and threshold.
CASES = [
    ("trained", 100, 19, (3, 40), (4, 4), (12, 160), (12, 160), 0.0),
    ("random", 37, 5, (5, 9), (4, 4), (17, 30), (17, 30), 0.0),
    ("trained", 40, 20, (6, 8), (4, 2), (24, 15), (11, 33), 0.0),
    ("trained", 40, 19, (8, 8), (4, 4), (32, 32), (32, 32), 0.6),
    ("random", 16, 3, (4, 4), (1, 3), (4, 12), (7, 5), 0.4),
    ("trained", 3, 1, (1, 9), (2, 2), (1, 18), (1, 18), 0.0),
    ("trained", 20, 254, (2, 9), (1, 4), (2, 33), (2, 33), 0.1),
]

for kind, queries, classes, size, factors, image, output, threshold in CASES:
    canvas = (size[0] * factors[0], size[1] * factors[1])
    class_logits, mask_logits = answer(kind, 0, queries, classes, *size)
    arguments = (class_logits, mask_logits, canvas, image, output, threshold)
    ours, expected = kernel.label_map(*arguments), reference_label_map(*arguments)
    different = int((ours != expected).sum())
    print(kind, queries, classes, size, output, threshold, f"{different} of {ours.numel()} differ")
    assert ours.dtype == torch.uint8 and ours.shape == output
    assert different == 0

# Where one query settles every pixel, the queries after the first ones are never read: here, they are not even numbers.
class_logits, mask_logits = torch.full((40, 4), -20.0), torch.full((40, 4, 4), 20.0)
class_logits[1:16, -1], class_logits[16:, -1], class_logits[0, 2] = 20.0, 25.0, 20.0
mask_logits[16:] = torch.nan
assert (kernel.label_map(class_logits, mask_logits, (16, 16), (16, 16), (16, 16)) == 2).all()
print("all equal")
