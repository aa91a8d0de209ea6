"""The ways to the deployments of an options file in this process, and how long calls may take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from redlock_cluster import ClosedError, OptionsError
from redlock_cluster.core.retry import RETRY
from redlock_cluster.options.file import load_options
from redlock_cluster.threads.calls import CoroutineCall
from redlock_cluster.threads.runtime import Runtime

NOWHERE: dict[str, Any] = {
    "servers": [{"port": 1}],
    "connect_timeout": "3s",
    "server_timeout": "200ms",
    "max_retry": 2,
    "retry_interval_base": "100ms",
    "retry_interval_max": "100ms",
}


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    runtime = Runtime(load_options(NOWHERE))
    yield runtime
    runtime.close(None)


def test_calls_may_take_as_long_as_their_policy_says_and_the_start_besides(runtime: Runtime) -> None:
    for starting in 3.0, 0.0:
        binding = runtime.bind(None)
        assert binding.starting == starting
        assert binding.longest(RETRY) == pytest.approx(3 * 0.2 + 2 * 0.1 + starting)
        assert binding.longest(0) == pytest.approx(0.2 + starting)
        assert binding.longest(7) == pytest.approx(7.2 + starting)
        assert binding.longest(None) == float("inf")
        assert binding.longest_release == pytest.approx(0.4 + starting)
        binding.portal.call(CoroutineCall(binding.deployments.start))


def test_way_that_was_found_is_kept_until_the_close(runtime: Runtime) -> None:
    binding = runtime.bind(None)
    assert runtime.bind(None) is not binding
    binding.portal.call(CoroutineCall(binding.deployments.start))
    binding = runtime.bind(None)
    assert runtime.bind(None) is binding
    runtime.close(None)
    with pytest.raises(ClosedError):
        runtime.bind(None)
    runtime.start(None)
    assert runtime.bind(None).deployments is not binding.deployments


def test_way_to_a_deployment_that_there_is_not() -> None:
    runtime = Runtime(load_options(NOWHERE))
    with pytest.raises(OptionsError, match="no such deployment"):
        runtime.bind("other")
