"""Host and port of a server. Needs no Gradio."""

import errno
import ipaddress
import socket
from dataclasses import dataclass

from clouds.errors import UserError

_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # all addresses of this machine, and the one for its own browser


@dataclass(frozen=True)
class Address:
    """Address at which a server listens.

    Attributes:
        host: name or IP address of this machine; ``0.0.0.0`` for all of its addresses.
        port: number of the port.
    """

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def url(self) -> str:
        """Address for a browser on this machine."""
        host = _ALL.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def check(self) -> None:
        """Check that a server can listen here.

        Raises:
            UserError: the port is in use or reserved, or the host is no address of this machine.
        """
        try:
            family, *_, place = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            socket.create_server((str(place[0]), self.port), family=family).close()
        except (OSError, UnicodeError) as error:
            code = getattr(error, "errno", None)
            if code == errno.EADDRINUSE:
                raise UserError(
                    f"The port {self.port} of {self.host} is in use: end the program that uses it, or give another "
                    "one with --port."
                ) from error
            if code == errno.EACCES:
                raise UserError(f"The port {self.port} is reserved for the system: give one from 1024.") from error
            raise UserError(
                f"{self.host!r} is no address of this machine ({getattr(error, 'strerror', None) or error}): leave out "
                "--host, or give 0.0.0.0 for all of its addresses."
            ) from error
