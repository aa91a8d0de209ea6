"""Draws the plots from `results.json`. Runs in an environment of its own, which has matplotlib and nothing of ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

OURS = "redlock-cluster"
BARE = "bare connections"
COLOURS = {
    "ours": ("#0b6e4f", "redlock-cluster (five servers)"),
    "quorum": ("#6c8ebf", "other Redlock libraries (five servers)"),
    "single": ("#d9a441", "one server: no quorum"),
    "limit": ("#b8b8b8", "the same commands without locks (five servers)"),
}
Bar = tuple[str, str, float, float, float]
"""Label, kind (a key of COLOURS), median, least, most."""


def kind(label: str, series: Mapping[str, Any]) -> str:
    """Which colour a contestant has."""
    if series["role"] == "limit" or label.startswith(BARE):
        return "limit"
    if series["role"] == "ours":
        return "ours"
    return "quorum" if series["quorum"] else "single"


def bars(row: Mapping[str, Any], figure: str | None = None) -> list[Bar]:
    """A row's contestants; figure: another than the one that is compared."""
    found = []
    for label, series in row["entrants"].items():
        values = sorted(each[figure or row["figure"]] for each in series["rounds"]) or [0.0]
        name = label + (" *" if series["failures"] or series["left"] else "")
        found.append((name, kind(label, series), values[len(values) // 2], values[0], values[-1]))
    return found


def short(value: float) -> str:
    """A figure as it is written beside its bar."""
    return "failed" if value <= 0 else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


@dataclass(frozen=True)
class Panel:
    """One chart.

    fewer: shorter bars are better
    share: the scale is from 0 to 1, not logarithmic
    """

    title: str
    unit: str
    bars: Sequence[Bar]
    fewer: bool = False
    share: bool = False

    @property
    def height(self) -> float:
        """Inches."""
        return 1.05 + 0.31 * len(self.bars)

    def draw(self, axes: Axes) -> None:
        """Horizontal bars, the best on top, each with the spread of its rounds."""
        failed = float("inf") if self.fewer else 0.0
        ordered = sorted(self.bars, key=lambda bar: bar[2] or failed, reverse=not self.fewer)
        low = min((bar[2] for bar in ordered if bar[2] > 0), default=1.0) / 3
        high = max(low, *(bar[4] for bar in ordered))
        self._scale(axes, low, high)
        for height, (_, colour, middle, least, most) in zip(range(len(ordered))[::-1], ordered, strict=True):
            axes.barh(height, middle, color=COLOURS[colour][0], height=0.72, zorder=2)
            if middle > 0:
                axes.plot([max(least, low), most], [height, height], color="#222222", linewidth=1.1, zorder=3)
            axes.annotate(
                short(middle),
                (max(most, low), height),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=10,
                fontweight="bold" if colour == "ours" else "normal",
            )
        axes.set_yticks(range(len(ordered))[::-1], [bar[0] for bar in ordered], fontsize=10)
        for text, bar in zip(axes.get_yticklabels(), ordered, strict=True):
            text.set_fontweight("bold" if bar[1] == "ours" else "normal")

    def _scale(self, axes: Axes, low: float, high: float) -> None:
        if self.share:
            axes.set_xlim(0, 1.1)
        else:
            axes.set_xscale("log")
            axes.set_xlim(low, high * 2.5)
            axes.xaxis.set_major_formatter(
                FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
            )
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
            axes.xaxis.set_minor_locator(NullLocator())
        better = "shorter is better" if self.fewer else "longer is better"
        axes.set_xlabel(f"{self.unit} ({better}{'' if self.share else '; logarithmic'})", fontsize=9, color="#444444")
        axes.set_title(self.title, fontsize=11, fontweight="bold", loc="left")
        axes.grid(axis="x", color="#dddddd", linewidth=0.8, zorder=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=9)


def picture(path: Path, title: str, panels: Sequence[Panel], note: str) -> None:
    """Panels one above the other, with one legend."""
    heights = [panel.height for panel in panels]
    drawing, all_axes = pyplot.subplots(
        len(panels),
        1,
        figsize=(8.4, sum(heights) + 1.25),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )
    for axes, panel in zip(all_axes[:, 0], panels, strict=True):
        panel.draw(axes)
    every = [bar for panel in panels for bar in panel.bars]
    kinds = {bar[1] for bar in every}
    patches = [Patch(color=colour, label=text) for name, (colour, text) in COLOURS.items() if name in kinds]
    if any(bar[0].endswith(" *") for bar in every):
        note += "\n* some of its locks or unlocks failed"
    drawing.suptitle(title, fontsize=13, fontweight="bold", x=0.012, ha="left")
    legend = drawing.legend(handles=patches, loc="outside lower left", ncols=2, fontsize=9, frameon=False, title=note)
    legend.set_alignment("left")
    legend.get_title().set_fontsize(9)
    drawing.savefig(path, dpi=150, facecolor="white")
    pyplot.close(drawing)


def draw(results: Mapping[str, Any], folder: Path) -> list[str]:
    """All plots that the results have rows for; their names."""
    machine = results["machine"]
    rows = {name: row for name, row in results["rows"].items() if row["entrants"]}
    note = (
        "Median of the rounds; thin line: least to most. "
        f"Client and servers (Valkey {results['versions']['servers']['valkey']}) share {machine['cores']} cores."
    )

    def part(
        name: str, title: str, unit: str, *, fewer: bool = False, share: bool = False, figure: str | None = None
    ) -> list[Panel]:
        shown = bars(rows[name], figure) if name in rows else []
        return [Panel(title, unit, shown, fewer, share)] if shown else []

    rate, time, many = "lock + unlock cycles per second", "µs, median", "handover-16"
    pictures = {
        "throughput.png": (
            "Throughput: many distinct locks at a time",
            part("aio-uvloop", "asyncio on uvloop, 200 tasks", rate)
            + part("sync-threads", "synchronous, 16 threads", rate),
        ),
        "latency.png": (
            "Latency: lock + unlock, one after the other",
            part("aio-sequential", "asyncio, on uvloop where nothing else is said", time, fewer=True)
            + part("sync-sequential", "synchronous", time, fewer=True),
        ),
        "contention.png": (
            "Contention: 16 processes want one lock and keep it for 1 ms",
            part(many, "handovers: another process than before acquires it", "per second")
            + part(many, "longest wait", "ms", fewer=True, figure="wait_max_ms")
            + part(many, "fairness", "Jain's index: 1 is equal shares", share=True, figure="jain"),
        ),
    }
    written = []
    for name, (title, panels) in pictures.items():
        if panels:
            picture(folder / name, title, panels, note)
            written.append(name)
    return written


if __name__ == "__main__":
    source = Path(sys.argv[1])
    sys.stdout.write(f"drawn: {', '.join(draw(json.loads(source.read_text()), source.parent))}\n")
