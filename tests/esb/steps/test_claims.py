"""`check_in` and `check_out`: content that stays in the store while its ticket travels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.bus import load_text, running, store_of
from support.stores import Place, setting
from support.waiting import until

from esb.bus import Bus
from esb.durable import DEAD
from esb.envelope import Body, Envelope

XML = b'<?xml version="1.0"?>\n<order  id="1"/>'


def routes(*steps: str) -> str:
    """One route a line of steps: from the queue of its number to the next."""
    return "routes:\n" + "".join(
        f"""
  r{n}:
    from: {{queue: q{n}}}
    steps: [{line}, {{send: {{queue: q{n + 1}}}}}]
    retry: {{attempts: 1}}
"""
        for n, line in enumerate(steps)
    )


async def through(bus: Bus, message: Envelope, end: int) -> Envelope:
    """What a message is when it is through to the queue of that number."""
    store = store_of(bus)
    await store.put("queue:q0", message)

    async def arrived() -> Any:
        counts = await store.counts()
        assert not counts.get(DEAD), [one.failure for one in await store.browse(DEAD)]
        return counts.get(f"queue:q{end}")

    await until(arrived)
    [found] = await store.browse(f"queue:q{end}")
    return found.envelope


def xml() -> Envelope:
    return Envelope(id="order-1", body=Body(XML, "application/xml"))


def data(**fields: Any) -> Envelope:
    return Envelope(body=Body.of(fields))


async def test_another_route_brings_back_what_one_checked_in(tmp_path: Path, place: Place) -> None:
    text = routes("check_in: orders", "log: meanwhile", "check_out: orders") + setting(place)
    async with running(text, tmp_path) as bus:
        back = await through(bus, xml(), 3)
        assert (back.body.raw, back.content_type) == (XML, "application/xml")
        store = store_of(bus)
        counts = await store.counts()
        assert counts == {"queue:q3": 1, "kept:claims:orders": 1}
        [kept] = await store.browse("kept:claims:orders")
        assert kept.envelope.id == "order-1"


async def test_a_ticket_travels_alone(tmp_path: Path) -> None:
    async with running(routes("check_in: orders"), tmp_path) as bus:
        one = await through(bus, xml(), 1)
        assert list(one.body.data) == ["claim"]
        assert len(one.body.data["claim"]) == 32


async def test_it_opens_at_once_within_the_run(tmp_path: Path, place: Place) -> None:
    text = routes("{check_in: a}, {check_out: a}") + setting(place)
    async with running(text, tmp_path) as bus:
        assert (await through(bus, xml(), 1)).body.raw == XML


async def test_a_field_alone_goes_in_and_comes_back(tmp_path: Path) -> None:
    field = "{scope: photos, field: customer.photo}"
    async with running(routes(f"check_in: {field}", f"check_out: {field}"), tmp_path) as bus:
        before = {"id": 1, "customer": {"name": "Ann", "photo": {"big": [1, 2]}}}
        assert (await through(bus, data(**before), 2)).body.data == before
    async with running(routes(f"check_in: {field}"), tmp_path) as bus:
        one = (await through(bus, data(**before), 1)).body.data
        assert one["customer"]["name"] == "Ann"
        assert list(one["customer"]["photo"]) == ["claim"]


async def test_with_a_header_the_next_steps_make_the_body_small(tmp_path: Path) -> None:
    header = "{scope: a, header: x-claim}"
    small = "{set: {body: {id: body.id}}}"
    text = routes(f"{{check_in: {header}}}, {small}", f"check_out: {header}")
    async with running(text, tmp_path) as bus:
        assert (await through(bus, data(id=1, more="x"), 2)).body.data == {"id": 1, "more": "x"}


async def test_left_out_the_scope_is_the_route(tmp_path: Path) -> None:
    async with running(routes("{check_in: {}}, check_out"), tmp_path) as bus:
        await through(bus, xml(), 1)
        assert "kept:claims:r0" in await store_of(bus).counts()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (data(claim="x" * 32), "nothing is kept under this ticket, or not any more"),
        (data(claim=""), "the message has no ticket"),
        (data(claim=["x"]), "the message has no ticket"),
        (data(), "the message has no ticket"),
        (xml(), "the message has no ticket"),
    ],
)
async def test_what_opens_nothing_is_refused(tmp_path: Path, message: Envelope, said: str) -> None:
    async with running(routes("check_out: orders"), tmp_path) as bus:
        store = store_of(bus)
        await store.put("queue:q0", message)
        [dead] = await until(lambda: store.browse(DEAD))
        assert dead.failure is not None
        assert (dead.failure.code, dead.failure.detail) == ("bad-message", said)


async def test_a_ticket_opens_nothing_of_another_scope(tmp_path: Path) -> None:
    async with running(routes("check_in: orders", "check_out: invoices"), tmp_path) as bus:
        store = store_of(bus)
        await store.put("queue:q0", xml())
        [dead] = await until(lambda: store.browse(DEAD))
        assert dead.failure is not None
        assert dead.failure.detail == "nothing is kept under this ticket, or not any more"


async def test_a_run_that_fails_keeps_nothing(tmp_path: Path) -> None:
    text = routes("{check_in: orders}, {filter: body.nothing}")
    async with running(text, tmp_path) as bus:
        store = store_of(bus)
        await store.put("queue:q0", xml())
        [dead] = await until(lambda: store.browse(DEAD))
        assert dead.envelope.body.raw == XML
        assert await store.counts() == {DEAD: 1}


@pytest.mark.parametrize(
    "step",
    [
        "split: {stream: lines, commit_every: 1, steps: [{check_out: {header: x-t}}]}",
        "saga: {steps: [{do: [{check_out: {header: x-t}}]}]}",
    ],
)
async def test_it_is_there_at_once_for_what_is_committed_apart(tmp_path: Path, step: str) -> None:
    text = routes(f"{{check_in: {{header: x-t}}}}, {{{step}}}")
    async with running(text, tmp_path) as bus:
        back = await through(bus, Envelope(body=Body(b"a\nb\nc\n", "text/plain")), 1)
        assert back.body.raw == b"a\nb\nc\n"


async def test_in_the_end_it_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esb.store.sqlite.TIDY_EVERY", 0.05)
    text = routes("check_in: {scope: a, keep: 1ms}", "check_out: a")
    async with running(text, tmp_path) as bus:
        store = store_of(bus)
        await store.put("queue:q0", xml())
        [dead] = await until(lambda: store.browse(DEAD))
        assert dead.failure is not None
        assert dead.failure.detail == "nothing is kept under this ticket, or not any more"

        async def forgotten() -> bool:
            return await store.counts() == {DEAD: 1}

        await until(forgotten)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("check_in: {field: a, header: b}", "a field or in a header"),
        ("check_in: {scope: a/b}", "a name has letters"),
        ("check_out: {keep: 1d}", "unknown key 'keep'"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, step: str, said: str) -> None:
    [found] = load_text(routes(step), tmp_path).diagnostics
    assert said in found.message
    assert found.line > 3
