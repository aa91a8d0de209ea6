"""How one of a semaphore's permits is acquired.

1. Choose a permit, and ask every server of the group for that one (`lua/permit.lua`): a server grants it if it is free
   and not all that are free are for those who wait longer there.
2. A server that refuses says which permits are free. If a quorum says so of another one, and the one that was asked for
   is not among them, try that one; each permit once at most.
3. Refused all the same: wait in a line, as for any lock. Whoever releases a permit tells the first of the queue which
   one it is; whoever takes one while others are free has the next one told.

All processes must name the same number of permits. Servers remember it for as long as anybody has or wants one.
"""

from __future__ import annotations

from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.mode import ABSENT, Answer, Command, LockMode
from redlock_cluster.core.permit import PERMITS, Semaphore, permit_key, semaphore_key
from redlock_cluster.core.queue import NOBODY, Member, Position
from redlock_cluster.core.resource import Resource
from redlock_cluster.core.retry import Limit
from redlock_cluster.core.text import quoted
from redlock_cluster.core.timing import Terms
from redlock_cluster.engine.acquire import Acquisition, Attempt, Between, Take
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.line import Line
from redlock_cluster.errors import PermitsDiffer
from redlock_cluster.wire.connection import Connection

__all__ = ["PermitAcquisition", "PermitLine", "PermitTake"]


class PermitTake(Take):
    """An attempt to take one permit.

    semaphore, at: which semaphore, and its key
    number: of the permit, from 0 on
    """

    __slots__ = ("_at", "_free", "_other_sizes", "_semaphore", "number")

    def __init__(
        self, group: Group, semaphore: Semaphore, at: bytes, number: int, ttl_ms: int, patience: float, member: Member
    ) -> None:
        Take.__init__(self, group, permit_key(at, number), PERMITS[number], ttl_ms, patience, member)
        self._semaphore, self._at, self.number = semaphore, at, number
        self._free: dict[int, bytes] = {}  # by server, b"1" for each permit that is free
        self._other_sizes: dict[int, int] = {}  # by server, how many permits it knows

    def _words(self, dialect: Dialect, in_full: bool) -> Command:
        return self._semaphore.take_one(dialect, self._at, self.number, self.token, self.ttl_ms, self._member, in_full)

    def _answer(self, connection: Connection, value: object) -> Answer:
        match value:
            case [_, _, _, _, _, bytes(free)]:
                self._free[connection.index] = free
                return Take._answer(self, connection, value[:5])
            case [bytes(size)] if size.isdigit():
                self._other_sizes[connection.index] = int(size)
                return Answer(ABSENT, why=f"the semaphore has {int(size)} permits there", ran=False)
        return Take._answer(self, connection, value)

    def _others_first(self, position: Position) -> bool:
        """Another permit may be held, and this one free, so that nobody goes first."""
        return position.rank > 0

    @property
    def _waits_for(self) -> tuple[bytes, LockMode]:
        """For any permit."""
        return self._at, self._semaphore

    @property
    def other_size(self) -> int | None:
        """How many permits there are by those servers for which this attempt can't win; None if it could have."""
        sizes = [*self._other_sizes.values()]
        return max(sizes, key=sizes.count) if len(sizes) > self.group.size - self.group.quorum else None

    def another(self, fraction: float) -> int | None:
        """A permit that is free on a quorum, while the one that was asked for is not; None if there is none.

        fraction: random, in [0, 1), for who stands in no queue
        """
        free = [
            number
            for number in range(self._semaphore.permits)
            if sum([each[number : number + 1] == b"1" for each in self._free.values()]) >= self.group.quorum
        ]
        if not free or self.number in free:
            return None
        ranks = sorted([position.rank for position in self.positions.values()])
        rank = ranks[min(len(ranks), self.group.quorum) - 1] if self.joins and ranks else int(fraction * len(free))
        return free[rank] if rank < len(free) else None


class PermitAcquisition(Acquisition):
    """An `Acquisition` of any one permit. Arguments as for that; mode: the `Semaphore`."""

    __slots__ = ("_semaphore", "_tries")

    def __init__(
        self,
        between: Between,
        group: Group,
        resource: Resource,
        key: bytes,
        mode: LockMode,
        terms: Terms,
        limit: Limit,
        cancel_id: str | None,
    ) -> None:
        Acquisition.__init__(self, between, group, resource, semaphore_key(key), mode, terms, limit, cancel_id)
        assert isinstance(mode, Semaphore)
        self._semaphore = mode
        self._tries = 0

    @property
    def _together(self) -> bool:
        return True

    @property
    def held(self) -> str:
        """Why it is refused where others hold the permits."""
        return "all of its permits are held"

    def begin(self) -> Acquisition:
        """Make the first attempt, for any permit; but others who wait longer go first."""
        group = self.group
        if not self._last and (group.line_of(self.key, self.mode) is not None or group.crowds(self.key)):
            self._between.join(self, False, False)
        else:
            self._ask_for_any()
        return self

    def _ask_for_any(self) -> None:
        self._ask_for(int(self._between.fraction() * self._semaphore.permits))

    def _ask_for(self, number: int) -> None:
        self._tries += 1
        patience = self.patience(self.group.clock())
        self._begin_together(PermitTake(self.group, self._semaphore, self.key, number, self.ttl_ms, patience, NOBODY))

    def try_once_more(self) -> None:
        """The waiting ends with attempts of its own, which pass nobody who is known to wait longer."""
        self._last, self._tries = True, 0
        self._ask_for_any()

    def _refused(self, attempt: Attempt, now: float) -> None:
        if isinstance(attempt, PermitTake):
            if attempt.other_size is not None:
                self.differ(attempt)
                return
            another = attempt.another(self._between.fraction())
            if another is not None and self._tries < self._semaphore.permits and now < self.limit.deadline:
                self._ask_for(another)
                return
            self._tries = 0
        Acquisition._refused(self, attempt, now)

    def differ(self, attempt: PermitTake) -> None:
        """An attempt has found that others name another number of permits."""
        context = attempt.context(self._resource)
        numbers = f"has {attempt.other_size} permits, not {self._semaphore.permits}"
        rule = "all must name the same number, until nobody has had or wanted one for a ttl"
        self.fail(PermitsDiffer(f"{quoted(context[0])} {numbers}: {rule}", *context))


class PermitLine(Line):
    """Those of this client who wait for a permit of one semaphore."""

    __slots__ = ("_changes", "_number")

    _number: int
    _changes: int

    @property
    def _always(self) -> bool:
        return True

    def _begin_line(self) -> None:
        self._number = self._changes = 0

    @property
    def _semaphore(self) -> Semaphore:
        assert isinstance(self.mode, Semaphore)
        return self.mode

    def _make(self, first: Acquisition) -> Attempt:
        semaphore, patience = self._semaphore, first.patience(self.group.clock())
        number = self._number % semaphore.permits
        return PermitTake(self.group, semaphore, self.key, number, first.ttl_ms, patience, self._member())

    def _won(self, first: Acquisition, attempt: Attempt, last_for: list[Acquisition]) -> None:
        self._number, self._changes = self._number + 1, 0
        Line._won(self, first, attempt, last_for)

    def _refused(self, attempt: Attempt, now: float) -> None:
        if isinstance(attempt, PermitTake):
            if attempt.other_size is not None:
                self._differ(attempt)
                return
            another = attempt.another(self._pace.fraction())
            if another is not None and self._changes < self._semaphore.permits:
                self._number, self._changes = another, self._changes + 1
                self._try()
                return
        self._changes = 0
        Line._refused(self, attempt, now)

    def _differ(self, attempt: PermitTake) -> None:
        leaving = [*self.waiters]
        self._remove(leaving)
        for each in leaving:
            if isinstance(each, PermitAcquisition):
                each.differ(attempt)

    def told(self, index: int, number: int | None) -> None:
        """As `Line.told`: which permit was released."""
        if number is not None and self._attempt is None:
            self._number = number
        Line.told(self, index, number)

    def _arm(self) -> None:
        """Permits change too often for pushes: their releases are told, and the time when one expires is known."""
