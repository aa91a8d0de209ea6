"""`redlock-cluster check`: connects once to every server of an options file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from redlock_cluster import Supervisor

if TYPE_CHECKING:
    from redlock_cluster.engine.status import GroupStatus, ServerStatus, Status

__all__ = ["check_servers"]

_STYLES: Final = {"up": "green", "down": "red"}
_PIPE_WIDTH: Final = 200


def check_servers(config: Path) -> bool:
    """Connect to every server and print a table of what was found.

    config: path of the options file

    Returns whether every group has a quorum of servers up.

    Raises OptionsError.
    """
    with Supervisor(config) as supervisor:
        status = supervisor.status()
    console = Console(highlight=False)
    if not console.is_terminal:
        # A program that reads this needs every line whole.
        console = Console(highlight=False, width=_PIPE_WIDTH)
    console.print(_table(status))
    console.print(_verdict(status))
    return status.available


def _table(status: Status) -> Table:
    several = len(status.clusters) > 1
    table = Table(*(["deployment"] if several else []), "group", "server", "state", "version")
    table.add_column("connections", justify="right")
    table.add_column("last error")
    for cluster in status.clusters:
        for group in cluster.groups:
            for server in group.servers:
                table.add_row(*([Text(cluster.name)] if several else []), *_row(group, server))
            table.add_section()
    return table


def _row(group: GroupStatus, server: ServerStatus) -> list[Text]:
    state = server.state.value
    return [
        Text(group.name),
        Text(server.name),
        Text(state, style=_STYLES.get(state, "yellow")),
        Text(server.version),
        Text(str(server.connections)),
        Text(server.last_error),
    ]


def _verdict(status: Status) -> Text:
    several = len(status.clusters) > 1
    missing = [
        f"{cluster.name}/{group.name}" if several else group.name
        for cluster in status.clusters
        for group in cluster.groups
        if not group.available
    ]
    if missing:
        return Text(f"without a quorum of servers: {', '.join(missing)}", style="bold red")
    return Text("every group has a quorum of servers", style="bold green")
