"""Device and precision that a text-to-image pipeline runs with."""

import torch

from clouds.errors import UserError, check_name
from clouds.utils.devices import is_usable

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Name on the command line -> torch type."""


def resolve_device(name: str, local_rank: int = 0) -> str:
    """Return the torch device for the value of `--device`.

    Args:
        name: name of a torch device, or `auto` for a GPU if there is one, else the CPU. `cuda` without a number is the
            GPU of this process.
        local_rank: rank of this process on its machine.

    Raises:
        UserError: torch does not know the device, or finds no such GPU.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name} is no device of torch; use auto, cpu, cuda or cuda:1.") from error
    if device.type == "cuda":
        # With one GPU per process (srun --gpus-per-task=1), each process sees its own as number 0.
        index = (local_rank if count > 1 else 0) if device.index is None else device.index
        if index >= count:
            found = f"finds {count} GPU(s)" if count else "finds no GPU"
            raise UserError(
                f"--device {name} asks for GPU {index}, but torch {found}; check the driver, or use --device cpu."
            )
        return f"cuda:{index}"
    if not is_usable(device):
        raise UserError(f"--device {name} is not on this machine; use auto, cpu, cuda or cuda:1.")
    return str(device)


def resolve_dtype(name: str, device: str) -> str:
    """Return the key of `DTYPES` for the value of `--dtype`; `auto` is fp16 on a GPU, as published, and fp32 elsewhere.

    Raises:
        UserError: the name is unknown, or it is fp16 on a CPU, where convolutions in fp16 are not supported well.
    """
    if name == "auto":
        return "fp16" if device.startswith("cuda") else "fp32"
    check_name("--dtype", name, DTYPES)
    if name == "fp16" and device == "cpu":
        raise UserError("--dtype fp16 needs a GPU; on a CPU use fp32 (the value of auto) or bf16.")
    return name
