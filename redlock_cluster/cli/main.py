"""The commands, their arguments and exit codes. Their code is imported when they run, so that help is quick.

Exit codes:
    0: done, and all is well
    1: done, and something is wrong with what was checked
    2: wrong options or arguments
    130: ended by Ctrl-C before it was done
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from redlock_cluster.cli.demo import SHORTEST

__all__ = ["app", "main"]

app = typer.Typer(
    name="redlock-cluster",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path, typer.Argument(help="The options file (YAML).", show_default=False)]
Deployment = Annotated[str | None, typer.Option(help="Which one, in a file of several deployments.")]
Permit = Annotated[int | None, typer.Option(help="Of the semaphore of that name, from 0 on.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]


@contextlib.contextmanager
def _errors_reported() -> Iterator[None]:
    """Turn the package's exceptions into a line on stderr and an exit code."""
    from redlock_cluster.errors import OptionsError, RedlockError

    try:
        yield
    except (OptionsError, ValueError) as error:
        typer.echo(f"redlock-cluster: {error}", err=True)
        raise typer.Exit(2) from None
    except RedlockError as error:
        typer.echo(f"redlock-cluster: {error}", err=True)
        raise typer.Exit(1) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        import redlock_cluster

        typer.echo(f"redlock-cluster {redlock_cluster.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Locks over groups of independent Redis or Valkey servers."""


@app.command()
def route(
    config: Config,
    resources: Annotated[list[str], typer.Argument(metavar="RESOURCE...", help="Names of what is to be locked.")],
    deployment: Deployment = None,
) -> None:
    """Print the group that votes on each resource, separated by a tab. Connects to nothing."""
    with _errors_reported():
        from redlock_cluster import Supervisor

        supervisor = Supervisor(config)
        if deployment is not None:
            supervisor = supervisor.deployment(deployment)
        for resource in resources:
            name = os.fsencode(resource)
            typer.echo(f"{name.decode('utf-8', 'backslashreplace')}\t{supervisor.group_for(name)}")


@app.command()
def schema() -> None:
    """Print the JSON schema of the options file, for editors and validators."""
    import json

    from redlock_cluster.options import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@app.command()
def check(
    config: Config,
    wait_quarantine: Annotated[
        bool, typer.Option("--wait-quarantine", help="First wait until every server is up and grants locks.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds for which that is waited for.", show_default="for ever")
    ] = None,
    deployment: Deployment = None,
) -> None:
    """Validate the options file, connect to every server, lock on every group, and show what was found.

    Each lock is of a resource that nobody else has, and is given back. Exits with 0 when every group gave one and took
    it back; with 1 when one did not, or when it was waited for in vain.
    """
    with _errors_reported():
        from redlock_cluster.cli.check import check_servers

        raise typer.Exit(0 if check_servers(config, deployment, wait_quarantine, timeout) else 1)


meta = typer.Typer(help="What servers remember of themselves, by which it is known that they forgot no lock.")
app.add_typer(meta, name="meta", no_args_is_help=True)


@meta.command()
def show(config: Config, deployment: Deployment = None, as_json: AsJson = False) -> None:
    """Show what every server remembers, and whether it grants locks.

    It connects as every client does: servers of a group that nobody has used are told that they are new.

    Exits with 1 when a server grants none.
    """
    with _errors_reported():
        from redlock_cluster.cli.meta import show_meta

        raise typer.Exit(0 if show_meta(config, deployment, as_json) else 1)


@meta.command()
def init(
    config: Config,
    deployment: Deployment = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Say that nobody holds a lock, so that servers grant some at once that may have forgotten locks.

    For servers that are used for the first time while one of them is away, and when all clients are stopped. Exits with
    1 when a server grants none afterwards.
    """
    with _errors_reported():
        from redlock_cluster.cli.meta import init_meta

        raise typer.Exit(0 if init_meta(config, deployment, yes) else 1)


@app.command()
def inspect(
    config: Config,
    resource: Annotated[str, typer.Argument(help="What is locked.", show_default=False)],
    deployment: Deployment = None,
    permit: Permit = None,
    as_json: AsJson = False,
) -> None:
    """Show who holds a resource and who waits for it, as each server says. Changes nothing.

    Exits with 1 when too few servers say.
    """
    with _errors_reported():
        from redlock_cluster.cli.locks import inspect_resource

        raise typer.Exit(0 if inspect_resource(config, deployment, resource, permit, as_json) else 1)


@app.command()
def locks(
    config: Config,
    pattern: Annotated[str, typer.Argument(help="Of resources, with * ? [a-z].")] = "*",
    deployment: Deployment = None,
    as_json: AsJson = False,
) -> None:
    """List the locks there are: the resource, its group, on how many servers, and for how long yet; separated by tabs.

    Exits with 1 when too few servers of a group say.
    """
    with _errors_reported():
        from redlock_cluster.cli.locks import list_locks

        list_locks(config, deployment, pattern, as_json)


@app.command()
def force_release(
    config: Config,
    resource: Annotated[str, typer.Argument(help="What is locked.", show_default=False)],
    deployment: Deployment = None,
    permit: Permit = None,
    as_json: AsJson = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't show who holds it, and don't ask.")] = False,
) -> None:
    """Take a lock from whoever holds it. Its holder is told, but may go on until it hears that.

    Exits with 1 when that was not done.
    """
    with _errors_reported():
        from redlock_cluster.cli.locks import force_release as take_away

        raise typer.Exit(0 if take_away(config, deployment, resource, permit, as_json, yes) else 1)


@app.command()
def up(
    groups: Annotated[int, typer.Option(min=1, help="How many groups.")] = 3,
    servers: Annotated[int, typer.Option(min=1, help="How many servers each group has; odd.")] = 3,
    write: Annotated[Path, typer.Option(help="Where to write the options file.")] = Path("redlock.local.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite that file whoever wrote it.")] = False,
) -> None:
    """Run groups of real servers on this machine until Ctrl-C, with an options file for them.

    The servers keep nothing; they end with the command, and the file is removed.
    """
    if servers % 2 == 0:
        raise typer.BadParameter("a group has an odd number of servers", param_hint="--servers")
    with _errors_reported():
        from redlock_cluster.cli.up import run_servers

        run_servers(groups, servers, write, force)


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=SHORTEST, max=3600, help="How long the workers run.")] = 12.0,
) -> None:
    """Four processes contend for twelve locks while servers are killed and restarted.

    Exits with 0 when no two of them were ever in the same critical section and every group continued to work.
    """
    with _errors_reported():
        from redlock_cluster.cli.demo.run import run_demo

        raise typer.Exit(run_demo(seconds))


def main() -> None:
    """Run the command with the arguments of this process, and exit."""
    # Without a handler, warnings of the library would appear on stderr between the lines of a table.
    logging.getLogger("redlock_cluster").addHandler(logging.NullHandler())
    sys.exit(app())
