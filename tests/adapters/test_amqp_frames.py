"""The frames that are read and written past the library: it is the second opinion."""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.commands import Basic, Queue
from pamqp.commands import Channel as Says
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat
from support.waiting import until

from esb.errors import BadMessage, TooLarge
from esb_amqp.frames import Frames, Settlements, publishing
from esb_amqp.properties import Properties
from esb_amqp.wire import Address, Wire

CHANNEL = 7

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
short = text.filter(lambda s: len(s.encode()) <= 255)
bodies = st.binary(max_size=40)


def frames_of(raw: bytes) -> Iterator[Any]:
    """What the library makes of bytes that were written."""
    while raw:
        size, channel, frame = pamqp.frame.unmarshal(raw)
        assert channel == CHANNEL
        raw = raw[size:]
        yield frame


class Heard:
    """What was heard on a channel, as (what, ...)."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, ...]] = []

    def delivered(self, *about: Any) -> None:
        self.all.append(("delivered", *about))

    def returned(self, *about: Any) -> None:
        self.all.append(("returned", *about))

    def confirmed(self, *about: Any) -> None:
        self.all.append(("confirmed", *about))

    def ended(self, frame: bytes) -> None:
        self.all.append(("ended", frame))

    def unreadable(self, names: list[str]) -> None:
        self.all.append(("unreadable", names))


# --- going out -----------------------------------------------------------------------------------


@given(short, short, st.booleans(), st.binary(max_size=200), st.integers(25, 64))
def test_what_is_published_is_read_by_others(
    exchange: str, key: str, mandatory: bool, body: bytes, frame_max: int
) -> None:
    properties = Properties(message_id="m1")
    parts = publishing(CHANNEL, exchange, key, mandatory, properties, body, frame_max)
    frames: list[Any] = list(frames_of(b"".join(parts)))
    method, header, *pieces = frames
    assert isinstance(method, Basic.Publish)
    assert method.exchange == exchange
    assert method.routing_key == key
    assert method.mandatory is mandatory
    assert not method.immediate
    assert isinstance(header, ContentHeader)
    assert header.class_id == 60
    assert header.body_size == len(body)
    assert header.properties.message_id == "m1"
    assert all(len(piece.value) + 8 <= frame_max for piece in pieces)
    assert b"".join(piece.value for piece in pieces) == body


@pytest.mark.parametrize(("exchange", "key"), [("x" * 256, "k"), ("e", "ü" * 128), ("e", "\udc80")])
def test_names_that_are_no_short_strings_are_told(exchange: str, key: str) -> None:
    with pytest.raises(ValueError, match=r"longer than 255 bytes|surrogates not allowed"):
        publishing(CHANNEL, exchange, key, True, Properties(), b"", 4096)


def test_properties_that_cannot_be_held_are_told() -> None:
    with pytest.raises(BadMessage, match="message id"):
        publishing(CHANNEL, "", "", True, Properties(message_id="x" * 256), b"", 4096)


def test_properties_fit_into_a_frame_or_are_refused() -> None:
    frame_max = 4096
    largest = 0
    for size in range(4000, 4096):
        try:
            frames = publishing(
                CHANNEL, "", "", True, Properties(headers={"h": "x" * size}), b"", frame_max
            )
        except TooLarge:
            continue
        written = b"".join(frames)
        method = 8 + struct.unpack_from(">I", written, 3)[0]
        largest = len(written) - method
    assert largest == frame_max


class Broker:
    """What a broker knows of the messages it has handed out."""

    def __init__(self) -> None:
        self.open: list[int] = []
        self.verdicts: dict[int, str] = {}

    def hear(self, raw: bytes) -> None:
        for frame in frames_of(raw):
            # One that is not open, or no more, costs the channel.
            assert frame.delivery_tag in self.open
            tag: int = frame.delivery_tag
            if isinstance(frame, Basic.Ack):
                covered = [t for t in self.open if frame.multiple and t < tag]
                self._settle([*covered, tag], "acked")
            else:
                assert isinstance(frame, Basic.Reject)
                self._settle([tag], "back" if frame.requeue else "refused")

    def _settle(self, tags: list[int], verdict: str) -> None:
        for tag in tags:
            self.open.remove(tag)
            self.verdicts[tag] = verdict


VERDICTS = st.sampled_from(["acked", "acked", "acked", "back", "refused"])


@given(st.data())
def test_each_message_is_settled_as_it_ended_and_once(data: st.DataObject) -> None:
    """Whatever the order, and however many are told together."""
    broker, settlements = Broker(), Settlements(CHANNEL)
    inside: list[int] = []
    ended: dict[int, str] = {}
    for tag in range(1, data.draw(st.integers(1, 30)) + 1):
        broker.open.append(tag)
        settlements.expect(tag)
        inside.append(tag)
        for _ in range(data.draw(st.integers(0, 2))):
            if not inside:
                break
            one = inside.pop(data.draw(st.integers(0, len(inside) - 1)))
            ended[one] = data.draw(VERDICTS)
            if ended[one] == "acked":
                settlements.ack(one)
            else:
                settlements.reject(one, requeue=ended[one] == "back")
        if data.draw(st.booleans()):
            broker.hear(settlements.frames())
            assert not settlements
            assert broker.verdicts == ended
    broker.hear(settlements.frames())
    assert broker.verdicts == ended
    assert broker.open == sorted(inside)


def test_all_that_ended_together_are_told_in_one_word() -> None:
    settlements = Settlements(CHANNEL)
    for tag in range(1, 101):
        settlements.expect(tag)
    for tag in (*range(99, 0, -1), 100):
        settlements.ack(tag)
    (told,) = frames_of(settlements.frames())
    assert (told.delivery_tag, told.multiple) == (100, True)


# --- coming in -----------------------------------------------------------------------------------


def content(properties: Basic.Properties, body: bytes, piece: int = 10) -> list[Any]:
    header = ContentHeader(body_size=len(body), properties=properties)
    pieces = [ContentBody(body[at : at + piece]) for at in range(0, len(body), piece)]
    return [header, *pieces]


said = st.one_of(
    st.builds(
        lambda tag, again, exchange, key, body: (
            [
                Basic.Deliver("esb", tag, again, exchange, key),
                *content(Basic.Properties(message_id="m1"), body),
            ],
            ("delivered", b"esb", tag, again, exchange, key, Properties(message_id="m1"), body),
        ),
        st.integers(1, 2**63 - 1),
        st.booleans(),
        st.text("abc.-/", max_size=20),
        st.text("äöü#", max_size=20),
        bodies,
    ),
    st.builds(
        lambda key, body: (
            [Basic.Return(312, "NO_ROUTE", "ex", key), *content(Basic.Properties(), body)],
            ("returned", "NO_ROUTE", "ex", key, Properties(), body),
        ),
        st.text("abc", max_size=20),
        bodies,
    ),
    st.builds(
        lambda tag, multiple: ([Basic.Ack(tag, multiple)], ("confirmed", tag, multiple, True)),
        st.integers(1, 2**63 - 1),
        st.booleans(),
    ),
    st.builds(
        lambda tag, multiple, again: (
            [Basic.Nack(tag, multiple, again)],
            ("confirmed", tag, multiple, False),
        ),
        st.integers(1, 2**63 - 1),
        st.booleans(),
        st.booleans(),
    ),
    st.just(([Heartbeat()], None)),
    st.just(([Queue.DeclareOk("q", 1, 2)], None)),
)
"""Frames, and what is to be heard of them; None for those that are the library's."""


@given(st.lists(said, max_size=6), st.data())
def test_what_the_broker_says_is_heard_whole_and_in_order(
    conversation: list[tuple[list[Any], tuple[Any, ...] | None]], data: st.DataObject
) -> None:
    """However the bytes arrive, and with another channel's frames in between."""

    async def listen() -> None:
        wire = Wire(Address("localhost", 0), None, heartbeat=0)
        heard, left = Heard(), b""
        wire.channels[CHANNEL] = Frames(heard).take
        raw = b""
        for frames, _ in conversation:
            for frame in frames:
                number = 0 if isinstance(frame, Heartbeat) else CHANNEL
                one = pamqp.frame.marshal(frame, number)
                if isinstance(frame, Heartbeat | Queue.DeclareOk):
                    left += one
                raw += one
                other = pamqp.frame.marshal(Queue.DeclareOk("other", 0, 0), CHANNEL + 1)
                raw += other
                left += other
        while raw:
            size = data.draw(st.integers(1, len(raw)))
            wire.on_bytes(raw[:size])
            raw = raw[size:]
        assert not wire.closed.done()
        assert heard.all == [told for _, told in conversation if told is not None]
        if left:
            assert await wire.left.readexactly(len(left)) == left

    asyncio.run(listen())


BROKEN: dict[str, list[Any]] = {
    "content of no message": [ContentHeader(body_size=0, properties=Basic.Properties())],
    "a body before its header": [Basic.Deliver("esb", 1, False, "", "q"), ContentBody(b"x")],
    "more content than was said": [
        Basic.Deliver("esb", 1, False, "", "q"),
        ContentHeader(body_size=1, properties=Basic.Properties()),
        ContentBody(b"xx"),
    ],
    "a message in the middle of another": [
        Basic.Deliver("esb", 1, False, "", "q"),
        Basic.Deliver("esb", 2, False, "", "q"),
    ],
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broker_that_breaks_the_rules_is_left(case: str) -> None:
    wire, heard = Wire(Address("localhost", 0), None, heartbeat=0), Heard()
    wire.channels[CHANNEL] = Frames(heard).take
    for frame in BROKEN[case]:
        wire.on_bytes(pamqp.frame.marshal(frame, CHANNEL))
    assert "does not speak AMQP 0-9-1 as it should" in wire.closed.result()
    assert heard.all == []


@pytest.mark.parametrize(
    "raw", [b"HTTP/1.1 400 Bad Request", b"AMQP\0\0\x09\x01", b"\1\0\7\0\0\0\1x?"]
)
@pytest.mark.parametrize("piece", [1, 100])
async def test_what_is_no_frame_is_told_at_once(raw: bytes, piece: int) -> None:
    wire = Wire(Address("localhost", 0), None, heartbeat=0)
    for at in range(0, len(raw), piece):
        wire.on_bytes(raw[at : at + piece])
        if wire.closed.done():
            break
    assert "does not speak AMQP 0-9-1 as it should" in wire.closed.result()


async def test_no_more_is_gathered_than_a_frame_may_have() -> None:
    wire = Wire(Address("localhost", 0), None, heartbeat=0)
    wire.on_bytes(struct.pack(">BHI", 3, CHANNEL, wire.frame_max + 1))
    assert "does not speak AMQP 0-9-1 as it should" in wire.closed.result()
    other = Wire(Address("localhost", 0), None, heartbeat=0)
    other.on_bytes(struct.pack(">BHI", 3, CHANNEL, other.frame_max) + b"begun")
    assert not other.closed.done()


@given(st.binary(max_size=60), st.integers(0, 120), st.sampled_from([1, 2, 3]))
def test_no_frame_of_any_bytes_breaks_anything(payload: bytes, method: int, kind: int) -> None:
    """Either it is understood, or the connection ends with a reason."""

    async def listen() -> None:
        wire = Wire(Address("localhost", 0), None, heartbeat=0)
        wire.channels[CHANNEL] = Frames(Heard()).take
        for raw in (struct.pack(">HH", 60, method) + payload, payload):
            frame = struct.pack(">BHI", kind, CHANNEL, len(raw)) + raw + b"\xce"
            wire.on_bytes(frame)
            if wire.closed.done():
                return

    asyncio.run(listen())


async def test_the_end_of_a_channel_is_known_before_the_library_knows() -> None:
    """It would be a mistake to say anything after it."""
    wire, heard = Wire(Address("localhost", 0), None, heartbeat=0), Heard()
    wire.channels[CHANNEL] = Frames(heard).take
    closing = pamqp.frame.marshal(Says.Close(404, "no queue", 60, 20), CHANNEL)
    wire.on_bytes(pamqp.frame.marshal(Basic.Deliver("esb", 1, False, "", "q"), CHANNEL) + closing)
    assert heard.all == [("ended", closing[7:-1])]
    assert await wire.left.readexactly(len(closing)) == closing


async def test_the_library_hears_a_broker_that_sends_nothing_but_messages() -> None:
    """It counts silence by what it reads, and would take the broker for dead."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            for frame in (
                Basic.Deliver("esb", 1, False, "", "q"),
                ContentHeader(body_size=0, properties=Basic.Properties()),
            ):
                writer.write(pamqp.frame.marshal(frame, CHANNEL))
            await asyncio.sleep(0.05)

    serving = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with serving:
        wire = Wire(Address("127.0.0.1", serving.sockets[0].getsockname()[1]), None, heartbeat=1)
        heard = Heard()
        await wire.create()
        wire.channels[CHANNEL] = Frames(heard).take
        heartbeat = Heartbeat().marshal()
        assert await wire.left.readexactly(len(heartbeat)) == heartbeat
        await until(lambda: len(heard.all) > 2)
        wire.abort("enough")


@pytest.mark.parametrize("tag", [0, 1, 2])
def test_a_tag_that_was_given_before_is_no_message(tag: int) -> None:
    """One settled twice would take the settling of others with it, or 0 all of them."""
    settlements = Settlements(CHANNEL)
    settlements.expect(2)
    with pytest.raises(ValueError, match="do not grow"):
        settlements.expect(tag)


HUGE = 2**60


@pytest.mark.parametrize("piece", [1, 50, 4000])
async def test_a_body_that_is_too_large_is_let_pass_as_it_comes(piece: int) -> None:
    """Its size is what the broker says, and nothing of it is kept."""
    wire, heard = Wire(Address("localhost", 0), None, heartbeat=0), Heard()
    frames = Frames(heard, max_body=100)
    wire.channels[CHANNEL] = frames.take
    size = 4000
    said = [
        Basic.Deliver("esb", 1, False, "", "q"),
        *content(Basic.Properties(message_id="m1"), bytes(size), piece),
        Basic.Deliver("esb", 2, False, "", "q"),
        *content(Basic.Properties(), bytes(100), piece),
    ]
    for frame in said:
        wire.on_bytes(pamqp.frame.marshal(frame, CHANNEL))
    large, good = heard.all
    assert large == ("delivered", b"esb", 1, False, "", "q", Properties(message_id="m1"), None)
    assert good[-1] == bytes(100)


async def test_of_a_message_that_never_ends_nothing_is_gathered() -> None:
    wire = Wire(Address("localhost", 0), None, heartbeat=0)
    wire.channels[CHANNEL] = Frames(Heard()).take
    wire.on_bytes(pamqp.frame.marshal(Basic.Deliver("esb", 1, False, "", "q"), CHANNEL))
    header = ContentHeader(body_size=HUGE, properties=Basic.Properties())
    wire.on_bytes(pamqp.frame.marshal(header, CHANNEL))
    piece = pamqp.frame.marshal(ContentBody(bytes(100_000)), CHANNEL)
    tracemalloc.start()
    try:
        for _ in range(200):
            wire.on_bytes(piece)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * len(piece)


async def test_pieces_of_a_byte_take_no_more_than_they_are() -> None:
    wire, heard = Wire(Address("localhost", 0), None, heartbeat=0), Heard()
    wire.channels[CHANNEL] = Frames(heard).take
    count = 100_000
    wire.on_bytes(pamqp.frame.marshal(Basic.Deliver("esb", 1, False, "", "q"), CHANNEL))
    header = ContentHeader(body_size=count, properties=Basic.Properties())
    wire.on_bytes(pamqp.frame.marshal(header, CHANNEL))
    piece = pamqp.frame.marshal(ContentBody(b"x"), CHANNEL)
    tracemalloc.start()
    try:
        for _ in range(count - 1):
            wire.on_bytes(piece)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 3 * count
    wire.on_bytes(piece)
    assert heard.all[0][-1] == b"x" * count
