"""The tensors of a model, and which of them are frozen: training does not change those."""

from collections.abc import Iterator

from torch import Tensor, nn

BACKBONE = "backbone."  # prefix of the backbone's names


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield all parameters, then all buffers, with their names; a tensor that is used twice has two names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def frozen_names(model: nn.Module, prefix: str = BACKBONE) -> set[str]:
    """Return the names of the parameters and buffers below `prefix` that training cannot change.

    These are parameters without gradient, and buffers, such as running statistics, of modules that own parameters but
    no trainable one. A module that owns buffers only counts as frozen if everything below `prefix` is.
    """
    all_frozen = not any(p.requires_grad for name, p in model.named_parameters() if name.startswith(prefix))
    names: set[str] = set()
    for module_name, module in model.named_modules():
        own = list(module.named_parameters(recurse=False))
        keeps_buffers = any(p.requires_grad for _, p in own) if own else not all_frozen
        found = [name for name, parameter in own if not parameter.requires_grad]
        if not keeps_buffers:
            found += [name for name, _ in module.named_buffers(recurse=False)]
        names.update(f"{module_name}.{name}" for name in found if f"{module_name}.{name}".startswith(prefix))
    return names
