"""What connections and the engine ask of the world around them, and the real world's answers.

A simulation passes others.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from struct import unpack_from
from typing import Final, Protocol

from redlock_cluster.options import ServerOptions
from redlock_cluster.wire.dialer import SocketDialer

__all__ = ["Clock", "ConnectionFailed", "Dialer", "Entropy", "IsReplica", "Ports", "SystemEntropy", "system_clock"]

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
        return [*unpack_from(f"{_TEXT}s" * count, digits)]  # slices take twice as long

    def fraction(self) -> float:
        """A number in [0, 1) of `random.random`."""
        return random.random()


class ConnectionFailed(OSError):
    """A connection could not be made or was given up; says why."""


class IsReplica(ConnectionFailed):
    """The server is a replica."""


class Dialer(Protocol):
    """How a connection to a server is opened."""

    async def __call__(self, server: ServerOptions, protocol: asyncio.Protocol) -> None:
        """Connects, TLS included, and hands the transport to the protocol's `connection_made`.

        Raises OSError (ssl.SSLError among it) when that fails. Its caller bounds the time: a cancellation gets a note
        that says what was still being done.
        """


class Ports:
    """The ports of one engine; each left out is the real one."""

    __slots__ = ("clock", "dial", "entropy")

    def __init__(self, clock: Clock | None = None, dial: Dialer | None = None, entropy: Entropy | None = None) -> None:
        self.clock: Clock = clock or system_clock()
        self.dial: Dialer = dial or SocketDialer()
        self.entropy: Entropy = entropy or SystemEntropy()
