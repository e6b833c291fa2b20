"""What telemetry tells of requests (Semantic Conventions of OpenTelemetry for HTTP and RPC)."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from esb.step import SpanFacts

_STATUS = {"status": "http.response.status_code"}
_PORTS = {"http": 80, "https": 443}


def requested(
    method: str, url: str, name: str = "", also: Mapping[str, str] | None = None
) -> SpanFacts:
    """Of an endpoint that sends requests. The host is told unless a message chooses it; paths and
    queries, which may hold anything, are not."""
    facts: dict[str, str | int] = {"http.request.method": method, **(also or {})}
    try:
        parts = urlsplit(url)
        if parts.hostname and "{{" not in parts.netloc:
            facts["server.address"] = parts.hostname
            if port := parts.port or _PORTS.get(parts.scheme):
                facts["server.port"] = port
    except ValueError:
        pass  # a template; or the load says what is wrong with it
    return SpanFacts("client", name or method, facts, _STATUS)


def serving(name: str, facts: Mapping[str, str | int]) -> SpanFacts:
    """Of a source that answers requests, and tells how: `esb.otel.answered`."""
    return SpanFacts("server", name, facts, _STATUS)
