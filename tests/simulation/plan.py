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
LONGEST_TTL = max(TTLS)
SCENARIOS = ("faults", "amnesia", "skew", "jump")
"""faults: what the protocol promises to survive. The others are beyond its promises: a server restarts without its
memory, its clock runs too fast, its clock jumps."""


@dataclass(frozen=True)
class Plan:
    """The setting of one history. Rates are seconds of a machine's clock for each simulated second."""

    seed: int
    scenario: str
    versions: tuple[ModelVersion, ...]
    server_rates: tuple[float, ...]
    client_rates: tuple[float, ...]
    users: tuple[int, ...]
    pool_size: int
    operations: int
    fault_interval: float
    fragments: float

    @property
    def size(self) -> int:
        """Servers of the group."""
        return len(self.versions)

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

    def options(self, owner: str) -> Options:
        """The options of one client."""
        deployment = _options(self.size, self.pool_size)
        own = deployment.deployments["default"].model_copy(update={"owner": owner})
        return deployment.model_copy(update={"deployments": {"default": own}})


def server_name(index: int) -> str:
    """The name of the group's i-th server."""
    return f"s{index}:6379"


@cache
def _options(size: int, pool_size: int) -> Options:
    return load_options(
        {
            "servers": [{"host": f"s{i}"} for i in range(size)],
            "pool_size": pool_size,
            "key_prefix": "",
            "server_timeout": "50ms",
            "connect_timeout": "100ms",
            "reconnection_interval": "30ms",
            "health_check_interval": "200ms",
            "retry_interval_base": "8ms",
            "retry_interval_max": "80ms",
        }
    )


def make_plan(seed: int, scenario: str = "faults") -> Plan:
    """The setting that a seed stands for."""
    source = stream(seed, f"plan {scenario}")
    size = source.choice((3, 3, 3, 5))
    clients = source.choice((2, 2, 3))
    fast = 0.2 if scenario == "skew" else 0.0
    return Plan(
        seed=seed,
        scenario=scenario,
        versions=tuple(source.choice(VERSIONS) for _ in range(size)),
        server_rates=tuple(_rate(source) + fast for _ in range(size)),
        client_rates=tuple(_rate(source) for _ in range(clients)),
        users=tuple(source.choice((1, 1, 1, 2)) for _ in range(clients)),
        pool_size=source.choice((1, 1, 2)),
        operations=source.choice((2, 3, 4)),
        fault_interval=source.choice((0.01, 0.03, 0.03, 0.1)),
        fragments=source.choice((0.0, 0.0, 0.2)),
    )


def _rate(source: random.Random) -> float:
    return source.choice((1.0, 1 - EDGE, 1 + EDGE, 1 + EDGE * (2 * source.random() - 1)))
