"""What may be written under `amqp:` in YAML."""

from __future__ import annotations

import math
import re
import ssl
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote, urlsplit

import msgspec
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    WithJsonSchema,
    model_validator,
)

from esb.adapter import Build
from esb.options import Backoff, Duration, Options, Range, Size
from esb_amqp.frames import MAX_BODY
from esb_amqp.link import Settings
from esb_amqp.wire import Address

_LONGEST_EXCHANGE: Final = 127
"""Characters of an exchange's name (AMQP 0-9-1, domain exchange-name)."""

_PORTS = {"amqp": 5672, "amqps": 5671}
# What aio-pika takes in names; the specification (1.1, domains) has still less, RabbitMQ has more.
_ODD = re.compile(r"[^a-zA-Z0-9-_.:@#,/+ ]")


def parse_url(url: str) -> Address:
    """Address and credentials from an AMQP URI (https://www.rabbitmq.com/docs/uri-spec).

    Raises ValueError; its text holds nothing of the URL, which may have a password in it.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("this is no URL: amqp://user:password@host:5672/vhost") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("an AMQP URL is amqp://user:password@host:5672/vhost, or amqps://...")
    if parts.query or parts.fragment:
        raise ValueError("options belong beside the URL, not into it: heartbeat: 30s, tls: {...}")
    return Address(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        vhost=unquote(parts.path[1:]) or "/",
        user=unquote(parts.username) if parts.username is not None else "guest",
        password=unquote(parts.password) if parts.password is not None else "guest",
        tls=parts.scheme == "amqps",
    )


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


def _checked_urls(urls: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if not urls:
        raise ValueError("give at least one URL")
    for number, url in enumerate(urls, 1):
        try:
            parse_url(url.get_secret_value())
        except ValueError as e:
            raise ValueError(f"URL {number}: {e}" if len(urls) > 1 else str(e)) from None
    return urls


Urls = Annotated[
    tuple[SecretStr, ...],
    BeforeValidator(_as_list),
    AfterValidator(_checked_urls),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


def _short(text: str) -> str:
    if len(text.encode()) > 255:
        raise ValueError("AMQP names have at most 255 bytes")
    if odd := _ODD.search(text):
        raise ValueError(
            f"{odd[0]!r} cannot be in an AMQP name: letters, digits, blanks and -_.:@#,/+ can"
        )
    return text


def _exchange(text: str) -> str:
    if len(text) > _LONGEST_EXCHANGE:
        raise ValueError(f"names of AMQP exchanges have at most {_LONGEST_EXCHANGE} characters")
    return text


Name = Annotated[str, Field(min_length=1), AfterValidator(_short)]
ExchangeName = Annotated[Name, AfterValidator(_exchange)]


class Tls(Options):
    """TLS towards the broker. Its certificate is always verified."""

    ca: str | None = Field(
        None, description="PEM file: trust these authorities instead of the system's."
    )
    cert: str | None = Field(None, description="PEM file: our certificate, shown when asked for.")
    key: str | None = Field(None, description="PEM file: the private key of `cert`.")

    @model_validator(mode="after")
    def _pair(self) -> Tls:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together")
        return self


class ConnectionOptions(Options):
    """How to reach a broker; also what an entry under `connections:` may hold."""

    url: Urls = Field(
        (SecretStr("amqp://localhost"),),
        description="The broker: amqp://user:password@host:5672/vhost, or amqps:// for TLS. "
        "Of a cluster a list, one URL a node, tried in turn. Write ${NAME} for secrets. User and "
        "password are guest where the URL has none.",
    )
    username: str | None = Field(None, description="The user, instead of the one in the URL.")
    password: SecretStr | None = Field(
        None, description="The password, instead of the one in the URL."
    )
    heartbeat: Duration = Field(
        30.0, description="A broker not heard of for twice this long is lost; 0s: never."
    )
    connect_timeout: Duration = Field(10.0, description="Time to connect and log in.")
    reconnect: Backoff = Field(
        Range(first=0.5, longest=30.0),
        description="Pauses between attempts to connect, and to open what the broker refused.",
    )
    name: str = Field("esb", description="How the connection is called on the broker.")
    tls: Tls | None = Field(None, description="Own authorities, own certificate (with amqps://).")

    @model_validator(mode="after")
    def _tls_needs_amqps(self) -> ConnectionOptions:
        if self.tls is not None and not all(address.tls for address in self._addresses()):
            raise ValueError("tls needs an amqps:// URL")
        return self

    def _addresses(self) -> tuple[Address, ...]:
        own: dict[str, str] = {}
        if self.username is not None:
            own["user"] = self.username
        if self.password is not None:
            own["password"] = self.password.get_secret_value()
        return tuple(
            msgspec.structs.replace(parse_url(url.get_secret_value()), **own) for url in self.url
        )

    def settings(self, build: Build) -> tuple[Settings, ssl.SSLContext | None]:
        """What connections with these options share. Records certificate files that are missing or
        unusable as problems."""
        addresses = self._addresses()
        encrypted = any(address.tls for address in addresses)
        files: dict[str, str] = {}
        for option in ("ca", "cert", "key"):
            name = getattr(self.tls, option, None)
            if name is not None:
                files[option] = str(build.credential(name, "tls", option))
        settings = Settings(
            addresses=addresses,
            # With its time, so that a certificate that was renewed makes a new connection.
            tls=tuple((n, f, Path(f).stat().st_mtime_ns) for n, f in files.items())
            if encrypted
            else None,
            heartbeat=self.heartbeat,
            connect_timeout=self.connect_timeout,
            name=self.name,
            reconnect=(self.reconnect.first, self.reconnect.longest),
        )
        return settings, _tls_context(build, files) if encrypted else None


def _tls_context(build: Build, files: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.get("ca"))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if "cert" in files:
            context.load_cert_chain(files["cert"], files["key"], password=lambda: "")
    except (ssl.SSLError, OSError, ValueError) as e:
        raise build.problem(
            "these files hold no usable certificates and key", "tls", code="tls"
        ) from e
    return context


# --- what to declare -----------------------------------------------------------------------------


class Binding(Options):
    """One binding of a queue to an exchange."""

    exchange: ExchangeName = Field(description="The exchange to bind to.")
    routing_key: str = Field("", description="Binding key; `*` and `#` count in topic exchanges.")
    type: Literal["direct", "fanout", "topic", "headers"] | None = Field(
        None, description="Declare the exchange too: durable, of this type, nothing else."
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the binding (headers exchanges)."
    )


class DeadLetter(Options):
    """Where the broker puts what is refused, expired or over the limit."""

    exchange: str = Field("", description="Dead-letter exchange; empty is the default exchange.")
    routing_key: str | None = Field(
        None, description="Routing key for dead letters; the message's own if left out."
    )
    strategy: Literal["at-most-once", "at-least-once"] | None = Field(
        None,
        description="at-least-once: the broker keeps a dead letter until its target has confirmed "
        "it (a quorum queue with overflow: reject-publish); left out, it may be lost on the way.",
    )


_KINDS: Final = {
    "max_length": ("x-max-length", "classic", "quorum"),
    "max_size": ("x-max-length-bytes", "classic", "quorum", "stream"),
    "overflow": ("x-overflow", "classic", "quorum"),
    "message_ttl": ("x-message-ttl", "classic", "quorum"),
    "expires": ("x-expires", "classic", "quorum"),
    "max_priority": ("x-max-priority", "classic"),
    "single_active_consumer": ("x-single-active-consumer", "classic", "quorum"),
    "delivery_limit": ("x-delivery-limit", "quorum"),
    "max_age": ("x-max-age", "stream"),
    "segment_size": ("x-stream-max-segment-size-bytes", "stream"),
}
"""By option: the argument of queue.declare that it stands for, and the types of queue that have it.

https://www.rabbitmq.com/docs/queues#optional-arguments
"""


class QueueDeclaration(Options):
    """A queue to declare. One that exists with other properties is an error, told and retried."""

    type: Literal["classic", "quorum", "stream"] | None = Field(
        None,
        description="quorum: replicated, for messages that must survive a node; stream: a log that "
        "keeps its messages when they are read; left out, the broker's default (classic, unless it "
        "was told otherwise).",
    )
    durable: bool = Field(True, description="Survives a restart of the broker.")
    exclusive: bool = Field(False, description="Only for this connection; gone with it.")
    auto_delete: bool = Field(False, description="Deleted when its last consumer leaves.")
    max_length: int | None = Field(None, ge=1, description="Most messages that wait in it.")
    max_size: Size | None = Field(
        None, description="Most bytes of messages in it; of a stream, the oldest go first."
    )
    overflow: Literal["drop-head", "reject-publish", "reject-publish-dlx"] | None = Field(
        None,
        description="What gives way when it is full: the oldest message (drop-head, the broker's "
        "default), or the new one, whose sender is told and may try again (reject-publish).",
    )
    message_ttl: Duration | None = Field(
        None, description="A message that waited this long is dead-lettered, or dropped."
    )
    expires: Duration | None = Field(
        None, description="Deleted, with all in it, when nobody used it for this long."
    )
    max_priority: int | None = Field(
        None, ge=1, le=255, description="Makes it a priority queue; 10 is plenty."
    )
    single_active_consumer: bool = Field(
        False, description="One consumer at a time gets its messages, the others stand by."
    )
    delivery_limit: int | None = Field(
        None,
        ge=0,
        description="A message given back more often than this is dead-lettered, or dropped. "
        "RabbitMQ 4 has 20 where this is left out.",
    )
    max_age: Duration | None = Field(None, description="A stream drops what is older than this.")
    segment_size: Size | None = Field(
        None, description="Size of a stream's files: whole files are dropped."
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="Further arguments of queue.declare, as they are: {x-queue-leader-locator: "
        "balanced}.",
    )
    dead_letter: DeadLetter | None = Field(
        None, description="Where the broker puts what is refused (x-dead-letter-exchange)."
    )
    bind: list[Binding] = Field(default_factory=list, description="Exchanges to bind it to.")

    @model_validator(mode="after")
    def _consistent(self) -> QueueDeclaration:
        if not self.durable and not self.exclusive:
            raise ValueError("a queue that is not durable must be exclusive: brokers refuse others")
        if self.type in ("quorum", "stream") and (self.exclusive or self.auto_delete):
            raise ValueError(f"a {self.type} queue is neither exclusive nor auto_delete")
        for option, (argument, *types) in _KINDS.items():
            if (value := getattr(self, option)) is None or value is False:
                continue
            if (self.type or "classic") not in types:
                kinds = " or ".join(types)
                raise ValueError(f"{option} needs type: {kinds}")
            if argument in self.arguments:
                raise ValueError(f"{option} and {argument} in arguments are the same: give one")
        if self.type == "quorum" and self.overflow == "reject-publish-dlx":
            raise ValueError("a quorum queue cannot overflow with reject-publish-dlx")
        self._check_dead_letter()
        return self

    def _check_dead_letter(self) -> None:
        if self.dead_letter is None:
            return
        if self.type == "stream":
            raise ValueError("a stream has no dead letters: its messages stay in it")
        careful = self.type == "quorum" and self.overflow == "reject-publish"
        if self.dead_letter.strategy == "at-least-once" and not careful:
            raise ValueError(
                "dead letters at-least-once need type: quorum and overflow: reject-publish"
            )

    def all_arguments(self) -> dict[str, Any]:
        """The arguments of queue.declare."""
        arguments = dict(self.arguments)
        if self.type is not None:
            arguments["x-queue-type"] = self.type
        for option, (argument, *_) in _KINDS.items():
            if (value := getattr(self, option)) is None or value is False:
                continue
            if option == "max_age":
                value = f"{math.ceil(value)}s"
            arguments[argument] = milliseconds(value) if isinstance(value, float) else value
        if self.dead_letter is not None:
            arguments["x-dead-letter-exchange"] = self.dead_letter.exchange
            if self.dead_letter.routing_key is not None:
                arguments["x-dead-letter-routing-key"] = self.dead_letter.routing_key
            if self.dead_letter.strategy is not None:
                arguments["x-dead-letter-strategy"] = self.dead_letter.strategy
        return arguments


def milliseconds(seconds: float) -> int:
    """A duration as brokers count it."""
    return round(seconds * 1000)


class ExchangeDeclaration(Options):
    """An exchange to declare. One that exists with other properties is an error."""

    type: Literal["direct", "fanout", "topic", "headers"] = Field(description="Kind of exchange.")
    durable: bool = Field(True, description="Survives a restart of the broker.")
    auto_delete: bool = Field(False, description="Deleted when its last binding goes.")
    alternate: ExchangeName | None = Field(
        None,
        description="The exchange that gets what no queue of this one takes; it has to be declared "
        "elsewhere.",
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of exchange.declare, as they are."
    )

    def all_arguments(self) -> dict[str, Any]:
        """The arguments of exchange.declare."""
        if self.alternate is None:
            return dict(self.arguments)
        return {**self.arguments, "alternate-exchange": self.alternate}


def _kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "exchange" if kind in ("direct", "fanout", "topic", "headers") else "queue"


TargetDeclaration = Annotated[
    Annotated[QueueDeclaration, Tag("queue")] | Annotated[ExchangeDeclaration, Tag("exchange")],
    Discriminator(_kind),
]


# --- endpoints -----------------------------------------------------------------------------------


def _offset(value: Any) -> Any:
    if value in ("first", "last", "next"):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        time = None
    if time is None or time.tzinfo is None:
        raise ValueError("an offset is first, last, next, a number, or 2026-01-31T12:00:00Z")
    return time


Offset = Annotated[
    str | int | datetime,
    BeforeValidator(_offset),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": ["first", "last", "next"]},
                {"type": "integer", "minimum": 0},
                {"type": "string", "format": "date-time"},
            ]
        }
    ),
]


class KeyOrder(Options):
    """Order among the messages of one key; those of other keys pass."""

    by: str = Field(description="The key: an expression, for example body.customer.")


class SourceOptions(ConnectionOptions):
    """Consume a queue: a message is acknowledged when the route is through with it.

    For example:

        from: {amqp: {url: "amqp://localhost", queue: orders, prefetch: 50}}
    """

    queue: Name = Field(description="The queue to consume.")
    declare: QueueDeclaration | None = Field(
        None, description="Declare the queue first; left out, it must exist."
    )
    offset: Offset | None = Field(
        None,
        description="The queue is a stream, and this is where the route begins: first, last (the "
        "last chunk), next (what comes from now on), a number or a time. Where it has come to is "
        "kept in the bus's store, by the names of route and queue, and there it goes on, until "
        "this option is changed. Nothing can be given back to a stream: what fails for now is "
        "tried again in its place, what fails for good is passed over. A stream that is declared "
        "here begins with first.",
    )
    prefetch: int = Field(
        100, ge=1, le=65_535, description="Most messages in the route at the same time."
    )
    max_body: Size = Field(
        MAX_BODY,
        ge=1,
        description="Of a message with a larger body nothing is kept: it is refused while it "
        "comes, to the queue's dead-letter exchange if it has one.",
    )
    order: bool | KeyOrder = Field(
        False,
        description="One message at a time, in the order of the queue; `{by: body.customer}`: one "
        "at a time of each key, those of other keys meanwhile. One that fails for now is held and "
        "tried again before the next. (With other consumers of the queue: see "
        "single_active_consumer.)",
    )
    exclusive: bool = Field(False, description="Be the only consumer of the queue.")
    hold: Backoff = Field(
        Range(first=1.0, longest=60.0),
        description="How long a message whose failure may pass is held before it goes back to the "
        "queue, or is tried again where order is kept; longer each time.",
    )
    reject: Literal["dead", "requeue"] = Field(
        "dead",
        description="A message that can never succeed and that the route could not put aside: "
        "dead: refused, to the queue's dead-letter exchange if it has one; requeue: held like one "
        "whose failure may pass.",
    )
    max_deliveries: int = Field(
        20,
        ge=1,
        description="A message that a quorum queue, declared here as such, has handed out so often "
        "without success goes to the dead letters; the broker counts those in hand beside it, too. "
        "Whatever the queue, so does a message with which the bus died three times in a row: after "
        "a death what comes again is noted in the store and run one by one.",
    )
    principal: Literal["user_id"] | None = Field(
        None,
        description="`user_id`: who sent a message is what its property of that name says, for "
        "`allow` and `message.principal`. The broker checks it against the login of the sender "
        "where one sets it; trust it only where shovels and federation do not pass on others'.",
    )
    cloudevents: bool = Field(
        False,
        description="A message that is a CloudEvent (binary or structured mode) gives its "
        "attributes to the message: id, source, type, time, subject. Else they are just headers.",
    )
    rpc: bool = Field(
        False,
        description="Who sends here waits for an answer: one who fails is told why at once, and "
        "the message is tried again or put aside only if the route says so. A message that names "
        "no queue to answer to is refused. (Left out, an answer is given to who asks for one, but "
        "the route retries and puts aside as if nobody waited.)",
    )
    reply_to: list[Annotated[str, Field(min_length=1)]] = Field(
        ["amq.rabbitmq.reply-to.", "amq.gen-"],
        description="Queues that a sender may name for the answer, by the beginning of their name; "
        "a sender's other reply_to is ignored.",
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the consumer: {x-priority: 10}."
    )

    @model_validator(mode="after")
    def _stream(self) -> SourceOptions:
        kind = self.declare.type if self.declare is not None else None
        if self.offset is not None and kind not in (None, "stream"):
            raise ValueError("offset needs a stream: declare it with type: stream")
        if self.exclusive and self.begin is not None:
            raise ValueError("a stream has no exclusive consumer")
        return self

    @property
    def begin(self) -> str | int | datetime | None:
        """Where to begin in the stream; None if the queue is none."""
        if self.offset is None and self.declare is not None and self.declare.type == "stream":
            return "first"
        return self.offset


class TargetOptions(ConnectionOptions):
    """Where to publish, and what."""

    exchange: ExchangeName | None = Field(None, description="The exchange to publish to.")
    routing_key: str = Field("", description="Its routing key: text with {{ }}.")
    queue: str | None = Field(
        None, description="Instead of an exchange: the queue to publish to, text with {{ }}."
    )
    allow_queues: list[Annotated[str, Field(min_length=1)]] = Field(
        [],
        description="Queues that a message may choose where the name of `queue` begins with {{ }}, "
        "by the beginning of their names.",
    )
    declare: TargetDeclaration | None = Field(
        None,
        description="Declare the exchange or the queue first; left out, an exchange must exist "
        "and a message for a queue that does not is refused.",
    )
    persistent: bool = Field(True, description="The broker writes the message to its disk.")
    priority: int | None = Field(
        None, ge=0, le=255, description="Priority; left out, the one the message came with."
    )
    headers: dict[str, str] = Field(
        default_factory=dict, description="Headers to send; values are text with {{ }}."
    )
    cloudevents: Literal["binary", "structured"] | None = Field(
        None,
        description="Send the message as a CloudEvent: its attributes as cloudEvents_ headers "
        "(binary), or with the body in one JSON document (structured).",
    )
    forward_headers: bool | list[str] = Field(
        True,
        description="Send the message's headers on: true for all but credentials and what only "
        "concerns one connection or the broker itself, false for none, or names.",
    )

    @model_validator(mode="after")
    def _one_target(self) -> TargetOptions:
        if (self.exchange is None) == (self.queue is None):
            raise ValueError("give either an exchange (and routing_key) or a queue")
        if self.queue is not None and self.routing_key:
            raise ValueError("a queue needs no routing_key: its name is the key")
        wanted = QueueDeclaration if self.queue is not None else ExchangeDeclaration
        if self.declare is not None and not isinstance(self.declare, wanted):
            kinds = (
                "classic, quorum or stream"
                if self.queue is not None
                else "direct, fanout, topic, ..."
            )
            raise ValueError(f"declare has the wrong type for this target: {kinds}")
        if self.declare is not None and "{{" in (self.queue or ""):
            raise ValueError("a queue whose name is text with {{ }} cannot be declared")
        if self.declare is not None:
            _short(self.queue or "")
        return self


class SinkOptions(TargetOptions):
    """Publish and wait for the broker's confirm.

    For example:

        send: {amqp: {url: "amqp://localhost", exchange: shop, routing_key: "{{ body.kind }}"}}
    """

    delay: Annotated[Duration, Field(gt=0)] | None = Field(
        None,
        description="The broker keeps the message for this long, in a quorum queue "
        "`esb.delay.<time>.<target>` that is declared for it, and then passes it on. What no queue "
        "takes then stays there, and the broker tries again every few minutes. (Where the target "
        "is text with {{ }} all share one, and what stays may hold up the rest.)",
    )

    mandatory: bool = Field(
        True, description="A message that reaches no queue is an error, not lost in silence."
    )
    expiration: Duration | None = Field(
        None, description="The broker drops the message after this time in a queue."
    )
    timeout: Duration = Field(10.0, description="Time until the broker has confirmed.")

    @model_validator(mode="after")
    def _one_time(self) -> SinkOptions:
        if self.delay is not None and self.expiration is not None:
            raise ValueError("a message cannot have both delay and expiration")
        return self


class CallerOptions(TargetOptions):
    """Publish a request and wait for its reply (direct reply-to).

    For example:

        call: {amqp: {url: "amqp://localhost", queue: prices, timeout: 2s}}
    """

    persistent: bool = Field(False, description="The broker writes the request to its disk.")
    timeout: Duration = Field(30.0, description="Time until the reply is there.")
    idempotent: bool = Field(
        False,
        description="Asking twice does no harm: a request whose outcome is unknown may be retried.",
    )
