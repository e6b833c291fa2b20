"""What is written leaves in order, a turn of the loop later."""

from __future__ import annotations

import asyncio
import time
from typing import cast

from esb.outbox import Outbox


class Taken:
    """A transport that notes what is written to it."""

    def __init__(self, notes: list[tuple[str, bytes]], name: str) -> None:
        self.notes = notes
        self.name = name
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.notes.append((self.name, data))


def made(*names: str) -> tuple[list[tuple[str, bytes]], list[asyncio.WriteTransport]]:
    notes: list[tuple[str, bytes]] = []
    return notes, [cast(asyncio.WriteTransport, Taken(notes, name)) for name in names]


async def test_all_leaves_in_the_next_turn_in_its_order() -> None:
    notes, (one, two) = made("one", "two")
    outbox = Outbox(asyncio.get_running_loop())
    number = outbox.put(one, b"a")
    outbox.put(two, b"b")
    outbox.put(one, b"c")
    assert (notes, outbox.flushed) == ([], number)
    await asyncio.sleep(0)
    assert notes == [("one", b"a"), ("two", b"b"), ("one", b"c")]
    assert outbox.flushed != number


async def test_who_does_something_else_with_a_transport_flushes_before() -> None:
    notes, (one,) = made("one")
    outbox = Outbox(asyncio.get_running_loop())
    outbox.put(one, b"a")
    outbox.flush()
    one.write(b"b")
    outbox.put(one, b"c")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert notes == [("one", b"a"), ("one", b"b"), ("one", b"c")]


async def test_what_is_closed_gets_nothing_more_and_others_do() -> None:
    notes, (one, two) = made("one", "two")
    outbox = Outbox(asyncio.get_running_loop())
    outbox.put(one, b"a")
    outbox.put(two, b"b")
    cast(Taken, one).closing = True
    await asyncio.sleep(0)
    assert notes == [("two", b"b")]


async def test_a_turn_that_takes_its_time_keeps_nobody_waiting() -> None:
    notes, (one, two) = made("one", "two")
    outbox = Outbox(asyncio.get_running_loop())
    outbox.put(one, b"a")
    began = time.perf_counter()
    while time.perf_counter() - began < 0.002:
        """Somebody works."""
    outbox.put(two, b"b")
    assert notes == [("one", b"a"), ("two", b"b")]


async def test_one_that_fails_takes_nothing_from_the_others() -> None:
    class Ended(Taken):
        def write(self, data: bytes) -> None:
            raise RuntimeError("Cannot call write() after write_eof()")

        def abort(self) -> None:
            self.notes.append((self.name, b"aborted"))

    notes, (two,) = made("two")
    outbox = Outbox(asyncio.get_running_loop())
    outbox.put(cast(asyncio.WriteTransport, Ended(notes, "one")), b"a")
    outbox.put(two, b"b")
    await asyncio.sleep(0)
    assert notes == [("one", b"aborted"), ("two", b"b")]
