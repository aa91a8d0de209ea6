"""A whole simulated world: clients that run the real engine, model servers, and the network between them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from redlock_cluster.aio import AsyncSupervisor
from redlock_cluster.engine.deployments import Deployments
from redlock_cluster.engine.engine import Engine
from redlock_cluster.options import Options
from redlock_cluster.options.file import load_options
from redlock_cluster.testing.model import VALKEY_9, ModelServer, ModelVersion
from redlock_cluster.testing.model.lua import load_lua
from redlock_cluster.testing.simulation.clocks import MachineClock
from redlock_cluster.testing.simulation.entropy import SeededEntropy, stream
from redlock_cluster.testing.simulation.loop import Process, VirtualLoop
from redlock_cluster.testing.simulation.network import NOBODY, Network
from redlock_cluster.wire.ports import Clock, Ports

__all__ = ["SimulatedClient", "SimulatedServer", "Simulation"]

T = TypeVar("T")

_SWEEP: Final = 0.1
"""Seconds from one look for expired keys to the next: servers look ten times a second (`hz 10`)."""


class SimulatedServer:
    """A model server on a host of the network, with a clock of its own; it finds by itself what has expired.

    name: `host:port`
    clock: its `wall` is the server's time
    model: executes the commands
    host: the server in the network
    """

    def __init__(self, network: Network, name: str, version: ModelVersion, clock: MachineClock) -> None:
        self.name, self.clock = name, clock
        self._runs = 1
        self.model = ModelServer(clock.wall, version, run_id=self._run_id())
        self.host = network.add(name, self.model)
        self.host.on_served = self._arm
        self._loop = network.loop
        self._sweep: asyncio.TimerHandle | None = None

    def _run_id(self) -> str:
        return f"{self.name.encode().hex()}{self._runs:x}".rjust(40, "0")[-40:]

    def crash(self, unnoticed: bool = False) -> None:
        """It stops at once.

        unnoticed: clients don't notice
        """
        self.host.crash(unnoticed)
        self.model.crash()

    def restart(self, keep_memory: bool = True) -> None:
        """It runs again after a crash.

        keep_memory: with the keys that it held
        """
        self._runs += 1
        self.model.restart(keep_memory, self._run_id())
        self.host.start()
        self._arm()

    def freeze(self) -> None:
        """From now on it accepts connections and bytes and answers nothing."""
        self.host.freeze()

    def thaw(self) -> None:
        """It continues with what has arrived meanwhile."""
        self.host.thaw()
        self._arm()

    def _arm(self) -> None:
        """Plans the first look after the next key has expired."""
        due = self.model.next_expiry()
        if due is None:
            return
        over = self._loop.time() + max(due - self.clock.wall(), 0.0) / self.clock.rate
        when = (math.floor(over / _SWEEP) + 1) * _SWEEP
        if self._sweep is None or when < self._sweep.when():
            if self._sweep is not None:
                self._sweep.cancel()
            self._sweep = self._loop.call_at(when, self._look, context=NOBODY)

    def _look(self) -> None:
        self._sweep = None
        if self.host.up and not self.host.frozen:
            self.model.advance()
            self._arm()


class SimulatedClient:
    """A machine with one process, in which a supervisor runs.

    name: of the client
    supervisor: the real one, over simulated ports
    clock: the machine's
    process: runs what belongs to the client
    """

    def __init__(self, world: Simulation, name: str, options: Options, clock: MachineClock, view: Clock) -> None:
        self.name, self.clock, self._network = name, clock, world.network
        self.process = Process(world.loop, name)
        entropy = SeededEntropy(stream(world.seed, f"client {name}"))
        self._deployments = Deployments(options, Ports(view, world.network.dialer(name), entropy))
        self.supervisor = AsyncSupervisor.over(self._deployments, self._deployments.options.default)

    @property
    def engine(self) -> Engine | None:
        """The supervisor's engine, as long as it is started; for the library's own tests."""
        return self._deployments.engines.get(self._deployments.options.default)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs a coroutine in the client's process."""
        return self.process.spawn(coroutine)

    def pause(self, suspended: bool = False) -> None:
        """The process stands still.

        suspended: so does its machine, whose monotonic clock stops
        """
        self.process.pause()
        if suspended:
            self.clock.suspend()

    def resume(self, timers_first: bool = False) -> None:
        """It continues.

        timers_first: timers that are due run before what has arrived is read
        """
        self.clock.wake()
        self.process.resume(timers_first)

    def die(self, unnoticed: bool = False) -> None:
        """The process is killed.

        unnoticed: with its machine, so that no server notices
        """
        self.process.kill()
        for connection in list(self._network.connections.values()):
            if connection.client == self.name:
                connection.orphan(unnoticed)

    def bury(self) -> None:
        """The world has ended: nothing of it is dropped unclosed."""
        self._deployments.abandon()


class Simulation:
    """A loop in virtual time, a network, servers and clients; a seed repeats all of it.

        with Simulation(seed=1) as world:
            servers = [world.server(f"server{i}:6379") for i in range(3)]
            alice = world.client("alice", {"servers": [{"host": f"server{i}"} for i in range(3)]})

            async def main() -> None:
                lease = (await alice.supervisor.lock("invoice:42", 10)).value
                servers[0].freeze()
                ...

            world.run(main)

    seed: of all randomness
    network: makes the network for a loop; None: the default one

    Raises ImportError without `lupa`, the extra `simulation`: its servers run scripts.
    """

    def __init__(self, seed: int | str, network: Callable[[VirtualLoop], Network] | None = None) -> None:
        load_lua()
        self.seed = seed
        self.loop = VirtualLoop()
        make = network or (lambda loop: Network(loop, stream(seed, "network")))
        self.network = make(self.loop)
        self.servers: list[SimulatedServer] = []
        self.clients: list[SimulatedClient] = []

    def server(
        self, name: str, version: ModelVersion = VALKEY_9, rate: float = 1.0, offset: float = 0.0
    ) -> SimulatedServer:
        """Adds a server with a clock of its own.

        name: `host:port`, as in the options
        version: which server it is
        rate, offset: of its clock, see `MachineClock`
        """
        clock = MachineClock(self.loop.time, rate, offset)
        self.servers.append(SimulatedServer(self.network, name, version, clock))
        return self.servers[-1]

    def client(
        self,
        name: str,
        options: Options | Mapping[str, object],
        rate: float = 1.0,
        offset: float = 0.0,
        view: Callable[[MachineClock], Clock] = lambda clock: clock,
    ) -> SimulatedClient:
        """Adds a client with a clock and randomness of its own.

        name: of the client; also its owner label, unless the options have one
        options: of its supervisor
        rate, offset: of its clock, see `MachineClock`
        view: which of the machine's clocks the engine uses
        """
        checked = options if isinstance(options, Options) else load_options({"owner": name, **options})
        clock = MachineClock(self.loop.time, rate, offset)
        self.clients.append(SimulatedClient(self, name, checked, clock, view(clock)))
        return self.clients[-1]

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs a coroutine function, outside of all clients.

        Returns its result.

        Raises what it raises, RuntimeError when a call-back raised, Stalled when it waits for ever.
        """
        result = self.loop.run_until_complete(main())
        raised = [fault for fault in self.loop.faults if fault.get("exception") is not None]
        if raised:
            raise RuntimeError(f"a call-back raised: {raised[0].get('message')}") from raised[0]["exception"]
        return result

    def close(self) -> None:
        """Ends what still runs, also in dead processes, and closes the loop."""
        for client in self.clients:
            client.die(unnoticed=True)
            client.process.bury()
        self.loop.run_until_complete(_cancel_others())
        self.loop.close()
        for client in self.clients:
            client.bury()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _cancel_others() -> None:
    tasks: Sequence[asyncio.Task[object]] = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
