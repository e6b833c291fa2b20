"""Buses in processes of their own, which are killed: each file and each firing once."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import asyncpg
from support.stores import Place, lying, opened, setting
from support.waiting import until

BUS = Path(__file__).parents[1] / "support" / "crashing_bus.py"
FILES = 80
PATIENCE = 60.0  # a bus takes its time to start on a busy machine

FROM_FILES = """
routes:
  files:
    from:
      file: {{folder: "{inbox}", settle: 0s, poll: 100ms, then: {then}}}
    steps: [{{send: {{queue: out}}}}]
"""
SCHEDULE = """
routes:
  clock:
    from: {schedule: {every: 50ms}}
    steps: [{send: {queue: out}}]
"""


@contextmanager
def bus(folder: Path, routes: str, place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """A bus that is killed in the end."""
    folder.mkdir(exist_ok=True)
    more = {} if isinstance(place, Path) else {"lease": "1s"}
    (folder / "routes.yaml").write_text(routes + setting(place, **more))
    process = subprocess.Popen([sys.executable, str(BUS), str(folder)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def fill(inbox: Path) -> None:
    inbox.mkdir()
    for number in range(FILES):
        (inbox / f"{number:03}.txt").write_text(str(number))


async def sent(place: Place) -> list[Any]:
    """What the routes sent."""
    async with opened(place) as store:
        return [s.envelope for s in await store.browse("queue:out", limit=10_000)]


async def reached(place: Place, count: int) -> None:
    async def there() -> bool:
        try:
            return await lying(place, "queue:out") >= count
        except (apsw.SQLError, asyncpg.PostgresError):
            return False  # there are no tables yet

    await until(there, PATIENCE)


async def test_kill_with_files_in_hand(tmp_path: Path) -> None:
    inbox, place = tmp_path / "inbox", tmp_path / "bus.db"
    fill(inbox)
    routes = FROM_FILES.format(inbox=inbox, then="done/")
    for count in sorted(random.sample(range(1, FILES), 2)):
        with bus(tmp_path / "bus", routes, place):
            await reached(place, count)
    with bus(tmp_path / "bus", routes, place):
        await until(lambda: len(list(inbox.glob("done/*"))) == FILES, PATIENCE)
    assert sorted(p.name for p in inbox.iterdir()) == ["done"]
    # Not only at least once: the end of the file is in one commit with what the route sent.
    assert sorted(int(e.body.text) for e in await sent(place)) == list(range(FILES))


async def test_two_buses_on_one_folder(tmp_path: Path, database_url: str) -> None:
    inbox = tmp_path / "inbox"
    fill(inbox)
    routes = FROM_FILES.format(inbox=inbox, then="delete")
    two = bus(tmp_path / "two", routes, database_url)
    with bus(tmp_path / "one", routes, database_url) as one, two:
        await reached(database_url, FILES // 3)
        one.kill()
        await until(lambda: not any(inbox.iterdir()), PATIENCE)
    assert sorted(int(e.body.text) for e in await sent(database_url)) == list(range(FILES))


async def test_two_buses_on_one_schedule(tmp_path: Path, database_url: str) -> None:
    two = bus(tmp_path / "two", SCHEDULE, database_url)
    with bus(tmp_path / "one", SCHEDULE, database_url) as one, two:
        await reached(database_url, 20)
        one.kill()
        # The other takes over, also if the first one had a firing in hand.
        await reached(database_url, await lying(database_url, "queue:out") + 20)
    dues = [e.params["schedule"]["due"] for e in await sent(database_url)]
    assert [due for due, times in Counter(dues).items() if times > 1] == []
    assert dues == sorted(dues)


async def test_kill_in_the_midst_of_a_large_file(tmp_path: Path) -> None:
    inbox, place, count = tmp_path / "inbox", tmp_path / "bus.db", 5000
    inbox.mkdir()
    (inbox / "large.txt").write_text("".join(f"{number}\n" for number in range(count)))
    routes = FROM_FILES.format(inbox=inbox, then="delete").replace(
        "[{send: {queue: out}}]", "[{split: {stream: lines, steps: [{send: {queue: out}}]}}]"
    )
    with bus(tmp_path / "bus", routes, place):
        await reached(place, count // 3)
    with bus(tmp_path / "bus", routes, place):
        await until(lambda: not any(inbox.iterdir()), PATIENCE)
    # It is the same message when it is taken again, so the split goes on where it was.
    assert sorted(int(e.body.text) for e in await sent(place)) == list(range(count))
