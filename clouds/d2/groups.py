"""End of the communication between processes."""

from torch import distributed

from clouds.d2 import comm


def leave_groups() -> None:
    """Destroy all process groups. Every process calls this at its end, after `comm.synchronize`.

    A Gloo thread that still holds a tensor when the interpreter exits aborts the process. Its threads end with the last
    reference to a group, and `comm` keeps some.
    """
    distributed.destroy_process_group()
    comm._LOCAL_PROCESS_GROUP = None
    for function in vars(comm).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()
