"""The rows about kinds of locks: fences, readers and writers, semaphores, against the same with the exclusive lock."""

from __future__ import annotations

from benchmarks.measuring import Bench, Check, Entrant, Row
from benchmarks.peers import OURS
from benchmarks.rows import RATE, TASKS, aio
from benchmarks.servers import Servers
from benchmarks.waiting import HOLD, PHASE, ROUNDS

__all__ = ["fences", "read_write_8", "readers", "semaphore_8"]

PROCESSES = 8
PERMITS = 4

LONG_HOLD = 10 * HOLD
"""Seconds that leave servers and clients idle enough on two cores, so that the lock is what limits."""

LONGER = ", kept for 10 ms"

EXCLUSIVE = f"{OURS.name}, exclusive"
FENCED = f"{OURS.name}, fenced"
READS = f"{OURS.name}, read"
READS_OF_ONE = f"{OURS.name}, read, all of one resource"
READ_WRITE = f"{OURS.name}, nine reads in ten"
SEMAPHORE = f"{OURS.name}, {PERMITS} permits"


def fences(bench: Bench, five: Servers) -> Row:
    """Many tasks whose locks have fences, beside as many whose locks have none."""
    tasks = bench.settings.sized(TASKS, 10)
    row = Row(f"fences, asyncio on uvloop, {tasks} tasks, distinct resources", RATE, "rate", more=("cpu_us", "p99_us"))
    everybody = [aio(EXCLUSIVE, OURS, tasks), Entrant(FENCED, OURS, {"op": "fenced", "workers": tasks})]
    bench.compare(row, five, everybody)
    row.checks = [Check("of the lock without a fence", row.ratio(FENCED, EXCLUSIVE), at_least=0.5)]
    row.note = "A fenced lock is taken by a script, and released by the same command as any other."
    return row


def readers(bench: Bench, five: Servers) -> Row:
    """Many tasks that read, beside as many that lock."""
    tasks = bench.settings.sized(TASKS, 10)
    row = Row(f"read locks, asyncio on uvloop, {tasks} tasks", RATE, "rate", more=("cpu_us", "p99_us"))
    everybody = [aio(EXCLUSIVE, OURS, tasks)]
    for label, one in ((READS, False), (READS_OF_ONE, True)):
        everybody.append(Entrant(label, OURS, {"op": "reads", "workers": tasks, "one": one}))
    bench.compare(row, five, everybody)
    row.checks = [
        Check(f"of the exclusive lock: {label}", row.ratio(label, EXCLUSIVE), at_least=0.35)
        for label in (READS, READS_OF_ONE)
    ]
    row.note = "Distinct resources where nothing else is said. A read lock is taken and released by scripts."
    return row


def read_write_8(bench: Bench, five: Servers) -> Row:
    """A few processes that mostly read one resource and sometimes write it."""
    row = _shared(bench, five, "nine times of ten to read it", READ_WRITE, "read-write", ("alone_p99_ms",))
    for label, series in row.entrants.items():
        if label.startswith(READ_WRITE):
            hold = LONG_HOLD if label.endswith(LONGER) else HOLD
            wait = series.middle("alone_p99_ms")
            text = f"ms, p99 of the waits to write{LONGER if hold is LONG_HOLD else ''}"
            row.checks.append(Check(text, wait, at_most=10 * hold * PROCESSES * 1e3))
    row.note = (
        "An overlap is a writer beside anybody. Readers and writers who go in the order in which they come can do 3.9 "
        "times as much as one at a time, if nothing else limits them."
    )
    return row


def semaphore_8(bench: Bench, five: Servers) -> Row:
    """A few processes that share some permits."""
    row = _shared(bench, five, f"{PERMITS} at a time", SEMAPHORE, "permit", ())
    row.note = f"An overlap is an acquisition while {PERMITS} hold permits."
    return row


def _shared(bench: Bench, five: Servers, how: str, label: str, kind: str, more: tuple[str, ...]) -> Row:
    """Some kind of lock, and the exclusive one for the same work, each kept for a short and for a longer time."""
    count = bench.settings.sized(PROCESSES, 5)
    row = Row(
        f"{kind}: {count} processes that want one resource, {how}, and keep it for 1 ms or for 10 ms",
        "acquisitions per second",
        "rate",
        more=("handovers", "jain", "handover_p50_ms", "handover_p99_ms", *more, "wait_max_ms", "overlaps"),
    )
    seconds = 1.0 if bench.settings.tiny else PHASE
    request = {"op": "kinds", "processes": count, "permits": PERMITS, "seconds": seconds}
    everybody = [
        Entrant(f"{name}{suffix}", OURS, {**request, "kind": what, "hold": hold})
        for suffix, hold in (("", HOLD), (LONGER, LONG_HOLD))
        for name, what in ((label, kind), (EXCLUSIVE, "write"))
    ]
    bench.compare(row, five, everybody, look=False, rounds=ROUNDS)
    overlaps = sum(figures["overlaps"] for series in row.entrants.values() for figures in series.rounds)
    row.checks = [
        Check("overlaps", float(overlaps), at_most=0),
        *(
            Check(f"× one at a time{suffix}", row.ratio(f"{label}{suffix}", f"{EXCLUSIVE}{suffix}"), at_least=3)
            for suffix in ("", LONGER)
        ),
    ]
    return row
