"""What the policies of a route ask of a source that speaks HTTP, and have it tell its callers: see
`esb.adapter.Build.asked`. A route without such policies has nothing of this.

`RateLimit` and `RateLimit-Policy` are those of draft-ietf-httpapi-ratelimit-headers-10, `ETag` and
conditional requests those of RFC 9110 (sections 8.8.3 and 13), `Age` and `Cache-Control` those of
RFC 9111.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final

from esb.envelope import Envelope
from esb.errors import Quota
from esb_web.messages import Described, Headerlist, Request, Response

_NOTHING: Final[Mapping[str, Any]] = {}

_KEPT_WITH_304: Final = frozenset(
    {"cache-control", "content-location", "date", "etag", "expires", "vary", "age",
     "ratelimit", "ratelimit-policy"}
)  # fmt: skip
"""Headers that an answer has which says "as before" (RFC 9110, section 15.4.5)."""

Ask = Callable[[Request, Envelope], Envelope]
Tell = Callable[[Request, Envelope, Response], Response]


def asking(asked: Collection[str]) -> Ask | None:
    """Fills in what the policies want to know of a request besides; None if that is nothing."""
    client, http = "client" in asked, "http" in asked
    if not (client or http):
        return None

    def ask(request: Request, envelope: Envelope) -> Envelope:
        more: dict[str, Mapping[str, Any]] = {}
        if client:
            more["client"] = {"address": request.client}
        if http:
            more["http"] = {"method": request.method}
        return envelope.replace(params={**envelope.params, **more})

    return ask


def telling(asked: Collection[str]) -> Tell | None:
    """Adds what callers are told of an answer by the policies it passed; None if that is nothing.
    The caller's `If-None-Match` is heeded where answers are kept."""
    if "limits" not in asked and "cached" not in asked:
        return None

    def tell(request: Request, answer: Envelope, response: Response) -> Response:
        headers = response.headers
        if (limits := answer.params.get("limits")) is not None:
            headers = [*headers, *limit_headers(limits["quotas"])]
        cached = answer.params.get("cached")
        if cached is not None and request.method in ("GET", "HEAD") and response.status == 200:
            return _conditional(request, Response(200, headers, response.body), cached)
        return Response(response.status, headers, response.body, response.arriving)

    return tell


def documented(
    operation: dict[str, Any] | Described, asked: Collection[str], methods: Collection[str]
) -> dict[str, Any] | Described:
    """An OpenAPI Operation Object, or what makes one, with the answers that policies give."""
    answers: dict[str, Any] = {}
    if "cached" in asked and "GET" in methods:
        answers["304"] = {"description": "The caller has it already (`If-None-Match`)."}
    if "limits" in asked:
        wait = {"schema": {"type": "integer"}, "description": "Seconds until it may be again."}
        answers["429"] = {"description": "Too many requests.", "headers": {"Retry-After": wait}}
    if not answers:
        return operation

    def told(made: Mapping[str, Any]) -> dict[str, Any]:
        return {**made, "responses": {**made.get("responses", {}), **answers}}

    if not callable(operation):
        return told(operation)

    def described() -> tuple[dict[str, Any], Mapping[str, Any]]:
        made, schemas = operation()
        return told(made), schemas

    return described


def seconds(wait: float) -> str:
    """A `Retry-After`: whoever comes then must not come too early."""
    return str(max(1, math.ceil(wait)))


def limit_headers(quotas: Iterable[Quota]) -> Headerlist:
    """What is left of the limits, for whoever wants to keep them."""
    policies, left = [], []
    for name, limit, window, rest, reset, _ in quotas:
        policies.append(f'"{name}";q={limit};w={window}')
        left.append(f'"{name}";r={rest};t={math.ceil(reset)}')
    return [("ratelimit-policy", ", ".join(policies)), ("ratelimit", ", ".join(left))]


def _conditional(request: Request, response: Response, cached: Mapping[str, Any]) -> Response:
    names = {name.lower(): value for name, value in response.headers}
    headers = list(response.headers)
    if "cache-control" not in names:
        kind = "private, " if cached["private"] else ""
        headers.append(("cache-control", f"{kind}max-age={cached['ttl']}"))
    headers.append(("age", str(cached["age"])))
    headers.append(("vary", ", ".join(cached["vary"])))
    tag = names.get("etag")
    if tag is None:
        content_type = names.get("content-type", "").encode()
        tag = f'"{blake2b(content_type + bytes(1) + response.body, digest_size=12).hexdigest()}"'
        headers.append(("etag", tag))
    if _matches(request.headers.get_all("if-none-match"), tag):
        kept = [(name, value) for name, value in headers if name.lower() in _KEPT_WITH_304]
        return Response(304, kept)
    return Response(200, headers, response.body)


def _matches(wanted: Iterable[Any], tag: str) -> bool:
    """Weak comparison: whether the caller has this already (RFC 9110, section 13.1.2)."""
    own = tag.removeprefix("W/")
    for value in wanted:
        given = [one.strip().removeprefix("W/") for one in str(value).split(",")]
        if own in given or given == ["*"]:
            return True
    return False
