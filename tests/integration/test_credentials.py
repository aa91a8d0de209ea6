"""Credentials that change: read again for every connection, from files, the environment, and providers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from proxied_servers import FAST, LONG, assert_clean, group_status, soon, states, supervisor_of
from proxy import ask, tell
from secrecy import SECRETS

from redlock_cluster import AsyncSupervisor, Ok
from redlock_cluster.testing import EmbeddedServer

FACES = ("asyncio", "sync")
OLD, NEW = "tr0ub4dor-and-3", "correct-horse-battery-staple"

both = pytest.mark.parametrize("face", FACES)


@pytest.fixture(autouse=True)
def _clean(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert_clean(caplog)
    assert not SECRETS.leaks(caplog.text)


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server that lets nobody in without a password, and three users with one."""
    with EmbeddedServer(config={"requirepass": OLD}) as server:
        yield server


def changed(server: EmbeddedServer, before: str, after: str) -> None:
    """The server's password changes, and all connections end."""
    tell(
        server.port,
        ("AUTH", before),
        ("CONFIG", "SET", "requirepass", after),
        *(("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes") for kind in ("normal", "pubsub")),
    )


def users(server: EmbeddedServer, password: str = OLD) -> set[str]:
    """Who the library has logged in as."""
    listed = ask(server.port, "CLIENT", "LIST", login=(password,))
    assert isinstance(listed, bytes)
    lines = [dict(field.split("=", 1) for field in line.split()) for line in listed.decode().splitlines()]
    return {line["user"] for line in lines if line.get("lib-name") == "redlock-cluster"}


def options_for(entry: object, **more: object) -> dict[str, object]:
    return {**FAST, "pool_size": 1, "servers": [entry], **more}


def last_error(redlock: AsyncSupervisor) -> str:
    told = group_status(redlock.status()).servers[0].last_error
    assert not SECRETS.leaks(told)
    return told


def reconnects(redlock: AsyncSupervisor) -> int:
    return group_status(redlock.status()).servers[0].reconnects


async def locks(redlock: AsyncSupervisor) -> None:
    outcome = await redlock.lock("a", LONG, wait=0)
    assert isinstance(outcome, Ok), outcome
    assert await redlock.unlock("a", outcome.value) == Ok(None)


# Files


@both
async def test_password_file_is_read_for_every_connection(face: str, server: EmbeddedServer, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{OLD}\n")
    async with supervisor_of(face, options_for({"port": server.port, "password_file": str(file)})) as redlock:
        await locks(redlock)
        file.write_text(f"{NEW}\n")
        changed(server, OLD, NEW)
        await soon(lambda: reconnects(redlock) == 1)
        await locks(redlock)


@both
async def test_password_file_that_disappears_is_a_server_that_is_down_with_the_reason(
    face: str, server: EmbeddedServer, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text(OLD)
    async with supervisor_of(face, options_for({"port": server.port, "password_file": str(file)})) as redlock:
        for spoil, reason in (
            (file.unlink, "the file can't be read: No such file or directory"),
            (lambda: file.write_text("\n"), "the file is empty or too long for a password"),
            (lambda: file.write_bytes(OLD.encode() + b"\xff"), "the file is not UTF-8 text"),
        ):
            spoil()
            changed(server, OLD, OLD)
            await soon(lambda reason=reason: last_error(redlock) == f"password_file: {reason}")
            assert states(redlock.status()) == ["down"]
            file.write_text(OLD)
            await soon(lambda: states(redlock.status()) == ["up"])
        await locks(redlock)


# The environment


@both
@pytest.mark.parametrize("form", ["map", "URL", "whole URL"])
async def test_variables_are_read_for_every_connection(
    face: str, form: str, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry: object = {"port": server.port, "username": "${WHO}", "password": "${HOW}"}
    if form == "URL":
        entry = f"redis://${{WHO}}:${{HOW}}@127.0.0.1:{server.port}"
    elif form == "whole URL":
        entry = "${WHERE}"

    def environment(who: str, how: str) -> None:
        monkeypatch.setenv("WHO", who)
        monkeypatch.setenv("HOW", how)
        monkeypatch.setenv("WHERE", f"redis://{who}:{how}@127.0.0.1:{server.port}")

    environment("default", OLD)
    async with supervisor_of(face, options_for(entry)) as redlock:
        await locks(redlock)
        assert users(server) == {"default"}
        tell(server.port, ("AUTH", OLD), ("ACL", "SETUSER", "locker", "on", f">{NEW}", "~*", "+@all"))
        environment("locker", NEW)
        changed(server, OLD, OLD)
        await soon(lambda: reconnects(redlock) == 1)
        assert users(server) == {"locker"}
        await locks(redlock)
        for name in ("WHO", "HOW", "WHERE"):
            monkeypatch.delenv(name)
        changed(server, OLD, OLD)
        await soon(lambda: "is not set" in last_error(redlock))
        where = {"map": "username", "URL": "URL", "whole URL": "URL"}[form]
        variable = "WHERE" if form == "whole URL" else "WHO"
        assert last_error(redlock) == f"{where}: the environment variable {variable} is not set"
        environment("locker", NEW)
        await soon(lambda: states(redlock.status()) == ["up"])


# Providers


class Vault(redis.CredentialProvider):
    """Gives what it holds.

    asked: from which threads it was asked
    """

    def __init__(self, *holds: object) -> None:
        self.holds: object = holds
        self.asked: list[str] = []
        self.open = threading.Event()
        self.open.set()

    def get_credentials(self) -> tuple[str, str]:
        self.asked.append(threading.current_thread().name)
        assert self.open.wait(30)
        if isinstance(self.holds, BaseException):
            raise self.holds
        return self.holds  # type: ignore[return-value]


@both
@pytest.mark.parametrize("user", [(), ("default",)], ids=["password alone", "both"])
async def test_provider_is_asked_for_every_connection(face: str, user: tuple[str], server: EmbeddedServer) -> None:
    vault = Vault(*user, OLD)
    async with supervisor_of(face, options_for({"port": server.port, "credential_provider": vault})) as redlock:
        await locks(redlock)
        assert set(vault.asked) == {"redlock-cluster: waiting for its credentials"}
        vault.holds = (*user, NEW)
        changed(server, OLD, NEW)
        await soon(lambda: reconnects(redlock) == 1)
        await locks(redlock)


@both
async def test_provider_of_the_redis_package_works(face: str, server: EmbeddedServer) -> None:
    provider = redis.UsernamePasswordCredentialProvider("default", OLD)
    async with supervisor_of(face, options_for({"port": server.port, "credential_provider": provider})) as redlock:
        await locks(redlock)


@both
async def test_what_a_provider_raises_is_a_server_that_is_down_without_the_text(
    face: str, server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    vault = Vault(OLD)
    async with supervisor_of(face, options_for({"port": server.port, "credential_provider": vault})) as redlock:
        shape = "the credential provider must give (user name, password) or (password,)"
        for holds, reason in (
            (ValueError(f"{OLD} has expired"), "the credential provider raised ValueError"),
            (redis.AuthenticationError(OLD), "the credential provider raised redis.exceptions.AuthenticationError"),
            (SystemExit(OLD), "the credential provider raised SystemExit"),
            (None, shape),
            (OLD, shape),
            ((), shape),
            (("a", OLD, "b"), shape),
            (("a", 5), "the credential provider's password: text is expected; put it in quotes if it is a number"),
            ((f"{OLD}\udcff",), "the credential provider's password: contains bytes that are not UTF-8"),
        ):
            vault.holds = holds
            changed(server, OLD, OLD)
            await soon(lambda reason=reason: last_error(redlock).startswith(reason), what=reason)  # type: ignore[misc]
            vault.holds = (OLD,)
            await soon(lambda: states(redlock.status()) == ["up"])
            assert OLD not in caplog.text
            assert OLD not in repr(redlock.status())


@both
async def test_provider_that_hangs_is_asked_once_and_holds_up_nobody(face: str, server: EmbeddedServer) -> None:
    vault = Vault(OLD)
    vault.open.clear()
    with contextlib.ExitStack() as stack:
        stack.callback(vault.open.set)
        others = [stack.enter_context(EmbeddedServer()) for _ in range(2)]
        servers = [{"port": server.port, "credential_provider": vault}, *({"port": other.port} for other in others)]
        options = {**FAST, "connect_timeout": 400, "pool_size": 3, "servers": servers}
        async with supervisor_of(face, options) as redlock:
            assert states(redlock.status())[1:] == ["up"] * 2
            await locks(redlock)
            telling = "no connection within the connect timeout: still waiting for its credentials"
            await soon(lambda: last_error(redlock) == telling)
            assert len(vault.asked) == 1
            assert await asyncio.wait_for(asyncio.to_thread(int), 5) == 0
            vault.open.set()
            await soon(lambda: states(redlock.status()) == ["up"] * 3)


# Users without a password


@both
@pytest.mark.parametrize(("form", "protected"), list(itertools.product(["map", "URL", "URL with :"], [False, True])))
async def test_user_name_alone_logs_in_as_that_user(face: str, form: str, protected: bool) -> None:
    with EmbeddedServer() as server:
        tell(server.port, ("ACL", "SETUSER", "locker", "on", "nopass", "~*", "+@all"))
        if protected:
            tell(server.port, ("CONFIG", "SET", "requirepass", OLD))
        entry: object = {"port": server.port, "username": "locker"}
        if form != "map":
            entry = f"redis://locker{':' if form.endswith(':') else ''}@127.0.0.1:{server.port}"
        async with supervisor_of(face, options_for(entry)) as redlock:
            await locks(redlock)
            listed = ask(server.port, "CLIENT", "LIST", login=("locker", ""))
            assert isinstance(listed, bytes)
            assert b" user=locker " in next(line for line in listed.splitlines() if b"lib-name=redlock-cluster" in line)


async def test_user_name_alone_of_a_user_with_a_password_is_down_with_the_reason(server: EmbeddedServer) -> None:
    tell(server.port, ("AUTH", OLD), ("ACL", "SETUSER", "locker", "on", f">{NEW}", "~*", "+@all"))
    async with supervisor_of("asyncio", options_for({"port": server.port, "username": "locker"})) as redlock:
        assert states(redlock.status()) == ["down"]
        assert "WRONGPASS" in last_error(redlock)
