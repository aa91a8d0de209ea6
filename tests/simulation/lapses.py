"""Servers that forget, in peace: somebody is in a critical section, and who gets the lock besides is judged.

Who is inside does not hear that the lock is lost, and goes on until its validity is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from redlock_cluster import AsyncLease, LossReason
from redlock_cluster.core.kinds import Mode
from redlock_cluster.testing.simulation import SimulatedClient, SimulatedServer, stream

from .invariants import MANY, Claim, Section
from .outsiders import limit_memory
from .plan import MAX_TTL

if TYPE_CHECKING:
    from .scene import Scene

KINDS = ("restarted", "flushed", "newcomer", "all", "one other", "long after")
"""What happens: a server that the quorum needs is started without its memory, or flushed; all servers but one forget
while a client starts that does not reach that one; all forget, and everybody who asks has seen the group before; a
server forgets, and of the others only one can be asked, which does not know how long locks last; a lock lasts for as
long as others did long ago, and a server forgets."""
WITH_TWO = ("newcomer", "all", "one other")
"""Those that want another client than the holder: one that was started later, or hears other servers."""
FEW = 2
"""So many of them happen in one history."""
LONG, SHORT = MAX_TTL, 0.15
"""Seconds: ttl of the lock in question, and of what others try to get."""
PATIENCE = 2 * LONG
"""Seconds in which the holder has the lock: what it had before may have to run out."""
OFTEN, SELDOM = 0.002, 0.15
"""Seconds between two tries: around a flush, and later."""
AROUND = 0.03
"""Seconds before and after a flush."""
NOTICED = 0.6
"""Seconds after which everybody knows that a server forgot, or is away, or is back."""
UNKNOWN = 4.5 * MAX_TTL
"""Seconds after which servers know nothing more of how long locks lasted."""
FORGIVEN = 1.6 * MAX_TTL
"""Seconds in which every server counts again."""


class Lapses:
    """A holder, another client, and servers that forget. kind: one of `KINDS`"""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._world, self._history = scene, scene.world, scene.history
        self._random = stream(scene.plan.seed, "lapses")
        self._clients = [client for client in scene.world.clients if not client.process.dead]
        self.kind, self._name = "", ""
        self._lease: AsyncLease | None = None  # the holder's

    async def pass_by(self) -> None:
        """From the first lapse to the last."""
        possible = [kind for kind in KINDS if len(self._clients) > 1 or kind not in WITH_TWO]
        for number, kind in enumerate(self._random.sample(possible, FEW)):
            self.kind, self._name = kind, f"fig{number}"
            self._random.shuffle(self._clients)
            self._holder, self._other = self._clients[0], self._clients[-1]
            self._servers = self._random.sample(self._world.servers, self._scene.plan.size)
            quorum = self._scene.plan.quorum
            self._needed, self._spare = self._servers[:quorum], self._servers[quorum:]
            self._history.note("lapses", f"begins: {kind}, {self._holder.name} holds it")
            self._history.count(f"lapses: {kind}")
            await getattr(self, f"_{kind.replace(' ', '_')}")()
            await asyncio.sleep(FORGIVEN)

    # --- what happens ----------------------------------------------------------------------------------------------

    async def _restarted(self) -> None:
        section = await self._inside_on_a_bare_quorum()
        self._forget(self._needed[:1])
        await self._outside(section)

    async def _flushed(self) -> None:
        section = await self._inside_on_a_bare_quorum()
        tries = self._world.loop.create_task(self._try_until(self._world.loop.time() + 2 * AROUND, OFTEN))
        await asyncio.sleep(AROUND)
        self._scene.flush(self._needed[0])
        await tries
        await self._outside(section)

    async def _newcomer(self) -> None:
        self._scene.closing(self._other)
        await self._other.spawn(self._other.supervisor.close())
        section = await self._inside(LONG)
        *forgetful, remembers = self._servers
        remembers.freeze()
        self._forget(forgetful)
        await self._other.spawn(self._other.supervisor.start())
        self._scene.invariants.began[self._other.name] = self._world.loop.time()
        await self._outside(section)
        remembers.thaw()

    async def _all(self) -> None:
        section = await self._inside(LONG)
        self._forget(self._servers)
        await self._outside(section)

    async def _one_other(self) -> None:
        await asyncio.sleep(UNKNOWN)
        for server in self._spare:
            server.freeze()
        await asyncio.sleep(NOTICED)
        section = await self._inside(LONG)
        for server in self._spare:
            server.thaw()
        await asyncio.sleep(NOTICED)
        self._forget(self._needed[:1])
        for server in self._needed[1:]:
            server.freeze()
        await self._outside(section)
        for server in self._needed[1:]:
            server.thaw()

    async def _long_after(self) -> None:
        earlier = await self._inside(LONG)
        earlier.over = True
        await self._holder.spawn(self._lease.release())
        await asyncio.sleep(UNKNOWN)
        section = await self._inside_on_a_bare_quorum()
        self._forget(self._needed[:1])
        await self._outside(section)

    # --- what that consists of -------------------------------------------------------------------------------------

    async def _inside(self, ttl: float) -> Section:
        """The holder has got the lock."""
        client, mode = self._holder, self._random.choice((*["write"] * 3, "read"))
        locking = client.supervisor.lock(self._name, ttl, wait=PATIENCE, mode=mode, on_lost=self._lost)
        outcome = await client.spawn(locking)
        now, left = self._world.loop.time(), 0.0
        if outcome:
            self._lease = outcome.value
            left = self._lease.remaining / client.clock.rate
        else:
            self._history.problem("no lock although all is well", f"{outcome} ({self.kind})", self._name)
        section = Section(client.name, now + left, self._world, most=MANY if mode == "read" else 1)
        self._scene.invariants.acquired(section, self._name)
        self._modes: Sequence[Mode] = ("write",) if mode == "read" else ("write", "read")
        return section

    async def _inside_on_a_bare_quorum(self) -> Section:
        """The holder has got the lock while the other servers were full."""
        limit_memory(self._spare, b"1")
        section = await self._inside(LONG)
        limit_memory(self._spare, b"0")
        return section

    def _lost(self, lease: AsyncLease, reason: LossReason) -> None:
        """The client hears of it, and nobody who is inside."""
        self._history.count(f"lapses: lost, {reason.value}")

    def _forget(self, servers: Sequence[SimulatedServer]) -> None:
        """They are started without their memory."""
        for server in servers:
            self._history.note("lapses", f"{server.name} is started anew and has forgotten")
            self._scene.forget(server)

    async def _outside(self, section: Section) -> None:
        """The other client tries to get the lock until the section must be over."""
        await self._try_until(section.until, SELDOM)
        section.over = True

    async def _try_until(self, end: float, pause: float) -> None:
        client = self._other
        while self._world.loop.time() < end:
            await asyncio.sleep(2 * pause * self._random.random())
            await client.spawn(self._try(client))

    async def _try(self, client: SimulatedClient) -> None:
        mode = self._random.choice(self._modes)
        outcome = await client.supervisor.lock(self._name, SHORT, wait=0, mode=mode)
        self._history.count("lapses: tries")
        if outcome:
            most = MANY if mode == "read" else 1
            claim = Claim(client, self._name, outcome.value, self._world.loop.time(), most=most)
            self._scene.invariants.acquired(claim, self._name)
            self._scene.invariants.letting_go(claim)
            await client.supervisor.unlock(self._name, claim.lease)
