"""What a route promises of its messages, on a real bus from YAML."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from support.bus import running, store_of, url
from support.stores import Place, lying, message, opened, setting
from support.waiting import until

from esb.control import Selection, replay
from esb.durable import DEAD, Store
from esb.envelope import Body, Envelope

PROCESS = Path(__file__).parents[1] / "support" / "crashing_bus.py"


async def counts(store: Store, **wanted: int) -> None:
    """Wait until the store holds just this."""
    names = {name.replace("_", ":", 1): count for name, count in wanted.items() if count}

    async def so() -> bool:
        return await store.counts() == names

    try:
        await until(so)
    except AssertionError:
        raise AssertionError(f"{await store.counts()} is not {names}") from None


def at(place: Place, text: str) -> str:
    """Routes in YAML, with the store there."""
    return textwrap.dedent(text) + setting(place)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_unreachable_is_retried_parked_and_given_up_with_the_original(
    tmp_path: Path, place: Place
) -> None:
    text = f"""
        routes:
          orders:
            from: {{queue: in}}
            steps:
              - set: {{headers: {{x-changed: "'yes'"}}}}
              - send: {{http: {{url: "http://127.0.0.1:{closed_port()}/", method: POST}}}}
            retry: {{attempts: 4, backoff: 10ms..40ms, park_after: 15ms}}
            dead_letter: {{queue: graveyard}}
    """
    async with running(at(place, text), tmp_path) as bus:
        store = store_of(bus)
        await store.put("queue:in", message("as it came"))
        await counts(store, queue_graveyard=1)
        [dead] = await store.browse("queue:graveyard")
        headers = dead.envelope.headers
        assert dead.envelope.body.raw == b"as it came"
        assert "x-changed" not in headers
        assert headers.get("x-esb-error-code") == "unreachable"
        assert headers.get("x-esb-attempts") == "4"
        assert headers.get("x-esb-step") == "steps[1].send"


async def test_a_poison_message_stops_nobody_and_can_be_replayed(
    tmp_path: Path, place: Place
) -> None:
    text = """
        routes:
          orders:
            from: {queue: in}
            steps:
              - filter: body.good
              - send: {queue: out}
    """
    async with running(at(place, text), tmp_path) as bus:
        store = store_of(bus)
        for body in ('{"good": true}', "{", '{"good": true}'):
            await store.put("queue:in", Envelope(body=Body(body.encode(), "application/json")))
        await counts(store, queue_out=2, dead=1)
        [dead] = await store.browse(DEAD)
        assert dead.failure is not None
        assert (dead.failure.code, dead.failure.route) == ("bad-message", "orders")
        # Nothing changed, so a replay ends where it began, and loses nothing.
        await replay(store, bus.routes, Selection(keys=[dead.key]), None)
        await counts(store, queue_out=2, dead=1)
        [again] = await until(lambda: store.browse(DEAD))
        assert again.envelope.id == dead.envelope.id


async def test_what_the_store_cannot_hold_is_a_dead_letter_and_stops_nobody(
    tmp_path: Path, place: Place
) -> None:
    text = """
        routes:
          orders:
            from: {queue: {name: in, concurrency: 1, backoff: 10ms}}
            steps: [{send: {queue: {name: out, key: '{{ "\\ud800" if body == "half" else "" }}'}}}]
    """
    half_a_pair = Body(b"half", "text/plain")
    async with running(at(place, text), tmp_path) as bus:
        store = store_of(bus)
        await store.put("queue:in", Envelope(body=half_a_pair))
        await store.put("queue:in", message("well"))
        await counts(store, queue_out=1, dead=1)
        [dead] = await store.browse(DEAD)
        assert dead.envelope.body.raw == b"half"
        assert dead.failure is not None
        assert (dead.failure.code, dead.attempts) == ("route-failure", 1)


async def test_accepted_over_http_is_stored_before_it_is_said(tmp_path: Path, place: Place) -> None:
    text = """
        routes:
          claims:
            from: {http: {path: /claims, method: POST}}
            accept: durable
            steps:
              - send: {queue: out}
    """
    async with (
        running(at(place, text), tmp_path) as bus,
        aiohttp.ClientSession() as client,
    ):
        sent = [client.post(f"{url(bus)}/claims", json={"number": i}) for i in range(40)]
        for answer in await asyncio.gather(*sent):
            assert answer.status == 202
            answer.release()
        await counts(store_of(bus), queue_out=40)
        bodies = [stored.envelope.body.data for stored in await store_of(bus).browse("queue:out")]
        assert sorted(body["number"] for body in bodies) == list(range(40))


RELAY = textwrap.dedent("""
    routes:
      first:
        from: {queue: {name: a, concurrency: 20}}
        steps: [{send: {queue: b}}]
      second:
        from: {queue: b}
        accept: durable
        steps: [{send: {queue: c}}]
""")


async def test_killed_again_and_again_a_bus_loses_nothing(tmp_path: Path, place: Place) -> None:
    (tmp_path / "routes.yaml").write_text(RELAY + setting(place, lease="500ms"))
    sent = [message(str(i)) for i in range(600)]
    async with opened(place) as store:
        await asyncio.gather(*(store.put("queue:a", one) for one in sent))

    async def arrived() -> Counter[str]:
        found: Counter[str] = Counter()
        async with opened(place) as store:
            assert DEAD not in await store.counts()
            after = 0
            while page := await store.browse("queue:c", limit=1000, after=after):
                found.update(stored.envelope.id for stored in page)
                after = page[-1].key
        return found

    generator, kills, working = random.Random(3), 0, 0
    so_far: Counter[str] = Counter()
    while len(so_far) < len(sent):
        assert kills < 60
        process = subprocess.Popen([sys.executable, str(PROCESS), str(tmp_path)])
        try:
            # Somewhere in the middle of its work it dies.
            goal = min(so_far.total() + generator.randint(1, 300), len(sent) - 1)
            await until(lambda goal=goal: more_than(place, goal))
        finally:
            process.kill()
        assert process.wait() == -9
        kills += 1
        before, so_far = so_far, await arrived()
        working += len(before) < len(so_far) < len(sent)
    assert set(so_far) == {one.id for one in sent}
    assert working >= 1, "it was killed in the middle of its work"
    # What was in flight at a kill may come twice, and no more than that.
    assert so_far.total() - len(sent) <= kills * 60


async def more_than(place: Place, count: int) -> bool:
    """Whether more than `count` messages have come through."""
    return await lying(place, "queue:c") > count


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_of_two_buses_on_a_store_one_falls_silent_and_the_other_goes_on(
    tmp_path: Path, database_url: str, how: signal.Signals
) -> None:
    (tmp_path / "routes.yaml").write_text(RELAY + setting(database_url, lease="1s"))
    sent = [message(str(i)) for i in range(400)]
    async with opened(database_url) as store:
        buses = [subprocess.Popen([sys.executable, str(PROCESS), str(tmp_path)]) for _ in range(2)]
        try:
            await until(lambda: holders(database_url, 3))
            await asyncio.gather(*(store.put("queue:a", one) for one in sent))
            await until(lambda: more_than(database_url, 20))
            await until(lambda: stopped_with_something_in_hand(buses[0], database_url))
            buses[0].send_signal(how)
            await until(lambda: only(store, "queue:c"))
            if how == signal.SIGSTOP:
                await until(lambda: holders(database_url, 2))
                buses[0].send_signal(signal.SIGCONT)
                await until(lambda: holders(database_url, 3))  # it is somebody new
        finally:
            for bus in buses:
                bus.kill()
                bus.wait()
        found: Counter[str] = Counter()
        after = 0
        while page := await store.browse("queue:c", limit=1000, after=after):
            found.update(stored.envelope.id for stored in page)
            after = page[-1].key
    # What was sent on and that it was is one commit, so nothing comes twice either.
    assert found == {one.id: 1 for one in sent}


async def holders(url: str, count: int) -> bool:
    """Whether so many processes are on the store."""
    return await ask(url, "SELECT count(*) FROM esb.holder") == count


async def stopped_with_something_in_hand(bus: subprocess.Popen[bytes], url: str) -> bool:
    bus.send_signal(signal.SIGSTOP)
    sql = "SELECT count(*) FROM esb.hold JOIN esb.holder ON owner = id WHERE name LIKE $1"
    if await ask(url, sql, f"%/{bus.pid}"):
        return True
    bus.send_signal(signal.SIGCONT)
    return False


async def ask(url: str, sql: str, *values: object) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(sql, *values))
    finally:
        await connection.close()


async def only(store: Store, channel: str) -> bool:
    """Whether everything lies there."""
    return set(await store.counts()) == {channel}
