"""Answers of a decoder: random ones, ones like those of a trained network, and degenerate ones."""

import torch
from torch import Tensor
from torch.nn import functional as F

KINDS = ("random", "trained", "void", "equal", "empty")


def answer(kind: str, seed: int, queries: int, classes: int, h: int, w: int) -> tuple[Tensor, Tensor]:
    """Return class logits (Q, K + 1) and mask logits (Q, h, w).

    Args:
        kind: "random" noise; "trained", smooth masks of which a quarter has a class and the others are void; "void",
            masks that all are void; "equal", pairs of queries that swap two classes, so that many scores are equal;
            "empty", masks so far below 0 that no score differs from 0.
        seed: seed of the random numbers.
        queries: Q.
        classes: K.
        h: rows of the mask logits.
        w: columns of the mask logits.
    """
    generator = torch.Generator().manual_seed(seed)
    class_logits = torch.randn(queries, classes + 1, generator=generator)
    smooth = F.interpolate(torch.randn(1, queries, 4, 5, generator=generator), size=(h, w), mode="bicubic")[0] * 10
    if kind == "random":
        return class_logits, torch.randn(queries, h, w, generator=generator)
    if kind == "trained":
        class_logits[:, -1] += 8
        named = torch.randperm(queries, generator=generator)[: max(1, queries // 4)]
        class_logits[named, -1] -= 14
        class_logits[named, torch.randint(classes, (len(named),), generator=generator)] += 5
    elif kind == "void":
        class_logits[:, -1] += 15
    elif kind == "equal":
        class_logits[1::2] = class_logits[: len(class_logits[1::2]) * 2 : 2].roll(1, dims=-1)
        smooth[1::2] = smooth[: len(smooth[1::2]) * 2 : 2]
    else:
        smooth -= 1e4
    return class_logits, smooth
