"""The frames by which messages come and go, on one channel: deliveries, publishing, confirms.

All others, and all that is rare, are aiormq's. These are many a message, and what a general codec
with its objects and queues does for them takes most of a message's time.

Source: the AMQP 0-9-1 specification, sections 4.2.3 (frames) and 4.2.6 (content), and the methods
of its class basic; RabbitMQ's confirms (https://www.rabbitmq.com/docs/confirms).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

from pamqp.constants import FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_METHOD

from esb.errors import TooLarge
from esb_amqp.properties import Properties, read, short, written

OVERHEAD: Final = 8
"""Bytes of a frame beside what it carries."""

MAX_BODY: Final = 128 * 1024**2
"""Bytes of a message's body that are gathered where nobody says more: what RabbitMQ took by default
before its version 4, which takes 16 MB."""

_frame: Final = struct.Struct(">BHI")
_header: Final = struct.Struct(">HHQ")
_method: Final = struct.Struct(">I")
_tag: Final = struct.Struct(">QB")
_settling: Final = struct.Struct(">BHIIQBB")
_END: Final = bytes((FRAME_END,))

_BASIC: Final = 60
_PUBLISH: Final = 60 << 16 | 40
_RETURN: Final = 60 << 16 | 50
_DELIVER: Final = 60 << 16 | 60
_ACK: Final = 60 << 16 | 80
_REJECT: Final = 60 << 16 | 90
_NACK: Final = 60 << 16 | 120
_CONFIRMS: Final = frozenset({_ACK, _NACK})
_CLOSE: Final = 20 << 16 | 40

_MULTIPLE: Final = 1


# --- going out -----------------------------------------------------------------------------------


def publishing(
    channel: int,
    exchange: str,
    routing_key: str,
    mandatory: bool,
    properties: Properties,
    body: bytes,
    frame_max: int,
) -> list[bytes | memoryview]:
    """All frames of a message. Raises BadMessage or ValueError for what AMQP cannot hold, TooLarge
    if its properties are larger than a frame: a broker ends the connection of all for one."""
    to = b"\0\0%b%b%c" % (short(exchange), short(routing_key), mandatory)
    header = written(properties)
    most = frame_max - OVERHEAD
    if _header.size + len(header) > most:
        raise TooLarge("what is known of the message beside its body is too large for the broker")
    frames: list[bytes | memoryview] = [
        b"".join(
            (
                _frame.pack(FRAME_METHOD, channel, 4 + len(to)),
                _method.pack(_PUBLISH),
                to,
                _END,
                _frame.pack(FRAME_HEADER, channel, _header.size + len(header)),
                _header.pack(_BASIC, 0, len(body)),
                header,
                _END,
            )
        )
    ]
    rest = memoryview(body)
    while rest:
        piece, rest = rest[:most], rest[most:]
        frames += (_frame.pack(FRAME_BODY, channel, len(piece)), piece, _END)
    return frames


class Settlements:
    """What became of the messages of a channel, told to the broker with as few words as possible.

    An acknowledgement of many covers all before it, so one is used where all before it are settled,
    the others are told one by one.
    """

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._open: dict[int, None] = {}  # in the order of their tags
        self._last = 0
        self._acked: list[int] = []
        self._refused: list[tuple[int, bool]] = []

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self._acked or self._refused)

    @property
    def expected(self) -> int:
        """How many are not settled yet."""
        return len(self._open)

    def expect(self, tag: int) -> None:
        """A message that is to be settled. Raises ValueError for a tag that was given before."""
        if tag <= self._last:
            raise ValueError("tags that do not grow")
        self._last = tag
        self._open[tag] = None

    def ack(self, tag: int) -> None:
        """It was processed."""
        del self._open[tag]
        self._acked.append(tag)

    def reject(self, tag: int, requeue: bool) -> None:
        """It goes back to its queue, or not."""
        del self._open[tag]
        self._refused.append((tag, requeue))

    def frames(self) -> bytes:
        """What the broker is to be told of those since the last time."""
        channel = self._channel
        told = [
            _settling.pack(FRAME_METHOD, channel, 13, _REJECT, tag, requeue, FRAME_END)
            for tag, requeue in self._refused  # first, or they might be covered
        ]
        first_open = next(iter(self._open), None)
        covered = 0
        for tag in self._acked:
            if first_open is not None and tag > first_open:
                told.append(_settling.pack(FRAME_METHOD, channel, 13, _ACK, tag, 0, FRAME_END))
            elif tag > covered:
                covered = tag
        if covered:
            told.append(
                _settling.pack(FRAME_METHOD, channel, 13, _ACK, covered, _MULTIPLE, FRAME_END)
            )
        self._acked, self._refused = [], []
        return b"".join(told)


# --- coming in -----------------------------------------------------------------------------------


class Receiver(Protocol):
    """Who hears what the broker says on a channel."""

    def delivered(
        self,
        consumer: bytes,
        tag: int,
        redelivered: bool,
        exchange: str,
        routing_key: str,
        properties: Properties,
        body: bytes | None,
    ) -> None:
        """A message for one of its consumers. body: None of one that is too large."""

    def returned(
        self,
        reason: str,
        exchange: str,
        routing_key: str,
        properties: Properties,
        body: bytes | None,
    ) -> None:
        """A message that no queue takes; its confirm is still to come."""

    def confirmed(self, tag: int, multiple: bool, taken: bool) -> None:
        """What became of the message that was the `tag`th, or of all up to it."""

    def ended(self, frame: bytes) -> None:
        """The broker closes the channel, with this frame."""

    def unreadable(self, names: list[str]) -> None:
        """Properties of a message were left out."""


class Frames:
    """Puts together what comes in pieces. A body of more than `max_body` bytes is let pass as it
    comes: its size is what the other side says, and it would be gathered before anybody sees it.
    """

    def __init__(self, receiver: Receiver, max_body: int = MAX_BODY) -> None:
        self._receiver = receiver
        self.max_body = max_body
        self._hand_over: Callable[..., None] | None = None
        """Gets the message that is coming, after what began it."""
        self._start: tuple[Any, ...] = ()
        self._properties: Properties | None = None
        self._body: bytes | bytearray | None = b""
        self._missing = 0

    def take(self, kind: int, raw: bytes, at: int, end: int) -> bool:
        """A frame, whose payload is from `at` to `end`; whether nobody else need see it. Raises
        ValueError, IndexError or struct.error if it breaks the rules."""
        if kind == FRAME_METHOD:
            (method,) = _method.unpack_from(raw, at)
            if method == _DELIVER:
                self._begin(self._receiver.delivered, _read_deliver(raw, at + 4, end))
                return True
            if method in _CONFIRMS:
                tag, bits = _tag.unpack_from(raw, at + 4)
                self._receiver.confirmed(tag, bits & _MULTIPLE != 0, method == _ACK)
                return True
            if method == _RETURN:
                self._begin(self._receiver.returned, _read_return(raw, at + 4, end))
                return True
            if method == _CLOSE:
                self._hand_over, self._body = None, b""
                self._receiver.ended(raw[at:end])
            return False
        if self._hand_over is None:
            raise ValueError("content of no message")
        if kind == FRAME_HEADER and self._properties is None:
            _, _, self._missing = _header.unpack_from(raw, at)
            if self._missing > self.max_body:
                self._body = None
            self._properties, left_out = read(raw, at + _header.size, end)
            if left_out:
                self._receiver.unreadable(left_out)
        elif kind == FRAME_BODY and self._properties is not None:
            self._missing -= end - at
            if self._body:
                # No list: pieces of a byte each would take forty times their size.
                if isinstance(self._body, bytes):
                    self._body = bytearray(self._body)
                self._body += raw[at:end]
            elif self._body is not None:
                self._body = raw[at:end]
        else:
            raise ValueError("content out of its order")
        if self._missing <= 0:
            self._complete(self._hand_over, self._properties)
        return True

    def _begin(self, hand_over: Callable[..., None], start: tuple[Any, ...]) -> None:
        if self._hand_over is not None:
            raise ValueError("a message in the middle of another")
        self._hand_over, self._start = hand_over, start
        self._properties, self._body = None, b""

    def _complete(self, hand_over: Callable[..., None], properties: Properties) -> None:
        if self._missing:
            raise ValueError("more content than was said")
        body, self._body = self._body, b""
        self._hand_over = None
        hand_over(*self._start, properties, bytes(body) if isinstance(body, bytearray) else body)


def _read_deliver(raw: bytes, at: int, end: int) -> tuple[bytes, int, bool, str, str]:
    consumer, at = _read_short(raw, at, end)
    tag, redelivered = _tag.unpack_from(raw, at)
    exchange, at = _read_short(raw, at + _tag.size, end)
    routing_key, _ = _read_short(raw, at, end)
    return consumer, tag, redelivered & 1 != 0, _text(exchange), _text(routing_key)


def _read_return(raw: bytes, at: int, end: int) -> tuple[str, str, str]:
    reason, at = _read_short(raw, at + 2, end)
    exchange, at = _read_short(raw, at, end)
    routing_key, _ = _read_short(raw, at, end)
    return _text(reason), _text(exchange), _text(routing_key)


def _read_short(raw: bytes, at: int, end: int) -> tuple[bytes, int]:
    after = at + 1 + raw[at]
    if after > end:
        raise ValueError("a method that is cut short")
    return raw[at + 1 : after], after


def _text(raw: bytes) -> str:
    """Names of exchanges are text; routing keys are what a publisher makes of them."""
    return raw.decode(errors="replace")
