"""Releases and extensions on the wire, and what stays pending for servers that were away."""

from __future__ import annotations

import asyncio
import gc

import pytest

from redlock_cluster import AsyncLease, Err, LeaseLost, LeaseState, NotHeld, Ok, QuorumUnavailable
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.lua import EXTEND

from .scripted import NIL, OK, ONE, REDIS_6, REDIS_8_4, VALKEY_9, ZERO, Clock, Entropy, Group, bulk, turns
from .test_acquire import KEY, release, set_command, token

OUT_OF_MEMORY = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"


async def held(group: Group, granted: bytes = NIL) -> AsyncLease:
    """A lease that every server granted."""
    task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
    await turns()
    for wire in group.now:
        wire.reply(granted)
    return (await task).value


def extension(number: int, ttl_ms: int) -> list[bytes]:
    return [b"SET", KEY, token(number), b"IFEQ", token(number), b"PX", b"%d" % ttl_ms]


async def test_a_quorum_of_deletions_is_released() -> None:
    async with Group(3) as group:
        lease = await held(group)
        task = asyncio.create_task(group.supervisor.unlock("r", lease))
        await turns()
        group.now[0].reply(ONE)
        assert not task.done()
        group.now[1].reply(ONE)
        assert await task == Ok(None)
        assert lease.state is LeaseState.RELEASED
        assert not lease.valid


async def test_a_quorum_without_the_token_is_not_held() -> None:
    async with Group(3) as group:
        lease = await held(group)
        task = asyncio.create_task(group.supervisor.unlock("r", lease))
        await turns()
        group.now[0].reply(ZERO)
        group.now[1].reply(b"-WRONGTYPE Operation against a key\r\n")
        lost = await task
        assert lost == Err("not_held")
        assert isinstance(lost.error, LeaseLost)


async def test_a_zero_after_a_lost_reply_is_not_taken_for_a_lost_lease() -> None:
    async with Group(3) as group:
        lease = await held(group)
        task = asyncio.create_task(group.supervisor.unlock("r", lease))
        await turns()
        for wire in group.now:
            wire.break_off()
        assert await task == Err("unavailable")
        wires = [await group.reconnected(i, 2) for i in range(3)]
        again = asyncio.create_task(group.supervisor.unlock("r", lease))
        await turns()
        for wire in wires:
            wire.reply(b":1\r\n")  # CLIENT KILL
            wire.reply(ZERO)  # the release that was pending: done before, or just now
            wire.reply(ZERO)
        unknown = await again
        assert unknown == Err("unavailable")
        assert isinstance(unknown.error, QuorumUnavailable)


async def test_a_second_release_counts_what_the_first_deleted() -> None:
    async with Group(3) as group:
        lease = await held(group)
        first = asyncio.create_task(group.supervisor.unlock("r", lease))
        await turns()
        group.now[0].reply(ONE)
        group.now[1].break_off()
        group.now[2].break_off()
        assert await first == Err("unavailable")
        wire = await group.reconnected(1, 2)
        again = asyncio.create_task(group.supervisor.unlock("r", lease))
        await turns()
        assert wire.commands[0] == [b"CLIENT", b"KILL", b"ID", b"20"]
        assert wire.commands[1:] == [release(1)] * 2
        wire.reply(b":1\r\n")
        wire.reply(ZERO)
        wire.reply(ONE)
        assert await again == Ok(None)
        assert group.now[0].commands == [set_command(1), release(1)]


async def test_releasing_again_after_a_release_is_not_held() -> None:
    async with Group(1) as group:
        lease = await held(group)
        task = asyncio.create_task(lease.release())
        await turns()
        group.now[0].reply(ONE)
        await task
        with pytest.raises(NotHeld):
            await lease.release()
        assert group.now[0].commands == [set_command(1), release(1)]


async def test_a_cancelled_release_has_been_sent_and_is_not_repeated() -> None:
    async with Group(3) as group:
        lease = await held(group)
        task = asyncio.create_task(lease.release())
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [wire.commands[-1] for wire in group.now] == [release(1)] * 3
        for wire in group.now:
            wire.reply(ONE)
        assert lease.state is LeaseState.RELEASED


async def test_a_server_that_is_away_at_the_release_is_told_when_it_returns() -> None:
    async with Group(3) as group:
        lease = await held(group)
        group.refusing = {2}
        group.now[2].break_off()
        task = asyncio.create_task(group.supervisor.unlock("r", lease))
        await turns()
        for wire in group.now[:2]:
            wire.reply(ONE)
        assert await task == Ok(None)
        assert group.supervisor.status().clusters[0].groups[0].servers[2].pending_releases == 1
        group.refusing = set()
        wire = await group.reconnected(2, 2)
        assert wire.commands == [[b"CLIENT", b"KILL", b"ID", b"30"], release(1)]
        wire.reply(b":0\r\n")
        wire.reply(ONE)
        assert group.supervisor.status().clusters[0].groups[0].servers[2].pending_releases == 0


async def test_a_restarted_server_gets_no_client_kill_for_an_id_of_its_predecessor() -> None:
    async with Group(3) as group:
        lease = await held(group)
        group.run_ids[2] = b"another run"
        group.now[2].break_off()
        task = asyncio.create_task(group.supervisor.unlock("r", lease))
        await turns()
        for wire in group.now[:2]:
            wire.reply(ONE)
        await task
        wire = await group.reconnected(2, 2)
        assert wire.commands == [release(1)]


async def test_a_set_in_flight_on_a_broken_connection_is_killed_and_released() -> None:
    async with Group(3) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        group.now[2].break_off()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        wire = await group.reconnected(2, 2)
        assert wire.commands == [[b"CLIENT", b"KILL", b"ID", b"30"], release(1)]


async def test_a_held_lease_is_not_released_by_a_reconnection() -> None:
    async with Group(3) as group:
        lease = await held(group)
        group.now[2].break_off()
        wire = await group.reconnected(2, 2)
        await turns(5)
        assert wire.commands == [[b"CLIENT", b"KILL", b"ID", b"30"]]
        assert lease.valid


async def test_an_extension_is_believed_from_its_start_and_only_by_a_quorum() -> None:
    clock = Clock()
    async with Group(3, clock=clock) as group:
        lease = await held(group)
        clock.now += 5
        task = asyncio.create_task(lease.extend(20))
        await turns()
        assert [wire.commands[-1] for wire in group.now] == [extension(1, 20_000)] * 3
        clock.now += 1
        group.now[0].reply(OK)
        assert lease.remaining == pytest.approx(9.898 - 6)
        group.now[1].reply(OK)
        await task
        assert lease.remaining == pytest.approx(20 - 0.2 - 0.002 - 1)
        assert lease.ttl == 20.0


async def test_a_shorter_ttl_whose_replies_are_lost_is_believed() -> None:
    clock = Clock()
    async with Group(3, clock=clock) as group:
        lease = await held(group)
        task = asyncio.create_task(lease.extend(1))
        await turns()
        for wire in group.now:
            wire.break_off()
        with pytest.raises(QuorumUnavailable):
            await task
        assert lease.state is LeaseState.UNKNOWN
        assert lease.remaining == pytest.approx(1 - 0.01 - 0.002)


async def test_an_extension_without_the_token_on_a_quorum_loses_and_a_release_gives_back() -> None:
    async with Group(3) as group:
        lease = await held(group)
        task = asyncio.create_task(lease.extend())
        await turns()
        group.now[0].reply(NIL)
        group.now[1].reply(NIL)
        with pytest.raises(LeaseLost):
            await task
        assert lease.state is LeaseState.LOST
        with pytest.raises(LeaseLost):
            await lease.release()
        await turns()
        *asked_why, given_back = zip(*(wire.commands[2:] for wire in group.now), strict=True)
        assert given_back == (release(1),) * 3
        assert [words[0][0] for words in asked_why] == [b"ZSCORE", b"GET"]


async def test_extensions_of_one_lease_never_overlap() -> None:
    async with Group(3) as group:
        lease = await held(group)
        tasks = [asyncio.create_task(lease.extend(20 + i)) for i in range(3)]
        for i in range(3):
            await turns(6)
            sent = [extension(1, 20_000 + 1000 * n) for n in range(i + 1)]
            assert [wire.commands[1:] for wire in group.now] == [sent] * 3
            for wire in group.now:
                wire.reply(OK)
        await asyncio.gather(*tasks)
        assert lease.ttl == 22.0


async def test_a_cancelled_extension_leaves_the_next_one_its_turn() -> None:
    async with Group(3) as group:
        lease = await held(group)
        first, second = (asyncio.create_task(lease.extend(20 + i)) for i in range(2))
        await turns()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert len(group.now[0].commands) == 2
        for wire in group.now:
            wire.reply(OK)
        await turns(5)
        for wire in group.now:
            wire.reply(OK)
        await second
        assert lease.ttl == 21.0


async def test_a_release_during_an_extension_wins() -> None:
    async with Group(3) as group:
        lease = await held(group)
        extending = asyncio.create_task(lease.extend(20))
        await turns()
        releasing = asyncio.create_task(lease.release())
        await turns()
        assert [wire.commands[1:] for wire in group.now] == [[extension(1, 20_000), release(1)]] * 3
        for wire in group.now:
            wire.reply(OK)
            wire.reply(ONE)
        await releasing
        with pytest.raises(NotHeld):
            await extending
        assert lease.state is LeaseState.RELEASED
        assert lease.remaining == 0.0


async def test_a_refused_release_is_tried_again_at_the_next_health_check() -> None:
    async with Group(1, health_check_interval="20ms") as group:
        lease = await held(group)
        task = asyncio.create_task(group.supervisor.unlock("r", lease))
        await turns()
        group.now[0].reply(b"-BUSY Redis is busy running a script\r\n")
        assert await task == Err("unavailable")
        assert group.now[0].commands.count(release(1)) == 1
        await group.when(lambda: group.now[0].commands.count(release(1)) == 2)


async def test_a_late_noscript_does_not_undo_a_later_extension() -> None:
    async with Group(1, probes=REDIS_6, server_timeout="20ms") as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        group.now[0].reply(OK)
        lease = (await task).value
        with pytest.raises(QuorumUnavailable):
            await lease.extend(1)
        later = asyncio.create_task(lease.extend(60))
        await turns()
        group.now[0].reply(b"-NOSCRIPT No matching script. Please use EVAL.\r\n")
        group.now[0].reply(ONE)
        await later
        await turns()
        assert [words[0] for words in group.now[0].commands] == [b"SET", b"EVALSHA", b"EVALSHA"]


def extension_in_full(number: int, ttl_ms: int) -> list[bytes]:
    return [b"EVAL", EXTEND.source, b"1", KEY, token(number), b"%d" % ttl_ms]


@pytest.mark.parametrize("probes", [VALKEY_9, REDIS_8_4], ids=["valkey", "redis"])
async def test_a_full_server_extends_by_script(probes: tuple[bytes, ...]) -> None:
    async with Group(3, probes) as group:
        lease = await held(group)
        task = asyncio.create_task(lease.extend(60))
        await turns()
        group.now[0].reply(OUT_OF_MEMORY)
        group.now[1].reply(OUT_OF_MEMORY)
        await turns()
        assert [wire.commands[1:] for wire in group.now] == [
            *[[extension(1, 60_000), extension_in_full(1, 60_000)]] * 2,
            [extension(1, 60_000)],
        ]
        for wire in group.now[:2]:
            wire.reply(ONE)
        await task
        assert lease.remaining > 59
        group.now[2].reply(OUT_OF_MEMORY)  # the quorum is there
        await turns()
        assert len(group.now[2].commands) == 2


async def test_a_server_that_refuses_the_script_too_has_not_extended() -> None:
    async with Group(1) as group:
        lease = await held(group)
        task = asyncio.create_task(lease.extend(60))
        await turns()
        group.now[0].reply(OUT_OF_MEMORY)
        await turns()
        group.now[0].reply(OUT_OF_MEMORY)
        with pytest.raises(QuorumUnavailable, match="OOM"):
            await task
        assert len(group.now[0].commands) == 3


async def test_the_script_that_a_full_server_was_sent_counts_until_the_deadline() -> None:
    async with Group(1, server_timeout="20ms") as group:
        lease = await held(group)
        task = asyncio.create_task(lease.extend(60))
        await turns()
        group.now[0].reply(OUT_OF_MEMORY)
        with pytest.raises(QuorumUnavailable, match="no answer in time"):
            await task
        assert lease.state is LeaseState.UNKNOWN


async def test_a_batch_of_extensions_is_extended_by_full_servers() -> None:
    async with Group(1) as group:
        leases = []
        for name in "ab":
            task = asyncio.create_task(group.supervisor.lock(name, 10, wait=0))
            await turns()
            group.now[0].reply(NIL)
            leases.append((await task).value)
        batch = asyncio.create_task(group.supervisor.extend_many(leases, 60))
        await turns(4)
        group.now[0].reply(OUT_OF_MEMORY + OK)
        await turns()
        assert [words[0] for words in group.now[0].commands] == [b"SET"] * 4 + [b"EVAL"]
        group.now[0].reply(ONE)
        assert await batch == [Ok(lease) for lease in leases]


async def test_an_acquisition_is_not_sent_again_for_want_of_memory() -> None:
    async with Group(1) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        group.now[0].reply(OUT_OF_MEMORY)
        assert await task == Err("unavailable")
        await turns()
        assert group.now[0].commands == [set_command(1)]


async def test_a_predecessor_is_killed_by_every_successor_until_one_is_answered() -> None:
    async with Group(3) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        group.now[2].break_off()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        second = await group.reconnected(2, 2)
        second.break_off()
        third = await group.reconnected(2, 3)
        kills = [[b"CLIENT", b"KILL", b"ID", number] for number in (b"30", b"31")]
        assert third.commands == [*kills, release(1)]
        third.reply(b":1\r\n:0\r\n" + ONE)
        third.break_off()
        fourth = await group.reconnected(2, 4)
        assert fourth.commands == [[b"CLIENT", b"KILL", b"ID", b"32"]]


async def test_a_release_repeated_after_the_pending_one_succeeded_is_released() -> None:
    async with Group(3) as group:
        lease = await held(group)
        group.refusing = {0, 1, 2}
        for wire in group.now:
            wire.break_off()
        assert await group.supervisor.unlock("r", lease) == Err("unavailable")
        group.refusing = set()
        for index in range(3):
            wire = await group.reconnected(index, 2)
            wire.reply(b":1\r\n" + ONE)
        assert await group.supervisor.unlock("r", lease) == Ok(None)


async def test_a_token_that_is_released_while_a_server_is_away_stays_pending() -> None:
    async with Group(3) as group:
        group.refusing = {2}
        group.now[2].break_off()
        task = asyncio.create_task(group.supervisor.unlock("r", token(7).decode()))
        await turns()
        for wire in group.now[:2]:
            assert wire.commands[-1][0] == b"EVALSHA"
            wire.reply(ONE)
        assert await task == Ok(None)
        group.refusing = set()
        wire = await group.reconnected(2, 2)
        assert wire.commands[-1] == release(7)


@pytest.mark.parametrize("refusal", [b"-BUSY a script runs\r\n", b"-OOM no\r\n", b"-ERR odd\r\n"], ids=lambda r: r[1:4])
async def test_a_token_whose_release_a_server_refused_stays_pending(refusal: bytes) -> None:
    async with Group(3, health_check_interval="20ms") as group:
        task = asyncio.create_task(group.supervisor.unlock("r", token(7).decode()))
        await turns()
        for wire, reply in zip(group.now, (ONE, ONE, refusal), strict=True):
            wire.reply(reply)
        assert await task == Ok(None)
        wire = group.now[2]
        await group.when(lambda: release(7) in wire.commands)


async def test_a_server_that_declined_the_set_is_not_asked_to_release() -> None:
    async with Group(3) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        group.now[0].reply(b"-READONLY You can't write against a read only replica.\r\n")
        for wire in group.now[1:]:
            wire.reply(NIL)
        lease = (await task).value
        done = asyncio.create_task(lease.release())
        await turns()
        assert [len(wire.commands) for wire in group.now] == [1, 2, 2]
        for wire in group.now[1:]:
            wire.reply(ONE)
        await done


async def test_whether_it_is_locked_is_not_denied_when_an_absent_server_may_hold_it() -> None:
    async with Group(3) as group:
        group.now[2].break_off()
        task = asyncio.create_task(group.supervisor.is_locked("r"))
        await turns()
        group.now[0].reply(bulk(b"f" * 22 + b"@other:1"))
        group.now[1].reply(NIL)
        with pytest.raises(QuorumUnavailable):
            await task


async def test_any_number_of_tasks_may_extend_one_lease() -> None:
    async with Group(1) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10))
        await turns()
        (wire,) = group.now
        wire.reply(NIL)
        lease = (await task).value
        tasks = [asyncio.create_task(lease.extend(10 + number)) for number in range(600)]
        answered = 1
        while not all(task.done() for task in tasks):
            await turns(1)
            sent = len(wire.commands)  # the reply to one extension has the next one sent at once
            wire.reply(OK * (sent - answered))
            answered = sent
        await asyncio.gather(*tasks)
        assert answered == 601


async def test_a_lock_leaves_no_cycle_to_the_garbage_collector() -> None:
    async with Group(1) as group:
        (wire,) = group.now
        gc.collect()
        others = sum(isinstance(thing, LeaseRecord) for thing in gc.get_objects())  # of another test's model server
        gc.disable()
        try:
            for _ in range(200):
                lease = await held(group)
                for call, reply in ((lease.extend, OK), (lease.release, ONE)):
                    task = asyncio.create_task(call())
                    await turns()
                    wire.reply(reply)
                    await task
            # The rounds that wait for their deadlines to be looked at are some 64 and hold their leases.
            assert sum(isinstance(thing, LeaseRecord) for thing in gc.get_objects()) - others < 150
        finally:
            gc.enable()


async def test_a_released_lease_that_another_supervisor_extends_was_released() -> None:
    entropy = Entropy()
    async with Group(3, entropy=entropy) as mine, Group(3, entropy=entropy) as other:
        lease = await held(mine)
        task = asyncio.create_task(mine.supervisor.unlock("r", lease))
        await turns()
        for wire in mine.now:
            wire.reply(ONE)
        assert await task
        refused = await other.supervisor.extend("r", lease, 10)
        assert refused == Err("not_held")
        assert isinstance(refused.error, NotHeld)
