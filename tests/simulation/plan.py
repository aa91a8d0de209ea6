"""What a seed decides before anything happens: servers, clients, clocks, options."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from redlock_cluster.options import Options
from redlock_cluster.options.file import load_options
from redlock_cluster.testing.model import REDIS_6_2, REDIS_7_0, REDIS_8_4, VALKEY_9, ModelVersion
from redlock_cluster.testing.simulation import stream

VERSIONS = (VALKEY_9, VALKEY_9, REDIS_8_4, REDIS_7_0, REDIS_6_2)
EDGE = 0.0049
"""How much a clock may run fast or slow: two of them then differ by just under the drift factor of 1 %."""
TTLS = (0.15, 0.4, 1.0, 4.0)
DRIFT, GRAIN = 0.01, 0.002
"""What the engine takes from a ttl: a part of it, and seconds."""
UNFAIR = 0.1
FENCED = 0.5
LONGEST_TTL = max(TTLS)
LIFE = 1.5
"""Seconds that servers count a member of a queue without hearing of it."""
MANNERS = ("", "", "", "", "", "", "no tracking", "RESP2")
"""What a server lacks, so that it does not push, where leases look after themselves."""
PROMISED = ("faults", "crowd", "leases", "mixed", "shared", "fenced", "amnesia")
"""What the protocol promises to survive; in a crowd many wait for one lock; the leases look after themselves; all ways
to lock are mixed, over two groups; readers and writers share locks, and there is a semaphore; every lock has a fence;
servers restart without their memory, and are flushed."""
BEYOND = ("skew", "jump", "flush")
"""Beyond its promises: a server's clock runs too fast, it jumps; all keys are flushed, of all servers at once."""
MAX_TTL = 4.0
"""Seconds, where clients see to servers that may have forgotten locks."""
SCENARIOS = PROMISED + BEYOND


@dataclass(frozen=True)
class Plan:
    """The setting of one history. Rates are seconds of a machine's clock for each simulated second.

    groups: how many there are, all of one size
    clocks_apart: seconds that servers' clocks differ at most; fair: whether each client stands in queues
    lacks: what each server lacks
    permits: of the semaphore
    fenced: whether every lock has a fence
    """

    seed: int
    scenario: str
    groups: int
    versions: tuple[ModelVersion, ...]
    server_rates: tuple[float, ...]
    client_rates: tuple[float, ...]
    clocks_apart: float
    fair: tuple[bool, ...]
    users: tuple[int, ...]
    pool_size: int
    operations: int
    fault_interval: float
    fragments: float
    lacks: tuple[str, ...]
    permits: int
    fenced: bool

    @property
    def size(self) -> int:
        """Servers of a group."""
        return len(self.versions) // self.groups

    @property
    def quorum(self) -> int:
        """Servers that decide."""
        return self.size // 2 + 1

    @property
    def at_the_edge(self) -> bool:
        """Whether a server's clock runs faster than a client's by almost all that drift allows."""
        return max(self.server_rates) / min(self.client_rates) > 1 + 1.8 * EDGE

    def servers(self) -> str:
        """Which versions they are."""
        return ", ".join(f"{version.family} {'.'.join(map(str, version.number))}" for version in self.versions)

    @property
    def crowded(self) -> bool:
        """Whether many wait for one lock."""
        return self.scenario in ("crowd", "flush")

    @property
    def kept(self) -> bool:
        """Whether leases look after themselves, and strangers delete them."""
        return self.scenario == "leases"

    @property
    def mixed(self) -> bool:
        """Whether there are all kinds of locks, and an operator who takes some away."""
        return self.scenario == "mixed"

    @property
    def shared(self) -> bool:
        """Whether there are readers and permits."""
        return self.scenario == "shared"

    @property
    def guarded(self) -> bool:
        """Whether clients see to servers that may have forgotten locks."""
        return self.forgets or self.clocks_change

    @property
    def clocks_change(self) -> bool:
        """Whether servers' clocks run too fast, or jump."""
        return self.scenario in ("skew", "jump")

    @property
    def forgets(self) -> bool:
        """Whether servers lose their memory."""
        return self.scenario == "amnesia"

    @property
    def robs(self) -> bool:
        """Whether leases are taken from those who hold them."""
        return self.kept or self.mixed

    def options(self, client: int) -> Options:
        """The options of one client."""
        deployment = _options(self.groups, self.size, self.pool_size, self.guarded)
        own = deployment.deployments["default"].model_copy(
            update={"owner": f"c{client}", "fair": self.fair[client], "fencing": self.fenced}
        )
        return deployment.model_copy(update={"deployments": {"default": own}})


def server_name(index: int) -> str:
    """The name of the i-th server of all."""
    return f"s{index}:6379"


@cache
def _options(groups: int, size: int, pool_size: int, guarded: bool) -> Options:
    servers = [[{"host": f"s{size * group + i}"} for i in range(size)] for group in range(groups)]
    several = [{"name": f"g{group}", "servers": servers[group]} for group in range(groups)]
    return load_options(
        {
            **({"servers": servers[0]} if groups == 1 else {"cluster": several}),
            "pool_size": pool_size,
            "key_prefix": "",
            "server_timeout": "50ms",
            "connect_timeout": "100ms",
            "reconnection_interval": "30ms",
            "health_check_interval": "200ms",
            "retry_interval_base": "8ms",
            "retry_interval_max": "80ms",
            "waiter_ttl": f"{LIFE * 1000:.0f}ms",
            "restart_guard": guarded,
            **({"ttl": "1s", "max_ttl": f"{MAX_TTL:.0f}s"} if guarded else {}),
        }
    )


def make_plan(seed: int, scenario: str = "faults") -> Plan:
    """The setting that a seed stands for."""
    source = stream(seed, f"plan {scenario}")
    groups = 2 if scenario == "mixed" else 1
    size = groups * source.choice((3, 3, 3, 5))
    crowded = scenario in ("crowd", "flush")
    forgets = scenario == "amnesia"
    queued = crowded or forgets or scenario in ("shared", "fenced")
    some = (3, 3, 4) if scenario in ("mixed", "shared") else (2, 2, 3)
    clients = source.choice((3, 4, 5, 6) if crowded else some)
    operators = int(scenario == "mixed")
    fast = 0.2 if scenario == "skew" else 0.0
    return Plan(
        seed=seed,
        scenario=scenario,
        groups=groups,
        versions=tuple(source.choice(VERSIONS) for _ in range(size)),
        server_rates=tuple(_rate(source) + fast for _ in range(size)),
        client_rates=tuple(_rate(source) for _ in range(clients)),
        clocks_apart=source.choice((0.0, 0.005, 0.05, 1.0)) if queued else 1e5,
        fair=tuple(not queued or source.random() > UNFAIR for _ in range(clients)),
        users=tuple(source.choice((1, 1, 1, 2)) for _ in range(clients - operators)) + (1,) * operators,
        pool_size=source.choice((1, 1, 2)),
        operations=source.choice((8, 12, 16) if forgets else (2, 3, 4)),
        fault_interval=source.choice((0.05, 0.1, 0.2) if forgets else (0.01, 0.03, 0.03, 0.1)),
        fragments=source.choice((0.0, 0.0, 0.2)),
        lacks=tuple(source.choice(MANNERS) if scenario in ("leases", "mixed") else "" for _ in range(size)),
        permits=source.choice((2, 3)),
        fenced=scenario == "fenced" or (forgets and source.random() < FENCED),
    )


def _rate(source: random.Random) -> float:
    return source.choice((1.0, 1 - EDGE, 1 + EDGE, 1 + EDGE * (2 * source.random() - 1)))
