"""Where the supervisors of one options file run in a process: in its portal, made anew after a fork."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from redlock_cluster.core.retry import RETRY, Wait
from redlock_cluster.engine.deployments import Deployments, Routing, retry_policy
from redlock_cluster.errors import ClosedError
from redlock_cluster.options import DeploymentOptions, Options
from redlock_cluster.threads.calls import CoroutineCall
from redlock_cluster.threads.portal import CLOSING, Portal, PortalStuck
from redlock_cluster.threads.process import ExitPortal, portal

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
        self,
        portal: Portal | ExitPortal,
        deployments: Deployments,
        name: str,
        options: DeploymentOptions,
        starting: float,
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
    """

    def __init__(self, options: Options) -> None:
        self.options, self.routing = options, Routing(options)
        self._closed: set[str] = set()
        self._bindings: dict[str | None, Binding] = {}
        self._by_portal: dict[Portal | ExitPortal, Deployments] = {}  # of ancestors too, untouched

    def enter(self) -> tuple[Portal | ExitPortal, Deployments]:
        """The portal and the deployments in it; made at the first use in this process, also after a fork.

        Raises ClosedError when every deployment was closed.
        """
        here = portal()
        deployments = self._by_portal.get(here)
        if deployments is None and not self._all_closed():
            made = Deployments(self.options, closed=self._closed)
            deployments = self._by_portal.setdefault(here, made)  # in one step, as in `portal`
            here.residents.add(deployments)
        if deployments is None or self._all_closed():  # also meanwhile, by another thread
            raise ClosedError("the supervisor is closed")
        return here, deployments

    def _all_closed(self) -> bool:
        return len(self._closed) == len(self.options.deployments)

    def bind(self, deployment: str | None) -> Binding:
        """A deployment in this process, None: the default one.

        Raises OptionsError when there is none of that name, ClosedError when it was closed.
        """
        binding = self._bindings.get(deployment)
        if (
            binding is not None
            and not binding.portal.ended
            and self._by_portal.get(binding.portal) is binding.deployments
        ):
            return binding
        name = self.named(deployment)
        here, deployments = self.enter()
        if name in self._closed:
            raise ClosedError(f"the deployment {name} is closed")
        binding = Binding(here, deployments, name, self.options.deployments[name], self.starting(deployments))
        if binding.starting == 0:
            self._bindings[deployment] = binding
        return binding

    def named(self, deployment: str | None) -> str:
        """The name of a deployment, None for the default one. Raises OptionsError when there is none of that name."""
        return self.routing.require(deployment or self.options.default)

    def options_of(self, deployment: str | None) -> DeploymentOptions:
        """The options of a deployment, as `named`."""
        return self.routing.options_of(deployment or self.options.default)

    def starting(self, deployments: Deployments) -> float:
        """Seconds that the start may add to a call."""
        return 0.0 if deployments.started else max(d.connect_timeout for d in self.options.deployments.values())

    def later(self, do: Callable[..., object], *arguments: object) -> None:
        """Have the loop of this process do something soon, if there is one."""
        for here, deployments in list(self._by_portal.items()):
            if not deployments.inherited:
                here.later(do, *arguments)

    def start(self, deployment: str | None) -> None:
        """Start a deployment, None: all of them. Raises PortalStuck."""
        self._closed.difference_update(self._names(deployment))
        here, deployments = self.enter()
        here.call(CoroutineCall(partial(deployments.start, deployment)), self.starting(deployments))

    def close(self, deployment: str | None) -> None:
        """Close a deployment, None: all of them, in this process; what an ancestor opened stays as it is."""
        self._closed.update(self._names(deployment))
        for here, deployments in list(self._by_portal.items()):
            if deployments.inherited or here.ended:
                continue
            if deployment is None:
                self._by_portal.pop(here, None)
            call = CoroutineCall(partial(deployments.close, deployment), kept=True)
            try:
                if here.inside:
                    here.send(call)
                else:
                    here.call(call, CLOSING)
            except PortalStuck as stuck:
                _log.warning("%s; not closed", stuck)

    def _names(self, deployment: str | None) -> list[str]:
        return list(self.options.deployments) if deployment is None else [deployment]
