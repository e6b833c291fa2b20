"""Traces at rest: what is found by which name, and that they take up no more than they may."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from support.stores import Place

from esb.clock import REAL, Clock
from esb.store import StoreOptions
from esb.store.traces import open_traces
from esb.traces import Snapshot, Trace, TraceStore, Visit

DAY = 86400.0


def at(place: Place, clock: Clock = REAL) -> TraceStore:
    options = {"path": place} if isinstance(place, Path) else {"url": place}
    return open_traces(StoreOptions.model_validate(options), clock=clock)


def trace(id: str, **more: Any) -> Trace:
    return Trace(**{"id": id, "route": "orders", "begun": time.time(), "seconds": 0.1, **more})


async def ids(traces: TraceStore, text: str, limit: int = 100) -> list[str]:
    return [one.id for one in await traces.traces(text, limit=limit)]


async def test_what_was_kept_is_found_as_it_was(place: Place) -> None:
    one = trace(
        "a", business_key="A-1", correlation_id="c", outcome="message", headers=[("x-n", "1")],
        params={"path": {"id": "7"}}, left_out=3, given=0, returned=1, notes=("n",),
        visits=[Visit("steps[0].set", 0.1, 0.2, headers={"x": None, "y": "z"}, returned=1)],
        bodies=[Snapshot("text/plain", 5, "hello"), Snapshot(text="h", cut=True)],
    )  # fmt: skip
    traces = at(place)
    await traces.keep_traces([one, trace("b")], DAY, 10**6)
    for name in ("a", "A-1", "c"):
        assert await traces.traces(name) == [one]
    assert await traces.traces("x") == []
    await traces.close()
    again = at(place)
    assert await again.traces("a") == [one]
    await again.close()


async def test_parts_are_found_with_the_whole_and_the_whole_with_its_parts(place: Place) -> None:
    traces = at(place)
    whole = trace("m", begun=1.0, visits=[Visit("steps[0].split.steps[0].log", 0, 0, id="m.3")])
    part = trace("m.3", begun=2.0)
    others = [trace(id, begun=3.0) for id in ("m3", "m/3", "mm", "n.3", "m-3")]
    await traces.keep_traces([whole, part, *others], 10**12, 10**6)
    assert await ids(traces, "m") == ["m", "m.3"]
    assert await ids(traces, "m.3") == ["m", "m.3"]
    assert await ids(traces, "m.4") == []  # the whole had none of that number
    assert await ids(traces, "") == []
    await traces.close()


async def test_the_newest_are_told_in_the_order_of_time(place: Place) -> None:
    traces = at(place)
    await traces.keep_traces(
        [trace(f"p.{n}", begun=n, business_key="k") for n in (3, 1, 2)], 10**12, 10**6
    )
    assert await ids(traces, "k") == ["p.1", "p.2", "p.3"]
    assert await ids(traces, "k", limit=2) == ["p.2", "p.3"]
    await traces.close()


async def test_what_is_old_is_forgotten(place: Place) -> None:
    now = [1000.0]
    traces = at(place, Clock(time=lambda: now[0]))
    await traces.keep_traces([trace("old", begun=1000.0)], 60.0, 10**6)
    now[0] = 1061.0
    for _ in range(20):
        await traces.keep_traces([trace("new", begun=now[0])], 60.0, 10**6)
    assert await ids(traces, "old") == []
    assert await ids(traces, "new", limit=1) == ["new"]
    await traces.close()


async def test_there_is_no_more_than_may_be(place: Place) -> None:
    traces = at(place)
    bodies = [Snapshot(text="x" * 1000)]
    for number in range(60):
        one = trace(f"{number}", begun=float(number), business_key="k", bodies=bodies)
        await traces.keep_traces([one], 10**12, 10_000)
    left = await ids(traces, "k")
    most = 9 if isinstance(place, Path) else 9 + 20  # there, all are looked at now and then
    assert 5 <= len(left) <= most
    assert left == [str(number) for number in range(60)][-len(left) :]
    await traces.close()


async def test_a_text_that_nobody_can_write_costs_one_trace(place: Place) -> None:
    traces = at(place)
    await traces.keep_traces([trace("a", detail="\ud800"), trace("b")], DAY, 10**6)
    assert (await ids(traces, "a"), await ids(traces, "b")) == ([], ["b"])
    await traces.close()


async def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    traces = at(tmp_path / "bus.db")
    await traces.keep_traces([trace("a")], DAY, 10**6)
    await traces.close()
    [file] = tmp_path.glob("*traces*")
    assert file.stat().st_mode & 0o77 == 0
    file.write_bytes(b"this is no database" * 500)
    again = at(tmp_path / "bus.db")
    assert await ids(again, "a") == []
    await again.keep_traces([trace("b")], DAY, 10**6)
    assert await ids(again, "b") == ["b"]
    await again.close()


async def test_nothing_is_made_for_those_who_only_look(tmp_path: Path) -> None:
    traces = at(tmp_path / "data" / "bus.db")
    assert await ids(traces, "a") == []
    await traces.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["a'b", "\0", "x" * 3000, "ü.1.2", "a.b.c.d.e.f.g.h.i.j.k"])
async def test_any_text_may_be_asked_for(place: Place, text: str) -> None:
    traces = at(place)
    assert await traces.traces(text) == []
    await traces.close()
