"""What is sent to the bus, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

CANARY: Final = "CANARY"
"""In what is sent it stands for the address of a server that nobody must ask: "127.0.0.1:4711"."""

FILE: Final = "PLANTED"
"""In what is sent it stands for the path of a file whose content nobody must see."""

PLACES: Final[dict[str, str]] = {}
"""What the two stand for, once somebody listens there: for what is encoded before it is sent."""


def placed(text: str) -> str:
    """A text with the places in it. For a content that is made when its turn comes."""
    for name, value in PLACES.items():
        text = text.replace(name, value)
    return text


Bytes = bytes | str | Callable[[], bytes | str]
"""What is large is made when its turn comes."""


def made(content: Bytes) -> bytes:
    """The bytes."""
    content = content() if callable(content) else content
    return content.encode() if isinstance(content, str) else content


@dataclass(frozen=True)
class Raw:
    """Bytes on a connection, answered or not. patience: for how long to wait, in seconds, until
    the bus closes the connection. admin: they go to the admin API instead."""

    content: Bytes
    patience: float = 10.0
    admin: bool = False


@dataclass(frozen=True)
class Post:
    """A request that is well-formed HTTP."""

    path: str
    body: Bytes = b""
    kind: str = ""
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Reply:
    """A good request to a route, whose backend answers these bytes and closes."""

    path: str
    answer: Bytes
    body: bytes = b"{}"
    kind: str = "application/json"


@dataclass(frozen=True)
class Dropped:
    """A file in the folder of a file source."""

    name: str
    content: Bytes


@dataclass(frozen=True)
class Queued:
    """A message in a queue of the broker, which a route of project/amqp.yaml reads: `queue` is the
    rest of its name, QUEUES in a text stands for the beginning.

    properties: as esb_amqp.properties has them. raw: instead, their flags and bytes as no client
    would write them. times: so often. end: the queue where it must come out.
    """

    queue: str
    content: Bytes
    properties: Mapping[str, Any] = field(default_factory=dict)
    raw: tuple[int, bytes] | None = None
    times: int = 1
    end: str = "out"


@dataclass(frozen=True)
class Overtaken:
    """What a broker that was taken over sends to the route of project/broker.yaml: in place of its
    answer to the method `place`, or to the consumer, for "delivery"."""

    place: str
    content: Bytes


Wire = Raw | Post | Reply | Dropped | Queued | Overtaken


@dataclass(frozen=True)
class Case:
    """One hostile input.

    statuses: those of which one must be the answer; 0 is a connection that is closed without one.
    For a file or a message of a queue, where nobody waits, `code` is that of the dead letter.
    A message that a route is through with, or an answer by AMQP, counts as 200.
    code: a pattern of the code in problem+json or of the fault. slow: it waits for a deadline.
    holds, lacks: patterns of what must, or must not, be in what comes out: the answer with its
    head, and all that the backend got.
    """

    family: str
    name: str
    wire: Wire
    statuses: tuple[int, ...] = (400,)
    code: str = ""
    slow: bool = False
    holds: bytes = b""
    lacks: bytes = b""

    @property
    def transport(self) -> str:
        """What it comes by."""
        return type(self.wire).__name__.lower()
