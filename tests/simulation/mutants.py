"""Ways to break the engine, each of which the simulation must notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """A text in a file of the package, and what stands there instead."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """One way to break the engine. bound: seeds within which it must be caught"""

    name: str
    what: str
    edits: tuple[Edit, ...]
    bound: int = 100


MUTANTS = (
    Mutant(
        "quorum",
        "a quorum is one server less",
        (Edit("core/tally.py", "return size // 2 + 1", "return size // 2"),),
    ),
    Mutant(
        "mark",
        "rounds that leave together are won with one server less",
        (
            Edit(
                "wire/flight.py",
                "if self._whole == self._lane.quorum:",
                "if self._whole == self._lane.quorum - 1:",
            ),
            Edit(
                "wire/flight.py",
                "sorted(self._heard)[-self._lane.quorum]",
                "sorted(self._heard)[1 - self._lane.quorum]",
            ),
        ),
    ),
    Mutant(
        "unread",
        "whatever a server sends counts as what it was expected to send",
        (Edit("wire/flight.py", "if not usual or self.apart:", "if self.apart:"),),
    ),
    Mutant(
        "common",
        "an answer that differs counts as what the others of its volley say",
        (Edit("wire/flight.py", "if not usual and offset not in self.apart:", "if False:"),),
    ),
    Mutant(
        "apart",
        "a round that counts its votes itself hears no usual one",
        (
            Edit(
                "wire/flight.py",
                "                here.reply(connection, reply)\n",
                "                if not usual:\n                    here.reply(connection, reply)\n",
            ),
        ),
    ),
    Mutant(
        "token",
        "a retry uses the same token again",
        (
            Edit(
                "engine/group.py",
                "return Token(self._entropy.token() + self._label)",
                'self._token = getattr(self, "_token", None) or self._entropy.token()\n'
                "        return Token(self._token + self._label)",
            ),
        ),
    ),
    Mutant(
        "drift",
        "validity ignores the drift of clocks",
        (Edit("core/timing.py", "return ttl - ttl * self.drift_factor - _GRAIN", "return ttl"),),
    ),
    Mutant(
        "compensation",
        "a failed attempt gives nothing back",
        (
            Edit(
                "engine/acquire.py",
                "sent, self.sent = self.sent & ~self.declined, 0",
                "sent, self.sent = 0, 0",
            ),
        ),
    ),
    Mutant(
        "lane",
        "a failed attempt gives back on another connection of the pool",
        (
            Edit(
                "engine/acquire.py",
                "        for link in self.lane.links:\n            if sent >> link.index & 1:\n",
                "        for link in self.group.lanes[self.group.lanes.index(self.lane) - 1].links:\n"
                "            if sent >> link.index & 1:\n",
            ),
        ),
    ),
    Mutant(
        "compare",
        "a release deletes without comparing the token",
        (
            Edit("lua/release.lua", "if redis.call('GET', KEYS[1]) ~= ARGV[1] then", "if false then"),
            Edit("core/dialect.py", 'release = "DELIFEQ"', "release = None"),
            Edit("core/dialect.py", 'release = "DELEX"', "release = None"),
        ),
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
    ),
    Mutant(
        "extend",
        "validity is not checked after an extension",
        (
            Edit(
                "core/lease_record.py",
                "if now >= self.valid_until or votes.outcome is Outcome.GONE:",
                "if votes.outcome is Outcome.GONE:",
            ),
            Edit(
                "engine/group.py",
                "if record.remaining(self.clock()) and extension.outcome is Outcome.DONE:",
                "if extension.outcome is Outcome.DONE:",
            ),
        ),
        600,
    ),
    Mutant(
        "straggler",
        "a failed attempt gives back only where the grant was heard of",
        (
            Edit(
                "engine/acquire.py",
                "sent, self.sent = self.sent & ~self.declined, 0",
                "sent, self.sent = self.sent & tally.granted, 0",
            ),
        ),
    ),
    Mutant(
        "debts",
        "what could not be released is not owed",
        (Edit("wire/keeper.py", "        self._debts[debt.key, debt.token] = debt\n", "        pass\n"),),
    ),
    Mutant(
        "kill",
        "the predecessor of a connection is not killed",
        (
            Edit(
                "wire/keeper.py",
                'connection.send(pack_command((b"CLIENT", b"KILL", b"ID", client_id)), _Killed(self, client_id))',
                "pass",
            ),
        ),
        300,
    ),
    Mutant(
        "shorter",
        "a lease believes in its old end while an extension with a shorter ttl is under way",
        (Edit("core/lease_record.py", "self.valid_until = min(self.valid_until, valid_until)", "pass"),),
        300,
    ),
    Mutant(
        "outage",
        "a server that does not answer counts as one that refuses",
        (
            Edit(
                "core/tally.py",
                "        if absent > spare:\n            self.verdict = Verdict.UNAVAILABLE\n        elif",
                "        if",
            ),
            Edit("core/tally.py", "elif absent + outstanding <= spare and not", "elif not"),
        ),
    ),
)
