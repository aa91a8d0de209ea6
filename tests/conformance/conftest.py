"""Servers for the session, a supervisor of either face for each test, a resource nobody else has."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from redlock_cluster import AsyncSupervisor, Supervisor

from .adapter import FACES, Api, Face, Mode
from .servers import PREFIX, USUAL, ServerGroup, ServerPool


class Make(Protocol):
    """Makes another supervisor of the test's face over the test's servers; closed after the test."""

    def __call__(self, options: object = None, *, start: bool = True, **more: object) -> Awaitable[Api]: ...


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPool]:
    servers = ServerPool(tmp_path_factory.mktemp("binaries"))
    yield servers
    servers.close()


@pytest.fixture(params=USUAL)
def servers(request: pytest.FixtureRequest, pool: ServerPool) -> ServerGroup:
    return pool.group(request.param)


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Face:
    chosen: Face = request.param
    return chosen


@pytest.fixture
def mode(request: pytest.FixtureRequest) -> Mode:
    """Which kind of lock the test's supervisors mean; see `servers.in_each_mode`."""
    chosen: Mode = getattr(request, "param", "write")
    return chosen


@pytest.fixture
async def make(face: Face, servers: ServerGroup, mode: Mode) -> AsyncIterator[Make]:
    made: list[Api] = []

    async def _make(options: object = None, *, start: bool = True, **more: object) -> Api:
        source = servers.options(**more) if options is None else options
        kind: Callable[..., AsyncSupervisor | Supervisor] = AsyncSupervisor if face == "asyncio" else Supervisor
        made.append(Api(kind(source), mode))
        return await made[-1].start() if start else made[-1]

    yield _make
    servers.resume()
    for api in made:
        await api.close()
        api.end_threads()


@pytest.fixture
async def api(make: Make) -> Api:
    return await make()


@pytest.fixture
def resource() -> str:
    return f"it-{uuid.uuid4().hex}"


@pytest.fixture
def key(resource: str) -> bytes:
    """Where the resource stands on servers under the default prefix."""
    return PREFIX + resource.encode()


@pytest.fixture
def options_file(tmp_path: Path) -> Callable[[object], Path]:
    """Writes options as a file. JSON is YAML."""
    import json

    def write(options: object, name: str = "redlock.yaml") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(options), encoding="utf-8")
        return path

    return write
