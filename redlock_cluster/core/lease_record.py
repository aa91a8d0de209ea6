"""What a client knows of a lease it won. Only this module writes a record's fields.

    event                            held       unknown     releasing   unreleased  expired and what follows it below
    extended by a quorum, in time    held       held        -           -           -
    an extension reached no quorum   unknown    unknown     -           -           -
    a quorum can't hold the token    gone       gone        -           -           -
    ... and it was removed by force  forced     forced      -           -           - (gone: forced)
    validity ran out                 expired    expired     -           -           -
    it was held as long as it may be ended      ended       -           -           -
    its ticket was given away        detached   detached    -           -           -
    a release was asked for          releasing  unreleased  -           -           -
    a quorum deleted it                                     released    released    -
    a release reached no quorum                             unreleased  -           -
    a quorum did not hold it                                gone        gone        -

Columns that are not shown follow in this order: expired, ended, gone, forced, released, detached; but for the one that
is named, nothing changes there. A dash is no change. From releasing on, a lease is no longer valid. To users, releasing
is HELD, unreleased is UNKNOWN, expired, ended, gone and forced are LOST. The rows of this table stand below, one for
each event.

Engines of one process that know one token have a record each: they are aliases. Each is written in its own engine's
thread alone, so no lock is needed and no event is lost. What is known is what they say together, and an event of one
begins with that:

    releasing or later in any of them    the one furthest to the right: released before gone before expired, and so on
    else                                 what the alias says whose extension was begun last, the newest
    valid until                          what the newest says; an extension of another alias that was not decided when
                                         the newest began may be executed after it: the newest's start + that validity

So a release that any of them is asked for ends all of them, and an extension lengthens or shortens all of them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.resource import Resource
from redlock_cluster.core.tally import Outcome
from redlock_cluster.core.token import Token
from redlock_cluster.core.votes import ServerVote

__all__ = ["Aliases", "LeaseRecord", "LeaseState", "LossReason"]


class LeaseState(enum.Enum):
    """HELD: a quorum has the token. UNKNOWN: the last extension or release has reached no quorum.
    LOST, RELEASED: it is over. DETACHED: its ticket was given away, and whoever adopts that has it."""

    HELD = "held"
    UNKNOWN = "unknown"
    LOST = "lost"
    RELEASED = "released"
    DETACHED = "detached"


class LossReason(enum.Enum):
    """Why a lease was lost.

    EXPIRED: its validity ran out. GONE: a quorum of the servers does not hold its token any more: somebody deleted the
    key or took it over, or servers lost their memory. FORCED: the same, by `force_release`. MAX_HOLD: it was held as
    long as `max_hold` allows.
    """

    EXPIRED = "expired"
    GONE = "gone"
    FORCED = "forced"
    MAX_HOLD = "max_hold"


_DONE: Final = Outcome.DONE

# States are indices into the rows of the table: looking up a member of an Enum takes as long as a call.
_HELD: Final = 0
_UNKNOWN: Final = 1
_RELEASING: Final = 2
_UNRELEASED: Final = 3
_EXPIRED: Final = 4
_ENDED: Final = 5
_GONE: Final = 6
_FORCED: Final = 7
_RELEASED: Final = 8
_DETACHED: Final = 9
_OVER: Final = (_EXPIRED, _ENDED, _GONE, _FORCED, _RELEASED, _DETACHED)
_ASKED: Final = (_RELEASING, _UNRELEASED, _RELEASED)

_NEVER: Final = float("inf")

_SHOWN: Final = (
    LeaseState.HELD,
    LeaseState.UNKNOWN,
    LeaseState.HELD,
    LeaseState.UNKNOWN,
    LeaseState.LOST,
    LeaseState.LOST,
    LeaseState.LOST,
    LeaseState.LOST,
    LeaseState.RELEASED,
    LeaseState.DETACHED,
)

_ON_EXTENDED: Final = (_HELD, _HELD, _RELEASING, _UNRELEASED, *_OVER)
_ON_EXTENSION_UNKNOWN: Final = (_UNKNOWN, _UNKNOWN, _RELEASING, _UNRELEASED, *_OVER)
_ON_EXTENSION_GONE: Final = (_GONE, _GONE, _RELEASING, _UNRELEASED, *_OVER)
_ON_FORCED: Final = (
    _FORCED,
    _FORCED,
    _RELEASING,
    _UNRELEASED,
    _EXPIRED,
    _ENDED,
    _FORCED,
    _FORCED,
    _RELEASED,
    _DETACHED,
)
_ON_EXPIRY: Final = (_EXPIRED, _EXPIRED, _RELEASING, _UNRELEASED, *_OVER)
_ON_MAX_HOLD: Final = (_ENDED, _ENDED, _RELEASING, _UNRELEASED, *_OVER)
_ON_DETACHED: Final = (_DETACHED, _DETACHED, _RELEASING, _UNRELEASED, *_OVER)
_ON_RELEASE_ASKED: Final = (_RELEASING, _UNRELEASED, _RELEASING, _UNRELEASED, *_OVER)
_ON_RELEASED: Final = (_HELD, _UNKNOWN, _RELEASED, _RELEASED, *_OVER)
_ON_RELEASE_UNKNOWN: Final = (_HELD, _UNKNOWN, _UNRELEASED, _UNRELEASED, *_OVER)
_ON_RELEASE_GONE: Final = (_HELD, _UNKNOWN, _GONE, _GONE, *_OVER)


class Ballot(Protocol):
    """A round that asked for votes."""

    def votes(self, names: tuple[str, ...], /) -> tuple[ServerVote, ...]:
        """Every server's vote, in the group's order."""

    @property
    def granted(self) -> int:
        """Mask of the servers that voted FOR."""


class AcquisitionBallot(Ballot, Protocol):
    """The round that won the lease."""

    @property
    def answered(self) -> int:
        """Mask of the servers that voted FOR or AGAINST."""

    @property
    def declined(self) -> int:
        """Mask of the servers that proved not to have run the command."""


class ReleaseBallot(Ballot, Protocol):
    """A release that is under way."""

    def count_alone(self) -> object:
        """From now on record each deletion as it is heard of."""


class Aliases(Protocol):
    """The records that engines of this process have for one token."""

    @property
    def records(self) -> Sequence[LeaseRecord]:
        """All of them, the oldest first."""


class _Asked:
    """What is known of a lease's newest extension. It never changes: another takes its place.

    So other threads see all of it or nothing. As a tuple it would take thrice the memory. Of a lease that has no alias
    it is forgotten once the extension is decided: whatever an alias begins comes later.

    begun: its start
    validity: seconds that it may give
    decided: when it was decided
    least_ms: the least ttl that it or one before it asked for, of those that servers may still execute
    """

    __slots__ = ("begun", "decided", "least_ms", "validity")

    def __init__(self, begun: float, validity: float, decided: float, least_ms: int) -> None:
        self.begun, self.validity, self.decided, self.least_ms = begun, validity, decided, least_ms


class LeaseRecord:
    """One lease: who, until when, and on which servers.

    Times are seconds of the engine's clock; masks have bit i for the i-th server of the group.

    resource: as the caller named it
    key: its name on the servers
    token: the owner's value there
    mode: which kind of lock it is
    ttl_ms: milliseconds that servers keep it, counted from the acquisition or the last extension
    longest_ms: the longest ttl that a server may have taken for it, milliseconds
    valid_until: when it ends by this machine's clock
    since: when it was acquired, or first known here
    hold_until: when it ends whatever extends it
    sent: mask of the servers that were sent the token to acquire it
    resent: mask of the servers that were sent it again, or turned out to hold it
    retaking: mask of those that were and have not answered that
    healed: mask of those that have taken it since the round whose votes count
    missing: mask of those that may have lost it since
    acquired: the round that won it; None for one that is known by its token, or was extended since all have answered
    confirmed: the last round that extended it or looked where it is
    release: the newest release that is under way
    deleted: mask of the servers known to have deleted it
    doubtful: mask of the servers whose reply to a release was lost
    fence: the number of the acquisition, 0 if there was none to be had; None if it was not asked for
    """

    __slots__ = (
        "_aliases",
        "_asked",
        "_state",
        "acquired",
        "confirmed",
        "deleted",
        "doubtful",
        "fence",
        "healed",
        "hold_until",
        "key",
        "longest_ms",
        "missing",
        "mode",
        "release",
        "resent",
        "resource",
        "retaking",
        "sent",
        "since",
        "token",
        "ttl_ms",
        "valid_until",
    )

    def __init__(
        self,
        resource: Resource,
        key: bytes,
        token: Token,
        mode: LockMode,
        ttl_ms: int,
        valid_until: float,
        since: float,
        sent: int,
        acquired: AcquisitionBallot | None,
        fence: int | None = None,
    ) -> None:
        self.resource, self.key, self.token, self.mode = resource, key, token, mode
        self.ttl_ms = self.longest_ms = ttl_ms
        self.valid_until, self.since, self.sent = valid_until, since, sent
        self.hold_until = _NEVER
        self.resent = self.retaking = self.healed = self.missing = 0
        self.acquired, self.fence = acquired, fence
        self.confirmed: Ballot | None = None
        self.release: ReleaseBallot | None = None
        self.deleted = self.doubtful = 0
        self._state = _HELD
        self._aliases: Callable[[], Aliases | None] | None = None
        self._asked: _Asked | None = None

    def note_fence(self, fence: int | None) -> None:
        """Somebody knows its number who had the lease before."""
        if self.fence is None:
            self.fence = fence

    def note_mode(self, mode: LockMode) -> None:
        """Servers say which kind of lock it is, of which nothing but the token was known."""
        self.mode = mode

    # --- what is known of it ---------------------------------------------------------------------------------------

    def _known(self) -> tuple[int, float]:
        """The state and the end, as all aliases say them together."""
        aliases = self.aliases
        if aliases is None:
            return self._state, min(self.valid_until, self.hold_until)
        records, newest = aliases.records, self._newest()
        state, end, begun = max([record._state for record in records]), newest.valid_until, newest._begun()
        for record in records:
            asked = record._asked
            if record is not newest and asked is not None and asked.decided > begun:
                end = min(end, begun + asked.validity)
        end = min([end, *[record.hold_until for record in records]])
        return (newest._state if state < _RELEASING else state), end

    def _newest(self) -> LeaseRecord:
        """The alias whose extension was begun last."""
        aliases, newest = self.aliases, self
        if aliases is not None:
            newest = aliases.records[0]
            for record in aliases.records:
                if record._begun() > newest._begun():
                    newest = record
        return newest

    def _begun(self) -> float:
        """When its newest extension was begun; before all others if there was none."""
        asked = self._asked
        return -_NEVER if asked is None else asked.begun

    def _at(self, now: float) -> int:
        """The state that aliases say together at a moment: validity may have run out."""
        state, end = self._known()
        if now < end:
            return state
        return (_ON_MAX_HOLD if end == self.hold_until else _ON_EXPIRY)[state]

    def state(self, now: float) -> LeaseState:
        """The state at a moment: a lease whose validity has run out is lost, unless its release was asked for."""
        return _SHOWN[self._at(now)]

    def remaining(self, now: float) -> float:
        """Seconds of validity left; 0 once the lease is over or its release was asked for."""
        state, end = self._known()
        return max(0.0, end - now) if state < _RELEASING else 0.0

    @property
    def release_asked(self) -> bool:
        """Whether its release was asked for, and has not found it lost."""
        return self._known()[0] in _ASKED

    @property
    def over_by_release(self) -> bool:
        """Whether a quorum has deleted it."""
        return self._known()[0] == _RELEASED

    def loss(self, now: float) -> tuple[LossReason, str]:
        """Of a lost lease: why, and the rest of the sentence."""
        state, end = self._known()
        if state == _GONE:
            return LossReason.GONE, "a quorum of its servers does not hold it any more"
        if state == _FORCED:
            return LossReason.FORCED, "it was released by force"
        if state == _ENDED or end == self.hold_until:
            return LossReason.MAX_HOLD, "it was held as long as max_hold allows"
        return LossReason.EXPIRED, f"it expired {now - end:.3g} s ago"

    def lost_early(self, now: float) -> bool:
        """Whether it is lost, not by force, although its validity was to run on."""
        state, end = self._known()
        return state == _GONE and now < end

    def kept_ms(self) -> int:
        """Milliseconds that servers keep it, counted from the acquisition or the last extension by any alias."""
        return self._newest().ttl_ms

    def given_ms(self) -> int:
        """Milliseconds for which whoever takes it over extends it first, and counts on that.

        Not more than an extension asked for that is not decided or unknown: servers may execute it after his.
        """
        aliases = self.aliases
        asked = [record._asked for record in ([self] if aliases is None else aliases.records)]
        return min([self.kept_ms(), *[each.least_ms for each in asked if each is not None and each.decided == _NEVER]])

    def kept_longest_ms(self) -> int:
        """The longest ttl that a server may have taken for it from any alias, milliseconds."""
        aliases = self.aliases
        return self.longest_ms if aliases is None else max([record.longest_ms for record in aliases.records])

    @property
    def ballot(self) -> Ballot | None:
        """The round whose votes say where the lease is: the last that extended it or looked, or the acquisition."""
        return self.confirmed or self.acquired

    @property
    def live(self) -> bool:
        """Whether it is neither lost, nor over, nor asked to be released, as far as is known without a clock."""
        return self._state < _RELEASING

    @property
    def detached(self) -> bool:
        """Whether its ticket was given away."""
        return self._known()[0] == _DETACHED

    def holders(self) -> int:
        """Mask of the servers that are known to hold it."""
        ballot = self.ballot
        granted = 0 if ballot is None else ballot.granted
        return granted & ~self.missing | self.healed

    def may_hold(self) -> int:
        """Mask of the servers that may hold the token."""
        declined = 0 if self.acquired is None else self.acquired.declined
        return (self.sent & ~declined | self.resent) & ~self.deleted

    def unanswered(self) -> int:
        """Mask of the servers that were sent the token and that may still take it."""
        return self.retaking if self.acquired is None else self.sent & ~self.acquired.answered | self.retaking

    # --- extension -------------------------------------------------------------------------------------------------

    def begin_extension(self, started: float, valid_until: float, ttl_ms: int) -> bool:
        """Before the first byte: servers that take a shorter ttl may do so unheard, so believe the shorter one.

        started: now
        valid_until: what the extension gives if it succeeds
        ttl_ms: milliseconds that the servers are asked for

        Returns False when the lease is over, or its release was asked for: an expired lease is never extended.
        """
        self._state = self._at(started)
        if self._state >= _RELEASING:
            return False
        self.valid_until = min(self._known()[1], valid_until)
        before = self._asked
        least = ttl_ms if before is None or before.decided < _NEVER else min(before.least_ms, ttl_ms)
        self._asked = _Asked(started, valid_until - started, _NEVER, least)
        self.longest_ms = max(self.longest_ms, ttl_ms)
        return True

    def extended(self, ballot: Ballot, outcome: Outcome, now: float, valid_until: float, ttl_ms: int) -> None:
        """Take in a decided extension; one that is decided after the validity ran out finds the lease lost.

        ballot: the round of the extension
        outcome: how it ended
        valid_until, ttl_ms: as for `begin_extension`
        """
        state = self._at(now)
        if outcome is _DONE:
            self._state = _ON_EXTENDED[state]
        else:
            self._state = (_ON_EXTENSION_GONE if outcome is Outcome.GONE else _ON_EXTENSION_UNKNOWN)[state]
        if self._state == _HELD:
            self.valid_until, self.ttl_ms = valid_until, ttl_ms
            self.confirmed, self.healed, self.missing = ballot, 0, 0
            self._forget_acquisition()
        if outcome is not Outcome.UNKNOWN:  # else servers may execute it even later
            asked, alone = self._asked, self._aliases is None  # an alias that joins later begins its extensions later
            self._asked = None if asked is None or alone else _Asked(asked.begun, asked.validity, now, asked.least_ms)

    def _forget_acquisition(self) -> None:
        """A later round says where the lease is: who keeps many of them keeps one round of each."""
        acquired = self.acquired
        if acquired is not None and not self.sent & ~(acquired.answered | acquired.declined):
            self.sent &= ~acquired.declined
            self.acquired = None

    def hold_at_most(self, until: float) -> None:
        """It ends then, whatever extends it; engine time."""
        self.hold_until = until

    # --- where it is -----------------------------------------------------------------------------------------------

    def looked(self, ballot: Ballot, outcome: Outcome, now: float, forced: bool = False) -> None:
        """Take in what servers said when they were asked whether they hold it.

        ballot: the round
        outcome: GONE when a quorum can't hold it
        forced: some of them said that it was removed by force
        """
        state = self._at(now)
        if outcome is Outcome.GONE:
            self._state = (_ON_FORCED if forced else _ON_EXTENSION_GONE)[state]
        elif outcome is _DONE and state < _RELEASING:
            self.confirmed, self.healed, self.missing = ballot, 0, 0

    def forget(self, mask: int) -> None:
        """These servers may have lost it."""
        self.missing |= mask
        self.healed &= ~mask

    def found(self, index: int) -> None:
        """A server holds it, perhaps because another engine of this process had it take the lease again."""
        self.resent |= 1 << index

    def retake(self, index: int) -> None:
        """A server is sent the token again."""
        self.resent |= 1 << index
        self.retaking |= 1 << index

    def retaken(self, index: int, holds: bool) -> None:
        """It has answered that. What it holds counts from the next round on."""
        self.retaking &= ~(1 << index)
        if holds:
            self.healed |= 1 << index

    # --- hand-over -------------------------------------------------------------------------------------------------

    def detach(self, now: float) -> bool:
        """It is somebody else's from now on. Returns False when it was over, or its release was asked for."""
        state = self._at(now)
        self._state = _ON_DETACHED[state]
        return state < _RELEASING

    # --- release ---------------------------------------------------------------------------------------------------

    def begin_release(self, now: float) -> bool:
        """Mark that its release was asked for. Returns False when the lease had ended before."""
        self._state = _ON_RELEASE_ASKED[self._at(now)]
        return self._state in (_RELEASING, _UNRELEASED)

    def released_by(self, ballot: ReleaseBallot) -> None:
        """A release begins. What an earlier one does is to be known at once: it lets this one find less."""
        if self.release is not None:
            self.release.count_alone()
        self.release = ballot

    def note_deleted(self, mask: int) -> None:
        """These servers have deleted it."""
        self.deleted |= mask

    def note_doubtful(self, index: int) -> None:
        """A server's reply to a release was lost: from here on it may have no such token because of that release."""
        self.doubtful |= 1 << index

    def doubts(self, mask: int) -> bool:
        """Whether these servers may have no such token because of another release, of this record or of an alias."""
        aliases = self.aliases
        if self.doubtful & mask or aliases is None:
            return bool(self.doubtful & mask)
        return any(record is not self and record._state in _ASKED for record in aliases.records)

    def released(self, outcome: Outcome, ballot: ReleaseBallot | None) -> None:
        """Take in what a release came to.

        ballot: the round of the release, None when nobody waited for one
        """
        if outcome is _DONE:
            self._state = _ON_RELEASED[self._state]
        else:
            self._state = (_ON_RELEASE_GONE if outcome is Outcome.GONE else _ON_RELEASE_UNKNOWN)[self._state]
        if self.release is ballot:
            self.release = None

    def surrender(self) -> int:
        """Mask of the servers that may hold the token; whoever asks sees to it that it goes from there, once."""
        if self.release is not None:
            self.release.count_alone()
        holders = self.may_hold()
        self.sent = self.resent = 0
        return holders

    # --- aliases ---------------------------------------------------------------------------------------------------

    @property
    def aliases(self) -> Aliases | None:
        """Those that it is one of, while anybody keeps them."""
        return None if self._aliases is None else self._aliases()

    def join(self, aliases: Callable[[], Aliases | None]) -> None:
        """From now on it is one of these; in any thread.

        aliases: a weak reference: they have the record, which is not to keep them alive in turn
        """
        self._aliases = aliases

    def alias(self, resource: Resource, sent: int) -> LeaseRecord:
        """A record for another engine, still to be joined to the same aliases.

        resource: as that engine's caller named it
        sent: mask of its servers
        """
        kept, until = self.kept_ms(), self._known()[1]
        made = LeaseRecord(resource, self.key, self.token, self.mode, kept, until, self.since, sent, None, self.fence)
        made.longest_ms = self.kept_longest_ms()
        return made
