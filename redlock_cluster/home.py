"""Where the supervisors of one options file live in a process: in its portal, made anew after a fork."""

from __future__ import annotations

import logging
from collections.abc import Callable

from redlock_cluster.engine.cluster import Cluster
from redlock_cluster.engine.waiting import RETRY, Wait, longest
from redlock_cluster.errors import ClosedError
from redlock_cluster.options import DeploymentOptions, Options
from redlock_cluster.portal import CLOSING, Portal, PortalStuck, inherit, portal, process_lock

__all__ = ["Home"]

_log = logging.getLogger(__name__)


class Home:
    """What supervisors of one options file share: the engines in this process's portal."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.map = Cluster(options)
        self.closed = False
        self._retrying: dict[str | None, float] = {}
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

    def deployment(self, name: str | None) -> DeploymentOptions:
        """The options of a deployment. Raises OptionsError when there is none of that name."""
        return self.options.deployments[self.map.require(name)]

    def longest(self, name: str | None, wait: Wait) -> float:
        """Seconds after which an acquisition has ended in any case."""
        if wait is not RETRY:
            return longest(self.deployment(name), wait)
        if name not in self._retrying:
            self._retrying[name] = longest(self.deployment(name), wait)
        return self._retrying[name]

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
            self._portal.call(cluster.close, CLOSING)
        except PortalStuck as stuck:
            _log.warning("%s; not closed", stuck)
