"""The ways to the deployments of an options file in this process, and how long calls may take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from redlock_cluster import ClosedError, OptionsError
from redlock_cluster.engine.retry import RETRY
from redlock_cluster.options.file import load_options
from redlock_cluster.threads.calls import Working
from redlock_cluster.threads.runtime import Home

NOWHERE: dict[str, Any] = {
    "servers": [{"port": 1}],
    "connect_timeout": "3s",
    "server_timeout": "200ms",
    "max_retry": 2,
    "retry_interval_base": "100ms",
    "retry_interval_max": "100ms",
}


@pytest.fixture
def home() -> Iterator[Home]:
    home = Home(load_options(NOWHERE))
    yield home
    home.close()


def test_calls_may_take_as_long_as_their_policy_says_and_the_start_besides(home: Home) -> None:
    for starting in 3.0, 0.0:
        entry = home.entry(None)
        assert entry.starting == starting
        assert entry.longest(RETRY) == pytest.approx(3 * 0.2 + 2 * 0.1 + starting)
        assert entry.longest(0) == pytest.approx(0.2 + starting)
        assert entry.longest(7) == pytest.approx(7.2 + starting)
        assert entry.longest(None) == float("inf")
        assert entry.longest_release == pytest.approx(0.4 + starting)
        entry.portal.call(Working(entry.cluster.start))


def test_way_that_was_found_is_kept_until_the_close(home: Home) -> None:
    entry = home.entry(None)
    assert home.entry(None) is not entry
    entry.portal.call(Working(entry.cluster.start))
    entry = home.entry(None)
    assert home.entry(None) is entry
    home.close()
    with pytest.raises(ClosedError):
        home.entry(None)
    home.closed = False
    assert home.entry(None).cluster is not entry.cluster


def test_way_to_a_deployment_that_there_is_not() -> None:
    home = Home(load_options(NOWHERE))
    with pytest.raises(OptionsError, match="no such deployment"):
        home.entry("other")
