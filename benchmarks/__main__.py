"""`python -m benchmarks`: measures, and writes `results.json`, `RESULTS.md` and the plots."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from redis import RedisError

from benchmarks import keeping, kinds, report, rows, special_rows, waiting
from benchmarks.machine import busy, machine
from benchmarks.measuring import Bench, Row, Settings
from benchmarks.peers import PEERS, PLOTS, InstallFailed, environment
from benchmarks.runners import Failed
from benchmarks.servers import Servers, limit_version, servers
from redlock_cluster.testing import EmbeddedError

ROWS = {
    "aio-uvloop": rows.aio_uvloop,
    "aio-loop": rows.aio_loop,
    "aio-sequential": rows.aio_sequential,
    "sync-sequential": rows.sync_sequential,
    "sync-threads": rows.sync_threads,
    "many": rows.many,
    "many-on-one": special_rows.many_on_one,
    "outage": special_rows.outage,
    "keys": special_rows.keys,
    "groups": special_rows.groups,
    "handover-8": waiting.handover_8,
    "handover-16": waiting.handover_16,
    "handover-64": waiting.handover_64,
    "wakeup": waiting.wakeup,
    "crowd": waiting.crowd,
    "queue": waiting.queue,
    "queue-memory": waiting.queue_memory,
    "fences": kinds.fences,
    "readers": kinds.readers,
    "read-write-8": kinds.read_write_8,
    "semaphore-8": kinds.semaphore_8,
    "keeping": keeping.keeping,
    "imports": special_rows.imports,
    "memory": special_rows.memory,
}
HERE = Path(__file__).resolve().parent


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", help=f"only these, by comma: {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, help="of each row; the median counts (5)")
    parser.add_argument("--seconds", type=float, help="of each measurement (1)")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 0.4 s, for a first look")
    parser.add_argument("--smoke", action="store_true", help="everything once, tiny, without peers: does it work?")
    parser.add_argument("--only-ours", action="store_true", help="no other libraries")
    parser.add_argument("--peers", help=f"only these other libraries, by comma: {', '.join(PEERS)}")
    parser.add_argument("--tree", default=".", help="where this library is found, such as build/compiled")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--output", type=Path, help="the folder for what is written; `.last` for less than everything")
    given = parser.parse_args(words)
    if given.output is None:
        partial = given.rows or given.quick or given.smoke or given.only_ours or given.peers
        given.output = HERE / ".last" if partial else HERE
    for what, asked, known in (("row", given.rows, ROWS), ("library", given.peers, PEERS)):
        if unknown := set(asked.split(",") if asked else ()) - known.keys():
            parser.error(f"no such {what}: {', '.join(sorted(unknown))}")
    return given


def settings_of(given: argparse.Namespace) -> Settings:
    """How much is measured."""
    rounds, seconds, warmup = 5, 1.0, 0.4
    if given.quick:
        rounds, seconds, warmup = 3, 0.4, 0.2
    if given.smoke:
        rounds, seconds, warmup = 1, 0.05, 0.02
    return Settings(
        rounds=given.rounds or rounds,
        seconds=given.seconds or seconds,
        warmup=warmup,
        tiny=given.smoke,
        peers=() if given.smoke or given.only_ours else tuple(given.peers.split(",") if given.peers else PEERS),
        tree=given.tree,
    )


def show(text: str) -> None:
    """Writes a text at once, also when the output is a file."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def attempted(bench: Bench, name: str, five: Servers) -> Row:
    """Returns a row, or why there is none: an error in one row must not stop the others."""
    try:
        return ROWS[name](bench, five)
    except (Failed, EmbeddedError, RedisError, OSError) as error:
        return Row(title=name, unit="", figure="", error=f"{type(error).__name__}: {error}"[:300])


def measured(bench: Bench, names: Sequence[str]) -> dict[str, Row]:
    """Measures the rows, one after the other, on the same five servers."""
    done: dict[str, Row] = {}
    with servers() as five:
        bench.versions["servers"] = {"valkey": five.version, "allocator": five.allocator}
        with suppress(Failed):
            bench.versions["C limit"] = {"redis-benchmark": limit_version()}
        for name in names:
            began = time.monotonic()
            done[name] = row = attempted(bench, name, five)
            shown = f"locks {'hold' if row.sound else 'FAILED'}" if bench.settings.tiny else report.section(row)
            show(f"{shown}\n({name}: {time.monotonic() - began:.1f} s)\n")
    return done


def drawn(results: Path) -> str:
    """Draws the plots. Returns the result as a sentence."""
    try:
        python = environment(PLOTS)
    except InstallFailed as failed:
        return f"no plots: {failed}"
    command = [str(python), str(HERE / "plots.py"), str(results)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else f"no plots: {done.stderr.strip()[-300:]}"


def main() -> int:
    """Runs the benchmark. Returns the exit status."""
    given = arguments()
    bench = Bench(settings_of(given))
    if bench.settings.peers:
        bench.install_peers()
    began, load = time.monotonic(), busy(0.1 if given.smoke else 2.0)
    done = measured(bench, given.rows.split(",") if given.rows else list(ROWS))
    results = {
        "machine": {**machine(), "busy_before": load},
        "settings": vars(bench.settings),
        "seconds": time.monotonic() - began,
        "versions": bench.versions,
        "missing": bench.missing,
        "rows": {name: row.plain() for name, row in done.items()},
    }
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    (given.output / "RESULTS.md").write_text(report.markdown(results, done))
    if not given.smoke:
        show(report.verdict(done))
        show(drawn(given.output / "results.json"))
    return judged(given, done)


def judged(given: argparse.Namespace, done: dict[str, Row]) -> int:
    """Returns the exit status: 1 when locks failed in a smoke run, or with `--check` when a target was missed."""
    unsound = [name for name, row in done.items() if not row.sound]
    if unsound:
        show(f"locks failed in: {', '.join(unsound)}")
    missed = any(check.met is False for row in done.values() for check in row.checks)
    failed = unsound if given.smoke else given.check and (unsound or missed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
