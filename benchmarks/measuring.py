"""How a row is measured: contestants in turns, round after round, and their figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

from benchmarks.peers import BARE, OURS, PEERS, PLAIN, Contestant, InstallFailed, command, variables
from benchmarks.runners import Failed, Figures, Runner
from benchmarks.servers import Servers

__all__ = ["LIMIT", "LONG", "Bench", "Check", "Entrant", "Row", "Series", "Settings"]

LIMIT: Final = "redis-benchmark -P 64 (C)"

LONG: Final = 2.0
"""Many tasks are measured so many times as long, threads twice that: peers jump between two speeds, and threads stay in
one for seconds."""

Role = Literal["ours", "peer", "limit"]
"""Whose figures they are; bare connections and what is measured in this process count as ours."""


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    rounds: of each row
    seconds, warmup: of each measurement
    tiny: only to see that everything works
    peers: other libraries that are measured too, by name
    tree: the folder of this library, relative to this checkout
    """

    rounds: int = 5
    seconds: float = 1.0
    warmup: float = 0.4
    tiny: bool = False
    peers: tuple[str, ...] = tuple(PEERS)
    tree: str = "."

    def sized(self, full: int, tiny: int) -> int:
        """A size for a real run, or for a trial."""
        return tiny if self.tiny else full


@dataclass
class Series:
    """One contestant's figures in a row. `median`, `least` and `most` are of the rounds; None without any round."""

    role: Role
    quorum: bool = True
    rounds: list[Figures] = field(default_factory=list)
    median: float | None = None
    least: float | None = None
    most: float | None = None
    failures: int = 0
    left: int = 0
    error: str = ""

    def add(self, figures: Figures, figure: str, left: int) -> None:
        """Adds a round.

        figures: of the round
        figure: the key of the one that is compared
        left: locks that were still on a quorum of servers afterwards
        """
        self.rounds.append(figures)
        values = [each[figure] for each in self.rounds]
        self.median, self.least, self.most = statistics.median(values), min(values), max(values)
        self.failures += figures.get("failures", 0)
        self.left += left

    def middle(self, figure: str) -> float | None:
        """The median of another figure."""
        values = [each[figure] for each in self.rounds if figure in each]
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class Check:
    """A target, and whether it was met; None when it could not be measured."""

    text: str
    value: float | None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the value reaches the target."""
        if self.value is None:
            return None
        low = -float("inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return low <= self.value <= high


@dataclass
class Row:
    """One row of the results.

    figure: the key of the figure that is compared, in `unit`
    more: keys of other figures that are shown
    error: why it could not be measured at all
    """

    title: str
    unit: str
    figure: str
    entrants: dict[str, Series] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    more: tuple[str, ...] = ()
    note: str = ""
    error: str = ""

    def of(self, label: str) -> float | None:
        """A contestant's median, if it has one."""
        return self.entrants[label].median if label in self.entrants else None

    def ratio(self, label: str, other: str) -> float | None:
        """One contestant's median as a multiple of another's."""
        return divided(self.of(label), self.of(other))

    def best_quorum_peer(self) -> str | None:
        """The other library with the most cycles a second over a quorum of servers."""
        rates = {
            label: series.median
            for label, series in self.entrants.items()
            if series.role == "peer" and series.quorum and series.median is not None
        }
        return max(rates, key=lambda label: rates[label], default=None)

    @property
    def sound(self) -> bool:
        """Whether every lock and unlock of this library succeeded, and nothing was held twice."""
        ours = [series for series in self.entrants.values() if series.role == "ours"]
        overlaps = sum(figures.get("overlaps", 0) for series in ours for figures in series.rounds)
        trouble = any(s.failures or s.left or s.error or not s.rounds for s in ours)
        return not (self.error or overlaps or trouble)

    def plain(self) -> Figures:
        """Everything, as JSON."""
        plain = asdict(self)
        plain["checks"] = [{**asdict(check), "met": check.met} for check in self.checks]
        return {**plain, "sound": self.sound}


def divided(value: float | None, by: float | None) -> float | None:
    """The ratio, if both exist."""
    return value / by if value is not None and by else None


@dataclass(frozen=True)
class Entrant:
    """A contestant in a row.

    request: what its process is asked for, or what measures it here, without a process of its own
    during: entered when it is warm, left when it has measured
    on: its servers, whose contents stay; None: the row's, emptied before each round
    quorum: whether it locks on a quorum of servers
    """

    label: str
    contestant: Contestant | None
    request: Figures | Callable[[], Figures]
    during: Callable[[], AbstractContextManager[object]] = nullcontext
    on: Servers | None = None
    quorum: bool = True

    @property
    def series(self) -> Series:
        """An empty series for its figures."""
        role: Role = "peer" if self.contestant in PEERS.values() else "ours"
        return Series("limit" if self.label.startswith(LIMIT) else role, self.quorum)


class Bench:
    """Measures rows. Knows what runs each contestant, and what could not be installed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.versions: dict[str, dict[str, str]] = {}
        self.missing: dict[str, str] = {}
        self._commands = {contestant.name: command(contestant) for contestant in (OURS, PLAIN, BARE)}

    def install_peers(self) -> None:
        """Makes the peers' environments where they are missing; the results name what failed."""
        for contestant in map(PEERS.__getitem__, self.settings.peers):
            try:
                self._commands[contestant.name] = command(contestant)
            except InstallFailed as failed:
                self.missing[contestant.name] = str(failed)

    def alone(self, contestant: Contestant, servers: Servers, request: Figures) -> Figures:
        """Measures once in a new process. Raises Failed."""
        with self._process(contestant) as runner:
            return runner.measure({"groups": servers.groups, "name": "alone", **request})

    def _process(self, contestant: Contestant) -> Runner:
        return Runner(self._commands[contestant.name], self.variables(contestant))

    def variables(self, contestant: Contestant) -> dict[str, str]:
        """The environment variables of a contestant's process."""
        return variables(contestant, self.settings.tree)

    def compare(
        self, row: Row, servers: Servers, entrants: Sequence[Entrant], *, look: bool = True, rounds: int | None = None
    ) -> Row:
        """Fills a row: in each round every contestant measures once, and each round begins with another one.

        look: after each round, look for locks that stayed on the servers
        rounds: at most
        """
        with ExitStack() as stack:
            running = self._started(row, entrants, stack)
            for number in range(min(self.settings.rounds, rounds or self.settings.rounds)):
                start = number % len(running) if running else 0
                for entrant, runner in running[start:] + running[:start]:
                    series = row.entrants[entrant.label]
                    if not series.error:
                        self._round(row, servers, entrant, runner, number, look)
        return row

    def _started(self, row: Row, entrants: Sequence[Entrant], stack: ExitStack) -> list[tuple[Entrant, Runner | None]]:
        running: list[tuple[Entrant, Runner | None]] = []
        processes: dict[str, Runner] = {}
        wanted = [PEERS[name] for name in self.settings.peers]
        for entrant in entrants:
            series = entrant.series
            if series.role == "peer" and entrant.contestant not in wanted:
                continue
            row.entrants[entrant.label] = series
            if entrant.contestant is None:
                running.append((entrant, None))
                continue
            name = entrant.contestant.name
            if name not in self._commands:
                series.error = f"not installed: {self.missing[name]}"
                continue
            try:
                if name not in processes:
                    runner = stack.enter_context(self._process(entrant.contestant))
                    processes[name] = runner
                    self.versions[name] = runner.hello["packages"]
            except Failed as failed:
                series.error = self.missing[name] = str(failed)
                continue
            running.append((entrant, processes[name]))
        return running

    def _round(
        self, row: Row, servers: Servers, entrant: Entrant, runner: Runner | None, number: int, look: bool
    ) -> None:
        series = row.entrants[entrant.label]
        if entrant.on is None:
            servers.flush()
        try:
            if runner is None:
                assert callable(entrant.request)
                series.add(entrant.request(), row.figure, 0)
                return
            assert isinstance(entrant.request, dict)
            seconds = self.settings.seconds
            if entrant.request.get("workers", 1) > 1:
                seconds *= 2 * LONG if entrant.request["op"] == "sync" else LONG
            usual = {"seconds": seconds, "warmup": self.settings.warmup, "name": f"{number}"}
            where = {"groups": (entrant.on or servers).groups}
            figures = runner.measure({**usual, **where, **entrant.request}, entrant.during)
            series.add(figures, row.figure, servers.left() if look else 0)
        except Failed as failed:
            series.error = str(failed)
