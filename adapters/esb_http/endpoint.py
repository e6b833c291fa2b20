"""HTTP out: one-way (`send`) and with a reply (`call`), over the shared client."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from esb.adapter import Build
from esb.cloudevents import binary as binary_event
from esb.cloudevents import structured as structured_event
from esb.envelope import NO_BODY, NO_HEADERS, PIECE, Body, Envelope, parse_content_type
from esb.errors import BadReply, EsbError, Rejected
from esb.options import Words
from esb.outline import Fate, Passage
from esb.redaction import holds_secret
from esb.step import written
from esb_http.target import QueryValue, chooses_host, make_target, reach
from esb_web import (
    CheckedOptions,
    ClientReply,
    OutboundHeaders,
    ReplyBody,
    Response,
    WebClient,
    check_health,
    error_of,
    passed_on,
    web_client,
)
from esb_web.spans import requested

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

_WITHOUT_BODY = ("GET", "HEAD", "DELETE", "OPTIONS")

_OURS = frozenset({401, 403, 407})
"""Refusals that speak of the bus's own credentials, not of its caller's."""


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


class SinkOptions(CheckedOptions):
    """Send each message as a request; it is taken when a 2xx comes back, whose body is ignored.

    429, 503 and other 5xx may pass and are retried as the route says; other answers refuse the
    message for good. Redirects are not followed, cookies not kept. An attempt whose outcome is
    unknown (no answer after the request left) is retried if the method is idempotent by
    definition or `idempotent: true` says so.

    For example:

        send: {http: {url: https://crm.example/orders, method: PUT, timeout: 5s}}
    """

    __shorthand__ = "url"

    method: Annotated[Method, BeforeValidator(_upper)] = Field("POST", description="The method.")
    path: str = Field(
        "",
        description="Added to `url`, which then comes from a connection. In both, `{{ }}` values "
        "are encoded for where they stand; a list makes several segments.",
    )
    query: dict[str, QueryValue] = Field(
        {}, description="Parameters to add; a value that is null leaves its parameter out."
    )
    body: bool | None = Field(
        None, description="Send the body: left out, all methods but GET, HEAD and DELETE do."
    )
    cloudevents: Literal["binary", "structured"] | None = Field(
        None,
        description="Send the message as a CloudEvent: its attributes as ce- headers (binary), or "
        "with the body in one JSON document (structured).",
    )
    allow_hosts: Words = Field(
        [],
        description="Hosts a message may choose where `{{ }}` is the host; *.example.org too, or * "
        "for any. What they lead to is of the public network, or an address that stands here, or "
        "of `allow_networks`.",
    )
    allow_networks: Words = Field(
        [],
        description="Networks beside the public one that a host chosen by a message may lie in "
        "(10.1.0.0/16), and single addresses.",
    )


def _pass_errors(value: Any) -> Any:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


class CallerOptions(SinkOptions):
    """Send each message as a request and go on with the reply.

    The reply's status is `reply.status`. Errors as with `send`, but a 4xx may be for the caller
    who waits: see `pass_errors`.

    For example:

        call: {http: {url: "https://crm.example/partners/{{ path.id }}", method: GET}}
    """

    accept: list[str] = Field(
        [],
        description="Media types the reply may have, also sent as Accept. Left out, any but a web "
        "page: that is nearly always the error page of something in between.",
    )
    expect: list[int] = Field(
        [], description="Statuses beside 2xx that are replies too, so that the steps go on."
    )
    pass_errors: Annotated[bool | list[int], BeforeValidator(_pass_errors)] = Field(
        True,
        description="Which 4xx answers a waiting HTTP caller gets as they are. true: all but 401, "
        "403 and 407, which speak of the bus's own credentials; false: none (he gets a 502).",
    )


def make_sink(options: SinkOptions, build: Build) -> HttpSink:
    """The sink."""
    requests = _Requests(options, build)
    if not requests.reads:
        build.body(*requests.fates or ("kept",))
    return HttpSink(requests)


def make_caller(options: CallerOptions, build: Build) -> HttpCaller:
    """The request-reply endpoint."""
    accept = ", ".join(media.lower() for media in options.accept)
    requests = _Requests(options, build, accept=accept)
    passage = Passage() if requests.reads else build.body("made", *requests.fates)
    return HttpCaller(options, requests, passage)


class _Requests:
    """Makes a message's request and performs it.

    fates: what becomes of the message's body, where it is sent or left alone; see `Build.body`.
    reads: it is read, to be part of an event or to be signed.
    """

    def __init__(self, options: SinkOptions, build: Build, *, accept: str = "") -> None:
        self._method = options.method
        build.span(requested(options.method, options.url))
        self._target: Callable[[Envelope], str] = make_target(
            build, options.url, options.path, options.query, options.allow_hosts
        )
        self._headers = OutboundHeaders(build, options)
        self._event = options.cloudevents
        free = chooses_host(options.url)
        if free and options.auth is not None and "*" in options.allow_hosts:
            build.problem(
                "a message would choose who gets the credentials", "allow_hosts", code="url",
                hint="name the hosts that `auth` is for",
            )  # fmt: skip
        self._client: WebClient = web_client(
            build,
            options,
            accept=accept,
            reach=reach(build, options.allow_hosts, options.allow_networks) if free else None,
        )
        check_health(build, options, options.url)
        body = options.body
        self._has_body = body if body is not None else options.method not in _WITHOUT_BODY
        self.fates: tuple[Fate, ...] = ("sent",) if self._has_body else ()
        self.reads = options.cloudevents == "structured" or (
            self._has_body and options.auth is not None and options.auth.reads_body
        )
        self.idempotent = self._client.is_idempotent(options.method)
        self._client.promise(build, options.method)

    def perform(
        self, envelope: Envelope, *, want_body: bool, may_stream: bool = False
    ) -> Coroutine[Any, Any, ClientReply]:
        headers = self._headers(envelope, self._method)
        target = self._target(envelope)
        if self._event is not None:
            headers = [pair for pair in headers if not pair[0].lower().startswith("ce-")]
            if self._event == "binary":
                headers += passed_on(binary_event(envelope.replace(headers=NO_HEADERS)).headers)
            else:
                envelope = structured_event(envelope)
        sent: bytes | Body | None = None
        if self._has_body:
            body = envelope.body
            # What is not in memory, or large, goes piece by piece.
            sent = body if body.is_stream or (body.size or 0) > PIECE else body.raw
            if body.content_type:
                headers.append(("Content-Type", body.content_type))
        return self._client.request(
            self._method,
            target,
            headers=headers,
            body=sent,
            deadline=envelope.deadline,
            want_body=want_body,
            may_stream=may_stream,
        )


class HttpSink:
    """One-way; see SinkOptions."""

    def __init__(self, requests: _Requests) -> None:
        self._requests = requests

    async def send(self, envelope: Envelope) -> None:
        """Return once a 2xx came."""
        reply = await self._requests.perform(envelope, want_body=False)
        error = error_of(reply, idempotent=self._requests.idempotent)
        if error is not None:
            raise error


class HttpCaller:
    """Request-reply; see CallerOptions."""

    def __init__(self, options: CallerOptions, requests: _Requests, passage: Passage) -> None:
        self._requests = requests
        self._passage = passage
        self._expect = frozenset(options.expect)
        self._accept = [media.lower() for media in options.accept]
        self._pass = options.pass_errors
        # A 401 is the caller's own business where his credentials are what was sent.
        forwarded = options.forward_headers
        names = [n.lower() for n in forwarded] if isinstance(forwarded, list) else []
        self._ours = frozenset[int]() if "authorization" in names else _OURS

    async def call(self, envelope: Envelope) -> Envelope:
        """The reply."""
        await written(envelope.body)
        reply = await self._requests.perform(
            envelope, want_body=True, may_stream=self._passage.open
        )
        status = reply.status
        if not 200 <= status < 300 and status not in self._expect:
            error = error_of(reply, idempotent=self._requests.idempotent)
            if error is not None:
                raise self._told(error, reply)
        body: Body = NO_BODY
        if reply.stream is not None:
            try:
                self._check(reply.content_type)
            except BadReply:
                await reply.stream.aclose()
                raise
            body = ReplyBody.from_stream(reply.stream, reply.content_type, reply.size)
        elif reply.body:
            self._check(reply.content_type)
            body = ReplyBody(reply.body, reply.content_type)
        return envelope.reply(body, reply.headers, {"status": status})

    def _told(self, error: EsbError, reply: ClientReply) -> EsbError:
        """The error, with what a waiting HTTP caller is to see of the far side's answer."""
        status = reply.status
        passes = (
            status in self._pass
            if isinstance(self._pass, list)
            else self._pass and 400 <= status < 500 and status not in self._ours
        )
        if not isinstance(error, Rejected) or not passes:
            return error
        content_type = reply.content_type
        if _is_page(content_type) or holds_secret(reply.body):
            # Its status is worth passing; an HTML page is not, nor what repeats our credentials.
            error.reply = Response(
                status, [("content-type", "application/problem+json")], _REFUSED % status
            )
            return error
        headers = passed_on(reply.headers)
        if reply.body:
            headers.append(("content-type", content_type or "application/octet-stream"))
        error.reply = Response(status, headers, reply.body)
        return error

    def _check(self, content_type: str) -> None:
        essence = parse_content_type(content_type).essence
        if not self._accept:
            if _is_page(content_type):
                raise BadReply("the service answered with a web page instead of data")
            return
        main = essence.partition("/")[0] + "/*"
        if not {essence, main, "*/*"} & set(self._accept):
            raise BadReply(f"the service answered with {essence or 'an unnamed type'}")


_REFUSED = (
    b'{"type":"urn:esb:problem:rejected","title":"The service refused the message","status":%d}'
)


def _is_page(content_type: str) -> bool:
    return parse_content_type(content_type).essence in ("text/html", "application/xhtml+xml")
