"""HTTP requests and responses as the bus sees them, and how they map to envelopes.

What a caller sends fills `Envelope.body`, `headers` and the params "path" and "query"; nothing of
it is ever read as control. The answer's status and headers come from the envelope that the route
returned, told by its outcome.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from esb.clock import current
from esb.envelope import (
    NO_BODY,
    Body,
    Envelope,
    Headers,
    HeaderValue,
    Outcome,
    new_id,
    parse_content_type,
)
from esb.errors import BadMessage, BadReply, EsbError
from esb.http import UNSAFE as UNSAFE
from esb.identity import Authenticator, Principal
from esb.outline import Passage
from esb.tracecontext import tracestate, valid_traceparent

Headerlist = list[tuple[str, str]]

JSON: Final = "application/json"

TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-authentication-info",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that speak of one connection only (RFC 9110, section 7.6.1)."""

NOT_IN_REPLIES: Final = HOP_BY_HOP | {
    "accept-ranges",
    "age",
    "alt-svc",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "server",
    "set-cookie",
    "strict-transport-security",
    "via",
    "www-authenticate",
}
"""Headers of an answer that are not passed on: the bus writes its own, or they were for it."""


class ReplyBody(Body):
    """The body of a far side's answer: if it cannot be read, that is not the sender's fault."""

    __slots__ = ()

    @property
    def data(self) -> Any:
        """The parsed content. Raises BadReply when it cannot be read."""
        try:
            return super().data
        except BadMessage as e:
            raise BadReply(f"the answer of the service cannot be read: {e.detail}") from e

    @property
    def text(self) -> str:
        """The bytes decoded with the declared charset. Raises BadReply if they are not that."""
        try:
            return super().text
        except BadMessage as e:
            raise BadReply(f"the answer of the service cannot be read: {e.detail}") from e


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was checked, and read completely unless its site wants that not.

    path: decoded, without the base path; the very value that was dispatched.
    path_params: the values of `:name` segments, decoded.
    query: decoded; a list where a name came more than once.
    client: the caller's address, as a trusted proxy told it.
    scheme, host, base_path: what the caller wrote in front of `path`, as a trusted proxy told it.
    deadline: when the caller gives up, on the clock of `time.monotonic`.
    principal: who the caller is, "" if nobody asked: the name of `who`, or that in the certificate
        of the connection where the listener asks for one.
    who: what is known of the caller, where the site asks.
    arriving: the body, if it is still arriving: see `Site.passage`. Then `body` is empty.
    """

    method: str
    path: str
    headers: Headers
    path_params: Mapping[str, str] = {}
    query: Mapping[str, str | list[str]] = {}
    query_string: str = ""
    raw_path: str = ""
    body: bytes = b""
    client: str = ""
    scheme: str = "http"
    host: str = ""
    base_path: str = ""
    deadline: float | None = None
    principal: str = ""
    who: Principal | None = None
    arriving: Body | None = None

    @property
    def url(self) -> str:
        """The URL as the caller sees it."""
        query = f"?{self.query_string}" if self.query_string else ""
        return f"{self.scheme}://{self.host}{self.base_path}{self.raw_path or self.path}{query}"


class Response(msgspec.Struct, frozen=True):
    """An answer. Content-Length and Date are the server's business.

    arriving: the body, if it is passed on as it arrives. Then `body` is empty.
    """

    status: int
    headers: Headerlist = []
    body: bytes = b""
    arriving: Body | None = None


Handler = Callable[[Request], Awaitable[Response]]

Refused = Callable[[EsbError, Headers], Response]
"""Writes the answer to a request with these headers."""

Described = Callable[[], tuple[dict[str, Any], Mapping[str, Any]]]
"""Makes an OpenAPI Operation Object, and the component schemas it refers to, when somebody asks:
what has thousands of operations is served before it is documented."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Site:
    """What is served under a path and some methods.

    path: "/partners/:id"; `:name` stands for one segment, a last segment `*name` for the rest.
    handler: answers; an EsbError it raises is written as problem+json, anything else as a 500.
    max_body: bytes, 0 for the listener's own limit; timeout: seconds, 0 for the listener's own.
    operation: the OpenAPI 3.1 Operation Object, or what makes it and its schemas when asked; None
        to leave the site out of the documents.
    schemas: component schemas that `operation` refers to.
    api: base path of the API this belongs to ("/partners"), "" for the bus as a whole.
    title, description: of that API.
    refused: writes what the listener itself has against a request (too large, no answer in time);
        None for problem+json.
    auth: who may call; None if nobody said: then everybody may in a project that knows no callers,
        and nobody in one that does.
    passage: if it is open, bodies over 1 MB are handed to the handler as they arrive.
    """

    path: str
    methods: tuple[str, ...]
    handler: Handler
    max_body: int = 0
    timeout: float = 0.0
    operation: dict[str, Any] | Described | None = None
    schemas: Mapping[str, Any] = field(default_factory=dict)
    api: str = ""
    title: str = ""
    description: str = ""
    refused: Refused | None = None
    auth: Authenticator | None = None
    passage: Passage = field(default_factory=Passage)

    def described(self) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """The Operation Object, empty if there is none, and its component schemas."""
        if callable(self.operation):
            return self.operation()
        return self.operation or {}, self.schemas


def to_envelope(request: Request, *, source: str, type: str) -> Envelope:
    """The message that a request carries. Its body is read by nobody until a step asks.

    The W3C trace context is adopted when it is well-formed (Trace Context, section 3.2).
    """
    headers = request.headers
    traceparent = headers.get("traceparent", "")
    if traceparent and not valid_traceparent(traceparent):
        traceparent = ""
    content_type = headers.get("content-type", "")
    if request.arriving is not None:
        body = request.arriving
    else:
        body = Body(request.body, content_type) if request.body or content_type else NO_BODY
    params: dict[str, Mapping[str, Any]] = {"path": request.path_params, "query": request.query}
    if request.who is not None:
        params["principal"] = request.who.facts()
    return Envelope(
        body=body,
        id=new_id(),
        source=source,
        type=type,
        subject=request.path,
        headers=headers,
        params=params,
        deadline=request.deadline,
        principal=request.principal,
        traceparent=traceparent,
        tracestate=tracestate(headers.get_all("tracestate")) if traceparent else "",
    )


def to_response(
    request: Envelope,
    answer: Envelope,
    accept: str | None = None,
    *,
    status: int = 200,
    cookies: bool = False,
    status_url: str = "",
) -> Response:
    """The HTTP answer that an envelope returned by a route stands for.

    MESSAGE   200 with the body, and the headers that the route set
    REPLY     the far side's 2xx status where it told one, else 200; its end-to-end headers
    ACCEPTED  202 with the message's id, and with `status_url` where there is one
    FILTERED  204
    DEAD      500 as problem+json: the message could not be processed and was set aside

    `status` replaces 200. A body that a route holds as data is written as `accept` asks, if a codec
    is at hand. `cookies` lets Set-Cookie pass. Raises UnsupportedMedia or another EsbError when the
    body cannot be written.
    """
    outcome = answer.outcome
    if outcome is Outcome.ACCEPTED:
        taken: Headerlist = [("content-type", JSON)]
        members = {"id": request.id}
        if status_url:
            taken.append(("location", status_url))
            members["status_url"] = status_url
        return Response(202, taken, msgspec.json.encode(members))
    if outcome is Outcome.FILTERED:
        return Response(204)
    if outcome is Outcome.DEAD:
        from esb_web.problems import dead

        return dead(request)
    if outcome is Outcome.REPLY:
        passed = passed_on(answer.headers, cookies=cookies)
        told = answer.params.get("reply", _NOTHING).get("status")
        if isinstance(told, int) and status == 200:
            status = told
    elif answer.headers is request.headers:
        passed = []
    else:
        came = set(request.headers)
        passed = passed_on((one for one in answer.headers if one not in came), cookies=cookies)
    body = answer.body
    if accept:
        body = negotiated(body, accept)
    if body.is_stream:
        passed.append(("content-type", body.content_type or _BYTES))
        return Response(status, passed, b"", body)
    content = body.raw
    if content:
        passed.append(("content-type", body.content_type or _BYTES))
    return Response(status, passed, content)


def passed_on(headers: Iterable[tuple[str, HeaderValue]], *, cookies: bool = False) -> Headerlist:
    """The headers of an answer that may travel on to the caller."""
    passed = []
    for name, value in headers:
        stays = _STAYS.get(name)
        if stays is None:
            stays = _stays(name)
        if (stays and not (cookies and name.lower() == "set-cookie")) or (
            text := header_text(value)
        ) is None:
            continue
        passed.append((name, text))
    return passed


_NOTHING: Final[dict[str, Any]] = {}
_BYTES: Final = "application/octet-stream"

_STAYS: Final[dict[str, bool]] = {}
"""Whether a header is in NOT_IN_REPLIES, by its name as it was written: there are few, so that each
is looked at once."""


def _stays(name: str) -> bool:
    stays = name.lower() in NOT_IN_REPLIES
    if len(_STAYS) < 1000 and len(name) <= 64:
        _STAYS[name] = stays
    return stays


def negotiated(body: Body, accept: str) -> Body:
    """The body as `accept` asks (RFC 9110, section 12.5.1), where it is data that nobody wrote yet.

    Bytes stay as they are. A caller who asks for what no codec writes gets the body's own type.
    """
    if body.is_written or body.is_stream or not body.is_parsed or body.data is None:
        return body
    wanted = preferred(accept, body.content_type)
    if wanted == body.content_type:
        return body
    candidate = body.written_as(wanted)
    try:
        candidate.raw  # noqa: B018 - written here, where a codec that cannot is no failure
    except EsbError:
        return body
    return candidate


def preferred(accept: str, own: str) -> str:
    """Which of `own`, JSON and XML an Accept header likes best; `own` where it is acceptable."""
    ranges: list[tuple[float, str]] = []
    for item in accept.split(",")[:32]:
        parsed = parse_content_type(item.strip())
        try:
            weight = float(parsed.params.get("q", "1"))
        except ValueError:
            weight = 0.0
        ranges.append((weight, parsed.essence))

    def weigh(media_type: str) -> float:
        essence = parse_content_type(media_type).essence
        main = essence.partition("/")[0] + "/*"
        for pattern in (essence, main, "*/*"):
            for weight, wanted in ranges:
                if wanted == pattern:
                    return weight
        return 0.0

    offers = [own, JSON, "application/xml", "text/xml"]
    best = max(offers, key=lambda offer: (weigh(offer), -offers.index(offer)))
    return best if weigh(best) > weigh(own) else own


def header_text(value: HeaderValue) -> str | None:
    """A header's value as HTTP can carry it; None for the tables and bytes of other protocols."""
    if isinstance(value, str):
        # What is printable is safe; what is not may be a tab, or one of the rarer letters.
        return value if value.isprintable() or not UNSAFE.search(value) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return value.isoformat() if isinstance(value, datetime) else None


def decoded(value: bytes) -> str:
    """Text of a header field: UTF-8, or Latin-1 where it is not (RFC 9110, section 5.5)."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def remaining(deadline: float | None, timeout: float) -> float:
    """Seconds left: `timeout`, or less if the deadline comes first; never negative."""
    if deadline is None:
        return timeout
    return max(0.0, min(timeout, deadline - current.get().monotonic()))
