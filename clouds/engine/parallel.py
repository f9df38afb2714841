"""Data-parallel training: one model in several processes, each with its share of the batch."""

import logging
import warnings
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from clouds.d2 import comm
from clouds.d2.groups import wait_for_all
from clouds.modeling.frozen import frozen_names, named_tensors

logger = logging.getLogger(__name__)


def data_parallel(model: nn.Module) -> nn.Module:
    """Wrap a model so that its gradients are averaged over all processes, which must call this together.

    `model` itself is still optimized, saved and evaluated. All processes receive the weights of the first, and trained
    batch norms normalize over the whole batch.

    Returns:
        The module to call in training: with a single process, `model` itself.
    """
    if comm.get_world_size() == 1:
        return model
    wait_for_all()  # they may have read their weights at unequal speed
    moving = trained_batch_norms(model)
    on_gpu = next(model.parameters()).is_cuda
    if moving and on_gpu:
        synchronize_batch_norms(model)
    elif moving:
        logger.warning(
            f"{len(moving)} batch norms are trained ({moving[0]}, ...); on a CPU, each process normalizes its share of "
            "the batch alone, so that the result depends on the number of processes"
        )
    # torch takes the tensors of one device. Frozen parts on another one, such as a text tower that waits on the CPU,
    # are equal in all processes.
    device = next(model.parameters()).device
    elsewhere = [name for name, parameter in model.named_parameters() if parameter.device != device]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, elsewhere)
    # torch warns of depthwise convolutions, because of a stride of a dimension with one element.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # Only statistics that each process updates alone differ and are sent to the others. torch renamed the flag in 2.13.
    flags = signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in flags else "broadcast_buffers"
    options: dict[str, Any] = {sync: bool(moving) and not on_gpu}
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **options)


def share_weights(model: nn.Module) -> None:
    """Give all processes, which call this together, the trained tensors of the first.

    What each of them has computed, such as the start of an adapter, may differ by the rounding of their machines.
    """
    if comm.get_world_size() == 1:
        return
    wait_for_all()
    frozen = frozen_names(model)
    for name, tensor in named_tensors(model):
        if name not in frozen:
            values = tensor.detach().contiguous()
            distributed.broadcast(values, 0)
            tensor.detach().copy_(values)


def unsynchronized(network: nn.Module) -> AbstractContextManager[None]:
    """Return the context in which a forward and backward pass leaves gradients in the process.

    The next pass outside of it averages the sum of all gradients over the processes.
    """
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def trained_batch_norms(model: nn.Module) -> list[str]:
    """Return the names of the batch norms that are trained."""
    return [name for name, module in model.named_modules() if _is_trained_batch_norm(module)]


def synchronize_batch_norms(model: nn.Module) -> None:
    """Replace the trained batch norms of a model by synchronized ones with the same tensors; frozen ones are kept."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if _is_trained_batch_norm(child):
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))


def _is_trained_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and any(p.requires_grad for p in module.parameters(recurse=False))
