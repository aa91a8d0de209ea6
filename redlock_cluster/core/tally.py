"""Counting the votes of one round. Source: redis.io, "Distributed Locks with Redis".

An acquisition asks n servers to grant; its votes lead to a verdict as soon as nothing outstanding can change it:

    FOR >= quorum                                        WON
    ABSENT > n - quorum                                  UNAVAILABLE
    one holder named by a quorum                         HELD
    FOR + outstanding < quorum ("hopeless"), and an
      outage is no longer possible                       SPLIT

A departure from stopping at the first moment a win is impossible: what was granted is given back at that moment,
but the verdict waits for the votes that tell contention from an outage (with five servers, two refusals and one
time-out can't win, yet two more time-outs make it an outage, which must not be told as contention).

A comparison (release, extend) asks them to act if they hold the token:

    FOR >= quorum                                        DONE
    AGAINST > n - quorum                                 GONE: a quorum holding the token is impossible
    neither is possible any more                         UNKNOWN
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

from redlock_cluster.core.dialect import ErrorReply, describe, is_number
from redlock_cluster.core.votes import ServerVote, Verdict, Vote, owner_label

__all__ = ["AcquireRound", "Acquisition", "Ballot", "CompareRound", "Comparison", "Outcome", "Tally", "quorum_of"]

_OK = b"OK"
_GONE = "does not hold the token"


def quorum_of(size: int) -> int:
    """How many of a group's servers decide: more than half."""
    return size // 2 + 1


class Ballot(Protocol):
    """What a round knows of its votes."""

    def votes(self, names: tuple[str, ...], /) -> tuple[ServerVote, ...]:
        """Every server's vote, in the group's order."""


class Acquisition(Ballot, Protocol):
    """The same of a round that acquired."""

    @property
    def answered(self) -> int:
        """As in `Tally`."""

    @property
    def declined(self) -> int:
        """As in `AcquireRound`."""


class Comparison(Ballot, Protocol):
    """The same of a release or extension."""

    def detach(self) -> object:
        """Has it count its votes itself, and tell the lease of each."""

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None until it is decided."""


class Tally(ABC):
    """Votes of n servers as bit masks: bit i is the i-th server in the group's order."""

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

    def _refuse(self, index: int, detail: str | bytes | None) -> None:
        self.against |= 1 << index
        self.absent &= ~(1 << index)
        self._note(index, detail)

    def _note(self, index: int, detail: str | bytes | None) -> None:
        self.details = {**(self.details or {}), index: detail}

    def leave_out(self, absent: int, why: Mapping[int, str]) -> bool:
        """Counts servers (a mask) that can't be asked, and why, as ABSENT before all else; true as for `miss`."""
        self.absent, self.details = absent, why
        return self._weigh()

    def miss(self, index: int, why: str) -> bool:
        """Counts a server as ABSENT; true when that brought the round to a turning point."""
        bit = 1 << index
        if (self.granted | self.against | self.absent) & bit:
            return False
        self.absent |= bit
        self._note(index, why)
        return self._weigh()

    @abstractmethod
    def _weigh(self) -> bool:
        """Looks for a verdict; true at a turning point."""

    def votes(self, names: tuple[str, ...]) -> tuple[ServerVote, ...]:
        """Every server's vote, in the group's order."""
        return tuple(self._vote_of(i, name) for i, name in enumerate(names))

    def _vote_of(self, index: int, name: str) -> ServerVote:
        bit = 1 << index
        if self.granted & bit:
            return ServerVote(name, Vote.FOR)
        detail = (self.details or {}).get(index, "")
        if self.against & bit:
            return ServerVote(name, Vote.AGAINST, detail if isinstance(detail, str) else owner_label(detail))
        return ServerVote(name, Vote.ABSENT if self.absent & bit else None, str(detail or ""))


class AcquireRound(Tally):
    """The votes of one attempt to acquire; `verdict` is None until it is decided.

    patient: don't call it split while the outstanding votes, and absent servers, may still name one holder
    declined: mask of the servers whose error proves that they did not run the command
    """

    __slots__ = ("declined", "hopeless", "patient", "verdict")

    def __init__(self, size: int, patient: bool = False) -> None:
        Tally.__init__(self, size)
        self.patient = patient
        self.verdict: Verdict | None = None
        self.hopeless = False
        self.declined = 0

    def grant(self, index: int) -> bool:
        """Counts a server that granted, even after its time-out; true when that decided the round."""
        granted = self.granted = self.granted | 1 << index
        if self.absent:
            self.absent &= ~granted
        if self.verdict is not None:
            return False
        if granted.bit_count() < self.quorum:
            return self.hopeless and self._weigh()
        self.verdict = Verdict.WON
        return True

    def count(self, index: int, reply: object, names_holder: bool) -> bool:
        """Counts a server's reply to SET; true when it made the round hopeless or decided it.

        names_holder: the command was sent with GET, so nil means granted and a value is the holder's token;
        without it OK means granted and nil that somebody unknown holds.
        """
        if (reply is None) if names_holder else (reply == _OK):
            return self.grant(index)
        if type(reply) is bytes if names_holder else reply is None:
            return self._refused(index, reply if type(reply) is bytes else None)
        if isinstance(reply, ErrorReply):
            if reply.wrong_type:
                return self._refused(index, None)
            if reply.refused:
                self.declined |= 1 << index
            return self.miss(index, reply.text)
        return self.miss(index, f"unexpected reply {describe(reply)}")

    def _refused(self, index: int, holder: bytes | None) -> bool:
        self._refuse(index, holder)
        return self._weigh()

    def may_be_held(self) -> bool:
        """Whether one holder has a quorum if the absent servers count for it."""
        return self._most_refusals_for_one_holder() + self.absent.bit_count() >= self.quorum

    def too_late(self) -> None:
        """The quorum came after the validity had run out: told as unavailable."""
        self.verdict = Verdict.UNAVAILABLE

    def _weigh(self) -> bool:
        if self.verdict is not None:
            return False
        outstanding = self.outstanding.bit_count()
        absent = self.absent.bit_count()
        spare = self.size - self.quorum
        agreed = self._most_refusals_for_one_holder()
        if absent > spare:
            self.verdict = Verdict.UNAVAILABLE
        elif agreed >= self.quorum:
            self.verdict = Verdict.HELD
        elif self.granted.bit_count() + outstanding >= self.quorum:
            return False
        elif absent + outstanding <= spare and not (
            self.patient and outstanding and agreed + absent + outstanding >= self.quorum
        ):
            self.verdict = Verdict.SPLIT
        elif self.hopeless:
            return False
        self.hopeless = True
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


class Outcome(enum.Enum):
    """How a comparison ended: a quorum did it, a quorum can't hold the token any more, or neither is known."""

    DONE = "done"
    GONE = "gone"
    UNKNOWN = "unknown"


class CompareRound(Tally):
    """The votes of one release or extension; `outcome` is None until it is decided."""

    __slots__ = ("outcome",)

    def __init__(self, size: int) -> None:
        Tally.__init__(self, size)
        self.outcome: Outcome | None = None

    def settle(self, done: int, gone: int) -> None:
        """Counts what needs no asking, before anything else is counted. done, gone: masks"""
        self.granted, self.against = done, gone
        self.details = {index: _GONE for index in range(self.size) if gone >> index & 1}
        if done.bit_count() >= self.quorum:
            self.outcome = Outcome.DONE
        else:
            self._weigh()

    def grant(self, index: int) -> bool:
        """Counts a server that did it, even after its time-out; true when that decided the round."""
        granted = self.granted = self.granted | 1 << index
        if self.absent:
            self.absent &= ~granted
        if self.outcome is not None:
            return False
        if granted.bit_count() >= self.quorum:
            self.outcome = Outcome.DONE
            return True
        return self._weigh()

    def count(self, index: int, reply: object, doubtful: bool = False) -> bool:
        """Counts a server's reply: 1 or OK did it, 0 or nil holds no such token. True when it decided the round.

        doubtful: an earlier release's reply from this server was lost, so 0 may be our own deletion: ABSENT.
        """
        if reply == _OK or is_number(reply, 1):
            return self.grant(index)
        if reply is None or is_number(reply, 0) or (isinstance(reply, ErrorReply) and reply.wrong_type):
            if doubtful:
                return self.miss(index, "not there, perhaps by an earlier release whose reply was lost")
            self._refuse(index, _GONE)
        else:
            return self.miss(
                index, reply.text if isinstance(reply, ErrorReply) else f"unexpected reply {describe(reply)}"
            )
        return self._weigh()

    def _weigh(self) -> bool:
        if self.outcome is not None:
            return False
        if not self.against and not self.absent:
            return False
        done, gone = self.granted.bit_count(), self.against.bit_count()
        outstanding, spare = self.outstanding.bit_count(), self.size - self.quorum
        if gone > spare:
            self.outcome = Outcome.GONE
        elif done + outstanding < self.quorum and gone + outstanding <= spare:
            self.outcome = Outcome.UNKNOWN
        else:
            return False
        return True
