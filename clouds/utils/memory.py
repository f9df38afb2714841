"""Memory of the machine and of this process, and the memory allocator of the C library."""

import ctypes
import os
import re
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# Numbers of the parameters in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_CHOSEN_BY_USER = ("MALLOC_", "GLIBC_TUNABLES")


_SHARE = 0.95  # of the memory of the machine, that one process may have; the system has the rest
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def machine_memory() -> int | None:
    """Return the memory in bytes that this machine has, or the control group of this process; None if unknown."""
    sizes = [_kilobytes(_PROC / "meminfo", "MemTotal"), _group_memory()]
    return min((size for size in sizes if size is not None), default=None)


def available_memory() -> int | None:
    """Return the memory in bytes that this process can still get without swapping; None if unknown."""
    machine, resident = machine_memory(), resident_size()
    sizes = [_kilobytes(_PROC / "meminfo", "MemAvailable")]
    sizes += [] if machine is None or resident is None else [max(machine - resident, 0)]
    return min((size for size in sizes if size is not None), default=None)


def resident_size(*, peak: bool = False) -> int | None:
    """Return the bytes of memory that this process has now, or has had at its `peak`; None if unknown."""
    return _kilobytes(_PROC / "self/status", "VmHWM" if peak else "VmRSS")


def limit_memory() -> None:
    """Let this process, and those it forks, fail to allocate memory that the machine does not have.

    Otherwise Linux grants it, and ends the process without a word once the memory is used. Nothing happens on a system
    without such limits.
    """
    memory = machine_memory()
    if resource is None or memory is None:
        return
    limit = int(_SHARE * memory) + (_kilobytes(_PROC / "meminfo", "SwapTotal") or 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    known = [each for each in (soft, hard) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([limit, *known]), hard))


def _kilobytes(file: Path, name: str) -> int | None:
    """Return the bytes in a line ``name: 12 kB`` of a file; None if there is no such line."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", _read(file), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="surrogateescape")


def _group_memory() -> int | None:
    """Return the lowest limit of the control groups (version 2) that this process belongs to; None without a limit."""
    try:
        group = re.search(r"^0::/(.*)$", _read(_PROC / "self/cgroup"), re.MULTILINE)
    except OSError:
        return None
    folder = _CGROUPS / (group[1] if group else "")
    limits = []
    for each in (folder, *folder.parents):
        file = each / "memory.max"
        if each.is_relative_to(_CGROUPS) and file.is_file() and (text := _read(file).strip()).isdecimal():
            limits.append(int(text))
    return min(limits, default=None)


def keep_freed_memory() -> bool:
    """Let glibc keep the memory of freed large tensors for the next ones, in this process and those it forks.

    By default, glibc maps each block above 32 MB anew, and the system zeroes each of its pages at the first access:
    on a CPU, a quarter of the time of predicting a whole image. In return, the peak of the memory is higher, because
    blocks of several sizes share what was freed: for an image of 1024 x 2048, 1.3 instead of 0.75 GB.

    Returns:
        Whether the settings hold; False with another C library, or if the environment has settings of its own.
    """
    if not _is_glibc() or any(name.startswith(_CHOSEN_BY_USER) for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, 2**30) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, OSError, ValueError):  # no such function or name in this system
        return False
