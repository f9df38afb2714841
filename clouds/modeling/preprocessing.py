"""Images of several sizes as one normalized tensor.

Letters: B images, h x w an image, H x W canvas.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from clouds.utils.transfer import stack_views, upload


def canvas_size(sizes: Sequence[tuple[int, int]], divisibility: int) -> tuple[int, int]:
    """Return the smallest (H, W) that holds images of all sizes (h, w) and whose sides are multiples of `divisibility`.

    `divisibility` below 2 allows any size.
    """
    step = max(divisibility, 1)
    # Of positive numbers: ONNX, to which this is exported, rounds the quotient of a negative number up.
    height, width = ((max(lengths) + step - 1) // step * step for lengths in zip(*sizes, strict=True))
    return height, width


def normalize_and_pad(images: Sequence[Tensor], mean: Tensor, std: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Upload images, normalize them, and place each in the upper left corner of a canvas of zeros.

    Images of one size are uploaded and normalized together.

    Args:
        images: B tensors (3, h, w), uint8 or float RGB in 0..255, on any device.
        mean: (3, 1, 1) per channel, in 0..255, on the device of the result.
        std: (3, 1, 1) per channel, in 0..255.
        canvas: (H, W).

    Returns:
        (B, 3, H, W) float.
    """
    if len({(image.shape, image.dtype) for image in images}) == 1:
        batch = upload(stack_views(images), mean.device).sub(mean).div_(std)
        h, w = batch.shape[2:]
        return batch if (h, w) == canvas else F.pad(batch, (0, canvas[1] - w, 0, canvas[0] - h))
    batch = mean.new_zeros(len(images), len(mean), *canvas)
    for padded, image in zip(batch, images, strict=True):
        padded[:, : image.shape[1], : image.shape[2]] = (upload(image, mean.device) - mean) / std
    return batch
