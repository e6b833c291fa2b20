"""Message History (EIP): what each step of a route received and returned, recorded while it runs.

A `Recorder` looks on at every run of a route (see `esb.step.Watch`) as long as there is a reason:
messages are sampled, failures are kept, or somebody looks on live. It only keeps references while
a run lasts, since envelopes never change. What is to be shown is written out afterwards: without
its secrets, bodies cut, and what is kept goes to the disk in batches of its own. All of that is
best effort: no message waits or fails for it, and when too much is to be written, traces are
dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from functools import partial
from time import perf_counter
from typing import Any, Final
from weakref import WeakSet
from zlib import crc32

import msgspec
import structlog
from lxml import etree
from pydantic import Field

from esb.adapter import Health
from esb.clock import REAL, Clock
from esb.envelope import Body, Envelope
from esb.errors import EsbError, Fault, Transient
from esb.metrics import Counter
from esb.options import Duration, Options, Size
from esb.redaction import Redactor
from esb.step import Seen, Step, Watch
from esb.traces import Snapshot, Trace, TraceStore, Visit

log = structlog.get_logger("esb.tracing")

TRACES = Counter(
    "esb_traces_total",
    "Runs of a route whose trace was kept, dropped because too many were to be written, or lost "
    "because the store did not take it.",
    ("what",),
)

MOST_VISITS: Final = 200
"""Of a longer run the first half of so many steps is told, and the last."""
MOST_BODIES: Final = 50
MOST_WAITING: Final = 1000
"""So many runs at most wait to be written out; they keep their bodies in memory."""
AT_ONCE: Final = 100
WRITE_EVERY: Final = 0.5
MOST_NODES: Final = 2000
"""So much of a body that nobody has written is looked at."""


# --- settings -------------------------------------------------------------------------------------


class Sampling(Options):
    """Of which messages a trace is kept, and what of them."""

    sample: float = Field(
        0.0,
        ge=0,
        le=1,
        description="The share of messages of which a trace is kept: 0.01 is one in a hundred. "
        "Whoever is one of them is traced in every route it passes.",
    )
    errors: bool = Field(
        False, description="Keep a trace of every run that fails or ends in the dead letters, too."
    )
    bodies: bool = Field(True, description="Whether a trace has the bodies of messages.")
    max_body: Size = Field(
        4096, description="So much of a body is kept: its beginning. 64KB at most.", le=65536
    )


class TraceOptions(Sampling):
    """Traces in the bus's store: what each step of a route received and returned (`esb why`).
    Nothing is kept unless `sample` or `errors` says so, here or at a route."""

    keep: Duration = Field(86400.0, description="How long a trace is kept.")
    max_size: Size = Field(
        100 * 1024**2, description="How much room traces may take up; then the oldest go."
    )
    redact: list[str] = Field(
        default_factory=list,
        description="Further headers and fields whose values are secrets. Left out anyway: "
        "credentials; fields called password, token, secret or the like; what `${...}` got from a "
        "file, or from a variable with such a name.",
    )


# --- recording ------------------------------------------------------------------------------------


class Failed(msgspec.Struct, frozen=True):
    """What is left of an exception: not its frames, which hold everything. told: what the far side
    said, its "status" or its "fault" (name and data); and the "kind" of the error in short."""

    code: str
    detail: str
    step: str = ""
    notes: tuple[str, ...] = ()
    told: Mapping[str, Any] = {}

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        if isinstance(error, EsbError):
            kind = "transient" if isinstance(error, Transient) else "permanent"
            told: dict[str, Any] = {"kind": kind}
            if error.status is not None:
                told["status"] = error.status
            if isinstance(error, Fault):
                told["fault"] = error.name, error.data
            return cls(error.code, error.detail, error.step, error.notes, told)
        if isinstance(error, asyncio.CancelledError):
            return cls("cancelled", "its run was ended before it was through")
        return cls("broken", f"internal error ({type(error).__name__})")


class Run:
    """A run that is being recorded."""

    __slots__ = (
        "began", "begun", "envelope", "failed", "first", "last", "of", "result", "seconds", "total",
    )  # fmt: skip

    def __init__(self, of: Recorder, envelope: Envelope, begun: float) -> None:
        self.of = of
        self.envelope = envelope
        self.begun = begun  # a Unix time
        self.began = perf_counter()
        self.seconds = 0.0
        self.first: list[tuple[str, Seen, Failed | None]] = []
        self.last: deque[tuple[str, Seen, Failed | None]] | None = None
        self.total = 0
        self.result: Envelope | None = None
        self.failed: Failed | None = None

    def saw(self, route: str, seen: Seen) -> None:
        failed = None
        if seen.error is not None:
            failed = Failed.of(seen.error)
            seen = msgspec.structs.replace(seen, error=None)
        self.total += 1
        one = (route, seen, failed)
        if len(self.first) < MOST_VISITS // 2:
            self.first.append(one)
        else:
            if self.last is None:
                self.last = deque(maxlen=MOST_VISITS // 2)
            self.last.append(one)


_run: ContextVar[Run | None] = ContextVar("run", default=None)


def _saw(route: str, seen: Seen) -> None:
    run = _run.get()
    if run is not None:
        run.saw(route, seen)


class Listener:
    """Somebody who looks on at a route as its messages pass.

    wanted: whether a message is of interest; asked when its run is over. What is not fetched in
    time is dropped and counted.
    """

    def __init__(
        self, route: str, *, wanted: Callable[[Trace, Envelope], bool], bodies: bool, max_body: int
    ) -> None:
        self.route = route
        self.wanted = wanted
        self.bodies = bodies
        self.max_body = max_body
        self.dropped = 0
        self.queue: asyncio.Queue[Any] = asyncio.Queue(MOST_WAITING // 10)

    def over(self, run: Run, tracing: Tracing) -> None:
        """A run of the route has ended."""
        trace = tracing.written(run, bodies=self.bodies, max_body=self.max_body)
        if self.wanted(trace, run.envelope):
            self.tell(trace)

    def line(self, one: Any) -> bytes:
        """What it was told of, as JSON."""
        return msgspec.json.encode(one.told())

    def tell(self, one: Any) -> None:
        """Hand on what is to be shown."""
        try:
            self.queue.put_nowait(one)
        except asyncio.QueueFull:
            self.dropped += 1


class Recorder:
    """Looks on at the runs of one route: the layer (`esb.step.Middleware`) around all others. `on`
    says whether it does at all, `live` whether somebody wants to see every run."""

    def __init__(
        self, tracing: Tracing, name: str, watch: Watch, sampling: Sampling, where: str
    ) -> None:
        self.name = name
        self.watch = watch  # of the route itself, or of the one that it is a continuation of
        self.where = where
        self.sampling = sampling
        self.on = False
        self.live = False
        self._over = tracing.over
        self._clock = tracing.clock
        self._most = int(sampling.sample * 2**32)

    def __call__(self, step: Step) -> Step:
        def record(envelope: Envelope) -> Awaitable[Envelope]:
            looked_at = self.on and (self.live or self.sampling.errors or self.samples(envelope))
            return self._record(step, envelope) if looked_at else step(envelope)

        return record

    async def _record(self, step: Step, envelope: Envelope) -> Envelope:
        run = Run(self, envelope, self._clock.time())
        token = _run.set(run)
        try:
            run.result = await step(envelope)
            return run.result
        except BaseException as e:
            run.failed = Failed.of(e)
            raise
        finally:
            _run.reset(token)
            run.seconds = perf_counter() - run.began
            self._over(run)

    @property
    def keeps(self) -> bool:
        return self.sampling.errors or self._most > 0

    @property
    def keeps_bodies(self) -> bool:
        """Whether a trace may be kept that has bodies."""
        return self.keeps and self.sampling.bodies

    def wants(self, run: Run) -> bool:
        """Whether the trace is kept."""
        if self.sampling.errors and (run.result is None or run.result.outcome.value == "dead"):
            return True
        return self.samples(run.envelope)

    def samples(self, envelope: Envelope) -> bool:
        """Whether a message is one of the sample: the same answer in every route that it, or a part
        of it, passes."""
        return crc32(envelope.id.partition(".")[0].encode("utf-8", "replace")) < self._most


class Tracing:
    """Records what a bus's routes do. It is a Resource: closed, it has written what it had.

    store: where traces are kept. secrets: values that are left out; those who load the project fill
    them in.
    """

    def __init__(
        self,
        options: TraceOptions,
        store: TraceStore,
        *,
        clock: Clock = REAL,
    ) -> None:
        self.options = options
        self.secrets: set[str] = set()
        self.clock = clock
        self.store = store
        self.redact = Redactor(options.redact, lambda: self.secrets)
        self._recorders: WeakSet[Recorder] = WeakSet()
        self._called: WeakSet[Watch] = WeakSet()  # of sub-routes
        self._listeners: list[Listener] = []
        self._waiting: list[Run] = []
        self._writer: asyncio.Task[None] | None = None
        self._trouble = False

    # --- which routes

    def recorder(
        self, route: str, watch: Watch, sampling: Sampling | None = None, where: str = ""
    ) -> Recorder:
        """What looks on at the runs of a route, whose steps tell `watch`. sampling: the route's
        own, whose options go before those of the bus."""
        own = sampling.model_dump(exclude_unset=True) if sampling is not None else {}
        common = {name: getattr(self.options, name) for name in Sampling.model_fields}
        recorder = Recorder(self, route, watch, Sampling(**{**common, **own}), where)
        self._recorders.add(recorder)
        self._decide(recorder)
        if recorder.on:
            self._observe(watch, True)
            self._observe_called()
        return recorder

    def watch(self, watch: Watch) -> None:
        """Look on at the steps of a sub-route, which are part of the runs of others."""
        self._called.add(watch)
        self._observe(watch, self._looks)

    def _decide(self, recorder: Recorder) -> None:
        """Whether there is a reason to look on at a route."""
        recorder.live = any(listener.route == recorder.name for listener in self._listeners)
        recorder.on = recorder.keeps or recorder.live

    def _decide_all(self) -> None:
        recorders = list(self._recorders)
        for recorder in recorders:
            self._decide(recorder)
        looked_at = {recorder.watch for recorder in recorders if recorder.on}
        for watch in {recorder.watch for recorder in recorders}:
            self._observe(watch, watch in looked_at)
        self._observe_called()

    def _observe_called(self) -> None:
        looks = self._looks
        for watch in list(self._called):
            self._observe(watch, looks)

    @property
    def _looks(self) -> bool:
        """Whether any route is looked at."""
        return any(recorder.on for recorder in list(self._recorders))

    def _observe(self, watch: Watch, looks: bool) -> None:
        watch.observe("traces", partial(_saw, watch.route) if looks else None)

    # --- looking on live

    @contextlib.contextmanager
    def listening(self, listener: Listener) -> Any:
        """Tell `listener` of the runs of its route."""
        self._listeners.append(listener)
        self._decide_all()
        try:
            yield listener
        finally:
            self._listeners.remove(listener)
            self._decide_all()

    # --- runs that are over

    def over(self, run: Run) -> None:
        """A run has ended."""
        for listener in self._listeners:
            if listener.route == run.of.name:
                try:
                    listener.over(run, self)
                except Exception as e:
                    log.error("a trace could not be shown", exc_info=e)
        if not run.of.wants(run):
            return
        if len(self._waiting) >= MOST_WAITING:
            TRACES.labels("dropped").value += 1
            return
        self._waiting.append(run)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write(), name="esb traces")

    async def _write(self) -> None:
        try:
            while self._waiting:
                await self.clock.sleep(WRITE_EVERY)
                await self._write_all()
        finally:
            self._writer = None

    async def _write_all(self) -> None:
        while self._waiting:
            runs, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            try:
                traces = await asyncio.to_thread(lambda runs: [*map(self._kept, runs)], runs)
                options = self.options
                await self.store.keep_traces(traces, options.keep, options.max_size)
            except Exception as e:  # noqa: BLE001 - a trace is worth no trouble
                TRACES.labels("lost").value += len(runs)
                if not self._trouble:
                    log.warning("traces could not be kept", error=getattr(e, "detail", repr(e)))
                self._trouble = True
            else:
                TRACES.labels("kept").value += len(runs)
                self._trouble = False

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Write what is there to be written."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        await self._write_all()
        await self.store.close()

    def health(self) -> Health:
        """Well in any case: without traces everything else goes on."""
        return Health(True, "traces cannot be kept" if self._trouble else "")

    def _kept(self, run: Run) -> Trace:
        sampling = run.of.sampling
        return self.written(run, bodies=sampling.bodies, max_body=sampling.max_body)

    # --- writing out

    def written(self, run: Run, *, bodies: bool, max_body: int) -> Trace:
        """A run that is over, as it is told."""
        writer = _Writer(self.redact, max_body if bodies else -1)
        envelope, result, failed = run.envelope, run.result, run.failed
        seen = sorted([*run.first, *(run.last or ())], key=lambda one: one[1].begun)
        given = writer.body(envelope)
        value = self.redact.value
        visits = [writer.visit(run, *one) for one in seen]
        key = next((s.before.business_key for _, s, _ in seen), "") or envelope.business_key
        return Trace(
            id=envelope.id,
            route=run.of.name,
            begun=run.begun,
            seconds=run.seconds,
            where=run.of.where,
            outcome=result.outcome.value if result is not None else "",
            code=failed.code if failed else "",
            detail=value(failed.detail) if failed else "",
            step=failed.step if failed else "",
            notes=tuple(map(value, failed.notes)) if failed else (),
            business_key=(result.business_key if result is not None else "") or key,
            correlation_id=envelope.correlation_id,
            came_from=envelope.source,
            principal=envelope.principal,
            traceparent=envelope.traceparent,
            attempt=envelope.attempt,
            headers=self.redact.headers(envelope.headers),
            params=_params(self.redact, envelope.params),
            visits=visits,
            left_out=run.total - len(seen),
            bodies=writer.bodies,
            given=given,
            returned=writer.body(result) if result is not None else -1,
        )


def _params(redact: Redactor, params: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    return {
        group: dict(redact.headers((name, str(value)[:500]) for name, value in of.items()))
        for group, of in params.items()
    }


class _Writer:
    """Writes the visits of one run; each body once, however many steps hand it on.

    max_body: characters of a body that are shown; -1 for none of any.
    """

    def __init__(self, redact: Redactor, max_body: int) -> None:
        self.bodies: list[Snapshot] = []
        self._redact = redact
        self._max = max_body
        self._known: dict[int, int] = {}  # the run holds the bodies, so none has another's id

    def visit(self, run: Run, route: str, seen: Seen, failed: Failed | None) -> Visit:
        before, after, value = seen.before, seen.after, self._redact.value
        return Visit(
            place=seen.place,
            begun=max(0.0, seen.begun - run.began),
            seconds=seen.seconds,
            route=route if route != run.of.watch.route else "",
            id=before.id if before.id != run.envelope.id else "",
            attempt=before.attempt,
            outcome=after.outcome.value if after is not None else "",
            code=failed.code if failed else "",
            detail=value(failed.detail) if failed else "",
            notes=tuple(map(value, failed.notes)) if failed else (),
            given=self.body(before),
            returned=self.body(after) if after is not None else -1,
            headers=self._changed(before, after) if after is not None else {},
        )

    def _changed(self, before: Envelope, after: Envelope) -> dict[str, str | None]:
        if before.headers is after.headers:
            return {}
        was = dict(self._redact.headers(before.headers))
        now = dict(self._redact.headers(after.headers))
        gone = {name: None for name in was if name not in now}
        return {n: v for n, v in now.items() if was.get(n) != v} | gone

    def body(self, envelope: Envelope) -> int:
        body = envelope.body
        if self._max < 0 or body.is_empty:
            return -1
        number = self._known.get(id(body))
        if number is None:
            if len(self.bodies) >= MOST_BODIES:
                return -1
            number = self._known[id(body)] = len(self.bodies)
            self.bodies.append(snapshot(body, self._redact, self._max))
        return number


def snapshot(body: Body, redact: Redactor, longest: int) -> Snapshot:
    """The beginning of a body for people, without its secrets; nothing is parsed or written for it.
    What is no text is told in words, and so is what passed as it arrived."""
    if body.is_stream:
        return Snapshot(body.content_type, body.size, "(passed as it arrived)")
    size: int | None = None
    try:
        # A secret that is cut in two is no longer known as one.
        margin = longest + max(redact.longest, 200)
        if body.is_written:
            with body.open() as stream:
                raw = stream.read(margin)
                size = stream.seek(0, os.SEEK_END)
            text = raw.decode("utf-8", "strict" if size <= margin else "ignore")
            text, more = redact.text(text), size > margin
        else:
            text, more = _preview(body.data, redact, margin)
    except UnicodeDecodeError:
        return Snapshot(body.content_type, size, "(no text)")
    except Exception:  # noqa: BLE001 - whatever a body is, it can be shown otherwise
        return Snapshot(body.content_type, size, "(cannot be shown)")
    return Snapshot(body.content_type, size, text[:longest], more or len(text) > longest)


def _preview(data: Any, redact: Redactor, longest: int) -> tuple[str, bool]:
    """The beginning of what data would look like in JSON, or as XML; and whether there is more."""
    if isinstance(data, str | bytes):
        text = data[:longest] if isinstance(data, str) else data[:longest].decode()
        return redact.text(text), len(data) > longest
    if isinstance(data, etree._Element):
        for number, _ in enumerate(data.iter()):
            if number > MOST_NODES:
                return f"(<{data.tag}> with more than {MOST_NODES} elements)", False
        return redact.text(etree.tostring(data, encoding="unicode", with_tail=False)), False
    left = [MOST_NODES]
    some = redact.data(_some(data, left, longest))
    return msgspec.json.encode(some, enc_hook=str).decode(), left[0] < 0


def _some(data: Any, left: list[int], longest: int) -> Any:
    """So much of a tree as is looked at; `left` counts how many values still may be."""
    left[0] -= 1
    if isinstance(data, str):
        return data if len(data) <= longest else data[:longest] + "..."
    if isinstance(data, dict):
        some = {}
        for key, value in data.items():
            if left[0] <= 0:
                left[0] = -1
                break
            some[str(key)] = _some(value, left, longest)
        return some
    if isinstance(data, list | tuple):
        items = []
        for value in data:
            if left[0] <= 0:
                left[0] = -1
                break
            items.append(_some(value, left, longest))
        return items
    return data
