"""Deterministic simulation: the real engine in virtual time, over a simulated network and model servers.

One seed gives one history. `docs/simulation.md` says how the project tests itself with it.
"""

from redlock_cluster.testing.simulation.clocks import MachineClock
from redlock_cluster.testing.simulation.entropy import SeededEntropy, stream
from redlock_cluster.testing.simulation.loop import Process, Stalled, VirtualLoop
from redlock_cluster.testing.simulation.network import (
    Connection,
    Host,
    Network,
    Pipe,
    Service,
    Session,
    SimulatedDialer,
)
from redlock_cluster.testing.simulation.world import SimulatedClient, SimulatedServer, Simulation

__all__ = [
    "Connection",
    "Host",
    "MachineClock",
    "Network",
    "Pipe",
    "Process",
    "SeededEntropy",
    "Service",
    "Session",
    "SimulatedClient",
    "SimulatedDialer",
    "SimulatedServer",
    "Simulation",
    "Stalled",
    "VirtualLoop",
    "stream",
]
