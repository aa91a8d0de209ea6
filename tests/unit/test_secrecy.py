"""That leaks of secrets are found in a test's output, and that what the package makes says no secret of its own."""

from __future__ import annotations

import copy
import pickle
import sys
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr
from secrecy import SECRETS, Secrets

from redlock_cluster import Contended, Err, LeaseLost, LeaseState, NotHeld, QuorumUnavailable, RedlockError
from redlock_cluster.core.token import owner_label
from redlock_cluster.core.votes import ServerVote, Vote
from redlock_cluster.wire.ports import SystemEntropy

from .engine.scripted import REDIS_6, AutomaticGroup, Clock, bulk, honest, turns

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest
from secrecy import Secrecy, Secrets

SECRETS = Secrets()
SECRETS.password("open sesame", "the password")
SECRETS.token("0123456789abcdefghij+/")

def pytest_configure(config):
    config.pluginmanager.register(Secrecy(SECRETS))
"""
PLAIN = ("-p", "no:cacheprovider", "-p", "no:asyncio")
LEAKS = {
    "printed token": ("def test_it():\n    print('Ab' * 11 + '@host:1')", "Captured stdout call, line 1: <a token>@"),
    "digits of a token that was made": (
        "def test_it():\n    print('0123456789' 'abcdefghij+/')",
        "stdout call, line 1: <a",
    ),
    "logged password": (
        "import logging\ndef test_it():\n    logging.warning('open %s', 'sesame')",
        "Captured log call, line 1: *<the password>",
    ),
    "in a fixture": (
        "import pytest, sys\n@pytest.fixture\ndef it():\n    yield\n    print('open ses' + 'ame', file=sys.stderr)\n"
        "def test_it(it): pass",
        "Captured stderr teardown, line 1: <the password>",
    ),
    "in a failure": ("def test_it():\n    raise ValueError('open ses' + 'ame')", "report, line *: *<the password>"),
}


@pytest.mark.parametrize("case", list(LEAKS))
def test_a_test_whose_output_tells_a_secret_fails_and_says_which_and_where(
    pytester: pytest.Pytester, case: str
) -> None:
    code, told = LEAKS[case]
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(code)
    result = pytester.runpytest(*PLAIN)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*A secret was told:", f"*{told}*"])


def test_a_warning_that_tells_a_secret_fails_the_run(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile("import warnings\ndef test_it():\n    warnings.warn('open ' + 'sesame')")
    result = pytester.runpytest(*PLAIN, "-W", "default")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["A secret was told in a warning: *line 1: <the password>"])


def test_tests_that_tell_no_secret_pass(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        "import pytest\ndef test_it():\n    print('held by host:1', 'cd' * 16, 'sesame')\n"
        "def test_skipped():\n    pytest.skip('no')\n@pytest.mark.xfail\ndef test_wrong():\n    assert 0"
    )
    result = pytester.runpytest(*PLAIN)
    result.assert_outcomes(passed=1, skipped=1, xfailed=1)


def test_tokens_and_passwords_that_are_used_are_remembered() -> None:
    digits = SystemEntropy().texts(1)[0].decode()
    SecretStr("a password of " + digits[:8])
    assert SECRETS.leaks(digits) == ["line 1: <a token>"]
    assert SECRETS.leaks("\n a password of " + digits[:8]) == ["line 2:  <a password from options>"]


def test_of_many_tokens_the_newest_are_remembered() -> None:
    secrets = Secrets(most=2)
    for number in range(3):
        secrets.token(f"{number:022d}")
    assert [bool(secrets.leaks(f"{number:022d}")) for number in range(3)] == [False, True, True]


def test_threads_may_draw_tokens_at_once() -> None:
    secrets, interval = Secrets(most=5), sys.getswitchinterval()

    def draw(thread: int) -> None:
        for number in range(10_000):
            secrets.token(f"{thread}-{number}")

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(draw, range(4)))
    finally:
        sys.setswitchinterval(interval)


def test_what_the_package_logs_at_debug_is_searched_although_a_test_before_silenced_it(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        "import logging\ndef test_silent():\n    logging.getLogger('redlock_cluster').setLevel(logging.ERROR)\n"
        "def test_it():\n    logging.getLogger('redlock_cluster.some.module').debug('open %s', 'sesame')"
    )
    pytester.runpytest(*PLAIN).assert_outcomes(passed=1, failed=1)


def said(thing: object) -> Iterator[str]:
    """Everything that a thing says of itself, without being asked for its token."""
    yield from (repr(thing), str(thing), format(thing), ascii(thing), repr(getattr(thing, "__dict__", "")))
    for name in dir(thing):
        if not name.startswith("_") and name != "token":
            try:
                value = getattr(thing, name)
            except RedlockError as error:  # there is none
                value = "".join(traceback.format_exception(error))
            if not callable(value):
                yield from (repr(value), str(value))
    for keep in (pickle.dumps, copy.copy):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: iterators of itertools
                kept = keep(thing)  # type: ignore[operator]
        except (TypeError, ValueError, pickle.PicklingError, RuntimeError) as error:
            yield "".join(traceback.format_exception(error))
        else:
            yield repr(kept)
    if isinstance(thing, BaseException):
        yield from ("".join(traceback.format_exception(thing)), repr(thing.args))


def assert_silent(*things: object) -> None:
    for thing in things:
        for text in said(thing):
            assert not SECRETS.leaks(text), f"{type(thing).__name__} tells a secret"


@pytest.mark.parametrize("probes", [None, REDIS_6], ids=["native", "scripts"])
async def test_leases_mutexes_supervisors_and_status_say_no_token(probes: tuple[bytes, ...] | None) -> None:
    async with AutomaticGroup(3, clock=Clock(), **({} if probes is None else {"probes": probes})) as group:
        redlock = group.supervisor
        ok = await redlock.lock("r", 10, wait=0)
        mutex = redlock.mutex("m", 10)
        assert await mutex.acquire()
        lease = ok.value  # type: ignore[union-attr]
        assert SECRETS.leaks(lease.token)
        assert_silent(ok, lease, lease.votes, mutex, mutex.lease, redlock, redlock.status())
        await redlock.extend("r", lease.token, 10)
        await redlock.unlock("r", lease)
        assert lease.state is LeaseState.RELEASED
        assert_silent(lease, redlock)


async def test_refusals_and_losses_say_no_token() -> None:
    async with AutomaticGroup(3, clock=Clock()) as group:
        redlock, lock = group.supervisor, group.supervisor.lock
        lease = (await lock("r", 10, wait=0)).value  # type: ignore[union-attr]
        token = lease.token.encode()
        outcomes = []
        group.answers = [lambda _: bulk(token)] * 3
        outcomes.append(await lock("r", 10, wait=0))
        group.answers = [lambda _: b":0\r\n"] * 3
        outcomes.append(await redlock.unlock("r", lease.token))
        outcomes.append(await redlock.extend("r", lease, 10))
        outcomes.append(await redlock.unlock("r", lease))
        group.answers = [lambda _: b"-OOM no\r\n"] * 3
        outcomes += [await lock("r", 10, wait=0), await redlock.unlock("r", lease.token)]
        group.answers = [lambda _: bulk(token) + bulk(token)] * 3  # a reply that nobody asked for
        outcomes += [await lock("r", 10, wait=0), await redlock.unlock("r", lease.token)]
        group.answers = [lambda _: b"*1\r\n" + bulk(token)] * 3  # the wrong type
        await group.standing()
        outcomes += [await lock("r", 10, wait=0), await redlock.extend("r", lease.token, 10)]
        assert {outcome.reason for outcome in outcomes} == {"lock_failure", "not_held", "unavailable"}  # type: ignore[union-attr]
        for outcome in outcomes:
            assert isinstance(outcome, Err)
            assert_silent(outcome, outcome.error)
        assert_silent(redlock, redlock.status())
        group.answers = [honest] * 3
        await turns()


@pytest.mark.parametrize("kind", [Contended, QuorumUnavailable, LeaseLost, NotHeld], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("token", [b"0" * 22 + b"@host:1", b"0" * 22, b"0" * 22 + b"@", b"", b"\xff" * 40])
def test_errors_with_votes_name_the_holder_and_not_its_token(kind: type[Contended], token: bytes) -> None:
    votes = (ServerVote("a:1", Vote.AGAINST, owner_label(token)), ServerVote("b:1", None))
    error = kind("'r' is not locked", "r", "0", votes, 0.1)
    assert_silent(error, *votes)
    assert not any(token.decode("latin1")[:22] in text for text in said(error) if token)
    assert pickle.loads(pickle.dumps(error)).votes == votes
