"""What goes wrong with servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from redlock_cluster.testing.simulation import Session, SimulatedServer

from .ledger import WRITES

if TYPE_CHECKING:
    from .faults import Faults

ERRORS = (b"-BUSY a script runs\r\n", b"-READONLY a replica\r\n", b"-ERR odd\r\n")


class MoodyService:
    """A server that at times refuses to write. error: what it answers then, None while it works"""

    def __init__(self, server: SimulatedServer) -> None:
        self.model = server.model
        self.error: bytes | None = None

    def connect(self, push: Callable[[bytes], None], killed: Callable[[], None]) -> Session:
        """A session that shares the mood."""
        return _MoodySession(self, self.model.connect(push, killed))


class _MoodySession:
    def __init__(self, service: MoodyService, inner: Session) -> None:
        self._service, self._inner = service, inner
        self.close = inner.close

    def execute(self, words: list[bytes]) -> bytes:
        error = self._service.error
        handshake = words.count(b"") > 1  # asks for an empty value
        if error is not None and words[0] in WRITES and not handshake:
            return error
        return self._inner.execute(words)


class ServerFaults:
    """Freezes, crashes, refusals, full and forgetful servers, others' locks; in some scenarios lost memory, jumps."""

    def __init__(self, faults: Faults) -> None:
        self._faults, self._scene, self._random = faults, faults.scene, faults.random
        self._world, self._history = faults.scene.world, faults.scene.history
        self._ghosts = 0
        self._moods = {server.name: MoodyService(server) for server in self._world.servers}
        for server in self._world.servers:
            server.host.service = self._moods[server.name]

    def kinds(self, scenario: str) -> list[tuple[int, Callable[[], None]]]:
        """How often each comes, relative to the others."""
        return [
            (3, self._freeze),
            (12, self._amnesia) if scenario == "amnesia" else (3, self._crash),
            (2, self._errors),
            (2, self._fill),
            (1, self._forget_scripts),
            (2, self._foreign_lock),
            (12 if scenario == "jump" else 0, self._jump),
        ]

    def _freeze(self) -> None:
        server = self._faults.server()
        if not server.host.up or server.host.frozen:
            return
        self._faults.note(f"{server.name} freezes", "servers frozen")
        server.freeze()

        def cure() -> None:
            if server.host.frozen:
                self._history.note("faults", f"{server.name} thaws")
                server.thaw()

        self._faults.until(self._faults.duration(), cure)

    def _crash(self, keep_memory: bool = True) -> None:
        server = self._faults.server()
        if not server.host.up:
            return
        unnoticed = self._faults.chance()
        self._faults.note(f"{server.name} crashes{', unnoticed' if unnoticed else ''}", "servers crashed")
        server.crash(unnoticed)

        def cure() -> None:
            self._history.note("faults", f"{server.name} is back{'' if keep_memory else ' and has forgotten'}")
            server.restart(keep_memory)

        self._faults.until(self._faults.duration(), cure)

    def _amnesia(self) -> None:
        self._crash(keep_memory=False)

    def _jump(self) -> None:
        server, seconds = self._faults.server(), 4 * self._random.random()
        self._faults.note(f"the clock of {server.name} jumps by {seconds:.1f} s", "server clocks jumped")
        server.clock.step(seconds)

    def _errors(self) -> None:
        server = self._faults.server()
        error = self._random.choice(ERRORS)
        self._faults.note(f"{server.name} answers {error.decode().strip()}", "servers refusing to write")
        self._moods[server.name].error = error
        self._faults.until(self._faults.duration(), lambda: setattr(self._moods[server.name], "error", None))

    def _fill(self) -> None:
        full = self._random.sample(self._world.servers, self._random.randint(1, self._scene.plan.size))
        self._faults.note(f"{[server.name for server in full]} are full", "servers full")

        def limit(size: bytes) -> None:
            for server in full:
                server.model.config[b"maxmemory"] = size

        limit(b"1")
        self._faults.until(self._faults.duration(), lambda: limit(b"0"))

    def _forget_scripts(self) -> None:
        for server in self._world.servers:
            if server.host.up:
                server.model.connect(lambda _: None, lambda: None).execute([b"SCRIPT", b"FLUSH"])
        self._faults.note("all servers forget their scripts", "script caches flushed")

    def _foreign_lock(self) -> None:
        """Somebody who isn't here any more left a lock on some servers: a ghost."""
        resource, ttl = self._random.choice(self._scene.resources), self._random.choice((30, 100, 300))
        some = self._random.sample(self._world.servers, self._scene.plan.size // 2)
        self._faults.note(f"a ghost holds {resource} on {[s.name for s in some]} for {ttl} ms", "foreign locks")
        self._ghosts += 1
        for server in some:
            if server.host.up:
                words = [b"SET", resource.encode(), b"ghost %d" % self._ghosts, b"NX", b"PX", b"%d" % ttl]
                server.model.connect(lambda _: None, lambda: None).execute(words)
