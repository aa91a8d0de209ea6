"""The whole of it for twenty seconds, and that an early end leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from .run import run
from .schedule import Kind
from .stage import ROOT

SEED = 1
LEAST = 100


def test_twenty_seconds_of_chaos_violate_nothing() -> None:
    report = run(20.0, SEED)
    text = "\n".join([*report.figures(), *report.verdict()])
    assert report.passed, text
    faults = report.faults
    assert all(faults[kind] for kind in [*(kind.value for kind in Kind), "full outage"]), text
    assert report.acquisitions >= LEAST, text
    assert sum(report.refusals.values()), text
    done = {event.do for event in report.events}
    assert {"sampled", "lost", "detached", "adopted"} <= done, text
    assert any(event.about.get("after") for event in report.events), text  # somebody got what was handed over


def _of_this_run(folder: Path) -> list[str]:
    """Command lines of the processes that work in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def test_interrupted_run_ends_its_processes_and_removes_its_folders(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.chaos", "--seconds", "30", "--seed", "4"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob("redlock-chaos-*/histories/3.0.jsonl")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130, out
    assert "ended early" in out
    assert list(tmp_path.iterdir()) == []
    assert _of_this_run(tmp_path) == []
