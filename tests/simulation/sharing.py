"""Readers, writers and permits, in peace: one thing after the other happens, and what each comes to is judged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from redlock_cluster import AsyncLease, PermitsDiffer
from redlock_cluster.core.kinds import Mode
from redlock_cluster.core.retry import Wait
from redlock_cluster.testing.simulation import SimulatedClient, stream

from .invariants import MANY, Claim
from .outsiders import tell
from .plan import EDGE, LIFE

if TYPE_CHECKING:
    from .scene import Scene

KINDS = (
    "behind",
    "together",
    "in order",
    "given up",
    "string",
    "over",
    "robbed",
    "again",
    "gate",
    "in turn",
    "passed",
    "stopped",
    "told once",
    "of one client",
    "number",
)
"""What happens. To readers and writers: a reader comes while a writer waits; some readers of one client wait while a
writer holds the lock, and another writer waits behind them; that one comes again while a reader was told that does not
come; the writer is cancelled for whom readers wait; a reader comes while others hold a string at the key; one is
extended that is over; a minority of the servers has lost one, and somebody else holds the lock there; both come again
and again. To permits: many come again and again; one is released, and two clients wait; a newcomer comes while another
was told and does not come; that one stands still for long; all are released at once, while two clients wait, or several
callers of one; somebody names another number."""
FEW = 3
"""How many of them each history has."""
TTL = 0.4
"""Seconds: the ttl of what extends itself, and of what runs out."""
LONG = 4.0
"""Seconds: the ttl of what nobody loses."""
ROUND = 0.02
"""Seconds that some rounds take at most, one after the other."""
WOKEN = 0.1
"""Seconds in which somebody has what has become free."""
HEALED = TTL / 3 + 1.04
"""Seconds in which a reader's votes are taken again, once its next extension has found that they are missing."""
PEACE = 0.25
"""Seconds for which many come again and again."""
LONGEST_WAIT = 0.4
"""Seconds in which any of them is served."""
LONGEST = 8.0
"""Seconds after which everything must be over."""
Waits = asyncio.Task[Any]


class Sharing:
    """Three clients that stand in queues, and what happens to them."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._world, self._history = scene, scene.world, scene.history
        self._random, self._permits = stream(scene.plan.seed, "sharing"), scene.plan.permits
        fair = [client for client, is_fair in zip(scene.world.clients, scene.plan.fair, strict=True) if is_fair]
        self._clients = [client for client in fair if not client.process.dead]
        self.kind = ""

    async def pass_by(self) -> None:
        """From the first of them to the last."""
        kinds = self._random.sample(KINDS, FEW) if len(self._clients) >= 3 else ["again", "gate"]
        for number, kind in enumerate(kinds if self._clients else []):
            self.kind = kind
            self._random.shuffle(self._clients)
            self._name = f"cherry{number}"
            self._history.note("sharing", f"begins: {self.kind}, {[client.name for client in self._clients]}")
            self._history.count(f"sharing: {self.kind}")
            try:
                async with asyncio.timeout(LONGEST):
                    await getattr(self, f"_{self.kind.replace(' ', '_')}")()
            except TimeoutError:
                self._problem("a call does not end", f"{LONGEST:.0f} s")
            await asyncio.sleep(WOKEN)
            self._nothing_left()

    # --- readers and writers ---------------------------------------------------------------------------------------

    async def _behind(self) -> None:
        first, writer, reader = self._clients[:3]
        held = await self._has(self._lock(first, "read"))
        writes = self._lock(writer, "write", None)
        await asyncio.sleep(ROUND)
        refused = await self._lock(reader, "read", 0)
        reads = self._lock(reader, "read", None)
        await asyncio.sleep(ROUND)
        if refused or reads.done():
            self._problem("a reader passes a writer", f"{refused}, {reads.done()}")
        await self._gives_back(held)
        written = await self._served(writes)
        if reads.done():
            self._problem("a reader passes a writer", "that has won")
        await self._gives_back(written)
        await self._gives_back(await self._served(reads))

    async def _together(self) -> None:
        first, second, writer = self._clients[:3]
        held = await self._has(self._lock(first, "write"))
        reads = [self._lock(second, "read", None) for _ in range(4)]
        await asyncio.sleep(2 * ROUND)
        writes = self._lock(writer, "write", None)
        await asyncio.sleep(2 * ROUND)
        await self._gives_back(held)
        read = [await self._served(each) for each in reads]
        if writes.done():
            self._problem("newcomers go first", "a writer passes readers")
        for each in read:
            await self._gives_back(each)
        await self._gives_back(await self._served(writes))

    async def _in_order(self) -> None:
        """A reader was told and stands still, and a writer that came later comes again."""
        first, reader, writer = self._clients[:3]
        held = await self._has(self._lock(first, "write"))
        reads = self._lock(reader, "read", None)
        await asyncio.sleep(2 * ROUND)
        writes = self._lock(writer, "write", None)
        await asyncio.sleep(LIFE / 3 - 3 * ROUND)
        reader.pause()
        await self._gives_back(held)
        await asyncio.sleep(6 * ROUND)
        if writes.done():
            self._problem("newcomers go first", "a writer passes a reader")
        reader.resume()
        await self._gives_back(await self._served(reads))
        await self._gives_back(await self._served(writes))

    async def _given_up(self) -> None:
        first, writer, reader = self._clients[:3]
        held = await self._has(self._lock(first, "read"))
        writes = self._lock(writer, "write", None)
        await asyncio.sleep(ROUND)
        reads = self._lock(reader, "read", None)
        await asyncio.sleep(ROUND)
        writes.cancel()
        read = await self._served(reads)
        await self._gives_back(held)
        await self._gives_back(read)

    async def _string(self) -> None:
        """Somebody of another library holds it on a minority, or nobody of ours can have it."""
        first, reader = self._clients[:2]
        key, token = self._name.encode(), b"stranger"
        some = self._scene.plan.size if self._random.random() < 0.5 else self._scene.plan.size // 2
        servers = self._random.sample(self._world.servers, some)
        for server in servers:
            tell(server, [b"SET", key, token, b"PX", b"4000"])
        got = await self._lock(reader, "read", 0)
        if bool(got) != (some < self._scene.plan.quorum):
            self._problem("not the truth of a read lock", f"{got}, {some} servers hold a string")
        if any(server.model.keys().get(key) != token for server in servers):
            self._problem("a reader took what another holds", f"of {[server.name for server in servers]}")
        await asyncio.sleep(ROUND)
        await self._gives_back(got)
        for server in servers:
            tell(server, [b"DEL", key])
        await self._gives_back(await self._has(self._lock(first, "write", LONG)))

    async def _over(self) -> None:
        """One has ended, and another reader keeps the key."""
        first, second = self._clients[:2]
        short = await first.spawn(first.supervisor.lock(self._name, TTL, wait=0, mode="read"))
        held = await self._has(self._lock(second, "read"))
        await asyncio.sleep(TTL * (1 + 2 * EDGE))
        extended = await second.spawn(second.supervisor.extend(self._name, short.value.token, LONG))
        if extended:
            self._problem("a reader was extended that was over", f"{extended}")
        await self._gives_back(held)

    async def _robbed(self) -> None:
        """Somebody else holds the lock where it was lost; then nobody does."""
        first, key, token = self._clients[0], self._name.encode(), b"stranger"
        got = await first.spawn(first.supervisor.lock(self._name, TTL, wait=0, mode="read", auto_extend=True))
        claim = self._claim(first, got.value, MANY)
        servers = self._random.sample(self._world.servers, self._scene.plan.size // 2)
        await asyncio.sleep(ROUND)
        if len(self._scene.invariants.holding(claim)) < self._scene.plan.size:  # one had forgotten its scripts
            await asyncio.sleep(HEALED)
        for server in servers:
            tell(server, [b"DEL", key])
            tell(server, [b"SET", key, token, b"PX", b"4000"])
        await asyncio.sleep(TTL)
        if any(server.model.keys().get(key) != token for server in servers):
            self._problem("a reader took what another holds", f"of {[server.name for server in servers]}")
        for server in servers:
            tell(server, [b"DEL", key])
        await asyncio.sleep(HEALED)
        if len(self._scene.invariants.holding(claim)) < self._scene.plan.size:
            self._problem("not healed", f"{sorted(self._scene.invariants.holding(claim))}")
        await self._gives_back(claim)

    async def _again(self) -> None:
        await self._come(lambda client: self._lock(client, self._random.choice(("read", "read", "write")), LONG))

    async def _come(self, take: Callable[[SimulatedClient], Waits]) -> None:
        until = self._world.loop.time() + PEACE
        lives = [self._again_and_again(client, until, take) for client in self._clients for _ in range(3)]
        await asyncio.gather(*lives)

    async def _again_and_again(
        self, client: SimulatedClient, until: float, take: Callable[[SimulatedClient], Waits]
    ) -> None:
        while self._world.loop.time() < until:
            since = self._world.loop.time()
            claim = await self._has(take(client))
            took = self._world.loop.time() - since
            if took > LONGEST_WAIT:
                self._problem("a waiter starves", f"{client.name} for {took * 1000:.0f} ms")
            self._history.count(f"sharing, {self.kind}: served")
            await asyncio.sleep(0.01 * self._random.random())
            await self._gives_back(claim)
            await asyncio.sleep(self._random.choice((0.0, 0.005)) * self._random.random())

    # --- permits ---------------------------------------------------------------------------------------------------

    async def _gate(self) -> None:
        await self._come(lambda client: self._permit(client, LONG))

    async def _in_turn(self) -> None:
        first, second, third = self._clients[:3]
        held = await self._all(first)
        waits = self._permit(second, None)
        await asyncio.sleep(2 * ROUND)
        later = self._permit(third, None)
        await asyncio.sleep(2 * ROUND)
        if waits.done() or later.done():
            self._problem("more permits than there are", f"{self._permits}")
        await self._gives_back(held.pop())
        got = await self._served(waits)
        if later.done():
            self._problem("newcomers go first", "both have one")
        await self._gives_back(got)
        await self._gives_back(await self._served(later))
        for each in held:
            await self._gives_back(each)

    async def _passed(self) -> None:
        """Who was told does not come yet, and a newcomer comes."""
        first, second, third = self._clients[:3]
        held = await self._all(first)
        waits = self._permit(second, None)
        await asyncio.sleep(2 * ROUND)
        second.pause()
        await self._gives_back(held.pop())
        if await self._permit(third, 0):
            self._problem("newcomers go first", "while another was told")
        second.resume()
        await self._gives_back(await self._served(waits))
        for each in held:
            await self._gives_back(each)

    async def _stopped(self) -> None:
        """Who was told does not come, and the next has it before long."""
        first, second, third = self._clients[:3]
        held = await self._all(first)
        waits = self._permit(second, None)
        await asyncio.sleep(2 * ROUND)
        later = self._permit(third, None)
        await asyncio.sleep(2 * ROUND)
        second.pause()
        await self._gives_back(held.pop())
        got = await self._served(later, 1.0)
        second.resume()
        await self._gives_back(got)
        await self._gives_back(await self._served(waits))
        for each in held:
            await self._gives_back(each)

    async def _told_once(self) -> None:
        """All are released in one turn, and each of two clients that wait has one."""
        first, second, third = self._clients[:3]
        held = await self._all(first)
        waits = self._permit(second, None)
        await asyncio.sleep(2 * ROUND)
        later = self._permit(third, None)
        await asyncio.sleep(2 * ROUND)
        await asyncio.gather(*[self._gives_back(each) for each in held])
        both = [await self._served(waits), await self._served(later)]
        for each in both:
            await self._gives_back(each)

    async def _of_one_client(self) -> None:
        """All are released in one turn, and so many callers of one client wait."""
        first, second = self._clients[:2]
        held = await self._all(first)
        waits = [self._permit(second, None) for _ in held]
        await asyncio.sleep(2 * ROUND)
        await asyncio.gather(*[self._gives_back(each) for each in held])
        for each in [await self._served(each) for each in waits]:
            await self._gives_back(each)

    async def _number(self) -> None:
        first, second = self._clients[:2]
        claim = await self._has(self._permit(first, 0))
        other = second.supervisor.semaphore(self._name, self._permits + 1, LONG, wait=0)
        try:
            await second.spawn(other.acquire())
        except PermitsDiffer:
            pass
        else:
            self._problem("another number of permits is not refused", f"{self._permits + 1} for {self._permits}")
            if other.lease is not None:
                await second.spawn(other.release())
        await self._gives_back(claim)

    async def _all(self, client: SimulatedClient) -> list[Claim | None]:
        return [await self._has(self._permit(client, 0)) for _ in range(self._permits)]

    # --- what they share -------------------------------------------------------------------------------------------

    def _lock(self, client: SimulatedClient, mode: Mode, wait: Wait = 0) -> Waits:
        async def locked() -> Claim | None:
            outcome = await client.supervisor.lock(self._name, LONG, wait=wait, mode=mode)
            return self._claim(client, outcome.value, MANY if mode == "read" else 1) if outcome else None

        return client.spawn(locked())

    def _permit(self, client: SimulatedClient, wait: Wait) -> Waits:
        async def passed() -> Claim | None:
            handle = client.supervisor.semaphore(self._name, self._permits, LONG, wait=wait)
            if not await handle.acquire() or handle.lease is None:
                return None
            return self._claim(client, handle.lease, self._permits)

        return client.spawn(passed())

    def _claim(self, client: SimulatedClient, lease: AsyncLease, most: int) -> Claim:
        claim = Claim(client, self._name, lease, self._world.loop.time(), None, most)
        self._history.note(client.name, f"got {self._name}: {claim}")
        self._scene.invariants.acquired(claim, self._name)
        return claim

    async def _has(self, call: Waits) -> Claim | None:
        claim = await call
        if claim is None:
            self._problem("no lock although all is well", "")
        return claim

    async def _served(self, call: Waits, seconds: float = WOKEN) -> Claim | None:
        """Somebody waits for what is free now."""
        done, _ = await asyncio.wait([call], timeout=seconds)
        if not done:
            self._problem("nobody is woken", f"for {seconds} s")
        return await self._has(call)

    async def _gives_back(self, claim: Claim | None) -> None:
        if claim is None:
            return
        before = claim.lease.state
        self._history.note(claim.client.name, f"gives {claim} back")
        self._scene.invariants.letting_go(claim)
        outcome = await claim.client.spawn(claim.client.supervisor.unlock(self._name, claim.lease))
        self._scene.invariants.released(claim, outcome, before)
        if not outcome:
            self._problem("no release although all is well", f"{outcome}")

    def _nothing_left(self) -> None:
        self._scene.invariants.nobody_waits(self._clients, self._name)
        for server in self._world.servers:
            for key, (members, _) in server.model.sorted_sets().items():
                if key.startswith(self._name.encode()) and not key.endswith(b":expiry"):
                    self._problem("something was left behind", f"{key!r} on {server.name}: {len(members)}")
            held = server.model.keys()
            for key in held:
                if key.startswith(self._name.encode()) and not key.endswith(b":size"):
                    self._problem("something was left behind", f"{key!r} on {server.name}")

    def _problem(self, kind: str, text: str) -> None:
        self._history.problem(kind, f"{text} ({self.kind})", self._name)
