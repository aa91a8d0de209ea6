"""What the functions of supervisors answer: values, refusals, and what refusals tell."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from redlock_cluster import (
    AsyncLease,
    Contended,
    Err,
    Lease,
    LeaseLost,
    LeaseState,
    LockNotAcquired,
    LossReason,
    NotHeld,
    Ok,
    QuorumUnavailable,
    RedlockError,
    ServerVote,
    Vote,
)

from .adapter import Api, eventually, everywhere
from .conftest import Make
from .servers import ServerGroup

one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)


def told(result: object) -> str:
    match result:
        case Ok(None):
            return "ok"
        case Ok(AsyncLease() | Lease()):
            return "lease"
        case Err("lock_failure"):
            return "refused"
        case Err("not_held" | "unavailable"):
            return "other"
    return "nothing"


async def test_lock_granted_is_ok_with_a_lease(api: Api, resource: str) -> None:
    result = await api.lock(resource, 30)
    assert type(result) is Ok
    assert bool(result) is True
    assert told(result) == "lease"
    lease: Any = result.value
    assert type(lease) is (AsyncLease if api.face == "asyncio" else Lease)
    assert (lease.resource, lease.ttl, lease.valid, lease.state) == (resource, 30.0, True, LeaseState.HELD)
    assert isinstance(lease.ttl, float)


async def test_lease_granted_knows_the_vote_of_each_server(api: Api, servers: ServerGroup, resource: str) -> None:
    lease = await api.held(resource)
    assert tuple(vote.server for vote in lease.votes) == servers.names
    assert {vote.vote for vote in lease.votes} <= {Vote.FOR, None}
    assert len([vote for vote in lease.votes if vote.vote is Vote.FOR]) >= servers.quorum


async def test_lock_refused_is_err_that_compares_by_reason(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    servers.put(key, b"somebody", servers.everyone)
    result: object = await api.lock(resource, 30, wait=0)
    assert type(result) is Err
    assert bool(result) is False
    assert told(result) == "refused"
    assert result == Err("lock_failure")
    assert hash(result) == hash(Err("lock_failure"))
    others: list[object] = [Err("unavailable"), Ok("lock_failure"), "lock_failure", False, None]
    assert all(result != other for other in others)
    assert result.reason == "lock_failure"


async def test_lock_refused_carries_the_vote_of_each_server(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    servers.put(key, b"somebody", servers.everyone)
    error: Any = (await api.refused(resource, 30, wait=0)).error
    assert type(error) is Contended
    assert isinstance(error, LockNotAcquired)
    assert isinstance(error, RedlockError)
    assert error.resource == resource
    assert error.group == await api.group_for(resource)
    assert 0 < error.elapsed < 10
    assert isinstance(error.votes, tuple)
    assert all(isinstance(vote, ServerVote) for vote in error.votes)
    assert tuple(vote.server for vote in error.votes) == servers.names
    assert {vote.vote for vote in error.votes} <= {Vote.AGAINST, None}
    assert len([vote for vote in error.votes if vote.vote is Vote.AGAINST]) >= servers.quorum
    assert all(name in str(error) for name in servers.names)


async def test_unlock_of_a_held_lock_is_ok_with_nothing(api: Api, resource: str) -> None:
    lease = await api.held(resource)
    result = await api.unlock(resource, lease)
    assert result == Ok(None)
    assert told(result) == "ok"


async def test_extend_of_a_held_lock_is_ok_with_the_lease(api: Api, resource: str) -> None:
    lease = await api.held(resource, 10)
    result: Any = await api.extend(resource, lease, 20)
    assert told(result) == "lease"
    assert result.value.token == lease.token
    assert result.value.resource == resource
    assert result.value.ttl == 20.0
    assert 10 < result.value.remaining < 20


async def test_unlock_twice_is_not_held(api: Api, resource: str) -> None:
    lease = await api.held(resource)
    assert await api.unlock(resource, lease)
    result = await api.unlock(resource, lease)
    assert result == Err("not_held")
    assert type(result.error) is NotHeld


async def test_unlock_by_token_twice_is_not_held(api: Api, resource: str) -> None:
    lease = await api.held(resource)
    assert await api.unlock(resource, lease.token)
    assert await api.unlock(resource, lease.token) == Err("not_held")


async def test_extend_after_unlock_is_not_held_and_brings_nothing_back(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    lease = await api.held(resource)
    assert await api.unlock(resource, lease)
    assert await api.extend(resource, lease, 30) == Err("not_held")
    assert await api.extend(resource, lease.token, 30) == Err("not_held")
    assert lease.state is LeaseState.RELEASED
    await eventually(lambda: servers.values(key) == [None] * servers.size)


async def test_methods_of_a_released_lease_raise_not_held(api: Api, resource: str) -> None:
    lease = await api.held(resource)
    await api.run(lease.release)
    for method in (lease.release, lease.extend):
        with pytest.raises(NotHeld):
            await api.run(method)


@one_version
@pytest.mark.parametrize("how", ["released", "expired", "not acquired"])
async def test_error_for_which_no_server_was_asked_names_resource_and_group(
    make: Make, resource: str, how: str
) -> None:
    api = await make(drift_factor=0.99)
    mutex = await api.mutex(resource, 10)
    if how != "not acquired":
        await api.run(mutex.acquire)
        lease = mutex.lease
        if how == "released":
            await api.run(mutex.release)
        await eventually(lambda: not lease.valid)
        with pytest.raises((NotHeld, LeaseLost)) as caught:
            await api.run(lease.extend, 20)
        assert (caught.value.resource, caught.value.group) == (resource, await api.group_for(resource))
    else:
        with pytest.raises(NotHeld) as refused:
            await api.run(mutex.release)
        assert refused.value.resource == resource


async def test_methods_of_a_lost_lease_raise_lease_lost(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    lease = await api.held(resource)
    await eventually(lambda: servers.values(key) == [lease.token.encode()] * servers.size)
    servers.delete(key)
    with pytest.raises(LeaseLost) as caught:
        await api.run(lease.extend)
    assert lease.state is LeaseState.LOST
    assert (caught.value.resource, caught.value.group) == (resource, await api.group_for(resource))
    assert tuple(vote.server for vote in caught.value.votes) == servers.names
    assert caught.value.reason is LossReason.GONE
    assert pickle.loads(pickle.dumps(caught.value)).reason is LossReason.GONE
    with pytest.raises(LeaseLost) as again:
        await api.run(lease.release)
    assert again.value.reason is LossReason.GONE


async def test_release_of_a_lease_that_somebody_deleted_says_gone(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    lease = await api.held(resource)
    await eventually(lambda: servers.values(key) == [lease.token.encode()] * servers.size)
    servers.delete(key)
    with pytest.raises(LeaseLost) as lost:
        await api.run(lease.release)
    assert lost.value.reason is LossReason.GONE


@one_version
async def test_results_are_frozen(api: Api, resource: str) -> None:
    good: Any = await api.lock(resource)
    bad: Any = await api.lock(resource, wait=0)
    for result, name in ((good, "value"), (bad, "reason"), (bad, "error")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, name, None)
    vote = bad.error.votes[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        vote.vote = None


@one_version
@pytest.mark.parametrize("name", ["resource", "token", "ttl", "state", "valid", "remaining", "held_on", "votes"])
async def test_attribute_of_a_lease_cannot_be_written(api: Api, resource: str, name: str) -> None:
    lease = await api.held(resource)
    with pytest.raises(AttributeError):
        setattr(lease, name, None)


@one_version
async def test_quorum_errors_survive_pickling(api: Api, resource: str) -> None:
    await api.held(resource)
    error: Any = (await api.refused(resource, wait=0)).error
    kept = pickle.loads(pickle.dumps(error))
    assert (type(kept), str(kept), kept.votes, kept.elapsed) == (type(error), str(error), error.votes, error.elapsed)


@one_version
async def test_handler_for_locks_not_acquired_gets_refusals_and_outages_but_no_losses(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    mutex = await api.mutex(resource, 30, wait=0)

    async def caught() -> str:
        try:
            async with api.entered(mutex) as lease:
                await everywhere(lambda: servers.values(key), lease.token.encode())
                servers.delete(key)
        except LockNotAcquired:
            return "not acquired"
        except RedlockError:
            return "lost"
        return "nothing"

    assert await caught() == "lost"
    with servers.out_of_memory(servers.everyone):
        assert await caught() == "not acquired"
    await api.held(resource)
    assert await caught() == "not acquired"


@pytest.mark.parametrize(
    "result",
    [Ok[int](3), Ok(None), Err[str]("lock_failure"), Err("unavailable", error=QuorumUnavailable("two of five"))],
)
def test_results_can_be_made_copied_and_pickled_but_not_changed(result: Any) -> None:
    for copied in copy.copy(result), copy.deepcopy(result), pickle.loads(pickle.dumps(result)):
        assert copied == result
        assert (type(copied), hash(copied), repr(copied)) == (type(result), hash(result), repr(result))
    for name in "value", "reason", "error", "other":
        with pytest.raises(AttributeError):
            setattr(result, name, None)
        with pytest.raises(AttributeError):
            delattr(result, name)
