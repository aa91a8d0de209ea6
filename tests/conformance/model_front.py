"""A model server behind a real socket, so that the suite can run over it; besides what only tests ask of a server."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any, Final, TypeVar

import hiredis

from redlock_cluster.testing.model import ModelServer, ModelVersion

T = TypeVar("T")
Words = list[bytes]
_OK: Final = b"+OK\r\n"
_RUNS: Final = itertools.count(1)
_PRINTED: Final = [f"\\x{byte:02x}" if not 32 <= byte < 127 or byte in b'"\\' else chr(byte) for byte in range(256)]


@cache
def loop() -> asyncio.AbstractEventLoop:
    """The loop in which all fronts of the process live, in a thread of its own: tests block."""
    made = asyncio.new_event_loop()
    threading.Thread(target=made.run_forever, name="model-front", daemon=True).start()
    return made


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(coroutine, loop()).result(20)


def _run_id() -> str:
    """One that no other run of a server has."""
    return f"{next(_RUNS):040x}"


class ModelFront:
    """Looks like an EmbeddedServer to the suite."""

    def __init__(self, version: ModelVersion, password: str | None = None) -> None:
        self.model = ModelServer(time.time, version, run_id=_run_id(), password=password)
        self.port = 0
        self.paused = False
        self.wires: list[_Wire] = []
        self.monitors: list[_Wire] = []
        self._listener: asyncio.Server | None = None

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    def launch(self) -> None:
        run(self._listen())

    def wait_ready(self) -> None:
        assert self.port

    def start(self) -> None:
        self.model.restart(False, _run_id())
        self.launch()

    def pause(self) -> None:
        self.paused = True
        run(asyncio.sleep(0))

    def resume(self) -> None:
        self.paused = False
        run(self._drain())

    def kill(self) -> None:
        run(self._stop())

    close = kill

    async def _listen(self) -> None:
        self._listener = await loop().create_server(lambda: _Wire(self), "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self.model.crash()
        for wire in list(self.wires):
            wire.transport.abort()
        await asyncio.sleep(0)

    async def _drain(self) -> None:
        for wire in list(self.wires):
            wire.drain()


class _Wire(asyncio.Protocol):
    """One connection."""

    transport: asyncio.Transport

    def __init__(self, front: ModelFront) -> None:
        self.front = front
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.address = "{}:{}".format(*transport.get_extra_info("peername"))
        self.client = self.front.model.connect(transport.write, self._killed)
        self.front.wires.append(self)

    def _killed(self) -> None:
        loop().call_soon(self.transport.close)  # later: its own command's reply is still to be written

    def connection_lost(self, _: Exception | None) -> None:
        self.client.close()
        self.front.wires.remove(self)
        if self in self.front.monitors:
            self.front.monitors.remove(self)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(hiredis.pack_command(("MONITOR",)) if data == b"MONITOR\r\n" else data)
        self.drain()

    def drain(self) -> None:
        while not self.front.paused and (words := self._reader.gets()) is not False:
            assert isinstance(words, list)
            self.transport.write(self._reply(words))

    def _reply(self, words: Words) -> bytes:
        line = " ".join(f'"{"".join(_PRINTED[byte] for byte in word)}"' for word in words)
        for monitor in self.front.monitors:
            monitor.transport.write(f"+{time.time():.6f} [0 {self.address}] {line}\r\n".encode())
        own = _OWN.get(words[0].upper())
        reply = own(self, words) if own else None
        return self.client.execute(words) if reply is None else reply

    def _monitor(self, words: Words) -> bytes:
        self.front.monitors.append(self)
        return _OK

    def _echo(self, words: Words) -> bytes:
        return b"$%d\r\n%b\r\n" % (len(words[1]), words[1])

    def _keys(self, words: Words) -> bytes:
        reader = hiredis.Reader()
        reader.feed(self.client.execute([b"SCAN", b"0", b"MATCH", words[1], b"COUNT", b"1000000000"]))
        found: list[bytes] = reader.gets()[1]
        return b"*%d\r\n" % len(found) + b"".join(b"$%d\r\n%b\r\n" % (len(key), key) for key in found)

    def _replicaof(self, words: Words) -> bytes:
        self.front.model.replica = words[1].upper() != b"NO"
        return _OK

    def _client(self, words: Words) -> bytes | None:
        name = words[1].upper()
        if name == b"LIST":
            text = "".join(f"id={wire.client.id} addr={wire.address}\n" for wire in self.front.wires).encode()
            return b"$%d\r\n%b\r\n" % (len(text), text)
        if name == b"KILL" and words[2].upper() == b"TYPE":
            victims = [wire for wire in self.front.wires if wire is not self and wire not in self.front.monitors]
        elif name == b"KILL" and len(words) == 3:
            victims = [wire for wire in self.front.wires if wire.address == words[2].decode()]
        else:
            return None
        for wire in victims:
            wire.client.close()
            wire.transport.close()
        return b":%d\r\n" % len(victims) if len(words) > 3 else _OK


_OWN: Final[dict[bytes, Callable[[_Wire, Words], bytes | None]]] = {
    b"MONITOR": _Wire._monitor,
    b"ECHO": _Wire._echo,
    b"KEYS": _Wire._keys,
    b"REPLICAOF": _Wire._replicaof,
    b"CLIENT": _Wire._client,
}
