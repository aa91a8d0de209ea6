"""Which group votes on a resource, and which deployment a call goes to."""

from __future__ import annotations

import bisect
import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from uhashring import HashRing

from redlock_cluster import AsyncSupervisor, ClosedError, Err, Ok, OptionsError, Supervisor

from .adapter import eventually
from .conftest import Make
from .servers import OPTIONS, UNGUARDED, ServerGroup, ServerPool

pytestmark = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)

GROUPS = [
    {"0": 1, "1": 1, "2": 1},
    {"alpha": 1, "beta": 1, "gamma": 1},
    {"alpha": 1, "beta": 3, "gamma": 2, "delta": 1, "eins": 1},
    {"only": 1},
    {"ü": 1, "a b": 2, "z": 5},
]


def unreachable(groups: dict[str, int]) -> dict[str, object]:
    """Options whose servers need not exist: the ring knows names only."""
    ports = iter(range(1, 1000))
    return {
        "cluster": [
            {"name": name, "weight": weight, "servers": [{"port": next(ports)}]} for name, weight in groups.items()
        ],
        "connect_timeout": 200,
    }


class Ketama:
    """libketama: 40 md5 digests for each node, times its weight's share of the nodes; four points of each digest."""

    def __init__(self, groups: dict[str, int]) -> None:
        total = sum(groups.values())
        self.points: dict[int, str] = {}
        for name, weight in groups.items():
            for number in range(int(40 * len(groups) * weight // total)):
                digest = hashlib.md5(f"{name}-{number}".encode()).digest()
                for start in range(0, 16, 4):
                    self.points[int.from_bytes(digest[start : start + 4], "little")] = name
        self.sorted = sorted(self.points)

    def group(self, resource: bytes) -> str:
        point = int.from_bytes(hashlib.md5(resource).digest()[:4], "little")
        index = bisect.bisect(self.sorted, point)
        return self.points[self.sorted[index % len(self.sorted)]]


@pytest.fixture(params=GROUPS, ids=lambda groups: ",".join(groups))
def groups(request: pytest.FixtureRequest) -> dict[str, int]:
    chosen: dict[str, int] = request.param
    return chosen


async def test_text_goes_where_ketama_sends_it(make: Make, groups: dict[str, int]) -> None:
    api = await make(unreachable(groups), start=False)
    ring: Any = HashRing(nodes={name: {"weight": weight} for name, weight in groups.items()}, hash_fn="ketama")
    own = Ketama(groups)
    names = [f"invoice:{number}" for number in range(200)] + ["", "ü🎲", "a" * 500, " "][1:]
    routed = {name: await api.group_for(name) for name in names}
    assert routed == {name: ring.get_node(name) for name in names}
    assert routed == {name: own.group(name.encode()) for name in names}


async def test_bytes_go_where_their_md5_sends_them(make: Make, groups: dict[str, int]) -> None:
    api = await make(unreachable(groups), start=False)
    own = Ketama(groups)
    names = [bytes([number, 255, 128, 0, number]) for number in range(200)]
    assert {name: await api.group_for(name) for name in names} == {name: own.group(name) for name in names}
    assert await api.group_for("ü") == await api.group_for("ü".encode()) == own.group("ü".encode())


async def test_prefix_does_not_change_the_route(make: Make, groups: dict[str, int]) -> None:
    one = await make({**unreachable(groups), "key_prefix": ""}, start=False)
    two = await make({**unreachable(groups), "key_prefix": "another:"}, start=False)
    for number in range(50):
        assert await one.group_for(f"r{number}") == await two.group_for(f"r{number}")


async def test_order_of_groups_in_the_file_does_not_change_the_route(make: Make, groups: dict[str, int]) -> None:
    one = await make(unreachable(groups), start=False)
    two = await make(unreachable(dict(reversed(groups.items()))), start=False)
    for number in range(100):
        assert await one.group_for(f"r{number}") == await two.group_for(f"r{number}")


async def test_groups_without_names_are_called_by_their_index(make: Make) -> None:
    api = await make({"cluster": [[{"port": 1}], [{"port": 2}], [{"port": 3}]]}, start=False)
    own = Ketama({"0": 1, "1": 1, "2": 1})
    for number in range(60):
        assert await api.group_for(f"r{number}") == own.group(f"r{number}".encode())


async def test_resources_spread_by_weight(make: Make) -> None:
    api = await make(unreachable({"light": 1, "heavy": 4}), start=False)
    counts = Counter([await api.group_for(f"resource {number}") for number in range(1500)])
    assert 2.2 < counts["heavy"] / counts["light"] < 7


@pytest.fixture(scope="module")
def trio(pool: ServerPool) -> Iterator[ServerGroup]:
    """Three servers, each to be a group of its own."""
    with ExitStack() as undo:
        yield pool.started([pool.build("valkey", 9)] * 3, undo)


def grid(trio: ServerGroup) -> dict[str, object]:
    groups = [{"name": f"g{i}", "servers": [{"port": s.port}]} for i, s in enumerate(trio.embedded)]
    return {"cluster": groups, **OPTIONS}


async def test_lock_stands_on_the_servers_of_its_group_only(make: Make, trio: ServerGroup, resource: str) -> None:
    api = await make(grid(trio))
    used: Counter[int] = Counter()
    for number in range(60):
        name = f"{resource}-{number}"
        lease = await api.held(name)
        group = int((await api.group_for(name)).removeprefix("g"))
        used[group] += 1
        values = trio.values(b"redlock:" + name.encode())
        assert values == [lease.token.encode() if index == group else None for index in range(3)]
        assert lease.held_on == {trio.names[group]}
        assert await api.unlock(name, lease) == Ok(None)
    assert len(used) == 3


async def test_outage_of_one_group_leaves_the_others_alone(make: Make, trio: ServerGroup, resource: str) -> None:
    api = await make(grid(trio))
    names: dict[str, str] = {}
    for number in range(60):
        names.setdefault(await api.group_for(f"{resource}-{number}"), f"{resource}-{number}")
    with trio.out_of_memory([1]):
        results = {group: await api.lock(name, 30, wait=0) for group, name in names.items()}
    assert results["g1"] == Err("unavailable")
    assert results["g0"]
    assert results["g2"]


class TestDeployments:
    @staticmethod
    def options(trio: ServerGroup, default: str | None) -> dict[str, object]:
        one, two, three = ([{"port": server.port}] for server in trio.embedded)
        deployments: dict[str, object] = {
            "orders": {"servers": one, **OPTIONS, **UNGUARDED},
            "reports": {"servers": two, "key_prefix": "rep:", "owner": "reporter", **OPTIONS, **UNGUARDED},
        }
        if default == "default":
            deployments["default"] = {"servers": three, **OPTIONS, **UNGUARDED}
            default = None
        return {"deployments": deployments} | ({"default": default} if default else {})

    async def test_named_deployment_has_its_own_servers_and_options(
        self, make: Make, trio: ServerGroup, resource: str
    ) -> None:
        api = await make(self.options(trio, "orders"))
        reports = await api.deployment("reports")
        lease = await reports.held(resource)
        assert lease.token.endswith("@reporter")
        assert trio.values(b"rep:" + resource.encode()) == [None, lease.token.encode(), None]
        assert await api.lock(resource, 30, wait=0)
        assert trio.values(b"redlock:" + resource.encode())[0] is not None
        assert await reports.is_locked(resource)
        assert await reports.unlock(resource, lease) == Ok(None)
        assert not await reports.is_locked(resource)
        assert await api.is_locked(resource)
        reports.end_threads()

    @pytest.mark.parametrize(("default", "index"), [("orders", 0), ("reports", 1), ("default", 2)])
    async def test_default_is_the_one_named_or_the_one_called_default(
        self, make: Make, trio: ServerGroup, resource: str, default: str, index: int
    ) -> None:
        api = await make(self.options(trio, default))
        await api.held(resource)
        assert [bool(keys) for keys in trio.keys(resource)] == [index == number for number in range(3)]

    async def test_default_can_be_named_too(self, make: Make, trio: ServerGroup, resource: str) -> None:
        api = await make(self.options(trio, "orders"))
        orders = await api.deployment("orders")
        await api.held(resource)
        assert await orders.lock(resource, 30, wait=0) == Err("lock_failure")
        orders.end_threads()

    async def test_no_default_is_an_options_error_that_lists_the_names(
        self, make: Make, trio: ServerGroup, resource: str
    ) -> None:
        api = await make(self.options(trio, None), start=False)
        for call in (
            lambda: api.lock(resource),
            lambda: api.is_locked(resource),
            lambda: api.group_for(resource),
            lambda: api.unlock(resource, "t"),
            lambda: api.transaction(resource, 5, lambda: 1),
        ):
            with pytest.raises(OptionsError, match=r"(?s)orders.*reports"):
                await call()
        orders = await api.deployment("orders")
        assert await orders.lock(resource)
        orders.end_threads()

    async def test_unknown_deployment_is_an_options_error_that_lists_the_names(
        self, make: Make, trio: ServerGroup
    ) -> None:
        api = await make(self.options(trio, "orders"), start=False)
        with pytest.raises(OptionsError, match=r"(?s)orders.*reports"):
            await api.deployment("report")

    async def test_lease_of_another_deployment_is_not_taken_for_ones_own(
        self, make: Make, trio: ServerGroup, resource: str
    ) -> None:
        api = await make(self.options(trio, "orders"))
        reports = await api.deployment("reports")
        lease = await reports.held(resource)
        assert await api.unlock(resource, lease) == Err("not_held")
        assert await reports.is_locked(resource)
        reports.end_threads()

    async def test_closing_one_deployment_leaves_the_others(self, make: Make, trio: ServerGroup, resource: str) -> None:
        api = await make(self.options(trio, "orders"))
        held = await api.held(resource)
        reports = await api.deployment("reports")
        for _ in range(2):
            lease = await reports.held(resource)
            assert await reports.unlock(resource, lease) == Ok(None)
            await reports.close()
            with pytest.raises(ClosedError, match="the deployment reports is closed"):
                await reports.lock(resource)
            status = await api.status()
            assert [cluster.name for cluster in status.clusters] == ["orders"]
            assert await api.extend(resource, held, 30)
            await reports.start()
        await reports.close()
        await api.start()
        assert await reports.lock(resource)
        assert await api.unlock(resource, held) == Ok(None)
        await api.close()
        for closed in (api, reports):
            with pytest.raises(ClosedError, match="the supervisor is closed"):
                await closed.lock(resource)
        reports.end_threads()

    async def test_deployment_may_be_closed_before_the_start_and_started_alone(
        self, make: Make, trio: ServerGroup, resource: str
    ) -> None:
        api = await make(self.options(trio, "orders"), start=False)
        reports = await api.deployment("reports")
        await reports.close()
        with pytest.raises(ClosedError, match="the deployment reports is closed"):
            await reports.lock(resource)
        assert await api.lock(resource)
        assert [cluster.name for cluster in (await api.status()).clusters] == ["orders"]
        await api.close()
        await reports.start()
        assert await reports.lock(resource)
        assert [cluster.name for cluster in (await api.status()).clusters] == ["reports"]
        with pytest.raises(ClosedError):
            await api.lock(resource)
        reports.end_threads()

    async def test_status_shows_each_deployment(self, make: Make, trio: ServerGroup) -> None:
        api = await make(self.options(trio, "default"))
        for name in ("orders", "reports"):
            used = await api.deployment(name)
            await used.is_locked("x")
            used.end_threads()
        status = await api.status()
        assert [cluster.name for cluster in status.clusters] == ["orders", "reports", "default"]
        assert all(cluster.available for cluster in status.clusters)


async def test_options_from_a_file_and_from_a_mapping_are_the_same(
    make: Make, servers: ServerGroup, resource: str, options_file: Any
) -> None:
    path: Path = options_file(servers.options())
    for source in (path, str(path)):
        api = await make(source)
        lease = await api.held(resource)
        assert await api.unlock(resource, lease) == Ok(None)


@pytest.mark.parametrize("kind", [Supervisor, AsyncSupervisor])
@pytest.mark.parametrize(
    "options",
    [{}, {"servers": []}, {"servers": [{"port": 1}, {"port": 2}]}, {"servers": [{"port": 1}], "poolsize": 3}],
    ids=repr,
)
def test_wrong_options_are_an_options_error(servers: ServerGroup, kind: Any, options: Any) -> None:
    with pytest.raises(OptionsError) as caught:
        kind(options)
    assert caught.value.problems
    assert isinstance(caught.value, ValueError)


async def test_caller_changing_the_mapping_changes_nothing(make: Make, servers: ServerGroup, resource: str) -> None:
    options: dict[str, Any] = servers.options()
    api = await make(options, start=False)
    options["servers"].clear()
    options["key_prefix"] = "changed:"
    await api.held(resource)
    await eventually(lambda: servers.keys(resource) == [{b"redlock:" + resource.encode()}] * servers.size)
