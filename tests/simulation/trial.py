"""All ways to lock, in peace: one thing happens, and what it comes to is judged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redlock_cluster import (
    AsyncElection,
    AsyncLease,
    AsyncLeaseGroup,
    AsyncMutexMany,
    AsyncTerm,
    ClosedError,
    Contended,
    ForcedRelease,
    LeaseLost,
    LossReason,
    Ok,
    RedlockError,
    WaitCancelled,
)
from redlock_cluster.core.lease_record import LeaseState
from redlock_cluster.results import Refused, Unavailable
from redlock_cluster.testing.simulation import Connection, SimulatedClient, SimulatedServer, stream

from .invariants import Claim
from .mixed import Leadership, Operator
from .plan import DRIFT, GRAIN, LIFE

if TYPE_CHECKING:
    from .scene import Scene

NAMES = ("grape", "lemon", "peach", "plum")
"""What is locked. The ring puts two of them into each group, by turns."""
THRONE = "throne"
"""The name of the election. What clients have left behind that have died still has the other names."""
BATCHES = ("refused", "waits", "crossed", "closed", "handed on")
FORCE = ("forced", "partly forced", "not forced", "vote on its way", "extended")
ELECTIONS = ("resigned", "killed", "stopped", "deposed")
KINDS = BATCHES + FORCE + ELECTIONS
"""What happens. To batches: one is refused; one waits for a lock, and loses what it has; many want the same in any
order; one waits, and its supervisor is closed. To locks: another caller of the holder's waits; they are released by
force, on all servers, on a quorum, on fewer, while a vote is on its way to be taken again, or before their holder
extends them. To a leader: it resigns, dies, stands still for longer than the ttl, or its lock is released by force."""
ALONE = ("refused", "waits", "crossed", "forced")
"""What may happen where one client lives only."""
TTL, LONG = 0.4, 4.0
"""Seconds: ttl of what extends itself, and of what does not."""
ASKED = 0.52
"""Seconds after which servers are asked to push."""
ROUND = 0.02
"""Seconds that some rounds take at most, one after the other, and what servers push on the way."""
WOKEN = 0.25
"""Seconds in which somebody has a lock who waits for it, once it is free."""
DEAD = TTL + LIFE / 3 + 0.25
"""The same where its holder has died, or stands still."""
LONGEST = 20.0
"""Seconds after which everything must be over."""
PEACE = 0.5
"""Seconds for which many come again and again."""
LONGEST_WAIT = 3.0
"""Seconds in which any of them has all that it wants."""
EXTENDED = TTL / 3 + ROUND
"""Seconds in which what extends itself is extended."""
OPERATOR = 200
"""The number of an operator who comes for this."""


@dataclass(frozen=True)
class Reign:
    """Somebody has been elected."""

    client: SimulatedClient
    election: AsyncElection
    claim: Claim


class Trial:
    """Some clients, and what happens to them.

    kind: one of `KINDS`
    """

    def __init__(self, scene: Scene) -> None:
        self._scene, self._world, self._history = scene, scene.world, scene.history
        self._random = stream(scene.plan.seed, "trial")
        self._clients = [client for client in scene.world.clients if not client.process.dead]
        self._random.shuffle(self._clients)
        self.kind: str = self._random.choice(KINDS if len(self._clients) > 1 else ALONE)
        self._holder, self._other = self._clients[0], self._clients[1 % len(self._clients)]
        self._names = self._shuffled(NAMES)
        self._operator = self._clients[-1]
        self._told: list[LossReason] = []  # of one lock's holder
        self._led: list[Reign] = []

    async def pass_by(self) -> None:
        """From the first lock to the last."""
        self._history.note("trial", f"begins: {self.kind}, {self._holder.name}, then {self._other.name}")
        self._history.count(f"trial: {self.kind}")
        try:
            async with asyncio.timeout(LONGEST):
                await getattr(self, f"_{self.kind.replace(' ', '_')}")()
        except TimeoutError:
            self._problem("a call does not end", f"{LONGEST:.0f} s", self._names[0])
        except Exception as error:
            self._problem("a call raised", repr(error), self._names[0])
        await asyncio.sleep(WOKEN)
        self._nothing_left([*NAMES, THRONE])
        for client in self._living():
            self._scene.invariants.no_watches(client)

    # --- batches ---------------------------------------------------------------------------------------------------

    async def _refused(self) -> None:
        """One of several is held."""
        held, wait = self._names[0], self._random.choice((0, 0.05))
        lease = await self._lock(self._holder, held)
        handle = self._other.supervisor.mutex_many(self._shuffled(self._names), LONG, wait=wait)
        try:
            await self._other.spawn(handle.__aenter__())
        except Contended as error:
            if error.resource != held:
                self._problem("refused for another one", f"{held} is held: {error}", held)
        else:
            self._problem("not refused", f"{held} is held", held)
        await asyncio.sleep(ROUND)
        self._nothing_left([name for name in self._names if name != held])
        await self._unlock(self._holder, lease)

    async def _waits(self) -> None:
        """One of several is held for long; what comes after it is free, what comes before it may be taken away."""
        held = self._names[0]
        lease = await self._lock(self._holder, held)
        handle = self._other.supervisor.mutex_many(self._shuffled(self._names), TTL, wait=None)
        waiting = self._other.spawn(handle.acquire())
        await asyncio.sleep(ROUND)
        before = [name for name in NAMES if name < held]
        await self._waits_well(held, before, 2 * TTL)
        if before and self._random.random() < 0.5:
            for server in self._scene.servers_of(before[0]):
                self._scene.delete(server, before[0])
            await self._waits_well(held, before[1:], EXTENDED)
        await self._unlock(self._holder, lease)
        since = self._world.loop.time()
        await waiting
        took = self._world.loop.time() - since
        if took > WOKEN:
            self._problem("a batch is not woken", f"{took * 1000:.0f} ms", held)
        self._is_fresh(handle, TTL)
        await self._give_back(self._other, handle, self._claims(self._other, handle))

    def _is_fresh(self, handle: AsyncMutexMany, ttl: float) -> None:
        """All of it is held, for about the ttl."""
        group = handle.lease
        if group is None or group.remaining < ttl * (1 - DRIFT) - GRAIN - ROUND:
            self._problem("a batch is not fresh", f"{group}, ttl {ttl} s", self._names[0])

    async def _waits_well(self, held: str, before: Sequence[str], seconds: float) -> None:
        """Who waits holds all that comes before, and nothing that comes after."""
        until = self._world.loop.time() + seconds
        while self._world.loop.time() < until:
            await asyncio.sleep(0.05)
            for name in NAMES:
                there = [server for server in self._scene.servers_of(name) if self._token(server, name)]
                if name > held and there:
                    self._problem("waits, and holds what comes later", f"{name} while {held} is waited for", name)
                if name in before and len(there) < self._scene.plan.quorum:
                    self._problem("waits, and has lost what it had", f"{name} while {held} is waited for", name)

    async def _crossed(self) -> None:
        """Many want some of them, in any order, again and again."""
        until = self._world.loop.time() + PEACE
        await asyncio.gather(
            *(
                client.spawn(self._again_and_again(client, until))
                for client in self._clients
                for _ in range(self._random.choice((1, 2, 3)))
            )
        )

    async def _again_and_again(self, client: SimulatedClient, until: float) -> None:
        while self._world.loop.time() < until:
            names, ttl = (
                self._random.sample(self._names, self._random.choice((1, 2, 3, 4))),
                self._random.choice((TTL, LONG)),
            )
            handle = client.supervisor.mutex_many(names, ttl, wait=LONGEST_WAIT)
            if not await handle.acquire():
                self._problem("a waiter starves", f"{client.name} for {names}", names[0])
                return
            self._history.count("trial, crossed: batches")
            self._is_fresh(handle, ttl)
            claims = self._claims(client, handle)
            await asyncio.sleep(0.01 * self._random.random())
            await self._give_back(client, handle, claims)

    async def _closed(self) -> None:
        """The last of several is held, and who waits for it closes."""
        *others, held = NAMES
        lease = await self._lock(self._holder, held)
        handle = self._other.supervisor.mutex_many(self._names, LONG, wait=None)
        waiting = self._other.spawn(handle.acquire())
        await asyncio.sleep(ROUND)
        await self._other.spawn(self._other.supervisor.close())
        with suppress(ClosedError):
            await waiting
        await asyncio.sleep(ROUND)
        self._nothing_left(others)
        await self._other.spawn(self._other.supervisor.start())
        await self._unlock(self._holder, lease)

    async def _handed_on(self) -> None:
        """Another caller of the same client waits for a moment, and no other client does."""
        name = self._names[0]
        lease = await self._lock(self._holder, name)
        waiting = self._holder.spawn(self._holder.supervisor.lock(name, LONG, wait=None))
        await asyncio.sleep(0.1 * self._random.random())
        await self._unlock(self._holder, lease)
        await asyncio.sleep(ROUND)
        if not waiting.done():
            self._problem("nobody is woken", f"{ROUND} s after the release by its own client", name)
        await self._unlock(self._holder, await waiting)

    # --- releases by force -----------------------------------------------------------------------------------------

    async def _forced(self) -> None:
        await self._taken_by_force([])

    async def _partly_forced(self) -> None:
        servers = self._scene.servers_of(self._names[0])
        await self._taken_by_force(self._random.sample(servers, self._few))

    async def _taken_by_force(self, away: Sequence[SimulatedServer]) -> None:
        """Of two locks that are held together one is taken, while another client waits for it.

        away: servers that the operator does not reach
        """
        name = self._names[0]
        handle, claims = await self._hold(self._names[:2], TTL)
        waiting = self._other.spawn(self._other.supervisor.lock(name, LONG, wait=None))
        await asyncio.sleep(ASKED + 0.3 * self._random.random())
        before, since = self._extensions(name), self._world.loop.time()
        with self._cut_off(away):
            outcome = await self._force(name)
        if not outcome or not outcome.value.held or outcome.value.owner != self._holder.name:
            self._problem("not released by force", f"{outcome}", name)
        await asyncio.sleep(ROUND)
        pushes = any(self._pushes(server) for server in self._scene.servers_of(name) if server not in away)
        if pushes and before == self._extensions(name):  # else an extension may have found it gone
            self._is_lost(claims[0], self._reason(name, since))
        await asyncio.sleep(WOKEN - ROUND)
        self._is_lost(claims[0], None)
        if handle.locked() or not claims[1].lease.valid:
            self._problem("not the truth of a batch", f"{handle.lease}", name)
        if not waiting.done():
            self._problem("a waiter starves", f"for {name}, which was released by force", name)
        lease = await waiting
        await self._give_back(self._holder, handle, claims)
        await self._unlock(self._other, lease)

    async def _not_forced(self) -> None:
        """The operator does not reach a quorum, from the beginning or once it knows who holds the lock."""
        name = self._names[0]
        handle, claims = await self._hold([name], TTL)
        await asyncio.sleep(ASKED)
        away = self._random.sample(self._scene.servers_of(name), self._scene.plan.quorum)
        if self._random.random() < 0.5:
            with self._cut_off(away):
                outcome = await self._force(name)
        else:
            with self._held_up(self._operator, away):
                outcome = await self._force(name)
                self._cut(self._operator, away)
        if outcome:
            self._problem("released by force, but not by a quorum", f"{outcome.value}", name)
        await asyncio.sleep(TTL)
        if self._told or not claims[0].valid:
            self._problem("lost for nothing", f"{claims[0]}, {self._told}", name)
        await self._give_back(self._holder, handle, claims)

    async def _vote_on_its_way(self) -> None:
        """A few servers have lost the lock and are asked to take it again, but hear of that after the operator.

        He reaches them, and so many others that it is a quorum.
        """
        name = self._names[0]
        handle, claims = await self._hold([name], LONG)
        await asyncio.sleep(ASKED + ROUND)
        servers = self._random.sample(self._scene.servers_of(name), self._scene.plan.size)
        few, away = servers[: self._few], servers[-self._few :]
        with self._held_up(self._holder, few):
            for server in few:
                self._scene.delete(server, name)
            await asyncio.sleep(ROUND)
            with self._cut_off(away):
                outcome = await self._force(name)
        if not outcome:
            self._problem("not released by force", f"{outcome}", name)
        await asyncio.sleep(ROUND)
        if len(self._scene.invariants.holding(claims[0])) >= self._scene.plan.quorum:
            self._problem("held again after its release by force", f"{claims[0]}", name)
        await asyncio.sleep(LONG / 2)
        self._is_lost(claims[0], None)
        await self._give_back(self._holder, handle, claims)

    async def _extended(self) -> None:
        """Nobody listens: its holder learns by extending it."""
        name = self._names[0]
        locked = await self._lock(self._holder, name)
        if not isinstance(locked, Ok):
            return
        lease = locked.value
        outcome = await self._force(name)
        if not outcome or not lease.valid:
            self._problem("not released by force", f"{outcome}, {lease}", name)
        refused = await self._holder.spawn(self._holder.supervisor.extend(name, lease, LONG))
        error = None if refused else refused.error
        if not isinstance(error, LeaseLost) or error.reason is not LossReason.FORCED or lease.valid:
            self._problem("not told of a release by force", f"{lease}: {refused}", name)

    async def _force(self, name: str) -> Ok[ForcedRelease] | Unavailable:
        operator = Operator(self._scene, self._operator, OPERATOR)
        return await self._operator.spawn(operator.force(name))

    def _reason(self, name: str, since: float) -> LossReason | None:
        """What a holder is told who looks; None if most servers were asked why before they were reached."""
        return None if self._scene.ledger.asked_too_early(name, since) else LossReason.FORCED

    def _is_lost(self, claim: Claim, reason: LossReason | None) -> None:
        """It was taken by force, and its holder knows; reason: what it was told, if that is known."""
        told = [each.value for each in self._told]
        right = ([LossReason.FORCED], [LossReason.GONE]) if reason is None else ([reason],)
        if self._told not in right or claim.lease.valid:
            self._problem("not told of a release by force", f"{claim}: {told}", claim.resource)
        if claim.lease.state is LeaseState.LOST and self._told:
            loss = claim.lease.loss()
            said = loss.reason if isinstance(loss, LeaseLost) else None
            if said is not self._told[0] and said is not LossReason.FORCED:  # which may be found out later
                self._problem("told something else than the lease says", f"{claim}: {told}, {loss}", claim.resource)

    # --- elections -------------------------------------------------------------------------------------------------

    async def _resigned(self) -> None:
        await self._led_by_next(self._resigns, WOKEN)

    async def _killed(self) -> None:
        await self._led_by_next(self._dies, DEAD)

    async def _stopped(self) -> None:
        await self._led_by_next(self._stands_still, DEAD)

    async def _deposed(self) -> None:
        await self._led_by_next(self._is_deposed, WOKEN + EXTENDED)

    async def _led_by_next(self, happens: Callable[[Reign], Awaitable[None]], seconds: float) -> None:
        """Something happens to the leader, and another candidate leads; then all resign, and it leads again."""
        elections = {client: self._election(client) for client in self._clients}
        campaigns = [client.spawn(self._campaign(client, election)) for client, election in elections.items()]
        await asyncio.sleep(ASKED + 0.2 * self._random.random())
        if not self._led:
            self._problem("nobody leads", f"{len(elections)} candidates", THRONE)
            return
        first = self._led[0]
        until = self._world.loop.time() + seconds
        await happens(first)
        while len(self._led) == 1 and self._world.loop.time() < until:
            await asyncio.sleep(0.01)
        if len(self._led) == 1:
            self._problem("nobody leads", f"{seconds:.2f} s after {first.client.name}", THRONE)
        if not first.client.process.running and not first.client.process.dead:
            await self._goes_on(first)
        for client in self._living():
            if client is not first.client:
                await self._resign(client, elections[client])
        await asyncio.sleep(ROUND)
        if not first.client.process.dead:
            again = first.client.spawn(self._campaign(first.client, elections[first.client]))
            await asyncio.sleep(WOKEN)
            if not again.done() or self._led[-1].client is not first.client:
                self._problem("a candidate does not lead again", first.client.name, THRONE)
            await self._resign(first.client, elections[first.client])
            await again
        for client, campaign in zip(elections, campaigns, strict=True):
            if not client.process.dead:
                await campaign

    def _election(self, client: SimulatedClient) -> AsyncElection:
        def lost(_: AsyncTerm, reason: LossReason) -> None:
            self._told.append(reason)

        return client.supervisor.election(THRONE, TTL, on_lost=lost)

    async def _campaign(self, client: SimulatedClient, election: AsyncElection) -> None:
        try:
            term = await election.campaign()
        except WaitCancelled:
            return
        claim = Claim(client, THRONE, term.lease, self._world.loop.time(), Leadership(election, term))
        self._history.note(client.name, f"leads by {claim}")
        self._led.append(Reign(client, election, claim))
        self._scene.invariants.acquired(claim, THRONE)

    async def _resign(self, client: SimulatedClient, election: AsyncElection) -> None:
        for reign in self._led:
            if reign.election is election and not reign.claim.let_go:
                self._scene.invariants.letting_go(reign.claim)
        try:
            await client.spawn(election.resign())
        except RedlockError as error:
            self._problem("no release although all is well", f"{client.name}: {error}", THRONE)
        if election.is_leader:
            self._problem("resigned, but still believed", client.name, THRONE)

    async def _resigns(self, reign: Reign) -> None:
        await self._resign(reign.client, reign.election)

    async def _dies(self, reign: Reign) -> None:
        self._scene.died(reign.client)
        reign.client.die(unnoticed=self._random.random() < 0.5)

    async def _stands_still(self, reign: Reign) -> None:
        reign.client.pause(suspended=self._random.random() < 0.5)

    async def _goes_on(self, reign: Reign) -> None:
        """The first thing that it hears is that its term is over."""
        reign.client.resume(timers_first=self._random.random() < 0.5)
        await asyncio.sleep(0)
        await asyncio.sleep(1e-6)
        if reign.election.is_leader or self._told != [LossReason.EXPIRED]:
            self._problem("not told of its loss", f"as the first thing after a pause: {self._told}", THRONE)
        reign.claim.let_go = True

    async def _is_deposed(self, reign: Reign) -> None:
        before, since = self._extensions(THRONE), self._world.loop.time()
        operator = next(client for client in self._clients if client is not reign.client)
        outcome = await operator.spawn(Operator(self._scene, operator, OPERATOR).force(THRONE))
        if not outcome or not outcome.value.held or outcome.value.owner != reign.client.name:
            self._problem("not released by force", f"{outcome}", THRONE)
        await asyncio.sleep(ROUND)
        pushes = any(self._pushes(server) for server in self._scene.servers_of(THRONE))
        if pushes and before == self._extensions(THRONE):
            self._is_lost(reign.claim, self._reason(THRONE, since))
        await asyncio.sleep(EXTENDED)
        self._is_lost(reign.claim, None)
        if reign.election.is_leader:
            self._problem("leads after a release by force", reign.client.name, THRONE)
        reign.claim.let_go = True

    # --- what they share -------------------------------------------------------------------------------------------

    @property
    def _few(self) -> int:
        """So many servers may be away."""
        return self._scene.plan.size - self._scene.plan.quorum

    def _living(self) -> list[SimulatedClient]:
        return [client for client in self._clients if not client.process.dead]

    def _shuffled(self, names: Sequence[str]) -> list[str]:
        return self._random.sample(names, len(names))

    async def _hold(self, names: Sequence[str], ttl: float) -> tuple[AsyncMutexMany, list[Claim]]:
        """The holder has these for as long as it lives, and hears of their loss."""

        def lost(_: AsyncLeaseGroup, reason: LossReason) -> None:
            self._told.append(reason)

        handle = self._holder.supervisor.mutex_many(names, ttl, wait=0, auto_extend=True, on_lost=lost)
        if not await self._holder.spawn(handle.acquire()):
            self._problem("no lock although all is well", f"{names}", names[0])
        return handle, self._claims(self._holder, handle)

    def _claims(self, client: SimulatedClient, handle: AsyncMutexMany) -> list[Claim]:
        """Somebody believes to hold all of several."""
        group, now = handle.lease, self._world.loop.time()
        claims = [] if group is None else [Claim(client, each.resource, each, now, group) for each in group.leases]
        for claim in claims:
            self._scene.invariants.acquired(claim, claim.resource)
        return claims

    async def _give_back(self, client: SimulatedClient, handle: AsyncMutexMany, claims: Sequence[Claim]) -> None:
        """Of some that may be lost."""
        for claim in claims:
            if not claim.let_go:
                self._scene.invariants.letting_go(claim)
        with suppress(LeaseLost):
            await client.spawn(handle.release())

    async def _lock(self, client: SimulatedClient, name: str) -> Ok[AsyncLease] | Refused:
        outcome = await client.spawn(client.supervisor.lock(name, LONG, wait=0))
        if not outcome:
            self._problem("no lock although all is well", f"{outcome}", name)
        return outcome

    async def _unlock(self, client: SimulatedClient, outcome: Ok[AsyncLease] | Refused) -> None:
        if isinstance(outcome, Ok) and not await client.spawn(
            client.supervisor.unlock(outcome.value.resource, outcome.value)
        ):
            self._problem("no release although all is well", "", outcome.value.resource)

    def _token(self, server: SimulatedServer, name: str) -> bytes:
        """What holds a lock there; empty for nothing."""
        return server.model.keys().get(name.encode(), b"")

    def _extensions(self, name: str) -> int:
        return self._scene.ledger.extensions[name.encode()]

    def _pushes(self, server: SimulatedServer) -> bool:
        return not self._scene.plan.lacks[self._world.servers.index(server)]

    @contextmanager
    def _cut_off(self, servers: Sequence[SimulatedServer]) -> Iterator[None]:
        """Meanwhile the operator does not reach these; what it sends them is lost."""
        network, name = self._world.network, self._operator.name
        for server in servers:
            network.block(name, server.name)
        yield
        self._cut(self._operator, servers)
        for server in servers:
            network.unblock(name, server.name)

    def _cut(self, client: SimulatedClient, servers: Sequence[SimulatedServer]) -> None:
        """What a client has sent these is lost."""
        hosts = [server.host for server in servers]
        for connection in list(self._world.network.connections.values()):
            if connection.client == client.name and connection.host in hosts:
                connection.cut(to_server=True, to_client=True)

    @contextmanager
    def _held_up(self, client: SimulatedClient, servers: Sequence[SimulatedServer]) -> Iterator[None]:
        """Whatever a client sends to these behind a read is on its way for so long."""
        network, note = self._world.network, self._world.network.on_command
        hosts = [server.host for server in servers]

        def held_up(connection: Connection, words: list[bytes], reply: bytes) -> None:
            if note is not None:
                note(connection, words, reply)
            if connection.client == client.name and connection.host in hosts and words[0] == b"GET":
                network.block(client.name, connection.host.name)

        network.on_command = held_up
        yield
        network.on_command = note
        for server in servers:
            network.unblock(client.name, server.name)

    def _nothing_left(self, names: Sequence[str]) -> None:
        """Nobody holds these, and nobody waits for them."""
        for name in names:
            for server in self._scene.servers_of(name):
                token = self._token(server, name)
                if token and not any(token.endswith(f"@{c.name}".encode()) for c in self._dead()):
                    self._problem("a token was left behind", f"{token[18:22].decode()} on {server.name}", name)
            self._scene.invariants.nobody_waits(self._clients, name)

    def _dead(self) -> list[SimulatedClient]:
        return [client for client in self._world.clients if client.process.dead]

    def _problem(self, kind: str, text: str, resource: str) -> None:
        self._history.problem(kind, f"{text} ({self.kind})", resource)
