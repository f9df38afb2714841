"""Tensors on their way to and from a device: few copies, and no wait for work that they do not depend on."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device.

    The host does not wait for the copy to a GPU. A tensor in pageable memory is first copied to page-locked memory,
    because a copy from pageable memory would wait for all work that is queued on the GPU.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def download(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors of one dtype and device on the CPU.

    From a GPU, they are copied together, to page-locked memory. The host waits for the copy, and not for work that is
    queued on other streams.
    """
    if not tensors or tensors[0].device.type != "cuda":
        return [*tensors]
    joined = torch.cat([tensor.flatten() for tensor in tensors])
    host = torch.empty(joined.shape, dtype=joined.dtype, pin_memory=True)
    host.copy_(joined, non_blocking=True)
    torch.cuda.current_stream(joined.device).record_event().synchronize()
    parts = host.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def snapshot(state: Any) -> Any:
    """Return a state with copies of its tensors on the CPU, which later changes of the state do not reach.

    The host does not wait for copies from a GPU. They go to page-locked memory and are complete when the current stream
    has done what is queued on it. Tensors that share their memory share one copy.

    Args:
        state: tensors and plain values in dicts, lists and tuples, such as a state dict.
    """
    return _snapshot(state, {})


def _snapshot(state: Any, copies: dict[Any, Tensor]) -> Any:
    if isinstance(state, Mapping):
        return {key: _snapshot(value, copies) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)([_snapshot(value, copies) for value in state])
    if not isinstance(state, Tensor):
        return state
    place = (state.data_ptr(), state.device, state.dtype, state.shape, state.stride())
    if place not in copies:
        if state.device.type == "cuda":
            host = torch.empty_like(state, device="cpu", pin_memory=True)
            copies[place] = host.copy_(state.detach(), non_blocking=True)
        else:
            copies[place] = state.detach().to("cpu", copy=True)
    return copies[place]


def stack_views(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors of one shape (...) to (B, ...), without a copy if they lie one after the other in one storage.

    The loader hands out the images of a batch as such views, so that they can be uploaded together.
    """
    first = tensors[0]
    step, start, storage = first.numel(), first.storage_offset(), first.untyped_storage().data_ptr()
    adjacent = all(
        tensor.shape == first.shape
        and tensor.dtype == first.dtype
        and tensor.is_contiguous()
        and tensor.untyped_storage().data_ptr() == storage
        and tensor.storage_offset() == start + number * step
        for number, tensor in enumerate(tensors)
    )
    if not adjacent:
        return torch.stack([*tensors])
    return first.as_strided((len(tensors), *first.shape), (step, *first.stride()))
