"""`redlock-cluster up`: real servers on this machine, as long as the command runs."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import typer

from redlock_cluster.cli.signals import asked_to_end
from redlock_cluster.errors import OptionsError
from redlock_cluster.testing import EmbeddedCluster

__all__ = ["run_servers"]

_MARK: Final = "# Written by `redlock-cluster up` (process {pid}), which removes it when it ends.\n"
_MARKED: Final = re.compile(re.escape(_MARK).replace(r"\{pid\}", r"(\d+)"))
_LOOK: Final = 0.5


def run_servers(groups: int, servers: int, path: Path, force: bool) -> None:
    """Run the servers in the foreground until the process is asked to end.

    groups: how many groups, at least 1
    servers: how many servers each group has, odd
    path: of the options file that is written; it is removed at the end, unless somebody changed it
    force: overwrite that file even if another program wrote it

    Raises OptionsError when the file must not or can't be written, EmbeddedError when servers do not start.
    """
    if not force:
        _refuse_foreign(path)
    with asked_to_end() as end, EmbeddedCluster(groups, servers) as cluster, _written(path, cluster):
        _show(cluster, path)
        reported: set[str] = set()
        while not end.wait(_LOOK):
            for server in cluster.servers:
                if not server.alive and server.name not in reported:
                    reported.add(server.name)
                    typer.echo(f"server {server.name} has ended", err=True)
    typer.echo(f"{groups * servers} servers ended")


def _refuse_foreign(path: Path) -> None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            marked = _MARKED.match(file.readline())
    except FileNotFoundError:
        return
    except OSError as error:
        raise OptionsError([("", f"can't be read: {error.strerror}")], str(path)) from error
    if marked is None:
        raise OptionsError([("", "was not written by this command; --force overwrites it")], str(path))
    if _exists(int(marked[1])):
        text = f"belongs to `redlock-cluster up` with process id {marked[1]}, which runs; give another --write"
        raise OptionsError([("", text)], str(path))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _written(path: Path, cluster: EmbeddedCluster) -> Iterator[None]:
    text = _MARK.format(pid=os.getpid()) + cluster.options_path.read_text(encoding="utf-8")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionsError([("", f"can't be written: {error.strerror}")], str(path)) from error
    try:
        yield
    finally:
        # Its servers have ended. But a file that somebody has changed is kept.
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == text:
                path.unlink()
                typer.echo(f"\n{path} removed")


def _show(cluster: EmbeddedCluster, path: Path) -> None:
    binary = cluster.servers[0]
    typer.echo(f"{binary.binary.name} {binary.version}, keeping nothing:\n")
    for index, group in enumerate(cluster.groups):
        typer.echo(f"  group {index}   " + "   ".join(server.name for server in group))
    typer.echo(
        f"\nThe options file is {path}. In another terminal:\n\n"
        f"  redlock-cluster check {path}\n"
        f"  REDLOCK_OPTIONS={path} python your_program.py\n\n"
        "Ctrl-C ends the servers and removes the file."
    )
