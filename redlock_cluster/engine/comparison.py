"""What a release and an extension have in common: every server that may hold a token compares it and acts."""

from __future__ import annotations

from abc import abstractmethod

from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.tally import ComparisonTally, Outcome
from redlock_cluster.core.token import Token
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.round import Round
from redlock_cluster.wire.flight import Flight

__all__ = ["Comparison"]


class Comparison(Round[ComparisonTally]):
    """A round of comparisons.

    token, mode: whose lock it is, and which kind
    record: the lease; None for a token of which no more is known

    outcome: how it ended, None until it is decided
    """

    __slots__ = ("mode", "outcome", "record", "token")

    def __init__(
        self, group: Group, key: bytes, token: Token, mode: LockMode, patience: float, record: LeaseRecord | None
    ) -> None:
        Round.__init__(self, group, key, patience)
        self.token, self.mode, self.record = token, mode, record
        self.outcome: Outcome | None = None

    @abstractmethod
    def _finish(self, outcome: Outcome) -> None:
        """The round is decided."""

    def _stay_pending(self, index: int) -> None:
        """A server that should have been asked can't be."""

    def _ask(self, mask: int, done: int) -> None:
        """Send the command, all in this turn of the loop.

        mask: the servers to be asked
        done: those that are known to have done it; the others hold no such token
        """
        pipeline = self.pipeline
        pipeline.open_for(self.patience)
        if mask == pipeline.usable and pipeline.enough and not done:
            pipeline.send(self)
        else:
            self._ask_alone(mask, done)

    def _ask_alone(self, mask: int, done: int) -> None:
        tally = self._begin_alone(ComparisonTally(self.group.size))
        self._wait_alone()
        if mask != tally.everyone:
            tally.start_from(done, tally.everyone & ~(mask | done), None)
        for keeper in self.pipeline.keepers:
            if mask >> keeper.index & 1:
                connection = keeper.connection
                if connection is None or connection.full:
                    self._stay_pending(keeper.index)
                    tally.miss(keeper.index, keeper.absence())
                else:
                    connection.send(self.command(connection.dialect)[0], self)
        tally.weigh()
        self._follow(tally.outcome)
        self.group.flusher.queued()

    def _counted(self, flight: Flight | None) -> ComparisonTally:
        tally = ComparisonTally(self.group.size)
        if flight is not None:
            tally.start_from(flight.passed_by(self.offset), flight.unasked, self.outcome)
        return tally

    def on_quorum(self) -> None:
        """Done, without a tally of its own."""
        self._decide(Outcome.DONE)

    def _miss(self, indices: list[int], why: str) -> None:
        for index in indices:
            self.tally.miss(index, why)
        self._follow(self.tally.outcome)

    def _follow(self, outcome: Outcome | None) -> None:
        """Act on an outcome, if it is one and news."""
        if outcome is not None and not self.decided:
            self._decide(outcome)
            self.notify()

    def _decide(self, outcome: Outcome) -> None:
        self.outcome, self.decided = outcome, True
        self._finish(outcome)

    def abandon(self) -> None:
        """Nobody waits for it any more; it goes on."""
