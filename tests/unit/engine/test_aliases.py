"""One token in several engines of a process: what is known to one lease of it is known to all."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from redlock_cluster import AsyncLease, Err, LeaseLost, LeaseState, LossReason, NotHeld, Ok
from redlock_cluster.engine import aliases
from redlock_cluster.wire.forks import Generation

from .scripted import NIL, OK, ONE, ZERO, Entropy, Group, passes, turns
from .test_acquire import set_command
from .test_release_and_extend import held

Pair = tuple[Group, Group]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Two supervisors of one process over the same three servers."""
    entropy = Entropy()
    async with AsyncExitStack() as stack:
        groups = [Group(3, entropy=entropy) for _ in range(2)]
        for group in groups:
            await stack.enter_async_context(group)
        yield groups[0], groups[1]


async def answered(group: Group, call: object, reply: bytes) -> object:
    """What a call gives whose every command gets this reply."""
    task = asyncio.ensure_future(call)  # type: ignore[call-overload]
    await passes(0.001)
    for wire in group.now:
        wire.reply(reply)
    return await task


@pytest.mark.parametrize("by", ["lease", "token"])
async def test_a_lease_released_by_another_engine_is_over_from_the_moment_that_is_asked_for(
    pair: Pair, by: str
) -> None:
    one, two = pair
    lease = await held(one)
    token = lease.token
    task = asyncio.create_task(two.supervisor.unlock("r", lease if by == "lease" else token))
    await turns()
    assert not lease.valid
    for wire in two.now:
        wire.reply(ONE)
    assert await task == Ok(None)
    assert lease.state is LeaseState.RELEASED
    again = await one.supervisor.unlock("r", lease)
    assert isinstance(again.error, NotHeld)
    assert [wire.commands for wire in one.now] == [[set_command(1)]] * 3


async def test_a_lease_released_by_its_token_in_its_own_engine_is_released(pair: Pair) -> None:
    one, _ = pair
    lease = await held(one)
    assert await answered(one, one.supervisor.unlock("r", lease.token), ONE) == Ok(None)
    assert lease.state is LeaseState.RELEASED


async def test_both_leases_on_a_token_follow_its_extensions_and_end_together(pair: Pair) -> None:
    one, two = pair
    lease = await held(one)
    second: AsyncLease = (await answered(two, two.supervisor.extend("r", lease.token, 60), OK)).value  # type: ignore[attr-defined]
    assert lease.remaining == second.remaining > 59
    assert lease.ttl == second.ttl == 60
    await answered(one, lease.extend(5), OK)
    assert lease.remaining == second.remaining < 5
    await answered(two, second.release(), ONE)
    assert (lease.state, second.state) == (LeaseState.RELEASED, LeaseState.RELEASED)


@pytest.mark.parametrize("which", [0, 1])
async def test_two_leases_on_the_token_of_another_process_know_of_each_other(pair: Pair, which: int) -> None:
    one, two = pair
    token = "another process's"
    first: AsyncLease = (await answered(one, one.supervisor.extend("r", token, 10), ONE)).value  # type: ignore[attr-defined]
    second: AsyncLease = (await answered(two, two.supervisor.extend("r", token, 60), OK)).value  # type: ignore[attr-defined]
    assert first.remaining == second.remaining > 59
    await answered(pair[which], (first, second)[which].release(), ONE)
    assert not first.valid
    assert not second.valid


async def test_a_lease_that_another_engine_found_lost_is_lost(pair: Pair) -> None:
    one, two = pair
    lease = await held(one)
    refused = await answered(two, two.supervisor.extend("r", lease.token, 60), NIL)
    assert refused == Err("not_held")
    assert lease.state is LeaseState.LOST
    with pytest.raises(LeaseLost) as lost:
        await lease.extend(10)
    assert lost.value.reason is LossReason.GONE


async def test_a_lease_that_is_detached_is_so_for_all_and_its_adoption_is_another_one(pair: Pair) -> None:
    one, two = pair
    lease = await held(one)
    second: AsyncLease = (await answered(two, two.supervisor.extend("r", lease.token, 60), OK)).value  # type: ignore[attr-defined]
    second._engine.keep(second._record, second, None)
    ticket = lease.detach()
    assert (lease.state, second.state) == (LeaseState.DETACHED, LeaseState.DETACHED)
    assert not second.valid
    adopted: AsyncLease = (await answered(one, one.supervisor.adopt(ticket), ONE)).value  # type: ignore[attr-defined]
    assert lease.token == second.token == adopted.token
    assert adopted.valid
    sent = [len(wire.commands) for wire in two.now]
    await passes(50)
    assert [len(wire.commands) for wire in two.now] == sent
    assert isinstance((await two.supervisor.unlock("r", second)).error, NotHeld)  # type: ignore[union-attr]
    assert (lease.state, second.state) == (LeaseState.DETACHED, LeaseState.DETACHED)
    assert await answered(one, adopted.release(), ONE) is None


async def test_a_detached_lease_whose_token_is_read_later_is_not_its_adoption(pair: Pair) -> None:
    one, two = pair
    lease = await held(one)
    ticket = lease.detach()
    first: AsyncLease = (await answered(one, one.supervisor.adopt(ticket), ONE)).value  # type: ignore[attr-defined]
    assert lease.token == first.token
    second: AsyncLease = (await answered(two, two.supervisor.extend("r", lease.token, 60), OK)).value  # type: ignore[attr-defined]
    assert lease.state is LeaseState.DETACHED
    assert first.remaining == second.remaining > 59


async def test_what_another_release_has_deleted_is_not_taken_for_a_loss(pair: Pair) -> None:
    one, two = pair
    lease = await held(one)
    mine = asyncio.create_task(one.supervisor.unlock("r", lease))
    theirs = asyncio.create_task(two.supervisor.unlock("r", lease.token))
    await turns()
    for wire in two.now:
        wire.reply(ONE)
    for wire in one.now:
        wire.reply(ZERO)
    assert [await mine, await theirs] == [Ok(None)] * 2


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"servers": [{"port": 2000 + i} for i in range(3)]},
        {"servers": [{"port": 1000 + i, "database": 1} for i in range(3)]},
        {"key_prefix": "other:"},
    ],
    ids=["servers", "database", "key"],
)
async def test_what_the_token_is_on_other_servers_or_keys_does_not_matter(elsewhere: dict[str, object]) -> None:
    entropy = Entropy()
    async with Group(3, entropy=entropy) as one, Group(3, entropy=entropy, **elsewhere) as other:
        lease = await held(one)
        assert await answered(other, other.supervisor.unlock("r", lease.token), ZERO) == Err("not_held")
        assert await answered(other, other.supervisor.extend("r", lease.token, 1), ZERO) == Err("not_held")
        assert lease.state is LeaseState.HELD
        assert lease.remaining > 9


@pytest.mark.parametrize("read_in", ["parent", "child"])
async def test_forked_child_does_not_go_by_what_it_inherited(read_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entropy = Entropy()
    async with Group(3, entropy=entropy) as parent:
        lease = await held(parent)
        token = lease.token if read_in == "parent" else ""
        with monkeypatch.context() as forked:
            forked.setattr(Generation, "number", Generation.number + 1)
            aliases._after_fork()
            async with Group(3, entropy=entropy) as child:
                token = token or lease.token
                await passes(11)  # meanwhile the parent may have extended it
                for call in child.supervisor.unlock("r", lease), child.supervisor.extend("r", lease, 10):
                    others = list[int]()
                    asyncio.get_running_loop().call_soon(others.append, 1)
                    assert (await call, others) == (Err("not_held"), [1])
                for batch in child.supervisor.unlock_many([lease]), child.supervisor.extend_many([lease]):
                    with pytest.raises(NotHeld, match="forked"):
                        await batch
                extended = await answered(child, child.supervisor.extend("r", token, 20), ONE)
                assert isinstance(extended, Ok)
                assert extended.value.remaining > 19
                assert await answered(child, child.supervisor.unlock("r", token), ONE) == Ok(None)


async def test_only_a_lease_whose_token_is_known_is_noted_and_only_while_it_lives(pair: Pair) -> None:
    one, two = pair
    known = aliases._Process.known
    gc.collect()
    gc.disable()
    try:
        before = len(known)
        quiet = await held(one)
        assert len(known) == before
        await answered(one, quiet.release(), ONE)
        lease = await held(one)
        for ttl in range(30, 60):
            await answered(two, two.supervisor.extend("r", lease.token, ttl), OK)
        assert lease.ttl == 59
        assert len(known) == before + 1
        assert [len(noted.records) for noted in known.values() if noted.records[0] is lease._record] == [2]
        del lease
        await turns()
        assert len(known) == before
    finally:
        gc.enable()
