"""`torch.compile` for the parts of the model."""

from typing import Any

import torch
from torch import nn

MOST_VARIANTS = 64  # compiled graphs of one function


def compile_forward(module: nn.Module, **options: Any) -> None:
    """Compile the forward pass of a module in place, on its first call; the state dict keeps its keys.

    A size that changes from call to call becomes a variable of the graph, so that only the second size is compiled
    again. Training, labelling and evaluation each have a graph of their own, as have autocast and batches of one image.
    What cannot be compiled as one graph raises an error.

    Args:
        module: a backbone, a head, or another module.
        options: further arguments of `torch.compile`.
    """
    # By default, torch compiles 8 variants and runs all others without compilation.
    torch._dynamo.config.recompile_limit = MOST_VARIANTS
    module.compile(fullgraph=True, **options)
