"""What must hold, judged from outside: by the simulation's time and by what the servers really hold."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from redlock_cluster import Err, Ok, QuorumUnavailable, Vote
from redlock_cluster.core.lease_record import LeaseState
from redlock_cluster.handles.lease import AsyncLease
from redlock_cluster.testing.simulation import SimulatedClient, Simulation

from .history import History
from .ledger import Ledger
from .plan import EDGE, Plan

JUST_BEFORE = 1e-6


@dataclass(eq=False)
class Claim:
    """Somebody believes to hold a resource, as long as the lease says that it is valid.

    since: when it was returned
    let_go: whether its release was asked for; in_time: whether it was valid then
    """

    client: SimulatedClient
    resource: str
    lease: AsyncLease
    since: float
    let_go: bool = False
    in_time: bool = False

    @property
    def valid(self) -> bool:
        """Whether the client believes now."""
        return not self.let_go and self.lease.valid

    def __str__(self) -> str:
        return f"{self.client.name} …{self.lease.token.partition('@')[0][-4:]}"


@dataclass(eq=False)
class Section:
    """A critical section whose lease nobody sees; until: simulated time up to which it surely is valid."""

    client: SimulatedClient
    until: float
    world: Simulation
    over: bool = False

    @property
    def valid(self) -> bool:
        """Whether it is inside and may rely on that."""
        return not self.over and self.world.loop.time() < self.until

    def __str__(self) -> str:
        return f"{self.client.name} in a transaction"


class Invariants:
    """Every lease of one history, and what must be true of it."""

    def __init__(self, world: Simulation, plan: Plan, history: History, ledger: Ledger) -> None:
        self._world, self._plan, self._history, self._ledger = world, plan, history, ledger
        self._claims: defaultdict[str, list[Claim | Section]] = defaultdict(list)

    # --- exclusion -------------------------------------------------------------------------------------------------

    def acquired(self, claim: Claim | Section, resource: str) -> None:
        """A lock was returned to its caller."""
        claims = self._claims[resource]
        if isinstance(claim, Claim):
            self._ledger.decided(claim.lease.token)
        claims.append(claim)
        self.exclusive(resource)
        if isinstance(claim, Claim):
            self.watch(claim)

    def watch(self, claim: Claim) -> None:
        """A lease was returned as valid: it must be, and backed, now and until just before it ends."""
        if not claim.valid:
            self._history.problem("returned a lease that is over", f"{claim.resource}: {claim}", claim.resource)
        self.backed(claim)
        left = claim.lease.remaining / claim.client.clock.rate
        self._world.loop.call_later(max(0.0, left - JUST_BEFORE), self._at_the_end, claim)

    def _at_the_end(self, claim: Claim) -> None:
        if not claim.valid:
            return
        self.exclusive(claim.resource)
        self.backed(claim)
        fastest = max(server.clock.rate for server in self._world.servers)
        if fastest / claim.client.clock.rate > 1 + 1.8 * EDGE:
            self._history.count("leases run out at the edge of the drift")

    def exclusive(self, resource: str) -> None:
        """Invariant 1: at most one lease on a resource is valid."""
        self._claims[resource] = claims = [claim for claim in self._claims[resource] if self._matters(claim)]
        valid = [claim for claim in claims if claim.valid]
        owners = {str(claim) for claim in valid}
        if len(owners) > 1:
            told = ", ".join(sorted(owners))
            self._history.problem("two hold one lock", f"{resource}: {told}", resource)

    def everything_exclusive(self) -> None:
        """Invariant 1 for all resources: a clock has changed, or somebody woke up."""
        for resource in self._claims:
            self.exclusive(resource)

    def _matters(self, claim: Claim | Section) -> bool:
        """A clock that goes back can make a lease valid again, so a lost one matters as long as it is not released."""
        return not claim.over if isinstance(claim, Section) else not claim.let_go

    def backed(self, claim: Claim) -> None:
        """A valid lease stands on a quorum of servers: that is what makes it exclusive."""
        if claim.valid and len(self.holding(claim)) < self._plan.quorum:
            left = f"{claim.lease.remaining * 1000:.3f} ms before its end"
            text = f"{claim.resource}: {claim}, {left}, is held by {sorted(self.holding(claim))} only"
            self._history.problem("a valid lease without a quorum", text, claim.resource)

    def letting_go(self, claim: Claim) -> None:
        """A lease is about to be released for the first time."""
        self.backed(claim)
        claim.in_time = claim.valid
        claim.let_go = True

    def holding(self, claim: Claim) -> set[str]:
        """The servers that hold the lease's token now."""
        key, token = claim.resource.encode(), claim.lease.token.encode()
        return {server.name for server in self._world.servers if server.model.keys().get(key) == token}

    def held_or_deleted(self, claim: Claim) -> int:
        """How many servers hold the lease's token, or did until a release of ours."""
        return len(self.holding(claim) | self._ledger.deletions(claim.lease.token))

    # --- truthful outcomes -----------------------------------------------------------------------------------------

    def refused(self, client: str, resource: str, outcome: Err[object], since: float) -> None:
        """One attempt failed. A failure for want of servers is no contention."""
        asked = self._ledger.asked_by(client, resource, since)
        if outcome.reason == "lock_failure" and len(asked) < self._plan.quorum:
            text = f"{client} was told that {resource} is locked, but only {sorted(asked)} executed its SET"
            self._history.problem("an outage called contention", text, resource)

    def released(self, claim: Claim, outcome: Ok[None] | Err[str], before: LeaseState) -> None:
        """A release ended. *Released* is true if a quorum deleted the token, *not held* if none could have."""
        if claim.lease.valid:
            self._history.problem("released, but still believed", f"{claim} on {claim.resource}", claim.resource)
        if outcome:
            if before is not LeaseState.RELEASED and len(self._ledger.deletions(claim.lease.token)) < self._plan.quorum:
                deleted = sorted(self._ledger.deletions(claim.lease.token))
                text = f"{claim} on {claim.resource}, deleted by {deleted} only"
                self._history.problem("released, but not by a quorum", text, claim.resource)
        elif outcome.reason == "not_held" and claim.in_time and before is not LeaseState.RELEASED:
            self._not_held(claim, before)

    def _not_held(self, claim: Claim, before: LeaseState) -> None:
        if before is not LeaseState.LOST and self.held_or_deleted(claim) >= self._plan.quorum:
            text = f"{claim} on {claim.resource} was on {self.held_or_deleted(claim)} servers"
            self._history.problem("not held, but it was", text, claim.resource)

    def extended(self, claim: Claim, outcome: Ok[AsyncLease] | Err[str], until: float) -> None:
        """An extension ended; until: simulated time up to which the lease was surely valid if it failed."""
        if outcome:
            self.watch(claim)
            self.exclusive(claim.resource)
        elif outcome.reason == "not_held" and self._world.loop.time() < until:
            self._not_held(claim, LeaseState.HELD)
        elif isinstance(outcome.error, QuorumUnavailable):
            self._refused_by_full_servers(claim, outcome.error)

    def _refused_by_full_servers(self, claim: Claim, error: QuorumUnavailable) -> None:
        """A new ttl needs no memory: those that lack it count as if they had extended."""
        able = [vote for vote in error.votes if vote.vote is Vote.FOR or "OOM" in vote.detail]
        if len(able) >= self._plan.quorum:
            self._history.problem("not extended for want of memory", f"{claim}: {error}", claim.resource)

    def looked(self, resource: str, answer: bool, since: float) -> None:
        """`is_locked` answered."""
        held = [c for c in self._claims[resource] if isinstance(c, Claim) and c.since <= since and c.valid]
        if not answer and held:
            self._history.problem("called free, but held", f"{resource}: {held[0]}", resource)
        if answer and not self._ledger.ever_on(resource, self._plan.quorum):
            self._history.problem("called held, but free", resource, resource)

    # --- nothing is left -------------------------------------------------------------------------------------------

    def nothing_left(self, excused: dict[str, int]) -> None:
        """Invariant 6: no server holds the token of an attempt that failed or of a lease that was released.

        excused: clients that died, or closed in the middle of an outage, and the newest connection before that
        """
        kept = {
            claim.lease.token.encode()
            for claims in self._claims.values()
            for claim in claims
            if isinstance(claim, Claim) and not claim.let_go
        }
        for server in self._world.servers:
            for key, token in server.model.keys().items():
                known = self._ledger.tokens.get(token)
                if known is None or token in kept:
                    continue
                if known.granted.get(server.name, 0) > excused.get(known.client, -1):
                    text = f"{server.name} holds {known.client}'s …{token[28:32].decode()} on {key.decode()}"
                    self._history.problem("a token was left behind", text, key.decode())

    def all_gone(self) -> None:
        """Invariant 4: without clients nothing is left after the greatest ttl."""
        for server in self._world.servers:
            for key in sorted(server.model.keys()):
                self._history.problem("a key outlived its ttl", f"{key!r} on {server.name}", key.decode())
