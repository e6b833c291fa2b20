"""The one abstraction: a step takes an envelope and returns one; composing steps gives a step.

The return value is the answer. A source hands each message to its step: returning acknowledges
the message and carries the reply, raising refuses it.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from functools import partial
from time import perf_counter
from typing import Final, ParamSpec, TypeVar

import msgspec

from esb.envelope import Body, Envelope, Outcome
from esb.errors import EsbError

Step = Callable[[Envelope], Awaitable[Envelope]]
Middleware = Callable[[Step], Step]

P = ParamSpec("P")
T = TypeVar("T")

_STOPPED = (Outcome.FILTERED, Outcome.DEAD)


async def identity(envelope: Envelope) -> Envelope:
    """The step that does nothing."""
    return envelope


LARGE: Final = 256 * 1024
"""Bytes of a body from which on others need not wait for what is computed from it."""


_AFTER: Final = 0.1


def is_large(envelope: Envelope) -> bool:
    """Whether to read this body takes long enough to do it beside the event loop."""
    body = envelope.body
    return (body.size or body.weight) >= LARGE


_BESIDE: Final = ThreadPoolExecutor(2, "large")
"""For what is large: few at a time, because each takes many times its size in memory."""


async def beside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` gives, done in a thread and in the context of whoever asks. Many ask at the same
    time only where there is memory for all of them; others wait for their turn."""
    loop = asyncio.get_running_loop()
    bound = partial(copy_context().run, work, *args, **kwargs)
    try:
        return await loop.run_in_executor(_BESIDE, bound)
    finally:
        give_back()


_trimming: list[asyncio.TimerHandle] = []
_trim: Final[Callable[[int], int] | None] = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Give memory back to the system a while after the last large body: glibc keeps for each thread
    what that once needed, which is a hundred megabytes after one large document."""
    while _trimming:
        _trimming.pop().cancel()
    if _trim is not None:
        loop = asyncio.get_running_loop()
        _trimming.append(loop.call_later(_AFTER, _BESIDE.submit, _trim, 0))


def computed(work: Callable[[Envelope], Envelope]) -> Step:
    """A step that only computes. Beside a large body it does so in a thread: what reads ten
    megabytes would keep everybody else waiting. `work` runs in the context of the message, and
    raises as a step does."""

    async def step(envelope: Envelope) -> Envelope:
        if is_large(envelope):
            result = await beside(work, envelope)
            return weighed(result, weight(envelope.body))
        return work(envelope)

    return step


def weight(body: Body) -> int:
    """About how many bytes there are, or will be as far as anybody said."""
    return body.size or body.weight


def weighed(result: Envelope, weight: int) -> Envelope:
    """The same; what was made of so many bytes is taken for as many until it is written, so that
    whoever reads or writes it does so beside the event loop as well."""
    body = result.body
    if body.size is None:
        body.weight = weight
    return result


async def asked(expression: Callable[[Envelope], T], envelope: Envelope) -> T:
    """What an expression gives, computed in a thread if the body is large. Raises as it does."""
    return await beside(expression, envelope) if is_large(envelope) else expression(envelope)


def is_unwritten(body: Body) -> bool:
    """Whether this is data that takes long to write."""
    return body.size is None and body.weight >= LARGE


async def written(body: Body) -> None:
    """Have large data written in a thread, so that `raw` is at hand. Raises as `raw` does."""
    if is_unwritten(body):
        await beside(getattr, body, "raw")


class Seen(msgspec.Struct, frozen=True):
    """What one step did to one message.

    place: of the step or, below it, of its endpoint: "steps[1].send", "steps[1].send.http".
    after: the envelope it returned; None if it raised `error`.
    begun: on the clock of `time.perf_counter`; seconds: how long it took.
    """

    place: str
    before: Envelope
    after: Envelope | None
    error: BaseException | None
    begun: float
    seconds: float


class SpanFacts(msgspec.Struct, frozen=True):
    """What telemetry tells of an endpoint (OpenTelemetry Semantic Conventions).

    kind: "server", "client", "producer" or "consumer". name: of its spans, and few; attributes: of
    all of them. told: which attributes the facts of a reply are ({"status": ...}); of a source that
    it tells the status of its answers itself (`otel.answered`).
    """

    kind: str
    name: str
    attributes: Mapping[str, str | int] = {}
    told: Mapping[str, str] = {}


Around = Callable[[str, Step, Envelope], Awaitable[Envelope]]
"""Runs the step at a place with a message."""


def _nobody(seen: Seen) -> None:
    """What observes where there is only somebody around."""


class Watch:
    """Where somebody may look at what the steps of a route do: `observer` is called after each,
    `around` runs each. If both are None, nobody does.

    They are called in the run of the message, so that what a run has set in its context is there.
    They must be quick and must not raise of themselves.

    spans: what is told of the endpoints of the route, by their places.
    """

    __slots__ = ("__weakref__", "_observers", "around", "observer", "route", "spans")

    def __init__(self, route: str = "") -> None:
        self.route = route
        self.spans: dict[str, SpanFacts] = {}
        self.around: Around | None = None
        self.observer: Callable[[Seen], None] | None = None
        self._observers: dict[str, Callable[[Seen], None]] = {}

    def surround(self, around: Around | None) -> None:
        """From now on `around` runs the steps."""
        self.around = around
        self.observe("", None)

    def observe(self, who: str, observer: Callable[[Seen], None] | None) -> None:
        """From now on `who` looks on, beside others, or (None) no longer does."""
        self._observers.pop(who, None)
        if observer is not None:
            self._observers[who] = observer
        observers = tuple(self._observers.values())

        def tell_all(seen: Seen) -> None:
            for one in observers:
                one(seen)

        alone = _nobody if self.around is not None else None
        self.observer = tell_all if len(observers) > 1 else next(iter(observers), alone)

    async def step(self, place: str, step: Step, envelope: Envelope) -> Envelope:
        """Run a step, and tell the observer that there was when it began."""
        observer, around = self.observer, self.around
        if observer is _nobody and around is not None:
            return await around(place, step, envelope)
        after: Envelope | None = None
        error: BaseException | None = None
        begun = perf_counter()
        try:
            after = await (step(envelope) if around is None else around(place, step, envelope))
            return after
        except BaseException as e:
            error = e
            raise
        finally:
            if observer is not None:
                seconds = perf_counter() - begun
                observer(Seen(place, envelope, after, error, begun, seconds))
            del error  # or the frame and the traceback would hold each other


def pipeline(steps: Sequence[tuple[str, Step]], watch: Watch | None = None) -> Step:
    """Pipes and Filters: run named steps one after the other, each on the result of the last.

    A filtered message skips the rest. An error on its way out learns which step raised it
    (`EsbError.step`, the innermost name wins). watch: who may look on.
    """
    if not steps:
        return identity
    compiled = tuple(steps)
    watch = watch or Watch()

    async def run(envelope: Envelope) -> Envelope:
        current = ""
        try:
            for current, step in compiled:
                if watch.observer is None:
                    envelope = await step(envelope)
                else:
                    envelope = await watch.step(current, step, envelope)
                if envelope.outcome in _STOPPED:
                    return envelope
        except EsbError as e:
            e.step = e.step or current
            raise
        return envelope

    return run


_turns: ContextVar[str] = ContextVar("turns of the loops around", default="")


class in_turn:  # noqa: N801 - to its callers it is a function
    """What runs here is a turn of a loop, or a sub-route that is called at one place."""

    __slots__ = ("_token", "_turn")

    def __init__(self, turn: int | str) -> None:
        self._turn = turn

    def __enter__(self) -> None:
        self._token = _turns.set(f"{_turns.get()}{self._turn}-")

    def __exit__(self, *_: object) -> None:
        _turns.reset(self._token)


def turns() -> str:
    """What tells apart how often a message passes one place in a run, and is the same when it runs
    again: "" outside of loops and sub-routes, "2-" in the second turn of one, "2-1-" in the first
    of one in it, "priced-" in a sub-route."""
    return _turns.get()


def wrap(step: Step, *middleware: Middleware) -> Step:
    """Put middleware around a step, the first one outermost."""
    for layer in reversed(middleware):
        step = layer(step)
    return step
