"""`resequence`: messages go on in the order of their numbers, whatever happens in between."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bus import load_text, running, store_of
from support.stores import Place, opened, setting
from support.waiting import until

from esb.bus import Bus
from esb.clock import REAL
from esb.control import Selection, replay
from esb.durable import DEAD, Put
from esb.envelope import Body, Envelope
from esb.steps.resequence import ResequenceOptions, _Streams

ROUTE = """
routes:
  orders:
    from: {{queue: {{name: in, concurrency: 20}}}}
    steps:
      - resequence:
          number: body.n
          {options}
          steps: [{{send: {{queue: out}}}}]
    retry: {{attempts: 1}}
"""
WAITING = "resequence:orders/resequence"
PLACES = f"kept:{WAITING}"
ON = "accept:orders/resequence"


def route(*options: str) -> str:
    return ROUTE.format(options="\n          ".join(options) or "first: 1")


def one(n: Any, stream: str = "a", **fields: Any) -> Envelope:
    return Envelope(body=Body.of({"n": n, "stream": stream}), **fields)


async def put(bus: Bus, *messages: Envelope) -> None:
    """Put messages one after the other, each when the one before is through."""
    store = store_of(bus)
    for message in messages:
        await store.put("queue:in", message)
        await until(lambda: _empty(bus, "queue:in"))


async def _empty(bus: Bus, *channels: str) -> bool:
    counts = await store_of(bus).counts()
    return not any(counts.get(channel) for channel in channels)


async def out(bus: Bus, count: int, channel: str = "queue:out") -> list[Envelope]:
    """What came out, once there are so many."""
    store = store_of(bus)

    async def enough() -> bool:
        return (await store.counts()).get(channel, 0) >= count

    await until(enough)
    found = [stored.envelope for stored in await store.browse(channel, limit=1000)]
    assert len(found) == count
    return found


def numbers(found: list[Envelope]) -> list[int]:
    return [each.body.data["n"] for each in found]


async def test_they_go_on_in_the_order_of_their_numbers(tmp_path: Path, place: Place) -> None:
    text = route() + setting(place)
    async with running(text, tmp_path) as bus:
        await put(bus, one(3), one(1))
        assert numbers(await out(bus, 1)) == [1]
        await put(bus, one(2), one(4))
        found = await out(bus, 4)
        assert numbers(found) == [1, 2, 3, 4]
        assert found[1].params["sequence"] == {"number": 2, "late": False, "complete": True}
        await until(lambda: _empty(bus, WAITING, ON))
        assert await store_of(bus).counts() == {"queue:out": 4, PLACES: 1}


async def test_what_waits_and_how_far_it_was_outlives_a_restart(
    tmp_path: Path, place: Place
) -> None:
    text = route("by: body.stream") + setting(place)
    async with running(text, tmp_path) as bus:
        await put(bus, one(1), one(3))
        await out(bus, 1)
    async with running(text, tmp_path) as bus:
        await put(bus, one(2))
        assert numbers(await out(bus, 3)) == [1, 2, 3]


async def test_of_many_streams_at_once_each_is_in_order(tmp_path: Path, place: Place) -> None:
    streams, length = 10, 30
    text = route("by: body.stream", "first: 0") + setting(place)
    messages = [one(n, f"s{s}") for n in range(length) for s in range(streams)]
    random.Random(7).shuffle(messages)
    async with running(text, tmp_path) as bus:
        store = store_of(bus)
        await asyncio.gather(*(store.put("queue:in", message) for message in messages))
        found = await out(bus, streams * length)
        for s in range(streams):
            of_stream = [each for each in found if each.body.data["stream"] == f"s{s}"]
            assert numbers(of_stream) == list(range(length))


async def test_a_stream_waits_behind_a_message_that_is_tried_again(tmp_path: Path) -> None:
    text = route("by: body.stream").replace(
        "[{send",
        "[{choose: [{when: 'body.n == 1 and message.attempt < 3',"
        " steps: [{call: {http: {url: 'http://127.0.0.1:9/'}}}]}]}, {send",
    )
    text = text.replace("attempts: 1", "attempts: 5, backoff: 20ms, park_after: 1ms")
    async with running(text, tmp_path) as bus:
        await put(bus, one(2), one(1, "b"), one(1))
        found = [(e.body.data["stream"], e.body.data["n"]) for e in await out(bus, 3)]
        assert found.index(("a", 1)) < found.index(("a", 2))


async def test_one_that_is_delivered_again_while_it_waits_passes_once(tmp_path: Path) -> None:
    async with running(route(), tmp_path) as bus:
        await put(bus, one(2, id="x"), one(2, id="x"), one(1))
        assert numbers(await out(bus, 2)) == [1, 2]
        await until(lambda: _empty(bus, WAITING, ON))


class TestMissing:
    async def test_is_waited_for_so_long(self, tmp_path: Path, place: Place) -> None:
        async with running(route("timeout: 500ms") + setting(place), tmp_path) as bus:
            await store_of(bus).commit([Put("queue:in", one(n)) for n in (3, 4, 1)])
            found = await out(bus, 3)
            assert numbers(found) == [1, 3, 4]
            complete = [each.params["sequence"]["complete"] for each in found]
            assert complete == [True, False, False]
            await put(bus, one(5))
            assert (await out(bus, 4))[-1].params["sequence"]["complete"]

    async def test_or_while_no_more_than_the_most_are_waiting(self, tmp_path: Path) -> None:
        async with running(route("most: 2"), tmp_path) as bus:
            await put(bus, one(7), one(9))
            assert await store_of(bus).counts() == {WAITING: 2}
            await put(bus, one(8))
            assert numbers(await out(bus, 3)) == [7, 8, 9]

    async def test_those_behind_it_may_be_dead_letters_until_somebody_wants_them(
        self, tmp_path: Path
    ) -> None:
        async with running(route("timeout: 500ms", "incomplete: dead"), tmp_path) as bus:
            store = store_of(bus)
            await store.commit([Put("queue:in", one(n)) for n in (2, 3)])
            assert numbers(await out(bus, 2, DEAD)) == [2, 3]
            [failure, _] = [stored.failure for stored in await store.browse(DEAD)]
            assert failure is not None
            assert (failure.code, failure.route) == ("out-of-order", "orders/resequence")
            assert failure.detail == "number 2 waited in vain for those before it"
            assert (await replay(store, bus.routes, Selection(all=True), None)).done == 2
            assert numbers(await out(bus, 2)) == [2, 3]
            await put(bus, one(4))
            assert numbers(await out(bus, 3)) == [2, 3, 4]


class TestLate:
    async def test_one_that_comes_after_its_turn_is_a_dead_letter(self, tmp_path: Path) -> None:
        async with running(route("first: 5"), tmp_path) as bus:
            store = store_of(bus)
            await put(bus, one(5), one(4), one(5))
            assert numbers(await out(bus, 2, DEAD)) == [4, 5]
            [failure, _] = [stored.failure for stored in await store.browse(DEAD)]
            assert failure is not None
            assert (failure.code, failure.detail) == (
                "out-of-order",
                "number 4 came after its turn",
            )
            assert numbers(await out(bus, 1)) == [5]
            assert (await replay(store, bus.routes, Selection(all=True), None)).done == 2
            await out(bus, 3)

    async def test_or_passes_and_says_so(self, tmp_path: Path) -> None:
        async with running(route("late: pass", "incomplete: dead"), tmp_path) as bus:
            await put(bus, one(1), one(2), one(1))
            assert [each.params["sequence"]["late"] for each in await out(bus, 3)] == [
                False,
                False,
                True,
            ]


async def test_how_far_a_stream_is_is_forgotten_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esb.store.sqlite.TIDY_EVERY", 0.05)
    async with running(route("by: body.stream", "keep: 700ms"), tmp_path) as bus:
        await store_of(bus).commit([Put("queue:in", one(n)) for n in (1, 2)])
        await out(bus, 2)
        await until(lambda: _empty(bus, PLACES))
        await put(bus, one(1, id="again"))
        assert numbers(await out(bus, 3)) == [1, 2, 1]


async def test_one_that_cannot_be_passed_on_is_a_dead_letter_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(route(), tmp_path) as bus:
        store = store_of(bus)
        big = Envelope(body=Body.of({"n": 2, "text": "x" * 2000}))
        await put(bus, big, one(3))
        monkeypatch.setattr("esb.store.rows.LARGEST", 1000)
        await put(bus, one(1))
        assert numbers(await out(bus, 2)) == [1, 3]
        [dead] = await store.browse(DEAD)
        assert dead.failure is not None
        assert (dead.failure.code, dead.failure.route) == ("too-large", WAITING)


@pytest.mark.parametrize("n", ["x", "", None, True, 1.5, 2**63, [1]])
async def test_one_without_a_number_fails(tmp_path: Path, n: Any) -> None:
    async with running(route(), tmp_path) as bus:
        await put(bus, one(n))
        [dead] = await store_of(bus).browse(DEAD)
        assert dead.failure is not None
        assert (dead.failure.code, dead.failure.route) == ("bad-message", "orders")


async def test_a_number_may_be_text(tmp_path: Path) -> None:
    async with running(route("first: -1"), tmp_path) as bus:
        await put(bus, one("0"), one("-1"))
        assert numbers(await out(bus, 2)) == ["-1", "0"]  # type: ignore[comparison-overlap]


@given(
    # One after the other: its stream, its number, and whether it is looked at before the next;
    # None: somebody else goes on.
    steps=st.lists(
        st.none() | st.tuples(st.sampled_from("ab"), st.integers(0, 8), st.booleans()), max_size=30
    ),
)
@settings(max_examples=25, deadline=None)
def test_when_it_looks_makes_no_difference(steps: list[tuple[str, int, bool] | None]) -> None:
    come = {s: [step[1] for step in steps if step and step[0] == s] for s in "ab"}

    async def played() -> tuple[list[Envelope], list[Envelope]]:
        options = ResequenceOptions(by="s", number="n", steps=[{}])
        with tempfile.TemporaryDirectory() as folder:
            async with opened(Path(folder) / "bus.db") as store:
                streams = _Streams(options, store, "here", "ready", REAL)
                newest = 0

                async def look() -> int:
                    entries = await store.entries("here", limit=100, after=newest)
                    for entry in entries:
                        streams.learn(entry, REAL.time())
                    await streams.act(REAL.time())
                    return entries[-1].key if entries else newest

                for step in steps:
                    if step is None:
                        streams.forget()
                        newest = 0
                    else:
                        stream, n, now = step
                        await store.commit([Put("here", one(n, stream), group=f"{n} {stream}")])
                        newest = await look() if now else newest
                streams.forget()
                newest = 0
                await look()
                ready, here = await store.browse("ready"), await store.browse("here")
                return [each.envelope for each in ready], [each.envelope for each in here]

    ready, waiting = asyncio.run(played())
    for stream, all_numbers in come.items():
        passed = [e for e in ready if e.body.data["stream"] == stream]
        in_turn = numbers([e for e in passed if not e.params["sequence"]["late"]])
        late = numbers([e for e in passed if e.params["sequence"]["late"]])
        kept = numbers([e for e in waiting if e.body.data["stream"] == stream])
        assert in_turn == list(range(1, len(in_turn) + 1))
        assert sorted([*in_turn, *late, *kept]) == sorted(all_numbers), "none is lost or doubled"
        assert len(in_turn) + 1 not in kept, "the next has its turn"
        assert all(number <= len(in_turn) for number in late)


async def test_buses_on_one_store_keep_the_order_together(
    tmp_path: Path, database_url: str
) -> None:
    text = route("by: body.stream") + setting(database_url)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    messages = [one(n, f"s{s}") for n in range(1, 41) for s in range(5)]
    random.Random(7).shuffle(messages)
    async with running(text, tmp_path / "one") as a, running(text, tmp_path / "two") as b:
        stores = (store_of(a), store_of(b))
        puts = (stores[i % 2].put("queue:in", message) for i, message in enumerate(messages))
        await asyncio.gather(*puts)
        found = await out(a, len(messages))
        for s in range(5):
            of_stream = [each for each in found if each.body.data["stream"] == f"s{s}"]
            assert numbers(of_stream) == list(range(1, 41))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("numbr: body.n", "unknown key 'numbr'"),
        ("late: drop", "must be one of: pass, dead"),
        ("most: 0", "greater than or equal to 1"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, options: str, said: str) -> None:
    [found] = load_text(route(options), tmp_path).diagnostics
    assert said in found.message
    assert found.line > 6
