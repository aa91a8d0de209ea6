"""The network between workers and servers: a port in front of each server, which can stall, delay and cut.

It moves bytes and does not look at them. All gates share one loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Final, Self, TypeVar, cast

__all__ = ["Gate", "Network"]

_HOST: Final = "127.0.0.1"
_PATIENCE: Final = 20.0

T = TypeVar("T")


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class _End(asyncio.Protocol):
    """One of the two sockets of a connection, and what is on its way to it: bytes, or None for the end.

    slow: the network's lag is for this connection too
    """

    other: _End

    def __init__(self, gate: Gate, slow: bool) -> None:
        self._gate, self.slow = gate, slow
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._way: deque[tuple[float, bytes | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.held = self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.move()

    def data_received(self, data: bytes) -> None:
        self.other.send(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._transport = None
        self._way.clear()
        self.other.send(None)
        if self.other._over:
            self._gate.forget(self)

    def send(self, data: bytes | None) -> None:
        """Puts something on its way to this end."""
        if not self._over:
            self._way.append((self._loop.time() + self._gate.takes(self.slow), data))
            self.move()

    def move(self) -> None:
        """Hands over what is due."""
        while self._way and self._transport is not None and not (self.held or self._gate.stalled):
            due, data = self._way[0]
            if due > self._loop.time():
                if self._timer is None:
                    self._timer = self._loop.call_at(due, self._is_due)
                return
            self._way.popleft()
            if data is None:
                self._transport.close()
            else:
                self._transport.write(data)

    def _is_due(self) -> None:
        self._timer = None
        self.move()

    def abort(self) -> None:
        """Ends this socket at once."""
        self._over = True
        if self._transport is not None:
            self._transport.abort()


class Gate:
    """A port in front of one server.

    stalled: nothing passes in either direction and nobody is told; connections are accepted all the same
    delay: seconds that everything takes in each direction, besides the network's lag
    """

    def __init__(self, network: Network, upstream: int) -> None:
        self.port = 0
        self.stalled = False
        self.delay = 0.0
        self._accepted = 0
        self._network, self._upstream = network, upstream
        self._ends: list[tuple[_End, _End]] = []
        self._dialling: set[asyncio.Task[None]] = set()
        self._listener: asyncio.AbstractServer | None = None

    def takes(self, slow: bool) -> float:
        """Seconds in each direction, of a slow or another connection."""
        return self.delay + (self._network.lag if slow else 0.0)

    # in the network's loop

    async def listen(self) -> None:
        """Opens the port."""
        self._listener = await asyncio.get_running_loop().create_server(self._accept, _HOST, 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    def _accept(self) -> _End:
        self._accepted += 1
        slow = self._accepted % 2 == 0
        client, server = _End(self, slow), _End(self, slow)
        client.other, server.other = server, client
        self._ends.append((client, server))
        task = asyncio.get_running_loop().create_task(self._dial(client, server))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)
        return client

    async def _dial(self, client: _End, server: _End) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: server, _HOST, self._upstream)
        except OSError:
            server.abort()
            client.send(None)

    def forget(self, end: _End) -> None:
        """A connection has ended on both sides."""
        self._ends = [pair for pair in self._ends if end not in pair]

    def _move(self) -> None:
        for pair in list(self._ends):
            for end in pair:
                end.move()

    async def end(self) -> None:
        """Closes the port and every connection."""
        if self._listener is not None:
            self._listener.close()
        for task in list(self._dialling):
            task.cancel()
        for pair in list(self._ends):
            for end in pair:
                end.abort()
        await asyncio.sleep(0.01)

    async def _cut(self, in_flight: float, late: float) -> None:
        caught = [pair for pair in self._ends if not pair[0].held]
        for _, server in caught:
            server.held = True
        await asyncio.sleep(in_flight)
        for client, _ in caught:
            client.abort()
        await asyncio.sleep(late)
        for _, server in caught:
            server.held = False
            server.move()

    # from other threads

    def stall(self) -> None:
        """From now on nothing passes."""
        self._network.do(lambda: setattr(self, "stalled", True))

    def pass_on(self) -> None:
        """Everything passes again, also what was sent meanwhile."""

        def act() -> None:
            self.stalled = False
            self._move()

        self._network.do(act)

    def vanish(self) -> None:
        """Nothing passes any more on the connections there are, and nobody is ever told; new ones pass."""

        def act() -> None:
            for pair in self._ends:
                for end in pair:
                    end.held = True

        self._network.do(act)

    def cut(self, in_flight: float, late: float) -> None:
        """Breaks the clients' side of every connection; what they sent in the last `in_flight` seconds lands `late`.

        New connections pass meanwhile. Returns when all has landed.
        """
        self._network.run(self._cut(in_flight, late))


class Network:
    """A gate in front of each port, in the order given.

    lag: seconds that everything takes in each direction on every second connection of any gate, so that some clients
        are far away and contend with near ones
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.lag = 0.0
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos network", daemon=True)
        self._thread.start()
        self.gates = tuple(Gate(self, port) for port in ports)
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for gate in self.gates:
                self.run(gate.listen())
            undo.pop_all()

    def do(self, what: Callable[[], T]) -> T:
        """Calls a function in the loop and returns what it returns."""

        async def call() -> T:
            return what()

        return self.run(call())

    def run(self, what: Coroutine[object, object, T]) -> T:
        """Runs a coroutine in the loop."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(what, self._loop)
        return future.result(_PATIENCE)

    def close(self) -> None:
        """Closes every port and connection."""
        for gate in self.gates:
            self.run(gate.end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
