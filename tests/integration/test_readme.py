"""The README's code runs as it is written there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from redlock_cluster.options import DeploymentOptions
from redlock_cluster.options.file import load_options
from redlock_cluster.testing import EmbeddedCluster

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


PYTHON, CONSOLE, YAML = blocks("python"), blocks("console"), blocks("yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with the options file that the README names, and its servers."""
    path = tmp_path_factory.mktemp("readme")
    with EmbeddedCluster(groups=3, servers=3) as cluster:
        (path / "redlock.yaml").write_text(yaml.safe_dump(cluster.options))
        yield path


def test_the_readme_has_the_blocks_that_are_tested_here() -> None:
    assert (len(PYTHON), len(CONSOLE), len(YAML)) == (13, 4, 1)  # the last for the console is what `make compiled` does


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_a_python_block_runs_without_output_on_stderr(code: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    logged = "'report:8' was released by force .*\n" if "force_release" in code else ""  # as a warning
    assert re.fullmatch(logged, done.stderr), done.stderr


def test_the_sync_block_locks_on_a_quorum_at_least(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PYTHON[0]], cwd=folder, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"locked on [23] servers, 29\.\d s left\n", done.stdout)


@pytest.mark.parametrize("line", [line for line in CONSOLE[2].splitlines() if line], ids=lambda line: line.split()[1])
def test_a_command_line_runs(line: str, folder: Path) -> None:
    words = shlex.split(line.split("#", maxsplit=1)[0].split(">", maxsplit=1)[0])
    assert words[0] == "redlock-cluster"
    done = subprocess.run(
        [sys.executable, "-m", "redlock_cluster.cli", *words[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout or words[1] == "locks"  # nothing is locked there


def test_the_yaml_block_is_a_valid_options_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "from the environment")
    path = folder / "example.yaml"
    path.write_text(YAML[0])
    groups = load_options(path).deployments["default"].groups
    assert [(group.name, group.weight, len(group.servers)) for group in groups] == [("alpha", 2, 3), ("beta", 1, 3)]


def test_the_options_table_names_every_option_with_its_default() -> None:
    table = dict(re.findall(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)?) \| ([^|]+) \|", README, re.MULTILINE))
    listed_defaults = {name.strip("`"): default for names, default in table.items() for name in names.split(", ")}
    fields = DeploymentOptions.model_fields
    assert set(listed_defaults) == set(fields) - {"groups"}
    scale = {"ms": 0.001, "s": 1.0}
    for names, default in table.items():
        listed = [name.strip("`") for name in names.split(", ")]
        for name, value in zip(listed, default.split(", "), strict=True):
            expected = fields[name].default
            if match := re.fullmatch(r"(\d+) (ms|s)", value.strip()):
                assert float(match[1]) * scale[match[2]] == expected, name
            elif name != "owner":
                written = str(expected).lower() if expected is None or isinstance(expected, bool) else str(expected)
                assert value.strip().strip("`") == written, name


def test_every_link_to_a_file_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
