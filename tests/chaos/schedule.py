"""What will be damaged, when and for how long: a schedule made from a seed, the same every time.

A run is a number of rounds, and a round has three phases: a *storm*, in which at most a minority of servers is damaged
at once and workers are paused and killed; an *outage*, in which a majority is out of reach; a *calm*, in which nothing
is damaged and every resource must be acquired. In every other round, the last one among them, the outage comes first:
so leases live on from the storm into the calm.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from random import Random
from typing import Final

__all__ = [
    "AWAY",
    "HANDOVER",
    "HEALED",
    "LIFE",
    "MAX_TTL",
    "QUARANTINE",
    "SERVERS",
    "SERVER_KINDS",
    "WORKERS",
    "Fault",
    "Kind",
    "Phase",
    "Plan",
    "Round",
    "make_plan",
]

SERVERS: Final = 5
WORKERS: Final = 4
MAX_TTL: Final = 2.0
"""The greatest ttl, seconds, that workers use."""
AWAY: Final = 0.05
"""Seconds that a server stays away that comes back empty: clients have to see that it forgot what it granted."""
QUARANTINE: Final = 2.2
"""Seconds for which it grants nothing then: a bit more than the power of two above the greatest ttl."""
LIFE: Final = 1.5
"""Seconds that servers count somebody who waits without hearing of them, `waiter_ttl`: so short that workers are paused
for longer, and that little of a run goes by until the dead are forgotten."""
HANDOVER: Final = LIFE * 4 / 3 + MAX_TTL + QUARANTINE + 1.0
"""Seconds within which a lock is handed over to somebody who waits, once nothing is damaged: what a dead owner held has
expired, the dead who waited before are forgotten, every server grants locks, the first who lives comes again; and the
machine is busy."""

HEALED: Final = 3.0
"""Seconds after which, when nothing was damaged for so long, a lease is on every server."""

_HALTS: Final = ((0.05, 0.3), (0.3, LIFE), (LIFE, 1.2 * MAX_TTL))
"""Shorter and longer than whoever is told that a lock is free is waited for (250 ms), and than it is counted."""
_ROUND: Final = 10.0
_OUTAGE: Final = 1.3
_CALM: Final = 1.5
_LAST_CALM: Final = HEALED + 0.5
_CALM_TAKES: Final = 2.5  # on average, until everybody is served
_SHORTEST_STORM: Final = 2.0
_TRACKS: Final = (SERVERS - 1) // 2  # as many servers are damaged at once in a storm, a minority


class Kind(enum.Enum):
    """A kind of fault."""

    KILL = "server killed"
    RESTART = "server restarted"
    PAUSE = "server paused"
    STALL = "connections stalled"
    CUT = "connections cut"
    VANISH = "connections vanished"
    DELAY = "connections delayed"
    FLUSH = "server flushed"
    LAG = "many connections delayed"
    HALT = "worker paused"
    SLAY = "worker killed"


SERVER_KINDS: Final = (Kind.KILL, Kind.RESTART, Kind.PAUSE, Kind.STALL, Kind.CUT, Kind.VANISH, Kind.DELAY, Kind.FLUSH)


class Phase(enum.Enum):
    """A part of a round."""

    STORM = "storm"
    OUTAGE = "outage"
    CALM = "calm"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is done and taken back.

    at: seconds after its phase began; target: index of the server or worker, -1 for all; lasts: seconds at least
    amount: seconds of delay in each direction, or how long after a cut what was in flight still lands
    """

    at: float
    kind: Kind
    target: int
    lasts: float
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class Round:
    """A storm, an outage and a calm.

    outage_first: whether the outage comes before the storm
    calm: the least seconds of it
    """

    storm: tuple[Fault, ...]
    outage: tuple[Fault, ...]
    outage_first: bool
    calm: float


@dataclass(frozen=True, slots=True)
class Plan:
    """keeps: for each server whether it keeps its data when it ends, or comes back empty
    slain: the workers that are killed together when the others have ended: nobody is left to tidy up
    """

    seed: int
    keeps: tuple[bool, ...]
    rounds: tuple[Round, ...]
    slain: tuple[int, ...]


class _Deck:
    """Deals every kind once, in random order, before it deals one again."""

    def __init__(self, chance: Random, kinds: tuple[Kind, ...]) -> None:
        self._chance, self._kinds = chance, kinds
        self._left: list[Kind] = []

    def deal(self) -> Kind:
        if not self._left:
            self._left = self._chance.sample(self._kinds, len(self._kinds))
        return self._left.pop()

    def put_back(self, kind: Kind) -> None:
        self._left.append(kind)


def make_plan(seed: int, seconds: float) -> Plan:
    """The schedule of a run of about so many seconds."""
    chance = Random(seed)
    durable = chance.sample(range(SERVERS), chance.choice((2, 3)))
    keeps = tuple(server in durable for server in range(SERVERS))
    servers, workers = _Deck(chance, SERVER_KINDS), _Deck(chance, (Kind.HALT, Kind.SLAY))
    count = max(1, math.floor(seconds / _ROUND))
    calms = count * _CALM_TAKES + (_LAST_CALM - _CALM_TAKES if count > 1 else 0.0)
    storm = max(_SHORTEST_STORM, (seconds - calms) / count - _OUTAGE)
    rounds = tuple(
        Round(
            tuple(
                sorted(
                    [
                        *_tracks(chance, servers, keeps, storm),
                        *_lag(chance, storm),
                        *_on_workers(chance, workers, storm),
                    ],
                    key=lambda fault: fault.at,
                )
            ),
            _outage(chance, keeps),
            left % 2 == 1 and count > 1,
            _LAST_CALM if left == 1 and count > 1 else _CALM,
        )
        for left in range(count, 0, -1)
    )
    return Plan(seed, keeps, rounds, tuple(chance.sample(range(WORKERS), 2)))


def _tracks(chance: Random, deck: _Deck, keeps: tuple[bool, ...], length: float) -> list[Fault]:
    """In each track one server is damaged after the other, never one that another track has."""
    faults: list[Fault] = []
    free = [chance.uniform(0, 0.5) for _ in range(_TRACKS)]
    busy = [0.0] * SERVERS
    while free:
        at = free.pop(free.index(min(free)))
        kind = deck.deal()
        target = chance.choice([server for server in range(SERVERS) if busy[server] <= at])
        lasts = _lasts(chance, kind, keeps[target])
        if at + lasts > length:
            deck.put_back(kind)
            continue
        amount = chance.uniform(0.02, 0.35) if kind is Kind.DELAY else chance.uniform(0.1, 0.8)
        faults.append(Fault(at, kind, target, lasts, amount))
        busy[target] = at + lasts + 0.1
        free.append(at + lasts + chance.uniform(0.1, 0.4))
    return faults


def _lasts(chance: Random, kind: Kind, keeps: bool) -> float:
    if kind is Kind.FLUSH:
        return AWAY
    if kind in (Kind.KILL, Kind.RESTART):
        return chance.uniform(0, 0.8) if keeps else AWAY
    return {Kind.CUT: 0.1, Kind.VANISH: 0.7}.get(kind, chance.uniform(0.3, 1.5))


def _lag(chance: Random, length: float) -> list[Fault]:
    """Slow replies from a majority make elapsed time count."""
    lasts = 0.6 * length
    return [Fault(chance.uniform(0, length - lasts), Kind.LAG, -1, lasts, chance.uniform(0.05, 0.09))]


def _on_workers(chance: Random, deck: _Deck, length: float) -> list[Fault]:
    faults, at = [], chance.uniform(0.2, 0.6)
    while at < length:
        kind, target = deck.deal(), chance.randrange(WORKERS)
        lasts = min(chance.uniform(*chance.choice(_HALTS)), length - at) if kind is Kind.HALT else 0.0
        faults.append(Fault(at, kind, target, lasts))
        at += lasts + chance.uniform(0.3, 1.2)
    return faults


def _outage(chance: Random, keeps: tuple[bool, ...]) -> tuple[Fault, ...]:
    """A majority out of reach; servers that would forget are not ended."""
    count = chance.randint(SERVERS // 2 + 1, SERVERS)
    faults = []
    for target in chance.sample(range(SERVERS), count):
        kind = chance.choice((Kind.PAUSE, Kind.STALL, Kind.KILL) if keeps[target] else (Kind.PAUSE, Kind.STALL))
        faults.append(Fault(chance.uniform(0, 0.2), kind, target, _OUTAGE - 0.2))
    return tuple(faults)
