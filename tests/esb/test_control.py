"""What those who run a bus do with its messages, over the admin API of a real bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.bus import running, store_of
from support.stores import Place, setting
from support.waiting import until

from esb.api import AdminServer
from esb.bus import Bus
from esb.control import Filter, Selection, parse_when, replay
from esb.durable import DEAD, Failure, Put, Store
from esb.envelope import Body, Envelope, Headers

ROUTES = """
routes:
  orders:
    from: {queue: in}
    steps:
      - filter: body.good
      - send: {queue: out}
  repairs:
    from: {queue: broken}
    steps: [{send: {queue: repaired}}]
  asked:
    from: {http: {path: /asked}}
    steps: [{set: {body: "'yes'"}}]
listen: {port: 0}
"""
NOW = datetime.now(UTC)


@dataclass
class Admin:
    """A bus with its admin API."""

    bus: Bus
    url: str
    client: aiohttp.ClientSession

    @property
    def store(self) -> Store:
        return store_of(self.bus)

    async def ask(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        async with self.client.request(method, self.url + path, json=body) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json() if answer.content_type == "application/json" else None

    async def bury(self, body: str = '{"good": true}', **fields: Any) -> int:
        """A dead letter, as a route leaves it."""
        failure = {
            "code": "unreachable", "detail": "nobody is there", "route": "orders",
            "step": "steps[1].send", "attempts": 5, "time": NOW,
        }  # fmt: skip
        failure |= {name: fields.pop(name) for name in failure.keys() & fields.keys()}
        envelope = Envelope(body=Body(body.encode(), "application/json"), **fields)
        [key] = await self.store.commit(
            [Put(DEAD, envelope, attempts=5, failure=Failure(**failure, notes=("at 10.0.0.1",)))]
        )
        return key

    async def lie(self, **expected: int) -> None:
        """Wait until just this lies in the store."""
        wanted = {name.replace("_", ":", 1): count for name, count in expected.items()}

        async def so() -> bool:
            return await self.store.counts() == wanted

        await until(so)


@contextlib.asynccontextmanager
async def admin(folder: Path, place: Place, routes: str = ROUTES) -> AsyncIterator[Admin]:
    async with running(routes + setting(place), folder) as bus, aiohttp.ClientSession() as client:
        server = AdminServer(bus, None, "127.0.0.1", 0)
        await server.open()
        try:
            yield Admin(bus, f"http://127.0.0.1:{server.port}", client)
        finally:
            await server.close()


async def test_a_dead_letter_is_shown_with_all_that_is_known(tmp_path: Path, place: Place) -> None:
    async with admin(tmp_path, place) as one:
        key = await one.bury(
            "{bad",
            id="order-7",
            business_key="A-1",
            source="/shop",
            subject="new",
            headers=Headers([("X-Shop", "east")]),
            params={"path": {"id": 7}},
        )
        found = await one.ask("GET", f"/dead/{key}")
        assert (found["id"], found["business_key"]) == ("order-7", "A-1")
        assert found["headers"] == [["X-Shop", "east"]]
        assert found["params"] == {"path": {"id": "7"}}
        assert (found["source"], found["subject"]) == ("/shop", "new")
        assert (found["route"], found["step"], found["attempts"]) == ("orders", "steps[1].send", 5)
        assert (found["code"], found["detail"]) == ("unreachable", "nobody is there")
        assert found["notes"] == ["at 10.0.0.1"]
        assert datetime.fromisoformat(found["time"]) == NOW
        assert datetime.fromisoformat(found["stored"]) > datetime.fromisoformat(found["sent"])
        assert (found["size"], found["body"]) == (4, "{bad")
        await one.ask("GET", f"/dead/{key + 1}", status=404)
        [waiting] = await one.store.commit([Put("elsewhere", Envelope())])
        await one.ask("GET", f"/dead/{waiting}", status=404)


async def test_a_body_comes_as_it_was_and_no_browser_runs_it(tmp_path: Path) -> None:
    async with admin(tmp_path, tmp_path / "bus.db") as one:
        raw = b"<script>\x00\xff</script>"
        failure = Failure("error", "", "orders", "", 1, NOW)
        [key] = await one.store.commit(
            [Put(DEAD, Envelope(body=Body(raw, "text/html")), failure=failure)]
        )
        async with one.client.get(f"{one.url}/dead/{key}/body") as answer:
            assert await answer.read() == raw
            assert answer.headers["Content-Type"] == "application/octet-stream"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Disposition"] == f"attachment; filename=dead-{key}"
        assert (await one.ask("GET", f"/dead/{key}"))["body"] == raw.hex()


async def test_filters_and_pages(tmp_path: Path, place: Place) -> None:
    async with admin(tmp_path, place) as one:
        old = NOW - timedelta(days=3)
        keys = [await one.bury(id=f"order-{n}", time=old) for n in range(60)]
        keys += [await one.bury(route="repairs", code="rejected", correlation_id="batch-9")]

        async def keys_of(query: str) -> tuple[list[int], int]:
            async with one.client.get(f"{one.url}/dead?{query}") as answer:
                assert answer.status == 200, await answer.text()
                found = [dead["key"] for dead in await answer.json()]
                return found, int(answer.headers["X-Total-Count"])

        assert await keys_of("limit=1000") == (keys, 61)
        assert await keys_of("route=repairs") == (keys[60:], 1)
        assert await keys_of("code=rejected") == (keys[60:], 1)
        assert await keys_of("code=rejected&route=orders") == ([], 0)
        assert await keys_of("text=order-5") == ([keys[5], *keys[50:60]], 11)
        assert await keys_of("text=ch-9") == (keys[60:], 1)
        assert await keys_of("since=2d") == (keys[60:], 1)
        assert await keys_of("until=2d&limit=2") == (keys[:2], 60)
        then = old.isoformat().replace("+", "%2B")
        assert (await keys_of(f"since={then}&until={then}"))[1] == 60

        pages: list[int] = []
        url = "/dead?limit=25&route=orders"
        while url:
            async with one.client.get(one.url + url) as answer:
                pages += [dead["key"] for dead in await answer.json()]
                following = answer.links.get("next")
                url = following["url"].path_qs if following else ""  # type: ignore[union-attr]
        assert pages == keys[:60]
        for wrong in ("since=soon", "limit=0", "after=-1", "rout=orders"):
            await one.ask("GET", f"/dead?{wrong}", status=422)


async def test_replayed_to_where_they_came_from(tmp_path: Path, place: Place) -> None:
    async with admin(tmp_path, place) as one:
        key = await one.bury()
        await one.bury(route="queue:in", code="expired")  # before any route had it
        assert await one.ask("POST", f"/dead/{key}/replay", status=202) == {
            "replayed": key, "route": "orders",
        }  # fmt: skip
        await one.ask("POST", f"/dead/{key}/replay", status=404)
        assert await one.ask("POST", "/dead/replay", {"all": True}) == {
            "replayed": 1, "refused": [],
        }  # fmt: skip
        await one.lie(queue_out=2)


async def test_replayed_elsewhere(tmp_path: Path, place: Place) -> None:
    async with admin(tmp_path, place) as one:
        keys = [await one.bury(id=str(n)) for n in range(3)]
        await one.ask("POST", f"/dead/{keys[0]}/replay", {"to": "repairs"}, status=202)
        told = await one.ask("POST", "/dead/replay", {"all": True, "to": {"queue": "broken"}})
        assert told["replayed"] == 2
        await one.lie(queue_repaired=3)


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("order", "there is no route 'order': did you mean 'orders'?"),
        ({"queue": "brokn"}, "no route takes messages from queue 'brokn': did you mean 'broken'?"),
        ({"queue": "a", "topic": "b"}, "one queue"),
        ({"pipe": "x"}, "no route takes messages from pipe 'x'"),
        ("asked", "callers of route 'asked' wait for its answer"),
    ],
)
async def test_where_nothing_would_take_them(tmp_path: Path, to: Any, why: str) -> None:
    async with admin(tmp_path, tmp_path / "bus.db") as one:
        key = await one.bury()
        for path, body in (("/dead/replay", {"keys": [key]}), (f"/dead/{key}/replay", {})):
            told = await one.ask("POST", path, {**body, "to": to}, status=409)
            assert why in told["detail"]
        assert await one.store.counts() == {DEAD: 1}


async def test_those_that_cannot_run_stay_with_the_reason(tmp_path: Path, place: Place) -> None:
    async with admin(tmp_path, place) as one:
        await one.bury()
        asked, gone, lost = [
            await one.bury(route=route) for route in ("asked", "removed", "queue:old")
        ]
        told = await one.ask("POST", "/dead/replay", {"all": True})
        assert told["replayed"] == 1
        why = {r["keys"][0]: r["why"] for r in told["refused"]}
        assert "wait for its answer" in why[asked]
        assert "'removed' is not there any more" in why[gone]
        assert "no route takes messages from queue old" in why[lost]
        await one.lie(queue_out=1, dead=3)
        for key in (asked, gone):
            assert why[key] in (await one.ask("POST", f"/dead/{key}/replay", status=409))["detail"]


async def test_what_dies_again_counts_anew_and_is_replayed_once(
    tmp_path: Path, place: Place
) -> None:
    async with admin(tmp_path, place) as one:
        for n in range(150):
            await one.bury("{", id=str(n))
        assert (await one.ask("POST", "/dead/replay", {"all": True}))["replayed"] == 150
        await one.lie(dead=150)
        again = await one.ask("GET", "/dead?limit=150")
        assert {(dead["code"], dead["attempts"]) for dead in again} == {("bad-message", 1)}


async def test_two_who_replay_the_same_share_it(tmp_path: Path, place: Place) -> None:
    async with admin(tmp_path, place) as one:
        keys = [await one.bury() for _ in range(250)]
        three = (one.ask("POST", "/dead/replay", {"keys": keys}) for _ in range(3))
        told = await asyncio.gather(*three)
        assert sum(each["replayed"] for each in told) == 250
        await one.lie(queue_out=250)


async def test_dropped_for_good(tmp_path: Path, place: Place) -> None:
    async with admin(tmp_path, place) as one:
        keys = [await one.bury(route=route) for route in ("orders", "orders", "repairs")]
        assert await one.ask("POST", "/dead/drop", {"route": "orders"}) == {
            "dropped": 2, "refused": [],
        }  # fmt: skip
        told = await one.ask("POST", "/dead/drop", {"keys": keys})
        assert told["dropped"] == 1
        assert [reason["keys"] for reason in told["refused"]] == [[keys[0]], [keys[1]]]
        assert await one.store.counts() == {}


@pytest.mark.parametrize(
    "body", [{}, {"keys": []}, {"all": False}, {"all": True, "code": "x"}, {"rout": "x"}]
)
async def test_many_are_never_meant_by_accident(tmp_path: Path, body: dict[str, Any]) -> None:
    async with admin(tmp_path, tmp_path / "bus.db") as one:
        await one.bury()
        for path in ("/dead/drop", "/dead/replay"):
            await one.ask("POST", path, body, status=422)
        assert await one.store.counts() == {DEAD: 1}


async def test_a_replay_survives_what_it_brings_about(tmp_path: Path, place: Place) -> None:
    """One whose run leaves another dead letter is replayed, that one is not: or it never ended."""
    text = """
routes:
  first: {from: {queue: a}, steps: [{send: {queue: b}}]}
  second: {from: {queue: b}, steps: [{filter: body.missing}]}
"""
    async with admin(tmp_path, place, text) as one:
        for n in range(120):
            await one.bury("{}", id=str(n), route="first")
        told = await one.ask("POST", "/dead/replay", {"all": True})
        assert told["replayed"] == 120
        await one.lie(dead=120)


async def test_a_message_is_found_wherever_it_is(tmp_path: Path, place: Place) -> None:
    async with admin(tmp_path, place) as one:
        later = datetime.now(UTC).timestamp() + 3600
        await one.store.commit(
            [
                Put("queue:later", Envelope(id="m", business_key="K"), due=later),
                Put("queue:later", Envelope(id="q", business_key="K"), due=later, attempts=2),
                Put("queue:nobody", Envelope(id="n", business_key="K")),
                Put("queue:taken", Envelope(id="o", business_key="K")),
            ]
        )
        [_] = await one.store.take("queue:taken", 1)
        await one.bury(id="p", business_key="K")
        found = await one.ask("GET", "/messages?q=K")
        assert {(f["id"], f["state"]) for f in found} == {
            ("m", "waiting"), ("n", "waiting"), ("o", "working"), ("p", "dead"), ("q", "retrying"),
        }  # fmt: skip
        [dead] = await one.ask("GET", "/messages?q=p")
        assert (dead["channel"], dead["failure"]["code"]) == (DEAD, "unreachable")
        assert await one.ask("GET", "/messages?q=nobody") == []
        await one.ask("GET", "/messages?q=", status=422)


async def test_what_is_told_of_the_store(tmp_path: Path, place: Place) -> None:
    async with admin(tmp_path, place) as one:
        await one.bury()
        told = await one.ask("GET", "/store")
        assert told["channels"] == {DEAD: 1}
        assert 0 < told["used"] < told["max_size"]
        assert str(place).rpartition("@")[2].removeprefix("/") in told["where"]
        async with one.client.get(f"{one.url}/metrics") as answer:
            metrics = await answer.text()
        assert 'esb_store_messages{channel="dead"} 1.0' in metrics
        assert f"esb_store_bytes {float(told['used'])}" in metrics
        assert ("esb_store_free_bytes NaN" in metrics) is (told["free"] is None)


async def test_names_from_messages_do_not_flood_the_metrics(tmp_path: Path) -> None:
    async with admin(tmp_path, tmp_path / "bus.db") as one:
        await one.store.commit([Put(f"queue:q{n}", Envelope()) for n in range(250)])
        async with one.client.get(f"{one.url}/metrics") as answer:
            metrics = await answer.text()
        assert metrics.count("esb_store_messages{") == 201
        assert 'esb_store_messages{channel="(others)"} 50.0' in metrics


async def test_a_bus_without_a_store_says_so(tmp_path: Path) -> None:
    text = "routes: {hi: {from: {http: {path: /hi}}, steps: [{set: {body: \"'yes'\"}}]}}\n"
    async with admin(tmp_path, tmp_path / "bus.db", text + "listen: {port: 0}\n") as one:
        told = await one.ask("GET", "/dead", status=404)
        assert told["detail"] == "no route of this bus needs a store"
        async with one.client.get(f"{one.url}/metrics") as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("source", "group", "channel", "turns"),
    [
        ("{queue: in}", "", "accept:orders", ["old", "new", "newer"]),
        # Of a group the next is always free already.
        ("{queue: in}", "customer-7", "queue:in", ["new", "old", "newer"]),
        ("{queue: {name: in, order: true}}", "", "queue:in", ["old", "new", "newer"]),
    ],
)
async def test_where_order_is_kept_it_comes_back_in_its_place(
    tmp_path: Path, place: Place, source: str, group: str, channel: str, turns: list[str]
) -> None:
    text = f"""
routes:
  orders: {{from: {source}, steps: [{{send: {{queue: out}}}}]}}
"""
    async with admin(tmp_path, place, text) as one:
        await one.bus.routes["orders"].stop(1)
        failure = Failure("unreachable", "", "orders", "", 5, NOW)
        await one.store.commit([Put(DEAD, Envelope(id="old"), failure=failure, group=group)])
        for name in ("new", "newer"):
            await one.store.commit([Put(channel, Envelope(id=name), group=group)])
        await one.ask("POST", "/dead/replay", {"all": True})
        taken: list[str] = []
        while found := await one.store.take(channel, 1):
            taken.append(found[0].envelope.id)
            await one.store.done(found[0].key)
        assert taken == turns


async def test_the_last_failure_stays_until_it_is_through(tmp_path: Path, place: Place) -> None:
    async with admin(tmp_path, place) as one:
        key = await one.bury()
        await one.bus.routes["orders"].stop(1)
        await replay(one.store, one.bus.routes, Selection(keys=[key]), None)
        [waits] = await one.ask("GET", f"/messages?q={(await one.store.get(key)).envelope.id}")  # type: ignore[union-attr]
        assert (waits["state"], waits["channel"], waits["attempts"]) == (
            "waiting", "accept:orders", 0,
        )  # fmt: skip
        assert waits["failure"]["code"] == "unreachable"


def test_moments() -> None:
    assert parse_when("2026-11-25T14:00:00Z") == datetime(2026, 11, 25, 14, tzinfo=UTC)
    assert parse_when("2026-11-25") == datetime(2026, 11, 25, tzinfo=UTC)
    assert abs(parse_when("2h") - datetime.now(UTC) + timedelta(hours=2)) < timedelta(seconds=5)
    for wrong in ("yesterday", "2", "-2h", "2026-13-01", "", "99999999999d"):
        with pytest.raises(ValueError, match="how long ago"):
            parse_when(wrong)
    assert Filter() == Filter.model_validate({})
