"""Which other interpreter the suite runs on."""

from __future__ import annotations

from pathlib import Path

from other_python import declared, newest_other


def install(place: Path, minor: int, says: str | None = None) -> Path:
    """A program that says which version it is."""
    place.mkdir(parents=True, exist_ok=True)
    program = place / f"python3.{minor}"
    program.write_text(f"#!/bin/sh\necho {says}\n" if says else "#!/bin/sh\nexit 127\n")
    program.chmod(0o755)
    return program


def test_newest_that_works_is_chosen(tmp_path: Path) -> None:
    newest, older, own = declared()[:3]
    environment = {"PATH": f"{tmp_path / 'shims'}:{tmp_path / 'bin'}", "PYENV_ROOT": str(tmp_path)}
    assert newest_other(own, environment) is None

    install(tmp_path / "bin", own, f"3 {own}")
    install(tmp_path / "bin", newest + 1, f"3 {newest + 1}")
    install(tmp_path / "shims", newest)  # a shim without a version
    assert newest_other(own, environment) is None

    last = install(tmp_path / "bin", older, f"3 {older}")
    assert newest_other(own, environment) == last
    install(tmp_path / "versions" / f"3.{older}.9" / "bin", older, f"3 {older}")
    better = install(tmp_path / "versions" / f"3.{older}.10" / "bin", older, f"3 {older}")
    assert newest_other(own, environment) == better

    best = install(tmp_path / "bin", newest, f"3 {newest}")
    assert newest_other(own, environment) == best
    assert newest_other(newest, environment) == better
