"""What may be copied and pickled, and what there is only once."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest

import redlock_cluster
from redlock_cluster import (
    RETRY,
    AsyncDefaultSupervisor,
    AsyncRedlock,
    AsyncSupervisor,
    ClosedError,
    ClusterStatus,
    Contended,
    DefaultSupervisor,
    Err,
    ForcedRelease,
    GroupStatus,
    Holding,
    LeaseLost,
    LeaseState,
    ListedLock,
    LockNotAcquired,
    LockOnServer,
    LockSnapshot,
    LossReason,
    NotHeld,
    Ok,
    OptionsError,
    PermitsDiffer,
    QuorumUnavailable,
    Redlock,
    RedlockError,
    ServerState,
    ServerStatus,
    ServerVote,
    StaleFence,
    Status,
    Supervisor,
    TooManyWaiting,
    Vote,
    WaitCancelled,
    WaitingClient,
    WouldDeadlock,
)
from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.token import Token
from redlock_cluster.engine.leases import LiveLeases
from redlock_cluster.handles.election import AsyncTerm, Term
from redlock_cluster.handles.lease import AsyncLease, Lease
from redlock_cluster.handles.many import AsyncLeaseGroup, LeaseGroup

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
WAYS: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    *(lambda thing, number=number: pickle.loads(pickle.dumps(thing, number)) for number in PROTOCOLS),
]
OPTIONS = {"servers": [{"host": "127.0.0.1", "port": 1}]}

VOTES = (ServerVote("a:1", Vote.FOR), ServerVote("b:1", Vote.ABSENT, "gone"), ServerVote("c:1", None))
SERVER = ServerStatus(*(field.name for field in fields(ServerStatus)))  # type: ignore[arg-type]
KINDS = (
    LockNotAcquired,
    Contended,
    TooManyWaiting,
    WouldDeadlock,
    WaitCancelled,
    QuorumUnavailable,
    NotHeld,
    PermitsDiffer,
)
SNAPSHOT = LockSnapshot(
    "r",
    "g",
    Holding.HELD,
    "o",
    (LockOnServer("a:1", "", "exclusive", "o", "c", 1.5, (WaitingClient("d", True, 0.5),)),),
)
LOCK = ListedLock("r", "g", 3, None)
FORCED = ForcedRelease("r", "g", True, "o", VOTES)
QUORUM = [kind("why", "r", "g", VOTES, 0.25) for kind in KINDS]
ERRORS = [
    *QUORUM,
    RedlockError("why"),
    ClosedError("why"),
    OptionsError([("a.b", "wrong"), ("", "worse")], "file.yaml"),
    LeaseLost("why", "r", "g", VOTES, 0.25, LossReason.EXPIRED),
    StaleFence("r", 1, 2),
]
for error in ERRORS:
    error.add_note("beside it")


def told(error: BaseException) -> tuple[object, ...]:
    return type(error), str(error), vars(error)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_are_copied_whole(way: Callable[[Any], Any], error: RedlockError) -> None:
    assert told(way(error)) == told(error)
    refusal = way(Err("unavailable", error=error))
    assert refusal == Err("unavailable")
    assert told(refusal.error) == told(error)


@pytest.mark.parametrize("way", WAYS)
def test_results_votes_and_snapshots_are_copied_whole(way: Callable[[Any], Any]) -> None:
    status = Status((ClusterStatus("default", (GroupStatus("g", 1, (SERVER,), True, 2, 0.5),)),))
    for thing in (Ok(None), Ok[int](3), Err("not_held"), VOTES, status, SNAPSHOT, LOCK, FORCED):
        copied = way(thing)
        assert (copied, repr(copied)) == (thing, repr(thing))


@pytest.mark.parametrize("way", WAYS)
def test_names_are_copied_as_themselves(way: Callable[[Any], Any]) -> None:
    for one in (RETRY, Vote.FOR, LossReason.GONE, LeaseState.HELD, ServerState.UP, Redlock, AsyncRedlock):
        assert way(one) is one


def test_every_error_is_among_these() -> None:
    kinds = {getattr(redlock_cluster, name) for name in redlock_cluster.__all__}
    errors = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, RedlockError)}
    assert {type(error) for error in ERRORS} == errors


class Engine:
    """As far as a lease looks at it."""

    forked = False
    abandoned = 0

    def __init__(self) -> None:
        self.leases = LiveLeases()

    def clock(self) -> float:
        return 0.0


def unique() -> Iterator[tuple[object, str]]:
    record = LeaseRecord("r", b"k", Token(b"t"), EXCLUSIVE, 1000, 1.0, 0.0, 1, None)
    engine: Any = Engine()
    supervisor, on_loop = Supervisor(OPTIONS), AsyncSupervisor(OPTIONS)
    for lease in (Lease(supervisor, engine, record), AsyncLease(supervisor, engine, record)):
        yield lease, r"pass lease\.token"
        yield lease.lost, "it belongs to its lease"
    for maker in (supervisor, on_loop, DefaultSupervisor(), AsyncDefaultSupervisor()):
        yield maker, "make one in each process"
    for maker in (supervisor, on_loop):
        yield maker.mutex("r", 10), "make one for each use"
        yield maker.mutex_many(["r"], 10), "make one for each use"
        yield maker.election("r"), "make one for each candidate"
    for group in (
        LeaseGroup(supervisor, engine, [Lease(supervisor, engine, record)]),
        AsyncLeaseGroup(on_loop, engine, [AsyncLease(on_loop, engine, record)]),
    ):
        yield group, "pass the tokens of its leases"
    for term in (Term(Lease(supervisor, engine, record)), AsyncTerm(AsyncLease(on_loop, engine, record))):
        yield term, "a term belongs to its process"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("thing", "instead"), [*unique()], ids=lambda thing: type(thing).__name__)
def test_what_there_is_once_is_not_copied(way: Callable[[Any], Any], thing: object, instead: str) -> None:
    with pytest.raises(TypeError, match=f"{type(thing).__name__} can't be copied or pickled; {instead}"):
        way(thing)
    if way is not copy.copy:
        with pytest.raises(TypeError, match=instead):
            way(Ok(thing))


def test_a_refused_copy_of_a_mutex_leaves_its_lease_alone() -> None:
    """The copy would think that it was left without its `with`, and give the lock back."""
    supervisor, engine = Supervisor(OPTIONS), Engine()
    let_go: list[object] = []
    supervisor.let_go = let_go.append  # type: ignore[method-assign]
    record = LeaseRecord("r", b"k", Token(b"t"), EXCLUSIVE, 1000, 1.0, 0.0, 1, None)
    mutex = supervisor.mutex("r", 10)
    lease = Lease(supervisor, engine, record)  # type: ignore[arg-type]
    mutex.lease, mutex._inside = lease, True
    for way in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            way(mutex)
    assert let_go == []
    del mutex
    assert let_go == [lease]
