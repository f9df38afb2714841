"""Host and port of the page."""

import socket

import pytest

from clouds.errors import UserError
from clouds.web.addresses import Address


@pytest.mark.parametrize(
    ("host", "url", "is_local"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000", True),
        ("localhost", "http://localhost:8000", True),
        ("::1", "http://[::1]:8000", True),
        ("0.0.0.0", "http://127.0.0.1:8000", False),
        ("::", "http://[::1]:8000", False),
        ("192.0.2.7", "http://192.0.2.7:8000", False),
        ("example.org", "http://example.org:8000", False),
    ],
)
def test_address(host: str, url: str, is_local: bool) -> None:
    address = Address(host, 8000)
    assert (address.url, address.is_local) == (url, is_local)


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"^The port {port} of 127.0.0.1 is in use: .* --port"):
            Address("127.0.0.1", port).check()
    Address("127.0.0.1", port).check()


def test_another_host() -> None:
    for host in ("192.0.2.7", "no such host", ""):
        with pytest.raises(UserError, match=f"^'{host}' is no address of this machine .*: leave out --host, or give"):
            Address(host, 8000).check()
