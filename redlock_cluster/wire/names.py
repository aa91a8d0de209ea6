"""Looking up the addresses of a name.

It may take long, hang or fail, for one name and not for others. So the addresses that a name had before are used
meanwhile (as resolvers do, RFC 8767), and a look-up that nobody waited for still counts when it ends.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from redlock_cluster.wire import blocking

__all__ = ["LATE", "Address", "addresses"]

Address = tuple[int, int, int, str, tuple[Any, ...]]
"""As `socket.getaddrinfo` gives it: family, type, protocol, name, socket address."""

LATE: Final = 0.2
"""Seconds after which a name's addresses of before are used."""

_NO_SUCH_NAME: Final = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}

_known: Final[dict[str, tuple[Address, ...]]] = {}
"""What the last look-up of a name that succeeded has found."""


async def addresses(host: str, port: int) -> list[Address]:
    """Return the addresses of a name as they are now, or as they were if that can't be known soon.

    Raises OSError when there are none, or there is no such name (any more).
    """
    found = before = _known.get(host)
    try:
        async with asyncio.timeout(None if before is None else LATE):
            found = await blocking.call(("name", host), partial(_look_up, host), f"looking up the name {host}")
    except TimeoutError:
        if before is None:
            raise
    except socket.gaierror as error:
        if before is None or error.errno in _NO_SUCH_NAME:
            raise OSError(f"the name {host} can't be looked up: {error.strerror or error}") from error
    return [
        (family, kind, protocol, name, (address[0], port, *address[2:]))
        for family, kind, protocol, name, address in found or ()
    ]


def _look_up(host: str) -> tuple[Address, ...]:
    found = tuple(_getaddrinfo()(host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP))
    _known[host] = found
    return found


def _getaddrinfo() -> Callable[..., Sequence[Address]]:
    """The system's where gevent has replaced sockets and not threads: its own would leave a hub behind each thread."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or monkey.is_module_patched("threading") or not monkey.is_module_patched("socket"):
        return socket.getaddrinfo
    original: Callable[..., Sequence[Address]] = monkey.get_original("socket", "getaddrinfo")
    return original
