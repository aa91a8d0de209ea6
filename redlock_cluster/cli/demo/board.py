"""What a person sees of the demo: a live table on a terminal, a line a second elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

__all__ = ["Board", "GroupView", "LinesBoard", "LiveBoard", "View"]

_SIGNS: Final = {"up": ("●", "green"), "down": ("✖", "bold red")}
_OTHER_SIGN: Final = ("◌", "yellow")
_BAR: Final = 12
_LINE_EVERY: Final = 1.0


@dataclass(frozen=True, slots=True)
class GroupView:
    """One group now.

    servers: each as (port, state)
    sections: finished critical sections
    rate: critical sections a second lately
    """

    name: str
    servers: tuple[tuple[str, str], ...]
    sections: int
    rate: float


@dataclass(frozen=True, slots=True)
class View:
    """The demo now.

    elapsed: seconds since the start
    seconds: how long the demo lasts
    p50, p99: of the waits for a lock, seconds
    overlaps: sections that met another one
    """

    elapsed: float
    seconds: float
    groups: tuple[GroupView, ...]
    p50: float
    p99: float
    overlaps: int

    @property
    def sections(self) -> int:
        """Finished critical sections of all groups."""
        return sum(group.sections for group in self.groups)

    @property
    def rate(self) -> float:
        """Critical sections a second lately, of all groups."""
        return sum(group.rate for group in self.groups)


class Board(Protocol):
    """Shows the demo; used in `with`."""

    def show(self, view: View) -> None:
        """Show the current view; called several times a second."""

    def report(self, elapsed: float, event: str) -> None:
        """Report an event.

        elapsed: seconds since the start
        event: what happened
        """

    def __enter__(self) -> object: ...

    def __exit__(self, *_: object) -> None: ...


class LinesBoard:
    """Writes a line about once a second, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = _LINE_EVERY

    def show(self, view: View) -> None:
        """Write a line, if the last one is a second old."""
        if view.elapsed < self._next:
            return
        self._next = view.elapsed + _LINE_EVERY
        rates = "  ".join(f"{group.name}: {group.rate:.0f}/s" for group in view.groups)
        states = [state for group in view.groups for _, state in group.servers]
        self._line(
            view.elapsed,
            f"{view.sections} locks  {rates}  wait p50 {view.p50 * 1e3:.1f} ms p99 {view.p99 * 1e3:.1f} ms  "
            f"servers {states.count('up')}/{len(states)} up  overlaps {view.overlaps}",
        )

    def report(self, elapsed: float, event: str) -> None:
        """Write a line."""
        self._line(elapsed, event)

    def _line(self, elapsed: float, text: str) -> None:
        self._console.print(f"{elapsed:6.1f} s  {text}", soft_wrap=True)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class LiveBoard:
    """Shows a table that changes in place, with the events below it."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._events: list[Text] = []
        self._plain = not console.encoding.lower().startswith("utf")

    def show(self, view: View) -> None:
        """Draw the table anew."""
        self._live.update(Group(self._head(view), self._table(view), self._foot(view), *self._events), refresh=True)

    def report(self, elapsed: float, event: str) -> None:
        """Add a line below the table."""
        self._events.append(Text.assemble((f" {elapsed:5.1f} s  ", "cyan"), event))

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _head(self, view: View) -> Table:
        head = Table.grid(padding=(0, 1))
        title = Text.assemble((" redlock-cluster demo", "bold"), ("  4 processes, 12 locks ", "dim"))
        bar = ProgressBar(view.seconds, min(view.elapsed, view.seconds), width=_BAR)
        head.add_row(title, bar, Text(f"{view.elapsed:4.1f} of {view.seconds:g} s"))
        return head

    def _table(self, view: View) -> Table:
        table = Table(title_justify="left", border_style="dim")
        table.add_column("group")
        for _ in view.groups[0].servers:
            table.add_column("server", min_width=9)
        table.add_column("locks/s", justify="right", min_width=7)
        table.add_column("locks", justify="right", min_width=7)
        table.add_column("share", min_width=_BAR)
        for group in view.groups:
            share = group.sections / view.sections if view.sections else 0.0
            table.add_row(
                Text(group.name, style="bold"),
                *(self._server(*server) for server in group.servers),
                f"{group.rate:,.0f}",
                f"{group.sections:,}",
                self._share(share),
            )
        return table

    def _server(self, port: str, state: str) -> Text:
        sign, style = _SIGNS.get(state, _OTHER_SIGN)
        return Text.assemble(port, "\n", (state if self._plain else f"{sign} {state}", style))

    def _share(self, share: float) -> Group:
        return Group(Text(f"{share:.1%}"), ProgressBar(1.0, share, width=_BAR, complete_style="blue"))

    def _foot(self, view: View) -> Text:
        return Text.assemble(
            (f" {view.sections:,} locks", "bold"),
            f"  {view.rate:,.0f}/s   wait p50 {view.p50 * 1e3:.1f} ms  p99 {view.p99 * 1e3:.1f} ms   ",
            (f"overlaps {view.overlaps}", "bold red" if view.overlaps else "bold green"),
        )
