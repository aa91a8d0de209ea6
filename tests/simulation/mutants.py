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
from dataclasses import dataclass
from pathlib import Path

import redlock_cluster

HERE = Path(__file__).parent
PACKAGE = Path(redlock_cluster.__file__).parent
LEAVE_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "test_*.py")


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
                "return Token(self._stock.pop() + self._end)",
                "return Token(self._stock[-1] + self._end)",
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
                "sent, self.sent = self.sent & ~tally.declined, 0",
                "sent, self.sent = 0, 0",
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
            Edit("lua/release.lua", "if redis.call('GET', KEYS[1]) ~= ARGV[1] then", "if false then"),
            Edit("core/dialect.py", 'deletes = "DELIFEQ"', "deletes = None"),
            Edit("core/dialect.py", 'deletes = "DELEX"', "deletes = None"),
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
                "        state = self._at(now)\n        if outcome is _DONE:",
                "        state = self._known()[0]\n        if outcome is _DONE:",
            ),
            Edit(
                "engine/extend.py",
                "if ended is not None and ended.outcome is Outcome.DONE and record.remaining(now):",
                "if ended is not None and ended.outcome is Outcome.DONE:",
            ),
        ),
        600,
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
    ),
    Mutant(
        "straggler",
        "a failed attempt gives back only where the grant was heard of",
        (
            Edit(
                "engine/acquire.py",
                "sent, self.sent = self.sent & ~tally.declined, 0",
                "sent, self.sent = self.sent & tally.granted, 0",
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
        300,
    ),
    Mutant(
        "shorter",
        "a lease believes in its old end while an extension with a shorter ttl is under way",
        (Edit("core/lease_record.py", "self.valid_until = min(self._known()[1], valid_until)", "pass"),),
        300,
    ),
    Mutant(
        "late",
        "a quorum that comes after the validity wins all the same",
        (Edit("engine/acquire.py", "            if now < until:\n", "            if True:\n"),),
        600,
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


class NotFound(LookupError):
    """The text to be replaced isn't in the source (any more), or more than once."""


def hunt(mutant: Mutant, processes_seeds: int | None = None) -> tuple[int, str]:
    """The number of seeds it took to notice a mutant, and what was noticed. Raises AssertionError when nothing was."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        mutate(copy, mutant)
        bound = processes_seeds or mutant.bound
        command = [sys.executable, "-m", "tests.simulation", "--hunt", "--seeds", str(bound)]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"mutant {mutant.name} did not run:\n{done.stderr[-3000:]}")
        place, seeds, found = done.stdout.splitlines()[0].split("\t")
        if not Path(place).is_relative_to(copy.resolve()):
            raise AssertionError(f"mutant {mutant.name}: the engine of {place} ran, not the broken one")
        if not found:
            raise AssertionError(f"mutant {mutant.name} ({mutant.what}) was not noticed in {seeds} histories")
        return int(seeds), found


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
    """The table of mutants in Markdown: how many seeds each takes, and what is noticed first."""
    yield "| mutant | the engine is broken so that | seeds needed | noticed as |"
    yield "| --- | --- | --- | --- |"
    for mutant in MUTANTS:
        seeds, found = hunt(mutant)
        yield f"| {mutant.name} | {mutant.what} | {seeds} | {found} |"
