"""CLOUDS: collaborating foundation models for domain-generalized semantic segmentation.

`clouds.load` loads a network, `clouds.Segmenter.predict` predicts images:

    model = clouds.load("output/model_final.pth")
    result = model.predict("street.jpg")
    result.overlay().save("overlay.jpg")

These names are imported when they are first used: `import clouds` alone loads no torch.
"""

from typing import TYPE_CHECKING, Any

from clouds.version import __version__

if TYPE_CHECKING:
    from clouds.api import Segmentation, Segmenter, load

__all__ = ["Segmentation", "Segmenter", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from clouds import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
