"""Whether a resource is locked.

Ask every usable server who holds the key; a quorum that names one holder says yes. Contenders that share the servers
hold nothing; servers that do not vote may hide a holder: then nobody knows.
"""

from __future__ import annotations

from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.mode import Command, LockMode
from redlock_cluster.core.resource import Resource, resource_text
from redlock_cluster.core.tally import InspectionTally, Standing
from redlock_cluster.core.text import quoted
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.round import Round
from redlock_cluster.errors import QuorumUnavailable
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.flight import Flight

__all__ = ["Inspection"]


class Inspection(Round[InspectionTally]):
    """An `Operation`: its result is whether somebody holds the resource, or why that can't be said.

    In its tally nobody counts as a grant: WON means that it is free on a quorum.

    resource: as the caller named it
    mode: which kind of lock asks
    """

    __slots__ = ("_mode", "_resource")

    def __init__(self, group: Group, resource: Resource, key: bytes, mode: LockMode, patience: float) -> None:
        Round.__init__(self, group, key, patience)
        self._resource, self._mode = resource, mode

    def begin(self) -> Inspection:
        """Ask every server that is usable; none if they are no quorum."""
        pipeline = self.pipeline
        pipeline.open_for(self.patience)
        if pipeline.enough:
            pipeline.send(self)
        else:
            self._begin_alone(InspectionTally(self.group.size)).ask_nobody(*pipeline.unasked())
            self.decided = True
        return self

    def _words(self, dialect: Dialect, in_full: bool) -> Command:
        return self._mode.inspect(dialect, self.key, in_full)

    def _counted(self, flight: Flight | None) -> InspectionTally:
        tally = InspectionTally(self.group.size)
        if flight is not None:
            tally.start_from(flight.passed_by(self.offset), flight.unasked, flight.why, self.decided)
        return tally

    def on_quorum(self) -> None:
        """It is free on a quorum."""
        self.decided = True

    def _count(self, connection: Connection, value: object) -> None:
        self.tally.count(connection.index, self.believed(connection, self._mode.inspected(value)))
        self._follow()

    def _miss(self, indices: list[int], why: str) -> None:
        for index in indices:
            self.tally.miss(index, why)
        self._follow()

    def _follow(self) -> None:
        if self.tally.has_verdict and not self.decided:
            self.decided = True
            self.notify()

    def abandon(self) -> None:
        """Nobody waits for it any more; it leaves nothing behind."""

    def result(self) -> bool | QuorumUnavailable:
        """Whether somebody holds it."""
        tally = self.tally
        if tally.standing is Standing.HELD:
            return True
        if tally.standing is Standing.WON or (tally.standing is Standing.SPLIT and not tally.may_be_held()):
            return False
        text = f"whether {quoted(resource_text(self._resource))} is locked is unknown"
        return QuorumUnavailable(text, *self.context(self._resource))
