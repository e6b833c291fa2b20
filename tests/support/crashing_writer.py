"""A process that writes to a store until it is killed, and notes in a ledger what it was told.

Run as `python crashing_writer.py STORE LEDGER`. A line "A key id" says that the put was
acknowledged, "D key id" that the message was acknowledged as gone. The ledger is written after the
acknowledgement, so that whatever it says must be true of the store that is left behind.
STORE is a file, or the URL of a database.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from esb.envelope import Body, Envelope, new_id
from esb.store import SqliteStore
from esb.store.postgres import PostgresStore

CALLERS = 8


async def main(place: str, ledger: str) -> None:
    out = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    store = PostgresStore(place) if "://" in place else SqliteStore(Path(place))
    await store.open()

    async def caller() -> None:
        while True:
            name = new_id()
            envelope = Envelope(id=name, body=Body(name.encode() * 20, "text/plain"))
            key = await store.put("ledger", envelope)
            os.write(out, f"A {key} {name}\n".encode())
            if key % 3 == 0:
                await store.done(key)
                os.write(out, f"D {key} {name}\n".encode())

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
