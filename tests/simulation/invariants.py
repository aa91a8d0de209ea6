"""What must hold, judged from outside: by the simulation's time and by what the servers really hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from redlock_cluster import Err, ForcedRelease, Holding, ListedLock, LockSnapshot, Ok, QuorumUnavailable, Vote
from redlock_cluster.core.lease_record import LeaseState
from redlock_cluster.core.queue import META, side_keys
from redlock_cluster.handles.lease import AsyncLease
from redlock_cluster.testing.simulation import SimulatedClient, SimulatedServer, Simulation

from .history import History
from .ledger import FENCE, Ledger
from .outsiders import tell
from .plan import DRIFT, EDGE, GRAIN, Plan

JUST_BEFORE = 1e-6
CLOCK_CHECKED = 1.5
"""Seconds in which a client has asked each server for its time twice, also on a connection that it hardly uses."""
MANY = 1000
"""Of readers more than there are."""


class Belief(Protocol):
    """What says whether a lock is held: its lease, several leases that are held together, an election."""

    @property
    def valid(self) -> bool:
        """Whether it may be relied on."""

    @property
    def remaining(self) -> float:
        """Seconds for which it may be."""


@dataclass(eq=False)
class Claim:
    """Somebody believes to hold a resource, as long as they are told that it is valid.

    since: when it was returned
    by: what tells them, if it is not the lease itself
    most: how many may hold the resource together with it, itself included
    let_go: whether its release was asked for; in_time: whether it was valid then
    forced: whether it was taken away by force since
    """

    client: SimulatedClient
    resource: str
    lease: AsyncLease
    since: float
    by: Belief | None = None
    most: int = 1
    let_go: bool = False
    in_time: bool = False
    forced: bool = False

    @property
    def belief(self) -> Belief:
        """What the client goes by."""
        return self.lease if self.by is None else self.by

    @property
    def valid(self) -> bool:
        """Whether the client believes now."""
        return not self.let_go and self.belief.valid

    def __str__(self) -> str:
        return f"{self.client.name} …{self.lease.token.partition('@')[0][-4:]}"


@dataclass(eq=False)
class Section:
    """A critical section whose lease nobody sees.

    who: is in it; until: simulated time up to which it surely is valid
    most: as of a `Claim`
    """

    who: str
    until: float
    world: Simulation
    over: bool = False
    most: int = 1

    @property
    def valid(self) -> bool:
        """Whether it is inside and may rely on that."""
        return not self.over and self.world.loop.time() < self.until

    def __str__(self) -> str:
        return f"{self.who} in its section"


def tokens_on(server: SimulatedServer, readers: bool = True) -> set[tuple[bytes, bytes]]:
    """What a server holds: keys, and the tokens there; of readers those that are not over."""
    found = set(server.model.keys().items())
    if readers:
        ms = int(server.clock.wall() * 1000)
        for key, (members, _) in server.model.sorted_sets().items():
            found |= {(key, token) for token, ends in members.items() if ends >= ms}
    return found


class Invariants:
    """Every lease of one history, and what must be true of it.

    clock_changed: when a server's clock changed last, simulated time
    began: when each client started last, if it did so again
    """

    def __init__(self, world: Simulation, plan: Plan, history: History, ledger: Ledger) -> None:
        self._world, self._plan, self._history, self._ledger = world, plan, history, ledger
        self._claims: defaultdict[str, list[Claim | Section]] = defaultdict(list)
        self._fences: defaultdict[str, int] = defaultdict(int)
        self._found: list[tuple[str, set[tuple[bytes, bytes]]]] = []
        self.clock_changed = 0.0
        self.began: dict[str, float] = {}

    # --- exclusion -------------------------------------------------------------------------------------------------

    def acquired(self, claim: Claim | Section, resource: str) -> None:
        """A lock was returned to its caller."""
        claims = self._claims[resource]
        if isinstance(claim, Claim):
            self._ledger.decided(claim.lease.token)
            self._numbered(claim)
        claims.append(claim)
        self.exclusive(resource)
        if isinstance(claim, Claim):
            self.watch(claim)

    def _numbered(self, claim: Claim) -> None:
        """Invariant 8: who holds a lock alone has a greater fence than all before it; a reader that of the last one."""
        resource, fence = claim.resource, claim.lease.fence
        if not self._plan.fenced:
            return
        last, alone = self._fences[resource], claim.most == 1
        if fence is None and alone:
            self._history.problem("no fence", f"{resource}: {claim}", resource)
        elif alone is False and self._plan.forgets:
            return  # servers that forget do not know who held the lock last
        elif (fence or 0) < last or (alone and fence == last):
            self._history.problem("a fence does not grow", f"{resource}: {claim} has {fence} after {last}", resource)
        elif alone and last:
            self._history.count("fences that grow")
        self._fences[resource] = max(last, fence or 0)

    def watch(self, claim: Claim) -> None:
        """A lease was returned as valid: it must be, and backed, now and until just before it ends."""
        if not claim.valid:
            self._history.problem("returned a lease that is over", f"{claim.resource}: {claim}", claim.resource)
        self.backed(claim)
        left = claim.belief.remaining / claim.client.clock.rate
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
        """Invariant 1: of the leases on a resource no more are valid than each of them allows."""
        self._claims[resource] = claims = [claim for claim in self._claims[resource] if self._matters(claim)]
        valid = [claim for claim in claims if claim.valid and not self.robbed(claim)]
        owners = {str(claim) for claim in valid}
        if len(owners) > min([claim.most for claim in valid], default=0):
            told = ", ".join(sorted(owners))
            if self._unseen(valid):
                self._history.count("two held one lock, before a check of the clocks could show why")
                return
            self._history.problem("two hold one lock", f"{resource}: {told}", resource)
        permits = {claim.lease.token: claim.lease._record.key for claim in valid if isinstance(claim, Claim)}
        if len(set(permits.values())) < len(permits) and max(claim.most for claim in valid) < MANY:
            self._history.problem("two hold one permit", f"{resource}: {sorted(owners)}", resource)

    def _unseen(self, claims: list[Claim | Section]) -> bool:
        """Whether the last of them came so soon after a clock had changed that its client can't have seen that."""
        if not self._plan.clocks_change:
            return False
        newest = max(
            (self.began.get(claim.client.name, 0.0) for claim in claims if isinstance(claim, Claim)), default=0.0
        )
        return self._world.loop.time() < max(self.clock_changed, newest) + CLOCK_CHECKED

    def everything_exclusive(self) -> None:
        """Invariant 1 for all resources: a clock has changed, or somebody woke up."""
        for resource in self._claims:
            self.exclusive(resource)

    def _matters(self, claim: Claim | Section) -> bool:
        """A clock that goes back can make a lease valid again, so a lost one matters as long as it is not released."""
        return not claim.over if isinstance(claim, Section) else not claim.let_go

    def backed(self, claim: Claim) -> None:
        """A valid lease stands on a quorum of servers: that is what makes it exclusive."""
        if claim.valid and len(self.holding(claim)) < self._plan.quorum and not self._lacks(claim):
            left = f"{claim.lease.remaining * 1000:.3f} ms before its end"
            text = f"{claim.resource}: {claim}, {left}, is held by {sorted(self.holding(claim))} only"
            self._history.problem("a valid lease without a quorum", text, claim.resource)

    def robbed(self, claim: Claim | Section) -> bool:
        """Whether a lease lacks its quorum because servers lost it that had it: it has to hear of that."""
        return self._plan.robs and self._lacks_what_was_lost(claim)

    def _lacks_what_was_lost(self, claim: Claim | Section) -> bool:
        """Whether it lacks its quorum because of that. Where servers forget, that excuses the lack and nothing else."""
        if isinstance(claim, Section):
            return False
        holding = self.holding(claim)
        return len(holding) < self._plan.quorum <= len(holding | self.robbed_of(claim))

    def _lacks(self, claim: Claim) -> bool:
        return (self._plan.robs or self._plan.forgets) and self._lacks_what_was_lost(claim)

    def robbed_of(self, claim: Claim) -> set[str]:
        """The servers that have lost a lease since its last extension began."""
        passed = claim.lease.ttl * (1 - DRIFT) - GRAIN - claim.lease.remaining
        since = self._world.loop.time() - passed / claim.client.clock.rate
        return self._ledger.robbed_of(claim.lease._record.token, since - JUST_BEFORE)

    def letting_go(self, claim: Claim) -> None:
        """A lease is about to be released for the first time."""
        self.backed(claim)
        claim.in_time = claim.valid
        claim.let_go = True

    def holding(self, claim: Claim) -> set[str]:
        """The servers that hold the lease's token now."""
        there = claim.lease._record.key, claim.lease._record.token
        return {name for name, tokens in self._found or self._tokens() if there in tokens}

    def _tokens(self) -> list[tuple[str, set[tuple[bytes, bytes]]]]:
        """What servers hold now: keys, and the tokens there; of readers those that are not over."""
        return [
            (server.name, tokens_on(server, self._plan.shared or self._plan.forgets)) for server in self._world.servers
        ]

    @contextmanager
    def at_a_glance(self) -> Iterator[None]:
        """Meanwhile nothing happens: what servers hold is looked at once."""
        self._found = self._tokens()
        try:
            yield
        finally:
            self._found = []

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
        held = self._held_since(resource, since)
        if not answer and held:
            self._history.problem("called free, but held", f"{resource}: {held[0]}", resource)
        if answer and not self._ledger.ever_on(resource, self._plan.quorum):
            self._history.problem("called held, but free", resource, resource)

    def _held_since(self, resource: str, since: float) -> list[Claim]:
        """Who has held a resource all the time since then, and has not lost it without knowing."""
        claims = [claim for claim in self._claims[resource] if isinstance(claim, Claim) and claim.since <= since]
        return [claim for claim in claims if claim.valid and not self.robbed_of(claim)]

    # --- operators -------------------------------------------------------------------------------------------------

    def shown(self, resource: str, snapshot: LockSnapshot, since: float) -> None:
        """`inspect` answered."""
        held = self._held_since(resource, since)
        if held and snapshot.holding in (Holding.FREE, Holding.SPLIT):
            self._history.problem("called free, but held", f"{resource}: {held[0]}, {snapshot.holding}", resource)
        if held and snapshot.holding is Holding.HELD and snapshot.owner != held[0].client.name:
            self._history.problem("another is called its holder", f"{held[0]}, not {snapshot.owner}", resource)
        if snapshot.holding is Holding.HELD and not self._ledger.ever_on(resource, self._plan.quorum):
            self._history.problem("called held, but free", resource, resource)

    def listed(self, locks: list[ListedLock], since: float) -> None:
        """`locks` has come to its end: what was held all the time is there, and nothing twice."""
        names = [lock.resource for lock in locks]
        for resource in list(self._claims):
            held = self._held_since(resource, since)
            if held and resource not in names:
                self._history.problem("held, but not listed", f"{held[0]} on {resource}", resource)
        if len(set(names)) < len(names):
            self._history.problem("listed twice", f"{names}")

    def forced(self, resource: str, outcome: Ok[ForcedRelease] | Err[str], by: str, since: float, alone: bool) -> None:
        """A release by force ended. Whoever held the lock before it began never has a quorum again.

        alone: no command of an earlier one, that was cancelled, may still be under way
        """
        removals, read = (ask(by, resource, since) for ask in (self._ledger.removals_by, self._ledger.read_by))
        told = f"{resource}: removed on {sorted(removals)}, read on {sorted(read)}"
        if alone and removals and len(read) < self._plan.quorum:
            self._history.problem("removed by force before it was known who held it", told, resource)
        if not outcome:
            if "was not released" in str(outcome.error) and removals and alone:
                self._history.problem("called not released by force, but removed", told, resource)
            return
        removed = outcome.value
        gone = {vote.server for vote in removed.votes if vote.vote is Vote.FOR}
        if len(gone) < self._plan.quorum or not gone <= removals.keys():
            self._history.problem("released by force, but not by a quorum", f"{told}, told {sorted(gone)}", resource)
        if not any(removed.held in found for found in removals.values()):
            self._history.problem("not the truth of a release by force", f"{told}: {removed.held}", resource)
        for claim in self._claims[resource]:
            if isinstance(claim, Claim) and claim.since < since:
                claim.forced = True
        self._nothing_comes_back(resource)

    def nothing_comes_back(self) -> None:
        """What was taken from somebody by force is theirs no more."""
        for resource in self._claims:
            self._nothing_comes_back(resource)

    def _nothing_comes_back(self, resource: str) -> None:
        for claim in self._claims[resource]:
            if isinstance(claim, Claim) and claim.forced and len(self.holding(claim)) >= self._plan.quorum:
                text = f"{resource}: {claim} is on {sorted(self.holding(claim))}"
                self._history.problem("held again after its release by force", text, resource)
                claim.forced = False

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
            if self._plan.fenced and server.clock.wall() < server.clock():
                continue  # it was set back: there they stay for longer than anybody sees to them
            for key, token in sorted(tokens_on(server, self._plan.shared)):
                known = self._ledger.tokens.get(token)
                if known is None or token in kept or known.given_away:
                    continue
                if known.granted.get(server.name, 0) > excused.get(known.client, -1):
                    text = f"{server.name} holds {known.client}'s …{token[18:22].decode()} on {key.decode()}"
                    self._history.problem("a token was left behind", text, key.decode())

    def all_gone(self) -> None:
        """Invariant 2: without clients nothing is left, no queue either, after the greatest ttl; but fences."""
        for server in self._world.servers:
            if self._plan.fenced:  # those that were set back are late
                server.clock.step(server.clock() - server.clock.wall())
            server.model.advance()
            tell(server, [b"DEL", META])  # stays as long as the server
            for key in sorted(server.model.keys()):
                if key.endswith(FENCE):
                    tell(server, [b"DEL", key])
                else:
                    self._history.problem("a key outlived its ttl", f"{key!r} on {server.name}", key.decode())
            if tell(server, [b"DBSIZE"]) != b":0\r\n":
                self._history.problem("a key outlived its ttl", f"not a string, on {server.name}")

    def no_lines(self, client: SimulatedClient) -> None:
        """A client for which nobody waits keeps nothing of those who did."""
        engine = client.engine
        if engine is None:
            return
        waiting = engine.waiting
        if waiting.lines or waiting.count:
            text = f"{client.name}: {len(waiting.lines)} lines, {waiting.count} waiters"
            self._history.problem("a client keeps those who wait no more", text)

    def no_watches(self, client: SimulatedClient) -> None:
        """A client that holds nothing sees to nothing."""
        engine = client.engine
        if engine is None:
            return
        dog = engine._watchdog
        if dog.watches or dog._armed:
            text = f"{client.name}: {len(dog.watches)} watches, {len(dog._armed)} of them by pushes"
            self._history.problem("a client watches what nobody holds", text)

    def no_timers(self, client: SimulatedClient) -> None:
        """A client that has held nothing for long waits for nothing."""
        engine = client.engine
        if engine is not None and (engine._watchdog._slots or engine._watchdog._timer is not None):
            self._history.problem("a client watches what nobody holds", f"{client.name} has a timer")

    def nobody_waits(self, clients: list[SimulatedClient], resource: str) -> None:
        """All is well and all are done: no living client stands in a queue."""
        living = [client for client in clients if not client.process.dead and client.engine is not None]
        for client in living:
            self.no_lines(client)
        for server in self._world.servers:
            there = tell(server, [b"ZRANGE", side_keys(resource.encode())[1], b"0", b"-1"])
            for client in living:
                if any(name in there for name in self._ledger.names[client.name]):
                    self._history.problem("stands in a queue for nobody", f"{client.name} on {server.name}", resource)
