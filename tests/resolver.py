"""Names and addresses that tests make up: a resolver in this process, and addresses that swallow packets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, TypeVar

import pytest
import uvloop

T = TypeVar("T")

LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

LONGEST: Final = 20.0
"""Seconds after which a test that waits for what never comes fails."""

AGAIN: Final = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
NONAME: Final = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


class ImpatientRunner(asyncio.Runner):
    """Runs coroutines in a loop, LONGEST at most."""

    def run(self, coro: Coroutine[Any, Any, T], **named: Any) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(LONGEST):
                return await coro

        return super().run(bounded(), **named)


class Resolver:
    """Answers for names that end in `.test`; all others are looked up as ever. A context: at its end, nothing hangs.

    table: addresses of a name, or what its look-up raises
    asked: the names, as often as they were asked for
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.table: dict[str, Sequence[str] | Exception] = {}
        self.asked: list[str] = []
        self._hanging: dict[str, list[threading.Event]] = {}
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.look_up)

    def look_up(self, host: Any, port: Any, *arguments: Any, **named: Any) -> list[Any]:
        if not (isinstance(host, str) and host.endswith(".test")):
            return self._real(host, port, *arguments, **named)
        self.asked.append(host)
        if host in self._hanging:
            self._hanging[host][-1].wait()
        found = self.table.get(host, NONAME)
        if isinstance(found, Exception):
            raise found
        return [answer for address in found for answer in self._real(address, port, *arguments, **named)]

    def hang(self, *hosts: str) -> None:
        """From now on look-ups of these names hang."""
        for host in hosts:
            self._hanging.setdefault(host, []).append(threading.Event())

    def let_go(self, *hosts: str) -> None:
        """Look-ups of these names end, and hang no more; without names, all."""
        for host in hosts or list(self._hanging):
            for held in self._hanging.pop(host):
                held.set()

    def let_one_go(self, host: str) -> None:
        """The look-up of this name that hangs ends, and the next one hangs."""
        self.hang(host)
        self._hanging[host][-2].set()


@contextlib.contextmanager
def resolver() -> Iterator[Resolver]:
    with pytest.MonkeyPatch.context() as patch:
        made = Resolver(patch)
        try:
            yield made
        finally:
            made.let_go()
            for thread in threading.enumerate():
                if thread.name.startswith("redlock-cluster: looking up"):
                    thread.join(LONGEST)  # the next test may use the same name


@contextlib.contextmanager
def swallowing(port: int = 0, address: str = "127.0.0.9") -> Iterator[int]:
    """The port of an address that swallows whatever is sent there: a listener with a full queue.

    Skips the test where there can't be one.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError as error:
            pytest.skip(f"{address} is not of this machine: {error}")
        listener.listen(0)
        for _ in range(20):
            knock = stack.enter_context(socket.socket())
            knock.setblocking(False)
            assert knock.connect_ex(listener.getsockname()) == errno.EINPROGRESS
            if not select.select([], [knock], [], 0.1)[1]:
                break
        else:
            pytest.skip("a full queue swallows nothing here")
        yield listener.getsockname()[1]
