"""The rows that compare speed on five servers: the contestants, their requests, and the targets."""

from __future__ import annotations

from benchmarks.measuring import LIMIT, Bench, Check, Entrant, Row
from benchmarks.peers import BARE, OURS, PEERS, PLAIN, Contestant
from benchmarks.runners import Figures
from benchmarks.servers import Servers

__all__ = [
    "ONE",
    "aio",
    "aio_loop",
    "aio_sequential",
    "aio_uvloop",
    "at_a_time",
    "batches",
    "limit",
    "many",
    "sync_sequential",
    "sync_threads",
]

ONE = ", one server"
TASKS = 200
THREADS = 16
BATCH = 10_000
LIMIT_CYCLES = 100_000
RATE = "lock + unlock cycles per second"


def aio(label: str, contestant: Contestant, workers: int, loop: str = "uvloop", *, quorum: bool = True) -> Entrant:
    """A contestant in asyncio, with that many tasks on distinct resources."""
    request: Figures = {"op": "aio", "workers": workers, "loop": loop}
    return Entrant(label, contestant, request, quorum=quorum)


def sync(label: str, contestant: Contestant, workers: int, *, quorum: bool = True) -> Entrant:
    """A contestant in threads, on distinct resources."""
    return Entrant(label, contestant, {"op": "sync", "workers": workers}, quorum=quorum)


def limit(bench: Bench, servers: Servers, on: str = "") -> list[Entrant]:
    """The C program; none in a trial, which needs only this library.

    on: what the label says of the servers
    """
    if bench.settings.tiny:
        return []
    return [Entrant(f"{LIMIT}{on}", None, lambda: servers.limit(LIMIT_CYCLES))]


def _aio_peers(workers: int, loop: str) -> list[Entrant]:
    return [
        aio("redlock-ng asyncio", PEERS["redlock-ng"], workers, loop),
        aio("aioredlock", PEERS["aioredlock"], workers, loop),
        aio("pottery asyncio", PEERS["pottery"], workers, loop),
        aio(f"redis asyncio Lock{ONE}", PEERS["redis"], workers, loop, quorum=False),
    ]


def _sync_peers(workers: int) -> list[Entrant]:
    return [
        sync("redlock-py", PEERS["redlock-py"], workers),
        sync("redlock-ng", PEERS["redlock-ng"], workers),
        sync("pottery", PEERS["pottery"], workers),
        sync(f"redis Lock{ONE}", PEERS["redis"], workers, quorum=False),
        sync(f"python-redis-lock{ONE}", PEERS["python-redis-lock"], workers, quorum=False),
    ]


def _best(row: Row, times: float) -> Check:
    best = row.best_quorum_peer()
    value = None if best is None else row.ratio(OURS.name, best)
    return Check(f"× {best or 'the best quorum peer'}", value, at_least=times)


def aio_uvloop(bench: Bench, servers: Servers) -> Row:
    """asyncio on uvloop, many tasks."""
    tasks = bench.settings.sized(TASKS, 10)
    row = Row(f"asyncio on uvloop, {tasks} tasks, distinct resources", RATE, "rate", more=("cpu_us", "p99_us"))
    ours = [aio(OURS.name, OURS, tasks), aio(BARE.name, BARE, tasks)]
    if bench.settings.tree != ".":
        ours.append(aio(PLAIN.name, PLAIN, tasks))
    bench.compare(row, servers, [*ours, *_aio_peers(tasks, "uvloop"), *limit(bench, servers)])
    row.checks = [
        _best(row, 45),
        Check("of the C limit", row.ratio(OURS.name, LIMIT), at_least=0.45),
        Check("of bare connections", row.ratio(OURS.name, BARE.name)),
        *([Check("× itself, not compiled", row.ratio(OURS.name, PLAIN.name))] if PLAIN.name in row.entrants else []),
    ]
    row.note = "The C limit and the bare connections do the same commands without being a lock."
    return row


def aio_loop(bench: Bench, servers: Servers) -> Row:
    """asyncio on its own loop, many tasks."""
    tasks = bench.settings.sized(TASKS, 10)
    row = Row(f"asyncio on its own loop, {tasks} tasks, distinct resources", RATE, "rate", more=("cpu_us", "p99_us"))
    bench.compare(row, servers, [aio(OURS.name, OURS, tasks, "asyncio"), *_aio_peers(tasks, "asyncio")])
    row.checks = [_best(row, 28)]
    return row


def aio_sequential(bench: Bench, servers: Servers) -> Row:
    """asyncio, one cycle after the other."""
    row = Row("asyncio, sequential: time of lock + unlock", "µs, p50", "p50_us", more=("rate", "p99_us", "cpu_us"))
    reference = f"redis Lock{ONE}"
    entrants = [
        aio(OURS.name, OURS, 1),
        aio(f"{OURS.name}, asyncio's loop", OURS, 1, "asyncio"),
        sync(reference, PEERS["redis"], 1, quorum=False),
        *_aio_peers(1, "uvloop"),
    ]
    bench.compare(row, servers, entrants)
    asyncio_reference = f"redis asyncio Lock{ONE}"
    row.checks = [
        Check(f"× {reference}", row.ratio(OURS.name, reference), at_most=0.9),
        Check(f"× {asyncio_reference}", row.ratio(OURS.name, asyncio_reference)),
    ]
    row.note = "On uvloop where nothing else is said; `redis Lock` is the synchronous client."
    return row


def sync_sequential(bench: Bench, servers: Servers) -> Row:
    """Synchronous, one cycle after the other."""
    row = Row("synchronous, sequential: time of lock + unlock", "µs, p50", "p50_us", more=("rate", "p99_us", "cpu_us"))
    bench.compare(row, servers, [sync(OURS.name, OURS, 1), *_sync_peers(1)])
    row.checks = [
        Check(f"× redis Lock{ONE}", row.ratio(OURS.name, f"redis Lock{ONE}"), at_most=1.4),
        Check("× redlock-py", row.ratio(OURS.name, "redlock-py"), at_most=0.5),
    ]
    return row


def sync_threads(bench: Bench, servers: Servers) -> Row:
    """Synchronous, many threads."""
    row = Row(f"synchronous, {THREADS} threads, distinct resources", RATE, "rate", more=("cpu_us", "p99_us"))
    bench.compare(row, servers, [sync(OURS.name, OURS, THREADS), *_sync_peers(THREADS)])
    # 10, before 12: callers sleep on ordinary locks, no longer on CPython's through ctypes, which were never freed.
    row.checks = [_best(row, 10)]
    return row


def batches(label: str, contestant: Contestant, batch: int, *, quorum: bool = True) -> Entrant:
    """A contestant that locks and unlocks so many resources at a time, again and again."""
    return Entrant(label, contestant, {"op": "many", "batch": batch}, quorum=quorum)


def many(bench: Bench, servers: Servers) -> Row:
    """Batches."""
    batch, tasks = bench.settings.sized(BATCH, 100), bench.settings.sized(TASKS, 10)
    row = Row(f"lock_many + unlock_many, {batch:,} resources at a time", RATE, "rate", more=("cpu_us",))
    sizes = [size for size in (200, 1_000) if size < batch]
    singles = f"{OURS.name}, {tasks} tasks, one by one"
    ours = [batches(OURS.name, OURS, batch), *[batches(at_a_time(OURS, size), OURS, size) for size in sizes]]
    bench.compare(row, servers, [*ours, aio(singles, OURS, tasks), *limit(bench, servers)])
    row.checks = [
        Check("of the C limit", row.ratio(OURS.name, LIMIT), at_least=0.6),
        *[
            Check(f"× {tasks} tasks, {entrant.label}", row.ratio(entrant.label, singles), at_least=1)
            for entrant in ours
        ],
    ]
    return row


def at_a_time(contestant: Contestant, size: int) -> str:
    """The label of a contestant with batches of this size."""
    return f"{contestant.name}, {size:,} at a time"
