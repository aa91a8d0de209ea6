"""Run the models of this folder: each configuration completely, and each rule once without it.

    python docs/model/check.py              everything; fails if a model is wrong, or a rule is not missed
    python docs/model/check.py --quick      one small configuration of each model, and one rule of each
    python docs/model/check.py --only fence what has this word in its model's or switch's name
    python docs/model/check.py --write      everything, and writes counterexamples.md

It needs `spin` and a C compiler.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MISSING = "make model needs the checker Spin and a C compiler: on Debian or Ubuntu, apt-get install spin gcc libc6-dev"
MEGABYTES = 3800
"""What one search may take."""
SECONDS = 300


@dataclass(frozen=True)
class Rule:
    """A rule that is switched off, and what happens then."""

    switch: str
    without: str
    bounds: str
    """Those in which the counterexample is searched. They are complete with all rules, unless said otherwise."""


@dataclass(frozen=True)
class Model:
    """One file, and what is done with it."""

    name: str
    complete: tuple[str, ...]
    """Bounds within which nothing may be found. The first is the smallest."""
    rules: tuple[Rule, ...]


MODELS = (
    Model(
        "lock",
        (
            "-DATTEMPTS=1",
            "-DATTEMPTS=2",
            "-DBREAKS=1 -DQUEUED=3",
            "-DEXTENSIONS=1 -DQUEUED=3 -DTTL=3 -DSHORTER=2",
        ),
        (
            Rule("WITHOUT_QUORUM", "one server is enough", "-DATTEMPTS=1"),
            Rule("WITHOUT_DRIFT", "validity is as long as the ttl", "-DATTEMPTS=1"),
            Rule("COUNTED_FROM_THE_ANSWER", "validity counts from the answers", "-DATTEMPTS=1"),
            Rule("RELEASE_WITHOUT_COMPARING", "a release deletes whatever token is there", "-DATTEMPTS=2"),
            Rule("LATE_GRANT_KEPT", "what is granted after the attempt was given up is kept", "-DATTEMPTS=1"),
            Rule("RELEASE_ON_ANOTHER_CONNECTION", "a release may overtake its SET", "-DATTEMPTS=1"),
            Rule("TOKEN_USED_AGAIN", "the next attempt has the same token", "-DATTEMPTS=2"),
            Rule("WITHOUT_PENDING_RELEASES", "what can't be released now is forgotten", "-DBREAKS=1 -DQUEUED=3"),
            Rule("WITHOUT_KILL", "the old connection is not killed first", "-DBREAKS=1 -DQUEUED=3"),
            Rule("LIVE_TOKEN_RELEASED", "a new connection releases tokens that live", "-DBREAKS=1 -DQUEUED=3"),
            Rule(
                "EXTENSION_TAKES_THE_LOCK",
                "an extension takes the lock where nobody has it",
                "-DEXTENSIONS=1 -DQUEUED=3 -DTTL=3 -DSHORTER=2",
            ),
            Rule(
                "WITHOUT_THE_SHORTER_END",
                "the old end is believed while a shorter extension is under way",
                "-DEXTENSIONS=1 -DQUEUED=3 -DTTL=3 -DSHORTER=2",
            ),
        ),
    ),
    Model(
        "forget",
        (
            "-DTTL_0=2",
            "-DTTL_0=2 -DFORGETS=2",
            "-DTTL_0=2 -DEXTENSIONS=2",
            "-DFORGETS=3",
            "-DFRESH=1",
        ),
        (
            Rule("WITHOUT_QUARANTINE", "a server counts at once", "-DFORGETS=1"),
            Rule("QUARANTINE_ENDS_EARLY", "quarantine ends a tick early", "-DFORGETS=1"),
            Rule("HORIZON_IGNORED", "quarantine lasts for the client's own ttl", "-DTTL_0=2"),
            Rule("HORIZON_NOT_STORED", "a longer ttl is used before it is stored", "-DTTL_0=2"),
            Rule("HORIZON_STORED_ON_ONE", "one server is enough to store it", "-DTTL_0=2"),
            Rule("HORIZON_READ_FROM_ONE", "the horizon is read from one other server", "-DTTL_0=2"),
            Rule(
                "HORIZON_COUNTED_AFTER_A_RESTART",
                "a server that stored it, and then forgot it, still counts",
                "-DTTL_0=2 -DFORGETS=2",
            ),
            Rule("HEAL_COUNTS_AT_ONCE", "a vote that is taken again counts at once", "-DTTL_0=2 -DEXTENSIONS=2"),
            Rule("FRESH_WITHOUT_MEMORY", "who has seen the group may find it fresh again", "-DFORGETS=3"),
            Rule("FRESH_WITH_ONE_DOWN", "a server that is away counts as one without meta", "-DFRESH=1 -DFOUND_FRESH"),
            Rule("FRESH_AS_THEY_COME", "each server is asked when it connects", "-DFRESH=1 -DFOUND_FRESH"),
            Rule("FRESH_FOR_EVER", "a group stays fresh when a connection breaks", "-DFRESH=1 -DFOUND_FRESH"),
            Rule("SENT_WITHOUT_A_QUORUM", "SETs are sent before a quorum counts", "-DFRESH=1 -DFOUND_FRESH"),
        ),
    ),
    Model(
        "fence",
        ("", "-DFLOOR=1 -DFORGETS=1"),
        (
            Rule("WITHOUT_WRITE_BACK", "the greatest number of the quorum is not written back", ""),
            Rule("WRITE_BACK_WITHOUT_QUORUM", "a write-back counts without a quorum", ""),
            Rule("WRITE_BACK_WITHOUT_HOLDING", "it is written where the token does not hold the key", ""),
            Rule("VALIDITY_CHECKED_BEFORE_THE_WRITE_BACK", "validity is checked before the write-back only", ""),
            Rule("FLOOR_IGNORED", "the numbers have no floor", "-DFLOOR=1 -DFORGETS=1"),
            Rule("QUARANTINE_WITHOUT_SKEW", "quarantine leaves no time for clocks to differ", "-DFLOOR=1 -DFORGETS=1"),
        ),
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What a search has found."""

    states: int
    steps: int
    seconds: float
    megabytes: float
    complete: bool
    history: tuple[str, ...]
    """The counterexample; empty if there is none."""

    def __str__(self) -> str:
        return f"{self.states:>10,} states  depth {self.steps:>3}  {self.seconds:5.1f} s  {self.megabytes:5.0f} MB"


def search(name: str, flags: str, *, shortest: bool) -> Outcome:
    """All states, depth first; or breadth first until the first, and so the shortest, counterexample."""
    source = HERE / f"{name}.pml"
    macros = flags.split()
    with tempfile.TemporaryDirectory() as folder:
        spin = subprocess.run(
            ["spin", *macros, "-a", str(source)], cwd=folder, capture_output=True, text=True, check=False
        )
        if spin.returncode or "rror" in spin.stdout:
            sys.exit(f"spin refuses {name}.pml with {flags}:\n{spin.stdout}{spin.stderr}")
        how = ["-DBFS"] if shortest else ["-DCOLLAPSE"] if name == "lock" else []
        subprocess.run(
            ["cc", "-O2", "-w", "-DSAFETY", f"-DMEMLIM={MEGABYTES}", *how, "-o", "pan", "pan.c"],
            cwd=folder,
            check=True,
        )
        began = time.monotonic()
        try:
            # -E: a model that can't go on is no error, as its bounds are reached.
            pan = subprocess.run(
                ["./pan", "-E", "-m1000000", "-w22"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            sys.exit(f"{name} {flags} did not end within {SECONDS} s")
        seconds = time.monotonic() - began
        said = pan.stdout
        history: tuple[str, ...] = ()
        if list(Path(folder).glob("*.trail")):
            replay = subprocess.run(
                ["spin", *macros, "-t", "-k", next(Path(folder).glob("*.trail")).name, str(source)],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            history = tuple(re.findall(r"SAY (.*)", replay.stdout)) or ("an assertion fails at once",)
    return Outcome(
        states=int(float(found(r"([\d.e+]+) states, stored", said))),
        steps=int(found(r"depth reached (\d+)", said)),
        seconds=seconds,
        megabytes=float(found(r"([\d.]+)\s+total actual memory usage", said) or 0),
        complete="Search not completed" not in said and "max search depth too small" not in said,
        history=history,
    )


def found(pattern: str, text: str) -> str:
    """The first group of what Spin says, or 0."""
    match = re.search(pattern, text)
    return match.group(1) if match else "0"


def run(only: str, *, quick: bool) -> tuple[list[str], list[tuple[Model, Rule, Outcome]]]:
    """What is wrong, and the counterexamples that were found."""
    wrong: list[str] = []
    missed: list[tuple[Model, Rule, Outcome]] = []
    for model in MODELS:
        for bounds in model.complete[:1] if quick else model.complete:
            if only not in model.name:
                continue
            outcome = search(model.name, bounds, shortest=False)
            verdict = "nothing found" if outcome.complete else "NOT COMPLETE"
            if outcome.history:
                verdict = "WRONG: " + "; ".join(outcome.history)
            if verdict != "nothing found":
                wrong.append(f"{model.name} {bounds}: {verdict}")
            print(f"{model.name:7} complete  {outcome}  {bounds or '(default bounds)'}: {verdict}", flush=True)
        for rule in model.rules[:1] if quick else model.rules:
            if only not in model.name and only not in rule.switch:
                continue
            outcome = search(model.name, f"{rule.bounds} -D{rule.switch}", shortest=True)
            print(f"{model.name:7} without   {outcome}  {rule.switch}: {rule.without}", flush=True)
            if outcome.history:
                missed.append((model, rule, outcome))
                for line in outcome.history:
                    print(f"            {line}")
            else:
                wrong.append(f"{model.name} without {rule.switch}: no counterexample")
    return wrong, missed


def write(missed: list[tuple[Model, Rule, Outcome]]) -> None:
    """Make the page of counterexamples."""
    lines = ["# Shortest counterexamples", "", "`python docs/model/check.py --write` makes this page.", ""]
    for model, rule, outcome in missed:
        lines += [f"## {model.name}: {rule.switch}", "", f"{rule.without[0].upper()}{rule.without[1:]}.", ""]
        lines += [f"{number}. {step}" for number, step in enumerate(outcome.history, 1)]
        lines.append("")
    (HERE / "counterexamples.md").write_text("\n".join(lines))


def main() -> None:
    """Do what the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", default="", help="a model's name, or a part of a switch's")
    options = parser.parse_args()
    if shutil.which("spin") is None or shutil.which("cc") is None:
        sys.exit(MISSING)
    wrong, missed = run(options.only, quick=options.quick)
    if options.write:
        write(missed)
    for line in wrong:
        print(f"!!! {line}")
    if wrong:
        sys.exit(1)
    print(f"Nothing was found with all rules; {len(missed)} rules were switched off, and each of them is missed.")


if __name__ == "__main__":
    main()
