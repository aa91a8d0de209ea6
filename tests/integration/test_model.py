"""The models of docs/model: the smallest of each is explored completely, and a rule of each is missed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "model"
CHECK = FOLDER / "check.py"

needs_spin = pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("cc") is None,
    reason="no spin or no C compiler (apt-get install spin gcc libc6-dev)",
)


def switches() -> list[str]:
    return re.findall(r"Rule\(\s*\"(\w+)\"", CHECK.read_text())


@needs_spin
def test_smallest_models_hold_and_miss_a_rule() -> None:
    done = subprocess.run([sys.executable, CHECK, "--quick"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 rules were switched off, and each of them is missed" in done.stdout


@pytest.mark.parametrize("model", ["lock", "forget", "fence"])
def test_every_switch_of_a_model_is_tried(model: str) -> None:
    source = (FOLDER / f"{model}.pml").read_text()
    asked = set(re.findall(r"(?:#if(?:n?def)? |defined\()([A-Z]+(?:_[A-Z]+)+)\b", source)) - {"TTL_0", "TTL_1"}
    assert asked - {"FOUND_FRESH"} <= set(switches())


@pytest.mark.parametrize("page", ["README.md", "counterexamples.md"])
def test_every_rule_is_told(page: str) -> None:
    text = (FOLDER / page).read_text()
    assert [switch for switch in switches() if switch not in text] == []
