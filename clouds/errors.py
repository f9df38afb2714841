"""Exception for errors that the user can correct."""

import difflib
import errno
import re
from collections.abc import Iterable

# Longest message, in characters.
MESSAGE_LENGTH = 500

# Errors of the operating system that are a matter of the machine or of a name, wherever they occur.
_OF_THE_MACHINE = frozenset((
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ELOOP, errno.EMFILE, errno.ENAMETOOLONG, errno.ENFILE,
    errno.ENOSPC, errno.EPERM, errno.EROFS,
))  # fmt: skip


_AGAIN = "then give the same command again, a training with --resume"
# What is wrong when a file cannot be written, and what to do. Other errors have the text of the operating system.
_WRITING = {
    errno.ENOSPC: ("its disk is full", f"make room, {_AGAIN}"),
    errno.EDQUOT: ("the disk quota is used up", f"make room, {_AGAIN}"),
    errno.EFBIG: ("no file may become this large", f"raise the limit, see `ulimit -f`, {_AGAIN}"),
    errno.EROFS: ("its disk is read-only", f"make it writable, {_AGAIN}; or name another folder"),
    errno.EACCES: ("permission denied", f"change the permissions of its folder, {_AGAIN}; or name another folder"),
    errno.EPERM: ("permission denied", f"change the permissions of its folder, {_AGAIN}; or name another folder"),
    errno.ENOENT: ("its folder has been removed", f"restore the folder, {_AGAIN}"),
    errno.ESTALE: ("its folder has been removed", f"restore the folder, {_AGAIN}"),
    errno.ENOTDIR: ("a file is in the place of its folder", "move that file away, or name another folder"),
    errno.EEXIST: ("another file has its name", "move that file away, or give another name"),
    errno.EISDIR: ("a folder has its name", "move that folder away, or give another name"),
}


class UserError(ValueError):
    """Error in the user's input. The message is one sentence: what is wrong, where, and what to do.

    Commands print the message without a traceback and exit with code 2.

    Args:
        message: the sentence; see `one_line` for what is done to it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class WriteError(OSError):
    """Failure to write a file or a folder: a full disk, missing permissions, a folder that has been removed.

    `clouds.utils.atomic` raises it, and nothing else writes. Its text is a sentence for the user.
    """

    def __init__(self, number: int | None, reason: str | None, path: str) -> None:
        """
        Args:
            number: error number of the operating system; None if it is unknown.
            reason: text of the operating system.
            path: path of the file or folder.
        """
        super().__init__(number, reason, path)

    def __str__(self) -> str:
        unknown = (self.strerror or "unknown error", f"look at its folder and its disk, {_AGAIN}")
        reason, remedy = _WRITING.get(self.errno or 0, unknown)
        return f"{self.filename} cannot be written ({reason}): {remedy}."


class TransientError(UserError):
    """Error that may be absent if the command is repeated, such as a lost connection to another process."""


_LESS_MEMORY = "lower the number or the size of the images that are processed at once"


def machine_error(error: BaseException | None, *, less_memory: str = _LESS_MEMORY) -> UserError | None:
    """Return an error of the machine, a full disk or lack of memory, as a `UserError`; None for any other one.

    Args:
        error: the exception.
        less_memory: advice how to need less memory.
    """
    if error is not None and is_out_of_memory(error):
        size = re.search(r"(?:ried|nable|ailed) to allocate ([\d.]+ \w+)", str(error))
        return UserError(
            f"The memory is not sufficient{f' for further {size[1]}' if size else ''}: {less_memory}, or use more "
            "processes or another device."
        )
    if isinstance(error, WriteError):
        return UserError(str(error))
    if not isinstance(error, OSError) or error.errno not in _OF_THE_MACHINE:
        return None
    return UserError(
        f"{error.filename or 'A file'} cannot be used ({error.strerror}): check its name, the permissions and the "
        "space on its disk."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of Python, NumPy, torch or OpenCV says that a device has no memory left."""
    # By names and texts: this module imports none of them, and torch's allocator on a CPU has no class of its own.
    texts = ("DefaultCPUAllocator: ", "Cannot allocate memory", "(-4:Insufficient memory)")
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or (type(error).__name__ in ("RuntimeError", "error") and any(text in str(error) for text in texts))


def one_line(text: str) -> str:
    r"""Return a text as one line of at most `MESSAGE_LENGTH` characters.

    Line breaks, control characters and marks of the writing direction, which may come from a file name or from a file,
    are replaced by their escape sequences, such as ``\n``. A longer text loses its middle, because a message ends with
    what to do.
    """
    shortened = _shorten(text)  # before the loop, since the text may have millions of characters
    return _shorten("".join(letter if letter.isprintable() else _escaped(letter) for letter in shortened))


def check_name(setting: str, name: str, known: Iterable[str]) -> None:
    """Check that a name exists.

    Args:
        setting: config key or flag with the name, for the message.
        name: name to check.
        known: names that exist.

    Raises:
        UserError: the name does not exist; the message lists the most similar ones.
    """
    known = sorted(known)
    if name not in known:
        nearest = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0)) or "none"
        raise UserError(f"{setting} names {name!r}, which does not exist; the nearest that do: {nearest}.")


def _shorten(text: str) -> str:
    if len(text) <= MESSAGE_LENGTH:
        return text
    gap = " [...] "
    end = MESSAGE_LENGTH // 3
    return text[: MESSAGE_LENGTH - end - len(gap)] + gap + text[-end:]


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
