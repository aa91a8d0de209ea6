"""`redlock-cluster inspect`, `locks` and `force-release`: what operators ask of locks, and do to them."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from redlock_cluster import Supervisor
from redlock_cluster.cli.output import console
from redlock_cluster.core.snapshot import Holding
from redlock_cluster.results import value_of

if TYPE_CHECKING:
    from redlock_cluster import ListedLock, LockOnServer, LockSnapshot

__all__ = ["force_release", "inspect_resource", "list_locks"]

_SHOWN = 5
_STYLES = {Holding.HELD: "yellow", Holding.FREE: "green", Holding.SPLIT: "red", Holding.UNKNOWN: "red"}


def inspect_resource(config: Path, deployment: str | None, resource: str, permit: int | None, as_json: bool) -> bool:
    """Show who holds a resource and who waits for it. Returns whether enough servers said.

    config, deployment: path of the options file, and which deployment of it
    resource: as the command line gives it
    permit: which one of the semaphore of that name; None: the lock
    as_json: for programs

    Raises OptionsError.
    """
    with Supervisor(config) as everything:
        found = _chosen(everything, deployment).inspect(os.fsencode(resource), permit=permit)
    if as_json:
        _print_json(found)
    else:
        _print_snapshot(found)
    return found.holding is not Holding.UNKNOWN


def list_locks(config: Path, deployment: str | None, pattern: str, as_json: bool) -> None:
    """Show the locks there are, one a line: as they are found, or as lines of JSON.

    Arguments as for `inspect_resource`; pattern: of resources

    Raises OptionsError, QuorumUnavailable.
    """
    with Supervisor(config) as everything:
        for lock in _chosen(everything, deployment).locks(os.fsencode(pattern)):
            if as_json:
                _print_json(lock)
            else:
                typer.echo(_line(lock))


def force_release(
    config: Path, deployment: str | None, resource: str, permit: int | None, as_json: bool, sure: bool
) -> bool:
    """Take a lock from whoever holds it, once the user has said yes. Returns whether that was done.

    Arguments as for `inspect_resource`; sure: ask nothing

    Raises OptionsError, QuorumUnavailable.
    """
    name = os.fsencode(resource)
    with Supervisor(config) as everything:
        supervisor = _chosen(everything, deployment)
        if not sure:
            _print_snapshot(supervisor.inspect(name, permit=permit), stderr=True)
            if not typer.confirm("take the lock from its holder?", err=True):
                return False
        removed = value_of(supervisor.force_release(name, permit=permit))
    if as_json:
        _print_json(removed)
    else:
        by = f", which was held by {removed.owner}" if removed.owner else ""
        shown = _shown(removed.resource)
        typer.echo(f"released by force: {shown}{by}" if removed.held else f"nobody held {shown}")
    return True


def _chosen(supervisor: Supervisor, deployment: str | None) -> Supervisor:
    return supervisor if deployment is None else supervisor.deployment(deployment)


def _shown(resource: str) -> str:
    """A name on a terminal: bytes that are no text, and what would move the cursor, as escapes."""
    text = resource.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _line(lock: ListedLock) -> str:
    ttl = "stays" if lock.ttl is None else f"{lock.ttl:.1f} s"
    permit = "" if lock.permit is None else f" (permit {lock.permit})"
    return f"{_shown(lock.resource)}{permit}\t{lock.group}\t{lock.servers}\t{ttl}"


def _print_snapshot(found: LockSnapshot, stderr: bool = False) -> None:
    out = console(stderr)
    by = f" by {found.owner}" if found.owner else ""
    line = Text(f"{_shown(found.resource)}: ").append(f"{found.holding.value}{by}", style=_STYLES[found.holding])
    out.print(line.append(f" (group {found.group})"), soft_wrap=True)
    table = Table("server", "kind", "owner", "client")
    table.add_column("ttl", justify="right")
    table.add_column("who waits, in order")
    for server in found.servers:
        table.add_row(*map(Text, _row(server)))
    out.print(table)


def _row(server: LockOnServer) -> tuple[str, ...]:
    if server.error:
        return server.server, "?", "", "", "", server.error
    ttl = "" if server.kind is None else "stays" if server.ttl is None else f"{server.ttl:.1f} s"
    owner, client = server.owner, server.client
    if server.kind == "read":
        owner = _several([reader.owner for reader in server.readers])
        client = _several([reader.client for reader in server.readers])
    return server.server, server.kind or "free", owner, client, ttl, _waiting(server)


def _waiting(server: LockOnServer) -> str:
    if server.waiting is None:
        return "it does not say"
    return _several(
        [
            f"{each.client} ({each.waited:.1f} s{', reads' if each.reads else ''}{'' if each.told else ', polls'})"
            for each in server.waiting
        ]
    )


def _several(names: list[str]) -> str:
    """The first of them."""
    more = len(names) - _SHOWN
    return ", ".join([*names[:_SHOWN], *([f"{more} more"] if more > 0 else [])])


def _print_json(value: object) -> None:
    """One line."""
    typer.echo(json.dumps(_plain(value), ensure_ascii=True))


def _plain(value: object) -> object:
    """Dataclasses as objects, members of enumerations as their values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
