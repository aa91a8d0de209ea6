"""The rows about waiting: handing over a lock that others wait for."""

from __future__ import annotations

from functools import partial

from benchmarks.measuring import Bench, Check, Entrant, Row, divided
from benchmarks.peers import OURS, PEERS, Contestant
from benchmarks.rows import ONE
from benchmarks.runners import Figures
from benchmarks.servers import Servers

__all__ = ["crowd", "handover_8", "handover_16", "handover_64", "queue", "queue_memory", "wakeup"]

HOLD = 0.001
THINK = 0.0005
PHASE = 3.0
"""Seconds that a crowd of processes is measured: some libraries favour one process for seconds."""

ROUNDS = 3
"""At most, as these measurements are long."""

PATIENCE = 60.0
"""Seconds in which all who wait must be served."""

ASYNCIO = f"{OURS.name} asyncio"
SINGLE = f"python-redis-lock{ONE}"
THINKING = ", thinking"


def handover_8(bench: Bench, five: Servers) -> Row:
    """A few processes that all want the same lock."""
    return _handover(bench, five, 8)


def handover_16(bench: Bench, five: Servers) -> Row:
    """Some more of them."""
    return _handover(bench, five, 16)


def handover_64(bench: Bench, five: Servers) -> Row:
    """Many of them; of the libraries that poll only the two that hand over most."""
    return _handover(bench, five, 64)


def _handover(bench: Bench, five: Servers, processes: int) -> Row:
    count = bench.settings.sized(processes, 4)
    row = Row(
        f"handover: {count} processes that want one lock and keep it for 1 ms",
        "handovers per second",
        "handovers",
        more=("rate", "jain", "handover_p50_ms", "handover_p99_ms", "wait_max_ms", "hold_p50_ms", "overlaps"),
    )
    hold = 5 * HOLD if bench.settings.tiny else HOLD
    seconds = 0.6 if bench.settings.tiny else PHASE

    def entrants(label: str, contestant: Contestant, face: str = "sync", *, quorum: bool = True) -> list[Entrant]:
        request = {"op": "contend", "processes": count, "seconds": seconds, "hold": hold, "face": face}
        # Loops have timers of whole milliseconds: a task can't think for half of one.
        thoughts = (0.0, THINK) if face == "sync" else (0.0,)
        return [
            Entrant(f"{label}{THINKING if think else ''}", contestant, {**request, "think": think}, quorum=quorum)
            for think in thoughts
        ]

    everybody = [*entrants(OURS.name, OURS), *entrants(ASYNCIO, OURS, "aio")]
    everybody += entrants(SINGLE, PEERS["python-redis-lock"], quorum=False)
    everybody += [*entrants("redlock-ng", PEERS["redlock-ng"]), *entrants("pottery", PEERS["pottery"])]
    if processes <= 16:
        everybody += entrants("redlock-py", PEERS["redlock-py"])
        everybody += entrants("aioredlock", PEERS["aioredlock"], "aio")
        everybody += entrants(f"redis Lock{ONE}", PEERS["redis"], quorum=False)
    everybody.sort(key=lambda entrant: entrant.label.endswith(THINKING))  # who is compared is measured shortly after
    bench.compare(row, five, everybody, look=False, rounds=ROUNDS)
    ours = [
        figures["overlaps"] for series in row.entrants.values() if series.role == "ours" for figures in series.rounds
    ]
    theirs = sum(figures["overlaps"] for series in row.entrants.values() for figures in series.rounds) - sum(ours)
    row.checks = [
        Check("overlaps", float(sum(ours)) if ours else None, at_most=0),
        Check(f"× {SINGLE}", row.ratio(OURS.name, SINGLE), at_least=1),
        Check(f"× {SINGLE}, both thinking", row.ratio(f"{OURS.name}{THINKING}", f"{SINGLE}{THINKING}"), at_least=0.75),
        *(Check(f"× {name}", row.ratio(OURS.name, name), at_least=10) for name in ("redlock-ng", "pottery")),
    ]
    if OURS.name in row.entrants:
        series = row.entrants[OURS.name]
        long, usual = series.middle("handover_p99_ms"), series.middle("handover_p50_ms")
        row.checks += [
            Check("fairness", series.middle("jain"), at_least=0.98),
            Check("the wait, p99 as a multiple of p50", divided(long, usual), at_most=2.5),
        ]
    row.note = (
        "Everybody's defaults. A handover is an acquisition by another process than the one before; p50 and p99 are of "
        "the waits that ended in one. The longest wait may be one that had not ended. Thinking: each process stays "
        "away for 0.5 ms after a release. Fairness is Jain's index over the processes: 1 is equal shares. Overlaps of "
        f"other libraries: {theirs}."
    )
    return row


def wakeup(bench: Bench, five: Servers) -> Row:
    """From a release in one process to the lock in another."""
    row = Row(
        "wake-up: from a release in one process to the lock in another",
        "ms, p50",
        "wakeup_p50_ms",
        more=("wakeup_p99_ms", "wait_max_ms", "round_p50_ms", "round_p99_ms", "in_rounds", "in_rounds_p99"),
    )
    # So many at once that it does not take for ever, so few that those who still wait do not disturb.
    short, long = {"asleep": 0.5, "at_once": 40, "batches": 5}, {"asleep": 5.0, "at_once": 60, "batches": 1}
    if bench.settings.tiny:
        short, long = {"asleep": 0.05, "at_once": 4, "batches": 1}, {"asleep": 0.2, "at_once": 4, "batches": 1}
    names = {"after 0.5 s": short, "after 5 s": long}

    def entrants(label: str, contestant: Contestant, face: str, *, quorum: bool = True) -> list[Entrant]:
        return [
            Entrant(f"{label}, {name}", contestant, {"op": "wakeup", "face": face, **request}, quorum=quorum)
            for name, request in names.items()
        ]

    everybody = [*entrants(OURS.name, OURS, "sync"), *entrants(ASYNCIO, OURS, "aio")]
    everybody += entrants(SINGLE, PEERS["python-redis-lock"], "sync", quorum=False)
    everybody += entrants("redlock-ng", PEERS["redlock-ng"], "sync")[:1]
    everybody += entrants("pottery asyncio", PEERS["pottery"], "aio")[:1]
    everybody += entrants(f"redis Lock{ONE}", PEERS["redis"], "sync", quorum=False)[:1]
    bench.compare(row, five, everybody, rounds=ROUNDS)

    def rounds(label: str) -> float | None:
        return row.entrants[label].middle("in_rounds") if label in row.entrants else None

    row.checks = [
        Check(
            f"of its own rounds, {label}, {name}",
            rounds(f"{label}, {name}"),
            at_most=None if label == SINGLE else 3,
        )
        for label in (OURS.name, ASYNCIO, SINGLE)
        for name in names
        if f"{label}, {name}" in row.entrants
    ]
    row.checks += [
        Check(f"ms, p99, {label}", series.middle("wakeup_p99_ms"), at_most=20)
        for label, series in row.entrants.items()
        if series.role == "ours"
    ]
    row.note = (
        f"Of {short['at_once'] * short['batches']} releases each time ({long['at_once']} after 5 s), and of as many "
        "rounds (`lock` of a free resource) between them, with 10 ms before each of both. Several locks are waited for "
        "at once, each by a thread or a task of its own, for that long at least; they are released one by one."
    )
    return row


def crowd(bench: Bench, five: Servers) -> Row:
    """Many clients that wait for one lock that is held for seconds."""
    clients = bench.settings.sized(100, 8)
    row = Row(
        f"crowd: {clients} wait for one lock that is held for 5 s",
        "ms until all were served",
        "served_ms",
        more=("round_p50_ms", "in_rounds", "rounds_each", "commands", "commands_client", "health_client"),
    )
    held = 1.0 if bench.settings.tiny else 5.0
    apart = {"op": "crowd", "processes": 4, "clients": clients // 4, "waiters": 1, "held": held, "seconds": PATIENCE}
    one = {"op": "crowd", "processes": 1, "clients": 1, "waiters": clients, "held": held, "seconds": PATIENCE}
    many_clients, one_client = f"{ASYNCIO}, a client each", f"{ASYNCIO}, tasks of one client"

    def entrant(label: str, contestant: Contestant, request: Figures, face: str, quorum: bool = True) -> Entrant:
        return Entrant(label, contestant, {**request, "face": face}, quorum=quorum)

    single = PEERS["python-redis-lock"]
    everybody = [
        entrant(many_clients, OURS, apart, "aio"),
        entrant(one_client, OURS, one, "aio"),
        entrant(f"{OURS.name}, threads of one client", OURS, one, "sync"),
        entrant(f"{SINGLE}, a client each", single, apart, "sync", False),
        entrant(f"{SINGLE}, threads of one client", single, one, "sync", False),
        entrant("redlock-ng asyncio, a client each", PEERS["redlock-ng"], apart, "aio"),
    ]
    bench.compare(row, five, everybody, rounds=ROUNDS)
    for label in (many_clients, one_client, f"{SINGLE}, a client each"):
        if label in row.entrants:
            series, ours = row.entrants[label], row.entrants[label].role == "ours"
            commands, rounds = series.middle("commands_client"), series.middle("in_rounds")
            row.checks += [
                Check(f"commands a second of a client that waits, {label}", commands, at_most=4 if ours else None),
                Check(f"rounds until all were served, {label}", rounds, at_most=5 * clients if ours else None),
            ]
    row.note = (
        "Commands that clients send to all servers together while they wait, as MONITOR shows them; what scripts "
        "execute is not counted, and health checks stand apart. A client each: in four processes. A round is `lock` of "
        "a free resource, with 10 ms before each."
    )
    return row


def queue(bench: Bench, five: Servers) -> Row:
    """Thousands of tasks of one process that wait for one lock."""
    count = bench.settings.sized(20_000, 100)
    row = Row(
        f"queue: {count:,} tasks of one process that want one lock",
        "served per second",
        "rate",
        more=("alone", "stall_ms", "stall_begin_ms"),
    )
    request = {"op": "queueing", "tasks": count, "seconds": PATIENCE}
    bench.compare(row, five, [Entrant(ASYNCIO, OURS, request)], rounds=ROUNDS)
    alone = row.entrants[ASYNCIO].middle("alone")
    row.checks = [Check("of the rate of one task with free resources", divided(row.of(ASYNCIO), alone))]
    row.note = (
        "The longest stall is the greatest time by which a task that sleeps for 1 ms woke too late: while all are "
        "served, and while they begin to wait."
    )
    return row


def queue_memory(bench: Bench, five: Servers) -> Row:
    """What the tasks cost while they wait."""
    count = bench.settings.sized(20_000, 500)
    row = Row(f"memory of the client's process for a task that waits, {count:,} waiting", "bytes", "bytes")
    ways = {"resident set": False, "tracemalloc": True}

    def waiting(bare: bool, traced: bool) -> Figures:
        return bench.alone(OURS, five, {"op": "waiters", "tasks": count, "bare": bare, "traced": traced})

    everybody = [
        Entrant(f"{label}, {way}", None, partial(waiting, bare, traced))
        for label, bare in ((OURS.name, False), ("a task and a future", True))
        for way, traced in ways.items()
    ]
    bench.compare(row, five, everybody, rounds=ROUNDS)
    for way in ways:
        whole, bare = row.of(f"{OURS.name}, {way}"), row.of(f"a task and a future, {way}")
        more = None if whole is None or bare is None else whole - bare
        row.checks.append(Check(f"bytes beside the caller's task and a future, {way}", more, at_most=2048))
    return row
