"""A call beside the caller's own work: on a thread and, for a GPU, on a stream."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

R = TypeVar("R")


class Beside(Generic[R]):
    """Runs a call on a thread of its own. Its GPU work follows what is queued so far, and later work does not wait."""

    def __init__(self, call: Callable[[], R], stream: torch.cuda.Stream | None = None, *, daemon: bool = True) -> None:
        """
        Args:
            call: the call; it must not read anything that changes before `join`.
            stream: stream of its GPU work; None without a GPU.
            daemon: whether the interpreter ends without waiting for the call.
        """
        self._call = call
        self._stream = stream
        self._result: R
        self._error: BaseException | None = None
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(stream.device))
        self._thread = threading.Thread(target=self._run, name="beside", daemon=daemon)
        self._thread.start()

    def _run(self) -> None:
        try:
            with torch.cuda.stream(self._stream):  # without an effect for None
                self._result = self._call()
        except BaseException as error:  # noqa: BLE001 - `result` raises it
            self._error = error

    @property
    def is_done(self) -> bool:
        """Whether the call has returned or raised; `result` then does not wait."""
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait for the call. Work that is queued on the current stream from here on follows the call's GPU work."""
        self._thread.join()
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def result(self) -> R:
        """Wait for the call and return its result, or raise its exception as it is."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._result
