"""Which servers of a group may have forgotten locks, and from when on their grants count again.

A server that lost its keys is asked for everything, and its refusals count; but its grants don't, until every lock
that it may have granted before is over. Otherwise it would give away what somebody holds: of a lock on two of three
servers, one of which forgets, that one and the third are a quorum.

1. Each connection reads which run of the server's process the server remembers (`core.meta`). It is this one: the
   grants count. It is another one, or none: the server is *quarantined* from when this client first saw that. So it is
   after its keys were flushed, after it was a replica, and when its clock jumps forward, which ends locks early.
2. How long: the horizon, the greatest ttl in use, that a quorum of the group's other servers remembers. Two quorums
   share a server, and a server is told of a ttl before it is asked for a lock that lasts so long, on one connection:
   so of those that granted the lock with the one that forgot, one is asked. If fewer can be asked: `max_ttl`.
3. When that is over it is told of this run, with the horizons that a quorum of the others remember by then.
4. A group of which no server remembers anything is a fresh one, and nobody is quarantined. That can be said only if all
   servers are asked on connections that all stood before the first question, and if this client has not seen the group
   before. Else one that was asked first may have granted a lock meanwhile, and another one forgotten it.
5. Who has seen the group before waits, if all have forgotten, for as long as locks may last that it knows of.

`restart_guard: off` leaves all of that out. A server that hides its run, or its memory, is not guarded.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from redlock_cluster.core.meta import ServerMemory, horizon_of
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.server_clock import ClockSample
from redlock_cluster.core.text import cut, utc
from redlock_cluster.engine.engine import Engine
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.memories import Heard, Memories
from redlock_cluster.engine.round import servers_time
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.handshake import Facts
from redlock_cluster.wire.keeper import Keeper
from redlock_cluster.wire.ports import Entropy

__all__ = ["Quarantine", "end_quarantine"]

_log = logging.getLogger(__name__)

_GRAIN: Final = 0.002  # seconds: what `core.timing` takes from every ttl besides drift
_SENT_FOR: Final = 1.9  # horizons for which locks of that ttl are sent before servers are told again; see meta.lua
_KEPT_FOR: Final = 5.0  # seconds between two looks whether a server still writes every lock to disk
_NO_MEMORY: Final = "it has no memory of this group"
_FLUSHED: Final = "its keys were flushed"
_INIT: Final = "redlock-cluster meta init"


@dataclass(slots=True)
class _Member:
    """A server's memory, as this client knows it.

    index: in the group's order
    run_id: the run of its process that was met last, "" before the first one
    causes: how often this client has seen that it may have forgotten
    meta: what it remembered when it was asked last
    unguarded: why nobody can tell whether it has forgotten, "" if that can be told
    durable: no restart takes from it what it has answered, nor did the last one
    kept_at: engine time when it was seen to write every lock to disk
    cause: why it may have forgotten, "" if its grants count
    since: engine time when this client saw that
    until: engine time when its grants count again, None while nobody knows
    sure: a quorum of the others has said until when
    told: whether the log says so
    waits: its memory says nothing of the cause, so that it must be over
    other: it belongs to another group: how
    untold: it was not told for how long locks last: why
    horizons: by what it was told, until when locks that last so long may be asked for there, engine time
    sample: the last look at its clock
    """

    index: int
    run_id: str = ""
    causes: int = 0
    meta: ServerMemory | None = None
    unguarded: str = ""
    durable: bool = False
    kept_at: float = 0.0
    cause: str = ""
    since: float = 0.0
    until: float | None = None
    sure: bool = False
    told: bool = False
    waits: bool = False
    other: str = ""
    untold: str = ""
    horizons: dict[int, float] = field(default_factory=dict)
    sample: ClockSample | None = None

    @property
    def counts(self) -> bool:
        """Whether its grants do."""
        return self.run_id != "" and not self.cause and not self.other and not self.untold

    @property
    def remembers(self) -> bool:
        """Whether it remembers this run."""
        return self.meta is not None and self.meta.run_id == self.run_id

    @property
    def keeps(self) -> bool:
        """Whether it remembers that this run writes every lock to disk."""
        return self.meta is not None and self.meta.run_id == self.run_id and self.meta.durable

    def kept_until(self) -> float:
        """Engine time when it is asked again whether it does; never, if it has not said so."""
        return self.kept_at + _KEPT_FOR if self.keeps else math.inf

    @property
    def doubtful(self) -> bool:
        """Whether it may have forgotten, and is told one day that it counts."""
        return self.cause != "" and not self.other and not self.unguarded


class Quarantine:
    """Sees to one group of an engine.

    group: whose servers
    key: where they remember themselves
    max_ttl: seconds that locks last at most
    entropy: servers' ids come from there
    spawn: begins a task
    """

    def __init__(
        self,
        group: Group,
        key: bytes,
        max_ttl: float,
        entropy: Entropy,
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
    ) -> None:
        self._group, self._spawn = group, spawn
        self._memories = Memories(group, key, entropy, self.kept)
        self._longest_ms = horizon_of(round(max_ttl * 1000))
        self._loop, self._clock, self._drift = asyncio.get_running_loop(), group.clock, group.timing.drift_factor
        self._members = tuple(_Member(index) for index in range(group.size))
        self._seen = False
        self._all_forgot = False  # no server has remembered anything since a quorum of them counted
        self._known_ms = 0  # the greatest horizon that this client knows of
        self._wanted = self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asked_on: list[Connection | None] = []

    # --- what happens to servers -----------------------------------------------------------------------------------

    def met(self, keeper: Keeper, facts: Facts) -> None:
        """A new connection is about to serve."""
        member, was_replica = self._members[keeper.index], keeper.was_replica
        if was_replica:
            for each in self._group.pools[keeper.index].keepers:
                each.was_replica = False
        before, member.run_id = member.run_id, facts.run_id or "unknown"
        if before != member.run_id:
            member.untold, member.horizons = "", {}
        member.meta = facts.meta
        if facts.unguarded:
            self._leave_unguarded(member, facts.unguarded, self._twin_of(member))
            return
        member.unguarded, member.other = "", self._belongs_elsewhere(member.meta)
        member.durable = facts.durable and member.meta is not None and member.meta.durable
        if member.other:
            self._show(member)
            return
        if member.meta is not None:
            self._known_ms = max(self._known_ms, member.meta.longest_ms)
        if was_replica:
            self._quarantine(member, "it was a replica meanwhile", waits=True)
        else:
            self._recognise(member, before)

    def _recognise(self, member: _Member, before: str) -> None:
        """What a new connection has shown of a server; before: the run that was met before."""
        same = before == member.run_id
        if member.remembers:
            if member.waits and member.cause:
                self._show(member)
            else:
                self._trust(member)
        elif same and member.cause:
            # It may have forgotten once more, what it has taken since; or it is being told that it counts.
            member.since, member.until, member.sure = self._clock(), None, False
            self._wanted = True
            self._show(member)
        else:
            anew = "it was started anew" if member.meta or (before and not same) else _NO_MEMORY
            self._quarantine(member, _FLUSHED if same else anew)

    def flushed(self, keeper: Keeper) -> None:
        """All its keys were deleted, or those of another database of the same server."""
        member = self._members[keeper.index]
        if member.run_id and not member.unguarded and not member.other:
            self._quarantine(member, _FLUSHED)

    def check(self) -> None:
        """At each health check: look at the clocks, and ask again where that may tell something new."""
        for member in self._members:
            self._look_at_clock(member)
            if not member.unguarded and member.run_id and not (member.counts and self._tells(member)):
                self._wanted = True
            if member.kept_until() <= self._clock():
                self._wanted = True
        self.look()

    def _tells(self, member: _Member) -> bool:
        """Whether a server says by itself that its keys were flushed."""
        return self._group.pools[member.index].wakes is not False

    def _look_at_clock(self, member: _Member) -> None:
        samples = [keeper.sample for keeper in self._group.pools[member.index].keepers if keeper.sample is not None]
        if not samples:
            return
        newest, before = max(samples, key=lambda sample: sample.taken_at), member.sample
        if before is None or newest.taken_at > before.taken_at:
            member.sample = newest
        if before is None or member.unguarded or not member.run_id:
            return
        ahead = newest.offset - before.offset
        drift = self._drift * max(0.0, newest.taken_at - before.taken_at)
        if ahead > drift + newest.error + before.error + _GRAIN:
            self._quarantine(member, f"its clock jumped forward by {ahead:.3f} s against ours", waits=True)

    def _belongs_elsewhere(self, meta: ServerMemory | None) -> str:
        """Why a server is none of this group's, "" if nothing says so."""
        group = self._group
        if meta is None:
            return ""
        if not meta.readable:
            return f"its memory was written by a newer version of this library (layout {meta.layout[:16]})"
        if meta.foreign_to(group.name, group.size):
            return (
                f"it belongs to the group {cut(meta.group)} of {meta.size} servers, and here to {cut(group.name)} of "
                f"{group.size}: deployments that share servers need a key_prefix each; if that group is no more, "
                f"`{_INIT}` says so"
            )
        return ""

    def _twin_of(self, member: _Member) -> str:
        """Why a server that hides its run is the same as another one, "" if nothing says so."""
        for other in self._members:
            if other is not member and other.meta and member.meta and other.meta.server_id == member.meta.server_id:
                name = cut(self._group.names[other.index])
                return f"it is the same server as {name} (equal ids); a group needs servers of their own"
        return ""

    def _leave_unguarded(self, member: _Member, why: str, other: str = "") -> None:
        if member.unguarded != why:
            name = cut(self._group.names[member.index])
            _log.warning("%s is not guarded against a restart that forgets locks: %s", name, why)
        member.unguarded, member.cause, member.other, member.untold = why, "", other, ""
        member.waits, member.until, member.sure = False, None, False
        self._show(member)

    # --- what follows for them -------------------------------------------------------------------------------------

    def _quarantine(self, member: _Member, cause: str, waits: bool = False) -> None:
        member.cause, member.since, member.until, member.sure = cause, self._clock(), None, False
        member.waits = waits
        member.causes += 1
        self._wanted = True
        self._show(member)

    def _trust(self, member: _Member) -> None:
        if member.told:
            _log.warning("%s counts again (group %s)", cut(self._group.names[member.index]), cut(self._group.name))
        member.cause, member.other, member.waits, member.until = "", "", False, None
        member.sure = member.told = False
        self._seen = True
        self._show(member)

    def _show(self, member: _Member) -> None:
        """Have the connections know it."""
        doubt = member.other
        if not doubt and member.cause:
            until = "" if member.until is None else f"; its grants count from {self._text(member.until)} on"
            operator = "" if member.waits else f"; `{_INIT}` ends that, if nobody holds a lock"
            doubt = f"{member.cause}{until}{operator}"
        elif not doubt and member.untold:
            doubt = f"it was not told for how long locks last ({member.untold})"
        for keeper in self._group.pools[member.index].keepers:
            keeper.trust(doubt)

    def _text(self, at: float) -> str:
        """An engine time for people, by the servers' clocks."""
        time = servers_time(self._group.pipelines[0], at)
        return utc(at) if time is None else utc(time / 1e6)

    # --- asking ----------------------------------------------------------------------------------------------------

    async def settled(self) -> None:
        """Returns when it is not about to find out something."""
        while not self._closed and (self._wanted or self._task is not None):
            task = self._task
            if task is None:
                await asyncio.sleep(0.001)
            else:
                await asyncio.wait([task])

    def changed(self) -> None:
        """Connections came or went, or other things changed about the servers."""
        if any(member.doubtful for member in self._members) and self._memories.connections() != self._asked_on:
            self._wanted = True
        # At the start, not one server after the other.
        if all(any(keeper.attempted.is_set() for keeper in pool.keepers) for pool in self._group.pools):
            self.look()

    def look(self) -> None:
        """Ask servers what they remember, if that is wanted and not under way."""
        if self._wanted and self._task is None and not self._closed:
            self._task = self._spawn(self._ask_until_known(), f"redlock quarantine of {self._group.name}")

    async def _ask_until_known(self) -> None:
        try:
            while self._wanted and not self._closed:
                self._wanted = False
                await self._ask()
        finally:
            self._task = None

    async def _ask(self) -> None:
        heard = await self._heard()
        counted = self._counting()
        self._note_all(heard)
        await asyncio.gather(*(self._see_whether_kept(member, heard) for member in self._members))
        doubtful = [member for member in self._members if member.doubtful]
        if self._wanted:
            return
        if doubtful and self._is_fresh(heard):
            await self._start(doubtful, heard, ())
            return
        if doubtful and (self._counting() > counted or heard.silent):
            self._wanted = True  # somebody else tells servers right now, perhaps these, too; or an answer was late
            return
        for member, horizons in self._plan(doubtful, heard):
            if member.waits and member.remembers:
                self._trust(member)
            else:
                await self._start([member], heard, horizons)
        self._wake_at_the_next_end()

    def _note_all(self, heard: Heard) -> None:
        """Servers have said what they remember. Of one that has forgotten since it was asked that says nothing."""
        for member in self._members:
            if member.causes != heard.causes[member.index]:
                self._wanted = True
            elif member.index in heard.metas:
                self._note(member, heard.metas[member.index])
            if member.untold and member.index in heard.connections:
                self._memories.keep(member.index, heard.connections[member.index], self._known_ms)

    async def _see_whether_kept(self, member: _Member, heard: Heard) -> None:
        """If a server does not write every lock to disk any more, have it remember that: a restart may take some."""
        index, meta = member.index, member.meta
        if meta is None or index not in heard.connections or member.kept_until() > self._clock():
            return
        member.kept_at = self._clock()
        if not await self._memories.forgets(heard, index):
            return
        told, reply = await self._memories.begin(heard, index, member.run_id, meta, ())
        if told is not None and reply == 1 and member.meta is meta:
            self._note(member, told)
        else:
            member.kept_at = 0.0  # again at the next health check

    def _plan(self, doubtful: list[_Member], heard: Heard) -> list[tuple[_Member, tuple[int, ...]]]:
        """Say when servers count again. Returns those of which that is so by now, each with the horizons in use."""
        now, due = self._clock(), list[tuple[_Member, tuple[int, ...]]]()
        self._all_forgot = self._counting() < self._group.quorum and (self._all_forgot or self._none_remembers(heard))
        since = max([member.since for member in doubtful], default=now) if self._all_forgot else None
        for member in doubtful:
            horizons, sure, enough = self._horizons(member, heard)
            if member.until is None or not member.sure:  # what one quorum has said is enough
                member.until = self._end_of(member.since if since is None else since, horizons)
                member.sure = sure
            if not member.told and member.until > now:
                self._tell(member)
            self._show(member)
            if member.until <= now and enough:
                due.append((member, horizons))
        return due

    def _counting(self) -> int:
        """How many servers count."""
        return sum(member.counts for member in self._members)

    async def _heard(self) -> Heard:
        """Ask all servers together."""
        heard = Heard(tuple(member.causes for member in self._members))
        self._asked_on = self._memories.connections()
        await self._memories.ask(heard)
        for member in self._members:
            if member.unguarded:
                heard.silent.discard(member.index)
            if member.index in heard.forbidden:
                self._leave_unguarded(member, heard.forbidden[member.index])
            meta = heard.metas.get(member.index)
            if meta is not None and not member.other:
                self._known_ms = max(self._known_ms, meta.horizon_ms(heard.times[member.index]))
        return heard

    def _note(self, member: _Member, meta: ServerMemory | None) -> None:
        """A server has said what it remembers."""
        if member.unguarded:
            return
        gone = member.meta is not None and meta is None
        if member.keeps and meta and not meta.durable:
            self._keeps_no_more(member)
        member.meta = meta
        member.other = self._belongs_elsewhere(meta)
        if member.other:
            self._show(member)
        elif member.remembers and member.cause and not member.waits:
            self._trust(member)  # somebody else has waited
        elif not member.remembers and (gone or not member.cause):
            self._quarantine(member, _FLUSHED)
        else:
            self._show(member)

    def _keeps_no_more(self, member: _Member) -> None:
        """A server does not write every lock to disk any more: the next handshake says whether it can be used so."""
        member.durable = False
        name, group = cut(self._group.names[member.index]), cut(self._group.name)
        _log.warning("%s does not write every lock to disk any more, so a restart takes some (group %s)", name, group)
        for keeper in self._group.pools[member.index].keepers:
            if keeper.connection is not None:
                keeper.connection.abort("it does not write every lock to disk any more")

    def _is_fresh(self, heard: Heard) -> bool:
        """Whether no server remembers anything, and nobody can have had a lock since the first was asked."""
        return (
            not self._seen
            and all(member.index in heard.metas or member.unguarded for member in self._members)
            and not any(heard.metas.values())
            and all(connection.alive for connection in heard.connections.values())
        )

    def _horizons(self, member: _Member, heard: Heard) -> tuple[tuple[int, ...], bool, bool]:
        """The horizons of the locks that a server may have forgotten.

        And whether so many others have said so that the rest can't know better; whether it counts once they are over.
        """
        group = self._group
        others = [i for i, meta in heard.metas.items() if i != member.index and meta and self._members[i].counts]
        if member.durable and member.meta is not None and not member.waits:
            return (), True, True
        if len(others) >= group.quorum:
            return heard.horizons(others), True, True
        enough = len(heard.metas) >= group.quorum
        if group.size == 1 or self._all_forgot:
            return ((self._known_ms,) if self._known_ms else ()), False, enough
        return (self._longest_ms,), False, enough

    def _none_remembers(self, heard: Heard) -> bool:
        """Whether no server remembers anything."""
        return len(heard.metas) == self._group.size and not any(heard.metas.values())

    def _end_of(self, since: float, horizons: tuple[int, ...]) -> float:
        """Engine time when every lock is over that was granted before `since`."""
        longest = max(horizons, default=0) / 1000
        return since + (longest * (1 + self._drift) + _GRAIN if longest else 0.0)

    def _tell(self, member: _Member) -> None:
        assert member.until is not None
        member.told = True
        _log.warning(
            "%s may have forgotten locks: %s; its grants count from %s on (group %s)",
            cut(self._group.names[member.index]),
            member.cause,
            self._text(member.until),
            cut(self._group.name),
        )

    def _wake_at_the_next_end(self) -> None:
        """Ask again when the next quarantine is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        ends = [member.until for member in self._members if member.until is not None and member.until > now]
        if ends and not self._closed:
            self._timer = self._loop.call_later(min(ends) - now, self._wake)

    def _wake(self) -> None:
        self._timer, self._wanted = None, True
        self.look()

    # --- telling servers -------------------------------------------------------------------------------------------

    async def _start(self, members: list[_Member], heard: Heard, horizons: tuple[int, ...]) -> None:
        """Have servers count from now on: each remembers its run, on a connection on which that was read."""
        await asyncio.gather(*(self._start_one(member, heard, horizons) for member in members))

    async def _start_one(self, member: _Member, heard: Heard, horizons: tuple[int, ...]) -> None:
        index, causes, run_id = member.index, heard.causes[member.index], member.run_id
        if member.causes != causes:
            return
        told, reply = await self._memories.begin(heard, index, run_id, member.meta, horizons)
        if told is None:
            return
        if isinstance(reply, ErrorReply):
            self._refused(member, reply)
        elif reply == 1 and member.causes == causes and member.run_id == run_id:
            member.meta = told
            self._trust(member)
        else:
            self._wanted = True
            if reply == 1:
                self._memories.take_back(heard, index, told)

    def _refused(self, member: _Member, error: ErrorReply) -> None:
        """A server would not be told."""
        if error.forbidden:
            self._leave_unguarded(member, error.text)
        else:
            member.cause = f"it can't be told that it counts ({error.text})"
            self._show(member)

    def longer(self, keepers: tuple[Keeper, ...], ttl_ms: int) -> tuple[int, float]:
        """Locks are about to be asked for that last longer than servers were told on these connections: tell them.

        Returns for how long locks may last from now on, milliseconds, and until when, engine time.
        """
        horizon = horizon_of(ttl_ms)
        self._known_ms = max(self._known_ms, horizon)
        for keeper in keepers:
            connection = keeper.connection
            if connection is not None and not self._members[keeper.index].unguarded:
                self._memories.keep(keeper.index, connection, horizon)
        return horizon, self._clock() + _SENT_FOR * horizon / 1000

    def kept(self, index: int, horizon: int, asked: float, error: ErrorReply | None) -> None:
        """A server was told for how long locks last, or would not be. What was asked behind that is answered later.

        asked: engine time before that
        """
        member = self._members[index]
        if error is None:
            member.horizons[horizon] = asked + _SENT_FOR * horizon / 1000
            member.untold = ""
        elif error.forbidden:
            self._leave_unguarded(member, error.text)
            return
        else:
            member.untold = error.text
        self._show(member)

    def covers(self, index: int, ttl_ms: int) -> bool:
        """Whether a server was told that locks last so long, milliseconds; else they are not asked for there."""
        member, now = self._members[index], self._clock()
        return not member.untold or any(h >= ttl_ms and until > now for h, until in member.horizons.items())

    # --- for operators ---------------------------------------------------------------------------------------------

    async def end(self) -> tuple[str, ...]:
        """Have every server count that can be told so: nobody holds a lock. Returns their names."""
        heard = await self._heard()
        members = [member for member in self._members if member.index in heard.metas and not member.unguarded]
        for member in members:
            member.meta = heard.metas[member.index]
        before = [m for m in members if not m.counts and not m.untold and (m.meta is None or m.meta.readable)]
        await self._start(before, heard, heard.horizons(heard.metas))
        told = tuple(self._group.names[member.index] for member in before if member.counts and not member.unguarded)
        if told:
            _log.warning(
                "group %s: these servers count, as an operator says: %s", cut(self._group.name), ", ".join(told)
            )
        return told

    def left(self, index: int) -> float | None:
        """Seconds until a server's grants count, infinite if nobody knows; None if they do."""
        member = self._members[index]
        until = member.until
        if not member.cause and not member.other and not member.untold:
            return None
        return float("inf") if until is None or member.other else max(0.0, until - self._clock())

    def memory(self, index: int) -> ServerMemory | None:
        """What a server remembered when it was asked last."""
        return self._members[index].meta

    def unguarded(self, index: int) -> str:
        """Why nobody can tell whether a server has forgotten, "" if that can be told."""
        return self._members[index].unguarded

    def close(self) -> None:
        """Nothing is asked any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


async def end_quarantine(engine: Engine) -> tuple[str, ...]:
    """Have every server of an engine count that can be told so. Returns the names of those that did not before."""
    await asyncio.sleep(0)  # whoever asks again and again lets others go on
    guards = [group.guard for group in engine.groups.values()]
    told = [await guard.end() for guard in guards if isinstance(guard, Quarantine)]
    return tuple(name for names in told for name in names)
