"""Users that hold leases for longer than their ttl."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from redlock_cluster import ClosedError, Err, Ok
from redlock_cluster.core.lease_record import LeaseState

from .invariants import Claim
from .kept import Kept
from .workload import Actor

TTLS = (0.05, 0.15, 0.15, 0.4, 0.4, 1.0)
MAX_HOLDS = (None, None, None, 0.1, 0.5)
LONGEST_HOLD = 1.2
ADOPTER = 100
"""From here on users are numbered that go on with somebody's lease."""


class Keeper(Actor):
    """A user that holds one lease after the other; most of them extend themselves."""

    _kept: Kept  # the newest

    async def live(self) -> None:
        """Until the last fault, and then until the last lease is given back."""
        await self._redlock.start()
        while not self._scene.faults.over:
            await asyncio.sleep(0.02 * self._random.random())
            await self._until_closed(self._hold_one())

    async def _hold_one(self) -> None:
        resource, ttl = self._scene.resource(self._random), self._random.choice(TTLS)
        claim = await self._lock(resource, ttl, self._random.choice((0, 0, 0.1, 0.4)))
        if claim is not None:
            await self._go_on(claim)

    async def _go_on(self, claim: Claim) -> None:
        """Holds a lease that was acquired, or adopted."""
        (style,) = self._random.choices(("extends", "extends unheard", "is listened to", "plain"), (12, 2, 3, 1))
        max_hold = self._random.choice(MAX_HOLDS) if style.startswith("extends") else None
        self._note(f"{claim} {style}, max_hold {max_hold}")
        extends, listens = style.startswith("extends"), style in ("extends", "is listened to")
        kept = self._kept = self._scene.vigilance.keep(claim, extends, listens, max_hold)
        await self._hold_on(kept)
        ends = [(5, self._release), (2, self._release_during_extension), (4, self._detach), (1, self._leave)]
        ends += [(2, self._drop), (1, self._close)] if extends else []
        (end,) = self._random.choices([end for _, end in ends], [weight for weight, _ in ends])
        await end(kept)

    async def _hold_on(self, kept: Kept) -> None:
        """For some ttls, mostly; shorter if it is lost."""
        until = self._world.loop.time() + min(LONGEST_HOLD, kept.claim.lease.ttl * self._random.choice((0.2, 1, 2, 5)))
        impatient = self._random.random() < 0.7
        while self._world.loop.time() < until and not (impatient and kept.lost_as) and not self._scene.faults.over:
            await asyncio.sleep(0.05 * self._random.random())
            if self._random.random() < 0.05:
                await self._extend(kept)

    async def _extend(self, kept: Kept) -> None:
        """By hand."""
        claim, ttl = kept.claim, self._random.choice((kept.claim.lease.ttl, self._random.choice(TTLS)))
        until, before = self._end(claim, ttl), kept.lost_as
        self._note(f"extend {claim.resource} by {ttl}")
        held = claim.lease.token if self._by_token() else claim.lease
        outcome = await self._cancellable("extend", self._redlock.extend(claim.resource, held, ttl))
        if isinstance(outcome, Ok) and before is None and not kept.over:
            self._scene.invariants.extended(claim, outcome, until)
        elif isinstance(outcome, Err):
            self._note(f"extend {claim.resource}: {outcome.reason}")

    # --- how it ends -----------------------------------------------------------------------------------------------

    async def _release(self, kept: Kept) -> None:
        await self._unlock(kept.claim)
        if not kept.over:  # each time it was cancelled before it had begun
            await self._unlocked(kept.claim, by_token=False)

    async def _unlocked(self, claim: Claim, by_token: bool) -> Ok[None] | Err[str]:
        """As for others; one that was lost before is not judged again."""
        self._kept.let_go("released")
        if self._kept.engine.closed:  # the call waits until it is started again: nobody knows when it begins
            claim.let_go, claim.in_time = True, False
        if claim.lease.state is not LeaseState.LOST:
            return await super()._unlocked(claim, by_token)
        outcome = await self._redlock.unlock(claim.resource, claim.lease)
        if outcome:
            self._history.problem("released, though it was lost", str(claim), claim.resource)
        return outcome

    async def _release_during_extension(self, kept: Kept) -> None:
        """As soon as one is under way."""
        group, token = kept.engine.group_of(kept.record), kept.record.token
        until = self._world.loop.time() + kept.claim.lease.ttl / 2
        while self._world.loop.time() < until and token not in group.extensions:
            await asyncio.sleep(0.0004)
        if token in group.extensions:
            self._history.count("releases while an extension was under way")
        await self._release(kept)

    async def _drop(self, kept: Kept) -> None:
        """Nobody refers to it any more."""
        self._note(f"drops {kept.claim} on {kept.claim.resource}")
        self._history.count("owners dropped")
        self._over(kept, "dropped")
        kept.owner = None

    async def _close(self, _: Kept) -> None:
        """Closing releases it."""
        await self._close_and_start()

    async def _leave(self, kept: Kept) -> None:
        """Waits until it is lost, or too long."""
        until = self._world.loop.time() + LONGEST_HOLD
        while kept.claim.valid and self._world.loop.time() < until:
            await asyncio.sleep(0.01)
        await self._release(kept)

    def _over(self, kept: Kept, why: str) -> None:
        """It is given back, or away."""
        claim = kept.claim
        if kept.lost_as is None and not claim.let_go:
            self._scene.invariants.letting_go(claim)
        kept.let_go(why)

    # --- hand-over -------------------------------------------------------------------------------------------------

    async def _detach(self, kept: Kept) -> None:
        """Gives it away; perhaps nobody takes it."""
        claim, ttl, engine = kept.claim, kept.record.given_ms() / 1000, kept.engine
        if engine.closed:
            await self._release(kept)
            return
        lost = not claim.lease.valid
        self._over(kept, "detached")
        self._scene.ledger.given_away(claim.lease.token)
        given = engine.detach(kept.record)
        self._note(f"detaches {claim} on {claim.resource}: {given}")
        if given is lost:
            self._history.problem(
                "detached, though it was over" if lost else "not detached", str(claim), claim.resource
            )
        if given and self._random.random() < 0.8:
            living = [client for client in self._world.clients if not client.process.dead]
            self._scene.adopt(self._random.choice(living), claim.resource, claim.lease.token, ttl)

    async def adopt(self, resource: str, token: str, ttl: float) -> None:
        """Goes on with somebody's lease."""
        with suppress(ClosedError):
            await self._adopt(resource, token, ttl)

    async def _adopt(self, resource: str, token: str, ttl: float) -> None:
        await self._redlock.start()
        for _ in range(self._random.choice((1, 3))):
            self._note(f"adopts …{token.partition('@')[0][-4:]} on {resource}")
            outcome = await self._redlock.extend(resource, token, ttl)
            if isinstance(outcome, Ok):
                self._history.count("leases adopted")
                claim = self._got(resource, outcome.value)
                await self._go_on(claim)
                return
            self._note(f"does not get {resource}: {outcome.reason}")
            if outcome.reason == "not_held":
                return
