"""Images in the forms in which a prediction takes them."""

import io
import os
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.errors import UserError
from clouds.utils.downloads import local_file
from clouds.utils.images import read_image, to_rgb
from clouds.utils.paths import is_url, user_path

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]
"""Path, URL, PIL image of any mode, or array (H, W, 3) RGB or (H, W) gray, uint8. Of a PIL image with several frames,
the current one is taken."""

_ACCEPTED = "give a path, a URL, a PIL image, or an array of uint8, (H, W, 3) RGB or (H, W) gray"


def is_one(images: Any) -> bool:
    """Return whether a value is one image, and not several of them."""
    # These can be iterated over, too.
    single = str | bytes | bytearray | io.IOBase | os.PathLike | Image.Image | np.ndarray
    return isinstance(images, single) or not isinstance(images, Iterable)


def rgb_image(image: ImageLike) -> Image.Image:
    """Return an image as 8-bit RGB, by the rules of `clouds.utils.images`.

    A file that is given by a URL is downloaded once, into the cache of `local_file`.

    Raises:
        UserError: the image cannot be read or downloaded, or is of another type, shape or dtype.
    """
    if isinstance(image, Image.Image):
        return _from_pillow(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if not isinstance(image, str | os.PathLike):
        raise UserError(f"An image has the type {type(image).__name__}: {_ACCEPTED}.")
    name = os.fspath(image)
    if is_url(name):
        return _from_url(name)
    path = user_path(name)
    if path.is_dir():
        raise UserError(f"The image {name or path} is a folder: give a list of its images.")
    if not path.exists():
        raise UserError(f"There is no image {name}: correct its path.")
    return read_image(str(path))


def _from_pillow(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise UserError(f"An image of Pillow has no pixels, but the size {image.width} x {image.height}.")
    result = to_rgb(image)
    # Pillow replaces the pixels of an image when another frame of its file is read.
    return result.copy() if result is image else result


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    is_image = (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) and array.size > 0
    if not is_image or array.dtype != np.uint8:
        size = " x ".join(map(str, array.shape))
        raise UserError(f"An image is an array of {array.dtype} with the shape {size or 'of a number'}: {_ACCEPTED}.")
    return Image.fromarray(array).convert("RGB")


def _from_url(url: str) -> Image.Image:
    file = local_file(url, "image")
    try:
        return read_image(str(file))
    except UserError as error:
        raise UserError(str(error).replace(str(file), url)) from error
