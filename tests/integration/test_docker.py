"""The servers of docker/compose.yaml are those of config/redlock.yaml, and lock."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from redlock_cluster import Ok, Supervisor
from redlock_cluster.options.file import load_options

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker" / "compose.yaml"
CONFIG = ROOT / "config" / "redlock.yaml"


def why_no_docker() -> str:
    """Why no Docker engine can be used here; "" when one can."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        except subprocess.TimeoutExpired:
            return f"`{' '.join(command)}` did not answer within 20 s"
        if done.returncode:
            return f"`{' '.join(command)}` says: {done.stderr.strip().splitlines()[-1]}"
    return ""


@pytest.fixture(scope="module")
def compose() -> Iterator[None]:
    if reason := why_no_docker():
        pytest.skip(f"no Docker engine answers: {reason}")
    from testcontainers.compose import DockerCompose

    with DockerCompose(str(COMPOSE.parent), compose_file_name=COMPOSE.name, wait=True, keep_volumes=False):
        yield


def test_servers_of_compose_lock_by_the_example_config(compose: None) -> None:
    resources = [f"invoice:{number}" for number in range(30)]
    with Supervisor(CONFIG) as redlock:
        status = redlock.status()
        assert status.available
        states = {
            server.state.value for cluster in status.clusters for group in cluster.groups for server in group.servers
        }
        assert states == {"up"}
        assert {redlock.group_for(resource) for resource in resources} == {"alpha", "beta", "gamma"}
        for resource in resources:
            held = redlock.lock(resource, 10)
            assert isinstance(held, Ok)
            assert not redlock.lock(resource, 10, wait=0)
            assert redlock.unlock(resource, held.value)


def test_ports_of_compose_are_the_servers_of_the_example_config() -> None:
    (deployment,) = load_options(CONFIG).deployments.values()
    configured = {
        f"{group.name}-{number}": f"{server.host}:{server.port}"
        for group in deployment.groups
        for number, server in enumerate(group.servers, 1)
    }
    services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    published = {name: port.removesuffix(":6379") for name, service in services.items() for port in service["ports"]}
    assert published == configured
    assert len(published) == 9


def test_servers_of_compose_keep_every_write_and_tell_their_health() -> None:
    file = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    for name, service in file["services"].items():
        repository, _, tag = service["image"].rpartition(":")
        assert repository == "valkey/valkey"
        assert tag.split(".")[0].isdigit()
        _, *words = service["command"]
        settings = dict(zip(words[::2], words[1::2], strict=True))
        assert settings["--appendonly"] == "yes"
        assert settings["--appendfsync"] == "always"
        assert settings["--no-appendfsync-on-rewrite"] == "no"
        assert service["volumes"] == [f"{name}:/data"]
        assert name in file["volumes"]
        assert "valkey-cli ping" in service["healthcheck"]["test"][1]
