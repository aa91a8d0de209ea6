"""A simulated network: hosts with servers, connections to them, delays, partitions in either direction.

Its dialers fit into the engine's `Ports`, so the engine runs over it unchanged. All its randomness comes from one
source, in the order in which things are sent; a seed repeats it.

What TCP promises holds: in one direction of one connection nothing is reordered, doubled or changed. Nothing else
holds: bytes arrive late or never, and an end is noticed late, never, or on one side only.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from typing import Protocol

import hiredis

from redlock_cluster.options import ServerOptions
from redlock_cluster.testing.simulation.loop import VirtualLoop

__all__ = ["NOBODY", "Connection", "Host", "Network", "Pipe", "Service", "Session", "SimulatedDialer"]

NOBODY = Context()
"""Where the network's own call-backs run: they belong to no process."""


class Session(Protocol):
    """What a server keeps for one client."""

    def execute(self, words: list[bytes]) -> bytes:
        """Executes one command and returns its whole reply in RESP, with the pushes around it."""

    def close(self) -> None:
        """The client has ended."""


class Service(Protocol):
    """What answers on a host."""

    def connect(self, push: Callable[[bytes], None], killed: Callable[[], None]) -> Session:
        """Begins a session for a new client.

        push: sends it bytes unasked
        killed: called when the server ends it; while it executes a command, the reply is sent before the end
        """


class Pipe:
    """One direction of one connection: bytes arrive in order, later or never; None is the end.

    loop: the simulation's
    delay: returns the seconds that the next bytes need
    deliver: gets them
    """

    __slots__ = ("_blocked", "_delay", "_deliver", "_ended", "_last", "_life", "_loop", "_stuck", "broken")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, delay: Callable[[], float], deliver: Callable[[bytes | None], None]
    ) -> None:
        self._loop, self._delay, self._deliver = loop, delay, deliver
        self._last = 0.0
        self._life = 0
        self._stuck: list[bytes | None] = []
        self._blocked = self._ended = False
        self.broken = False

    def send(self, data: bytes | None) -> None:
        """Sends bytes, or the end."""
        if self._ended or self.broken:
            return
        self._ended = data is None
        self._last = max(self._last, self._loop.time() + self._delay())
        self._loop.call_at(self._last, self._arrive, data, self._life, context=NOBODY)

    def shut(self) -> None:
        """Nothing more can be sent; nobody is notified."""
        self._ended = True

    def block(self) -> None:
        """Nothing arrives any more; what is on its way waits."""
        self._blocked = True

    def unblock(self) -> None:
        """What waits is sent on, in its order."""
        self._blocked = False
        if self._stuck:
            self._last = max(self._last, self._loop.time() + self._delay())
            self._loop.call_at(self._last, self._drain, self._life, context=NOBODY)

    def lose(self) -> None:
        """What is on its way is lost."""
        self._life += 1
        self._stuck.clear()

    def vanish(self) -> None:
        """What is on its way and what is sent from now on is lost; nobody is notified."""
        self.lose()
        self.broken = True

    def _arrive(self, data: bytes | None, life: int) -> None:
        if life != self._life:
            return
        if self._blocked or self._stuck:
            self._stuck.append(data)
        else:
            self._deliver(data)

    def _drain(self, life: int) -> None:
        if life != self._life:
            return
        while self._stuck and not self._blocked and life == self._life:
            self._deliver(self._stuck.pop(0))


class Connection(asyncio.Transport):
    """A connection of a client to a host, and the client's transport.

    number: its index among all connections of the network, from 1
    client: the name of the client
    host: to which it leads
    closed: the client's end is closed
    """

    def __init__(self, network: Network, client: str, host: Host, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.network, self.client, self.host = network, client, host
        self.number = network.count()
        self.closed = False
        self._protocol = protocol
        self._context = copy_context()
        self._loop = network.loop
        self._reader = hiredis.Reader()
        self._serving = False
        self.session: Session | None = host.service.connect(self._push, self._killed)
        self.to_server = Pipe(network.loop, host.delay, self._at_server)
        self.to_client = Pipe(network.loop, host.delay, self._at_client)

    # --- the client's end ------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends bytes."""
        if self.closed:
            return
        for part in self.network.parts(bytes(data)):
            self.to_server.send(part)

    def close(self) -> None:
        """Ends in good order: what was sent arrives, then the end."""
        if not self.closed:
            self.to_server.send(None)
            self._lost(None)

    def abort(self) -> None:
        """Ends at once. The server may or may not get what is on its way, and may or may not notice the end."""
        if not self.closed:
            chance = self.network.random.random()
            if chance < 0.25:
                self.to_server.lose()
            if chance < 0.75:
                self.to_server.send(None)
            self._lost(None)

    def is_closing(self) -> bool:
        """Whether the client's end is closed."""
        return self.closed

    def get_extra_info(self, name: str, default: object = None) -> object:
        """There is none."""
        return default

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who gets the bytes."""
        return self._protocol

    def get_write_buffer_size(self) -> int:
        """0: the network accepts everything at once."""
        return 0

    def _at_client(self, data: bytes | None) -> None:
        if data is None:
            self._lost(ConnectionResetError("connection reset by peer"))
        elif not self.closed:
            self._loop.call_soon(self._read, data, context=self._context)

    def _read(self, data: bytes) -> None:
        if not self.closed:
            self._protocol.data_received(data)

    def _lost(self, error: Exception | None) -> None:
        if not self.closed:
            if error is None:
                self.closed = True
            self._loop.call_soon(self._report_end, error, context=self._context)

    def _report_end(self, error: Exception | None) -> None:
        if error is not None and self.closed:
            return
        self.closed = True
        self.network.ended(self)
        self._forget()
        self._protocol.connection_lost(error)

    def _forget(self) -> None:
        if self.closed and self.session is None:
            self.network.forget(self)

    # --- the server's end ------------------------------------------------------------------------------------------

    def _at_server(self, data: bytes | None) -> None:
        self.host.arrived(self, data)

    def serve(self, data: bytes | None) -> None:
        """The server reads bytes, or the end, and answers. For `Host`."""
        if self.session is None:
            return
        if data is None:
            self.session.close()
            self.session = None
            self._forget()
            return
        self._reader.feed(data)
        replies = []
        self._serving = True
        while self.session is not None and (words := self._reader.gets()) is not False:
            if not isinstance(words, list):
                raise TypeError("a client sends commands: arrays of bulk strings")
            reply = self.session.execute(words)
            replies.append(reply)
            self.network.executed(self, words, reply)
        self._serving = False
        if replies:
            self._push(b"".join(replies))
        if self.session is None:
            self.to_client.send(None)
        if self.host.on_served is not None:
            self.host.on_served()

    def _push(self, data: bytes) -> None:
        for part in self.network.parts(data):
            self.to_client.send(part)

    def _killed(self) -> None:
        self.session = None
        self._forget()
        if not self._serving:  # else by its own command, whose reply is sent first
            self.to_client.send(None)

    # --- what may happen to it -------------------------------------------------------------------------------------

    def cut(self, to_server: bool = False, to_client: bool = False, unnoticed: bool = False) -> None:
        """Breaks it: both ends notice soon.

        to_server, to_client: what is on its way there is lost
        unnoticed: the server does not notice
        """
        for pipe, loses in ((self.to_server, to_server), (self.to_client, to_client)):
            if loses:
                pipe.lose()
        if unnoticed:
            self.to_server.shut()
        else:
            self.to_server.send(None)
        self.to_client.send(None)

    def vanish(self, to_server: bool = True, to_client: bool = True) -> None:
        """Makes it half-open: from now on bytes in these directions vanish; nobody is notified."""
        for pipe, vanishes in ((self.to_server, to_server), (self.to_client, to_client)):
            if vanishes:
                pipe.vanish()

    def orphan(self, unnoticed: bool) -> None:
        """The client's process is dead.

        unnoticed: the server does not notice
        """
        if not self.closed:
            self.closed = True
            if not unnoticed:
                self.to_server.send(None)
            self.network.ended(self)

    def server_gone(self, unnoticed: bool) -> None:
        """The server is dead.

        unnoticed: the client does not notice
        """
        self.session = None
        self._forget()
        self.to_server.vanish()
        if unnoticed:
            self.to_client.vanish()
        else:
            self.to_client.send(None)


class Host:
    """A machine with a server. Made by `Network.add`.

    network: to which it belongs
    name: `host:port`
    service: what answers there

    up: a connection to it can be made
    frozen: it accepts connections and bytes but answers nothing
    slow: seconds added to each delay from and to it
    on_served: called when it has executed what it read from a connection
    """

    def __init__(self, network: Network, name: str, service: Service) -> None:
        self.network, self.name, self.service = network, name, service
        self.up = True
        self.frozen = False
        self.slow = 0.0
        self.on_served: Callable[[], None] | None = None
        self._inbox: dict[int, list[tuple[Connection, bytes | None]]] = {}

    def delay(self) -> float:
        """Seconds that the next bytes to or from it need."""
        return self.network.delay() + self.slow

    @property
    def connections(self) -> list[Connection]:
        """Its connections, oldest first."""
        return [connection for connection in self.network.connections.values() if connection.host is self]

    def arrived(self, connection: Connection, data: bytes | None) -> None:
        """Bytes, or the end, reach the machine."""
        if self.frozen:
            self._inbox.setdefault(connection.number, []).append((connection, data))
        else:
            connection.serve(data)

    def freeze(self) -> None:
        """The server stops (SIGSTOP): the machine accepts bytes, nobody reads them."""
        self.frozen = True

    def thaw(self) -> None:
        """The server continues with what has arrived: in order within each connection, in any order among them."""
        self.frozen = False
        inbox, self._inbox = self._inbox, {}
        order = list(inbox)
        self.network.random.shuffle(order)
        for number in order:
            for connection, data in inbox[number]:
                connection.serve(data)

    def crash(self, unnoticed: bool = False) -> None:
        """Ends all connections and refuses new ones.

        unnoticed: clients don't notice
        """
        self.up, self.frozen = False, False
        self._inbox.clear()
        for connection in self.connections:
            connection.server_gone(unnoticed)

    def start(self) -> None:
        """Accepts connections again."""
        self.up = True


Watcher = Callable[[Connection, list[bytes], bytes], None]


class Network:
    """Hosts, and connections to them.

    loop: the simulation's
    source: its randomness
    fastest, slowest: seconds that bytes need one way
    fragments: share of writes that arrive in two parts, from 0 to 1

    hosts: by name
    connections: by number, those of which an end is open
    made: how many connections there were
    on_command: called with every command that a server executed, and its reply
    on_end: called when a client's end of a connection is closed
    """

    def __init__(
        self,
        loop: VirtualLoop,
        source: random.Random,
        fastest: float = 0.0001,
        slowest: float = 0.001,
        fragments: float = 0.0,
    ) -> None:
        self.loop, self.random = loop, source
        self.fastest, self.slowest, self.fragments = fastest, slowest, fragments
        self.hosts: dict[str, Host] = {}
        self.connections: dict[int, Connection] = {}
        self.on_command: Watcher | None = None
        self.on_end: Callable[[Connection], None] | None = None
        self._blocked: set[tuple[str, str]] = set()
        self.made = 0

    def add(self, name: str, service: Service) -> Host:
        """Adds a host.

        name: `host:port`, as in the options
        service: what answers there
        """
        host = self.hosts[name] = Host(self, name, service)
        return host

    def dialer(self, client: str) -> SimulatedDialer:
        """Makes a dialer for a client; partitions are set by the client's name."""
        return SimulatedDialer(self, client)

    # --- partitions ------------------------------------------------------------------------------------------------

    def block(self, source: str, target: str) -> None:
        """From now on nothing arrives that is sent from one to the other: it waits.

        source, target: a client's name and a host's, in either order
        """
        self._blocked.add((source, target))
        for pipe in self._pipes(source, target):
            pipe.block()

    def unblock(self, source: str, target: str) -> None:
        """What waited is sent on."""
        self._blocked.discard((source, target))
        for pipe in self._pipes(source, target):
            pipe.unblock()

    def blocked(self, source: str, target: str) -> bool:
        """Whether nothing arrives that is sent from one to the other."""
        return (source, target) in self._blocked

    def heal(self) -> None:
        """Ends all partitions."""
        for source, target in sorted(self._blocked):
            self.unblock(source, target)

    def _pipes(self, source: str, target: str) -> Iterator[Pipe]:
        for connection in self.connections.values():
            if (connection.client, connection.host.name) == (source, target):
                yield connection.to_server
            elif (connection.client, connection.host.name) == (target, source):
                yield connection.to_client

    # --- for connections -------------------------------------------------------------------------------------------

    def count(self) -> int:
        """The number of the next connection."""
        self.made += 1
        return self.made

    def delay(self) -> float:
        """Seconds that the next bytes need, one way."""
        return self.fastest + (self.slowest - self.fastest) * self.random.random()

    def parts(self, data: bytes) -> tuple[bytes, ...]:
        """What was written, as it is sent: whole or in two."""
        if not self.fragments or len(data) < 2 or self.random.random() >= self.fragments:
            return (data,)
        cut = 1 + int(self.random.random() * (len(data) - 1))
        return data[:cut], data[cut:]

    def executed(self, connection: Connection, words: list[bytes], reply: bytes) -> None:
        """A server executed a command."""
        if self.on_command is not None:
            self.on_command(connection, words, reply)

    def ended(self, connection: Connection) -> None:
        """A client's end is closed."""
        if self.on_end is not None:
            self.on_end(connection)

    def forget(self, connection: Connection) -> None:
        """Both ends are closed."""
        self.connections.pop(connection.number, None)


class SimulatedDialer:
    """A dialer port of the engine: opens connections of one client."""

    def __init__(self, network: Network, client: str) -> None:
        self._network, self._client = network, client

    async def __call__(self, server: ServerOptions, protocol: asyncio.Protocol) -> None:
        """Connects; that needs as long as three messages.

        Waits for ever while a partition is between them: its caller limits the time.

        Raises ConnectionRefusedError when nobody listens there.
        """
        network, client = self._network, self._client
        host = network.hosts.get(server.name)
        if host is None:
            raise ConnectionRefusedError(f"no such host: {server.name}")
        await self._passage(client, host.name, host.delay())
        if not host.up:
            raise ConnectionRefusedError("connection refused")
        await self._passage(host.name, client, host.delay())
        if not host.up:
            raise ConnectionResetError("connection reset by peer")
        connection = Connection(network, client, host, protocol)
        network.connections[connection.number] = connection
        for pipe, source, target in (
            (connection.to_server, client, host.name),
            (connection.to_client, host.name, client),
        ):
            if network.blocked(source, target):
                pipe.block()
        protocol.connection_made(connection)

    async def _passage(self, source: str, target: str, delay: float) -> None:
        await asyncio.sleep(delay)
        if self._network.blocked(source, target):
            await self._network.loop.create_future()
