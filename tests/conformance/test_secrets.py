"""Tokens and passwords are written nowhere: not in reprs, not in errors, not in logs, not in `status()`."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from redlock_cluster import OptionsError, Supervisor

from .adapter import Api, everywhere
from .conftest import Make
from .servers import OPTIONS, ServerGroup, ServerPool

two_versions = pytest.mark.parametrize("servers", ["valkey-9", "redis-6"], indirect=True)
one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)

PASSWORD = "correct-horse-battery-staple"


def shown(*things: Any) -> str:
    """Everything a thing says of itself, an exception's traceback and causes included."""
    parts = []
    for thing in things:
        parts += [repr(thing), str(thing), f"{thing}"]
        if isinstance(thing, BaseException):
            parts += ["".join(traceback.format_exception(thing)), repr(thing.args), repr(getattr(thing, "votes", ""))]
    return "\n".join(parts)


async def test_representations_of_a_lease_do_not_contain_the_token(api: Api, resource: str) -> None:
    result: Any = await api.lock(resource)
    lease = result.value
    mutex = await api.mutex(resource + "-2")
    await api.run(mutex.acquire)
    text = shown(result, lease, lease.votes, mutex, api.supervisor, await api.status())
    for token in (lease.token, mutex.lease.token):
        assert token not in text
        assert token.partition("@")[0] not in text


@two_versions
@pytest.mark.parametrize(
    "token", ["0123456789abcdef0123456789abcdef@host:1", "f" * 32, "k3y-4711", "s3cr", "@@@@@@@", "tok:en@a@b"]
)
async def test_refusals_do_not_contain_the_holders_token(
    api: Api, servers: ServerGroup, resource: str, key: bytes, token: str
) -> None:
    servers.put(key, token.encode(), servers.everyone)
    refusal: Any = await api.refused(resource, wait=0)
    text = shown(refusal, refusal.error, *refusal.error.votes, *(vote.detail for vote in refusal.error.votes))
    assert token not in text
    released: Any = await api.unlock(resource, token + "x")
    assert token not in shown(released, released.error)


@two_versions
async def test_refusals_by_our_own_do_not_contain_the_token(make: Make, resource: str) -> None:
    one, two = await make(), await make()
    lease = await one.held(resource)
    refusal: Any = await two.refused(resource, wait=0)
    text = shown(refusal, refusal.error, *refusal.error.votes)
    assert lease.token not in text
    assert lease.token.partition("@")[0] not in text


@one_version
async def test_errors_and_losses_do_not_contain_the_token(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api = await make(server_timeout=60)
    lease = await api.held(resource)
    await everywhere(lambda: servers.values(key), lease.token.encode())
    seen: list[Any] = []
    with servers.paused(servers.majority):
        seen += [await api.extend(resource, lease, 30), await api.extend(resource, lease.token, 30)]
    servers.put(key, b"thief-thief-thief", servers.everyone)
    seen += [await api.unlock(resource, lease.token), await api.unlock(resource, lease)]
    for method in (lease.extend, lease.release):
        with pytest.raises(Exception) as caught:
            await api.run(method)
        seen.append(caught.value)
    for by in (lease.token, lease):
        with pytest.raises(ValueError, match=r".") as refused:
            await api.extend(resource, by, -1)
        seen.append(refused.value)
    for thing in seen:
        text = shown(thing, getattr(thing, "error", None))
        assert lease.token not in text
        assert lease.token.partition("@")[0] not in text
        assert "thief-thief-thief" not in text


@two_versions
async def test_logs_at_debug_do_not_contain_tokens(
    make: Make, servers: ServerGroup, resource: str, key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = [b"somebody-else-4711"]
    with caplog.at_level(logging.DEBUG):
        api = await make(server_timeout=60)
        lease = await api.held(resource)
        tokens.append(lease.token.encode())
        await api.lock(resource, wait=0)
        await api.extend(resource, lease, 30)
        await api.extend(resource, lease.token, 30)
        with servers.paused(servers.majority):
            await api.extend(resource, lease, 30)
        servers.kill_connections(servers.everyone)
        servers.put(key, tokens[0], servers.everyone)
        await api.lock(resource, wait=0)
        await api.unlock(resource, lease.token)
        await api.unlock(resource, lease)
        await api.close()
    text = caplog.text + "".join(repr(record.args) for record in caplog.records)
    for token in tokens:
        assert token.decode() not in text
        assert token.partition(b"@")[0].decode() not in text


@pytest.fixture(scope="module")
def locked(pool: ServerPool) -> Iterator[ServerGroup]:
    with ExitStack() as undo:
        yield pool.started([pool.build("valkey", 9)], undo, requirepass=PASSWORD)


@one_version
async def test_password_is_shown_nowhere(
    make: Make, locked: ServerGroup, servers: ServerGroup, resource: str, caplog: pytest.LogCaptureFixture
) -> None:
    port = locked.embedded[0].port
    with caplog.at_level(logging.DEBUG):
        for source in (
            {"servers": [{"port": port, "password": PASSWORD}]},
            {"servers": [{"port": port, "auth": PASSWORD}]},
            {"servers": [f"redis://:{PASSWORD}@127.0.0.1:{port}"]},
        ):
            api = await make({**source, **OPTIONS})
            lease = await api.held(resource)
            refusal: Any = await api.refused(resource, wait=0)
            seen = shown(api.supervisor, await api.status(), refusal, refusal.error, lease)
            assert PASSWORD not in seen
            await api.unlock(resource, lease)
            await api.close()
        wrong = await make({"servers": [f"redis://:{PASSWORD}x@127.0.0.1:{port}"], **OPTIONS})
        refusal = await wrong.refused(resource, wait=0)
        assert PASSWORD not in shown(wrong.supervisor, await wrong.status(), refusal, refusal.error)
        await wrong.close()
    assert PASSWORD not in caplog.text


@one_version
@pytest.mark.parametrize(
    "server",
    [
        {"port": "x", "password": PASSWORD},
        {"port": 1, "password": PASSWORD, "auth": PASSWORD},
        {"port": 1, "passwort": PASSWORD},
        f"redis://:{PASSWORD}@127.0.0.1:port",
        f"http://:{PASSWORD}@127.0.0.1:1",
        f"redis://:{PASSWORD}@127.0.0.1:1/?{PASSWORD}=1",
    ],
    ids=["port", "both", "unknown", "url port", "url scheme", "url parameter"],
)
def test_options_errors_do_not_contain_the_password(servers: ServerGroup, server: Any) -> None:
    with pytest.raises(OptionsError) as caught:
        Supervisor({"servers": [server]})
    assert PASSWORD not in shown(caught.value)
