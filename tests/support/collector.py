"""A collector of OpenTelemetry: takes OTLP over HTTP and keeps the spans it was sent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.backend import Asked, Backend, backend

_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")


@dataclass(frozen=True)
class Span:
    """One span; its ids in hexadecimal. well: whether its status is no error."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    attributes: Mapping[str, Any]
    well: bool
    why: str
    events: int
    resource: Mapping[str, Any]
    state: str


class Collector:
    """`url` is where it takes spans, `asked` what it was sent, as it came."""

    def __init__(self, server: Backend) -> None:
        self._server = server
        server.content = ("application/x-protobuf", b"")

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def asked(self) -> list[Asked]:
        return self._server.asked

    @property
    def spans(self) -> list[Span]:
        """All that came so far."""
        return [span for asked in list(self.asked) for span in _read(asked.body)]

    def named(self, name: str) -> Span:
        """The one span of this name."""
        (found,) = (span for span in self.spans if span.name == name)
        return found


def _read(body: bytes) -> Iterator[Span]:
    request = ExportTraceServiceRequest.FromString(body)
    for of in request.resource_spans:
        resource = _plain(of.resource.attributes)
        for scope in of.scope_spans:
            for one in scope.spans:
                yield Span(
                    one.name, _KINDS[one.kind], one.trace_id.hex(), one.span_id.hex(),
                    one.parent_span_id.hex(), _plain(one.attributes), one.status.code != 2,
                    one.status.message, len(one.events), resource,
                    one.trace_state,
                )  # fmt: skip


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """One, for as long as the block runs."""
    with backend() as server:
        yield Collector(server)
