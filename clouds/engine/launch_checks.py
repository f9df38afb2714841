"""Checks of the flags and environment variables that say which processes a run has, before any of them starts."""

import argparse
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from clouds.errors import UserError
from clouds.utils.world import launch_number, world_from

TORCHRUN = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}
"""Variables that torchrun sets in every process."""

_MAX_PROCESSES = 256  # on one machine; far more than GPUs or useful shares of CPU cores
_LAST_PORT = 65535


def check_flags(flags: argparse.Namespace) -> None:
    """Raise `UserError` if the flags for several processes cannot be meant."""
    for flag, value in (("--num-gpus", flags.num_gpus), ("--num-machines", flags.num_machines)):
        if value < 1:
            raise UserError(f"{flag} is {value}, but it must be at least 1; use MODEL.DEVICE cpu to use no GPU.")
    if flags.num_gpus > _MAX_PROCESSES:
        raise UserError(f"--num-gpus is {flags.num_gpus}, but at most {_MAX_PROCESSES} processes start on a machine.")
    if not 0 <= flags.machine_rank < flags.num_machines:
        raise UserError(
            f"--machine-rank is {flags.machine_rank}, but it must be the number of this machine, 0 to "
            f"{flags.num_machines - 1} for --num-machines {flags.num_machines}."
        )
    if flags.dist_url == "auto":
        if flags.num_machines > 1:
            raise UserError(
                "--num-machines needs --dist-url tcp://HOST:PORT, with the address and a free port of machine 0."
            )
        return
    wrong = f"--dist-url is {flags.dist_url!r}, but it must be auto, or tcp://HOST:PORT with the address of machine 0"
    try:
        address = urlsplit(flags.dist_url)
        host, port = address.hostname, address.port
    except ValueError as error:
        raise UserError(f"{wrong}: {error}.") from error
    if address.scheme == "file" and address.path and flags.num_machines == 1:
        return
    if address.scheme != "tcp" or not host or not port:
        raise UserError(f"{wrong} and a port of 1 to 65535.")
    if flags.num_gpus * flags.num_machines > 1:
        _check_host("--dist-url", host)


def check_torchrun(environment: Mapping[str, str]) -> None:
    """Raise `UserError` if the variables that torchrun sets contradict each other or miss one."""
    world = world_from({name: environment[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")})
    here = launch_number(environment, "LOCAL_WORLD_SIZE", minimum=1)
    if world.local_rank >= here or world.size % here:
        raise UserError(
            f"LOCAL_RANK is {world.local_rank}, LOCAL_WORLD_SIZE {here} and WORLD_SIZE {world.size}, which contradict "
            "each other: start the processes with torchrun, or unset its variables."
        )
    if world.size > 1:
        port = launch_number(environment, "MASTER_PORT", minimum=1)
        if port > _LAST_PORT:
            raise UserError(f"The environment variable MASTER_PORT is {port}, but the last port is {_LAST_PORT}.")
        _check_host("MASTER_ADDR", environment.get("MASTER_ADDR", ""))


def refuse_part_of_torchrun(environment: Mapping[str, str]) -> None:
    """Raise `UserError` in one of several processes that cannot be joined: each of them would train alone."""
    numbers = {name: environment[name] for name in ("RANK", "WORLD_SIZE") if name in environment}
    if world_from(numbers).size > 1:
        missing = ", ".join(sorted(TORCHRUN - environment.keys()))
        raise UserError(
            f"WORLD_SIZE is {numbers['WORLD_SIZE']}, but {missing} is not set: start the processes with torchrun or "
            "--num-gpus, or unset WORLD_SIZE and RANK."
        )


def _check_host(setting: str, host: str) -> None:
    """Raise `UserError` if a host has no address: torch would try until its timeout."""
    try:
        if not host:
            raise OSError("it is not set")
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{setting} names the host {host!r}, which has no address ({reason}): give that of machine 0."
        ) from error
