"""Ports of this machine for servers in tests."""

import socket


def free_port() -> int:
    """Return the number of a port of 127.0.0.1 that is not in use."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
    return number
