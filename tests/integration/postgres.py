"""A real PostgreSQL server as a child process, for one test session."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from redlock_cluster.testing import processes

USER = "postgres"
"""Who runs it where the tests run as root, whom it refuses to serve; and its superuser's name."""


def why_no_postgres() -> str:
    """Why no server can be started here; "" when one can."""
    if _folder_of_programs() is None:
        return "there is no initdb, neither on PATH nor where Debian has it; `apt-get install postgresql` brings it"
    if os.geteuid() == 0 and not _is_user(USER):
        return f"root can't run a server, and there is no user {USER}"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "root can't run a server, and there is no setpriv"
    return ""


@contextlib.contextmanager
def running() -> Iterator[Mapping[str, str]]:
    """A new server with an empty database; the environment variables by which libpq finds it."""
    programs = _folder_of_programs()
    assert programs is not None
    # Not in pytest's folder, which only its user may enter; and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="redlock-pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, USER)
        data = folder / "data"
        _run(programs / "initdb", "--pgdata", data, "--username", USER, "--auth", "trust", "--no-sync", "-E", "UTF8")
        command = [*_as_user(), programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-F"]
        process = processes.spawn([str(word) for word in command], folder / "server.log")
        try:
            _wait_until_ready(programs, folder, process)
            yield {"PGHOST": str(folder), "PGUSER": USER, "PGDATABASE": "postgres", "PGPORT": "5432"}
        finally:
            process.send_signal(signal.SIGINT)  # "fast": it ends sessions, too
            process.wait(30)
    finally:
        shutil.rmtree(folder)


def _wait_until_ready(programs: Path, folder: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while subprocess.run([programs / "pg_isready", "-q", "-h", folder], check=False, timeout=30).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("PostgreSQL did not start:\n" + (folder / "server.log").read_text())
        time.sleep(0.05)


def _run(*command: str | Path) -> None:
    done = subprocess.run([*_as_user(), *command], cwd="/", capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def _as_user() -> list[str]:
    """Before a command of root's. A change of users forgets the signal for the death of a parent: it is asked anew."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    return [setpriv, "--reuid", USER, "--regid", USER, "--init-groups", "--pdeathsig", "SIGINT"]


def _is_user(name: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _folder_of_programs() -> Path | None:
    """Where initdb, postgres and pg_isready are."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: (len(path.parent.name), path))
    on_path = shutil.which("initdb")
    places = [*([Path(on_path).resolve().parent] if on_path else []), *reversed(debian)]
    programs = ("initdb", "postgres", "pg_isready")
    return next((place for place in places if all((place / name).exists() for name in programs)), None)
