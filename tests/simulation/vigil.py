"""Leases that look after themselves, in peace: one thing happens, and how soon it is noticed or mended is judged."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redlock_cluster import Ok
from redlock_cluster.core.lease_record import LossReason
from redlock_cluster.testing.simulation import SimulatedClient, SimulatedServer, stream

from .invariants import Claim
from .kept import Kept
from .outsiders import tell

if TYPE_CHECKING:
    from .scene import Scene

KINDS = ("plain", "deleted", "flushed", "emptied", "back", "robbed", "outage", "longer", "stopped")
"""What happens: nothing; a minority of the servers loses the leases by hand, is flushed, is started without its memory,
or was away when they were acquired; a majority loses them by hand; a majority is away for less, or more, than the
validity; a client stands still for longer than the ttl."""
STYLES = ("extends", "extends", "is listened to", "plain")
SHORT, MIDDLE, LONG = 0.4, 1.0, 4.0
"""Seconds: ttl of what is extended; where it has to outlive an outage; of what is not extended."""
MAX_HOLD = 0.15
EXTENDED = 3
"""Times in a ttl."""
CALM = 1.2
"""Seconds for which nothing happens."""
ASKED = 0.52
"""Seconds after which servers are asked to push."""
ROUND = 0.02
"""Seconds that a push, a look and what follows it take at most."""
ARRIVES = 0.003
"""Seconds after which what was sent before something happened has arrived."""
PASS, EVENT = 1.0, 0.02
"""Seconds between two times that a client goes through its leases at most; and until the first."""
CONNECTED = 0.3
"""Seconds after which a server that is back is connected to."""
SETTLED = 0.03
MARGIN = 0.02
"""Part of the ttl for which servers keep a lease longer than it is valid."""


@dataclass(eq=False)
class Ward:
    """One lease. told: what its holder was told before something happened"""

    client: SimulatedClient
    style: str
    kept: Kept

    @property
    def extends(self) -> bool:
        return self.kept.extends

    @property
    def watched(self) -> bool:
        """Whether servers are asked to push when it is lost."""
        return self.style != "plain"


class Vigil:
    """Leases of all clients, and what happens to them.

    kind: one of `KINDS`
    """

    def __init__(self, scene: Scene) -> None:
        self._scene, self._world, self._history = scene, scene.world, scene.history
        self._random = stream(scene.plan.seed, "vigil")
        self._clients = [client for client in scene.world.clients if not client.process.dead]
        self.kind: str = self._random.choice(KINDS)
        size, quorum = scene.plan.size, scene.plan.quorum
        servers = self._random.sample(scene.world.servers, size)
        self._few, self._most = servers[: size - quorum], servers[:quorum]
        self._wards: list[Ward] = []

    async def pass_by(self) -> None:
        """From the first lease to the last."""
        self._history.note("vigil", f"begins: {self.kind}, {[server.name for server in self._most]}")
        self._history.count(f"vigil: {self.kind}")
        if self.kind == "back":
            for server in self._few:
                server.crash()
            await asyncio.sleep(CONNECTED)
        for client in self._clients:
            for number, style in enumerate(STYLES):
                await client.spawn(self._acquire(client, f"{client.name}-{number}", style))
        if self.kind != "back":
            await asyncio.sleep(ASKED + 0.3 * self._random.random())
        await getattr(self, f"_{self.kind}")()
        await self._release()

    async def _acquire(self, client: SimulatedClient, resource: str, style: str, max_hold: float | None = None) -> None:
        extended = MIDDLE if self.kind == "outage" else SHORT
        outcome = await client.supervisor.lock(resource, extended if style == "extends" else LONG, wait=0)
        if not isinstance(outcome, Ok):
            self._problem("no lock although all is well", f"{resource}: {outcome.reason}", resource)
            return
        claim = Claim(client, resource, outcome.value, self._world.loop.time())
        self._scene.invariants.acquired(claim, resource)
        kept = self._scene.vigilance.keep(claim, style == "extends", style != "plain", max_hold)
        self._wards.append(Ward(client, style, kept))

    async def _release(self) -> None:
        """All are given back, by one client as it closes: nothing is left of them, here and there."""
        closes = self._random.choice(self._clients)
        for ward in self._wards:
            if ward.client is closes and ward.extends and ward.kept.lost_as is None:
                continue
            claim = ward.kept.claim
            if not claim.let_go:
                self._scene.invariants.letting_go(claim)
            ward.kept.let_go("released")
            await ward.client.spawn(ward.client.supervisor.unlock(claim.resource, claim.lease))
        await closes.spawn(closes.supervisor.close())
        await asyncio.sleep(SETTLED)
        for ward in self._wards:
            left = self._scene.invariants.holding(ward.kept.claim)
            if left:
                self._problem(
                    "a token was left behind", f"{ward.kept.claim} on {sorted(left)}", ward.kept.claim.resource
                )
        await closes.spawn(closes.supervisor.start())
        for client in self._clients:
            self._scene.invariants.no_watches(client)

    # --- what happens ----------------------------------------------------------------------------------------------

    async def _plain(self) -> None:
        ledger = self._scene.ledger
        keys = [ward.kept.claim.resource.encode() for ward in self._wards]
        before = [(ledger.looks[key], ledger.extensions[key]) for key in keys]
        await asyncio.sleep(CALM)
        self._unharmed(everywhere=True)
        for ward, key, (looks, extensions) in zip(self._wards, keys, before, strict=True):
            if ledger.looks[key] > looks:
                self._problem("looks for nothing", f"{ledger.looks[key] - looks} reads of {key.decode()}", key.decode())
            each = (ledger.extensions[key] - extensions) / self._scene.plan.size
            right = CALM * EXTENDED / SHORT if ward.extends else 0
            if abs(each - right) > 1.5:
                self._problem("not extended three times in a ttl", f"{key.decode()}: {each:.1f} times", key.decode())
        await self._end_by_max_hold()

    async def _end_by_max_hold(self) -> None:
        """What has ended is taken from the servers."""
        for client in self._clients:
            await client.spawn(self._acquire(client, f"{client.name}-ends", "extends", MAX_HOLD))
        await asyncio.sleep(MAX_HOLD + ROUND)
        for ward in self._wards[-len(self._clients) :]:
            if ward.kept.lost_as is not LossReason.MAX_HOLD:
                self._odd(ward, "not told of its loss", f"{ward.kept.lost_as}")
            if self._scene.invariants.holding(ward.kept.claim):
                self._odd(ward, "a token was left behind", "after max_hold")

    async def _deleted(self) -> None:
        for ward in self._wards:
            for server in self._few:
                self._scene.delete(server, ward.kept.claim.resource)
        await asyncio.sleep(ROUND)
        self._healed([ward for ward in self._wards if ward.watched], self._few, pushed=True)
        await asyncio.sleep(SHORT / EXTENDED + EVENT + PASS)
        self._healed([ward for ward in self._wards if ward.extends], self._few)
        self._unharmed()

    async def _flushed(self) -> None:
        for server in self._few:
            self._scene.flush(server)
        await asyncio.sleep(EVENT + PASS + ROUND)
        self._healed(self._wards, self._few, pushed=True)
        await asyncio.sleep(SHORT / EXTENDED)
        self._healed([ward for ward in self._wards if ward.extends], self._few)
        self._unharmed()

    async def _emptied(self) -> None:
        for server in self._few:
            server.crash()
        await asyncio.sleep(0.2 * self._random.random())
        for server in self._few:
            self._scene.robbed(server)
            server.restart(keep_memory=False)
        await self._healed_when_back()

    async def _back(self) -> None:
        await asyncio.sleep(0.2 * self._random.random())
        for server in self._few:
            server.restart()
        await self._healed_when_back()

    async def _healed_when_back(self) -> None:
        await asyncio.sleep(CONNECTED + EVENT + PASS + ROUND)
        self._healed(self._wards, self._few)
        self._unharmed()

    async def _robbed(self) -> None:
        for ward in self._wards:
            for server in self._most:
                self._scene.delete(server, ward.kept.claim.resource)
        at = self._world.loop.time()
        await asyncio.sleep(ROUND)
        if any(self._pushes(server) for server in self._most):
            self._gone([ward for ward in self._wards if ward.watched])
        await asyncio.sleep(SHORT / EXTENDED + ROUND)
        self._gone([ward for ward in self._wards if ward.extends])
        await asyncio.sleep(EVENT + PASS)
        for ward in self._wards:
            again = self._scene.ledger.taken_again.get(ward.kept.record.token, 0.0)
            if again > at + ARRIVES:
                self._odd(ward, "taken again without a quorum", f"{again - at:.4f} s after it was lost")

    async def _outage(self) -> None:
        self._cut_off()
        await asyncio.sleep(MIDDLE * (0.3 + 0.1 * self._random.random()))
        self._reconnect()
        await asyncio.sleep(MIDDLE)
        self._unharmed()

    async def _longer(self) -> None:
        self._cut_off()
        await asyncio.sleep(SHORT * 1.5)
        for ward in self._wards:
            if ward.extends and ward.kept.lost_as is not LossReason.EXPIRED:
                self._odd(ward, "not told of its loss", f"{ward.kept.lost_as}")
        self._reconnect()
        await asyncio.sleep(CONNECTED + EVENT + PASS)
        self._unharmed([ward for ward in self._wards if not ward.extends])

    async def _stopped(self) -> None:
        victim = self._random.choice(self._clients)
        wards = [ward for ward in self._wards if ward.client is victim and ward.extends]
        victim.pause(suspended=self._random.random() < 0.5)
        await asyncio.sleep(SHORT * 1.5)
        keys = [ward.kept.claim.resource.encode() for ward in wards]
        before = [self._scene.ledger.extensions[key] for key in keys]
        victim.resume(timers_first=self._random.random() < 0.5)
        await asyncio.sleep(0)
        await asyncio.sleep(1e-6)
        for ward in wards:
            if ward.kept.lost_as is not LossReason.EXPIRED:
                self._odd(ward, "not told of its loss", "as the first thing after a pause")
        await asyncio.sleep(SHORT)
        if before != [self._scene.ledger.extensions[key] for key in keys]:
            self._problem("extended after its loss", victim.name, keys[0].decode())
        self._unharmed([ward for ward in self._wards if ward not in wards])

    def _cut_off(self) -> None:
        for server in self._most:
            if self._random.random() < 0.5:
                server.freeze()
            else:
                server.crash()

    def _reconnect(self) -> None:
        for server in self._most:
            if server.host.up:
                server.thaw()
            else:
                server.restart()

    # --- what must be true -----------------------------------------------------------------------------------------

    def _pushes(self, server: SimulatedServer) -> bool:
        return not self._scene.plan.lacks[self._world.servers.index(server)]

    def _healed(self, wards: list[Ward], servers: list[SimulatedServer], pushed: bool = False) -> None:
        """Servers that had lost leases have them again. pushed: of those that push"""
        for ward in wards:
            holding = self._scene.invariants.holding(ward.kept.claim)
            if not ward.extends:  # else an extension may be under way
                self._not_for_too_long(ward, servers)
            lacking = {server.name for server in servers if not pushed or self._pushes(server)} - holding
            if lacking:
                self._odd(ward, "not healed", f"{ward.style}, lacks {sorted(lacking)}")
            else:
                self._history.count("leases healed in peace")

    def _not_for_too_long(self, ward: Ward, servers: list[SimulatedServer]) -> None:
        """A server keeps no lease for longer than it is valid, but for the margins."""
        lease = ward.kept.claim.lease
        most = lease.remaining + lease.ttl * MARGIN + ARRIVES
        for server in servers:
            left = tell(server, [b"PTTL", ward.kept.claim.resource.encode()])
            if int(left[1:] or 0) / 1000 > most:
                self._odd(ward, "held for longer than valid", f"{left[1:].decode().strip()} ms, not {most:.3f} s")

    def _unharmed(self, wards: list[Ward] | None = None, everywhere: bool = False) -> None:
        """Nothing was lost."""
        for ward in self._wards if wards is None else wards:
            if not ward.kept.claim.valid or ward.kept.lost_as is not None:
                self._odd(ward, "lost for nothing", f"{ward.style}, {ward.kept.lost_as}")
            if everywhere:
                self._healed([ward], self._world.servers)

    def _gone(self, wards: list[Ward]) -> None:
        for ward in wards:
            if ward.kept.lost_as is not LossReason.GONE:
                self._odd(ward, "a loss was not noticed", f"{ward.style}, {ward.kept.lost_as}")

    def _odd(self, ward: Ward, kind: str, text: str) -> None:
        claim = ward.kept.claim
        self._problem(kind, f"{claim.resource}: {claim}: {text}", claim.resource)

    def _problem(self, kind: str, text: str, resource: str) -> None:
        self._history.problem(kind, f"{text} ({self.kind})", resource)
