"""The one `PathManager`: local paths, and http(s) addresses through a cache."""

from iopath.common.file_io import HTTPURLHandler
from iopath.common.file_io import PathManager as _PathManager

PathManager = _PathManager()
PathManager.register_handler(HTTPURLHandler())
