"""What is built and installed: nothing but the package, and it works outside of the source tree."""

from __future__ import annotations

import contextlib
import email
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "redlock_cluster"
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HATCH_", "REDLOCK_"))}
"""An environment in which nothing points to the source tree."""
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]

LOCK = """
import sys
import redlock_cluster
from redlock_cluster import Redlock
assert redlock_cluster.__file__.startswith(sys.prefix), redlock_cluster.__file__
with Redlock.start(sys.argv[1]).mutex("invoice:42", ttl=10, wait=0) as lease:
    lease.extend(20)
    print(len(lease.held_on) >= 2, Redlock.is_locked("invoice:42"))
"""


def run(*command: str | Path, cwd: Path, seconds: float = 120) -> str:
    """What a command prints; it must end well."""
    done = subprocess.run(command, cwd=cwd, env=CLEAN, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Built(NamedTuple):
    """The two files that a release consists of."""

    sdist: Path
    wheel: Path

    def metadata(self) -> Message:
        """What the wheel says about itself."""
        with zipfile.ZipFile(self.wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            return email.message_from_bytes(archive.read(name))


def contents(wheel: Path) -> dict[str, bytes]:
    """Every file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    place = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", place, cwd=ROOT)
    (sdist,), (wheel,) = place.glob("*.tar.gz"), place.glob("*.whl")
    return Built(sdist, wheel)


def test_wheel_contains_the_package_and_nothing_else(built: Built) -> None:
    package = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__" and path.suffix != ".so"
    }
    assert {"redlock_cluster/py.typed", "redlock_cluster/lua/release.lua"} <= package.keys()
    found = contents(built.wheel)
    about = {name.partition(".dist-info/")[2]: found.pop(name) for name in list(found) if ".dist-info/" in name}
    assert found == package
    assert about.keys() == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert about["licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_licence_is_an_expression_with_its_file(built: Built) -> None:
    said = built.metadata()
    assert (said["License-Expression"], said.get_all("License-File")) == ("MIT", ["LICENSE"])
    assert not [line for line in said.get_all("Classifier", []) if line.startswith("License")]


def test_sdist_builds_the_same_wheel(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=tree)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == built.wheel.name
    assert contents(wheel) == contents(built.wheel)


def why_no_index(place: Path) -> str:
    """Why pip finds no package index here; "" when it does."""
    command = [
        *PIP,
        "download",
        "--quiet",
        "--retries",
        "0",
        "--timeout",
        "10",
        "--no-deps",
        "--no-cache-dir",
        "uhashring",
    ]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=60, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


@contextlib.contextmanager
def servers_up(command: Path, place: Path) -> Iterator[Path]:
    """The options file of three servers that `redlock-cluster up` runs, until it is interrupted."""
    options = place / "options.yaml"
    arguments = [command, "up", "--groups", "1", "--write", options]
    with subprocess.Popen(arguments, cwd=place, env=CLEAN, stdout=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while not options.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            assert options.exists()
            yield options
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=30)
    assert "3 servers ended" in output
    assert not options.exists()


def test_installed_wheel_works_in_an_environment_of_its_own(built: Built, tmp_path: Path) -> None:
    """In one test, as installing takes most of its time."""
    if reason := why_no_index(tmp_path):
        pytest.skip(f"pip reaches no package index: {reason}")
    run(sys.executable, "-m", "venv", "--without-pip", "empty", cwd=tmp_path)
    scripts = tmp_path / "empty" / "bin"
    run(*PIP, "--python", scripts / "python", "install", "--quiet", f"{built.wheel}[embedded]", cwd=tmp_path)
    command = scripts / "redlock-cluster"
    assert "check" in run(command, "--help", cwd=tmp_path)
    assert "--seconds" in run(command, "demo", "--help", cwd=tmp_path)
    with servers_up(command, tmp_path) as options:
        assert "every group gave a lock and took it back" in run(command, "check", options, cwd=tmp_path)
        assert run(scripts / "python", "-W", "error", "-c", LOCK, options, cwd=tmp_path) == "True True\n"
