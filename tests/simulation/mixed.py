"""Users of all kinds of locks at once: several locks together, elections, and an operator who takes locks away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from redlock_cluster import (
    RETRY,
    AsyncElection,
    AsyncLeaseGroup,
    AsyncTerm,
    ClosedError,
    Contended,
    ForcedRelease,
    LeaseLost,
    ListedLock,
    LockSnapshot,
    LossReason,
    NotHeld,
    Ok,
    QuorumUnavailable,
    RedlockError,
    WaitCancelled,
)
from redlock_cluster.core.lease_record import LeaseState
from redlock_cluster.core.retry import Wait
from redlock_cluster.results import Lost, Unavailable, lost, refused
from redlock_cluster.testing.simulation import SimulatedClient, stream

from .kept import Kept
from .plan import TTLS
from .workload import CANCELLED, TRIES, Actor, User

if TYPE_CHECKING:
    from .scene import Scene

BASKET: Final = ("apple", "elder", "mango", "olive")
"""What may be locked. The ring puts two of them into each group, by turns."""
CROWN: Final = "crown"
"""The name of the election."""
TERM_TTLS: Final = (0.15, 0.4, 1.0)
LONGEST_STAY: Final = 0.4
"""Seconds for which somebody holds something that extends itself, at most."""


def mixed_user(scene: Scene, client: SimulatedClient, number: int) -> Actor:
    """The last client is an operator's; the others want several locks, or stand for election."""
    if client is scene.world.clients[-1]:
        return Operator(scene, client, number)
    stands = stream(scene.plan.seed, f"stands {client.name} {number}").random() < 0.4
    return Candidate(scene, client, number) if stands else Collector(scene, client, number)


class Collector(User):
    """A user that wants several locks together, or one of them."""

    def __init__(self, scene: Scene, client: SimulatedClient, number: int) -> None:
        super().__init__(scene, client, number)
        self._actions: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (10, self._use_all),
            (3, self._lock_and_unlock),
            (2, self._use_batch),
            (1, self._use_mutex),
            (1, self._look),
            (1, self._perhaps_close),
        ]

    async def live(self) -> None:
        """Until the last fault, and then until the last lock is given back."""
        await self._redlock.start()
        while not self._scene.faults.over:
            await self._do_something()
            if self._random.random() < 0.05 and self._client.engine is not None:
                self._note("ends all waits of its client")
                self._client.engine.cancel_waiting(None, None)

    async def _use_all(self) -> None:
        names = self._random.sample(self._scene.resources, self._random.choice((2, 2, 3, 4)))
        ttl, wait = self._random.choice(TTLS), self._random.choice((0, 0.1, 0.4, RETRY, None, None))
        extends = self._random.choice((None, None, False, True, True))
        await self._cancellable(f"mutex_many {names}", self._all(names, ttl, wait, extends))
        self.acquiring = False

    async def _all(self, names: Sequence[str], ttl: float, wait: Wait, extends: bool | None) -> None:
        begun = self._begin(f"mutex_many {names}, extends {extends}", ttl, wait)
        handle = self._redlock.mutex_many(names, ttl, wait=wait, auto_extend=extends)
        try:
            async with handle as group:
                self.acquiring = False
                parts = self._got_all(names, group, bool(extends))
                try:
                    await self._hold_all(group, parts)
                finally:
                    self._let_all_go(parts)
        except (Contended, QuorumUnavailable, WaitCancelled, LeaseLost, NotHeld) as error:
            self._note(f"mutex_many {names}: {type(error).__name__} of {error.resource}")
            if handle.lease is None and not isinstance(error, WaitCancelled):
                self._scene.refused(self._client, error.resource, refused(error), begun, wait)

    def _got_all(self, names: Sequence[str], group: AsyncLeaseGroup, extends: bool) -> list[Kept]:
        if group._engine.closed:  # in the same turn
            return []
        if group.resources != tuple(names) or not group.valid:
            self._history.problem("a batch lacks something", f"{names}: {group}", names[0])
        self._history.count("batches")
        claims = [self._got(lease.resource, lease, group) for lease in group.leases]
        keep = self._scene.vigilance.keep
        return [keep(claim, extends, True, alone=False) for claim in claims]

    async def _hold_all(self, group: AsyncLeaseGroup, parts: Sequence[Kept]) -> None:
        until = self._world.loop.time() + LONGEST_STAY * self._random.random() ** 2
        patient = self._random.random() < 0.5
        while self._world.loop.time() < until and (patient or group.valid):
            await asyncio.sleep(0.05 * self._random.random())
            if self._random.random() < 0.1:
                await self._extend_all(group, parts)

    async def _extend_all(self, group: AsyncLeaseGroup, parts: Sequence[Kept]) -> None:
        ttl = self._random.choice((None, *TTLS))
        self._note(f"extends a batch by {ttl}")
        try:
            await group.extend(ttl)
        except RedlockError as error:
            self._note(f"extends a batch: {type(error).__name__}")
        else:
            for kept in parts:
                if kept.lost_as is None and not kept.over:
                    self._scene.invariants.extended(kept.claim, Ok(kept.claim.lease), 0.0)

    def _let_all_go(self, parts: Sequence[Kept]) -> None:
        for kept in parts:
            self._note(f"gives {kept.claim} on {kept.claim.resource} back")
            if not kept.claim.let_go:
                self._scene.invariants.letting_go(kept.claim)
            kept.let_go("released")


class Leadership:
    """What a candidate goes by during one term.

    over: whether it is about to campaign again, so that the election tells of the next term
    """

    def __init__(self, election: AsyncElection, term: AsyncTerm) -> None:
        self._election, self._term = election, term
        self.over = False

    @property
    def valid(self) -> bool:
        return not self.over and self._election.is_leader

    @property
    def remaining(self) -> float:
        return self._term.remaining if self.valid else 0.0


class Candidate(Actor):
    """A user that stands for election again and again, and leads for a while."""

    def __init__(self, scene: Scene, client: SimulatedClient, number: int) -> None:
        super().__init__(scene, client, number)
        self._kept: Kept | None = None  # of the term
        self._belief: Leadership | None = None
        self._told: list[AsyncTerm] = []  # of their end, by `on_lost`
        self._resigned = False  # or is about to, since it began to campaign
        self._has_resigned = False
        self._closes = False  # its supervisor, at the end of the term
        self._campaigns = 0
        self._other: asyncio.Task[None] | None = None  # resigns meanwhile

    async def live(self) -> None:
        """Until the last fault, and then until it has resigned."""
        await self._redlock.start()
        while not self._scene.faults.over:
            await asyncio.sleep(0.02 * self._random.random())
            await self._until_closed(self._stand())

    async def _stand(self) -> None:
        """With one election, for some terms."""
        wait = self._random.choice((None, None, 0.1, 0.4))
        max_hold = self._random.choice((None, None, 0.1, 0.3))
        ttl = self._random.choice(TERM_TTLS)
        election = self._redlock.election(CROWN, ttl, wait=wait, max_hold=max_hold, on_lost=self._lost)
        self._note(f"stands, ttl {ttl}, wait {wait}, max_hold {max_hold}")
        style = self._random.choice((self._by_hand, self._by_hand, self._by_body, self._by_loop))
        try:
            await style(election, max_hold)
        finally:
            await self._end(election)

    def _lost(self, term: AsyncTerm, reason: LossReason) -> None:
        self._note(f"hears that its term is over: {reason.value}")
        if term.valid:
            self._history.problem("called lost, but valid", f"{term}", CROWN)
        if term in self._told:
            self._history.problem("told twice", f"{term}: {reason.value}", CROWN)
        self._told.append(term)

    # --- three ways to stand ---------------------------------------------------------------------------------------

    async def _by_hand(self, election: AsyncElection, max_hold: float | None) -> None:
        for _ in range(self._random.choice((1, 2, 3))):
            self._begin_campaign(election)
            await self._cancellable("campaign", self._campaign(election, max_hold), CROWN)
            self.acquiring = False
            await self._lead(election)
            await self._end(election)

    async def _campaign(self, election: AsyncElection, max_hold: float | None) -> None:
        try:
            self._elected(election, await election.campaign(), max_hold)
        except (Contended, QuorumUnavailable, WaitCancelled) as error:
            self._not_elected(error)

    async def _by_body(self, election: AsyncElection, max_hold: float | None) -> None:
        self._begin_campaign(election)
        await self._cancellable("election", self._body(election, max_hold), CROWN)

    async def _body(self, election: AsyncElection, max_hold: float | None) -> None:
        with suppress(LeaseLost, NotHeld):
            try:
                async with election as term:
                    self._elected(election, term, max_hold)
                    try:
                        await self._lead(election)
                    finally:
                        self._let_go_of_term()
            except (Contended, QuorumUnavailable, WaitCancelled) as error:
                self._not_elected(error)

    async def _by_loop(self, election: AsyncElection, max_hold: float | None) -> None:
        self._begin_campaign(election)
        await self._cancellable("terms", self._terms(election, max_hold), CROWN)

    async def _terms(self, election: AsyncElection, max_hold: float | None) -> None:
        terms, leaves = self._random.choice((1, 2, 3)), self._random.random() < 0.3
        try:
            async for term in election:
                self._elected(election, term, max_hold)
                try:
                    await self._lead(election)
                    terms -= 1
                    if terms < 0:
                        self._history.problem("stands after it has resigned", f"{term}", CROWN)
                        break
                    if not terms and leaves:
                        break
                    if not terms:
                        await self._resigned_by(election)
                finally:
                    self._let_go_of_term()
                self._forget_term()
                self._begin_campaign(election)
        except (Contended, QuorumUnavailable, WaitCancelled) as error:
            self._not_elected(error)
        if not terms and leaves:
            await self._loop_is_left(election)

    async def _loop_is_left(self, election: AsyncElection) -> None:
        """Without a word; asyncio ends it a few turns later."""
        self._note("leaves its loop")
        self._history.count("loops over terms that were left")
        for _ in range(5):
            await asyncio.sleep(0)
        if election.is_leader:
            self._history.problem("leads though its loop was left", str(election.term), CROWN)

    # --- what they share -------------------------------------------------------------------------------------------

    def _begin_campaign(self, election: AsyncElection) -> None:
        self._forget_term()
        self._note("campaigns")
        self._resigned = self._has_resigned = False
        self.acquiring = True
        if self._random.random() < 0.15:
            delay = 0.2 * self._random.random() ** 2
            asyncio.get_running_loop().call_later(delay, self._give_up, election, self._campaigns)

    def _give_up(self, election: AsyncElection, campaign: int) -> None:
        """Another task of the candidate's resigns while it campaigns, or in the turn in which it has won."""
        if self.acquiring and campaign == self._campaigns and self._other is None:
            self._history.count("campaigns ended by a resignation")
            self._other = asyncio.get_running_loop().create_task(self._resigned_by(election))

    def _elected(self, election: AsyncElection, term: AsyncTerm, max_hold: float | None) -> None:
        self.acquiring = False
        if self._has_resigned:
            self._history.problem("elected after it had resigned", f"{term}", CROWN)
        over = (max_hold is not None and term.age >= max_hold) or term.lease._engine.closed
        if self._resigned or over:
            self._note("is elected, and has resigned" if self._resigned else "is elected, and its term is over")
            return
        self._history.count("terms")
        self._belief = Leadership(election, term)
        claim = self._got(CROWN, term.lease, self._belief)
        self._kept = self._scene.vigilance.keep(claim, True, True, max_hold, alone=False)

    def _not_elected(self, error: RedlockError) -> None:
        self.acquiring = False
        self._note(f"is not elected: {type(error).__name__}")
        self._scene.explain(error)

    async def _lead(self, election: AsyncElection) -> None:
        """For a while; some leave when the term is lost."""
        until = self._world.loop.time() + LONGEST_STAY * self._random.random()
        patient = self._random.random() < 0.3
        while self._world.loop.time() < until and (patient or election.is_leader) and not self._scene.faults.over:
            await asyncio.sleep(0.03 * self._random.random())
        self._closes = election.is_leader and self._random.random() < 0.1

    async def _end(self, election: AsyncElection) -> None:
        """Resigns, for certain at last; or closes, which gives everything back."""
        if self._closes and election.is_leader:
            await self._close_and_start()
        self._closes = False
        for _ in range(TRIES):
            resigned = not election.is_leader or await self._cancellable("resign", self._resigned_by(election))
            if resigned is not CANCELLED:
                break
        with suppress(ClosedError):
            if self._other is not None:
                await self._other
            if election.is_leader:
                await self._resigned_by(election)
        self._other = None
        self._forget_term()

    async def _resigned_by(self, election: AsyncElection) -> None:
        self._resigned = True
        kept = self._kept
        judged = kept is not None and kept.claim.lease.valid
        self._let_go_of_term()
        self._note("resigns")
        outcome: Ok[None] | Lost = Ok(None)
        try:
            await election.resign()
        except RedlockError as error:
            outcome = lost(error)
            self._note(f"resigns: {type(error).__name__}")
        self._has_resigned = self._resigned
        if election.is_leader and self._resigned:
            self._history.problem("resigned, but still believed", str(election.term), CROWN)
        if kept is not None and judged and not kept.engine.closed:
            self._scene.invariants.released(kept.claim, outcome, LeaseState.HELD)

    def _let_go_of_term(self) -> None:
        """It is about to resign."""
        kept = self._kept
        if kept is not None and not kept.over:
            if not kept.claim.let_go:
                self._scene.invariants.letting_go(kept.claim)
            kept.let_go("released")

    def _forget_term(self) -> None:
        """It is over, and the next one may begin."""
        self._campaigns += 1
        self._let_go_of_term()
        if self._belief is not None:
            self._belief.over = True
        self._kept = self._belief = None


class Operator(Actor):
    """A user that looks at others' locks, and takes some away."""

    _alone = True  # no release by force was cancelled before

    async def live(self) -> None:
        """Until the last fault."""
        await self._redlock.start()
        while not self._scene.faults.over:
            await asyncio.sleep(0.08 * self._random.random())
            (act,) = self._random.choices((self._force, self._inspect, self._list, self._restart), (6, 2, 2, 1))
            await self._until_closed(act())

    def _one(self) -> str:
        return self._random.choice((*BASKET, CROWN))

    async def _force(self) -> None:
        resource = self._one()
        if await self._cancellable(f"force_release {resource}", self.force(resource)) is CANCELLED:
            self._alone = False

    async def force(self, resource: str) -> Ok[ForcedRelease] | Unavailable:
        """Takes a lock from whoever holds it."""
        since = self._world.loop.time()
        self._note(f"force_release {resource}")
        outcome = await self._redlock.force_release(resource)
        self._note(f"force_release {resource}: {outcome.value.held if outcome else outcome.error}")
        self._history.count("releases by force" if outcome else "releases by force that are unknown")
        self._scene.invariants.forced(resource, outcome, self._client.name, since, self._alone)
        return outcome

    async def _inspect(self) -> None:
        resource, since = self._one(), self._world.loop.time()
        shown = await self._cancellable("inspect", self._redlock.inspect(resource))
        if isinstance(shown, LockSnapshot):
            self._note(f"inspect {resource}: {shown.holding.value} {shown.owner}")
            self._scene.invariants.shown(resource, shown, since)

    async def _list(self) -> None:
        since = self._world.loop.time()
        with suppress(QuorumUnavailable):
            locks = await self._cancellable("locks", self._listed())
            if isinstance(locks, list):
                self._note(f"locks: {[lock.resource for lock in locks]}")
                self._scene.invariants.listed(locks, since)

    async def _listed(self) -> list[ListedLock]:
        return [lock async for lock in self._redlock.locks()]

    async def _restart(self) -> None:
        await self._close_and_start()
