"""One model in several processes, each on its share of the batch, as if there were one with the whole batch."""

import logging
import warnings

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from clouds.d2 import comm

logger = logging.getLogger(__name__)


def data_parallel(model: nn.Module) -> nn.Module:
    """What to call instead of ``model`` in training: with several processes, one that averages gradients over them.

    ``model`` itself remains what is optimized, saved and evaluated; its batch norms that are trained come to normalise
    over the whole batch. Called in all processes together, it gives all of them the weights of the first.
    """
    if comm.get_world_size() == 1:
        return model
    moving = [name for name, module in model.named_modules() if _is_trained_batch_norm(module)]
    if moving and next(model.parameters()).is_cuda:
        synchronise_batch_norms(model)
    elif moving:
        logger.warning(
            f"{len(moving)} batch norms are trained ({moving[0]}, ...); on a CPU each process normalises its share of "
            "the batch alone, so the result depends on the number of processes"
        )
    # Said of depthwise convolutions, for a stride that no element is reached by.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    return DistributedDataParallel(model)


def synchronise_batch_norms(model: nn.Module) -> None:
    """Replace the trained batch norms below ``model`` by synchronised ones with the same tensors; frozen ones stay."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if _is_trained_batch_norm(child):
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))


def _is_trained_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and any(p.requires_grad for p in module.parameters(recurse=False))
