"""The durable store alone, and what its fsyncs cost: part of `make bench`, or alone.

    bench/store.py [--quick]

Each mode runs twice in turns: as it is, and with the fsyncs left out (`synchronous=OFF`: what was
acknowledged would be lost when the power fails). What is between the two is the price of keeping
the word; "callers" is how many store or take at a time, because they share an fsync.

    accept    a message is stored: what `accept: durable` or `send: {queue: ...}` waits for
    through   a message is stored, taken, and settled: accepted, delivered, forgotten
    hand-over taken from one channel and put into another with one commit: queue to queue
    once      a message is claimed, and the claim confirmed: what `skip_seen` adds
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

from esb.durable import Confirm, Done, Put
from esb.envelope import Body, Envelope
from esb.store import SqliteStore
from esb.store.commit import SYNCHRONOUS

WORK = Path(__file__).resolve().parent.parent / ".tools"
CALLERS = (1, 50)
BODY = Body(b"x" * 500, "text/plain")

Mode = Callable[[SqliteStore, int, str], Awaitable[None]]
"""Sees `count` messages through, one after the other, on channels of its own."""


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


MODES: dict[str, Mode] = {
    "accept": _accept,
    "through": _through,
    "hand-over": _hand_over,
    "once": _once,
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
            await asyncio.gather(*(mode(store, each, f"c{n}") for n in range(callers)))
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
