"""`redlock-cluster check`: connects once to every server of an options file, and locks once on every group."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from redlock_cluster import Supervisor, Vote
from redlock_cluster.cli.output import console
from redlock_cluster.errors import LockNotAcquired
from redlock_cluster.results import Ok

if TYPE_CHECKING:
    from redlock_cluster import ClusterStatus, GroupStatus, ServerStatus, ServerVote, Status

__all__ = ["check_servers", "chosen_clusters", "not_granting", "wait_until_attempted"]

_STYLES: Final = {"up": "green", "down": "red", "refusing": "red", "for": "green", "absent": "red"}

_TTL: Final = 5.0
_LONGEST: Final = 2.0  # seconds that votes are waited for which can't change the outcome any more
_POLL: Final = 0.005
_LONG_POLL: Final = 0.1

_Key = tuple[str, str]
"""The names of a deployment and of one of its groups."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """How locking on one group went.

    votes: of its servers, in the group's order; none where nothing was asked
    problem: why it can't lock, "" when it can
    """

    votes: tuple[ServerVote, ...]
    problem: str


def check_servers(
    config: Path, deployment: str | None = None, wait: bool = False, timeout: float | None = None
) -> bool:
    """Connect to every server, lock on every group, and print a table of what was found.

    config, deployment: path of the options file, and which deployment of it; None: all
    wait: first wait until every server is up and grants locks
    timeout: for so many seconds; None: for ever

    Returns whether every group gave a lock and took it back; when it was waited for in vain, False.

    Raises OptionsError.
    """
    with Supervisor(config) as everything:
        if deployment is not None:
            everything.deployment(deployment)  # fails at once for an unknown one
        wait_until_attempted(everything)
        in_vain = wait and not _wait_for_all(everything, deployment, timeout)
        trials = {
            (cluster.name, group.name): trial
            for cluster in chosen_clusters(everything.status(), deployment)
            for group, trial in _trials(everything.deployment(cluster.name), cluster)
        }
        time.sleep(_POLL)  # a refusal by the last server may come after the quorum
        status = everything.status()
    out = console()
    out.print(_table(chosen_clusters(status, deployment), trials))
    problems = {_name(status, key): trial.problem for key, trial in trials.items() if trial.problem}
    for name, problem in problems.items():
        out.print(Text(f"{name}: {problem}", style="red"), soft_wrap=True)
    if problems:
        out.print(Text(f"can't lock: {', '.join(problems)}", style="bold red"), soft_wrap=True)
    else:
        out.print(Text("every group gave a lock and took it back", style="bold green"))
    return not problems and not in_vain


def _wait_for_all(supervisor: Supervisor, deployment: str | None, timeout: float | None) -> bool:
    """Say what is waited for whenever that has changed. Returns whether it came, before so many seconds had passed."""
    told: list[str] = []
    until = math.inf if timeout is None else time.monotonic() + timeout
    while waiting := not_granting(supervisor.status(), deployment):
        if waiting != told:
            told = waiting
            console(stderr=True).print(Text(f"waiting for {'; '.join(waiting)}"), soft_wrap=True)
        if time.monotonic() >= until:
            return False
        time.sleep(_LONG_POLL)
    return True


def chosen_clusters(status: Status, deployment: str | None) -> list[ClusterStatus]:
    """One of them, or all."""
    return [cluster for cluster in status.clusters if deployment in (None, cluster.name)]


def not_granting(status: Status, deployment: str | None = None) -> list[str]:
    """The servers that grant no lock, and why; of one deployment, or of all."""
    clusters = chosen_clusters(status, deployment)
    servers = [server for cluster in clusters for group in cluster.groups for server in group.servers]
    return [f"{s.name} ({s.state.value}: {s.last_error})" for s in servers if s.state.value not in ("up", "partial")]


def wait_until_attempted(supervisor: Supervisor) -> None:
    """Each server has connected or failed; at most for the connect timeout."""
    while _connecting(supervisor.status()):
        time.sleep(_POLL)


def _connecting(status: Status) -> bool:
    servers = [server for cluster in status.clusters for group in cluster.groups for server in group.servers]
    return any(server.state.value == "connecting" for server in servers)


def _trials(supervisor: Supervisor, cluster: ClusterStatus) -> Iterator[tuple[GroupStatus, _Trial]]:
    """Lock once on each group of a deployment."""
    resources: dict[str, str] = {}
    while len(resources) < len(cluster.groups):  # each has a share of the ring, or the options are refused
        resource = f"redlock-cluster check {uuid.uuid4()}"
        resources.setdefault(supervisor.group_for(resource), resource)
    for group in cluster.groups:
        yield group, _trial(supervisor, resources[group.name])


def _trial(supervisor: Supervisor, resource: str) -> _Trial:
    outcome = supervisor.lock(resource, _TTL, wait=0)
    if not isinstance(outcome, Ok):
        error = outcome.error
        return _Trial(error.votes, error.message) if isinstance(error, LockNotAcquired) else _Trial((), str(error))
    lease, until = outcome.value, time.monotonic() + _LONGEST
    while any(vote.vote is None for vote in lease.votes) and time.monotonic() < until:
        time.sleep(_POLL)
    votes, released = lease.votes, supervisor.unlock(resource, lease)
    return _Trial(votes, "" if isinstance(released, Ok) else str(released.error))


def _name(status: Status, key: _Key) -> str:
    """A group, as users know it."""
    return "/".join(key) if len(status.clusters) > 1 else key[1]


def _table(clusters: list[ClusterStatus], trials: dict[_Key, _Trial]) -> Table:
    several = len(clusters) > 1
    table = Table(*(["deployment"] if several else []), "group", "server", "state", "version")
    table.add_column("connections", justify="right")
    table.add_column("vote")
    table.add_column("why, or last error")
    for cluster in clusters:
        for group in cluster.groups:
            votes = trials[cluster.name, group.name].votes or (None,) * len(group.servers)
            for server, vote in zip(group.servers, votes, strict=True):
                table.add_row(*([Text(cluster.name)] if several else []), *_row(group, server, vote))
            table.add_section()
    return table


def _row(group: GroupStatus, server: ServerStatus, vote: ServerVote | None) -> list[Text]:
    state = server.state.value
    # A refused attempt does not wait for votes that can't change it.
    said = "" if vote is None else "not waited for" if vote.vote is None else vote.vote.value
    why = "" if vote is None or vote.vote is Vote.FOR else vote.detail
    slow = "waiting clients poll it" if server.wakes is False else ""
    unguarded = f"not guarded against a restart that forgets locks: {server.unguarded}" if server.unguarded else ""
    told = [text for text in (why or server.last_error, server.warning, unguarded, slow) if text]
    return [
        Text(group.name),
        Text(server.name),
        Text(state, style=_STYLES.get(state, "yellow")),
        Text(server.version),
        Text(str(server.connections)),
        Text(said, style=_STYLES.get(said, "yellow")),
        Text("; ".join(told)),
    ]
