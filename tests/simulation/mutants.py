"""Ways to break the engine, each of which the simulation must notice: that shows that it can fail.

Each mutant is a copy of the package in a temporary directory with some text replaced, and runs in a process of its
own. A text that isn't found (exactly once) is an error: a mutant that changes nothing proves nothing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import redlock_cluster

HERE = Path(__file__).parent
PACKAGE = Path(redlock_cluster.__file__).parent
LEAVE_OUT = shutil.ignore_patterns("test_*.py")
"""What is compiled goes along: with the times of its source, it saves each mutant from compiling everything."""


@dataclass(frozen=True)
class Edit:
    """A text in a file of the package, and what stands there instead."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """One way to break the engine.

    first: the seed its hunt begins with, one that is known to show it
    bound: histories within which it must be noticed, should that seed show it no more
    scenario: whose seeds
    """

    name: str
    what: str
    edits: tuple[Edit, ...]
    first: int = 0
    bound: int = 100
    scenario: str = "faults"


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "quorum",
        "a quorum is one server less",
        (Edit("core/tally.py", "return size // 2 + 1", "return size // 2"),),
    ),
    Mutant(
        "mark",
        "messages that leave together are won with one server less",
        (
            Edit(
                "wire/flight.py",
                "elif self._finished == self._needed:",
                "elif self._finished == self._needed - 1:",
            ),
            Edit(
                "wire/flight.py",
                "sorted(self._answered)[-self._needed]",
                "sorted(self._answered)[1 - self._needed]",
            ),
        ),
    ),
    Mutant(
        "unread",
        "whatever a server sends counts as what it was expected to send",
        (Edit("wire/flight.py", "if not usual:", "if False:"),),
    ),
    Mutant(
        "common",
        "an answer that differs counts as what the others of its flight say",
        (
            Edit(
                "wire/flight.py",
                "if offset not in self.alone and (keeper.refusals or not _as_foreseen(reply, text)):",
                "if False:",
            ),
        ),
    ),
    Mutant(
        "alone",
        "a round that counts its votes itself hears no usual one",
        (
            Edit(
                "wire/flight.py",
                "                message.reply(connection, reply)\n",
                "                if not _as_foreseen(reply, text):\n"
                "                    message.reply(connection, reply)\n",
            ),
        ),
    ),
    Mutant(
        "token",
        "a retry uses the same token again",
        (
            Edit(
                "core/token.py",
                "return Token(self._stock.pop())",
                "return Token(self._stock[-1])",
            ),
        ),
    ),
    Mutant(
        "drift",
        "validity ignores the drift of clocks",
        (Edit("core/timing.py", "ttl - ttl * self.drift_factor - _GRAIN, self.patience", "ttl, self.patience"),),
    ),
    Mutant(
        "compensation",
        "a failed attempt gives nothing back",
        (
            Edit(
                "engine/acquire.py",
                "asked, self.sent = self.sent & ~(tally.declined | tally.against), 0",
                "asked, self.sent = 0, 0",
            ),
        ),
    ),
    Mutant(
        "pipeline",
        "a failed attempt gives back on another connection of the pool",
        (
            Edit(
                "engine/acquire.py",
                "        for keeper in self.pipeline.keepers:\n",
                "        for keeper in group.pipelines[group.pipelines.index(self.pipeline) - 1].keepers:\n",
            ),
        ),
    ),
    Mutant(
        "compare",
        "a release deletes without comparing the token",
        (
            Edit("lua/release.lua", "if holder == ARGV[1] and holder ~= '' then", "if holder and ARGV[1] ~= '' then"),
            Edit("core/dialect.py", 'deletes = "DELIFEQ"', "deletes = None"),
            Edit("core/dialect.py", 'deletes = "DELEX"', "deletes = None"),
        ),
        first=540,
    ),
    Mutant(
        "wall",
        "validity is measured by the wall clock",
        (
            Edit(
                "wire/ports.py",
                "self.clock: Clock = clock or system_clock()",
                'self.clock: Clock = getattr(clock, "wall", clock) or system_clock()',
            ),
        ),
    ),
    Mutant(
        "suspend",
        "validity is measured by a clock that stands still while the machine is suspended",
        (
            Edit(
                "wire/ports.py",
                "self.clock: Clock = clock or system_clock()",
                'self.clock: Clock = getattr(clock, "monotonic", clock) or system_clock()',
            ),
        ),
        first=131,
    ),
    Mutant(
        "extend",
        "validity is not checked after an extension",
        (
            Edit(
                "core/lease_record.py",
                "        state = self._at(now)\n        if outcome is _DONE:",
                "        state = self._known()[0]\n        if outcome is _DONE:",
            ),
            Edit(
                "engine/extend.py",
                "if ended is not None and ended.outcome is Outcome.DONE and record.remaining(now):",
                "if ended is not None and ended.outcome is Outcome.DONE:",
            ),
        ),
        first=481,
        bound=600,
    ),
    Mutant(
        "alias",
        "a lease hears nothing of what others do with its token",
        (Edit("engine/aliases.py", "        if aliases is None:\n            return None\n", "        return None\n"),),
    ),
    Mutant(
        "memory",
        "a lease is extended by `SET … IFEQ` alone, which full servers refuse",
        (
            Edit(
                "core/mode.py",
                'EXTENDED_BY_SCRIPT: Final = BY_SCRIPT | {"OOM"}',
                "EXTENDED_BY_SCRIPT: Final = BY_SCRIPT",
            ),
        ),
        first=334,
    ),
    Mutant(
        "straggler",
        "a failed attempt gives back only where the grant was heard of",
        (
            Edit(
                "engine/acquire.py",
                "asked, self.sent = self.sent & ~(tally.declined | tally.against), 0",
                "asked, self.sent = self.sent & tally.granted, 0",
            ),
        ),
    ),
    Mutant(
        "pending",
        "what could not be released does not stay pending",
        (
            Edit(
                "engine/pending.py",
                "        self._by_keeper.setdefault(pending.keeper, _Waiting()).put(pending)\n",
                "        pass\n",
            ),
        ),
        first=409,
    ),
    Mutant(
        "kill",
        "the predecessor of a connection is not killed",
        (
            Edit(
                "wire/predecessors.py",
                'connection.send(pack_command((b"CLIENT", b"KILL", b"ID", client_id)), _Kill(self, client_id))',
                "pass",
            ),
        ),
        first=542,
        bound=300,
    ),
    Mutant(
        "shorter",
        "a lease believes in its old end while an extension with a shorter ttl is under way",
        (Edit("core/lease_record.py", "self.valid_until = min(self._known()[1], valid_until)", "pass"),),
        first=695,
        bound=300,
    ),
    Mutant(
        "late",
        "a quorum that comes after the validity wins all the same",
        (Edit("engine/acquire.py", "        if now < until:\n", "        if True:\n"),),
        first=866,
        bound=600,
    ),
    Mutant(
        "outage",
        "a server that does not answer counts as one that refuses",
        (
            Edit(
                "core/tally.py",
                "        if absent > spare:\n            return Standing.UNAVAILABLE\n",
                "",
            ),
            Edit("core/tally.py", "if absent + outstanding <= spare and self", "if self"),
        ),
    ),
)

WAITING = (
    Mutant(
        "queue",
        "whoever comes takes the lock, whoever stands in the queue",
        (Edit("lua/take.lua", "if not passed() then", "if true then"),),
        first=141,
    ),
    Mutant(
        "member",
        "who gets the lock stays in the queue",
        (
            Edit(
                "lua/take.lua",
                "      redis.call('ZREM', queue, member)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "leave",
        "who waits no more stays in the queues",
        (Edit("engine/line.py", "            if joined >> keeper.index & 1:\n", "            if False:\n"),),
    ),
    Mutant(
        "leave late",
        "who has won stays in the queue of a server that refuses later",
        (
            Edit(
                "engine/acquire.py",
                "        if answer.vote is not FOR:\n            self._leave_again(connection)\n",
                "",
            ),
        ),
        first=8,
    ),
    Mutant(
        "leave won",
        "who has won stays in the queues of servers that had refused before",
        (Edit("engine/line.py", "joined &= ~(attempt.tally", "joined = 0 & (attempt.tally"),),
        first=3,
    ),
    Mutant(
        "refresh",
        "who waits comes only when woken",
        (Edit("engine/pace.py", "return self.life_ms / 1000 / _LIVES", "return 1000"),),
        first=1,
    ),
    Mutant(
        "place",
        "who comes again sends a new order",
        (
            Edit(
                "engine/line.py",
                "order = self._order if self._exact else pace.order",
                "order = pace.order",
            ),
        ),
        first=59,
    ),
    Mutant(
        "agree",
        "servers never agree on an order: each keeps its own",
        (Edit("engine/line.py", "        if began and not self._exact:", "        if False:"),),
        first=12,
    ),
    Mutant(
        "stamp",
        "the order is by the client's clock, whatever it says",
        (
            Edit("lua/queue.lua", "math.max(time - 20000, math.min(time, tonumber(order)))", "tonumber(order)"),
            Edit("engine/round.py", "round((at + median_low(offsets)) * 1e6)", "round(at * 1e6)"),
        ),
        first=3,
    ),
    Mutant(
        "tell",
        "who releases tells nobody",
        (
            Edit(
                "lua/queue.lua",
                "redis.pcall('PUBLISH', 'redlock:' .. string.sub(member, 2), (kind == 't' and 'f' or kind) .. lock)",
                "1",
            ),
        ),
        first=302,
    ),
    Mutant(
        "holder",
        "a holder is not told that somebody waits",
        (
            Edit(
                "engine/waiting.py",
                "if len(text) <= _LONGEST:",
                'if len(text) <= _LONGEST and text[:1] != b"w":',
            ),
        ),
        first=717,
    ),
    Mutant(
        "dead",
        "who is dead stays in the queue when it is told",
        (Edit("lua/queue.lua", "if heard == 0 then", "if false then"),),
        first=549,
    ),
    Mutant(
        "told",
        "who was told and does not come counts as long as others",
        (
            Edit(
                "lua/queue.lua",
                "redis.pcall('ZADD', expiry, 'LT', string.format('%.0f', now() + life), member)",
                "local _ = life",
            ),
        ),
        first=619,
    ),
    Mutant(
        "again",
        "who comes again and finds the lock free tells nobody",
        (Edit("lua/take.lua", "if ARGV[5] == '1' then -- it may be dead", "if false then -- it may be dead"),),
        first=4201,
    ),
    Mutant(
        "longer",
        "each tell makes who is stopped count longer",
        (Edit("lua/queue.lua", "'ZADD', expiry, 'LT', ", "'ZADD', expiry, "),),
        first=1018,
    ),
    Mutant(
        "silent",
        "who does not come again counts for ever",
        (Edit("lua/queue.lua", "if #silent > 0 then", "if false then"),),
        first=914,
    ),
    Mutant(
        "first",
        "who is known to wait elsewhere is passed by a plain SET",
        (
            Edit(
                "engine/acquire.py",
                "if (group.lines or group.crowded) and group.others_wait(self.key):",
                "if self.key in group.lines:",
            ),
            Edit(
                "engine/acquire.py",
                "    if (group.lines or group.crowded) and group.others_wait(key):\n",
                "    if False:\n",
            ),
        ),
        first=58,
    ),
    Mutant(
        "late grant",
        "what is granted after an attempt has failed is kept",
        (
            Edit(
                "engine/acquire.py",
                "self._give_back_late(1 << connection.index, answer.vote is FOR, self._place)",
                "pass",
            ),
        ),
        first=7,
    ),
    Mutant(
        "put back",
        "an attempt that fails gives up its place in the queues",
        (
            Edit("engine/acquire.py", "answer.vote is FOR, self._place)", "answer.vote is FOR)"),
            Edit("engine/acquire.py", "self._place if failed else None", "None"),
        ),
        first=21,
    ),
    Mutant(
        "stand",
        "a line that has won knows nothing of the others that came meanwhile",
        (Edit("engine/line.py", "self._reset(self._always or self._others)", "self._reset(self._always)"),),
    ),
    Mutant(
        "push",
        "what servers push is not heard",
        (
            Edit(
                "engine/line.py",
                "            self._arm()\n        else:\n            self.wake(index)\n",
                "            self._arm()\n",
            ),
        ),
        first=1123,
    ),
    Mutant(
        "flush",
        "who waits does not come again when everything was flushed",
        (
            Edit(
                "engine/line.py",
                "        self._armed.pop(index, None)\n        self.wake(index)\n\n    def told",
                "        self._armed.pop(index, None)\n\n    def told",
            ),
        ),
        first=63,
    ),
    Mutant(
        "cancelled",
        "a cancelled wait stays in its line",
        (
            Edit(
                "engine/acquire.py",
                "        self._between.forget(self)\n        attempt, self",
                "        attempt, self",
            ),
        ),
    ),
    Mutant(
        "pause",
        "a client gives others as long as a server that does not answer has taken",
        (Edit("engine/line.py", "if now < attempt.started + attempt.patience:", "if True:"),),
        first=60,
    ),
)
"""Ways to break the rules of waiting; `scenario` crowd shows them."""

LOOKING_AFTER = (
    Mutant(
        "stop",
        "a release does not stop the extensions",
        (
            Edit(
                "engine/release.py",
                "    if record.begin_release(now):\n        if watch is not None:\n            watch.stop()\n",
                "    if record.begin_release(now):\n",
            ),
            Edit(
                "engine/watchdog.py",
                "            self.stop()\n        else:\n            self._tell",
                "            self._dog.put(self, now + record.kept_ms() / 3000, now)\n"
                "        else:\n            self._tell",
            ),
            Edit(
                "engine/watchdog.py",
                "if more and not self._extending and record.remaining(now) > 0:",
                "if more and not self._extending:",
            ),
            Edit(
                "core/lease_record.py",
                "        if self._state >= _RELEASING:\n            return False\n        self.valid_until",
                "        self.valid_until",
            ),
        ),
    ),
    Mutant(
        "takes again",
        "an extension takes the lock where nobody holds it any more",
        (
            Edit(
                "lua/extend.lua",
                "if kind ~= 'zset' then\n",
                "if kind == 'none' then\n  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n  return 1\nend\n"
                "if kind ~= 'zset' then\n",
            ),
            Edit("core/exclusive.py", "        if dialect.set_ifeq:\n", "        if False:\n"),
        ),
        first=2,
    ),
    Mutant(
        "heal late",
        "votes are taken again of a lease that is over, or released",
        (Edit("engine/look.py", "record.remaining(self._group.clock())", "record.ttl_ms / 1000"),),
    ),
    Mutant(
        "heal long",
        "a vote that is taken again has the full ttl",
        (Edit("engine/look.py", "self._group.timing.ttl_ms_for(left),", "record.ttl_ms,"),),
    ),
    Mutant(
        "heal alone",
        "votes are taken again before a quorum is known to have the lease",
        (
            Edit("engine/look.py", "if record is None or self.outcome is None:", "if record is None:"),
            Edit("engine/look.py", "if free and self.outcome is Outcome.DONE:", "if free:"),
        ),
        first=17,
    ),
    Mutant(
        "heal at once",
        "a vote that is taken again counts in the look that has found it missing",
        (
            Edit("engine/look.py", "BY_SCRIPT, FOR, Command", "BY_SCRIPT, FOR, Answer, Command"),
            Edit(
                "engine/look.py",
                "            self._free |= 1 << connection.index\n",
                "            if self._lease is not None:\n"
                "                _retake(self.group, self.pipeline.keepers[connection.index], self._lease)\n"
                "            answer = Answer(FOR)\n",
            ),
        ),
        first=17,
    ),
    Mutant(
        "taken again",
        "a release forgets the servers that took the lease again",
        (Edit("core/lease_record.py", "(self.sent & ~declined | self.resent)", "(self.sent & ~declined)"),),
    ),
    Mutant(
        "forgot",
        "a server that was started without its memory counts as if it held leases still",
        (Edit("engine/heal.py", "            record.forget(here.told)\n", "            pass\n"),),
        first=2,
    ),
    Mutant(
        "back",
        "servers that are back are not given the leases that they lack",
        (Edit("engine/group.py", "        if back or forgot:\n", "        if False:\n"),),
        first=11,
    ),
    Mutant(
        "loss",
        "a loss is not told",
        (Edit("engine/watchdog.py", "            listener.lost(reason)\n", "            pass\n"),),
    ),
    Mutant(
        "loss late",
        "a loss is told some time after the end of validity",
        (
            Edit(
                "engine/watchdog.py",
                "end, terms = now + record.remaining(now), ",
                "end, terms = now + record.remaining(now) + 0.02, ",
            ),
        ),
        first=1,
    ),
    Mutant(
        "loss in doubt",
        "the end of validity is told when an extension has ended that was under way",
        (
            Edit(
                "engine/watchdog.py",
                "        self._dog.put(self, now + record.remaining(now), now)\n",
                "",
            ),
            Edit(
                "engine/watchdog.py",
                "            self._dog.put(self, due, now)\n\n    def _next",
                "            if not self._extending:\n                self._dog.put(self, due, now)\n\n    def _next",
            ),
        ),
        first=2,
    ),
    Mutant(
        "lost kept",
        "a lease that was lost is not taken from the servers that have it when its user releases it",
        (
            Edit(
                "engine/release.py",
                "    release_unheard(group, record)\n    reason, rest",
                "    reason, rest",
            ),
        ),
        first=4,
    ),
    Mutant(
        "calendar",
        "leases are seen to by the wall clock",
        (
            Edit(
                "wire/ports.py",
                "self.clock: Clock = clock or system_clock()",
                'self.clock: Clock = getattr(clock, "wall", clock) or system_clock()',
            ),
        ),
        first=1,
    ),
    Mutant(
        "own pushes",
        "a client's own extensions cause looks",
        (Edit("engine/watchdog.py", "if not self._busy >> index & 1 and self._armed", "if self._armed"),),
        first=4,
    ),
    Mutant(
        "foreign pushes",
        "what servers push of a lease is not heard",
        (
            Edit(
                "engine/watchdog.py",
                "self._armed.pop(index, None) is not None:\n            self.look()",
                "self._armed.pop(index, None) is not None:\n            pass",
            ),
        ),
        first=16,
    ),
    Mutant(
        "armed once",
        "servers are asked once only to push",
        (
            Edit(
                "engine/watchdog.py",
                "            if self._busy & bit or armed.get(keeper.index) is not connection:",
                "            if keeper.index not in armed:",
            ),
        ),
        first=16,
    ),
    Mutant(
        "doubt",
        "a holder is not told of doubts",
        (
            Edit(
                "engine/watchdog.py",
                "                if doubtful:\n                    listener.doubtful()\n                else:\n",
                "                if not doubtful:\n",
            ),
        ),
        first=1,
    ),
    Mutant(
        "retry",
        "an extension that reached no quorum is not tried again",
        (Edit("engine/watchdog.py", "return min(end, now + terms.validity / _RETRIED)", "return end"),),
        first=39,
    ),
    Mutant(
        "third",
        "a lease is extended just before it ends",
        (
            Edit(
                "engine/watchdog.py",
                "return max(now, end - terms.validity * (1 - (1 - self._ahead) / _EXTENDED))",
                "return max(now, end - 0.01)",
            ),
        ),
        first=4,
    ),
    Mutant(
        "max hold",
        "a lease is held for longer than `max_hold`",
        (Edit("core/lease_record.py", "        self.hold_until = until\n", "        pass\n"),),
        first=2,
    ),
    Mutant(
        "detached",
        "a lease that was detached is extended still",
        (
            Edit("engine/engine.py", "not record.detach(self.clock())", "not record.remaining(self.clock())"),
            Edit(
                "engine/engine.py",
                "        if watch is not None:\n            watch.stop()\n        forget",
                "        forget",
            ),
        ),
        first=3,
    ),
    Mutant(
        "dropped",
        "a lease to which nobody refers is extended still",
        (Edit("engine/watchdog.py", "        give_back(group, record)  # first: warnings may be errors\n", ""),),
        first=4,
    ),
    Mutant(
        "closed",
        "closing leaves leases behind that extend themselves",
        (
            Edit(
                "engine/watchdog.py",
                "                give_back(watch.group, watch.record)\n            else",
                "                watch.stop()\n            else",
            ),
        ),
    ),
    Mutant(
        "script behind",
        "an extension is sent in full behind the release of a lease that was lost",
        (Edit("engine/extend.py", "record.remaining(self.group.clock()) > 0", "record.live"),),
        first=41,
    ),
)
"""Ways to break how leases look after themselves; `scenario` leases shows them."""

MIXED = (
    Mutant(
        "own",
        "a release does not wake those of its own client",
        (
            Edit(
                "engine/line.py",
                "        if not self.waiters:\n            return\n        first = ",
                "        if self.waiters:\n            return\n        first = ",
            ),
        ),
    ),
    Mutant(
        "order named",
        "several locks are waited for in the order in which they were named",
        (
            Edit(
                "engine/acquire_all.py",
                "dict(sorted(zip(self._keys, resources, strict=True), key=itemgetter(0)))",
                "dict(zip(self._keys, resources, strict=True))",
            ),
            Edit(
                "engine/acquire_all.py",
                "[each for each in self._held if each > key]",
                "[each for each in self._held if self._keys.index(each) > self._keys.index(key)]",
            ),
        ),
        first=3,
    ),
    Mutant(
        "later kept",
        "who waits for one of several keeps those that come after it",
        (Edit("engine/acquire_all.py", "            self._give_back_after(key)\n", ""),),
        first=3,
    ),
    Mutant(
        "some kept",
        "who is refused some of several keeps the others",
        (Edit("engine/acquire_all.py", "    whole.give_back()\n    return missing", "    return missing"),),
        first=4,
    ),
    Mutant(
        "some cancelled",
        "who is cancelled while it waits for one of several keeps the others",
        (Edit("engine/acquire_all.py", "        whole.give_back()\n        raise\n", "        raise\n"),),
        first=25,
    ),
    Mutant(
        "some expire",
        "what is held while others are waited for is not extended",
        (
            Edit(
                "engine/acquire_all.py",
                "                return\n            await self._renew()\n",
                "                return\n",
            ),
        ),
        first=3,
    ),
    Mutant(
        "some lost",
        "what is lost while others are waited for counts as held",
        (
            Edit(
                "engine/acquire_all.py",
                "            if record.remaining(now) <= 0:\n",
                "            if not now:\n",
            ),
        ),
        first=5,
    ),
    Mutant(
        "some old",
        "what was held while others were waited for is not extended at the end",
        (Edit("engine/acquire_all.py", "await self._renew() if self._waited else None", "None"),),
        first=3,
    ),
    Mutant(
        "longest",
        "several are valid as long as the one that is valid for longest",
        (Edit("handles/events.py", "return min([record.remaining(now)", "return max([record.remaining(now)"),),
    ),
    Mutant(
        "body",
        "when the body ends for the loss of one of several, the others are kept",
        (Edit("handles/mutex.py", "                    abandon(self._held())", "                    pass"),),
    ),
    Mutant(
        "batch cancelled",
        "a batch that is cancelled gives nothing back",
        (
            Edit(
                "engine/bulk.py",
                "            chunk.abandon()\n        raise\n    if",
                "            pass\n        raise\n    if",
            ),
        ),
        first=2,
    ),
    Mutant(
        "leads on",
        "a leader believes in its term when that is lost",
        (
            Edit(
                "handles/election.py",
                "return self._mutex.locked()\n\n    @property\n    def term(self) -> AsyncTerm",
                "return self._mutex.lease is not None\n\n    @property\n    def term(self) -> AsyncTerm",
            ),
        ),
    ),
    Mutant(
        "leads alone",
        "a leader's lease does not extend itself",
        (
            Edit(
                "handles/election.py", "super().__init__(ttl, True, max_hold", "super().__init__(ttl or 30, False, None"
            ),
        ),
    ),
    Mutant(
        "resign",
        "who resigns does not give the leadership back",
        (
            Edit(
                "handles/election.py",
                "        if lease is not None and (lease.valid or lease.lost):\n            await lease.release()\n",
                "",
            ),
        ),
    ),
    Mutant(
        "campaigns on",
        "who resigns while it campaigns goes on with that",
        (
            Edit(
                "handles/election.py",
                "                self._supervisor.cancel_waiting(cancel_id=candidacy.id)\n            await",
                "                pass\n            await",
            ),
        ),
        first=1,
    ),
    Mutant(
        "campaigns late",
        "who resigns in the turn in which its campaign was won too late goes on with that",
        (Edit("handles/election.py", "for _ in range(2):", "for _ in range(1):"),),
        first=70,
    ),
    Mutant(
        "stands",
        "a loop over terms goes on after a resignation",
        (
            Edit(
                "handles/election.py",
                "                if candidacy.stands:\n                    yield AsyncTerm(lease)",
                "                yield AsyncTerm(lease)\n                candidacy.stands = True",
            ),
        ),
        first=15,
    ),
    Mutant(
        "loop left",
        "who leaves a loop over terms goes on leading",
        (
            Edit(
                "handles/election.py",
                "        finally:\n            if lease is not None:\n                await _end_term(lease)\n",
                "        finally:\n            pass\n",
            ),
        ),
    ),
    Mutant(
        "force unread",
        "a lock is released by force though no quorum has said who holds it",
        (
            Edit(
                "engine/force.py",
                "if sum(each.answer.vote is not ABSENT for each in heard) < group.quorum:",
                "if False:",
            ),
        ),
        first=6,
    ),
    Mutant(
        "force unnamed",
        "a server remembers only those tokens that it held itself when it released a lock by force",
        (Edit("engine/force.py", "removal(key, held_by, ", "removal(key, (), "),),
        first=26,
    ),
    Mutant(
        "force forgets",
        "a server remembers tokens for as long as it held them itself, and not for as long as others may",
        (Edit("engine/force.py", "-1 if -1 in lasts else max(lasts)", "0"),),
        first=26,
    ),
    Mutant(
        "force unremembered",
        "a server does not remember the tokens that were removed by force",
        (Edit("lua/force.lua", "redis.call('ZADD', forced, till, token)", "local _ = till"),),
        first=1,
    ),
    Mutant(
        "force few",
        "a release by force counts though fewer than a quorum have carried it out",
        (
            Edit(
                "engine/force.py",
                "if sum(vote.vote is Vote.FOR for vote in votes) < group.quorum:",
                "if False:",
            ),
        ),
    ),
    Mutant(
        "heal forced",
        "votes are taken again of a lease that was released by force",
        (Edit("lua/heal.lua", "if redis.call('ZSCORE', KEYS[2], ARGV[1]) then", "if false then"),),
        first=2,
    ),
    Mutant(
        "forced untold",
        "a holder is not told that its lease was released by force",
        (
            Edit(
                "core/lease_record.py",
                "(_ON_FORCED if forced else _ON_EXTENSION_GONE)[state]",
                "_ON_EXTENSION_GONE[state]",
            ),
        ),
        first=1,
    ),
    Mutant(
        "extension untold",
        "an extension does not ask whether the lease was released by force",
        (
            Edit(
                "engine/extend.py",
                "if ended is not None and ended.outcome is Outcome.GONE and not self._foreign and self._look is None:",
                "if False and ended is not None:",
            ),
        ),
        first=9,
    ),
    Mutant(
        "inspected",
        "a lock is called free though servers that do not answer may say otherwise",
        (
            Edit(
                "core/snapshot.py",
                "if tally.standing is Standing.SPLIT and not tally.may_be_held():",
                "if tally.standing is Standing.SPLIT:",
            ),
        ),
        first=62,
    ),
)
"""Ways to break how several locks are held together, elections, and what operators do; `scenario` mixed shows them."""

SHARED: tuple[Mutant, ...] = (
    Mutant(
        "reader passes",
        "a reader takes no heed of a writer that waits before it",
        (Edit("lua/read.lua", "if not passed() then\n  local added", "if true then\n  local added"),),
        first=3,
    ),
    Mutant(
        "writer passes",
        "a writer that comes again takes no heed of readers that wait before it",
        (Edit("lua/take.lua", "return tonumber(reader[2]) < tonumber(order)", "return false"),),
    ),
    Mutant(
        "kind",
        "a reader takes the lock whatever stands at the key",
        (
            Edit(
                "lua/readers.lua",
                "    return not string.find(first['err'], 'WRONGTYPE', 1, true) and first\n",
                "    redis.call('DEL', key)\n    first = {}\n",
            ),
        ),
    ),
    Mutant(
        "last reader",
        "a key lasts as long as its longest reader would have, also when that is gone",
        (Edit("lua/readers.lua", "  redis.call('PEXPIREAT', key, last[2]) -- which", "  -- which"),),
    ),
    Mutant(
        "over",
        "a reader whose time is over is extended",
        (Edit("lua/extend.lua", "if not ends or tonumber(ends) < ms then", "if not ends then"),),
        first=1,
    ),
    Mutant(
        "all readers",
        "the release of a reader deletes the key",
        (Edit("lua/readers.lua", "redis.pcall('ZREM', key, token)", "redis.call('DEL', key)"),),
    ),
    Mutant(
        "heal reader",
        "a reader takes its votes again from whoever holds the lock alone",
        (
            Edit("lua/find.lua", "and 0 or till\n", "and 2 or till\n"),
            Edit(
                "lua/heal.lua",
                "local ms = milliseconds(redis.call('TIME'))\n",
                "local ms = milliseconds(redis.call('TIME'))\n"
                "if redis.call('TYPE', KEYS[1])['ok'] == 'string' then redis.call('DEL', KEYS[1]) end\n",
            ),
        ),
        first=6,
    ),
    Mutant(
        "refused reader",
        "a reader that is refused stands at the key all the same",
        (
            Edit(
                "lua/read.lua",
                "local holder = redis.pcall('GET', lock)\n",
                "add_reader(lock, ARGV[1], ms + ARGV[2], ms, 'GT')\nlocal holder = redis.pcall('GET', lock)\n",
            ),
        ),
    ),
    Mutant(
        "readers behind",
        "who leaves the queue does not tell the readers behind it",
        (Edit("lua/release.lua", "    tell_readers(first[2])\n", "    local _ = first\n"),),
        first=7,
    ),
    Mutant(
        "readers before",
        "whoever frees the lock tells the first writer, and not the readers before it",
        (Edit("lua/queue.lua", "    local reader = tell_readers(first[2])\n", "    local reader\n"),),
        first=2,
    ),
    Mutant(
        "follow",
        "readers of one line come one after the other",
        (
            Edit(
                "engine/line.py",
                "followers = [*islice(self.waiters, _TOGETHER)] if self.mode.shared else []",
                "followers: list[Acquisition] = [*islice(self.waiters, 0)]",
            ),
        ),
    ),
    Mutant(
        "follow late",
        "readers of a line follow its first as if they had just come",
        (
            Edit(
                "engine/line.py",
                "        for each in followers:\n            each.follow(place)",
                "        for each in followers:\n            each.follow(NOBODY)",
            ),
            Edit(
                "engine/line.py",
                "from redlock_cluster.core.queue import FREE, Member\n",
                "from redlock_cluster.core.queue import FREE, NOBODY, Member\n",
            ),
        ),
    ),
    Mutant(
        "permit taken",
        "a permit is granted without a look whether somebody holds it",
        (
            Edit(
                "lua/permit.lua",
                "not holders[wanted] and redis.call('SET', KEYS[5 + wanted], ARGV[1], 'NX', 'PX', ARGV[2])",
                "redis.call('SET', KEYS[5 + wanted], ARGV[1], 'PX', ARGV[2])",
            ),
        ),
    ),
    Mutant(
        "permits counted",
        "each server grants whichever permit is free there, and any of them counts",
        (
            Edit(
                "lua/permit.lua",
                "local before = before_us()\n",
                "for i = 1, permits do if not holders[i] and holders[wanted] then wanted = i end end\n"
                "local before = before_us()\n",
            ),
        ),
    ),
    Mutant(
        "rank",
        "whoever comes takes a permit, whoever waits longer",
        (Edit("lua/permit.lua", "if before < free and not", "if free > 0 and not"),),
    ),
    Mutant(
        "next permit",
        "who takes a permit while others are free has nobody told",
        (Edit("lua/permit.lua", "  if free > 1 then\n    tell_first()\n  end\n", ""),),
        first=6,
    ),
    Mutant(
        "permit untold",
        "the release of a permit tells nobody",
        (
            Edit(
                "core/permit.py",
                '        return RELEASE.call(in_full, side_keys(key), token, b"", 1), ONE\n',
                "        return Exclusive.release(self, dialect, key, token, False, in_full)\n",
            ),
        ),
        first=4,
    ),
    Mutant(
        "permit unqueued",
        "a client's line forgets in whose queues it waits for a permit",
        (
            Edit(
                "engine/semaphore.py",
                "_always(self) -> bool:\n        return True",
                "_always(self) -> bool:\n        return False",
            ),
        ),
        first=8,
    ),
    Mutant(
        "number",
        "servers take any number of permits for theirs",
        (Edit("lua/permit.lua", "if known and tonumber(known) ~= permits then", "if false then"),),
        first=20,
    ),
    Mutant(
        "another",
        "who is refused a permit does not try one that is free",
        (
            Edit(
                "engine/semaphore.py",
                "if another is not None and self._tries < self._semaphore.permits and now < self.limit.deadline:",
                "if False and another is not None:",
            ),
        ),
    ),
)
"""Ways to break read locks and semaphores; `scenario` shared shows them."""

FENCES = (
    Mutant(
        "counter",
        "servers give out the time alone, also when they have given out more",
        (Edit("lua/fence.lua", "if not last or last < tonumber(least) then", "if true then"),),
        first=14,
    ),
    Mutant(
        "agreement",
        "the greatest number counts though no quorum remembers it",
        (
            Edit(
                "engine/fence.py",
                "        if self.agreed:\n            self._attempt = None\n",
                "        if True:\n            self._attempt = None\n",
            ),
        ),
        first=88,
    ),
    Mutant(
        "least",
        "the least number of the quorum counts",
        (Edit("engine/fence.py", "self.fence = max(", "self.fence = min("),),
        first=98,
    ),
)
"""Ways to break the rules of fences; `scenario` fenced shows them."""

FORGETTING: tuple[Mutant, ...] = (
    Mutant(
        "believed",
        "grants of servers that may have forgotten locks count",
        (
            Edit(
                "engine/round.py",
                'doubt = self.pipeline.keepers[connection.index].doubt if answer.vote is FOR else ""',
                'doubt = ""',
            ),
        ),
        first=12,
    ),
    Mutant(
        "at once",
        "a server that has forgotten counts at once",
        (
            Edit(
                "engine/quarantine.py",
                "return since + (longest * (1 + self._drift) + _GRAIN if longest else 0.0)",
                "return since",
            ),
        ),
        first=2,
    ),
    Mutant(
        "untold",
        "servers are not told for how long locks last",
        (Edit("engine/quarantine.py", "for keeper in keepers:", "for keeper in ():"),),
        first=18,
    ),
    Mutant(
        "fresh",
        "a group is a fresh one though a server did not answer",
        (
            Edit(
                "engine/quarantine.py",
                "            and all(member.index in heard.metas or member.unguarded for member in self._members)\n",
                "",
            ),
        ),
        first=2,
    ),
    Mutant(
        "seen",
        "a group is a fresh one for those, too, who have seen it before",
        (Edit("engine/quarantine.py", "            not self._seen\n            and all(", "            all("),),
        first=1,
    ),
    Mutant(
        "longest",
        "where all have forgotten, nobody waits for as long as locks last",
        (
            Edit(
                "engine/quarantine.py",
                "return ((self._known_ms,) if self._known_ms else ()), False",
                "return (), False",
            ),
        ),
        first=1,
    ),
    Mutant(
        "readers",
        "grants of servers that may have forgotten locks count for readers",
        (
            Edit(
                "engine/acquire.py",
                "answer = self.believed(connection, self._answer(connection, value))",
                "answer = self._answer(connection, value)\n        if not self.mode.shared:\n"
                "            answer = self.believed(connection, answer)",
            ),
        ),
    ),
    Mutant(
        "on their way",
        "grants that are on their way count when the server turns out to have forgotten",
        (
            Edit(
                "wire/keeper.py",
                "            self.queue_open()\n            self.connection.part_series()\n",
                "            pass\n",
            ),
        ),
        first=8,
    ),
    Mutant(
        "one other",
        "one other server says how long locks last",
        (Edit("engine/quarantine.py", "if len(others) >= group.quorum:", "if others:"),),
        first=185,
    ),
    Mutant(
        "horizons lost",
        "a server that counts again does not know how long locks last",
        (
            Edit(
                "engine/quarantine.py",
                "await self._start([member], heard, horizons)",
                "await self._start([member], heard, ())",
            ),
        ),
        first=31,
    ),
    Mutant(
        "never again",
        "servers are told once for how long locks last",
        (
            Edit(
                "engine/quarantine.py",
                "return horizon, self._clock() + _SENT_FOR * horizon / 1000",
                "return horizon, self._clock() + 1e9",
            ),
        ),
        first=1,
    ),
    Mutant(
        "unheard flush",
        "what servers push when they are flushed is not heard",
        (
            Edit(
                "engine/quarantine.py",
                "if member.run_id and not member.unguarded and not member.other:\n            self._quarantine(",
                "if False:\n            self._quarantine(",
            ),
        ),
        first=7,
    ),
    Mutant(
        "lost let go",
        "a lease that is lost is released at once, though its user may not have heard of that",
        (Edit("engine/release.py", "    if not record.lost_early(now):\n", "    if True:\n"),),
        first=0,
    ),
)
"""Ways to break the rules of servers that forget; `scenario` amnesia shows them."""

MUTANTS += tuple(replace(mutant, scenario="crowd") for mutant in WAITING)
MUTANTS += tuple(replace(mutant, scenario="leases") for mutant in LOOKING_AFTER)
MUTANTS += tuple(replace(mutant, scenario="mixed") for mutant in MIXED)
MUTANTS += tuple(replace(mutant, scenario="shared") for mutant in SHARED)
MUTANTS += tuple(replace(mutant, scenario="fenced") for mutant in FENCES)
MUTANTS += tuple(replace(mutant, scenario="amnesia") for mutant in FORGETTING)


class NotFound(LookupError):
    """The text to be replaced isn't in the source (any more), or more than once."""


def hunt(mutant: Mutant) -> tuple[int, str]:
    """How many histories it took to notice a mutant, and what was noticed. Raises AssertionError when nothing was."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        mutate(copy, mutant)
        command = [sys.executable, "-m", "tests.simulation", "--hunt", "--scenario", mutant.scenario]
        command += ["--first", str(mutant.first), "--seeds", str(mutant.bound)]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"mutant {mutant.name} did not run:\n{done.stderr[-3000:]}")
        place, histories, found = done.stdout.splitlines()[0].split("\t")
        if not Path(place).is_relative_to(copy.resolve()):
            raise AssertionError(f"mutant {mutant.name}: the engine of {place} ran, not the broken one")
        if not found:
            raise AssertionError(f"mutant {mutant.name} ({mutant.what}) was not noticed in {histories} histories")
        return int(histories), found


def mutate(copy: Path, mutant: Mutant) -> None:
    """Puts a broken package, and the simulation, into a directory. Raises NotFound."""
    shutil.copytree(PACKAGE, copy / PACKAGE.name, ignore=LEAVE_OUT)
    shutil.copytree(HERE, copy / "tests" / HERE.name, ignore=LEAVE_OUT)
    for edit in mutant.edits:
        path = copy / PACKAGE.name / edit.file
        source = path.read_text()
        if source.count(edit.old) != 1:
            raise NotFound(f"mutant {mutant.name}: {edit.file} has {source.count(edit.old)} times {edit.old!r}")
        path.write_text(source.replace(edit.old, edit.new))


def table() -> Iterator[str]:
    """The table of mutants in Markdown: where each hunt begins, how long it is, and what is noticed first."""
    yield "| mutant | the engine is broken so that | first seed | histories needed | noticed as |"
    yield "| --- | --- | --- | --- | --- |"
    for mutant in MUTANTS:
        histories, found = hunt(mutant)
        yield f"| {mutant.name} | {mutant.what} | {mutant.first} | {histories} | {found} |"
