"""What several files of these tests need."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import postgres
import pytest
from proxied_servers import assert_clean, group_of
from proxy import tell

from redlock_cluster.engine import deployments
from redlock_cluster.testing import EmbeddedCluster


@pytest.fixture
def clean_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """At the end of the test, nothing is in the log that should not be."""
    yield
    assert_clean(caplog)


@pytest.fixture
def clean_debug_log(caplog: pytest.LogCaptureFixture, clean_log: None) -> None:
    """The same of everything that may be logged."""
    caplog.set_level(logging.DEBUG)


@pytest.fixture(scope="module")
def trio_options() -> Mapping[str, object]:
    """Options of the group of three; a file may have others."""
    return {}


@pytest.fixture(scope="module")
def shared(trio_options: Mapping[str, object]) -> Iterator[EmbeddedCluster]:
    """A group of three servers, for all tests of a file."""
    with group_of(3, **trio_options) as shared:
        yield shared


@pytest.fixture
def trio(shared: EmbeddedCluster) -> EmbeddedCluster:
    """It runs and is empty, and has counted nothing yet."""
    for server in shared.servers:
        server.start()
        tell(server.port, ("FLUSHALL",), ("CONFIG", "RESETSTAT"))
    return shared


@pytest.fixture(scope="session")
def postgres_variables() -> Iterator[Mapping[str, str]]:
    """The environment variables by which libpq finds a real server."""
    pytest.importorskip("psycopg", reason="there is no psycopg; the extra `dev` brings it")
    pytest.importorskip("psycopg2", reason="there is no psycopg2; the extra `dev` brings it")
    if reason := postgres.why_no_postgres():
        pytest.skip(f"no PostgreSQL server can be started: {reason}")
    with postgres.running() as variables:
        yield variables


@pytest.fixture
def everybody_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start waits for every server, as busy as the machine may be; else for a quorum and a moment."""
    monkeypatch.setattr(deployments, "START_GRACE", 60.0)
