"""Python API: load a network, predict images, read the results."""

from clouds.api.export import Difference, ExportMismatch
from clouds.api.results import Segmentation
from clouds.api.segmenter import Segmenter, load

__all__ = ["Difference", "ExportMismatch", "Segmentation", "Segmenter", "load"]
