"""The synchronous face: the engine, through the portal. Safe from many threads; decides nothing about locks itself."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import ExitStack
from typing import NoReturn, Self, TypeVar

from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.resource import Resource
from redlock_cluster.core.retry import RETRY, Wait
from redlock_cluster.core.timing import Seconds
from redlock_cluster.engine import bulk
from redlock_cluster.engine.deployments import Source
from redlock_cluster.engine.engine import INHERITED, Engine
from redlock_cluster.engine.operation import Operation
from redlock_cluster.engine.status import Status
from redlock_cluster.errors import ClosedError, LockNotAcquired, NotHeld, QuorumUnavailable, RedlockError
from redlock_cluster.handles.lease import Lease, abandon, abandon_result, inherited, known, records
from redlock_cluster.handles.mutex import Mutex
from redlock_cluster.handles.unique import Unique
from redlock_cluster.options.file import load_options
from redlock_cluster.results import Lost, Ok, Refused, extended, lost, refused, released, value_of
from redlock_cluster.threads.calls import Call, CoroutineCall, OperationCall
from redlock_cluster.threads.portal import InsidePortal, PortalStuck
from redlock_cluster.threads.process import interrupt
from redlock_cluster.threads.runtime import Binding, Runtime

__all__ = ["Supervisor"]

T = TypeVar("T")

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

    def lock(self, resource: Resource, ttl: Seconds, *, wait: Wait = RETRY) -> Ok[Lease] | Refused:
        """Acquires an exclusive lock on a resource.

        resource: what to lock, str or bytes, 1 byte to 64 KiB
        ttl: seconds until servers forget the lock by themselves
        wait: RETRY the options' retry policy; 0 one attempt; seconds; None for ever

        Returns Ok(lease), Err("lock_failure") when somebody else holds it, or Err("unavailable") when too many
        servers did not vote; the last attempt decides which. Raises ValueError or TypeError for misuse, ClosedError.
        """
        binding = self._binding()
        call = OperationCall(
            binding.deployments,
            binding.name,
            lambda engine: engine.acquire(resource, ttl, wait),
            self._locked,
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
            return Ok(other)

        if inherited(lease):
            return lost(NotHeld(INHERITED))
        binding = self._binding()
        call = OperationCall(binding.deployments, binding.name, start, then)
        return _through(binding, call, binding.longest_release, lost)

    def transaction(self, resource: Resource, ttl: Seconds, fn: Callable[[], T], *, wait: Wait = RETRY) -> T | Refused:
        """Runs a function under a lock, and unlocks whatever it does.

        Returns what it returns, or the Err of `lock` without having called it. What it raises passes through. A lease
        that ran out meanwhile is logged as a warning. Raises TypeError for a coroutine function, before locking.
        """
        if inspect.iscoroutinefunction(fn):
            raise TypeError(_PLAIN)
        guard = self.mutex(resource, ttl, wait=wait)
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
            self._end_transaction(resource, lease)
            guard.lease = None

    def mutex(self, resource: Resource, ttl: Seconds, *, wait: Wait = RETRY) -> Mutex:
        """A handle for `with`; arguments as for `lock`."""
        return Mutex(self, resource, ttl, wait)

    def lock_many(self, resources: Iterable[Resource], ttl: Seconds) -> list[Ok[Lease] | Refused]:
        """Makes one attempt for each resource, all together: the results in the order given.

        Raises ValueError for a resource that occurs twice, before anything is sent; otherwise as `lock`.
        """
        wanted = list(resources)

        async def lock_many(engine: Engine) -> list[Ok[Lease] | Refused]:
            return [self._locked(engine, outcome) for outcome in await bulk.acquire_many(engine, wanted, ttl)]

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

        try:
            return self._finish_many(held, unlock_many, kept=True)
        except InsidePortal:  # as in `_release`
            for lease in held:
                self.let_go(lease)
            return [released(None) for _ in held]

    def is_locked(self, resource: Resource) -> bool:
        """Whether anybody holds the resource, on a quorum of servers. Raises QuorumUnavailable if too few answer."""
        binding = self._binding()
        call = OperationCall(binding.deployments, binding.name, lambda engine: engine.inspect(resource), _answer)
        return _through(binding, call, binding.server_timeout + binding.starting, _fail)

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

    def let_go(self, lease: Lease) -> None:
        """Releases without waiting to hear of it; nothing happens to a lease that is over."""
        self._runtime.later(abandon, lease)

    def _interrupt_soon(self) -> None:
        """For handles: have KeyboardInterrupt reach the main thread once more, from another one."""
        self._runtime.later(interrupt)

    def _acquire(self, resource: Resource, ttl: Seconds, wait: Wait, receive: Callable[[Lease], None]) -> Lease:
        """For handles: as `lock`, but a refusal is raised, and the lease is received in the loop's thread."""

        def granted(engine: Engine, outcome: LeaseRecord | LockNotAcquired) -> Lease:
            if isinstance(outcome, LockNotAcquired):
                raise outcome
            lease = Lease(self, engine, outcome)
            receive(lease)
            return lease

        binding = self._binding()
        call = OperationCall(
            binding.deployments, binding.name, lambda engine: engine.acquire(resource, ttl, wait), granted, abandon
        )
        return _through(binding, call, binding.longest(wait), _fail)

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
