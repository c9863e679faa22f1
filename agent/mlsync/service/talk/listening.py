"""The port for metrics and the status page: by default none, and never a door for another site's page.

A page that a browser loaded from elsewhere can have its own name point at this machine (DNS rebinding), and would then
read the answers. Such a request names that host, so only names of this machine and addresses are answered.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection
from contextlib import suppress

from mlsync.config.address import Address
from mlsync.errors import ListenFailed
from mlsync.service.talk.http import HttpAnswer, HttpRequest


def listening_at(address: Address) -> socket.socket:
    """Return a socket that listens at *address*; raise ``ListenFailed`` if that cannot be had."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((address.host, address.port))
        listening.listen(16)
    except OSError as error:
        listening.close()
        what = f"no metrics and no status page: {error.strerror or error}"
        raise ListenFailed(what, where=str(address)) from error
    return listening


class OwnHost:
    """Answers requests that name this machine as their host, and refuses all others; *names* are further ones."""

    def __init__(self, answer: Callable[[HttpRequest], HttpAnswer], names: Collection[str] = ()) -> None:
        self._answer = answer
        own = {"localhost", socket.gethostname().lower(), *map(str.lower, names)}
        self._names = own

    def __call__(self, request: HttpRequest) -> HttpAnswer:
        """Return the answer."""
        if not self._is_own(request.fields.get("host", "")):
            return HttpAnswer.of_text("this is not the host that was asked for; allow it with listen_names", 421)
        return self._answer(request)

    def _is_own(self, host: str) -> bool:
        name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
        with suppress(ValueError):
            # No name points anywhere else than at what it says.
            ipaddress.ip_address(name)
            return True
        return name.lower().removesuffix(".") in self._names
