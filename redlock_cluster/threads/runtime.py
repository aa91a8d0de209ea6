"""Where the supervisors of one options file live in a process: in its portal, made anew after a fork."""

from __future__ import annotations

import logging
from collections.abc import Callable

from redlock_cluster.engine.deployments import Cluster
from redlock_cluster.engine.retry import RETRY, Wait, longest
from redlock_cluster.errors import ClosedError
from redlock_cluster.options import DeploymentOptions, Options
from redlock_cluster.threads.calls import Working
from redlock_cluster.threads.portal import CLOSING, Portal, PortalStuck, inherit, portal, process_lock

__all__ = ["Entry", "Home"]

_log = logging.getLogger(__name__)


class Entry:
    """The way to one deployment in this process. Times are seconds.

    starting: what the start may add to a call; longest_release: after which a release has ended in any case
    """

    __slots__ = ("_options", "_retrying", "cluster", "longest_release", "name", "portal", "server_timeout", "starting")

    def __init__(self, here: Portal, cluster: Cluster, name: str, options: DeploymentOptions, starting: float) -> None:
        self.portal, self.cluster, self.name, self._options, self.starting = here, cluster, name, options, starting
        self.server_timeout = options.server_timeout
        self.longest_release = 2 * self.server_timeout + starting
        self._retrying = longest(options, RETRY) + starting

    def longest(self, wait: Wait) -> float:
        """After which an acquisition has ended in any case."""
        return self._retrying if wait is RETRY else longest(self._options, wait) + self.starting


class Home:
    """What supervisors of one options file share: the engines in this process's portal."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.map = Cluster(options)
        self.closed = False
        self._entries: dict[str | None, Entry] = {}
        self._portal: Portal | None = None
        self._cluster: Cluster | None = None

    def enter(self) -> tuple[Portal, Cluster]:
        """The portal and the engines in it; made at the first use in this process, also after a fork."""
        if self.closed:
            raise ClosedError("the supervisor is closed")
        here, cluster = portal(), self._cluster
        if self._portal is here and cluster is not None:
            return here, cluster
        with process_lock():
            if self._portal is not here or self._cluster is None:
                if self.closed:
                    raise ClosedError("the supervisor is closed")
                if self._cluster is not None:
                    inherit(self._cluster)
                self._cluster, self._portal = Cluster(self.options), here
                here.on_close(self, self._cluster.close)
            return here, self._cluster

    def entry(self, deployment: str | None) -> Entry:
        """The way to a deployment, None for the default one. Raises OptionsError when there is none of that name."""
        entry = self._entries.get(deployment)
        if entry is not None and entry.portal is portal() and entry.cluster is self._cluster:
            return entry
        name = self.named(deployment)
        here, cluster = self.enter()
        entry = Entry(here, cluster, name, self.options.deployments[name], self.starting(cluster))
        if entry.starting == 0:
            self._entries[deployment] = entry
        return entry

    def named(self, deployment: str | None) -> str:
        """The name of a deployment, None for the default one. Raises OptionsError when there is none of that name."""
        return self.map.require(deployment or self.options.default)

    def starting(self, cluster: Cluster) -> float:
        """Seconds that the start may add to a call."""
        return 0.0 if cluster.started else max(d.connect_timeout for d in self.options.deployments.values())

    def later(self, do: Callable[..., object], *arguments: object) -> None:
        """Has the loop of this process do something soon, if there is one."""
        if self._portal is not None and self._cluster is not None and not self._cluster.inherited:
            self._portal.later(do, *arguments)

    def close(self) -> None:
        """Closes in this process; what an ancestor opened stays as it is."""
        self.closed = True
        cluster, self._cluster = self._cluster, None
        if cluster is None:
            return
        if self._portal is not portal():
            inherit(cluster)
            return
        self._portal.on_close(self, None)
        try:
            self._portal.call(Working(cluster.close), CLOSING)
        except PortalStuck as stuck:
            _log.warning("%s; not closed", stuck)
