"""Batches on the wire, reply by reply."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import FrameType

import pytest

import redlock_cluster
from redlock_cluster import AsyncLease, ClosedError, Err, LeaseState, Ok
from redlock_cluster.engine import bulk

from .scripted import NIL, OK, ONE, ZERO, Clock, Group, passes, turns
from .scripted import bulk as bulk_string

OTHER = b"f" * 22 + b"@other:1"
TIME = b"*2\r\n:1\r\n:1\r\n"


async def test_a_batch_leaves_in_one_write_for_each_server_and_answers_in_order() -> None:
    async with Group(3) as group:
        names = [f"r{i}" for i in range(5)]
        task = asyncio.create_task(group.supervisor.lock_many(names, 10))
        await turns(4)
        assert [[len(write) for write in wire.writes] for wire in group.now] == [[5]] * 3
        for wire in group.now:
            wire.reply(NIL + bulk_string(OTHER) + NIL + b"-OOM no\r\n" + NIL)
        results = await task
        said = [r.value.resource if r else r.reason for r in results]
        assert said == ["r0", "lock_failure", "r2", "unavailable", "r4"]
        for wire in group.now:  # what was given back: r1 everywhere, r3 where it was not known to be declined
            wire.reply(ZERO * (len(wire.commands) - 5))
        before = [len(wire.commands) for wire in group.now]

        done = asyncio.create_task(group.supervisor.unlock_many(r.value for r in results if r))
        await turns(4)
        for wire, sent in zip(group.now, before, strict=True):
            assert [words[:2] for words in wire.commands[sent:]] == [
                [b"DELIFEQ", b"redlock:r%d" % i] for i in (0, 2, 4)
            ]
            wire.reply(ONE + ZERO + ONE)
        assert await done == [Ok(None), Err("not_held"), Ok(None)]
        assert results[2].value.state is LeaseState.LOST


async def test_windows_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 1)
    monkeypatch.setattr(bulk, "WINDOW", 2)
    async with Group(1) as group:
        task = asyncio.create_task(group.supervisor.lock_many(["a", "b", "c"], 10))
        await turns(4)
        assert [words[1] for words in group.now[0].commands] == [b"redlock:a", b"redlock:b"]
        group.now[0].reply(NIL * 2)
        await turns(4)
        assert [words[1] for words in group.now[0].commands] == [b"redlock:a", b"redlock:b", b"redlock:c"]
        group.now[0].reply(NIL)
        assert [bool(result) for result in await task] == [True] * 3


async def test_leases_of_a_chunk_are_made_while_servers_work_on_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 2)
    monkeypatch.setattr(bulk, "WINDOW", 4)
    async with Group(1) as group:
        (wire,) = group.now
        task = asyncio.create_task(group.supervisor.lock_many([*"abcde"], 10))
        for won in (2, 4):
            await turns(4)
            assert not group.supervisor.leases() if won == 2 else len(group.supervisor.leases()) == 2
            wire.reply(NIL * 2)
        await turns(4)
        assert [lease.resource for lease in group.supervisor.leases()] == ["a", "b", "c", "d"]
        assert not task.done()
        wire.reply(NIL)
        assert [result.value for result in await task] == group.supervisor.leases()


async def test_a_caller_that_comes_too_late_for_its_first_chunk_has_no_lease_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its first leases end before the last ones are granted: what it would have thought that it holds is given back."""
    monkeypatch.setattr(bulk, "CHUNK", 1)
    monkeypatch.setattr(bulk, "WINDOW", 1)
    clock = Clock()
    async with Group(1, clock=clock, server_timeout="1m") as group:
        (wire,) = group.now
        task = asyncio.create_task(group.supervisor.lock_many(["a", "b"], 10))
        for _ in "ab":
            await turns(4)
            clock.now += 5
            wire.reply(NIL)
        first, second = await task
        assert second
        assert first == Err("unavailable")
        assert "too late" in str(first.error)
        await turns(4)
        assert [words[:2] for words in wire.commands[2:]] == [[b"DELIFEQ", b"redlock:a"]]
        assert [lease.resource for lease in group.supervisor.leases()] == ["b"]
        wire.reply(ONE)


async def test_a_batch_passes_nobody_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused what others of this client wait for, and joins no queue."""
    async with Group(1) as group:
        (wire,) = group.now
        waiting = asyncio.create_task(group.supervisor.lock("a", 10, wait=None))
        await turns(4)
        wire.reply(bulk_string(OTHER))
        await turns(4)
        sent = len(wire.commands)
        batch = asyncio.create_task(group.supervisor.lock_many(["a", "b"], 10))
        await turns(4)
        script, plain = wire.commands[sent:]
        assert (script[0], plain[:2]) == (b"EVALSHA", [b"SET", b"redlock:b"])
        assert b"" in script  # the name of who joins
        batch.cancel()
        waiting.cancel()


async def test_long_names_are_fewer_in_a_chunk_and_in_a_window() -> None:
    """Chunks of CHUNK_BYTES; as many are under way as with short names."""
    given: list[object] = [f"{number:02d}" + "x" * 60_000 for number in range(30)]
    async with Group(1) as group:
        (wire,) = group.now
        for call in ("lock_many", "extend_many", "unlock_many"):
            sent = len(wire.commands)
            more = (10,) if call == "lock_many" else ()
            task = asyncio.create_task(getattr(group.supervisor, call)(given, *more))
            await turns(60)
            chunks = [len(write) for write in wire.writes[-10:]]
            assert (chunks, len(wire.commands) - sent) == ([2] * 10, 20)
            reply = {"lock_many": NIL, "extend_many": OK, "unlock_many": ONE}[call]
            wire.reply(reply * 2)
            await turns(8)
            assert len(wire.commands) - sent == 22
            wire.reply(reply * 20)
            await turns(60)
            assert len(wire.commands) - sent == 30
            wire.reply(reply * 8)
            results = await task
            assert all(results)
            given = [result.value for result in results]


@pytest.mark.parametrize(
    ("sizes", "chunks"),
    [
        ([], []),
        ([1] * 401, [200, 200, 1]),
        ([1 << 17], [1]),
        ([1 << 16] * 5, [2, 2, 1]),
        ([1 << 18] * 3, [1, 1, 1]),
        ([1, 1 << 17, 1, 1], [1, 1, 2]),
    ],
)
def test_chunks_have_so_many_operations_or_bytes_at_most(sizes: list[int], chunks: list[int]) -> None:
    found = [part.stop - part.start for part in bulk._chunks([b"x" * size for size in sizes])]
    assert found == chunks
    assert len(found) <= 10 * bulk.windows(len(sizes), sum(sizes))


async def test_a_cancelled_batch_gives_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 1)
    monkeypatch.setattr(bulk, "WINDOW", 2)
    async with Group(3) as group:
        task = asyncio.create_task(group.supervisor.lock_many(["a", "b", "c", "d"], 10))
        await turns(4)
        for wire in group.now:
            wire.reply(NIL * 2)
        await turns(4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await turns(4)
        for wire in group.now:
            tokens = [(words[1], words[2]) for words in wire.commands if words[0] == b"SET"]
            assert len(tokens) == 4
            assert sorted((words[1], words[2]) for words in wire.commands if words[0] == b"DELIFEQ") == sorted(tokens)


async def test_duplicates_are_refused_before_anything_is_sent() -> None:
    async with Group(1) as group:
        for twice in (["a", "b", "a"], ["a", b"a"]):
            with pytest.raises(ValueError, match="twice"):
                await group.supervisor.lock_many(twice, 10)
        task = asyncio.create_task(group.supervisor.lock("a", 10, wait=0))
        await turns()
        group.now[0].reply(NIL)
        lease = (await task).value
        for call in (group.supervisor.unlock_many, group.supervisor.extend_many):
            with pytest.raises(ValueError, match="twice"):
                await call([lease, lease])
        assert len(group.now[0].commands) == 1


async def test_a_batch_of_nothing_is_nothing() -> None:
    async with Group(1) as group:
        assert await group.supervisor.lock_many([], 10) == []
        assert await group.supervisor.extend_many([]) == []
        assert await group.supervisor.unlock_many([]) == []


async def test_extensions_keep_each_leases_own_ttl_or_take_the_one_given() -> None:
    async with Group(1) as group:
        task = asyncio.create_task(group.supervisor.lock_many(["a", "b"], 10))
        await turns(4)
        group.now[0].reply(NIL * 2)
        leases = [result.value for result in await task]
        first = asyncio.create_task(group.supervisor.extend_many(leases[:1], 20))
        await turns(4)
        group.now[0].reply(OK)
        assert await first == [Ok(leases[0])]
        both = asyncio.create_task(group.supervisor.extend_many(leases))
        await turns(4)
        assert [words[-1] for words in group.now[0].commands[-2:]] == [b"20000", b"10000"]
        group.now[0].reply(OK + NIL)
        assert await both == [Ok(leases[0]), Err("not_held")]


async def test_what_is_no_lease_of_this_supervisor_is_refused() -> None:
    async with Group(1) as group, Group(1) as other:
        task = asyncio.create_task(other.supervisor.lock("a", 10, wait=0))
        await turns()
        other.now[0].reply(NIL)
        lease = (await task).value
        with pytest.raises(ValueError, match="a supervisor of other servers"):
            await group.supervisor.unlock_many([lease])
        with pytest.raises(TypeError, match="str"):
            await group.supervisor.unlock_many([lease.token])  # type: ignore[list-item]
        assert lease.valid


async def held(group: Group, *resources: str) -> list[AsyncLease]:
    task = asyncio.create_task(group.supervisor.lock_many(resources, 10))
    await turns(4)
    for wire in group.now:
        wire.reply(NIL * len(resources))
    return [result.value for result in await task if result]


async def test_extensions_of_one_lease_follow_each_other_in_and_out_of_a_batch() -> None:
    async with Group(1) as group:
        one, two = await held(group, "a", "b")
        (wire,) = group.now
        first = asyncio.create_task(two.extend(20))
        await turns()
        batch = asyncio.create_task(group.supervisor.extend_many([one, two], 30))
        await turns()
        second = asyncio.create_task(one.extend(1))
        await turns()
        assert [words[1::5] for words in wire.commands[2:]] == [[b"redlock:b", b"20000"], [b"redlock:a", b"30000"]]
        wire.reply(OK)
        await first
        await turns(4)
        assert [words[1::5] for words in wire.commands[4:]] == [[b"redlock:b", b"30000"]]  # two, once more
        wire.reply(OK)
        await turns(4)
        assert [words[1::5] for words in wire.commands[5:]] == [[b"redlock:a", b"1000"]]  # and one
        wire.reply(OK * 2)
        await second
        assert all(await batch)
        assert one.remaining < 1
        assert two.remaining > 25


async def test_a_batch_of_releases_goes_out_whole_when_the_supervisor_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 1)
    monkeypatch.setattr(bulk, "WINDOW", 1)
    async with Group(1) as group:
        leases = await held_one_by_one(group, "abcdef")
        (wire,) = group.now
        releasing = asyncio.create_task(group.supervisor.unlock_many(leases))
        await turns(4)
        closing = asyncio.create_task(group.supervisor.close())
        await turns(4)
        assert [words[0] for words in wire.commands[6:]] == [b"DELIFEQ", b"TIME"]
        wire.reply(ONE + TIME)
        await turns(4)
        assert [words[0] for words in wire.commands[6:]].count(b"DELIFEQ") == 6  # none waits for the one before it
        answered = 8
        while not closing.done():
            asked, answered = wire.commands[answered:], len(wire.commands)
            wire.reply(b"".join(ONE if words[0] == b"DELIFEQ" else TIME for words in asked))
            await passes(0.001)
        assert await releasing == [Ok(None)] * 6


async def held_one_by_one(group: Group, names: str) -> list[AsyncLease]:
    task = asyncio.create_task(group.supervisor.lock_many([*names], 10))
    for _ in names:
        await turns(4)
        group.now[0].reply(NIL)
    return [result.value for result in await task if result]


async def test_a_batch_of_attempts_ends_and_gives_back_when_the_supervisor_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 1)
    monkeypatch.setattr(bulk, "WINDOW", 1)
    async with Group(1) as group:
        (wire,) = group.now
        task = asyncio.create_task(group.supervisor.lock_many(["a", "b", "c"], 10))
        await turns(4)
        closing = asyncio.create_task(group.supervisor.close())
        await turns(4)
        wire.reply(NIL + TIME)
        with pytest.raises(ClosedError):
            await task
        await turns(4)
        assert [words[0] for words in wire.commands] == [b"SET", b"TIME", b"DELIFEQ", b"TIME"]
        wire.reply(ONE + TIME)
        await closing


async def test_a_cancelled_batch_of_extensions_begins_no_more() -> None:
    async with Group(1) as group:
        (lease,) = await held(group, "a")
        (wire,) = group.now
        first = asyncio.create_task(lease.extend(20))
        await turns()
        batch = asyncio.create_task(group.supervisor.extend_many([lease], 3600))
        await turns()
        batch.cancel()
        await turns()
        wire.reply(OK)
        await first
        await turns()
        assert [words[-1] for words in wire.commands[1:]] == [b"20000"]
        assert lease.ttl == 20


class Calls:
    """Counts calls of the package's functions while it is entered; a compiled one's are not seen."""

    def __init__(self) -> None:
        self.number = 0
        self._root = str(Path(redlock_cluster.__file__).parent)

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        self.number += event == "call" and frame.f_code.co_filename.startswith(self._root)

    def __enter__(self) -> Calls:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


async def test_a_lock_in_a_batch_takes_far_fewer_calls_than_one_alone() -> None:
    names = [f"r{number}" for number in range(100)]
    async with Group(1) as group:
        redlock, (wire,) = group.supervisor, group.now

        async def answered(call: asyncio.Future[list[Ok[AsyncLease]]], reply: bytes) -> list[AsyncLease]:
            await turns(4)
            wire.reply(reply * len(names))
            return [result.value for result in await call]

        with Calls() as alone:
            leases = await answered(asyncio.gather(*[redlock.lock(name, 10) for name in names]), NIL)
            releases = [redlock.unlock(name, lease) for name, lease in zip(names, leases, strict=True)]
            await answered(asyncio.gather(*releases), ONE)  # type: ignore[arg-type]
        with Calls() as together:
            leases = await answered(asyncio.ensure_future(redlock.lock_many(names, 10)), NIL)  # type: ignore[arg-type]
            await answered(asyncio.ensure_future(redlock.unlock_many(leases)), ONE)  # type: ignore[arg-type]
    assert together.number < 0.6 * alone.number
