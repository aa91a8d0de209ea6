"""What goes wrong with servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from redlock_cluster.core.queue import META
from redlock_cluster.testing.simulation import Session, SimulatedServer

from .ledger import WRITES
from .outsiders import limit_memory

if TYPE_CHECKING:
    from .faults import Faults

ERRORS = (b"-BUSY a script runs\r\n", b"-READONLY a replica\r\n", b"-ERR odd\r\n")


class MoodyService:
    """A server that at times refuses to write. error: what it answers then, None while it works; lacks: of `MANNERS`"""

    def __init__(self, server: SimulatedServer, lacks: str) -> None:
        self.model, self.lacks = server.model, lacks
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
        if self._service.lacks == "RESP2" and words[0] == b"HELLO":
            return b"-ERR unknown command 'HELLO'\r\n"
        if self._service.lacks == "no tracking" and words[:2] == [b"CLIENT", b"TRACKING"]:
            return b"-NOPERM this user has no permissions to run the 'client|tracking' command\r\n"
        return self._inner.execute(words)


class ServerFaults:
    """Freezes, crashes, refusals, full and forgetful servers, others' locks; in some scenarios lost memory, jumps."""

    def __init__(self, faults: Faults) -> None:
        self._faults, self._scene, self._random = faults, faults.scene, faults.random
        self._world, self._history = faults.scene.world, faults.scene.history
        self._ghosts = 0
        lacks = faults.scene.plan.lacks
        self._moods = {s.name: MoodyService(s, what) for s, what in zip(self._world.servers, lacks, strict=True)}
        for server in self._world.servers:
            server.host.service = self._moods[server.name]

    def kinds(self, scenario: str) -> list[tuple[int, Callable[[], None]]]:
        """How often each comes, relative to the others."""
        return [
            (3, self._freeze),
            (3, self._crash),
            (8 if scenario == "amnesia" else 0, self._amnesia),
            (2, self._errors),
            (2, self._fill),
            (1, self._forget_scripts),
            (2, self._foreign_lock),
            (12 if scenario == "jump" else 0, self._jump),
            ({"flush": 6, "leases": 1}.get(scenario, 0), self._flush),
            (3 if scenario == "amnesia" else 0, self._flush_one),
            (12 if scenario == "amnesia" else 0, self._bare_quorum),
            (4 if scenario == "leases" else 0, self._delete),
            (2 if scenario == "leases" else 0, self._amnesia),
            (8 if scenario == "fenced" else 0, self._set_back),
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
            forgets = not keep_memory and self._forgetting(server)
            if forgets:
                self._scene.robbed(server)
            server.restart(not forgets)

        self._faults.until(self._faults.duration(), cure)

    def _amnesia(self) -> None:
        self._crash(keep_memory=False)

    def _bare_quorum(self) -> None:
        """Some servers are full, so leases stand on a bare quorum; when they are not any more, another one forgets.

        What is frozen, or out of reach, would take those leases when it is back.
        """
        plan, others = self._scene.plan, [*self._world.servers]
        self._random.shuffle(others)
        full, forgets = others[: plan.size - plan.quorum], others[-1]
        self._faults.note(f"{[server.name for server in full]} are full, then {forgets.name} forgets", "bare quorums")
        limit_memory(full, b"1")

        def cure() -> None:
            limit_memory(full, b"0")
            if forgets.host.up and self._forgetting(forgets):
                self._history.note("faults", f"{forgets.name} is started anew and has forgotten")
                self._scene.forget(forgets)

        self._faults.until(0.2 + 0.3 * self._random.random(), cure)

    def _flush_one(self) -> None:
        server = self._faults.server()
        if self._forgetting(server):
            self._faults.note(f"{server.name} is flushed", "servers flushed")
            self._scene.flush(server)

    def _forgetting(self, server: SimulatedServer) -> bool:
        """Whether it may lose its memory: one server at least knows the group still. Nobody can guard against more."""
        others = [other for other in self._world.servers if other is not server]
        return not self._scene.plan.guarded or any(b"run" in other.model.hashes().get(META, {}) for other in others)

    def _jump(self) -> None:
        server, seconds = self._faults.server(), 4 * self._random.random()
        self._faults.note(f"the clock of {server.name} jumps by {seconds:.1f} s", "server clocks jumped")
        server.clock.step(seconds)
        self._scene.invariants.clock_changed = self._world.loop.time()

    def _set_back(self) -> None:
        """Locks there last longer, and whoever goes by its time is behind."""
        server, seconds = self._faults.server(), 4 * self._random.random()
        self._faults.note(f"the clock of {server.name} is set back by {seconds:.1f} s", "server clocks set back")
        server.clock.step(-seconds)

    def _flush(self) -> None:
        some = self._random.sample(self._world.servers, self._random.randint(1, self._scene.plan.size))
        self._faults.note(f"{[server.name for server in some]} are flushed", "servers flushed")
        for server in some:
            self._scene.flush(server)

    def _delete(self) -> None:
        """Somebody deletes a lock by hand, on some servers."""
        resource = self._random.choice(self._scene.resources)
        some = self._random.sample(self._world.servers, self._random.randint(1, self._scene.plan.size))
        self._faults.note(f"{resource} is deleted on {[server.name for server in some]}", "locks deleted by hand")
        for server in some:
            self._scene.delete(server, resource)

    def _errors(self) -> None:
        server = self._faults.server()
        error = self._random.choice(ERRORS)
        self._faults.note(f"{server.name} answers {error.decode().strip()}", "servers refusing to write")
        self._moods[server.name].error = error
        self._faults.until(self._faults.duration(), lambda: setattr(self._moods[server.name], "error", None))

    def _fill(self) -> None:
        full = self._random.sample(self._world.servers, self._random.randint(1, self._scene.plan.size))
        self._faults.note(f"{[server.name for server in full]} are full", "servers full")

        limit_memory(full, b"1")
        self._faults.until(self._faults.duration(), lambda: limit_memory(full, b"0"))

    def _forget_scripts(self) -> None:
        for server in self._world.servers:
            if server.host.up:
                server.model.connect(lambda _: None, lambda: None).execute([b"SCRIPT", b"FLUSH"])
        self._faults.note("all servers forget their scripts", "script caches flushed")

    def _foreign_lock(self) -> None:
        """Somebody who isn't here any more left a lock on some servers: a ghost."""
        resource, ttl = self._random.choice(self._scene.resources), self._random.choice((30, 100, 300))
        some = self._random.sample(self._scene.servers_of(resource), self._scene.plan.size // 2)
        self._faults.note(f"a ghost holds {resource} on {[s.name for s in some]} for {ttl} ms", "foreign locks")
        self._ghosts += 1
        for server in some:
            if server.host.up:
                words = [b"SET", resource.encode(), b"ghost %d" % self._ghosts, b"NX", b"PX", b"%d" % ttl]
                server.model.connect(lambda _: None, lambda: None).execute(words)
