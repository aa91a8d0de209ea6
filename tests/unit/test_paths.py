"""The files on the way of one acquisition, as docs/architecture.md names them, until the bytes leave."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

import redlock_cluster
from redlock_cluster import AsyncSupervisor, Supervisor
from redlock_cluster.testing import EmbeddedCluster
from redlock_cluster.threads.process import portal

STARTED = 0.2
"""Seconds after which what follows the start is over: leases are gone through when servers have connected."""
ROOT = Path(redlock_cluster.__file__).parent


def documented() -> list[str]:
    text = (ROOT.parent / "docs" / "architecture.md").read_text()
    section = text.partition("## To follow one acquisition")[2].partition("\n## ")[0]
    return re.findall(r"^\d\. `([a-z_/]+\.py)`", section, re.MULTILINE)


class Way:
    """Notes each file of the package that a profiled thread enters, core's helpers left out, until the bytes leave."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.left = False

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        file = Path(frame.f_code.co_filename)
        if event != "call" or self.left or not file.is_relative_to(ROOT):
            return
        if frame.f_code.co_name == "write_series":
            self.left = True
        name = str(file.relative_to(ROOT))
        if name not in self.files and not name.startswith("core/"):
            self.files.append(name)


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster(groups=1, servers=3) as cluster:
        yield cluster


def options(cluster: EmbeddedCluster) -> dict[str, object]:
    """Without health checks: one that falls into the acquisition would be on its way."""
    return {**cluster.options, "health_check_interval": "1m"}


async def asynchronous(cluster: EmbeddedCluster) -> list[str]:
    way = Way()
    async with AsyncSupervisor(options(cluster)) as redlock:
        assert await redlock.lock("warm asynchronously", 10)
        await asyncio.sleep(STARTED)
        sys.setprofile(way.profile)
        try:
            assert await redlock.lock("asynchronous", 10)
        finally:
            sys.setprofile(None)
    return way.files


def synchronous(cluster: EmbeddedCluster) -> list[str]:
    way = Way()
    with Supervisor(options(cluster)) as redlock:
        assert redlock.lock("warm synchronously", 10)
        time.sleep(STARTED)
        in_portal(lambda: sys.setprofile(way.profile))
        sys.setprofile(way.profile)
        try:
            assert redlock.lock("synchronous", 10)
        finally:
            sys.setprofile(None)
            in_portal(lambda: sys.setprofile(None))
    return way.files


def in_portal(do: Callable[[], object]) -> None:
    done = threading.Event()
    portal().later(lambda: (do(), done.set()))
    assert done.wait(10)


def test_asynchronous_acquisition_passes_at_most_eight_files_as_documented(cluster: EmbeddedCluster) -> None:
    found = asyncio.run(asynchronous(cluster))
    assert len(documented()) <= 8
    assert found == documented()


def test_synchronous_acquisition_passes_at_most_eleven_files_as_documented(cluster: EmbeddedCluster) -> None:
    found = synchronous(cluster)
    before = ["sync.py", "threads/runtime.py", "threads/calls.py", "threads/portal.py"]
    way = before + documented()[1:]
    assert len(way) <= 11
    assert found == way
