"""What a client knows of a lease it won.

    event                                   held      unknown    lost   released
    extended by a quorum, in time           held      held       -      -
    an extension reached no quorum          unknown   unknown    -      -
    a quorum with the token is impossible   lost      lost       -      -
    validity ran out                        lost      lost       -      -
    a quorum deleted it                     released  released   -      -
    a release reached no quorum             unknown   unknown    -      -     (no longer valid all the same)

Lost and released are final.
"""

from __future__ import annotations

import enum
from typing import Final

from redlock_cluster.core.resource import Resource
from redlock_cluster.core.tally import Acquisition, Ballot, Comparison, Outcome
from redlock_cluster.core.votes import Token

__all__ = ["LeaseRecord", "LeaseState"]


class LeaseState(enum.Enum):
    """HELD: a quorum has the token. UNKNOWN: the last extension or release reached no quorum. LOST, RELEASED: over."""

    HELD = "held"
    UNKNOWN = "unknown"
    LOST = "lost"
    RELEASED = "released"


# Looking up a member of an Enum takes as long as a call.
_HELD: Final = LeaseState.HELD
_UNKNOWN: Final = LeaseState.UNKNOWN
_LOST: Final = LeaseState.LOST
_RELEASED: Final = LeaseState.RELEASED
_DONE: Final = Outcome.DONE


class LeaseRecord:
    """One lease: who, until when, and on which servers. Times are seconds of the engine's clock, masks have bit i for
    the i-th server of the group.

    sent: servers that were sent the token
    deleted: servers known to have deleted it; doubtful: those whose reply to a release was lost
    longest_ms: the longest ttl that a server may have taken for it
    acquired, extension: the rounds that won it and last extended it; release: the newest that is under way
    """

    __slots__ = (
        "_state",
        "acquired",
        "deleted",
        "doubtful",
        "extension",
        "key",
        "longest_ms",
        "release",
        "release_asked",
        "resource",
        "sent",
        "token",
        "ttl_ms",
        "valid_until",
    )

    def __init__(
        self,
        resource: Resource,
        key: bytes,
        token: Token,
        ttl_ms: int,
        valid_until: float,
        sent: int,
        acquired: Acquisition | None = None,
    ) -> None:
        self.resource, self.key, self.token = resource, key, token
        self.ttl_ms = self.longest_ms = ttl_ms
        self.valid_until, self.sent = valid_until, sent
        self.acquired = acquired
        self.extension: Comparison | None = None
        self.release: Comparison | None = None
        self.deleted = self.doubtful = 0
        self.release_asked = False
        self._state = _HELD

    def state(self, now: float) -> LeaseState:
        """The state at a moment: an unreleased lease whose validity has run out is lost."""
        if self._over or self.release_asked or now < self.valid_until:
            return self._state
        return _LOST

    @property
    def _over(self) -> bool:
        return self._state is _LOST or self._state is _RELEASED

    def remaining(self, now: float) -> float:
        """Seconds of validity left; 0 once the lease is over or its release was asked for."""
        if self._over or self.release_asked:
            return 0.0
        return max(0.0, self.valid_until - now)

    @property
    def round(self) -> Ballot | None:
        """The round whose votes say where the lease is held: the last extension that succeeded, or the acquisition."""
        return self.extension or self.acquired

    def may_hold(self) -> int:
        """Mask of the servers that may hold the token."""
        declined = 0 if self.acquired is None else self.acquired.declined
        return self.sent & ~(self.deleted | declined)

    def unanswered(self) -> int:
        """Mask of the servers that were sent the token and whose SET may still land."""
        return 0 if self.acquired is None else self.sent & ~self.acquired.answered

    def begin_extension(self, started: float, valid_until: float, ttl_ms: int) -> bool:
        """Before the first byte: servers that take a shorter ttl may do so unheard, so believe the shorter one.

        False when the lease is over, or its release was asked for: an expired lease is never extended.
        """
        if self.state(started) is _LOST:
            self._state = _LOST
        if self._over or self.release_asked:
            return False
        self.valid_until = min(self.valid_until, valid_until)
        self.longest_ms = max(self.longest_ms, ttl_ms)
        return True

    def extended(self, votes: Comparison, now: float, valid_until: float, ttl_ms: int) -> None:
        """Takes in a decided extension; one that is decided after the validity ran out finds the lease lost.

        valid_until: what the extension gives if it succeeded
        """
        if self._over or self.release_asked:
            return
        if now >= self.valid_until or votes.outcome is Outcome.GONE:
            self._state = _LOST
        elif votes.outcome is Outcome.UNKNOWN:
            self._state = _UNKNOWN
        else:
            self._state = _HELD
            self.valid_until, self.ttl_ms, self.extension = valid_until, ttl_ms, votes

    def begin_release(self, now: float) -> bool:
        """Marks that its release was asked for; false when the lease had ended before."""
        if self._over:
            return False
        if not self.release_asked and now >= self.valid_until:
            self._state = _LOST
            return False
        self.release_asked = True
        return True

    def released(self, outcome: Outcome) -> None:
        """Takes in a release's outcome."""
        if self._over:
            return
        if outcome is _DONE:
            self._state = _RELEASED
        else:
            self._state = _LOST if outcome is Outcome.GONE else _UNKNOWN
