"""Counting the votes of one round. Source: redis.io, "Distributed Locks with Redis".

An acquisition asks n servers to grant. Its standing follows from the votes as soon as nothing outstanding can change
it (FOR, AGAINST and ABSENT are numbers of votes):

    FOR >= quorum                                        WON
    ABSENT > n - quorum                                  UNAVAILABLE
    one holder named by a quorum                         HELD
    FOR + outstanding < quorum, and an outage is no
      longer possible                                    SPLIT
    FOR + outstanding < quorum                           BEATEN, for now
    else                                                 OPEN

A departure from stopping at the first moment a win is impossible: what was granted is given back at that moment
(BEATEN), but the verdict waits for the votes that make the difference (with five servers, two refusals and
one time-out can't win, yet two more time-outs make it an outage, which must not be called contention).

A comparison (release, extend) asks them to act if they hold the token:

    FOR >= quorum                                        DONE
    AGAINST > n - quorum                                 GONE: a quorum holding the token is impossible
    neither is possible any more                         UNKNOWN
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from redlock_cluster.core.mode import ABSENT, FOR, Answer
from redlock_cluster.core.token import owner_label
from redlock_cluster.core.votes import ServerVote, Vote

__all__ = ["AcquisitionTally", "ComparisonTally", "InspectionTally", "Outcome", "Standing", "Tally", "quorum_of"]

_GONE: Final = "does not hold the token"
_NOT_ASKED: Final = "not asked: too few servers of its group are usable"


def quorum_of(size: int) -> int:
    """How many of a group's servers decide: more than half of `size`."""
    return size // 2 + 1


class Standing(enum.Enum):
    """How an acquisition stands.

    OPEN: it may win. BEATEN: it can't win any more, but why is not known yet. The others are verdicts. WON: a quorum
    granted. HELD: a quorum names one holder. SPLIT: contenders share the servers and none has a quorum. UNAVAILABLE:
    too many servers did not vote, or their quorum came after the validity had run out.
    """

    OPEN = "open"
    BEATEN = "beaten"
    WON = "won"
    HELD = "held"
    SPLIT = "split"
    UNAVAILABLE = "unavailable"


_OPEN: Final = Standing.OPEN
_BEATEN: Final = Standing.BEATEN


class Outcome(enum.Enum):
    """How a comparison ended: a quorum did it, a quorum can't hold the token any more, or neither is known."""

    DONE = "done"
    GONE = "gone"
    UNKNOWN = "unknown"


class Tally:
    """Votes of n servers as bit masks: bit i is the i-th server in the group's order.

    granted, against, absent: servers that voted so
    details: by server, who holds the key or why the vote is ABSENT
    """

    __slots__ = ("absent", "against", "details", "everyone", "granted", "quorum", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.quorum = quorum_of(size)
        self.everyone = (1 << size) - 1
        self.granted = self.against = self.absent = 0
        self.details: Mapping[int, str | bytes | None] | None = None

    @property
    def outstanding(self) -> int:
        """Mask of the servers that have not voted."""
        return self.everyone & ~(self.granted | self.against | self.absent)

    @property
    def answered(self) -> int:
        """Mask of the servers that voted FOR or AGAINST."""
        return self.granted | self.against

    def votes(self, names: tuple[str, ...]) -> tuple[ServerVote, ...]:
        """Every server's vote.

        names: the servers', in the group's order
        """
        return tuple(self._vote_of(i, name) for i, name in enumerate(names))

    def _vote_of(self, index: int, name: str) -> ServerVote:
        bit = 1 << index
        if self.granted & bit:
            return ServerVote(name, Vote.FOR)
        detail = (self.details or {}).get(index, "")
        if self.against & bit:
            return ServerVote(name, Vote.AGAINST, detail if isinstance(detail, str) else owner_label(detail))
        return ServerVote(name, Vote.ABSENT if self.absent & bit else None, str(detail or ""))

    # A vote may come after its time-out had made it ABSENT: then it replaces that. ABSENT never replaces a vote.

    def _grant(self, index: int) -> None:
        self.granted |= 1 << index
        self.absent &= ~self.granted

    def _refuse(self, index: int, detail: str | bytes | None) -> None:
        self.against |= 1 << index
        self.absent &= ~self.against
        self._note(index, detail)

    def _miss(self, index: int, why: str) -> bool:
        """Whether that is news."""
        bit = 1 << index
        if not self.outstanding & bit:
            return False
        self.absent |= bit
        self._note(index, why)
        return True

    def _note(self, index: int, detail: str | bytes | None) -> None:
        self.details = {**(self.details or {}), index: detail}


class AcquisitionTally(Tally):
    """The votes of one attempt to acquire.

    standing: how it stands now
    declined: mask of the servers whose error proves that they did not run the command
    """

    __slots__ = ("declined", "standing")

    def __init__(self, size: int) -> None:
        Tally.__init__(self, size)
        self.standing = _OPEN
        self.declined = 0

    def start_from(self, granted: int, unasked: int, why: Mapping[int, str], won: bool) -> None:
        """Begin with the votes that were counted elsewhere; before all else.

        granted: mask of the servers that voted FOR
        unasked: mask of the servers that can't be asked, so they are ABSENT
        why: for each of those, by index
        won: the grants were found to be a quorum
        """
        self.granted = granted
        if unasked:
            self.absent, self.details = unasked, why
        if won:
            self.standing = Standing.WON

    def ask_nobody(self, unfit: int, why: Mapping[int, str]) -> None:
        """Nothing is sent, because too few servers can be asked and their grants count; before all else.

        unfit: mask of the servers of which that is not so
        why: for each of those, by index
        """
        self.absent = unfit
        self.details = {index: why.get(index, _NOT_ASKED) for index in range(self.size)}
        self.weigh()

    def count(self, index: int, answer: Answer) -> Standing | None:
        """Count a server's answer, even after its time-out. Returns the standing if that has changed it."""
        if answer.vote is FOR:
            self._grant(index)
        elif answer.vote is ABSENT:
            if not answer.ran:
                self.declined |= 1 << index
            return self.miss(index, answer.why)
        else:
            self._refuse(index, answer.holder)
        return self.weigh()

    def miss(self, index: int, why: str) -> Standing | None:
        """Count a server as ABSENT, unless it has voted. Returns the standing if that has changed it."""
        return self.weigh() if self._miss(index, why) else None

    @property
    def has_verdict(self) -> bool:
        """Whether the standing is a verdict."""
        return self.standing is not _OPEN and self.standing is not _BEATEN

    def too_late(self) -> None:
        """The quorum came after the validity had run out: unavailable."""
        self.standing = Standing.UNAVAILABLE

    def may_be_held(self) -> bool:
        """Whether one holder has a quorum if the absent servers count for it."""
        return self._most_refusals_for_one_holder() + self.absent.bit_count() >= self.quorum

    def weigh(self) -> Standing | None:
        """Look for the standing. Returns it if it has changed."""
        if self.has_verdict:
            return None
        standing = self._standing()
        if standing is self.standing:
            return None
        self.standing = standing
        return standing

    def _standing(self) -> Standing:
        granted, absent = self.granted.bit_count(), self.absent.bit_count()
        outstanding, spare = self.outstanding.bit_count(), self.size - self.quorum
        if granted >= self.quorum:
            # Once BEATEN the token was given back everywhere: a quorum that forms all the same came too late.
            return Standing.UNAVAILABLE if self.standing is _BEATEN else Standing.WON
        if absent > spare:
            return Standing.UNAVAILABLE
        agreed = self._most_refusals_for_one_holder()
        if agreed >= self.quorum:
            return Standing.HELD
        if granted + outstanding >= self.quorum:
            return self.standing
        if absent + outstanding <= spare and self._may_call_it_split(agreed, absent, outstanding):
            return Standing.SPLIT
        return _BEATEN

    def _may_call_it_split(self, agreed: int, absent: int, outstanding: int) -> bool:
        """Whether SPLIT may be said before all have voted. Numbers of votes; agreed: refusals that name one holder.

        SPLIT and HELD are both contention; an acquisition need not wait for the difference.
        """
        return True

    def _most_refusals_for_one_holder(self) -> int:
        """Refusals that name no holder (readers among them) count as one holder."""
        if not self.against or self.details is None:
            return 0
        unnamed, named = 0, dict[bytes, int]()
        for index, holder in self.details.items():
            if not self.against >> index & 1:
                continue
            if isinstance(holder, bytes):
                named[holder] = named.get(holder, 0) + 1
            else:
                unnamed += 1
        return max([unnamed, *named.values()])


class InspectionTally(AcquisitionTally):
    """The same of a question who holds a key: FOR means nobody. HELD and SPLIT are different answers here."""

    __slots__ = ()

    def _may_call_it_split(self, agreed: int, absent: int, outstanding: int) -> bool:
        """Not while the outstanding votes, and absent servers, may still name one holder."""
        return not outstanding or agreed + absent + outstanding < self.quorum


class ComparisonTally(Tally):
    """The votes of one release or extension.

    outcome: how it ended, None until it is decided
    """

    __slots__ = ("outcome",)

    def __init__(self, size: int) -> None:
        Tally.__init__(self, size)
        self.outcome: Outcome | None = None

    def start_from(self, done: int, gone: int, outcome: Outcome | None) -> None:
        """Begin with what is known already; before all else.

        done: mask of the servers that did it
        gone: mask of the servers that hold no such token
        outcome: what that was found to come to
        """
        self.granted, self.against = done, gone
        if gone:
            self.details = {index: _GONE for index in range(self.size) if gone >> index & 1}
        self.outcome = outcome

    def count(self, index: int, answer: Answer) -> Outcome | None:
        """Count a server's answer, even after its time-out. Returns the outcome if that decided it."""
        if answer.vote is FOR:
            self._grant(index)
        elif answer.vote is ABSENT:
            return self.miss(index, answer.why)
        else:
            self._refuse(index, _GONE)
        return self.weigh()

    def miss(self, index: int, why: str) -> Outcome | None:
        """Count a server as ABSENT, unless it has voted. Returns the outcome if that decided it."""
        return self.weigh() if self._miss(index, why) else None

    def weigh(self) -> Outcome | None:
        """Look for the outcome. Returns it if that decides it now."""
        if self.outcome is not None:
            return None
        done, gone = self.granted.bit_count(), self.against.bit_count()
        outstanding, spare = self.outstanding.bit_count(), self.size - self.quorum
        if done >= self.quorum:
            self.outcome = Outcome.DONE
        elif gone > spare:
            self.outcome = Outcome.GONE
        elif done + outstanding < self.quorum and gone + outstanding <= spare:
            self.outcome = Outcome.UNKNOWN
        return self.outcome
