"""Where the supervisors of one options file run in a process: in its portal, made anew after a fork."""

from __future__ import annotations

import logging
from collections.abc import Callable

from redlock_cluster.core.retry import RETRY, Wait
from redlock_cluster.engine.deployments import Deployments, Routing, retry_policy
from redlock_cluster.errors import ClosedError
from redlock_cluster.options import DeploymentOptions, Options
from redlock_cluster.threads.calls import CoroutineCall
from redlock_cluster.threads.portal import CLOSING, Portal, PortalStuck, inherit, portal, process_lock

__all__ = ["Binding", "Runtime"]

_log = logging.getLogger(__name__)


class Binding:
    """One deployment in this process: where its calls go, and how long they may take. Times are seconds.

    portal: whose loop runs them
    deployments, name: whose engine
    options: the deployment's
    starting: what the start may add to a call

    server_timeout: as the options say
    longest_release: after which a release has ended in any case
    """

    __slots__ = (
        "_longest_retry",
        "_policy",
        "deployments",
        "longest_release",
        "name",
        "portal",
        "server_timeout",
        "starting",
    )

    def __init__(
        self, portal: Portal, deployments: Deployments, name: str, options: DeploymentOptions, starting: float
    ) -> None:
        self.portal, self.deployments, self.name, self.starting = portal, deployments, name, starting
        self.server_timeout = options.server_timeout
        self.longest_release = 2 * self.server_timeout + starting
        self._policy = retry_policy(options)
        self._longest_retry = self._policy.longest(RETRY) + starting

    def longest(self, wait: Wait) -> float:
        """After which an acquisition has ended in any case."""
        return self._longest_retry if wait is RETRY else self._policy.longest(wait) + self.starting


class Runtime:
    """What supervisors of one options file share: the deployments in this process's portal.

    options: the file's

    routing: which group has a resource
    closed: nothing begins any more
    """

    def __init__(self, options: Options) -> None:
        self.options, self.routing = options, Routing(options)
        self.closed = False
        self._bindings: dict[str | None, Binding] = {}
        self._portal: Portal | None = None
        self._deployments: Deployments | None = None

    def enter(self) -> tuple[Portal, Deployments]:
        """The portal and the deployments in it; made at the first use in this process, also after a fork."""
        if self.closed:
            raise ClosedError("the supervisor is closed")
        here, deployments = portal(), self._deployments
        if self._portal is here and deployments is not None:
            return here, deployments
        with process_lock():
            if self._portal is not here or self._deployments is None:
                if self.closed:
                    raise ClosedError("the supervisor is closed")
                if self._deployments is not None:
                    inherit(self._deployments)
                self._deployments, self._portal = Deployments(self.options), here
                here.on_close(self, self._deployments.close)
            return here, self._deployments

    def bind(self, deployment: str | None) -> Binding:
        """A deployment in this process, None: the default one. Raises OptionsError when there is none of that name."""
        binding = self._bindings.get(deployment)
        if binding is not None and binding.portal is portal() and binding.deployments is self._deployments:
            return binding
        name = self.named(deployment)
        here, deployments = self.enter()
        binding = Binding(here, deployments, name, self.options.deployments[name], self.starting(deployments))
        if binding.starting == 0:
            self._bindings[deployment] = binding
        return binding

    def named(self, deployment: str | None) -> str:
        """The name of a deployment, None for the default one. Raises OptionsError when there is none of that name."""
        return self.routing.require(deployment or self.options.default)

    def starting(self, deployments: Deployments) -> float:
        """Seconds that the start may add to a call."""
        return 0.0 if deployments.started else max(d.connect_timeout for d in self.options.deployments.values())

    def later(self, do: Callable[..., object], *arguments: object) -> None:
        """Have the loop of this process do something soon, if there is one."""
        if self._portal is not None and self._deployments is not None and not self._deployments.inherited:
            self._portal.later(do, *arguments)

    def close(self) -> None:
        """Close in this process; what an ancestor opened stays as it is."""
        self.closed = True
        deployments, self._deployments = self._deployments, None
        if deployments is None:
            return
        if self._portal is not portal():
            inherit(deployments)
            return
        self._portal.on_close(self, None)
        try:
            self._portal.call(CoroutineCall(deployments.close), CLOSING)
        except PortalStuck as stuck:
            _log.warning("%s; not closed", stuck)
