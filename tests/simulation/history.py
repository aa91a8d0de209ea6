"""What happened in one simulated history: events, problems, and how often rare things occurred."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from redlock_cluster.testing.simulation import Connection, VirtualLoop

UPKEEP = {b"HELLO", b"CLIENT", b"INFO", b"SCRIPT", b"TIME", b"PING", b"SELECT", b"AUTH"}
EXCERPT, LAST = 60, 10


@dataclass(frozen=True)
class Problem:
    """An invariant that did not hold. at: virtual seconds; place: how many events there were; subject: a resource"""

    at: float
    place: int
    kind: str
    text: str
    subject: str


@dataclass(slots=True)
class Command:
    """A command that a server executed."""

    number: int
    server: str
    words: tuple[bytes, ...]
    reply: bytes

    def upkeep(self) -> bool:
        """Whether it belongs to a handshake or a health check, not to a lock. Probes have no key."""
        kill = self.words[:2] == (b"CLIENT", b"KILL")
        return not kill and (self.words[0] in UPKEEP or b"" in self.words[1:4])

    def names(self, ends: list[str]) -> bool:
        """Whether it is about a token with one of these ends."""
        return any(word[18:22].decode("ascii", "replace") in ends for word in self.words)

    def __str__(self) -> str:
        words = [b"(script)"] if self.words[0] == b"EVAL" else [self.words[0]]
        words += self.words[2:] if self.words[0] in (b"EVAL", b"EVALSHA") else self.words[1:]
        told = " ".join(short(word) for word in words if word != b"1")
        reply = self.reply.rstrip().rpartition(b"\r\n")[2]
        return f"-> {self.server} (#{self.number}) {told}: {short(reply)}"


class History:
    """The events of one history in their order; the same for the same seed, bit for bit."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.events: list[tuple[float, str, object]] = []
        self.problems: list[Problem] = []
        self.counts: Counter[str] = Counter()

    def note(self, who: str, what: str) -> None:
        """Something happened."""
        self.events.append((self._loop.time(), who, what))

    def command(self, connection: Connection, words: list[bytes], reply: bytes) -> None:
        """A server executed a command."""
        done = Command(connection.number, connection.host.name, tuple(words), reply)
        self.events.append((self._loop.time(), connection.client, done))

    def count(self, what: str) -> None:
        """Something rare happened."""
        self.counts[what] += 1

    def problem(self, kind: str, text: str, subject: str = "") -> None:
        """An invariant does not hold."""
        self.note("check", f"!!! {kind}: {text}")
        self.problems.append(Problem(self._loop.time(), len(self.events), kind, text, subject))

    def digest(self) -> str:
        """A hash of everything that happened, times to the last bit."""
        whole = hashlib.sha256()
        for event in self.events:
            whole.update(repr(event).encode())
        return whole.hexdigest()

    def excerpt(self, problem: Problem) -> Iterator[str]:
        """The end of the history up to a problem, as far as it concerns the problem's resource.

        Where that is long, the commands of attempts that the problem does not name are left out.
        """
        events = [event for event in self.events[: problem.place] if _concerns(event[2], problem.subject)]
        named = re.findall(r"…(\w{4})", problem.text)
        if len(events) > EXCERPT:
            brief = [e for e in events[:-LAST] if not isinstance(e[2], Command) or e[2].names(named)]
            yield f"({len(events) - LAST - len(brief[-EXCERPT:])} events are left out)"
            events = brief[-EXCERPT:] + events[-LAST:]
        for at, who, what in events:
            yield f"{at * 1000:10.3f}  {who:8} {what}"


def _concerns(what: object, subject: str) -> bool:
    if not isinstance(what, Command):
        return True
    if what.words[:2] == (b"CLIENT", b"KILL"):
        return True
    return not what.upkeep() and subject.encode() in b" ".join(what.words)


def short(text: bytes) -> str:
    """Something of the wire, tokens shown by their ends only."""
    random, at, owner = text.rpartition(b"@")
    if at and len(random) >= 22:
        return f"…{random[-4:].decode()}@{owner.decode()}"
    shown = text.decode("utf-8", "replace")
    return shown if len(shown) <= 24 else f"{shown[:21]}…"
