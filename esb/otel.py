"""OpenTelemetry: one span for each message in a route, with one below it for each step and for each
call of an endpoint, sent to a collector over OTLP.

W3C Trace Context ties them together beyond the bus: a message that comes in with a `traceparent`
is part of that trace, and whatever leaves the bus carries the span of the call that it leaves by
(Trace Context, section 3). What is sampled is decided once, where a trace begins; who takes part
later does as the flag says, so that a trace is whole or not there. Without the section `telemetry`
there is none of this, and what is not sampled costs little more than the decision.

Names of attributes are those of the Semantic Conventions of OpenTelemetry where they have one.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
import uuid
from collections.abc import Awaitable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import structlog
from pydantic import Field, SecretStr, field_validator

from esb import __version__
from esb.adapter import Health
from esb.durable import from_store
from esb.envelope import Envelope, Outcome
from esb.errors import EsbError
from esb.metrics import Counter
from esb.options import Duration, Options
from esb.redaction import shown
from esb.step import Middleware, SpanFacts, Step, Watch

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult
    from opentelemetry.trace import Span, Tracer

log = structlog.get_logger("esb.otel")

SPANS = Counter(
    "esb_spans_total",
    "Spans for OpenTelemetry: sent to the collector, or lost because it did not take them.",
    ("what",),
)
_FAREWELL_MILLIS: Final = 3000
"""How long a collector may take for the last spans of a bus that stops."""


class TelemetryOptions(Options):
    """Traces for OpenTelemetry: a span for each message in a route, and below it one for each step
    and each call of an endpoint. It is an extra: `pip install esb[otel]`."""

    otlp: str | None = Field(
        None,
        description="Where the collector takes OTLP over HTTP: `http://collector:4318`. Without a "
        "path it is `/v1/traces`. Left out, there are no spans.",
    )
    sample: float = Field(
        1.0,
        ge=0,
        le=1,
        description="The share of traces that begin here and are sent: 0.01 is one in a hundred. "
        "Of a message that brings a trace with it, its flag decides.",
    )
    service_name: str = Field("esb", min_length=1, description="The name of the bus in traces.")
    headers: dict[str, SecretStr] = Field(
        default_factory=dict, description="Headers for the collector, such as a key."
    )
    timeout: Duration = Field(10.0, description="How long the collector may take for a batch.")

    @field_validator("otlp")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a collector has a URL: http://collector:4318")
        if parts.username or parts.password:
            raise ValueError("credentials for the collector belong into `headers`")
        if importlib.util.find_spec("opentelemetry.exporter") is None:
            raise ValueError("this needs an extra that is not installed: pip install 'esb[otel]'")
        return value if parts.path.strip("/") else f"{value.rstrip('/')}/v1/traces"


_span: ContextVar[Span | None] = ContextVar("span", default=None)
"""What goes on: the span of the message in its route, or of the step that it is in."""


class Telemetry:
    """Makes the spans of all routes and sends them; a Resource."""

    def __init__(self, options: TelemetryOptions) -> None:
        self._options = options
        self._most = int(options.sample * 2**56)
        self._tracer: Tracer | None = None
        self._provider: Any = None

    # --- a Resource

    async def open(self) -> None:
        """Begin to send. A collector that is away is no error: its spans are lost, and counted."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        options = self._options

        class Counted(SpanExporter):
            """The exporter, and what becomes of what it is given."""

            def __init__(self) -> None:
                self._exporter = OTLPSpanExporter(
                    endpoint=options.otlp,
                    headers={n: v.get_secret_value() for n, v in options.headers.items()},
                    timeout=options.timeout,
                )

            def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
                result = self._exporter.export(spans)
                SPANS.labels("sent" if result.name == "SUCCESS" else "lost").value += len(spans)
                return result

            def shutdown(self) -> None:
                self._exporter.shutdown()  # type: ignore[no-untyped-call]

        about: dict[str, str | int] = {
            "service.name": options.service_name,
            "service.version": __version__,
            "service.instance.id": str(uuid.uuid4()),
            "process.pid": os.getpid(),
        }
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # `_samples` has decided
            resource=Resource.create(about),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(Counted()))
        self._tracer = self._provider.get_tracer("esb", __version__)

    async def close(self) -> None:
        """Send what is there, if the collector takes it soon."""
        provider, self._tracer = self._provider, None
        if provider is not None:
            await asyncio.to_thread(provider.force_flush, _FAREWELL_MILLIS)
            await asyncio.to_thread(provider.shutdown)

    def health(self) -> Health:
        """Well in any case: without spans everything else goes on."""
        return Health(True)

    # --- messages

    def watch(self, watch: Watch) -> None:
        """Make spans of the steps of a route, where the message has one."""
        watch.surround(partial(self._around, watch))

    def route(self, name: str, watch: Watch) -> Middleware:
        """The layer around a route, whose steps tell `watch`, that makes the span of a message."""
        self.watch(watch)
        came = next((f for at, f in watch.spans.items() if at.startswith("from.")), None)
        entered = came or SpanFacts("consumer", name)
        # A continuation takes from the store what a step put there.
        facts = entered if name == watch.route else SpanFacts("consumer", name)

        def middleware(step: Step) -> Step:
            def enter(envelope: Envelope) -> Awaitable[Envelope]:
                tracer = self._tracer
                if tracer is None:
                    return step(envelope)
                parent = envelope.traceparent
                if not (parent[-1:] in _SAMPLED if parent else self._samples()):
                    if not parent:  # whoever takes part later is to decide as it was decided here
                        envelope = envelope.replace(traceparent=_unsampled())
                    return step(envelope) if _span.get() is None else _apart(step, envelope)
                return _in_route(tracer, name, facts, step, envelope)

            return enter

        return middleware

    def _samples(self) -> bool:
        return random.getrandbits(56) < self._most

    async def _around(self, watch: Watch, place: str, step: Step, envelope: Envelope) -> Envelope:
        parent, tracer = _span.get(), self._tracer
        if parent is None or tracer is None:
            return await step(envelope)
        facts = watch.spans.get(place)
        about: dict[str, Any] = {"esb.route": watch.route, "esb.step": place}
        if facts is not None and facts.kind == "producer":
            about["messaging.message.id"] = envelope.id
        span = _begin(
            tracer, facts or SpanFacts("internal", place.rpartition(".")[2]), about, parent
        )
        token = _span.set(span)
        try:
            if facts is None:
                return await step(envelope)
            # Whoever gets it, gets it from this call.
            sent = envelope.replace(traceparent=_traceparent(span))
            after = await step(sent)
            if facts.told:
                known = after.params.get("reply", {})
                for name, attribute in facts.told.items():
                    if isinstance(value := known.get(name), int | str):
                        span.set_attribute(attribute, value)
            return envelope if after is sent else after.replace(traceparent=envelope.traceparent)
        except BaseException as e:
            _failed(span, e, facts)
            raise
        finally:
            _span.reset(token)
            span.end()


async def _in_route(
    tracer: Tracer, name: str, facts: SpanFacts, step: Step, envelope: Envelope
) -> Envelope:
    if "status" in facts.told and from_store():
        facts = SpanFacts("consumer", name)  # it was answered when it was accepted
    about: dict[str, Any] = {"esb.route": name, "esb.message.id": envelope.id}
    if envelope.attempt > 1:
        about["esb.attempt"] = envelope.attempt
    if facts.kind == "consumer":
        about["messaging.message.id"] = envelope.id
        if envelope.correlation_id:
            about["messaging.message.conversation_id"] = envelope.correlation_id
    elif method := envelope.params.get("http", {}).get("method"):
        about["http.request.method"] = method
    if address := envelope.params.get("client", {}).get("address"):
        about["client.address"] = address
    span = _begin(tracer, facts, about, _remote(envelope.traceparent, envelope.tracestate))
    token = _span.set(span)
    answer = _Answer(span, facts.told["status"]) if "status" in facts.told else None
    try:
        result = await step(envelope.replace(traceparent=_traceparent(span)))
        span.set_attribute("esb.outcome", result.outcome.value)
        if result.outcome is Outcome.DEAD:
            _not_well(span, "it is a dead letter")
        return result
    except EsbError as e:
        if answer is None:
            _failed(span, e, None)
        else:
            answer.error = e
        raise
    except BaseException as e:
        answer = None
        _failed(span, e, None)
        raise
    finally:
        _span.reset(token)
        if answer is None:
            span.end()
        else:
            _answer.set(answer)


@dataclass(slots=True)
class _Answer:
    """What is still to be told of a message that somebody waits for. status: its attribute."""

    span: Span
    status: str
    error: EsbError | None = None


_answer: ContextVar[_Answer | None] = ContextVar("what is to be answered", default=None)


def answered(status: int) -> None:
    """For a source that tells with its `SpanFacts` that it tells this: the status it has for the
    message that it handed over last, in this task. What it blames on the caller is no failure of
    the bus (Semantic Conventions for HTTP spans, Status)."""
    answer = _answer.get()
    if answer is None:
        return
    _answer.set(None)
    span, error = answer.span, answer.error
    span.set_attribute(answer.status, status)
    if error is not None and status >= 500:
        _failed(span, error, None)
    elif error is not None:
        span.set_attribute("esb.error", error.code)
    elif status >= 500:
        _not_well(span, f"the answer was {status}")
    span.end()


async def _apart(step: Step, envelope: Envelope) -> Envelope:
    """Of a message that is not sampled no step is, whatever it was made in."""
    token = _span.set(None)
    try:
        return await step(envelope)
    finally:
        _span.reset(token)


def _begin(tracer: Tracer, facts: SpanFacts, about: dict[str, Any], parent: Span | None) -> Span:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind, set_span_in_context

    context = Context() if parent is None else set_span_in_context(parent, Context())
    kind = SpanKind[facts.kind.upper()]
    return tracer.start_span(facts.name, context, kind, {**facts.attributes, **about})


def _remote(traceparent: str, tracestate: str) -> Span | None:
    """Who sent it, as the parent of a span; None if that is not told."""
    if not traceparent:
        return None
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

    try:
        _, trace, span, flags = traceparent.split("-", 3)
        found = SpanContext(
            int(trace, 16), int(span, 16), True, TraceFlags(int(flags[:2], 16)),
            TraceState.from_header([tracestate]) if tracestate else None,
        )  # fmt: skip
    except ValueError:
        return None  # adapters check what the wire says; in a unit of tests it may be anything
    return NonRecordingSpan(found) if found.is_valid else None


_SAMPLED: Final = frozenset("13579bdf")
"""Ends of a traceparent whose lowest flag is set (Trace Context, section 3.2.2.5.1)."""


def _traceparent(span: Span) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def _unsampled() -> str:
    trace, span = random.getrandbits(128) | 1, random.getrandbits(64) | 1
    return f"00-{trace:032x}-{span:016x}-00"


def _failed(span: Span, error: BaseException, facts: SpanFacts | None) -> None:
    """What went wrong, without the exception itself: its frames hold everything."""
    if isinstance(error, EsbError):
        span.set_attribute("error.type", error.code)
        if facts is not None and error.status is not None and "status" in facts.told:
            span.set_attribute(facts.told["status"], error.status)
        _not_well(span, shown(error.detail))
    elif isinstance(error, asyncio.CancelledError):
        span.set_attribute("error.type", "cancelled")
        _not_well(span, "its run was ended before it was through")
    else:
        span.set_attribute("error.type", type(error).__name__)
        _not_well(span, "internal error")


def _not_well(span: Span, why: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR, why)
