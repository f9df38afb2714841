"""Parameters of a network by part."""

from dataclasses import dataclass

from torch import nn

TOWER, TEXT_TOWER, ADAPTER = "image tower", "text tower", "adapter"
PIXEL_DECODER, DECODER, OTHER = "pixel decoder", "transformer decoder", "other"
CRITERION, LABEL_MAP, TEACHER, SAM = "criterion", "label map", "teacher", "SAM"

_PREFIXES = {
    "sem_seg_head.pixel_decoder.": PIXEL_DECODER,
    "sem_seg_head.predictor.": DECODER,
    "backbone.adapter.": ADAPTER,
}


@dataclass(frozen=True)
class Weights:
    """Parameters of a part.

    Attributes:
        parameters: number of parameters.
        trained: number of those that are trained.
        size: bytes of the parameters and buffers.
    """

    parameters: int = 0
    trained: int = 0
    size: int = 0

    def __add__(self, other: "Weights") -> "Weights":
        return Weights(self.parameters + other.parameters, self.trained + other.trained, self.size + other.size)


def weights_by_part(model: nn.Module) -> dict[str, Weights]:
    """Return the parameters of each part of a network; those without a part are the last entry, `OTHER`.

    A trained parameter in a frozen tower belongs to the adapter.
    """
    found: dict[str, Weights] = {}
    for name, parameter in model.named_parameters():
        trained = parameter.numel() if parameter.requires_grad else 0
        part = _part(model, name, is_trained=trained > 0)
        found[part] = found.get(part, Weights()) + Weights(parameter.numel(), trained, parameter.nbytes)
    for name, buffer in model.named_buffers():
        part = _part(model, name, is_trained=False)
        found[part] = found.get(part, Weights()) + Weights(size=buffer.nbytes)
    order = [TOWER, TEXT_TOWER, ADAPTER, PIXEL_DECODER, DECODER, OTHER]
    return {part: found[part] for part in order if part in found}


def weights_of(module: nn.Module) -> Weights:
    """Return the parameters of a module."""
    parameters = list(module.parameters())
    trained = sum(each.numel() for each in parameters if each.requires_grad)
    size = sum(each.nbytes for each in [*parameters, *module.buffers()])
    return Weights(sum(each.numel() for each in parameters), trained, size)


def _part(model: nn.Module, name: str, *, is_trained: bool) -> str:
    for prefix, part in _PREFIXES.items():
        if name.startswith(prefix):
            return part
    if not name.startswith("backbone."):
        return OTHER
    backbone = model.get_submodule("backbone")
    tower = getattr(backbone, "tower", backbone)
    prefix = next((own for own, module in backbone.named_modules() if module is tower), "")
    if prefix and not name.startswith(f"backbone.{prefix}."):
        return TEXT_TOWER
    return ADAPTER if is_trained and getattr(backbone, "adapter", None) is not None else TOWER
