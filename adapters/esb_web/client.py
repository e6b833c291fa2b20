"""The HTTP client: pooled, TLS always verified, every wait and every size bounded.

Errors of sockets and parsers end here. What is raised tells whether sending again is safe:

    no connection, no name, no TLS         Unreachable
    no time left before anything was sent  TimedOut
    no answer after the request left       TimedOut if idempotent, else OutcomeUnknown
    an answer that broke off               Transient if idempotent, else BadReply
    an answer too large or unreadable      BadReply

`str(error)` is for the sender of the message and names no host; a note on the exception
(PEP 678) tells operators the method, the URL without its query, and the reason.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Coroutine, Iterable, Sequence, Set
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import NAMESPACE_URL, uuid5

import msgspec
from pydantic import AfterValidator, Field, SecretStr, model_validator

from esb.adapter import Build, RequestReply, Text
from esb.envelope import Body, Envelope, Headers
from esb.errors import (
    EsbError,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    RouteFailure,
    TimedOut,
    Transient,
)
from esb.options import Duration, Options, Size, Words
from esb.redaction import CREDENTIALS, heard
from esb.step import turns
from esb.tracecontext import tracestate, valid_traceparent
from esb_web.credentials import Auth
from esb_web.messages import (
    HOP_BY_HOP,
    TOKEN,
    Headerlist,
    header_text,
    remaining,
)
from esb_web.proxy import ENVIRONMENT, Proxies, parse_proxy, proxies
from esb_web.standing import Standing

if TYPE_CHECKING:
    from esb_web.connection import Arriving
    from esb_web.reach import Reach
    from esb_web.rehearsal import PlayedPool
    from esb_web.transport import Pool

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})
"""RFC 9110, section 9.2.2."""

_MAX_RETRY_AFTER: Final = 3600.0

_KEY: Final = "Idempotency-Key"
"""draft-ietf-httpapi-idempotency-key-header: its value is a string, in quotes (RFC 9651)."""
_KEYS: Final = uuid5(NAMESPACE_URL, "urn:esb:idempotency-key")

_MANAGED: Final = HOP_BY_HOP | {
    "accept-encoding",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "traceparent",
    "tracestate",
}
"""Headers that follow from the message itself, so that no option may set them."""

_NOT_FORWARDED: Final = HOP_BY_HOP | {
    *CREDENTIALS,
    "accept-encoding",
    "expect",
    "forwarded",
    "host",
    "idempotency-key",
    "max-forwards",
    "traceparent",
    "tracestate",
    "user-agent",
    "via",
    # What only an answer can say, when the message is the reply of an earlier call.
    "accept-ranges",
    "age",
    "allow",
    "alt-svc",
    "cache-control",
    "date",
    "etag",
    "expires",
    "last-modified",
    "location",
    "retry-after",
    "server",
    "strict-transport-security",
    "vary",
    "www-authenticate",
    "x-powered-by",
    # What speaks of the caller's own request.
    "accept",
    "origin",
    "range",
    "referer",
    "x-real-ip",
    # What makes it another request than the route's to a far side that obeys it.
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-method",
    "x-original-url",
    "x-rewrite-url",
    # What says who or where the caller is, to a far side that takes us for its own proxy.
    "cf-connecting-ip",
    "client-ip",
    "fastly-client-ip",
    "remote-user",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-host",
    "x-remote-user",
}

_NOT_FORWARDED_PREFIXES: Final = (
    "access-control-",
    "content-",
    "if-",
    "proxy-",
    "sec-",
    "ssl-",
    "x-client-cert",
    "x-forwarded-",
    "x-ssl-",
)


class ClientTls(Options):
    """TLS towards the far side. Its certificate is always verified."""

    ca: str | None = Field(
        None, description="PEM file: trust these authorities instead of the system's."
    )
    cert: str | None = Field(None, description="PEM file: our certificate, shown when asked for.")
    key: str | None = Field(None, description="PEM file: the private key of `cert`.")

    @model_validator(mode="after")
    def _pair(self) -> ClientTls:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together")
        return self


def _proxy(value: SecretStr) -> SecretStr:
    if value.get_secret_value() != ENVIRONMENT:
        parse_proxy(value.get_secret_value())
    return value


class ClientOptions(Options):
    """What every outbound HTTP endpoint can be told; also what a connection holds."""

    url: str = Field("", description="Where to send; with a connection, added to its url.")
    timeout: Duration = Field(30.0, description="Time for one attempt, from first to last byte.")
    connect_timeout: Duration = Field(5.0, description="Time to get a connection.")
    read_timeout: Duration | None = Field(
        None, description="Longest silence while the answer comes."
    )
    tls: ClientTls | None = Field(None, description="Own authorities, own certificate.")
    auth: Auth | None = Field(None, description="Credentials of the bus at the far side.")
    proxy: Annotated[SecretStr, AfterValidator(_proxy)] | None = Field(
        None,
        description="Forward proxy to go through, http://user:password@host:port; https goes "
        "through a tunnel (CONNECT). `environment`: what HTTP_PROXY, HTTPS_PROXY and NO_PROXY say, "
        "which is not looked at otherwise.",
    )
    no_proxy: Words = Field(
        [],
        description="What is reached without the proxy: a host and all below it, an address, a "
        "network (10.0.0.0/8).",
    )
    headers: dict[str, str] = Field({}, description="Headers to send; values are text with {{ }}.")
    forward_headers: bool | list[str] = Field(
        True,
        description="Send the message's headers on: true for all that may travel end to end "
        "(never Host, Content-*, X-Forwarded-*, nor what overrides a method or speaks for a "
        "caller, nor credentials: Authorization, Cookie, X-API-Key and the like), false for none, "
        "or names.",
    )
    max_reply: Size = Field(5 * 1024**2, description="Largest answer, counted when unpacked.")
    max_connections: int = Field(100, ge=1, description="Connections to one host at a time.")
    idempotent: bool = Field(
        False,
        description="Sending twice does no harm: an attempt whose outcome is unknown is retried. "
        "Methods that are not idempotent by definition then have an Idempotency-Key, the same for "
        "each try of a message, also after a restart, and another at each place in a route and "
        "in each turn of a loop.",
    )
    idempotency_key: str = Field(
        "",
        description="The key, instead of one made of the message's id: text with {{ }}, sent as it "
        "is. Implies `idempotent`.",
    )
    idempotency_header: str = Field(
        _KEY, description="Its header, for services that call it by another name."
    )


class ClientReply(msgspec.Struct, frozen=True):
    """An answer, whatever its status.

    headers: those that travel end to end. body: unpacked; b"" if it is still arriving, and then
    `stream` gives it, and `size` tells how large it will be, if that is known.
    """

    status: int
    headers: Headers
    body: bytes
    content_type: str = ""
    stream: Arriving | None = None
    size: int | None = None


class WebClient:
    """One endpoint's way out: its options over a shared pool. Made by `web_client`."""

    def __init__(
        self, pool: Pool | PlayedPool, options: ClientOptions, *, accept: str = ""
    ) -> None:
        """accept: what requests accept that do not say so. Raises ValueError if it, or the
        credentials, cannot be written."""
        self._pool = pool
        self.mark = id(pool)
        """Tells apart those that go other ways."""
        self._timeout = options.timeout
        self._max_reply = options.max_reply
        self._always_idempotent = options.idempotent or bool(options.idempotency_key)
        headers = [("Accept-Encoding", "gzip, deflate"), ("User-Agent", "esb")]
        if options.auth and (credentials := options.auth.header()):
            headers.insert(1, credentials)
        if accept:
            headers.insert(0, ("Accept", accept))
        self._standing = Standing(headers, options.connect_timeout, options.read_timeout)

    def is_idempotent(self, method: str) -> bool:
        """Whether sending twice is safe, by the method's definition or because it was said."""
        return self._always_idempotent or method in _IDEMPOTENT

    def promise(self, build: Build, method: str) -> None:
        """Say what the endpoint being built promises of a request that is repeated."""
        if not self.is_idempotent(method):
            build.promises("repeats", better="`idempotent: true`, if sending twice does no harm")
        elif method in _IDEMPOTENT:
            build.promises("harmless")
        else:
            build.promises(
                "harmless", provided="sending twice does no harm there, as the route says"
            )

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | Body | None = None,
        deadline: float | None = None,
        timeout: float | None = None,
        idempotent: bool | None = None,
        max_reply: int | None = None,
        want_body: bool = True,
        may_stream: bool = False,
    ) -> Coroutine[Any, Any, ClientReply]:
        """Send one request, follow no redirect, and return the answer whatever its status.

        url: complete and percent-encoded. body: None sends none; a Body is sent piece by piece.
        deadline: on `time.monotonic`. timeout, idempotent, max_reply: instead of those of the
        options. want_body: whether the body of a 2xx answer matters; without, such an answer counts
        once its headers came. may_stream: whether the body of a large one may be handed over as it
        arrives; whoever gets it takes it, or closes it.

        Raises Unreachable, TimedOut, OutcomeUnknown, BadReply or Transient as the module says,
        RouteFailure for a URL that is none or a header that cannot be written.
        """
        seconds = remaining(deadline, self._timeout if timeout is None else timeout)
        if seconds <= 0:
            raise TimedOut("no time was left to ask the service")
        if idempotent is None:
            idempotent = self._always_idempotent or method in _IDEMPOTENT
        # The coroutine of the pool itself: one of our own around it would do nothing but wait.
        return self._pool.exchange(
            method,
            url,
            headers,
            body,
            self._standing,
            timeout=seconds,
            idempotent=idempotent,
            max_reply=max_reply or self._max_reply,
            want_body=want_body,
            may_stream=may_stream,
        )


def web_client(
    build: Build,
    options: ClientOptions,
    *path: str | int,
    accept: str = "",
    reach: Reach | None = None,
    of: str = "web client",
    played: Callable[[RequestReply], RequestReply] = lambda stand_in: stand_in,
) -> WebClient:
    """The client of an endpoint with these options, which lie at `path` in what is being built.

    accept: what its requests accept that do not say so.
    reach: where its requests may go, if messages choose their hosts; None: wherever the URL says.
    of: who shares its connections.
    played: what speaks HTTP for whoever plays the far side in tests of routes (see
    `Build.stand_in`), where more than HTTP is spoken.

    Endpoints whose TLS, proxy, number of connections and reach are the same share one pool. Records
    a problem for certificate files that are missing or unusable.
    """

    def client(pool: Pool | PlayedPool, unlimited: Callable[[], Pool] | None) -> WebClient:
        try:
            if options.auth is None or options.auth.header() is not None:
                return WebClient(pool, options, accept=accept)
            from esb_web.signed import signing_client

            return signing_client(build, pool, options, unlimited, accept)
        except ValueError as e:
            raise build.problem(str(e), *path, code="value") from None

    if (stand_in := build.stand_in()) is not None:
        from esb_web.rehearsal import PlayedPool

        return client(PlayedPool(played(stand_in)), None)
    tls = options.tls or ClientTls.model_construct(ca=None, cert=None, key=None)
    files = {
        name: str(build.credential(value, *path, "tls", name))
        for name, value in (("ca", tls.ca), ("cert", tls.cert), ("key", tls.key))
        if value is not None
    }

    def pool_within(reach: Reach | None) -> Pool:
        def make() -> Pool:
            from esb_web.transport import Pool

            tls = client_tls(**files) if files else None
            return Pool(tls, through, options.max_connections, reach)

        key = (of, tuple(files.items()), renewed, through, options.max_connections, reach)
        return build.shared(key, make)

    through: Proxies | None = None
    if options.proxy is not None:
        try:
            through = proxies(options.proxy.get_secret_value(), options.no_proxy)
        except ValueError as e:  # in the environment: what is written here is checked already
            raise build.problem(str(e), *path, "proxy", code="url") from e
    renewed = tuple(Path(file).stat().st_mtime_ns for file in files.values())
    try:
        pool = pool_within(reach)
    except (ssl.SSLError, ValueError) as e:
        raise build.problem(
            "these files hold no usable certificates and key", *path, "tls", code="tls"
        ) from e
    return client(pool, lambda: pool_within(None))


def client_tls(
    ca: str | None = None, cert: str | None = None, key: str | None = None
) -> ssl.SSLContext:
    """What TLS towards far sides goes by: files as in `ClientTls`, the system's authorities where
    none is named. Raises ssl.SSLError or ValueError for files that are unusable."""
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context


class OutboundHeaders:
    """The headers a message leaves with: what is forwarded, what is configured, the trace.

    taken: names that the endpoint itself writes, so that neither a message nor an option does.
    """

    def __init__(
        self,
        build: Build,
        options: ClientOptions,
        *path: str | int,
        taken: Iterable[str] = (),
    ) -> None:
        credentials = options.auth.writes if options.auth is not None else ()
        written = {name.lower() for name in (*taken, *credentials)}
        self._own: list[tuple[str, Text]] = []
        for name, value in options.headers.items():
            if name.lower() in _MANAGED or not TOKEN.match(name):
                build.problem(
                    f"{name} cannot be set here", *path, "headers", name, code="value", key=True
                )
                continue
            text = build.text(value, *path, "headers", name)
            if name.lower() not in written:
                self._own.append((name, text))
        names = options.forward_headers
        self._forward = (
            frozenset(name.lower() for name in names) if isinstance(names, list) else names
        )
        for index, name in enumerate(names if isinstance(names, list) else ()):
            if name.lower() in _MANAGED:
                build.problem(
                    f"{name} cannot be forwarded", *path, "forward_headers", index, code="value"
                )
        written |= {name.lower() for name, _ in self._own}
        self._goes = _Forwarded(self._forward, written)
        self._key: Callable[[Envelope], str] | None = None
        self._key_header = options.idempotency_header
        self._key_always = bool(options.idempotency_key)
        if options.idempotency_key:
            self._key = _told(build.text(options.idempotency_key, *path, "idempotency_key"))
        elif options.idempotent:
            quoted = self._key_header.lower() == _KEY.lower()
            self._key = _made(f"{build.route}\0{build.where}", '"{}"' if quoted else "{}")
        if self._key_header.lower() in _MANAGED or not TOKEN.match(self._key_header):
            build.problem(f"{self._key_header} cannot be set here", *path, "idempotency_header")

    def __call__(self, envelope: Envelope, method: str) -> Headerlist:
        """The headers for this message. Raises RouteFailure when a configured one fails."""
        forward = self._forward
        headers: Headerlist = []
        if forward:
            goes = self._goes
            headers = [
                (name, text)
                for name, value in envelope.headers
                if goes[name] and (text := header_text(value)) is not None
            ]
        if self._own:
            headers += [(name, text(envelope)) for name, text in self._own]
        # Other protocols let these hold anything.
        if valid_traceparent(envelope.traceparent):
            headers.append(("traceparent", envelope.traceparent))
            if envelope.tracestate and (state := tracestate([envelope.tracestate])):
                headers.append(("tracestate", state))
        if self._key is not None and (self._key_always or method not in _IDEMPOTENT):
            name = self._key_header.lower()
            # One that was forwarded or set by name is what somebody wants.
            if not any(pair[0].lower() == name for pair in headers):
                headers.append((self._key_header, self._key(envelope)))
        return headers


class _Forwarded(dict[str, bool]):
    """Whether the header of a name is sent on: all that may, or those that are named; but none that
    is written here."""

    def __init__(self, named: frozenset[str] | bool, written: Set[str]) -> None:
        self._named = named
        self._written = written

    def __missing__(self, name: str) -> bool:
        lower, named = name.lower(), self._named
        if isinstance(named, bool):
            goes = lower not in _NOT_FORWARDED and not lower.startswith(_NOT_FORWARDED_PREFIXES)
        else:
            goes = lower in named
        goes = goes and lower not in self._written
        if len(self) < 1024:  # names are few; a sender may make up as many as it likes
            self[name] = goes
        return goes


def _made(place: str, form: str) -> Callable[[Envelope], str]:
    """Keys from the ids of messages, the place of the endpoint and the turn of a loop: who sends a
    message to one service at two places, or twice, means two things."""

    def key(envelope: Envelope) -> str:
        ident = envelope.id.encode("utf-8", "backslashreplace").decode()
        return form.format(uuid5(_KEYS, f"{ident}\0{turns()}{place}"))

    return key


def _told(text: Text) -> Callable[[Envelope], str]:
    def key(envelope: Envelope) -> str:
        found = text(envelope)
        if not found.strip():
            # To the far side all messages without one would be the same.
            raise RouteFailure("the idempotency key of the message is empty")
        return found

    return key


def error_of(reply: ClientReply, *, idempotent: bool) -> EsbError | None:
    """What the status of an answer means for the message; None for a 2xx.

    429, 503   Overloaded, after what Retry-After says (at most an hour)
    504        TimedOut if idempotent, else OutcomeUnknown: a gateway passed the message on
    408, 425, other 5xx   Transient
    501, 505, any other   Rejected, with the status
    """
    status = reply.status
    if 200 <= status < 300:
        return None
    error: EsbError
    if status in (429, 503):
        error = Overloaded(
            f"the service is overloaded (status {status})", retry_after=_retry_after(reply)
        )
    elif status == 504:
        text = "a gateway in front of the service got no answer in time (status 504)"
        error = TimedOut(text) if idempotent else OutcomeUnknown(text)
    elif status in (408, 425) or (status >= 500 and status not in (501, 505)):
        error = Transient(f"the service failed (status {status})", retry_after=_retry_after(reply))
    elif 300 <= status < 400:
        error = Rejected(
            f"the service answered with a redirect (status {status}), which is not followed"
        )
    else:
        error = Rejected(f"the service refused the message (status {status})")
    error.status = status
    if reply.body:
        # For operators: what the far side said, which may be what it got; cut and on one line.
        told = heard(reply.body[:2000].decode("utf-8", "replace"))
        error.add_note(" ".join(told[:500].split()))
    return error


def _retry_after(reply: ClientReply) -> float | None:
    """Seconds from a Retry-After header (RFC 9110, section 10.2.3), at most an hour."""
    value = reply.headers.get("retry-after")
    if not isinstance(value, str):
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:12]), _MAX_RETRY_AFTER)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return min(max(0.0, (when - datetime.now(UTC)).total_seconds()), _MAX_RETRY_AFTER)
