"""Service Activator (EIP): call a function of the project's own Python code, the way out for what
no other step does.

For example:

    python: rebates:apply
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import re
import threading
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple, TypeVar

import structlog
from lxml import etree
from pydantic import Field

from esb.adapter import Build, Role
from esb.envelope import Body, Envelope, Outcome
from esb.errors import EsbError, RouteFailure
from esb.options import Options
from esb.step import Step
from esb.steps._python import Package

log = structlog.get_logger("esb.python")

FOLDER: Final = "python"
_NAME: Final = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")

Function = Callable[..., Any]
T = TypeVar("T")


class PythonOptions(Options):
    """Call `def function(envelope)`, or `def function(envelope, options)`.

    A plain function runs in a thread, an `async def` in place, where it must not block. It returns
    an Envelope, a new body (an `esb.envelope.Body`; an lxml element; a text or bytes; other data is
    JSON), or None for a message that goes on as it is. It must not change what it is given in
    place. What is below `esb.errors.EsbError` is an error of the route like any other.
    """

    __shorthand__ = "function"

    function: str = Field(
        description="`module:function`. The module is a file in the folder `python` beside the "
        "YAML file or of the project: `prices:total` is `total` in `python/prices.py`, "
        "`crm.customers:load` in `python/crm/customers.py`. Modules there import each other "
        "relatively: `from . import rates`."
    )
    options: dict[str, Any] | None = Field(
        None, description="Given to the function as its second argument, as it is written here."
    )
    threads: int = Field(
        10,
        ge=1,
        le=1000,
        description="How many calls of a plain function may run at a time; others wait.",
    )


def make(options: PythonOptions, build: Build) -> Step:
    """The module is loaded, and so its code run, with the routes; a change is seen by a reload.

    Raises what the function raises of the errors of the bus, RouteFailure for all else, whose
    traceback goes to the log. A cancelled run does not wait for a thread that is still at work.
    """
    loaded = _load(options, build)
    given = () if options.options is None else (options.options,)
    is_async = inspect.iscoroutinefunction(loaded.function)
    threads = Threads(options.threads)
    name, route = options.function, build.route

    async def python(envelope: Envelope) -> Envelope:
        try:
            if is_async:
                result = await loaded.function(envelope, *given)
            else:
                result = await threads.run(loaded.function, envelope, *given)
                if isinstance(result, Awaitable):
                    result = await result
            return _applied(envelope, result)
        except EsbError:
            raise
        except (Exception, SystemExit) as e:
            log.error("a python step failed", function=name, route=route, exc_info=e)
            raise RouteFailure(f"the function {name} failed").noted(type(e).__name__) from e

    return python


def _applied(envelope: Envelope, result: Any) -> Envelope:
    """The message with what a function returned."""
    if result is None:
        return envelope
    if isinstance(result, Envelope):
        if result.outcome is Outcome.DEAD:
            # Nobody has written a dead letter, so the message would be nowhere.
            raise RouteFailure("a function raises an error for a message that is to be dead")
        return result
    if not isinstance(result, Body):
        result = Body.of(result, _content_type(result))
    return envelope.with_body(result)


def _content_type(data: Any) -> str:
    if isinstance(data, str):
        return "text/plain; charset=utf-8"
    if isinstance(data, bytes):
        return "application/octet-stream"
    return "application/xml" if isinstance(data, etree._Element) else "application/json"


class Threads:
    """Runs plain functions, so many at a time, each in a thread that no exit waits for."""

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)

    async def run(self, function: Function, *args: Any) -> Any:
        """What the function returns, or raise what it raises."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()

        def work() -> tuple[Any, BaseException | None]:
            try:
                return context.run(function, *args), None
            except BaseException as e:  # noqa: BLE001 - it is raised where somebody waits for it
                return None, e
            finally:
                # Only now: a thread whose caller is gone still takes up its place.
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._free.release)

        result, error = await loop.run_in_executor(_DAEMONS, work)
        try:
            if isinstance(error, Exception):
                raise error
            if error is not None:
                # What only Python itself may raise in a task would end more than this one.
                raise RuntimeError(repr(error)) from error
            return result
        finally:
            del error  # or the frame and the traceback would hold each other


class _Daemons(Executor):
    """A new thread for each call."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        work = partial(fn, *args, **kwargs)
        threading.Thread(
            target=self._work, args=(future, work), name="esb python", daemon=True
        ).start()
        return future

    @staticmethod
    def _work(future: Future[T], work: Callable[[], T]) -> None:
        result = work()
        future.set_result(result)
        # An exception in it has this frame in its traceback.
        del future, work, result


_DAEMONS: Final = _Daemons()


class _Loaded(NamedTuple):
    """A function, and its package, which is forgotten when nobody holds it any more."""

    function: Function
    package: Package


def _load(options: PythonOptions, build: Build) -> _Loaded:
    """The function that is asked for. Raises BuildFailed."""
    found = _NAME.fullmatch(options.function)
    if found is None:
        raise build.problem("a function is named as module:function", "function")
    name, attribute = found.groups()
    file = build.file(f"{FOLDER}/{name.replace('.', '/')}.py", "function", folder="")
    folder = file.parents[name.count(".")]
    state = Package.state(folder)
    for path, *_ in state:
        build.file(path, "function")  # the route is another when one of them has changed
    package = build.shared(("python", folder, state), lambda: Package(folder))
    try:
        module = package.module(name)
    except (Exception, SystemExit) as e:
        message = f"{FOLDER}/{file.relative_to(folder)} cannot be loaded: {_where(e, folder)}"
        raise build.problem(message, "function", code="python") from e
    function = getattr(module, attribute, None)
    if not callable(function):
        names = ", ".join(_functions(module))
        raise build.problem(
            f"there is no function '{attribute}' in {name}", "function", code="python",
            hint=f"there are: {names}" if names else "",
        )  # fmt: skip
    count = 1 if options.options is None else 2
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError as e:
        what = "the message" if count == 1 else "the message and the options"
        raise build.problem(
            f"{attribute} cannot be called with {what}: {e}", "function", code="python"
        ) from e
    return _Loaded(function, package)


def _functions(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and inspect.isfunction(value)
        and value.__module__ == module.__name__
    ]


def _where(error: BaseException, folder: Path) -> str:
    """What is wrong with a module, and in which line of which file."""
    what = f"{type(error).__name__}: {error}".split("\n")[0]
    if isinstance(error, SyntaxError):
        what = f"{error.msg} (line {error.lineno})"
    lines = [
        f"{Path(frame.filename).relative_to(folder)}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(folder)
    ]
    return f"{what}, at {lines[-1]}" if lines else what


step = Role(PythonOptions, make)
