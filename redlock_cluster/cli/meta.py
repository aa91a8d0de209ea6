"""`redlock-cluster meta show` and `meta init`: what servers remember of themselves; saying that nobody holds a lock."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer
from rich.table import Table
from rich.text import Text

from redlock_cluster import Supervisor
from redlock_cluster.cli.check import chosen_clusters, not_granting, wait_until_attempted
from redlock_cluster.cli.output import console

if TYPE_CHECKING:
    from redlock_cluster import ServerStatus, Status

__all__ = ["init_meta", "show_meta"]

_SHOWN: Final = 8  # of an id
_ASKED: Final = 0.05  # seconds in which a server that has just connected has said what it remembers


def show_meta(config: Path, deployment: str | None, as_json: bool) -> bool:
    """Show what every server remembers. Returns whether all of them grant locks.

    config, deployment: path of the options file, and which deployment of it; None: all
    as_json: for programs

    Raises OptionsError.
    """
    with Supervisor(config) as everything:
        status = _seen(everything, deployment)
    if as_json:
        for group, server in _servers(status, deployment):
            typer.echo(json.dumps({"group": group, **_plain(server)}))
    else:
        console().print(_table(status, deployment))
    return not not_granting(status, deployment)


def init_meta(config: Path, deployment: str | None, sure: bool) -> bool:
    """Have servers grant locks that may have forgotten some. Returns whether all of them were told, and do.

    Arguments as for `show_meta`; sure: ask nothing

    Raises OptionsError.
    """
    with Supervisor(config) as everything:
        status = _seen(everything, deployment)
        if not _problems(status, deployment):
            typer.echo("every server grants locks already")
            return True
        if not sure:
            console(stderr=True).print(_table(status, deployment))
            if not typer.confirm("is every lock free, and has nobody a lease?", err=True):
                return False
        for cluster in chosen_clusters(status, deployment):
            for server in everything.deployment(cluster.name).end_quarantine():
                typer.echo(f"{server} grants locks from now on")
        left = _problems(everything.status(), deployment)
    for line in left:
        typer.echo(line, err=True)
    return not left


def _problems(status: Status, deployment: str | None) -> list[str]:
    """The servers that grant no lock, and those that can't be told that they do."""
    untold = [server for _, server in _servers(status, deployment) if server.unguarded]
    return [
        *[f"{line} grants none" for line in not_granting(status, deployment)],
        *[f"{server.name} can't be told that it grants locks: {server.unguarded}" for server in untold],
    ]


def _seen(everything: Supervisor, deployment: str | None) -> Status:
    """The status, once every server was asked; fails at once for an unknown deployment."""
    if deployment is not None:
        everything.deployment(deployment)
    wait_until_attempted(everything)
    time.sleep(_ASKED)
    return everything.status()


def _servers(status: Status, deployment: str | None) -> list[tuple[str, ServerStatus]]:
    clusters = chosen_clusters(status, deployment)
    several = len(clusters) > 1
    return [
        (f"{cluster.name}/{group.name}" if several else group.name, server)
        for cluster in clusters
        for group in cluster.groups
        for server in group.servers
    ]


def _plain(server: ServerStatus) -> dict[str, object]:
    left = server.quarantine
    return {
        "server": server.name,
        "state": server.state.value,
        "quarantine": None if left is None or math.isinf(left) else round(left, 3),
        "why": _why(server),
        "memory": None if server.memory is None else dataclasses.asdict(server.memory),
    }


def _why(server: ServerStatus) -> str:
    """Why it grants no locks, or nobody can tell whether it has forgotten some."""
    grants = server.quarantine is None and server.state.value in ("up", "partial")
    return server.unguarded if grants else server.last_error


def _table(status: Status, deployment: str | None) -> Table:
    table = Table("group", "server", "state", "remembers run", "id", "of group", "locks last up to", "why")
    for group, server in _servers(status, deployment):
        memory = server.memory
        known = ("", "", "", "")
        if memory is not None:
            horizons = [horizon for horizon, _ in memory.horizons]
            longest = f"{max(horizons) / 1000:.0f} s" if horizons else ""
            known = memory.run_id[:_SHOWN], memory.server_id[:_SHOWN], f"{memory.group} of {memory.size}", longest
        style = "green" if server.state.value == "up" else "yellow"
        state = Text(server.state.value, style=style)
        table.add_row(Text(group), Text(server.name), state, *map(Text, known), Text(_why(server)))
    return table
