"""An address to listen at: an IP address and a port, as ``127.0.0.1:9417`` or ``[::1]:9417``."""

from __future__ import annotations

import ipaddress
from typing import Final

import msgspec

ALLOWED: Final = 'an address with a port, such as "127.0.0.1:9417" or "[::1]:9417"'
_PORT_MAX: Final = 65535


class Address(msgspec.Struct, frozen=True):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address that *text* says; raise ``ValueError`` if it is none.

    A name is none: what it points at may change, and with it who can connect.
    """
    host, _, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        found = ipaddress.ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        raise ValueError(ALLOWED) from None
    is_port = port.isascii() and port.isdigit() and len(port) <= len(str(_PORT_MAX)) and 0 < int(port) <= _PORT_MAX
    if not is_port or is_bracketed is not (found.version == 6):  # noqa: PLR2004 - IPv6
        raise ValueError(ALLOWED)
    return Address(str(found), int(port))
