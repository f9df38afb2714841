"""What the commands around the miniatures have in common (imports nothing heavy)."""

import argparse

from clouds.errors import UserError


def check_counts(args: argparse.Namespace, *names: str) -> None:
    """`UserError` for the first of these flags, named as in ``args``, that is less than 1."""
    for name in names:
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be 1 or more.")


def machine(device: str) -> str:
    """What computes on this device, for a model card: the GPU's name or the number of CPU cores."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{torch.get_num_threads()} CPU core(s)"
