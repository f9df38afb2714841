"""Record of what code does outside its folder: files written, programs started, connections opened."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Event of `sys.addaudithook`: positions of the paths that it changes.
_CHANGES = {
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "os.setxattr": (0,),
}
_ESCAPES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "socket.bind")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_HARMLESS = ("/dev/null",)


class Guard:
    """Audit hook of this process. Hooks cannot be removed: there is one `Guard`, `GUARD`.

    Attributes:
        seen: a line for each forbidden event since `watch` began.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._folder = ""
        self._installed = False

    @contextmanager
    def watch(self, folder: Path) -> Iterator[None]:
        """Record what happens outside `folder` in this context."""
        if not self._installed:
            sys.addaudithook(self._hear)
            self._installed = True
        self.seen, self._folder = [], os.path.realpath(folder)
        try:
            yield
        finally:
            self._folder = ""

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._folder:
            return
        if event == "open":
            path, mode, flags = arguments
            if set(mode or "") & set("wax+") or (flags or 0) & _WRITING:
                self._check("writes", path)
        elif event in _CHANGES:
            for position in _CHANGES[event]:
                self._check(event, arguments[position])
        elif event in _ESCAPES and arguments[0] != "git":  # which describes the code in the record of a run
            self.seen.append(f"{event} {arguments[0]!r:.100}")

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, int):  # an open file, whose opening was seen
            return
        parent, name = os.path.split(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100  (called for every file)
        real = os.path.join(os.path.realpath(parent), name)  # noqa: PTH118
        if real not in _HARMLESS and os.path.commonpath([real, self._folder]) != self._folder:
            self.seen.append(f"{event} {real:.200}")


GUARD = Guard()
