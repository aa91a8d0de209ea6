"""Users that read and write what they lock, and share the permits of a semaphore."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from redlock_cluster import (
    RETRY,
    AsyncLease,
    AsyncMutex,
    AsyncSemaphore,
    Contended,
    LeaseLost,
    NotHeld,
    Ok,
    QuorumUnavailable,
    RedlockError,
    WaitCancelled,
)
from redlock_cluster.core.kinds import Mode
from redlock_cluster.core.retry import Wait
from redlock_cluster.testing.simulation import Connection

from .invariants import MANY
from .kept import Kept
from .ledger import SCRIPTS, WRITES, YES_A_READER, is_take, resource_of, token_asked_for
from .plan import TTLS
from .workload import Actor

if TYPE_CHECKING:
    from .scene import Scene

GATE: Final = "gate"
"""The name of the semaphore."""
SHORT: Final = (0.15, 0.4, 0.4, 1.0)
LONGEST_STAY: Final = 0.4
"""Seconds for which somebody holds something that extends itself, at most."""


class Sharer(Actor):
    """A user that reads, writes, or passes the gate, again and again."""

    async def live(self) -> None:
        """Until the last fault, and then until the last lock is given back."""
        await self._redlock.start()
        while not self._scene.faults.over:
            await asyncio.sleep(self._random.choice((0.0, 0.002, 0.02)) * self._random.random())
            (act,) = self._random.choices((self._by_call, self._by_handle, self._pass, self._restart), (8, 5, 5, 1))
            await self._until_closed(act())
            if self._random.random() < 0.05 and self._client.engine is not None:
                self._note("ends all waits of its client")
                self._client.engine.cancel_waiting(None, None)

    def _mode(self) -> Mode:
        return self._random.choice(("read", "read", "write"))

    def _wait(self) -> Wait:
        return self._random.choice((0, 0.05, 0.4, RETRY, None, None))

    async def _restart(self) -> None:
        if self._random.random() < 0.3:
            await self._close_and_start()

    async def _by_call(self) -> None:
        """By `lock`, `extend` and `unlock`."""
        resource, ttl = self._scene.resource(self._random), self._random.choice(TTLS)
        claim = await self._lock(resource, ttl, self._wait(), self._mode())
        if claim is None:
            return
        for _ in range(self._random.choice((0, 0, 1, 2))):
            await self._hold()
            by_token, ttl = self._by_token(), self._random.choice(SHORT)
            until = self._end(claim, ttl)
            held = claim.lease.token if by_token else claim.lease
            outcome = await self._cancellable("extend", self._redlock.extend(resource, held, ttl))
            if isinstance(outcome, Ok):
                self._scene.invariants.extended(claim, outcome, until)
                claim.lease = outcome.value
        await self._hold()
        await self._unlock(claim)

    async def _by_handle(self) -> None:
        resource, ttl, wait = self._scene.resource(self._random), self._random.choice(SHORT), self._wait()
        mode, extends = self._mode(), self._random.random() < 0.6
        handle = self._redlock.mutex(resource, ttl, wait=wait, mode=mode, auto_extend=extends, cancel_on_loss=False)
        self._begin(f"mutex {resource} to {mode}, extends {extends}", ttl, wait)
        await self._use(handle, resource, MANY if mode == "read" else 1, extends)

    async def _pass(self) -> None:
        ttl, wait, extends = self._random.choice(SHORT), self._wait(), self._random.random() < 0.6
        permits = self._scene.plan.permits
        handle = self._redlock.semaphore(GATE, permits, ttl, wait=wait, auto_extend=extends, cancel_on_loss=False)
        self._begin(f"semaphore {GATE}, extends {extends}", ttl, wait)
        await self._use(handle, GATE, permits, extends)

    async def _use(self, handle: AsyncMutex | AsyncSemaphore, resource: str, most: int, extends: bool) -> None:
        await self._cancellable(f"handle of {resource}", self._inside(handle, resource, most, extends), resource)
        self.acquiring = False

    async def _inside(self, handle: AsyncMutex | AsyncSemaphore, resource: str, most: int, extends: bool) -> None:
        try:
            async with handle as lease:
                self.acquiring = False
                if not lease.valid and lease._engine.closed:
                    return  # it extends itself, and another user has closed the supervisor in this turn
                claim = self._got(resource, lease, most=most)
                self._history.count("readers" if most == MANY else "writers" if most == 1 else "permits")
                kept = self._scene.vigilance.keep(claim, extends, True, alone=False)
                try:
                    await self._stay(lease, kept)
                finally:
                    self._note(f"gives {claim} on {resource} back")
                    if not claim.let_go:
                        self._scene.invariants.letting_go(claim)
                    kept.let_go("released")
        except (Contended, QuorumUnavailable, WaitCancelled, LeaseLost, NotHeld) as error:
            self._note(f"handle of {resource}: {type(error).__name__}")
            self._scene.explain(error)

    async def _stay(self, lease: AsyncLease, kept: Kept) -> None:
        until = self._world.loop.time() + LONGEST_STAY * self._random.random() ** 3
        while self._world.loop.time() < until and lease.valid:
            await asyncio.sleep(0.05 * self._random.random())
            if self._random.random() < 0.1 and lease.valid:  # another user may have closed the supervisor
                try:
                    await lease.extend(self._random.choice(SHORT))
                except RedlockError as error:
                    self._note(f"extends: {type(error).__name__}")
                else:
                    if kept.lost_as is None and not kept.over:
                        self._scene.invariants.extended(kept.claim, Ok(lease), 0.0)


class Readers:
    """Looks at every read lock, after each command: nobody's changes another's, and the key ends with the last."""

    def __init__(self, scene: Scene) -> None:
        self._servers = {server.name: server for server in scene.world.servers}
        self._history = scene.history
        self._seen: dict[tuple[str, bytes], dict[bytes, float]] = {}

    def executed(self, connection: Connection, words: list[bytes], reply: bytes) -> None:
        """A server executed a command."""
        key = resource_of(words)
        if words[0] not in WRITES or not key:
            return
        server = self._servers[connection.host.name]
        ms = int(server.clock.wall() * 1000)
        before = self._seen.get((server.name, key), {})
        after, end = server.model.sorted_sets().get(key, ({}, None))
        self._seen[server.name, key] = after
        on = f"on {server.name}"
        for token, ends in before.items():
            if token not in words and ends > ms and after.get(token) != ends:
                self._problem("another reader was touched", token, on, key)
        if after and end != max(after.values()):
            self._problem("a read lock does not end with its last reader", max(after, key=after.__getitem__), on, key)
        if words[0] not in SCRIPTS:
            return
        token = token_asked_for(words)
        if reply == YES_A_READER and words[2] == b"1" and before.get(token, ms) < ms:
            self._problem("a reader was extended that was over", token, on, key)
        if is_take(words) and reply.startswith(b"*") and token in after:
            self._problem("a reader was refused, and added", token, on, key)

    def _problem(self, kind: str, token: bytes, text: str, key: bytes) -> None:
        self._history.problem(kind, f"…{token[18:22].decode()} {text}", key.decode())
