"""Acquisitions on the wire, reply by reply."""

from __future__ import annotations

import asyncio

import pytest

from redlock_cluster import ClosedError, Contended, Err, Ok, QuorumUnavailable
from redlock_cluster.lua import TAKE
from redlock_cluster.wire import connection as connection_module
from redlock_cluster.wire.forks import Generation

from .scripted import NIL, OK, ONE, REDIS_6, REDIS_8_4, Clock, Entropy, Group, Wire, bulk, turns

KEY = b"redlock:r"
OTHER = b"f" * 22 + b"@other:1"


def token(number: int) -> bytes:
    return b"%022d@test" % number


def set_command(number: int) -> list[bytes]:
    return [b"SET", KEY, token(number), b"NX", b"GET", b"PX", b"10000"]


def release(number: int) -> list[bytes]:
    return [b"DELIFEQ", KEY, token(number)]


def said_to_lock(wire: Wire) -> list[bytes]:
    """The tokens with which a server was asked for the lock, by command or script."""
    sets = [(words[0], words[2]) for words in wire.commands if words[0] == b"SET"]
    takes = [(words[0], words[7]) for words in wire.commands if words[1] == TAKE.sha]
    return [word for _, word in sets + takes]


def refused_by_queue(rank: int) -> bytes:
    """What take.lua says when somebody holds the lock for another minute."""
    return b"*5\r\n%b:60000\r\n:%d\r\n%b" % (bulk(OTHER), rank, 2 * bulk(b"1700000000000000"))


async def test_set_leaves_for_all_servers_in_one_turn_and_one_write() -> None:
    async with Group(5) as group:
        tasks = [asyncio.create_task(group.supervisor.lock(f"r{i}", 10, wait=0)) for i in range(3)]
        await turns(2)
        assert [len(wire.commands) for wire in group.now] == [3] * 5
        assert [len(wire.writes) for wire in group.now] == [1] * 5
        for wire in group.now:
            wire.reply(NIL * 3)
        assert all(await asyncio.gather(*tasks))


async def test_the_quorum_decides_and_stragglers_still_count_into_held_on() -> None:
    async with Group(5) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        for wire in group.now[:3]:
            assert not task.done()
            wire.reply(NIL)
        lease = (await task).value
        assert len(lease.held_on) == 3
        group.now[3].reply(NIL)
        group.now[4].reply(bulk(OTHER))
        assert lease.held_on == {f"127.0.0.1:{1000 + i}" for i in range(4)}
        assert [str(v.vote.value) for v in lease.votes if v.vote] == ["for"] * 4 + ["against"]


async def test_a_lost_attempt_is_released_where_it_was_granted_before_the_verdict_and_where_it_is_later() -> None:
    async with Group(5) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        group.now[0].reply(NIL)
        group.now[1].reply(bulk(OTHER))
        group.now[2].reply(b"-OOM command not allowed\r\n")
        await turns()
        assert group.commands() == [[set_command(1)]] * 5
        group.now[3].reply(b"-OOM command not allowed\r\n")
        await turns()
        given_back, rest = [set_command(1), release(1)], [set_command(1)]
        sent = [given_back, rest, rest, rest, rest]  # where somebody holds it, or an error proves it, nothing was set
        assert group.commands() == sent
        assert not task.done()  # the last vote tells contention from an outage
        group.now[4].reply(bulk(OTHER))
        refused = await task
        assert refused == Err("lock_failure")
        assert isinstance(refused.error, Contended)
        assert "OOM command not allowed" in str(refused.error)
        assert group.commands() == sent


@pytest.mark.parametrize("late", ["granted", "held", "an error", "no answer in time", "broken"])
async def test_a_vote_that_comes_after_the_loss_is_given_back_unless_it_holds_nothing(late: str) -> None:
    async with Group(5) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        for wire in group.now[:3]:
            wire.reply(bulk(OTHER))
        assert await task == Err("lock_failure")
        assert group.commands() == [[set_command(1)]] * 5
        last = group.now[4]
        if late == "granted":
            last.reply(NIL)
        elif late == "held":
            last.reply(bulk(OTHER))
        elif late == "an error":
            last.reply(b"-ERR no\r\n")
        elif late == "no answer in time":
            await asyncio.sleep(0.3)
        else:
            last.break_off()
            last = await group.reconnected(4, 2)
            assert last.commands[-1] == release(1)
            return
        await turns()
        assert last.commands == [set_command(1)] + ([] if late == "held" else [release(1)])


async def test_a_grant_that_came_after_its_time_out_is_released_once() -> None:
    async with Group(3) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        for wire in group.now[:2]:
            wire.reply(bulk(OTHER))
        assert await task == Err("lock_failure")
        last = group.now[2]
        await asyncio.sleep(0.3)
        last.reply(NIL + ONE)
        await turns()
        assert last.commands == [set_command(1), release(1)]


async def test_servers_that_were_not_asked_say_so() -> None:
    async with Group(3) as group:
        group.refusing = {0, 1}
        for index in (0, 1):
            group.now[index].break_off()
        await turns()
        refused = await group.supervisor.lock("r", 10, wait=0)
        with pytest.raises(QuorumUnavailable) as unknown:
            await group.supervisor.is_locked("r")
        for error in (refused.error, unknown.value):  # type: ignore[union-attr]
            assert str(error).endswith("127.0.0.1:1002 not asked: too few servers of its group are usable]")
        assert group.now[2].commands == []


async def test_every_attempt_has_a_token_of_its_own() -> None:
    async with Group(3, max_retry=2, retry_interval="3s") as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10))
        tokens = []
        for attempt in range(1, 4):
            await group.when(lambda sent=attempt: len(said_to_lock(group.now[0])) == sent)
            tokens += [said_to_lock(wire)[-1] for wire in group.now]
            for wire in group.now:
                wire.reply(bulk(OTHER) if attempt == 1 else refused_by_queue(1))
            await turns()
        assert tokens == [token(number) for number in (1, 1, 1, 2, 2, 2, 3, 3, 3)]
        task.cancel()


async def test_a_quorum_that_comes_after_the_validity_is_unavailable_and_given_back() -> None:
    clock = Clock()
    async with Group(3, clock=clock) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        group.now[0].reply(NIL)
        clock.now += 9.899
        group.now[1].reply(NIL)
        refused = await task
        assert refused == Err("unavailable")
        assert "too late" in str(refused.error)
        assert [wire.commands for wire in group.now] == [[set_command(1), release(1)]] * 3


async def test_validity_counts_from_before_the_first_byte() -> None:
    clock = Clock()
    async with Group(3, clock=clock) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        clock.now += 2
        for wire in group.now:
            wire.reply(NIL)
        lease = (await task).value
        assert lease.remaining == pytest.approx(10 - 0.1 - 0.002 - 2)


async def test_a_lease_that_expires_before_its_receiver_runs_is_given_back() -> None:
    clock = Clock()
    async with Group(3, clock=clock) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        group.now[0].reply(NIL)
        group.now[1].reply(NIL)
        clock.now += 10
        assert await task == Err("unavailable")
        assert [wire.commands[-1] for wire in group.now] == [release(1)] * 3


@pytest.mark.parametrize("granted", range(6))
async def test_a_cancelled_attempt_is_given_back_whatever_was_granted(granted: int) -> None:
    async with Group(5) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        for wire in group.now[:granted]:
            wire.reply(NIL)
        task.cancel()  # in the same turn as the replies, the deciding one among them
        with pytest.raises(asyncio.CancelledError):
            await task
        await turns()
        assert [wire.commands for wire in group.now] == [[set_command(1), release(1)]] * 5
        for wire in group.now[granted:]:
            wire.reply(NIL)
        for wire in group.now:
            wire.reply(ONE)
        await turns()
        assert [len(wire.commands) for wire in group.now] == [2] * 5


async def test_a_call_cancelled_before_it_ran_sends_nothing() -> None:
    async with Group(3) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await turns()
        assert group.commands() == [[], [], []]


async def test_too_few_usable_servers_are_sent_nothing() -> None:
    group = Group(5)
    group.refusing = {0, 2, 4}
    async with group:
        refused = await group.supervisor.lock("r", 10, wait=0)
        assert refused == Err("unavailable")
        assert isinstance(refused.error, QuorumUnavailable)
        assert [v.vote.value for v in refused.error.votes if v.vote] == ["absent"] * 3
        assert [wire.commands for i in (1, 3) for wire in group.wires[i]] == [[], []]
        assert "refused" in str(refused.error)


async def test_an_old_server_is_asked_without_get_and_released_by_script() -> None:
    async with Group(3, probes=REDIS_6) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        assert group.now[0].commands == [[b"SET", KEY, token(1), b"NX", b"PX", b"10000"]]
        for wire in group.now:
            wire.reply(OK)
        lease = (await task).value
        done = asyncio.create_task(group.supervisor.unlock("r", lease))
        await turns()
        assert group.now[0].commands[-1][0] == b"EVALSHA"
        for wire in group.now:
            wire.reply(b"-NOSCRIPT No matching script. Please use EVAL.\r\n")
        await turns()
        assert [wire.commands[-1][0] for wire in group.now] == [b"EVAL"] * 3
        for wire in group.now:
            wire.reply(ONE)
        assert await done == Ok(None)


async def test_delex_releases_on_a_server_that_has_it() -> None:
    async with Group(3, probes=REDIS_8_4) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        for wire in group.now:
            wire.reply(NIL)
        lease = (await task).value
        done = asyncio.create_task(group.supervisor.unlock("r", lease))
        await turns()
        assert [wire.commands[-1] for wire in group.now] == [[b"DELEX", KEY, b"IFEQ", token(1)]] * 3
        group.now[0].reply(ONE)
        group.now[1].reply(b":0\r\n")
        group.now[2].reply(ONE)
        assert await done == Ok(None)


async def test_what_waits_for_one_connection_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_UNANSWERED", 2)
    async with Group(3) as group:
        tasks = [asyncio.create_task(group.supervisor.lock(f"r{i}", 10, wait=0)) for i in range(2)]
        await turns()
        assert await group.supervisor.lock("r2", 10, wait=0) == Err("unavailable")
        assert [len(wire.commands) for wire in group.now] == [2] * 3
        for wire in group.now:
            wire.reply(NIL * 2)
        assert all(await asyncio.gather(*tasks))
        tasks = [asyncio.create_task(group.supervisor.lock("r3", 10, wait=0))]
        await turns()
        for wire in group.now:
            wire.reply(NIL)
        assert await tasks[0]


async def test_a_reply_that_nobody_asked_for_closes_that_connection_only() -> None:
    async with Group(3) as group:
        group.now[0].reply(NIL)
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        for wire in group.now[1:]:
            wire.reply(NIL)
        assert await task
        assert group.wires[0][0].closed


async def test_whether_it_is_locked_is_not_denied_while_those_who_did_not_answer_may_make_a_quorum() -> None:
    async with Group(5) as group:
        task = asyncio.create_task(group.supervisor.is_locked("r"))
        await turns()
        group.refusing.add(2)
        group.now[2].break_off()
        for index, reply in ((0, bulk(b"b" * 32)), (4, bulk(b"a" * 32)), (3, NIL)):
            group.now[index].reply(reply)
        await turns()
        assert not task.done()
        group.now[1].reply(bulk(b"a" * 32))
        with pytest.raises(QuorumUnavailable):
            await task


async def test_a_caller_that_comes_too_late_for_its_lease_goes_on_trying_as_long_as_it_waits() -> None:
    clock = Clock()
    async with Group(3, clock=clock) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=None))
        await turns()
        for wire in group.now:
            wire.reply(NIL)
        clock.now += 20  # the process was suspended before the caller had its turn
        await group.when(lambda: all(len(wire.commands) == 3 for wire in group.now))
        assert not task.done()
        assert group.commands() == [[set_command(1), release(1), set_command(2)]] * 3
        for wire in group.now:
            wire.reply(ONE)
            wire.reply(NIL)
        lease = (await task).value
        assert lease.token == token(2).decode()


async def test_a_caller_that_comes_too_late_for_its_only_attempt_is_told_so() -> None:
    clock = Clock()
    async with Group(3, clock=clock) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        for wire in group.now:
            wire.reply(NIL)
        clock.now += 20
        refused = await task
        assert refused == Err("unavailable")
        assert "the quorum came too late" in str(refused.error)
        assert group.commands() == [[set_command(1), release(1)]] * 3


async def test_an_attempt_that_was_given_back_is_not_sent_in_full() -> None:
    async with Group(5) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        group.now[0].reply(bulk(OTHER))
        group.now[1].reply(bulk(b"another"))
        group.now[2].reply(b"-ERR no\r\n")
        await turns()
        late = group.now[3]
        assert late.commands == [set_command(1)]
        late.reply(b"-NOSCRIPT no\r\n")
        await turns()
        assert late.commands == [set_command(1)]
        group.now[4].reply(bulk(OTHER))
        assert await task == Err("lock_failure")


async def test_what_a_later_attempt_raises_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def texts(entropy: Entropy, count: int) -> list[bytes]:
        entropy.made += 1
        if entropy.made > 1:
            raise OSError("no randomness")
        return [token(1)[:22]]

    monkeypatch.setattr(Entropy, "texts", texts)
    async with Group(3) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=None))
        await turns()
        for wire in group.now:
            wire.reply(bulk(OTHER))
        with pytest.raises(OSError, match="no randomness"):
            await task


async def test_in_a_fork_that_goes_on_with_the_loop_nobody_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Group(3) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=None))
        await turns()
        for reply in (bulk(OTHER), refused_by_queue(1)):
            for wire in group.now:
                wire.reply(reply)
            await turns()
        sent = group.commands()
        assert [len(commands) for commands in sent] == [2] * 3
        with monkeypatch.context() as child:
            child.setattr(Generation, "number", Generation.number + 1)
            with pytest.raises(ClosedError):
                await task
        assert group.commands() == sent
