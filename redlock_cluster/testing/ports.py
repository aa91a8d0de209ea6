"""Ports that stay reserved while a server is down.

A stopped server must find its port free again. Two others could use it. Outgoing connections use ports of the kernel's
ephemeral range, so ports are chosen outside it. Other test processes choose as we do, so on Linux a bound socket that
never listens keeps the port. A server binds with SO_REUSEADDR and succeeds; a plain bind fails; a client that connects
is refused as if nothing were there.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sys
from pathlib import Path
from typing import Final, Self

from redlock_cluster.testing.binaries import EmbeddedError

__all__ = ["LOOPBACK", "PortReservation", "reserve_port"]

LOOPBACK: Final = "127.0.0.1"
_LOWEST: Final = 10_000
_HIGHEST: Final = 65_535
_ATTEMPTS: Final = 200
_EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_EPHEMERAL: Final = (32_768, 65_535)


class PortReservation:
    """A loopback port reserved for one server; `close()` (or the end of `with`) gives it up.

    port: the number; a connection to it is refused until a server listens there
    """

    def __init__(self, port: int, holder: socket.socket | None) -> None:
        self.port = port
        self._holder = holder

    def close(self) -> None:
        """Let others have the port."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def reserve_port() -> PortReservation:
    """Reserve a free loopback port outside the kernel's ephemeral range.

    Returns the reservation. On Linux it keeps the port until it is closed; elsewhere the port only was free just now.

    Raises EmbeddedError when no port is free.
    """
    candidates = _candidates()
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(OSError):
            return claim_port(random.choice(candidates))
    raise EmbeddedError(f"no free port found on {LOOPBACK} in {_ATTEMPTS} attempts")


def claim_port(port: int) -> PortReservation:
    """Reserve this port. Raises OSError when it is in use, or was so too recently."""
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        holder.bind((LOOPBACK, port))
        if sys.platform != "linux":
            holder.close()
            return PortReservation(port, None)
        # Only after the bind: set before, it would also succeed on a port that is reserved.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError:
        holder.close()
        raise
    return PortReservation(port, holder)


def _candidates() -> range | list[int]:
    try:
        low, high = map(int, _EPHEMERAL.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        low, high = _USUAL_EPHEMERAL
    outside = [*range(_LOWEST, low), *range(max(high + 1, _LOWEST), _HIGHEST + 1)]
    return outside or range(_LOWEST, _HIGHEST + 1)
