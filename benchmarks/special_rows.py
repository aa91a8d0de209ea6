"""The other rows: one server, outages, full servers, many groups, contention, imports, memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace

from benchmarks.measuring import LIMIT, Bench, Check, Entrant, Row, divided
from benchmarks.peers import BARE, OURS, PEERS
from benchmarks.rows import BATCH, RATE, TASKS, aio, at_a_time, batches, limit
from benchmarks.runners import Failed, Figures
from benchmarks.servers import Servers, servers

__all__ = ["groups", "imports", "keys", "many_on_one", "memory", "outage"]

HOLD = 0.001
KIB = 1024


def many_on_one(bench: Bench, _: Servers) -> Row:
    """Batches on one server, beside a library that does nothing else."""
    row = Row("lock_many + unlock_many, one server", RATE, "rate", more=("cpu_us",))
    peer = PEERS["redlock_batched"]
    sizes = (100,) if bench.settings.tiny else (200, 1_000, BATCH)
    entrants = [batches(at_a_time(who, size), who, size, quorum=False) for size in sizes for who in (OURS, peer)]
    with servers(size=1) as one:
        bench.compare(row, one, entrants)
    row.checks = [
        Check(f"× {peer.name}, {size:,} at a time", row.ratio(at_a_time(OURS, size), at_a_time(peer, size)), at_least=1)
        for size in sizes
    ]
    row.note = "Where there is no cargo, the library in Rust is left out."
    return row


def outage(bench: Bench, five: Servers) -> Row:
    """One server of five is away."""
    tasks = bench.settings.sized(TASKS, 10)
    row = Row(f"one server of five away, uvloop, {tasks} tasks", RATE, "rate", more=("p99_us",))
    healthy, paused, dead = (f"{OURS.name}, {what}" for what in ("all five", "one paused", "one dead"))
    entrants = [
        aio(healthy, OURS, tasks),
        replace(aio(paused, OURS, tasks), during=five.paused),
        replace(aio(dead, OURS, tasks), during=five.dead),
    ]
    bench.compare(row, five, entrants)
    row.checks = [
        Check("of the healthy rate, one paused", row.ratio(paused, healthy), at_least=0.9),
        Check("of the healthy rate, one dead", row.ratio(dead, healthy), at_least=0.9),
    ]
    row.note = "The server is paused (SIGSTOP) or killed just before the clock starts, so noticing it is included."
    return row


def keys(bench: Bench, five: Servers) -> Row:
    """Servers that hold many other keys."""
    count = bench.settings.sized(1_000_000, 1000)
    tasks = bench.settings.sized(TASKS, 10)
    row = Row(f"0 → {count:,} keys held on each server, uvloop, {tasks} tasks", RATE, "rate", more=("p99_us",))
    empty, full = f"{OURS.name}, 0 keys", f"{OURS.name}, {count:,} keys"
    with servers() as others:
        others.fill(count)
        entrants = [aio(empty, OURS, tasks), replace(aio(full, OURS, tasks), on=others)]
        limits = [*limit(bench, five, ", 0 keys"), *limit(bench, others, f", {count:,} keys")]
        bench.compare(row, five, [*entrants, *limits], look=False)
    row.checks = [Check("of the rate on empty servers", row.ratio(full, empty), at_least=0.85, at_most=1.15)]
    if limits:
        ratio = row.ratio(f"{LIMIT}, {count:,} keys", f"{LIMIT}, 0 keys")
        row.checks.append(Check("of the C limit on empty servers, the C limit on full ones", ratio))
    row.note = (
        "The full servers are five others like the first; their keys have a ttl, as locks have. What the C program "
        "loses on them is lost by the servers themselves."
    )
    return row


def groups(bench: Bench, _: Servers) -> Row:
    """More and more groups of three servers."""
    tasks = bench.settings.sized(TASKS, 10)
    row = Row(f"1 → 100 groups of three servers, uvloop, {tasks} tasks", RATE, "rate", more=("cpu_us", "p99_us"))
    for count in (2,) if bench.settings.tiny else (1, 10, 100):
        plural = "1 group" if count == 1 else f"{count} groups"
        ours, bare = f"{OURS.name}, {plural}", f"{BARE.name}, {plural}"
        with servers(groups=count, size=3) as layout:
            # Looking for keys in hundreds of servers is slower than measuring; both know whether they unlocked.
            bench.compare(row, layout, [aio(ours, OURS, tasks), aio(bare, BARE, tasks)], look=False)
        row.checks.append(Check(f"of bare connections, {plural}", row.ratio(ours, bare), at_least=0.7))
    row.note = "Bare connections: as many, on the same loop, with the same commands, but no locks."
    return row


_COLD = """\
import json, os, sys, time
from pathlib import Path
began = time.perf_counter()
exec(sys.argv[1])
elapsed = time.perf_counter() - began
pages = int(Path("/proc/self/statm").read_text().split()[1])
mib = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
print(json.dumps({"ms": elapsed * 1e3, "rss_mib": mib, "modules": len(sys.modules)}))
"""


def imports(bench: Bench, five: Servers) -> Row:
    """A fresh process for each import."""
    row = Row("import in a fresh process", "ms", "ms", more=("rss_mib", "modules"))
    ours, first = "import redlock_cluster", "from redlock_cluster import Supervisor"
    statements = {
        ours: ours,
        "import redis": "import redis",
        first: first,
        "from redlock_cluster import AsyncSupervisor": "from redlock_cluster import AsyncSupervisor",
        "nothing": "pass",
    }

    def cold(statement: str) -> Figures:
        command = [sys.executable, "-c", _COLD, statement]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tempfile.gettempdir(), env=bench.variables(OURS), check=False
        )
        if done.returncode:
            raise Failed(done.stderr.strip().splitlines()[-1])
        figures: Figures = json.loads(done.stdout)
        return figures

    def many_times(statement: str) -> Figures:
        found = [cold(statement) for _ in range(bench.settings.sized(5, 1))]
        return sorted(found, key=lambda figures: figures["ms"])[len(found) // 2]

    entrants = [
        Entrant(label, None, lambda statement=statement: many_times(statement))  # type: ignore[misc]
        for label, statement in statements.items()
    ]
    bench.compare(row, five, entrants)
    memory_of = {label: series.middle("rss_mib") for label, series in row.entrants.items()}
    row.checks = [
        Check("× import redis, time", row.ratio(ours, "import redis"), at_most=1),
        Check("× import redis, resident memory", divided(memory_of[ours], memory_of["import redis"]), at_most=1),
        Check("× import redis, time, with Supervisor", row.ratio(first, "import redis")),
    ]
    row.note = "Names are loaded when first used, so the third and fourth line are what a program pays in the end."
    return row


def memory(bench: Bench, five: Servers) -> Row:
    """Leases that are held."""
    count = bench.settings.sized(100_000, 500)
    row = Row(f"memory of the client's process for a held lease, {count:,} held", "bytes", "bytes")
    resident, traced = f"{OURS.name}, resident set", f"{OURS.name}, tracemalloc"

    def held(traced: bool) -> Figures:
        return bench.alone(OURS, five, {"op": "memory", "leases": count, "traced": traced})

    entrants = [Entrant(resident, None, lambda: held(False)), Entrant(traced, None, lambda: held(True))]
    bench.compare(row, five, entrants)
    row.checks = [
        Check("KiB, resident set", divided(row.of(resident), KIB), at_most=1.5),
        Check("KiB, tracemalloc", divided(row.of(traced), KIB), at_most=1.5),
    ]
    return row
