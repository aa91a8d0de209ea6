"""The row about leases that look after themselves."""

from __future__ import annotations

from benchmarks.measuring import Bench, Check, Entrant, Row, divided
from benchmarks.peers import OURS
from benchmarks.servers import Servers

__all__ = ["keeping"]

TTL = 30.0
TTLS = 3
SERVERS = 5
KIB = 1024


def keeping(bench: Bench, five: Servers) -> Row:
    """Many leases that one process keeps."""
    count = bench.settings.sized(100_000, 50)
    ttl, ttls = (2.0, 1) if bench.settings.tiny else (TTL, TTLS)
    row = Row(
        f"keeping: {count:,} leases with a ttl of {ttl:g} s that extend themselves for {ttls} ttls",
        "% of a core",
        "cpu",
        more=("lost", "writes", "bytes", "alone_p50_us", "beside_p50_us", "alone_p99_us", "beside_p99_us"),
    )
    plain, traced = OURS.name, f"{OURS.name}, tracemalloc"
    request = {"op": "keeping", "leases": count, "ttl": ttl, "ttls": ttls, "traced": False}
    request = {**request, "seconds": ttl * (ttls + 2)}
    everybody = [Entrant(plain, OURS, request), Entrant(traced, OURS, {**request, "traced": True, "ttls": 1})]
    bench.compare(row, five, everybody, rounds=1)
    series, by_objects = row.entrants[plain], row.entrants[traced]
    commands = count * 3 / ttl * SERVERS
    row.checks = [
        Check("leases lost", series.middle("lost"), at_most=0),
        Check("% of a core", row.of(plain), at_most=35),
        Check("KiB a lease, resident set", divided(series.middle("bytes"), KIB), at_most=1.5),
        Check("KiB a lease, tracemalloc", divided(by_objects.middle("bytes"), KIB), at_most=1.5),
        Check("commands a write", divided(commands, series.middle("writes")), at_least=5),
        Check(
            "× the p99 of lock + unlock without them, beside them",
            divided(series.middle("beside_p99_us"), series.middle("alone_p99_us")),
            at_most=1.2,
        ),
    ]
    row.note = (
        "Acquired together, each extended three times in a ttl. A task beside locks and unlocks another resource every "
        "10 ms, also for a ttl before and a ttl after; what it costs is included. Writes are system calls a second. "
        "With tracemalloc, which makes everything slower, only the bytes say something, and one ttl is enough."
    )
    return row
