"""One history from beginning to end: users and faults, then calm, then what must be true."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redlock_cluster import ClosedError, Err, ServerStatus
from redlock_cluster.core.retry import Wait
from redlock_cluster.testing.simulation import (
    Connection,
    Network,
    SimulatedClient,
    SimulatedServer,
    Simulation,
    stream,
)

from .crowd import Peace, Waiter
from .faults import Faults
from .history import History
from .invariants import Invariants, Section, tokens_on
from .keepers import ADOPTER, Keeper
from .kept import Vigilance
from .lapses import Lapses
from .ledger import Ledger
from .mixed import BASKET, mixed_user
from .outsiders import tell
from .plan import EDGE, LONGEST_TTL, MAX_TTL, Plan, make_plan, server_name
from .shared import Readers, Sharer
from .sharing import Sharing
from .trial import Trial
from .vigil import Vigil
from .workload import Actor, User

FAULTY = 0.6
"""Seconds for which things go wrong."""
FAULTY_FOR_LONG = 1.5
"""The same where leases are held for long."""
FORGETFUL = 5.0
"""The same where servers forget, and are quarantined for as long as leases last."""
PATIENCE = 12.0
"""Seconds in which every user must be done once all is mended: a dead client's lock has to run out, and then they wait
for each other."""
LONG_HOLDS = 60.0
"""The same besides where leases are held for seconds, one after the other."""
QUARANTINED = 1.5 * MAX_TTL
"""Seconds besides after which the grants of every server count, whatever it may have forgotten."""
QUIET = 0.8
"""Seconds after which every pending release was made: some health checks, and a reconnection."""
UNUSED = 1.0
"""Seconds after that in which connections that hang and that nobody has used were found: only each fifth health check
asks them."""
POLL = 0.02
Life = tuple[SimulatedClient, asyncio.Task[None]]


@dataclass(frozen=True)
class Outcome:
    """What became of one history."""

    plan: Plan
    history: History


class Scene:
    """Everything that takes part in one history."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        seed = f"{plan.scenario} {plan.seed}"
        self.world = Simulation(
            seed, lambda loop: Network(loop, stream(seed, "network"), 0.0001, 0.0015, plan.fragments)
        )
        self.history = History(self.world.loop)
        self.ledger = Ledger(self.world.loop, self.history, plan.quorum)
        self.invariants = Invariants(self.world, plan, self.history, self.ledger)
        self.world.network.on_command = self._executed
        self.world.network.on_end = self._ended
        self.resources = BASKET if plan.mixed else ("apple", "berry")
        self._excused: dict[str, int] = {}
        offsets = stream(seed, "offsets")
        for index, (version, rate) in enumerate(zip(plan.versions, plan.server_rates, strict=True)):
            self.world.server(server_name(index), version, rate, 1e6 + plan.clocks_apart * offsets.random())
        for index, rate in enumerate(plan.client_rates):
            name = f"c{index}"
            self.world.client(name, plan.options(index), rate, 1e4 * offsets.random())
        self.vigilance = Vigilance(self)
        self._readers = Readers(self)
        self._users = {
            client.name: [self._user(client, number) for number in range(plan.users[index])]
            for index, client in enumerate(self.world.clients)
        }
        self.faults = Faults(self)
        self._lives: list[Life] = []

    def _user(self, client: SimulatedClient, number: int) -> Actor:
        plan = self.plan
        if plan.mixed:
            return mixed_user(self, client, number)
        kinds = ((plan.kept, Keeper), (plan.crowded, Waiter), (plan.shared, Sharer), (True, User))
        user: type[Actor] = next(kind for fits, kind in kinds if fits)
        return user(self, client, number)

    # --- what users and faults ask ---------------------------------------------------------------------------------

    def resource(self, source: random.Random) -> str:
        """What to lock next: mostly the same, so that users meet."""
        if self.plan.mixed:
            return source.choice(self.resources)
        return self.resources[0] if source.random() < 0.8 else self.resources[1]

    def servers_of(self, resource: str) -> list[SimulatedServer]:
        """Those of the group that votes on a resource."""
        plan = self.plan
        first = plan.size * int(self.world.clients[0].supervisor.group_for(resource)[1:]) if plan.groups > 1 else 0
        return self.world.servers[first : first + plan.size]

    def users_of(self, client: SimulatedClient) -> Sequence[Actor]:
        """The tasks of one client."""
        return self._users[client.name]

    def adopt(self, client: SimulatedClient, resource: str, token: str, ttl: float) -> None:
        """A client goes on with a lease that another one, or it, has given away."""
        somebody = Keeper(self, client, ADOPTER + len(self._lives))
        self._lives.append((client, client.spawn(somebody.adopt(resource, token, ttl))))

    def refused(self, client: SimulatedClient, resource: str, outcome: Err[Any], begun: float, wait: Wait) -> None:
        """A lock was refused: counts why, and judges it if there was one attempt only."""
        self.explain(outcome.error)
        if wait == 0:
            self.invariants.refused(client.name, resource, outcome, begun)

    def explain(self, error: Exception | None) -> None:
        """Counts why there was no lock."""
        for sign, kind in (("split", "split votes"), ("too late", "leases expired during acquire")):
            if sign in str(error):
                self.history.count(kind)

    def delete(self, server: SimulatedServer, resource: str) -> None:
        """Somebody deletes a lock by hand, if the server can hear that."""
        if server.host.up and not server.host.frozen:
            self.robbed(server, resource)
            tell(server, [b"DEL", resource.encode()])

    def flush(self, server: SimulatedServer) -> None:
        """Somebody deletes everything, if the server can hear that."""
        if server.host.up and not server.host.frozen:
            self.robbed(server)
            tell(server, [b"FLUSHALL"])

    def forget(self, server: SimulatedServer) -> None:
        """A server is started anew, without its memory."""
        self.robbed(server)
        server.crash()
        server.restart(keep_memory=False)

    def robbed(self, server: SimulatedServer, resource: str | None = None) -> None:
        """A server is about to lose a lock, or all of them."""
        tokens = tokens_on(server)
        key = None if resource is None else resource.encode()
        self.ledger.robbed(server.name, [token for place, token in tokens if key in (None, place)])

    def section(self, who: str, resource: str, until: float) -> Section:
        """Somebody without a lease has the lock; until: simulated time up to which that is surely so."""
        self.history.note(who, f"got {resource}")
        section = Section(who, until, self.world)
        self.invariants.acquired(section, resource)
        return section

    def died(self, client: SimulatedClient) -> None:
        """What a dead client held stays until its ttl."""
        self._excuse(client)

    def closing(self, client: SimulatedClient) -> None:
        """A supervisor closes: what it could not tell a server that is away stays there until its ttl."""
        if not self.faults.calm:
            self._excuse(client)

    def _excuse(self, client: SimulatedClient) -> None:
        self._excused[client.name] = self.world.network.made

    def _executed(self, connection: Connection, words: list[bytes], reply: bytes) -> None:
        self.ledger.executed(connection, words, reply)
        self.faults.clients.executed(connection, words)
        if self.plan.shared:
            self._readers.executed(connection, words, reply)

    def _ended(self, connection: Connection) -> None:
        if (connection.to_server.broken or connection.to_client.broken) and connection.session is not None:
            self.history.count("half-open connections given up by the client")

    # --- the history -----------------------------------------------------------------------------------------------

    def play(self) -> Outcome:
        """Runs the history and returns what became of it."""
        with self.world:
            self.world.loop.set_exception_handler(self._raised)
            self.world.loop.run_until_complete(self._play())
            self.world.loop.set_exception_handler(lambda *_: None)
        return Outcome(self.plan, self.history)

    def _raised(self, _: object, report: dict[str, Any]) -> None:
        self.history.problem("a call-back raised", f"{report.get('message')}: {report.get('exception')!r}")

    async def _play(self) -> None:
        for client in self.world.clients:
            for user in self.users_of(client):
                self._lives.append((client, client.spawn(user.live())))
        self._clocks_at_the_edge()
        lives = self._lives
        await self.until_done(lives, FORGETFUL if self.plan.forgets else FAULTY_FOR_LONG if self.plan.robs else FAULTY)
        self.faults.stop()
        if not await self.until_done(lives, PATIENCE + (LONG_HOLDS if self.plan.forgets else 0.0)):
            waiting = [client.name for client, task in lives if not task.done() and not client.process.dead]
            self.history.problem("a waiter starves", f"{waiting}, {PATIENCE:g} s after the last fault")
        for task in self._of_the_living(lives):
            if task.done() and task.exception() is not None:
                self.history.problem("a call raised", repr(task.exception()))
        await self._end()

    async def until_done(self, lives: list[Life], seconds: float) -> bool:
        """Whether all users of clients that live were done before so many seconds had passed."""
        until = self.world.loop.time() + seconds
        while not all(task.done() for task in self._of_the_living(lives)):
            if self.world.loop.time() >= until:
                return False
            await asyncio.sleep(POLL)
        return True

    @staticmethod
    def _of_the_living(lives: list[Life]) -> list[asyncio.Task[None]]:
        return [task for client, task in lives if not client.process.dead]

    def _clocks_at_the_edge(self) -> None:
        if self.plan.at_the_edge:
            self.history.count(f"clocks apart by {2 * EDGE:.2%}")

    async def _end(self) -> None:
        """Everybody is done: nothing may be left, and everything must work again."""
        await asyncio.sleep(QUIET + (QUARANTINED if self.plan.guarded else 0))
        alive = [client for client in self.world.clients if not client.process.dead]
        self.invariants.nothing_left(self._excused)
        for client in alive:
            self._nothing_pending(client)
            self.invariants.no_lines(client)
            self.invariants.no_watches(client)
        await asyncio.sleep(UNUSED)
        for client in alive:
            self._all_connected(client)
            if self.plan.forgets:
                self._all_count(client)
        if self.plan.crowded:
            await Peace(self).pass_by()
            alive = [client for client in alive if not client.process.dead]
        if self.plan.kept:
            await Vigil(self).pass_by()
        if self.plan.mixed:
            await Trial(self).pass_by()
            alive = [client for client in alive if not client.process.dead]
        if self.plan.shared:
            await Sharing(self).pass_by()
            alive = [client for client in alive if not client.process.dead]
        if self.plan.forgets:
            await Lapses(self).pass_by()
        await alive[0].spawn(self._works(alive[0]))
        self.vigilance.close()
        if self.plan.robs:
            await asyncio.sleep(LONGEST_TTL)
            for client in alive:
                self.invariants.no_timers(client)
        for client in alive:
            await client.spawn(client.supervisor.close())
        await asyncio.sleep(LONGEST_TTL * (1 + 2 * EDGE))
        self.invariants.all_gone()

    def _nothing_pending(self, client: SimulatedClient) -> None:
        for server in self._servers(client):
            if server.pending_releases:
                self.history.problem("releases stay pending for ever", f"{client.name} owes {server.name}")

    def _all_connected(self, client: SimulatedClient) -> None:
        for server in self._servers(client):
            if server.connections < self.plan.pool_size:
                text = f"{client.name} to {server.name}: {server.state}, {server.last_error}"
                self.history.problem("not connected again", text)

    def _all_count(self, client: SimulatedClient) -> None:
        for server in self._servers(client):
            if server.quarantine is not None:
                text = f"{client.name}, {server.name}: {server.last_error}"
                self.history.problem("quarantined for too long", text)

    @staticmethod
    def _servers(client: SimulatedClient) -> list[ServerStatus]:
        groups = [group for cluster in client.supervisor.status().clusters for group in cluster.groups]
        return [server for group in groups for server in group.servers]

    async def _works(self, client: SimulatedClient) -> None:
        try:
            outcome = await client.supervisor.lock("fresh", 1.0, wait=0)
        except ClosedError as error:
            self.history.problem("a supervisor can't be started again", f"{client.name}: {error}")
            return
        if not outcome or not await client.supervisor.is_locked("fresh"):
            self.history.problem("no lock although all is well", str(outcome), "fresh")
        elif not await client.supervisor.unlock("fresh", outcome.value):
            self.history.problem("no release although all is well", "", "fresh")


def play(seed: int, scenario: str = "faults") -> Outcome:
    """Runs the history of a seed."""
    return Scene(make_plan(seed, scenario)).play()
