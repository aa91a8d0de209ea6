"""What connections and the engine ask of the world around them, and the real world's answers.

A simulation passes others.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import time
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from redlock_cluster.options import ServerOptions

__all__ = ["Clock", "ConnectionFailed", "Dialer", "Entropy", "Ports", "SocketDialer", "SystemEntropy", "system_clock"]

Clock = Callable[[], float]
"""Seconds of a clock that never goes back and runs through suspend."""


def system_clock() -> Clock:
    """`CLOCK_BOOTTIME` where it exists: `time.monotonic` stands still while a Linux machine is suspended."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if boottime is None else partial(time.clock_gettime, boottime)


class Entropy(Protocol):
    """Where random values come from."""

    def texts(self, count: int) -> list[bytes]:
        """So many texts of 22 base64 characters, each at least 128 unguessable bits."""

    def fraction(self) -> float:
        """A number in [0, 1), to spread waiting times."""


_TEXT: Final = 22


class SystemEntropy:
    """The operating system's randomness."""

    __slots__ = ()

    def texts(self, count: int) -> list[bytes]:
        """Texts of 132 bits each, of `os.urandom`."""
        digits = b64encode(os.urandom(-(-count * _TEXT * 6 // 8)))
        return [digits[start : start + _TEXT] for start in range(0, count * _TEXT, _TEXT)]

    def fraction(self) -> float:
        """A number in [0, 1) of `random.random`."""
        return random.random()


class ConnectionFailed(OSError):
    """A connection could not be made or was given up; says why."""


class Dialer(Protocol):
    """How a connection to a server is opened."""

    async def __call__(self, server: ServerOptions, protocol: asyncio.Protocol) -> None:
        """Connects, TLS included, and hands the transport to the protocol's `connection_made`.

        Raises OSError (ssl.SSLError among it) when that fails. Its caller bounds the time.
        """


class SocketDialer:
    """TCP, unix socket or TLS, as the server's options say."""

    async def __call__(self, server: ServerOptions, protocol: asyncio.Protocol) -> None:
        """Connects the protocol to the server."""
        loop = asyncio.get_running_loop()
        if server.socket is not None:
            await loop.create_unix_connection(lambda: protocol, server.socket)
            return
        context = await loop.run_in_executor(None, _tls_context, server) if server.ssl else None
        await loop.create_connection(lambda: protocol, server.host, server.port, ssl=context)


def _tls_context(server: ServerOptions) -> ssl.SSLContext:
    """Made anew for each connection, so that renewed certificates are taken up; reads files, so not in the loop."""
    context = ssl.create_default_context(cafile=server.ssl_ca_certs)
    context.check_hostname = server.ssl_check_hostname
    if server.ssl_certfile is not None:
        context.load_cert_chain(server.ssl_certfile, server.ssl_keyfile)
    return context


class Ports:
    """The ports of one engine; each left out is the real one."""

    __slots__ = ("clock", "dial", "entropy")

    def __init__(self, clock: Clock | None = None, dial: Dialer | None = None, entropy: Entropy | None = None) -> None:
        self.clock: Clock = clock or system_clock()
        self.dial: Dialer = dial or SocketDialer()
        self.entropy: Entropy = entropy or SystemEntropy()
