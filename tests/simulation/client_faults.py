"""What goes wrong with clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from redlock_cluster.testing.simulation import Connection, SimulatedClient

from .ledger import WRITES, is_number, is_take, ttl_asked_for

if TYPE_CHECKING:
    from .faults import Faults

DEATHS = 0.15
LONGEST_PAUSE = 1.3


class ClientFaults:
    """Pauses, most of all at bad moments, deaths, and wall clocks that are set."""

    def __init__(self, faults: Faults) -> None:
        self._faults, self._scene, self._random = faults, faults.scene, faults.random
        self._world, self._history = faults.scene.world, faults.scene.history
        self._ambushes: set[str] = set()
        self._dying = self._random.random() < DEATHS

    def kinds(self) -> list[tuple[int, Callable[[], None]]]:
        """How often each comes, relative to the others."""
        return [
            (5, self._pause),
            (4, self._lay_ambush),
            (2, self._step_wall_clock),
            (2 if self._dying else 0, self._die),
        ]

    def _pause(self) -> None:
        self._stop_client(self._faults.client(), self._faults.duration())

    def _lay_ambush(self) -> None:
        """The next client that acquires, or extends, is hit between a server's answer and the others'."""
        self._ambushes.add("acquire" if self._faults.chance() else "extend")

    def executed(self, connection: Connection, words: list[bytes]) -> None:
        """A server executed a command: springs an ambush."""
        if self._faults.over or not self._ambushes or words[0] not in WRITES or not words[-1].isdigit():
            return
        take = is_take(words) or is_number(words)
        kind, ttl = "acquire" if take or b"NX" in words else "extend", ttl_asked_for(words) if take else words[-1]
        if kind in self._ambushes and ttl != b"0":
            self._ambushes.remove(kind)
            self._spring(connection, kind, int(ttl) / 1000)

    def _spring(self, connection: Connection, kind: str, ttl: float) -> None:
        """The client stands still for about the ttl, hears no replies, or what it has sent to the others comes late."""
        what = self._random.choice(("pause", "deaf", "detour") if kind == "acquire" else ("pause", "pause", "deaf"))
        if what == "deaf":
            self._faults.network.block([(connection.client, s.name) for s in self._world.servers], there=False)
        elif what == "detour":
            for other in list(self._world.network.connections.values()):
                if other.client == connection.client and other.host is not connection.host and not other.closed:
                    self._faults.network.detour(other)
        else:
            [victim] = [machine for machine in self._world.clients if machine.name == connection.client]
            self._stop_client(victim, ttl * (0.8 + 0.4 * self._random.random()))

    def _stop_client(self, client: SimulatedClient, duration: float) -> None:
        if not client.process.running or duration > LONGEST_PAUSE:
            return
        suspended, timers_first = self._faults.chance(), self._faults.chance()
        if any(user.acquiring for user in self._scene.users_of(client)):
            self._history.count("clients paused while they acquired")
        self._faults.note(f"{client.name} {'is suspended' if suspended else 'stands still'}", "clients paused")
        client.pause(suspended)

        def cure() -> None:
            self._history.note("faults", f"{client.name} goes on, {'timers' if timers_first else 'replies'} first")
            client.resume(timers_first)
            self._scene.invariants.everything_exclusive()

        self._faults.until(duration, cure)

    def _step_wall_clock(self) -> None:
        client, seconds = self._faults.client(), 4 * (self._random.random() - 0.5)
        self._faults.note(f"the wall clock of {client.name} is set by {seconds:+.1f} s", "wall clocks set")
        client.clock.step(seconds)
        self._scene.invariants.everything_exclusive()

    def _die(self) -> None:
        alive = [client for client in self._world.clients if not client.process.dead]
        if len(alive) < 2:
            return
        self._dying = False
        client, unnoticed = self._random.choice(alive), self._faults.chance()
        self._faults.note(f"{client.name} dies{', its machine too' if unnoticed else ''}", "clients died")
        self._scene.died(client)
        client.die(unnoticed)
