"""Leases that look after themselves, and what their holders are told: judged all the time, by what servers hold."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from redlock_cluster.core.lease_record import LeaseState, LossReason

from .invariants import Claim
from .plan import EDGE

if TYPE_CHECKING:
    from .scene import Scene

POLL = 0.005
"""Seconds between two looks at all leases."""
LATE = 0.001
"""Seconds that something may be told late; and the drift of a client's timers, which run by the simulation's time."""
INFINITE = float("inf")


class Owner:
    """What a user has of a lease that extends itself; when nobody has it, the lease is released."""


class Kept:
    """A lease and what its holder hears of it. A `Listener`.

    claim: that it is held
    extends: whether it extends itself
    listens: whether the holder wants to hear of it
    alone: whether nobody else keeps it: it extends itself as long as its owner is here
    until: engine time when it ends all the same

    owner: by which it is held, None once that was dropped
    lost: as what, None before
    doubtful: whether it was told so
    over: why nothing is to be told any more, "" before
    short_since: simulated time since when servers' losses have left it without a quorum
    """

    def __init__(
        self, vigilance: Vigilance, claim: Claim, extends: bool, listens: bool, max_hold: float | None, alone: bool
    ) -> None:
        self._vigilance, self.claim, self.extends, self.listens = vigilance, claim, extends, listens
        self.engine, self.record = claim.lease._engine, claim.lease._record
        self.until = INFINITE if max_hold is None else self.record.since + max_hold
        self.owner: Owner | None = Owner()
        self.lost_as: LossReason | None = None
        self.is_doubtful = False
        self.over = ""
        self.short_since: float | None = None
        self.odd_since: float | None = None
        if extends and alone:
            self.engine.keep(self.record, self.owner, max_hold)
        if listens:
            self.engine.listen(self.record, self)

    @property
    def token(self) -> str:
        """Of the lease."""
        return self.claim.lease.token

    def ended(self) -> float:
        """Engine time when it ends, or has ended, by itself."""
        return self.record._known()[1]

    def let_go(self, why: str) -> None:
        """Its holder gives it back, or away: nothing is to be told from now on."""
        self.over = why

    # --- what is told ----------------------------------------------------------------------------------------------

    def doubtful(self) -> None:
        self._vigilance.told(self, "doubtful")
        if self.is_doubtful:
            self._vigilance.problem(self, "told twice", "doubtful")
        self.is_doubtful = True

    def held(self) -> None:
        self._vigilance.told(self, "held")
        if not self.is_doubtful:
            self._vigilance.problem(self, "told twice", "held")
        self.is_doubtful = False

    def lost(self, reason: LossReason) -> None:
        if self.claim.client.process.dead:
            return  # and buried
        self._vigilance.told(self, f"lost: {reason.value}")
        self._vigilance.lost(self, reason)
        self.lost_as = reason
        self.claim.let_go = True


class Vigilance:
    """Looks at all leases that somebody sees to, again and again."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._world, self._history = scene, scene.world, scene.history
        self._invariants, self._ledger = scene.invariants, scene.ledger
        self._kept: list[Kept] = []
        self._stopped: defaultdict[str, float] = defaultdict(lambda: -INFINITE)  # when a client last stood still
        self._closed = False
        if scene.plan.robs or scene.plan.shared:
            self._world.loop.call_later(POLL, self._poll)

    def keep(
        self, claim: Claim, extends: bool, listens: bool, max_hold: float | None = None, alone: bool = True
    ) -> Kept:
        """From now on a lease is looked at; in its client's process."""
        kept = Kept(self, claim, extends, listens, max_hold, alone)
        self._kept.append(kept)
        return kept

    def close(self) -> None:
        """Nobody holds anything any more."""
        self._closed = True

    def problem(self, kept: Kept, kind: str, text: str) -> None:
        """Something is wrong with a lease."""
        claim = kept.claim
        self._history.problem(kind, f"{claim.resource}: {claim}: {text}", claim.resource)

    # --- what is told ----------------------------------------------------------------------------------------------

    def told(self, kept: Kept, what: str) -> None:
        """A holder is told something."""
        self._history.note(kept.claim.client.name, f"hears of {kept.claim.resource}, {kept.claim}: {what}")
        self._history.count(f"told {what}")
        if kept.lost_as is not None:
            self.problem(kept, "told after the loss", what)
        if kept.engine.closed:
            self.problem(kept, "told after the close", what)
        if kept.over and (kept.claim.in_time or not what.startswith("lost")):
            self.problem(kept, f"told though it was {kept.over}", what)

    def lost(self, kept: Kept, reason: LossReason) -> None:
        """A holder is told of the loss: it must be true, and in time."""
        claim, now = kept.claim, kept.engine.clock()
        if claim.belief.valid or claim.lease.state is not LeaseState.LOST:
            self.problem(kept, "called lost, but valid", reason.value)
        if reason in (LossReason.GONE, LossReason.FORCED):
            forced = self._ledger.was_forced(kept.record.token)
            if not forced and (reason is LossReason.FORCED or not self._scene.plan.kept):
                self.problem(kept, f"called {reason.value}, but nobody took it", "")
            there = self._invariants.holding(claim) - self._invariants.robbed_of(claim)
            if len(there) >= self._scene.plan.quorum:
                self.problem(kept, f"called {reason.value}, but held", f"by {sorted(there)}")
            return
        end = kept.until if reason is LossReason.MAX_HOLD else kept.ended()
        if now < end:
            self.problem(kept, "called over too early", f"{end - now:.6f} s before")
        stopped = self._stopped[claim.client.name]
        awake = self._world.loop.time() - stopped
        if not claim.client.process.running or awake <= POLL:
            self._history.count("told as the first thing after a pause")
        elif now - end > self._tolerance(kept) and awake > (now - end) / claim.client.clock.rate + POLL:
            self.problem(kept, "told late", f"{reason.value}, {now - end:.6f} s after the end")

    def _tolerance(self, kept: Kept) -> float:
        return LATE + 2 * EDGE * kept.record.kept_longest_ms() / 1000

    # --- all the time ----------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        if self._closed:
            return
        now = self._world.loop.time()
        for client in self._world.clients:
            if not client.process.running:
                self._stopped[client.name] = now
        self._kept = [kept for kept in self._kept if self._matters(kept)]
        with self._invariants.at_a_glance():
            self._invariants.nothing_comes_back()
            for kept in self._kept:
                self._invariants.backed(kept.claim)
                if now - self._stopped[kept.claim.client.name] > 2 * POLL and not kept.over:
                    self._judge(kept, now)
        self._world.loop.call_later(POLL, self._poll)

    def _matters(self, kept: Kept) -> bool:
        claim = kept.claim
        if kept.engine.closed and not kept.over:
            kept.let_go("closed")
            if kept.extends:  # and so it was released
                self._history.count("closed while it extended itself")
                claim.let_go, claim.in_time = True, False
        return not claim.client.process.dead and (not claim.let_go or (kept.lost_as is not None and not kept.over))

    def _judge(self, kept: Kept, now: float) -> None:
        lease = kept.claim.lease
        state = lease.state
        if kept.lost_as is not None:
            if kept.claim.belief.valid:
                self.problem(kept, "valid after its loss", f"{lease.remaining:.3f} s left")
            return
        if lease.valid and kept.engine.clock() > kept.until + LATE:
            self.problem(kept, "held for too long", f"{kept.engine.clock() - kept.until:.3f} s")
        odd = ""
        if kept.listens and state is LeaseState.LOST:
            odd = "not told of its loss"
        elif kept.listens and kept.is_doubtful is not (state is LeaseState.UNKNOWN):
            odd = f"not told that it is {state.value}"
        if not odd:
            kept.odd_since = None
        elif kept.odd_since is None:
            kept.odd_since = now
        elif now - kept.odd_since > self._tolerance(kept):
            self.problem(kept, odd, f"for {now - kept.odd_since:.3f} s")
            kept.let_go("found odd")
        self._judge_robbery(kept, now)

    def _judge_robbery(self, kept: Kept, now: float) -> None:
        """What servers have lost so that no quorum is left is noticed by the next extension at the latest."""
        if not kept.claim.valid or not self._invariants.robbed(kept.claim):
            kept.short_since = None
        elif kept.short_since is None:
            kept.short_since = now
            self._history.count("leases robbed of their quorum")
        elif now - kept.short_since > kept.record.kept_longest_ms() / 1000 * (1 + 2 * EDGE):
            self.problem(kept, "a loss was not noticed", f"for {now - kept.short_since:.3f} s")
            kept.let_go("found odd")
