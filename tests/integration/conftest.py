"""What several files of these tests need."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from proxied_servers import assert_clean, group_of

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
def trio() -> Iterator[EmbeddedCluster]:
    """A group of three servers, for all tests of a file."""
    with group_of(3) as trio:
        yield trio


@pytest.fixture
def everybody_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start waits for every server, as busy as the machine may be; else for a quorum and a moment."""
    monkeypatch.setattr(deployments, "START_GRACE", 60.0)
