"""What goes wrong in a history: faults at random times, each of which ends again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from redlock_cluster.testing.simulation import SimulatedClient, SimulatedServer, stream

from .client_faults import ClientFaults
from .network_faults import NetworkFaults
from .server_faults import ServerFaults

if TYPE_CHECKING:
    from .scene import Scene

CALM = 0.5


class Faults:
    """Makes things go wrong until it is told to stop, then mends all of it.

    scene: whose; random: what all faults draw from; over: whether it was told to stop
    """

    def __init__(self, scene: Scene) -> None:
        self.scene, self._world, self._history = scene, scene.world, scene.history
        self.random = stream(scene.plan.seed, "faults")
        self.over = False
        self._cures: dict[int, Callable[[], None]] = {}
        self._number = 0
        self._last = 0.0
        self.network, self.clients = NetworkFaults(self), ClientFaults(self)
        kinds = [*self.network.kinds(), *ServerFaults(self).kinds(scene.plan.scenario), *self.clients.kinds()]
        self._weights, self._kinds = [weight for weight, _ in kinds], [kind for _, kind in kinds]
        self._schedule()

    @property
    def calm(self) -> bool:
        """Whether nothing has been wrong for a while."""
        return not self._cures and self._world.loop.time() - self._last > CALM

    def stop(self) -> None:
        """Mends everything; nothing goes wrong from now on."""
        self.over = True
        for number in list(self._cures):
            self._mend(number)
        self._history.note("faults", "all is mended")

    def _schedule(self) -> None:
        self._world.loop.call_later(2 * self.scene.plan.fault_interval * self.random.random(), self._strike)

    def _strike(self) -> None:
        if not self.over:
            (kind,) = self.random.choices(self._kinds, self._weights)
            kind()
            self._schedule()

    def _mend(self, number: int) -> None:
        cure = self._cures.pop(number, None)
        if cure is not None:
            self._last = self._world.loop.time()
            cure()

    # --- for the faults --------------------------------------------------------------------------------------------

    def until(self, duration: float, cure: Callable[[], None]) -> None:
        """Mends something after so many seconds."""
        self._number += 1
        self._cures[self._number] = cure
        self._world.loop.call_later(duration, self._mend, self._number)

    def note(self, what: str, kind: str) -> None:
        """Something went wrong."""
        self._last = self._world.loop.time()
        self._history.note("faults", what)
        self._history.count(kind)

    def duration(self) -> float:
        """Seconds for which something is wrong: shorter and longer than what clients have patience for."""
        return self.random.choice((0.01, 0.05, 0.15, 0.4)) * (0.5 + self.random.random())

    def chance(self) -> bool:
        """One of two."""
        return self.random.random() < 0.5

    def server(self) -> SimulatedServer:
        """Any server."""
        return self.random.choice(self._world.servers)

    def client(self) -> SimulatedClient:
        """Any client that lives."""
        return self.random.choice([client for client in self._world.clients if not client.process.dead])
