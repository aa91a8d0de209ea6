"""`synchronized`: templates, what can be decorated, and what a call is when the lock can't be had."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from redlock_cluster import (
    AsyncRedlock,
    AsyncSupervisor,
    Contended,
    QuorumUnavailable,
    Redlock,
    Supervisor,
    WouldDeadlock,
)
from redlock_cluster.handles.decorator import NO_DEFAULT, synchronized, synchronized_async

OPTIONS = {"servers": [{"host": "127.0.0.1", "port": 1}]}


class Handles:
    """Plays handles, of either face, and notes for which resources, and what is held."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.refusal = refusal
        self.used: list[str] = []
        self.held: list[str] = []

    def make(self, resource: str) -> Any:
        return Handle(self, resource)

    def sync(self, template: str, default: Any = NO_DEFAULT) -> Callable[[Callable[..., Any]], Any]:
        return synchronized(template, self.make, default)

    def on_loop(self, template: str, default: Any = NO_DEFAULT) -> Callable[[Callable[..., Any]], Any]:
        return synchronized_async(template, self.make, default)


class Handle:
    def __init__(self, handles: Handles, resource: str) -> None:
        self._handles, self._resource = handles, resource

    def __enter__(self) -> None:
        if self._handles.refusal is not None:
            raise self._handles.refusal
        self._handles.used.append(self._resource)
        self._handles.held.append(self._resource)

    def __exit__(self, *_: object) -> None:
        self._handles.held.remove(self._resource)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


@dataclass
class Order:
    id: int
    lines: tuple[str, ...] = ("first", "second")
    _internal: str = "i"


class Anonymous:
    pass


def named(template: str, function: Callable[..., Any], *args: Any, **arguments: Any) -> str:
    """The resource of one call."""
    handles = Handles()
    handles.sync(template)(function)(*args, **arguments)
    (resource,) = handles.used
    return resource


class TestName:
    def test_it_is_filled_from_arguments_however_they_are_given(self) -> None:
        def pay(user: str, amount: int = 3, *, currency: str = "EUR") -> None: ...

        template = "pay:{user}:{amount:03d}:{currency!r}"
        assert named(template, pay, "ann") == "pay:ann:003:'EUR'"
        assert named(template, pay, "ann", 4, currency="USD") == "pay:ann:004:'USD'"
        assert named(template, pay, amount=5, user="bob") == "pay:bob:005:'EUR'"

    def test_attributes_and_items_may_be_named(self) -> None:
        def ship(order: Order, where: dict[str, Any], *more: str, **named: str) -> None: ...

        template = "{order.id}/{order.lines[1]}/{order._internal}/{where[country]}/{more[0]}/{named[by]}"
        assert named(template, ship, Order(7), {"country": "AT"}, "now", by="air") == "7/second/i/AT/now/air"

    def test_spec_may_be_filled_too(self) -> None:
        assert named("{number:{width}}", lambda number, width: None, 7, "03") == "007"

    def test_braces_that_are_doubled_are_braces(self) -> None:
        assert named("{{{x}}}", lambda x: None, 1) == "{1}"

    def test_template_without_fields_is_the_name(self) -> None:
        assert named("nightly report", lambda: None) == "nightly report"

    def test_positional_only_parameters_are_named(self) -> None:
        def f(x: int, /) -> None: ...

        assert named("{x}", f, 1) == "1"

    @pytest.mark.parametrize(
        ("value", "why"),
        [
            ("", "leave the name empty"),
            (Anonymous(), "a Anonymous has no text but its address in memory"),
            ({1, 2}, "the order of a set differs"),
            (frozenset("ab"), "the order of a set differs"),
        ],
        ids=["empty", "anonymous", "set", "frozenset"],
    )
    def test_value_that_names_nothing_is_a_value_error_before_the_lock(self, value: object, why: str) -> None:
        handles = Handles()

        @handles.sync("{x}")
        def f(x: object) -> None:
            raise AssertionError("called")

        with pytest.raises(ValueError, match=why):
            f(value)
        assert handles.used == []

    @pytest.mark.parametrize("argument", [None, Order(1, ())], ids=repr)
    def test_what_an_argument_lacks_is_a_value_error_that_says_what(self, argument: object) -> None:
        handles = Handles()

        @handles.sync("{order.lines[0]}")
        def f(order: Order) -> None:
            raise AssertionError("called")

        with pytest.raises(ValueError, match=r"f\(order: 'Order'\).*(AttributeError|IndexError)") as caught:
            f(argument)  # type: ignore[arg-type]
        assert isinstance(caught.value.__cause__, (AttributeError, IndexError))

    def test_arguments_that_do_not_fit_are_a_type_error_as_without_it(self) -> None:
        handles = Handles()
        f = handles.sync("{x}")(lambda x: None)
        with pytest.raises(TypeError, match="missing a required argument: 'x'"):
            f()
        assert handles.used == []


def test_decorator_without_parentheses_is_an_error_at_once() -> None:
    for face in (Redlock, AsyncRedlock):
        with pytest.raises(TypeError, match=r"takes a template, not a function: @redlock.synchronized\('name:"):
            face.synchronized(lambda: None)  # type: ignore[arg-type]


class TestTemplate:
    """Wrong ones are found when the function is decorated."""

    @staticmethod
    def pay(user: str, *rest: int, **named: int) -> None: ...

    @pytest.mark.parametrize(
        ("template", "kind", "why"),
        [
            ("{usr}", TypeError, r"pay\(user: 'str', \*rest: 'int'.*has no parameter 'usr'"),
            ("{user:{width}}", TypeError, "has no parameter 'width'"),
            ("{rest}", TypeError, r"must choose one of rest: \{rest\[\.\.\.\]\}"),
            ("{named}", TypeError, "must choose one of named"),
            ("{named.x}", TypeError, "must choose one of named"),
            ("", ValueError, "needs a name"),
            ("{user", ValueError, "no valid template"),
            ("user}", ValueError, "no valid template"),
            ("{user!z}", ValueError, "unknown conversion !z"),
            ("{user.}", ValueError, "no valid template"),
            ("{user..x}", ValueError, "no valid template"),
            ("{user[]}", ValueError, "no valid template"),
            ("{user[0}", ValueError, "no valid template"),
            ("{}", ValueError, "must name a parameter"),
            ("{0}", ValueError, "must name a parameter"),
            ("{user + 1}", ValueError, "must name a parameter"),
            ("{user.__class__}", ValueError, "internals"),
            ("{user.name.__init__.__globals__[x]}", ValueError, "internals"),
            ("{user[0].__dict__}", ValueError, "internals"),
            (b"user", TypeError, "takes a template, not a bytes"),
            (pay, TypeError, "takes a template, not a"),
        ],
    )
    def test_wrong_one_is_an_error_that_names_the_signature(
        self, template: Any, kind: type[Exception], why: str
    ) -> None:
        with pytest.raises(kind, match=why):
            Handles().sync(template)(self.pay)

    def test_other_arguments_are_checked_then_too(self) -> None:
        for supervisor in (Supervisor(OPTIONS), AsyncSupervisor(OPTIONS)):
            with pytest.raises(TypeError, match="on_lost is a plain function"):
                supervisor.synchronized("x", on_lost=3)  # type: ignore[call-overload]
            with pytest.raises(TypeError, match="reentrant is a bool"):
                supervisor.synchronized("x", reentrant=None)  # type: ignore[call-overload]


class TestFunctions:
    def test_call_is_made_under_the_lock(self) -> None:
        handles = Handles()

        @handles.sync("{x}")
        def f(x: int, y: int = 1) -> tuple[int, int, list[str]]:
            return x, y, [*handles.held]

        assert f(1, y=2) == (1, 2, ["1"])
        assert handles.held == []

    async def test_async_call_is_awaited_under_the_lock(self) -> None:
        handles = Handles()

        @handles.on_loop("{x}")
        async def f(x: int) -> list[str]:
            """Says something."""
            return [*handles.held]

        call = f(1)
        assert handles.used == []
        assert await call == ["1"]
        assert handles.held == []
        assert inspect.iscoroutinefunction(f)

    def test_errors_pass_and_release(self) -> None:
        handles = Handles()

        @handles.sync("x", default=None)
        def f() -> None:
            raise Contended("of the function")

        with pytest.raises(Contended, match="of the function"):
            f()
        assert handles.held == []

    def test_what_describes_a_function_is_kept(self) -> None:
        def f(x: int, *, y: str = "a") -> bool:
            """Says something."""
            return True

        decorated = Handles().sync("{x}")(f)
        assert inspect.signature(decorated) == inspect.signature(f)
        assert (decorated.__name__, decorated.__doc__, decorated.__wrapped__) == ("f", "Says something.", f)

    def test_methods_of_every_kind_with_the_decorator_next_to_the_def(self) -> None:
        handles = Handles()

        class Account:
            kind = "savings"

            def __init__(self, number: int) -> None:
                self.number = number

            @handles.sync("account:{self.number}")
            def method(self) -> int:
                return self.number

            @property
            @handles.sync("account:{self.number}:balance")
            def balance(self) -> int:
                return 5

            @classmethod
            @handles.sync("{cls.kind}:{x}")
            def of_class(cls, x: int) -> str:
                return cls.kind

            @staticmethod
            @handles.sync("static:{x}")
            def static(x: int) -> int:
                return x

        account = Account(7)
        assert (account.method(), account.balance, account.of_class(1), account.static(2)) == (7, 5, "savings", 2)
        assert Account.method(account) == 7
        assert handles.used == ["account:7", "account:7:balance", "savings:1", "static:2", "account:7"]

    @pytest.mark.parametrize("outer", [staticmethod, classmethod, property])
    def test_decorator_above_another_one_says_where_it_goes(self, outer: Any) -> None:
        with pytest.raises(TypeError, match=f"below @{outer.__name__}, next to the def"):
            Handles().sync("x")(outer(lambda x: None))

    @pytest.mark.parametrize("thing", [3, Anonymous], ids=repr)
    def test_what_is_no_function_is_refused(self, thing: Any) -> None:
        with pytest.raises(TypeError, match="decorates functions"):
            Handles().sync("x")(thing)

    def test_partial_functions_and_callable_objects_are_functions(self) -> None:
        class Adder:
            def __call__(self, x: int, y: int) -> int:
                return x + y

        handles = Handles()
        assert handles.sync("{x}")(Adder())(1, 2) == 3
        assert handles.sync("{y}")(functools.partial(Adder(), 1))(5) == 6
        assert handles.used == ["1", "5"]

    def test_generators_are_refused(self) -> None:
        def numbers() -> Iterator[int]:
            yield 1

        async def later() -> AsyncIterator[int]:
            yield 1

        for decorate in (Handles().sync("x"), Handles().on_loop("x")):
            for generator in (numbers, later):
                with pytest.raises(TypeError, match=f"{generator.__name__} is a generator, whose body runs after"):
                    decorate(generator)

    def test_each_face_names_the_other(self) -> None:
        async def on_loop() -> None: ...

        class Callable:
            async def __call__(self) -> None: ...

        for function in (on_loop, functools.partial(on_loop), Callable()):
            with pytest.raises(TypeError, match="is async; use AsyncRedlock or an AsyncSupervisor"):
                Handles().sync("x")(function)
        with pytest.raises(TypeError, match="is not async; use Redlock or a Supervisor"):
            Handles().on_loop("x")(lambda: None)

    def test_coroutine_that_a_plain_function_returns_is_refused(self) -> None:
        async def later() -> None: ...

        handles = Handles()
        with pytest.raises(TypeError, match="would run without its lock"):
            handles.sync("x")(lambda: later())()
        assert handles.held == []

    def test_process_wide_supervisor_needs_no_start_to_decorate(self) -> None:
        @Redlock.synchronized("user:{user}", wait=0, default=None)
        def f(user: str) -> int:
            return 1

        assert inspect.signature(f).parameters.keys() == {"user"}
        assert Redlock._own is None


class TestRefused:
    REFUSAL = Contended("somebody else")

    def test_contended_is_raised(self) -> None:
        f = Handles(self.REFUSAL).sync("x")(lambda: 1)
        with pytest.raises(Contended, match="somebody else"):
            f()

    @pytest.mark.parametrize("default", [None, 5, "raise"])
    async def test_default_is_returned(self, default: object) -> None:
        async def f() -> int:
            raise AssertionError("called")

        assert Handles(self.REFUSAL).sync("x", default)(lambda: 1)() is default
        assert await Handles(self.REFUSAL).on_loop("x", default)(f)() is default

    @pytest.mark.parametrize("refusal", [QuorumUnavailable("outage"), WouldDeadlock("itself")], ids=repr)
    async def test_outage_and_deadlock_are_raised_all_the_same(self, refusal: Exception) -> None:
        async def f() -> int:
            raise AssertionError("called")

        with pytest.raises(type(refusal)):
            Handles(refusal).sync("x", None)(lambda: 1)()
        with pytest.raises(type(refusal)):
            await Handles(refusal).on_loop("x", None)(f)()
