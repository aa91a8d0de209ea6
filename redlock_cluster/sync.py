"""The synchronous face: the engine, through the portal. Safe from many threads; decides nothing about locks itself."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NoReturn, ParamSpec, Self, TypeVar, overload

from redlock_cluster.core.kinds import Mode, mode_of
from redlock_cluster.core.lease_record import LeaseRecord, LossReason
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.resource import Resource
from redlock_cluster.core.retry import RETRY, Wait
from redlock_cluster.core.snapshot import ForcedRelease, ListedLock, LockSnapshot
from redlock_cluster.core.ticket import Ticket
from redlock_cluster.core.timing import Seconds
from redlock_cluster.engine import bulk
from redlock_cluster.engine.acquire_all import acquire_all
from redlock_cluster.engine.deployments import Source
from redlock_cluster.engine.engine import INHERITED, Engine, require_choice
from redlock_cluster.engine.force import force_release
from redlock_cluster.engine.listing import Listing
from redlock_cluster.engine.operation import Operation
from redlock_cluster.engine.quarantine import end_quarantine
from redlock_cluster.engine.snapshot import snapshot
from redlock_cluster.engine.status import Status
from redlock_cluster.errors import ClosedError, LockNotAcquired, NotHeld, QuorumUnavailable, RedlockError
from redlock_cluster.handles import decorator
from redlock_cluster.handles.decorator import NO_DEFAULT
from redlock_cluster.handles.election import Candidacy, Election, Term
from redlock_cluster.handles.lease import Holding, Lease, abandon, abandon_result, detach, inherited, known, records
from redlock_cluster.handles.many import LeaseGroup, MutexMany, listed
from redlock_cluster.handles.mutex import Mutex
from redlock_cluster.handles.rwlock import ReadWriteLock
from redlock_cluster.handles.semaphore import Semaphore
from redlock_cluster.handles.unique import Unique
from redlock_cluster.handles.upkeep import OnLost, Upkeep, terms_of
from redlock_cluster.options.file import load_options
from redlock_cluster.results import (
    Lost,
    Ok,
    Refused,
    Unavailable,
    extended,
    forced,
    lost,
    refused,
    released,
    value_of,
)
from redlock_cluster.threads.callbacks import call_soon
from redlock_cluster.threads.calls import Call, CoroutineCall, OperationCall
from redlock_cluster.threads.portal import InsidePortal, PortalStuck
from redlock_cluster.threads.process import interrupt
from redlock_cluster.threads.runtime import Binding, Runtime

__all__ = ["Supervisor"]

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D")

_log = logging.getLogger(__name__)

_PLAIN = "a synchronous transaction can't await a coroutine; use AsyncRedlock"


class Supervisor(Unique):
    """Locks over the groups of an options file, for every thread of a process, and for its forks.

    options: path of a YAML file, or a mapping of the same shape. Raises OptionsError with every problem in it.

    Started by `with`, by `start`, or by the first call, also in a forked child. Reconnects lost servers for ever; a
    server that is down is an absent vote, never an exception.
    """

    instead = "make one in each process"

    def __init__(self, options: Source) -> None:
        self._own: Runtime | None = Runtime(load_options(options))
        self._deployment: str | None = None

    @property
    def _runtime(self) -> Runtime:
        if self._own is None:
            raise ClosedError("the supervisor has no options yet")
        return self._own

    def _locks_on(self) -> object:
        """For handles: the options of the deployment."""
        return self._runtime.options_of(self._deployment)

    def _fences(self) -> bool:
        """For handles: whether a lock has a fence if the call does not say."""
        return self._runtime.options_of(self._deployment).fencing

    def _binding(self) -> Binding:
        return self._runtime.bind(self._deployment)

    def start(self) -> Self:
        """Connects; returns when each server has connected or failed once (at most `connect_timeout`).

        When every group has its quorum, the other servers are waited for a moment only, and connect in the background.

        Raises RuntimeError where the process doesn't let threads run.
        """
        try:
            self._runtime.start(self._deployment)
        except PortalStuck as stuck:
            raise RuntimeError(str(stuck)) from None
        return self

    def close(self) -> None:
        """Closes every connection once what was sent is answered. Leases still held stay until their ttl.

        What `deployment` gave closes that deployment alone.
        """
        self._runtime.close(self._deployment)

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self.close)
            self.start()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def deployment(self, name: str) -> Supervisor:
        """The locks of another deployment of the same options. Raises OptionsError when there is none of that name.

        It shares the connections of this supervisor; its `start` and `close` concern that deployment alone.
        """
        other = Supervisor.__new__(Supervisor)
        other._own, other._deployment = self._runtime, self._runtime.routing.require(name)
        return other

    def lock(
        self,
        resource: Resource,
        ttl: Seconds | None = None,
        *,
        wait: Wait = RETRY,
        mode: Mode = "write",
        fenced: bool | None = None,
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[Lease] | None = None,
    ) -> Ok[Lease] | Refused:
        """Acquires a lock on a resource.

        resource: what to lock, str or bytes, 1 byte to 64 KiB
        ttl: seconds until servers forget the lock by themselves; None: as the options say
        wait: RETRY the options' retry policy; 0 one attempt; seconds; None for ever
        mode: "write" to hold it alone, "read" as one of any number of readers. Readers that come let those go first who
            wait to hold it alone
        fenced: whether the lease gets a `fence`, a number by which a store can refuse late writes; None: as the options
            say
        cancel_id: by which `cancel_waiting` can end the wait; many calls may have the same
        auto_extend: whether the lease extends itself until it is released, or nobody refers to it; None: if no ttl is
            given
        max_hold: seconds from the acquisition for which it extends itself at most; None: as the options say
        on_lost: called in a thread of the library's own with the lease and the LossReason when it is lost

        Returns Ok(lease), Err("lock_failure") when somebody else holds it, or Err("unavailable") when too many
        servers did not vote; the last attempt decides which. Err("cancelled") when the wait was ended. Raises
        ValueError or TypeError for misuse, ClosedError.
        """
        if ttl is None or auto_extend is not None or max_hold is not None or on_lost is not None:
            upkeep = Upkeep(ttl, auto_extend, max_hold, on_lost, call_soon)
            return self._lock(resource, upkeep, wait, mode, fenced, cancel_id)
        binding = self._binding()
        call = OperationCall(
            binding.deployments,
            binding.name,
            lambda engine: engine.acquire(resource, ttl, wait, mode_of(mode, fenced, engine.fencing), cancel_id),
            self._locked,
            abandon_result,
        )
        return _through(binding, call, binding.longest(wait), refused)

    def _lock(
        self,
        resource: Resource,
        upkeep: Upkeep[Lease],
        wait: Wait,
        mode: Mode,
        fenced: bool | None,
        cancel_id: str | None,
    ) -> Ok[Lease] | Refused:
        """As `lock`, for a lease that is to be kept."""

        def granted(engine: Engine, acquired: LeaseRecord | LockNotAcquired) -> Ok[Lease] | Refused:
            if isinstance(acquired, LockNotAcquired):
                return refused(acquired)
            return Ok(upkeep.granted(Lease(self, engine, acquired)))

        binding = self._binding()
        call = OperationCall(
            binding.deployments,
            binding.name,
            lambda engine: engine.acquire(
                resource, upkeep.begin(engine), wait, mode_of(mode, fenced, engine.fencing), cancel_id
            ),
            granted,
            abandon_result,
        )
        return _through(binding, call, binding.longest(wait), refused)

    def unlock(self, resource: Resource, lease: Lease | str) -> Ok[None] | Lost:
        """Releases a lock by its lease, or by its token alone.

        Returns Ok(None), Err("not_held") when it is no longer held, or Err("unavailable") when too few servers
        answered to know. Raises ValueError for a lease on another resource.
        """
        over = False
        try:
            outcome = self._release(resource, lease)
            over = True
            return outcome
        except (TypeError, ValueError, ClosedError):
            over = True
            raise
        finally:
            if not over and isinstance(lease, Lease):  # interrupted: it is released all the same
                self.let_go(lease)

    def extend(self, resource: Resource, lease: Lease | str, ttl: Seconds) -> Ok[Lease] | Lost:
        """Gives a lock a new ttl (seconds from now) by its lease, or by its token alone.

        Returns Ok(lease), Err("not_held") when it is no longer held, or Err("unavailable") when too few servers
        answered: the lease then stays valid as long as it was.
        """

        def start(engine: Engine) -> Operation[LeaseRecord | RedlockError]:
            return engine.extend(resource, known(engine, lease), ttl)

        def then(engine: Engine, found: LeaseRecord | RedlockError) -> Ok[Lease] | Lost:
            if isinstance(found, RedlockError):
                return lost(found)
            if isinstance(lease, Lease) and lease._record is found:
                return Ok(lease)
            other = Lease(self, engine, found)
            other.shared()
            engine.own(found, other)
            return Ok(other)

        if inherited(lease):
            return lost(NotHeld(INHERITED))
        binding = self._binding()
        call = OperationCall(binding.deployments, binding.name, start, then)
        return _through(binding, call, binding.longest_release, lost)

    def transaction(
        self,
        resource: Resource,
        ttl: Seconds | None,
        fn: Callable[[], T],
        *,
        wait: Wait = RETRY,
        mode: Mode = "write",
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
    ) -> T | Refused:
        """Runs a function under a lock, and unlocks whatever it does; arguments as for `lock`.

        Returns what it returns, or the Err of `lock` without having called it. What it raises passes through. A lease
        that was lost meanwhile is logged as a warning. Raises TypeError for a coroutine function, before locking.
        """
        if inspect.iscoroutinefunction(fn):
            raise TypeError(_PLAIN)
        guard = self.mutex(
            resource,
            ttl,
            wait=wait,
            mode=mode,
            cancel_id=cancel_id,
            auto_extend=auto_extend,
            max_hold=max_hold,
        )
        try:
            lease = guard.__enter__()
        except LockNotAcquired as refusal:
            return refused(refusal.with_traceback(None))
        try:
            result = fn()
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError(_PLAIN)
            return result
        finally:
            guard._leave()
            self._end_transaction(resource, lease)
            guard.lease = None

    def mutex(
        self,
        resource: Resource,
        ttl: Seconds | None = None,
        *,
        wait: Wait = RETRY,
        mode: Mode = "write",
        fenced: bool | None = None,
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[Lease] | None = None,
        reentrant: bool = False,
    ) -> Mutex:
        """A handle for `with`; arguments as for `lock`.

        reentrant: inside a `with` of the same task, or else thread, for the same lock, it shares the lease of that,
            which is extended to this one's ttl if less than two thirds of that are left; the other arguments are not
            used. Otherwise it is refused there, with WouldDeadlock
        """
        terms = terms_of(ttl, auto_extend, max_hold, on_lost, call_soon)
        return Mutex(self, resource, terms, wait, cancel_id, reentrant, mode, fenced)

    def semaphore(
        self,
        resource: Resource,
        permits: int = 5,
        ttl: Seconds | None = None,
        *,
        wait: Wait = RETRY,
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[Lease] | None = None,
    ) -> Semaphore:
        """A handle for `with` that acquires one of so many permits; other arguments as for `lock`.

        resource: of its own: a mutex of that name has nothing to do with it
        permits: 1 to 64; all processes must name the same number, else PermitsDiffer is raised
        """
        terms = terms_of(ttl, auto_extend, max_hold, on_lost, call_soon)
        return Semaphore(self, resource, permits, terms, wait, cancel_id)

    def rwlock(self, resource: Resource) -> ReadWriteLock:
        """What many may read or one may write: gives handles for `with`."""
        return ReadWriteLock(self, resource)

    @overload
    def synchronized(
        self,
        resource: str,
        ttl: Seconds | None = None,
        *,
        wait: Wait = RETRY,
        mode: Mode = "write",
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[Lease] | None = None,
        reentrant: bool = False,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Contended is raised when somebody else keeps the lock."""

    @overload
    def synchronized(
        self,
        resource: str,
        ttl: Seconds | None = None,
        *,
        wait: Wait = RETRY,
        mode: Mode = "write",
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[Lease] | None = None,
        reentrant: bool = False,
        default: D,
    ) -> Callable[[Callable[P, R]], Callable[P, R | D]]:
        """The default is returned then."""

    def synchronized(
        self,
        resource: str,
        ttl: Seconds | None = None,
        *,
        wait: Wait = RETRY,
        mode: Mode = "write",
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[Lease] | None = None,
        reentrant: bool = False,
        default: Any = NO_DEFAULT,
    ) -> Any:
        """Decorates a plain function: each call of it runs under a lock of its own.

        resource: a template as for `str.format`, filled from the arguments of the call: "order:{order.id}"
        default: what a call returns, without having run, when somebody else keeps the lock; left out, Contended is
            raised. Outages, cancelled waits and WouldDeadlock are raised in any case
        reentrant: whether the function may call itself, or others that lock the same, while it holds the lock

        The other arguments are those of `mutex`. Raises TypeError or ValueError, when the function is decorated, for a
        template that does not fit it, for async functions, and for generators.
        """

        def make(named: str) -> Mutex:
            return self.mutex(
                named,
                ttl,
                wait=wait,
                mode=mode,
                cancel_id=cancel_id,
                auto_extend=auto_extend,
                max_hold=max_hold,
                on_lost=on_lost,
                reentrant=reentrant,
            )

        return decorator.synchronized(resource, make, default)

    def mutex_many(
        self,
        resources: Iterable[Resource],
        ttl: Seconds | None = None,
        *,
        wait: Wait = RETRY,
        fenced: bool | None = None,
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[LeaseGroup] | None = None,
    ) -> MutexMany:
        """A handle for `with` that acquires all of these resources or none; other arguments as for `lock`.

        resources: each once, in any groups and in any order: who waits for others never holds what they wait for
        wait: for all of them together
        on_lost: called with the LeaseGroup and the LossReason when the first of them is lost
        """
        terms = terms_of(ttl, auto_extend, max_hold, on_lost, call_soon)
        return MutexMany(self, resources, terms, wait, cancel_id, fenced)

    def election(
        self,
        name: Resource,
        ttl: Seconds | None = None,
        *,
        wait: Wait = None,
        fenced: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: Callable[[Term, LossReason], object] | None = None,
    ) -> Election:
        """An election of one leader; the leader has the lock of that name, which extends itself.

        name: of the election, and of its lock
        ttl: seconds after which another candidate leads when this one dies; None: as the options say
        wait: of a campaign; None for ever
        fenced: whether each term has a `fence`, as for `lock`
        max_hold: seconds for which a term lasts at most; None: as the options say
        on_lost: called in a thread of the library's own with the Term and the LossReason when a term is lost
        """
        return Election(self, name, Candidacy(name, ttl, max_hold, on_lost, Term, call_soon), wait, fenced)

    def adopt(
        self,
        ticket: str,
        *,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[Lease] | None = None,
    ) -> Ok[Lease] | Lost:
        """Takes over a lease that was detached, in this process or in another one. Extends it first.

        ticket: what `detach` gave
        auto_extend: whether it extends itself from now on; None: if it did before
        max_hold, on_lost: as for `lock`, from now on

        Returns Ok(lease), Err("not_held") when its time is over, or Err("unavailable") when too few servers answered:
        it may then be tried again. Raises ValueError for what is no ticket.
        """
        given = Ticket.read(ticket)
        extends = given.extends if auto_extend is None else auto_extend
        upkeep = Upkeep(given.ttl_ms / 1000, extends, max_hold, on_lost, call_soon)

        def adopted(engine: Engine, found: LeaseRecord | RedlockError) -> Ok[Lease] | Lost:
            if isinstance(found, RedlockError):
                return lost(found)
            lease = Lease(self, engine, found)
            lease.shared()
            return Ok(upkeep.granted(lease))

        def leave(result: Ok[Lease] | Lost) -> None:
            """Nobody has received it: the ticket is still good."""
            if isinstance(result, Ok):
                detach(result.value)

        binding = self._binding()
        call = OperationCall(
            binding.deployments,
            binding.name,
            lambda engine: engine.extend(given.resource, given.token, upkeep.begin(engine), given.mode, given.fence),
            adopted,
            leave,
        )
        return _through(binding, call, binding.longest_release, lost)

    def leases(self) -> list[Lease]:
        """The leases that are held with this supervisor in this process, the oldest first. Asks no server."""
        binding = self._binding()
        engine = binding.deployments.engines.get(binding.name)
        held = [] if engine is None else engine.leases.at(engine.clock())
        return [lease for lease in held if isinstance(lease, Lease)]

    def cancel_waiting(self, resource: Resource | None = None, *, cancel_id: str | None = None) -> int:
        """Ends waits of this supervisor's calls, from any thread: Err("cancelled"), in handles WaitCancelled.

        resource: those for this one; None: for any
        cancel_id: those that were begun with this one; None: all

        What their attempts under way may still get is given back. Calls with `wait=0` and batches do not wait.

        Returns how many waits it ended. Raises TypeError when neither is given, QuorumUnavailable when the library's
        thread does not answer.
        """
        require_choice(resource, cancel_id)
        binding = self._binding()

        async def cancel_waiting() -> int:
            engine = binding.deployments.engines.get(binding.name)
            return 0 if engine is None else engine.cancel_waiting(resource, cancel_id)

        return _through(binding, CoroutineCall(cancel_waiting, kept=True), binding.server_timeout, _fail)

    def lock_many(
        self, resources: Iterable[Resource], ttl: Seconds, *, fenced: bool | None = None
    ) -> list[Ok[Lease] | Refused]:
        """Makes one attempt for each resource, all together: the results in the order given.

        fenced: as for `lock`

        Raises ValueError for a resource that occurs twice, before anything is sent; otherwise as `lock`.
        """
        wanted = listed(resources, "lock_many")

        async def lock_many(engine: Engine) -> list[Ok[Lease] | Refused]:
            def locked(outcomes: list[LeaseRecord | LockNotAcquired]) -> list[Ok[Lease] | Refused]:
                return [self._locked(engine, outcome) for outcome in outcomes]

            return await bulk.acquire_many(engine, wanted, ttl, locked, mode_of("write", fenced, engine.fencing))

        def stuck(error: QuorumUnavailable) -> list[Ok[Lease] | Refused]:
            return [refused(error) for _ in wanted]

        return self._call(lock_many, self._patience(wanted), stuck, lambda results: [*map(abandon_result, results)])

    def extend_many(self, leases: Iterable[Lease], ttl: Seconds | None = None) -> list[Ok[Lease] | Lost]:
        """Gives leases a new ttl, all together; left out, each the one it has. As `extend`."""
        held = list(leases)

        async def extend_many(engine: Engine) -> list[Ok[Lease] | Lost]:
            outcomes = await bulk.extend_many(engine, records(engine, held), ttl)
            return [extended(lease, outcome) for lease, outcome in zip(held, outcomes, strict=True)]

        return self._finish_many(held, extend_many)

    def unlock_many(self, leases: Iterable[Lease]) -> list[Ok[None] | Lost]:
        """Releases leases, all together: the results in the order given. As `unlock`."""
        held = list(leases)

        async def unlock_many(engine: Engine) -> list[Ok[None] | Lost]:
            return [released(error) for error in await bulk.release_many(engine, records(engine, held))]

        over = False
        try:
            outcomes = self._finish_many(held, unlock_many, kept=True)
            over = True
            return outcomes
        except InsidePortal:  # as in `_release`
            return [released(None) for _ in held]
        except (TypeError, ValueError, RedlockError):
            over = True
            raise
        finally:
            for lease in () if over else held:  # interrupted: they are released all the same
                if isinstance(lease, Lease):
                    self.let_go(lease)

    def is_locked(self, resource: Resource, mode: Mode = "write") -> bool:
        """Whether anybody holds the resource, on a quorum of servers, readers among them.

        mode: "read": whether anybody holds it alone, so that a reader would be refused

        Raises QuorumUnavailable if too few answer.
        """
        binding = self._binding()
        call = OperationCall(
            binding.deployments, binding.name, lambda engine: engine.inspect(resource, mode_of(mode)), _answer
        )
        return _through(binding, call, binding.server_timeout + binding.starting, _fail)

    def inspect(self, resource: Resource, *, permit: int | None = None) -> LockSnapshot:
        """Who holds a resource and who waits for it, as each server of its group says. Changes nothing.

        permit: which one of the semaphore of that name, from 0 on; None: the lock

        Where too few servers answer, it says so itself. It is a moving picture: the lock may change hands between the
        answers of two servers.
        """
        budget = 2 * self._binding().server_timeout
        return self._call(lambda engine: snapshot(engine, resource, permit), budget, _fail)

    def locks(self, pattern: Resource = "*") -> Iterator[ListedLock]:
        """Goes through the locks of all groups, for `for`.

        pattern: of resources, as `SCAN … MATCH` takes it

        Each is shown once. Those that are held all the time are shown; those that come or go meanwhile may be or not.
        With `key_prefix: ""` every key of the database counts as a lock.

        Raises QuorumUnavailable when too few servers of a group can be gone through, TypeError for a wrong pattern.
        """
        listing = Listing(pattern)
        budget = 4 * self._binding().server_timeout
        while (page := self._call(listing.page, budget, _fail)) is not None:
            yield from page

    def force_release(self, resource: Resource, *, permit: int | None = None) -> Ok[ForcedRelease] | Unavailable:
        """Takes a lock from whoever holds it: for operators. Logged as a warning.

        permit: which one of the semaphore of that name, from 0 on; None: the lock

        Its holder is told that the lease is lost, LossReason.FORCED, and can't take it again; but until it hears that
        it goes on, and excludes nobody. Who waits is told that the lock is free.

        Returns Ok(what was removed), also if nobody held it, or Err("unavailable") when too few servers answered: the
        lock may then be held or not. Call it again.
        """

        async def work(engine: Engine) -> Ok[ForcedRelease] | Unavailable:
            return forced(await force_release(engine, resource, permit))

        budget = 4 * self._binding().server_timeout
        return self._call(work, budget, forced, kept=True)

    def end_quarantine(self) -> tuple[str, ...]:
        """Has servers grant locks that may have forgotten some: for operators who know that nobody holds any.

        That is so when the servers are used for the first time, while one of them can't be reached, and after all
        clients were stopped. Logged as a warning.

        Returns the names of the servers whose grants count from now on and did not before.
        """
        budget = 4 * self._binding().server_timeout
        return self._call(end_quarantine, budget, _fail, kept=True)

    def group_for(self, resource: Resource) -> str:
        """The name of the group that votes on a resource."""
        return self._runtime.routing.ring(self._runtime.named(self._deployment)).group_for(resource)

    def status(self) -> Status:
        """An immutable snapshot: clusters, groups, servers with state, version, latency, errors, reconnects."""
        return self._runtime.enter()[1].status()

    def _end_transaction(self, resource: Resource, lease: Lease) -> None:
        try:
            value_of(self.unlock(resource, lease))
        except RedlockError as error:
            _log.warning("%s", error)

    def _give_away(self, lease: Lease) -> str:
        """For leases: as `Lease.detach`."""
        lease.raise_if_lost()
        binding = self._binding()

        async def give_away() -> str:
            return detach(lease)

        def take_back(ticket: str) -> None:
            """Nobody has received it."""
            lease._engine.release(lease._record.resource, lease._record.token, lease._record.mode)

        return _through(binding, CoroutineCall(give_away, take_back), binding.server_timeout, _fail)

    def _later(self, do: Callable[..., object], *arguments: object) -> None:
        """For leases: have the loop do something soon."""
        self._runtime.later(do, *arguments)

    def let_go(self, held: Holding) -> None:
        """Releases without waiting to hear of it; nothing happens to a lease that is over."""
        self._runtime.later(abandon, held)

    def _interrupt_soon(self) -> None:
        """For handles: have KeyboardInterrupt reach the main thread once more, from another one."""
        self._runtime.later(interrupt)

    def _acquire(
        self,
        resource: Resource,
        terms: Seconds | Upkeep[Lease],
        wait: Wait,
        mode: LockMode,
        cancel_id: str | None,
        receive: Callable[[Lease], None],
    ) -> Lease:
        """For handles: as `lock`, for every kind of lock, but a refusal is raised, and the lease is received in the
        loop's thread.

        terms: the ttl, or how the lease is to be kept
        """
        upkeep = terms if isinstance(terms, Upkeep) else None

        def begin(engine: Engine) -> Operation[LeaseRecord | LockNotAcquired]:
            ttl = terms.begin(engine) if isinstance(terms, Upkeep) else terms
            return engine.acquire(resource, ttl, wait, mode, cancel_id)

        def granted(engine: Engine, outcome: LeaseRecord | LockNotAcquired) -> Lease:
            if isinstance(outcome, LockNotAcquired):
                raise outcome
            lease = Lease(self, engine, outcome)
            if upkeep is not None:
                upkeep.granted(lease)
            receive(lease)
            return lease

        binding = self._binding()
        call = OperationCall(binding.deployments, binding.name, begin, granted, abandon)
        return _through(binding, call, binding.longest(wait), _fail)

    def _acquire_all(
        self,
        resources: Sequence[Resource],
        terms: Seconds | Upkeep[LeaseGroup],
        wait: Wait,
        mode: LockMode,
        cancel_id: str | None,
        receive: Callable[[LeaseGroup], None],
    ) -> LeaseGroup:
        """For handles: all or none. A refusal is raised, and the group is received in the loop's thread."""

        async def acquire(engine: Engine) -> LeaseGroup:
            ttl = terms.begin(engine) if isinstance(terms, Upkeep) else terms
            acquired = await acquire_all(engine, resources, ttl, wait, cancel_id, mode)
            if isinstance(acquired, LockNotAcquired):
                raise acquired
            group = LeaseGroup(self, engine, [Lease(self, engine, record) for record in acquired])
            if isinstance(terms, Upkeep):
                terms.granted(group)
            receive(group)
            return group

        budget = self._binding().longest(wait) + 4 * self._patience(resources)  # attempts before and after, extensions
        return self._call(acquire, budget, _fail, abandon)

    def _locked(self, engine: Engine, outcome: LeaseRecord | LockNotAcquired) -> Ok[Lease] | Refused:
        return refused(outcome) if isinstance(outcome, LockNotAcquired) else Ok(Lease(self, engine, outcome))

    def _release(self, resource: Resource, lease: Lease | str) -> Ok[None] | Lost:
        if inherited(lease):
            return lost(NotHeld(INHERITED))
        binding = self._binding()
        call = OperationCall(
            binding.deployments,
            binding.name,
            lambda engine: engine.release(resource, known(engine, lease)),
            lambda _, error: released(error),
            kept=True,
        )
        try:
            return _through(binding, call, binding.longest_release, lost)
        except InsidePortal:  # in a finalizer, which the collector runs wherever it likes: nobody can wait here
            binding.portal.send(call)
            return released(None)

    def _finish_many(
        self,
        leases: Sequence[Lease],
        work: Callable[[Engine], Coroutine[object, object, list[Ok[T] | Lost]]],
        kept: bool = False,
    ) -> list[Ok[T] | Lost]:
        """For many leases: the call, unless one of them belongs to the process this one was forked from."""

        def all_lost(error: RedlockError) -> list[Ok[T] | Lost]:
            return [lost(error) for _ in leases]

        if any(map(inherited, leases)):
            return all_lost(NotHeld(INHERITED))
        patience = self._patience([lease._record.key for lease in leases if isinstance(lease, Lease)])
        return self._call(work, 2 * patience, all_lost, kept=kept)

    def _patience(self, names: Sequence[object]) -> float:
        """Seconds that a batch may take: a round for each window, and 0.1 ms for each of its parts."""
        size = sum(4 * len(name) for name in names if isinstance(name, (str, bytes)))  # a character has 4 bytes at most
        return self._binding().server_timeout * bulk.windows(len(names), size) + len(names) / 10_000

    def _call(
        self,
        work: Callable[[Engine], Coroutine[object, object, T]],
        budget: float,
        stuck: Callable[[QuorumUnavailable], T],
        undo: Callable[[T], object] | None = None,
        kept: bool = False,
    ) -> T:
        """Run a coroutine on the engine in the portal.

        work: makes the coroutine
        budget: seconds that it may take, besides the start
        stuck: makes the result when the portal's thread does not answer
        undo: takes back a result that the caller does not receive
        kept: it runs to its end even if the caller has gone
        """
        binding = self._binding()

        async def worked() -> T:
            return await work(await binding.deployments.engine(binding.name))

        return _through(binding, CoroutineCall(worked, undo, kept), budget + binding.starting, stuck)


def _through(binding: Binding, call: Call[T], budget: float, stuck: Callable[[QuorumUnavailable], T]) -> T:
    """Make a call through the portal.

    binding: whose portal
    budget: seconds that it may take
    stuck: makes the result when the portal's thread does not answer
    """
    try:
        return binding.portal.call(call, budget)
    except PortalStuck as error:
        return stuck(QuorumUnavailable(str(error)))


def _answer(engine: Engine, locked: bool | QuorumUnavailable) -> bool:
    if isinstance(locked, bool):
        return locked
    raise locked


def _fail(error: RedlockError) -> NoReturn:
    raise error from None
