"""One function over many files: in several processes where there are any, with a progress bar."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import cv2
from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    function: Callable[[Item], Result], items: Sequence[Item], *, processes: int = 1, title: str | None = None
) -> Iterator[tuple[Item, Result]]:
    """Every item with what `function` makes of it, in order.

    Args:
        function: of a module, or a partial of one, so that it can be sent to other processes.
        items: to be sent likewise.
        processes: how many work at a time; with one the work is done right here.
        title: of the progress bar.
    """
    with tqdm(total=len(items), unit="image", desc=title, disable=not items) as bar:
        if processes > 1 and len(items) > 1:
            # Spawned, not forked: OpenCV's threads do not survive a fork.
            with ProcessPoolExecutor(
                processes, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
            ) as pool:
                for item, result in zip(items, pool.map(function, items, chunksize=8), strict=True):
                    bar.update()
                    yield item, result
        else:
            for item in items:
                result = function(item)
                bar.update()
                yield item, result
