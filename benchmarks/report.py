"""The results as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.measuring import Check, Row, Series

__all__ = ["markdown", "section", "verdict"]

_MORE = {
    "rate": ("cycles/s", 1.0),
    "cpu_us": ("client CPU, µs a cycle", 1.0),
    "p99_us": ("p99, ms", 1e-3),
    "handovers": ("handovers/s", 1.0),
    "handover_p50_ms": ("wait p50, ms", 1.0),
    "handover_p99_ms": ("wait p99, ms", 1.0),
    "alone_p99_ms": ("wait to hold it alone p99, ms", 1.0),
    "wait_max_ms": ("longest wait, ms", 1.0),
    "hold_p50_ms": ("held, ms", 1.0),
    "jain": ("fairness", 1.0),
    "overlaps": ("overlaps", 1.0),
    "wakeup_p99_ms": ("p99, ms", 1.0),
    "round_p50_ms": ("a round p50, ms", 1.0),
    "round_p99_ms": ("a round p99, ms", 1.0),
    "in_rounds": ("in rounds", 1.0),
    "in_rounds_p99": ("in rounds, p99", 1.0),
    "rounds_each": ("rounds each", 1.0),
    "commands": ("commands/s", 1.0),
    "commands_client": ("commands/s of a client", 1.0),
    "health_client": ("health checks/s of a client", 1.0),
    "alone": ("one task, free resources, cycles/s", 1.0),
    "stall_ms": ("longest stall, ms", 1.0),
    "stall_begin_ms": ("stall at the begin, ms", 1.0),
    "lost": ("lost", 1.0),
    "writes": ("writes/s", 1.0),
    "bytes": ("bytes a lease", 1.0),
    "alone_p50_us": ("lock + unlock without them, p50, ms", 1e-3),
    "beside_p50_us": ("beside them, p50, ms", 1e-3),
    "alone_p99_us": ("without them, p99, ms", 1e-3),
    "beside_p99_us": ("beside them, p99, ms", 1e-3),
    "rss_mib": ("resident, MiB", 1.0),
    "modules": ("modules", 1.0),
}


def number(value: float | None) -> str:
    """A figure with three or more significant digits."""
    if value is None:
        return "–"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def target(check: Check) -> str:
    """The target."""
    if check.at_least is not None and check.at_most is not None:
        return f"{check.at_least:g} to {check.at_most:g}"
    if check.at_least is not None:
        return f"≥ {check.at_least:g}"
    return f"≤ {check.at_most:g}" if check.at_most is not None else "–"


def answer(check: Check) -> str:
    """Whether it was reached."""
    if check.met is None:
        return "not measured"
    if check.at_least is None and check.at_most is None:
        return "reported"
    return "met" if check.met else "**missed**"


def section(row: Row) -> str:
    """One row: a table of the contestants and one of the targets."""
    if row.error:
        return f"### {row.title}\n\nNot measured: {row.error}"
    head = ["contestant", f"median, {row.unit}", "least", "most", *(_MORE[key][0] for key in row.more), "failures"]
    lines = [f"### {row.title}", "", _line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    lines += [_line(_cells(label, series, row)) for label, series in row.entrants.items()]
    if row.checks:
        lines += ["", _line(["ratio", "value", "target", ""]), _line(["---", "---:", "---:", "---"])]
        lines += [_line([check.text, number(check.value), target(check), answer(check)]) for check in row.checks]
    for label, series in row.entrants.items():
        if failure := next((figures["first_failure"] for figures in series.rounds if figures.get("failures")), None):
            lines += ["", f"First failure of {label}: `{failure}`"]
    if row.note:
        lines += ["", row.note]
    return "\n".join(lines)


def _cells(label: str, series: Series, row: Row) -> list[str]:
    if series.median is None:
        return [label, series.error or "no figures", *[""] * (3 + len(row.more))]
    more = []
    for key in row.more:
        value = series.middle(key)
        more.append(number(None if value is None else value * _MORE[key][1]))
    if "overlaps" in row.more:
        more[row.more.index("overlaps")] = number(sum(figures["overlaps"] for figures in series.rounds))
    trouble = [
        f"{series.failures:,}" if series.failures else "",
        f"{series.left:,} not unlocked" if series.left else "",
    ]
    problems = ", ".join(filter(None, [*trouble, series.error])) or "0"
    return [label, number(series.median), number(series.least), number(series.most), *more, problems]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def verdict(rows: Mapping[str, Row]) -> str:
    """How many targets were met, and which were not."""
    checks = [(row, check) for row in rows.values() for check in row.checks if target(check) != "–"]
    met = sum(check.met is True for _, check in checks)
    lines = [f"{met} of {len(checks)} targets met."]
    lines += [
        f"- {row.title}: {number(check.value)} {check.text}, target {target(check)}: {answer(check).strip('*')}"
        for row, check in checks
        if not check.met
    ]
    lines += [f"- {row.title}: not measured: {row.error}" for row in rows.values() if row.error]
    return "\n".join(lines)


def _targets(rows: Mapping[str, Row]) -> list[str]:
    lines = [_line(["row", "value", "", "target", ""]), _line(["---", "---:", "---", "---:", "---"])]
    lines += [
        _line([row.title, number(check.value), check.text, target(check), answer(check)])
        for row in rows.values()
        for check in row.checks
    ]
    return lines


def markdown(results: Mapping[str, Any], rows: Mapping[str, Row]) -> str:
    """The whole report."""
    machine, settings = results["machine"], results["settings"]
    lines = [
        "# Benchmark results",
        "",
        "Written by `make bench`; the raw figures are in `results.json`, and",
        "[docs/performance.md](../docs/performance.md) says how to read them. A cycle is one lock and one unlock on a",
        "quorum of five servers. Client and servers share one machine. Contestants run in turns, and a figure is the",
        f"median of its {settings['rounds']} rounds of {settings['seconds']:g} s (fewer and longer ones with many",
        "tasks, threads or processes). Failures are locks or unlocks that did not succeed.",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB; {machine['system']}; "
        f"{machine['date']}; other programs used {machine['busy_before']:.0%} of the cores before the start.",
        "",
    ]
    if machine["busy_before"] > 0.1:
        lines += ["**The machine was not idle: these figures say little.**", ""]
    lines += [f"- {name}: {_versions(packages)}" for name, packages in results["versions"].items()]
    lines += [f"- {name} is missing: {why}" for name, why in results["missing"].items()]
    lines += ["", "## Targets", "", *_targets(rows), "", "## Rows", ""]
    lines += [f"{section(row)}\n" for row in rows.values()]
    return "\n".join(lines)


def _versions(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())
