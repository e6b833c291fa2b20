"""The durable store alone, and what its fsyncs cost: part of `make bench`, or alone.

    bench/store.py [--quick]

Each mode runs twice in turns: as it is, and with the fsyncs left out (`synchronous=OFF`: what was
acknowledged would be lost when the power fails). What is between the two is the price of keeping
the word; "callers" is how many store or take at a time, because they share an fsync.

    accept    a message is stored: what `accept: durable` or `send: {queue: ...}` waits for
    through   a message is stored, taken, and settled: accepted, delivered, forgotten
    hand-over taken from one channel and put into another with one commit: queue to queue
    once      a message is claimed, and the claim confirmed: what `skip_seen` adds
    accepted  a message is stored, and a consumer runs an empty step on it: all of `accept: durable`
              but what goes over the wire
    queues    a message is stored, and a consumer passes it on to a queue that another one consumes
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import uvloop

from esb.consumer import Consumer
from esb.durable import Confirm, Done, Put, change
from esb.envelope import Body, Envelope
from esb.middleware.accept import accepted, accepting
from esb.step import Step
from esb.store import SqliteStore
from esb.store.commit import SYNCHRONOUS

WORK = Path(__file__).resolve().parent.parent / ".tools"
CALLERS = (1, 50)
BODY = Body(b"x" * 500, "text/plain")

One = Callable[[SqliteStore, int, str], Awaitable[None]]
"""Sees `count` messages through, one after the other, on channels of its own."""
Mode = Callable[[SqliteStore, int, int], Awaitable[None]]
"""Sees so many messages through for so many callers each."""


def _side_by_side(one: One) -> Mode:
    async def mode(store: SqliteStore, each: int, callers: int) -> None:
        await asyncio.gather(*(one(store, each, f"c{n}") for n in range(callers)))

    return mode


async def _accept(store: SqliteStore, count: int, name: str) -> None:
    for _ in range(count):
        await store.commit((Put(name, Envelope(body=BODY)),))


async def _through(store: SqliteStore, count: int, name: str) -> None:
    for _ in range(count):
        await store.commit((Put(name, Envelope(body=BODY)),))
        [taken] = await store.take(name, 1)
        await store.commit((Done(taken.key, taken.hold),))


async def _hand_over(store: SqliteStore, count: int, name: str) -> None:
    await store.commit((Put(name, Envelope(body=BODY)),))
    for _ in range(count):
        [taken] = await store.take(name, 1)
        await store.commit((Put(name, taken.envelope), Done(taken.key, taken.hold)))


async def _once(store: SqliteStore, count: int, name: str) -> None:
    for number in range(count):
        assert (await store.claim(name, str(number), 9e9)).state == "new"
        await store.commit((Confirm(name, str(number), 9e9),))


async def _accepted(store: SqliteStore, each: int, callers: int) -> None:
    accept, arrived = accepting(route="bench", store=store), _Arrivals(each * callers)
    consumer = accepted(store, "bench")
    await _consumed(accept, [(consumer, arrived.step)], arrived, each, callers)


async def _queues(store: SqliteStore, each: int, callers: int) -> None:
    arrived = _Arrivals(each * callers)

    async def pass_on(envelope: Envelope) -> Envelope:
        await change(store, Put("queue:second", envelope))
        return envelope

    async def put(envelope: Envelope) -> Envelope:
        await change(store, Put("queue:first", envelope))
        return envelope

    first, second = [
        Consumer(store, f"queue:{name}", route=name, concurrency=50) for name in ("first", "second")
    ]
    await _consumed(put, [(first, pass_on), (second, arrived.step)], arrived, each, callers)


class _Arrivals:
    def __init__(self, wanted: int) -> None:
        self._left = wanted
        self.all = asyncio.Event()

    async def step(self, envelope: Envelope) -> Envelope:
        self._left -= 1
        if not self._left:
            self.all.set()
        return envelope


async def _consumed(
    put: Step, consumers: list[tuple[Consumer, Step]], arrived: _Arrivals, each: int, callers: int
) -> None:
    async def caller() -> None:
        for _ in range(each):
            await put(Envelope(body=BODY))

    for consumer, step in consumers:
        await consumer.start(step)
    await asyncio.gather(arrived.all.wait(), *(caller() for _ in range(callers)))
    for consumer, _ in consumers:
        await consumer.stop(10.0)


MODES: dict[str, Mode] = {
    "accept": _side_by_side(_accept),
    "through": _side_by_side(_through),
    "hand-over": _side_by_side(_hand_over),
    "once": _side_by_side(_once),
    "accepted": _accepted,
    "queues": _queues,
}


def run(*, quick: bool = False) -> list[dict[str, Any]]:
    """Messages a second by mode and callers, with and without fsync, medians of rounds in turns;
    `fsync` is the time of a message that goes into making it durable."""
    rounds, count = (1, 200) if quick else (5, 5_000)
    found = []
    WORK.mkdir(exist_ok=True)
    for mode in MODES:
        for callers in CALLERS:
            each = max(1, count // (1 if callers > 1 else 5))
            rates: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(rounds):
                for durable in rates:
                    rates[durable].append(uvloop.run(_rate(MODES[mode], each, callers, durable)))
            kept, lost = median(rates[True]), median(rates[False])
            found.append(
                {
                    "mode": mode,
                    "callers": callers,
                    "rate": round(kept),
                    "without_fsync": round(lost),
                }
                | {"ratio": round(kept / lost, 2)}
                | {"fsync_us": round(max(0.0, 1 / kept - 1 / lost) * 1e6, 1)}
            )
    return found


async def _rate(mode: Mode, count: int, callers: int, durable: bool) -> float:
    kept = SYNCHRONOUS if durable else dict.fromkeys(SYNCHRONOUS, "OFF")
    with tempfile.TemporaryDirectory(dir=WORK) as folder, patch.dict(SYNCHRONOUS, kept):
        store = SqliteStore(Path(folder) / "bus.db")
        await store.open()
        try:
            each = max(1, count // callers)
            begun = time.perf_counter()
            await mode(store, each, callers)
            return each * callers / (time.perf_counter() - begun)
        finally:
            await store.close()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the durable store.")
    parser.add_argument("--quick", action="store_true", help="no figures to quote")
    import report

    print(report.store_table(run(quick=parser.parse_args().quick)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
