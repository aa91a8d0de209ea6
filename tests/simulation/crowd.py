"""Many who wait for one lock: first while everything goes wrong, then in peace, where order and cost are judged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redlock_cluster import RETRY
from redlock_cluster.core.retry import Wait
from redlock_cluster.testing.simulation import SimulatedClient, stream

from .invariants import Claim
from .outsiders import Legacy, tell
from .plan import LIFE
from .turns import Turns
from .workload import Actor

if TYPE_CHECKING:
    from .scene import Scene

TTL = 0.4
PEACE = 0.6
"""Seconds for which they come again and again once all is well."""
SETTLED = 0.03
"""Seconds after which every command of the last of them was executed."""
GHOSTLY_TTL = 5000
COMMON = 8
"""Acquisitions from which on the cost of one is judged."""
BARE = 0.5
"""Of how many histories of which only a quorum of servers is there for half of peace."""
KINDS = ("plain", "grabber", "legacy", "stopped", "killed", "cut", "frozen", "cancelled")
"""What happens in peace: nothing; one client never waits and comes again at once; one knows of no queues; one waits and
stands still, dies, loses its connections; a server stands still; many give up."""
REFRESH = LIFE / 3
IDLE = 0.45
"""Seconds for which a lock may lie idle while somebody waits: where servers' queues differ, several win a part."""
LONGEST_IDLE = {
    "cut": REFRESH + 0.15,
    "frozen": REFRESH + 0.15,
    "cancelled": REFRESH + 0.15,
    "legacy": REFRESH + 0.15,
    "stopped": TTL + REFRESH + 0.25,
    "killed": TTL + REFRESH + 0.25,
}
"""The same where somebody may become first and hear of it at its next refresh, or has to wait until a lock ends whose
holder stands still, and of a place in the queue whose owner was told and does not come."""
BARE_IDLE, HANGING_IDLE = 0.25, 0.4
"""The same where only a quorum of servers is there, so that all of it has to agree; where the others hang."""
WOKEN = 0.45
"""Seconds after which a lock is taken again that was deleted by hand, or has expired, while some wait for it."""
KILLED = 0.25
"""Seconds for which a lock may lie idle whose first waiter is found dead by who tells it; one that was told and died
before it came is found at a refresh."""
MOST_PASSED, MOST_PASSED_BY_CLOCKS = 12, 100
"""How often somebody may be passed by those who came later; where servers' clocks are a second apart."""
MOST_PASSED_APART = 0.02
"""Seconds that servers' clocks may be apart for that: what servers believe of a newcomer's clock."""
MOST_COMMANDS = 20
"""Commands for one acquisition that a server may have to execute, on the average, where nothing happens."""


class Waiter(Actor):
    """A user that locks one resource again and again while things go wrong."""

    async def live(self) -> None:
        """Until the last fault, and then until what it has begun is done."""
        await self._redlock.start()
        greedy = self._random.random() < 0.2
        while not self._scene.faults.over:
            await asyncio.sleep(self._random.choice((0.0, 0.002, 0.02)) * self._random.random())
            claim = await self._lock("apple", self._random.choice((0.15, 0.4, 1.0)), 0 if greedy else self._patience())
            if claim is not None:
                await asyncio.sleep(self._random.choice((0.0, 0.002, 0.02)) * self._random.random())
                await self._unlock(claim)
            elif greedy:
                await asyncio.sleep(0.003)
            if self._random.random() < 0.05 and self._client.engine is not None:
                self._note("ends all waits of its client")
                self._client.engine.cancel_waiting(None, None)

    def _patience(self) -> Wait:
        return self._random.choice((None, None, RETRY, 0.05, 0.4))


class Taker(Actor):
    """A user that waits for its turn, again and again."""

    def __init__(self, scene: Scene, peace: Peace, client: SimulatedClient, number: int) -> None:
        super().__init__(scene, client, number + 10)
        self._peace, self._fair = peace, scene.plan.fair[scene.world.clients.index(client)]
        self._greedy = peace.kind == "grabber" and client is peace.victim

    async def live(self) -> None:
        """Until peace ends."""
        peace = self._peace
        while not peace.over:
            turn = peace.turns.begin(self._client.name, self._fair and not peace.excused(self._client))
            wait = self._random.choice((0.004, None)) if peace.kind == "cancelled" else None
            claim = await self._take(0 if self._greedy else wait)
            if claim is None:
                peace.turns.gone(turn)
                await asyncio.sleep(0.001)
                continue
            peace.turns.served(turn)
            await asyncio.sleep(peace.hold * self._random.random())
            peace.turns.freed()
            await self._unlocked(claim, by_token=False)
            await asyncio.sleep(peace.pause * self._random.random())

    async def _take(self, wait: Wait) -> Claim | None:
        if self._peace.kind == "cancelled":
            return await self._lock(self._peace.resource, TTL, wait)
        outcome = await self._locked(self._peace.resource, TTL, wait)
        return outcome if isinstance(outcome, Claim) else None


class Peace:
    """No faults, but what the kind says, and many who wait for one lock.

    kind: one of `KINDS`; victim: to whom it happens
    bare: whether only a quorum of the servers is there for half of it
    hold, pause: seconds, at most, for which a lock is held, and until somebody comes again
    over: whether they come no more
    """

    resource = "cherry"

    def __init__(self, scene: Scene) -> None:
        self._scene, self._world, self._history = scene, scene.world, scene.history
        self._random = stream(scene.plan.seed, "peace")
        self.clients = [client for client in scene.world.clients if not client.process.dead]
        self.kind: str = self._random.choice(KINDS)
        self.victim = self._random.choice(self.clients)
        if len(self.clients) < 3 and self.kind in ("killed", "stopped"):
            self.kind = "plain"
        self.hold, self.pause = self._random.choice((0.0, 0.003, 0.01)), self._random.choice((0.0, 0.0, 0.005))
        self.bare = self.kind in ("plain", "grabber") and stream(scene.plan.seed, "bare").random() < BARE
        self.over = self._found_dead = self._hang = False
        self.turns = Turns(scene.world.loop, scene.history, self.resource)

    def excused(self, client: SimulatedClient) -> bool:
        """Whether something happens to a client."""
        return self.kind in ("stopped", "killed", "cut") and client is self.victim

    async def pass_by(self) -> None:
        """From the first to the last of them, and what must be true then."""
        self._history.note("peace", f"begins: {self.kind}, {self.victim.name}")
        commands = self._scene.ledger.commands[self.resource.encode()]
        await self._ghost()
        takers = [
            (client, client.spawn(Taker(self._scene, self, client, number).live()))
            for client in self.clients
            for number in range(self._random.choice((1, 1, 2, 3)))
        ]
        await self._exorcise()
        outsider = asyncio.create_task(self._happen())
        await asyncio.sleep(PEACE)
        self.over = True
        await outsider
        if not await self._scene.until_done(takers, LIFE * 4):
            waiting = [client.name for client, task in takers if not task.done() and not client.process.dead]
            self._history.problem("a waiter starves", f"{waiting} in peace ({self.kind})", self.resource)
        for client, task in takers:
            if task.done() and not client.process.dead and task.exception() is not None:
                self._history.problem("a call raised", repr(task.exception()))
        await self._some_give_up()
        await asyncio.sleep(SETTLED)
        self._judge(commands)

    async def _some_give_up(self) -> None:
        """The last who wait do so in vain: their time is over, or they are cancelled."""
        first, *others = [client for client in self.clients if not client.process.dead]
        held = await first.spawn(first.supervisor.lock(self.resource, TTL, wait=1))
        waits = [
            client.spawn(client.supervisor.lock(self.resource, TTL, wait=self._random.choice((0.01, None))))
            for client in others
        ]
        await asyncio.sleep(0.02)
        for wait in waits:
            wait.cancel()
        await asyncio.sleep(0.01)
        if held:
            await first.spawn(first.supervisor.unlock(self.resource, held.value))

    # --- what happens ----------------------------------------------------------------------------------------------

    async def _ghost(self) -> None:
        """The lock is held by somebody who does not give it back."""
        await asyncio.sleep(0)
        self._ttl = self._random.choice((60, GHOSTLY_TTL, GHOSTLY_TTL))
        for server in self._world.servers:
            tell(server, [b"SET", self.resource.encode(), b"ghost", b"NX", b"PX", b"%d" % self._ttl])

    async def _exorcise(self) -> None:
        """It is deleted by hand, everything is flushed, or it expires: whoever waits notices."""
        if self._ttl < GHOSTLY_TTL:
            fastest = max(server.clock.rate for server in self._world.servers)
            await asyncio.sleep(self._ttl / 1000 / fastest)
            self.turns.freed()
            return
        await asyncio.sleep(0.04 + 0.3 * self._random.random())
        flush = self._random.random() < 0.3
        self._history.note("peace", f"the ghost's lock is {'flushed' if flush else 'deleted'}")
        for server in self._world.servers:
            await asyncio.sleep(0.002 * self._random.random())
            tell(server, [b"FLUSHALL"] if flush else [b"DEL", self.resource.encode()])
        self.turns.freed()

    async def _happen(self) -> None:
        await asyncio.sleep(0.1 + 0.1 * self._random.random())
        if self.kind == "legacy":
            await Legacy(self._scene, self.resource).live(lambda: self.over, self.turns.freed)
        elif self.kind in ("stopped", "killed", "cut"):
            if await self._victim_waits():
                await self._strike()
        elif self.bare:
            await self._bare()
        elif self.kind == "frozen":
            server = self._random.choice(self._world.servers)
            server.freeze()
            await asyncio.sleep(PEACE / 2)
            server.thaw()

    async def _bare(self) -> None:
        plan = self._scene.plan
        away = self._random.sample(self._world.servers, plan.size - plan.quorum)
        hang = self._hang = self._random.random() < 0.5
        self._history.note("peace", f"{', '.join(server.name for server in away)} {'hang' if hang else 'are away'}")
        for server in away:
            (server.freeze if hang else server.crash)()
        await asyncio.sleep(PEACE / 2)
        for server in away:
            (server.thaw if hang else server.restart)()

    async def _victim_waits(self) -> bool:
        """Waits until the victim waits and does not hold the lock."""
        for _ in range(200):
            if self.turns.waits(self.victim.name) and not self._holds(self.victim):
                return True
            await asyncio.sleep(0.0005)
        return False

    def _holds(self, client: SimulatedClient) -> bool:
        """Whether a server may hold a token of a client."""
        name = f"@{client.name}".encode()
        return any(token.endswith(name) for token in self._tokens())

    def _held_by_others(self) -> bool:
        """Whether a quorum of servers holds the lock for others than the victim: it is not told yet that it is free."""
        name = f"@{self.victim.name}".encode()
        held = [token for token in self._tokens() if token and not token.endswith(name)]
        return len(held) >= self._scene.plan.quorum

    def _tokens(self) -> list[bytes]:
        return [server.model.keys().get(self.resource.encode(), b"") for server in self._world.servers]

    async def _strike(self) -> None:
        name = self.victim.name
        self._history.note("peace", f"{name} is {self.kind}")
        self.turns.excuse(name)
        if self.kind == "killed":
            self.turns.dead(name)
            self._scene.died(self.victim)
            unnoticed, held = self._random.random() < 0.3, self._held_by_others()
            self.victim.die(unnoticed)
            await asyncio.sleep(0.005)
            self._found_dead = held and not unnoticed and not self._holds(self.victim)
        elif self.kind == "stopped":
            self.victim.pause()
            await asyncio.sleep(LIFE * (0.3 + self._random.random()))
            self.victim.resume()
        else:
            for connection in list(self._world.network.connections.values()):
                if connection.client == name and self._random.random() < 0.7:
                    connection.cut(unnoticed=self._random.random() < 0.3)

    # --- what must be true -----------------------------------------------------------------------------------------

    def _judge(self, before: int) -> None:
        history, ledger, turns = self._history, self._scene.ledger, self.turns
        longest, passed = max(turns.gaps, default=0.0), max(turns.passed, default=0)
        commands, size = ledger.commands[self.resource.encode()] - before, self._scene.plan.size
        attempts, acquired = ledger.attempts(self.resource), len(turns.gaps)
        told = f"{self.kind}{', bare' * self.bare}: idle for {longest * 1000:.0f} ms at most, "
        told += f"passed {passed} times at most, {acquired} acquisitions, {attempts} attempts, {commands} commands"
        history.note("peace", told)
        for what, number in (
            ("acquisitions", acquired),
            ("attempts", attempts),
            ("commands a server", commands // size),
        ):
            history.counts[f"peace, {self.kind}: {what}"] += number
        woken = turns.gaps[0] if turns.gaps else 0.0
        if self.kind != "cancelled" and woken > WOKEN:
            history.problem("nobody is woken", f"{woken * 1000:.0f} ms; {told}", self.resource)
        bare = HANGING_IDLE if self._hang else BARE_IDLE
        bound = KILLED if self._found_dead else bare if self.bare else LONGEST_IDLE.get(self.kind, IDLE)
        if longest > bound:
            history.problem("the lock lies idle", told, self.resource)
        shown = [server.clock.wall() for server in self._world.servers]
        if passed > (MOST_PASSED_BY_CLOCKS if max(shown) - min(shown) > MOST_PASSED_APART else MOST_PASSED):
            history.problem("newcomers go first", told, self.resource)
        common = self.kind == "plain" and not self.bare and all(self._scene.plan.fair) and acquired >= COMMON
        if common and commands > MOST_COMMANDS * size * acquired:
            history.problem("a storm", told, self.resource)
        self._scene.invariants.nobody_waits(self.clients, self.resource)
