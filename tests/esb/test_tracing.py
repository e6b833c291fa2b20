"""What is recorded of messages: what each step received and returned, of which messages, and that
nothing of it disturbs them."""

from __future__ import annotations

import asyncio
import gc
import re
from pathlib import Path
from typing import Any

import pytest
from support.bus import load_text, running, store_of, url
from support.processes import Answer, request
from support.waiting import until

from esb.bus import Bus
from esb.envelope import Body, Envelope
from esb.redaction import Redactor
from esb.step import Seen, Watch
from esb.traces import Snapshot, Trace
from esb.tracing import MOST_VISITS, Listener, Run, Tracing, snapshot

ROUTES = """
trace: {sample: 1, redact: [shoe]}
routes:
  orders:
    from: {http: {path: /orders, method: POST}}
    business_key: body.number
    steps:
      - set: {headers: {x-kind: body.kind}, fields: {seen: "true"}}
      - choose:
          - when: body.kind == 'bad'
            steps: [{set: {body: body.nothing}}]
          - otherwise:
            steps:
              - split: {each: body.lines, steps: [{run: line}]}
      - send: {queue: out}
  line:
    steps:
      - set: {fields: {checked: "true"}}
      - filter: body.n > 1
"""


def tracing_of(bus: Bus) -> Tracing:
    found: Tracing = bus.shared.objects["traces"]
    return found


async def kept(bus: Bus, text: str, count: int = 1) -> list[Trace]:
    """The traces that are found by `text`, once there are so many."""
    found: list[Trace] = []

    async def there() -> bool:
        found[:] = await tracing_of(bus).store.traces(text)
        return len(found) >= count

    await until(there)
    assert len(found) == count
    return found


async def post(bus: Bus, body: Any, **headers: str) -> Answer:
    return await asyncio.to_thread(request, "POST", f"{url(bus)}/orders", body, headers)


async def test_a_trace_tells_what_each_step_received_and_returned(tmp_path: Path) -> None:
    async with running(ROUTES, tmp_path) as bus:
        body = {
            "number": "A-7", "kind": "good", "lines": [{"n": 1}, {"n": 2}], "password": "hunter2",
            "shoe": "43-wide",
        }  # fmt: skip
        answer = await post(bus, body, Authorization="Basic abc")
        assert answer.status == 202
        [trace] = await kept(bus, "A-7")
    assert (trace.route, trace.outcome, trace.where) == ("orders", "accepted", "POST /orders")
    assert dict(trace.headers)["authorization"] == "***"
    places = [(visit.route, visit.place, visit.id[len(trace.id) :]) for visit in trace.visits]
    assert places == [
        ("", "steps[0].set", ""),
        ("", "steps[1].choose", ""),
        ("", "steps[1].choose[1].steps[0].split", ""),
        ("", "steps[1].choose[1].steps[0].split.steps[0].run", ".0"),
        ("line", "steps[0].set", ".0"),
        ("line", "steps[1].filter", ".0"),
        ("", "steps[1].choose[1].steps[0].split.steps[0].run", ".1"),
        ("line", "steps[0].set", ".1"),
        ("line", "steps[1].filter", ".1"),
        ("", "steps[2].send", ""),
        ("", "steps[2].send.queue", ""),
    ]
    first, *_ = trace.visits
    assert first.headers == {"x-kind": "good"}
    assert trace.bodies[first.given] == trace.bodies[trace.given]
    assert '"seen":true' in trace.bodies[first.returned].text
    outcomes = [visit.outcome for visit in trace.visits if visit.place.endswith("filter")]
    assert outcomes == ["filtered", "message"]
    text = str(trace)
    assert "hunter2" not in text
    assert "43-wide" not in text
    assert 0 <= first.begun <= trace.visits[-1].begun <= trace.seconds
    told = trace.told()
    assert told["visits"][0]["returned"]["text"] == trace.bodies[first.returned].text
    assert "bodies" not in told


async def test_of_errors_only_those_that_failed_are_kept(tmp_path: Path) -> None:
    routes = ROUTES.replace("{sample: 1, redact: [shoe]}", "{errors: true, bodies: false}")
    async with running(routes, tmp_path) as bus:
        assert (await post(bus, {"number": "1", "kind": "good", "lines": []})).status == 202
        assert (await post(bus, {"number": "2", "kind": "bad"})).status == 500
        [trace] = await kept(bus, "2")
        assert await tracing_of(bus).store.traces("1") == []
    assert (trace.outcome, trace.code) == ("", "route-failure")
    assert trace.step == "steps[1].choose[0].steps[0].set"
    assert trace.bodies == []
    failed = [visit.place for visit in trace.visits if visit.code]
    assert failed == ["steps[1].choose", "steps[1].choose[0].steps[0].set"]


async def test_what_ends_in_the_dead_letters_has_failed(tmp_path: Path) -> None:
    routes = """
    routes:
      a:
        from: {queue: a}
        trace: {errors: true}
        steps: [{set: {body: body.nothing}}]
    """
    async with running(routes, tmp_path) as bus:
        await store_of(bus).put("queue:a", Envelope(id="m", body=Body.of({})))
        [trace] = await kept(bus, "m")
    assert trace.outcome == "dead"
    assert trace.where == "queue a"


async def test_a_route_says_for_itself(tmp_path: Path) -> None:
    routes = ROUTES.replace("    business_key", "    trace: {sample: 0}\n    business_key")
    async with running(routes, tmp_path) as bus:
        assert (await post(bus, {"number": "1", "kind": "good", "lines": []})).status == 202
    assert not (tmp_path / "bus.traces.db").exists()


async def test_nothing_is_looked_at_unless_somebody_wants_it(tmp_path: Path) -> None:
    routes = ROUTES.replace("trace: {sample: 1, redact: [shoe]}", "")
    async with running(routes, tmp_path) as bus:
        orders, line = bus.routes["orders"].watch, bus.routes["line"].watch
        assert orders.observer is line.observer is None
        listener = Listener("orders", wanted=lambda trace, _: trace.business_key == "2",
                            bodies=True, max_body=100)  # fmt: skip
        with tracing_of(bus).listening(listener):
            assert None not in (orders.observer, line.observer)
            for number in "123":
                await post(bus, {"number": number, "kind": "good", "lines": []})
            assert (await listener.queue.get()).business_key == "2"
            assert listener.queue.empty()
        assert orders.observer is line.observer is None
        await post(bus, {"number": "2", "kind": "good", "lines": []})
        assert listener.queue.empty()


async def test_whoever_looks_on_too_slowly_is_told_how_many_were_left_out(tmp_path: Path) -> None:
    async with running(ROUTES.replace("sample: 1", "sample: 0"), tmp_path) as bus:
        listener = Listener("orders", wanted=lambda *_: True, bodies=False, max_body=0)
        listener.queue = asyncio.Queue(2)
        with tracing_of(bus).listening(listener):
            for number in "12345":
                await post(bus, {"number": number, "kind": "good", "lines": []})
        assert (listener.queue.qsize(), listener.dropped) == (2, 3)


async def test_a_long_run_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    async with running(ROUTES, tmp_path) as bus:
        lines = [{"n": n} for n in range(MOST_VISITS)]
        await post(bus, {"number": "1", "kind": "good", "lines": lines})
        [trace] = await kept(bus, "1")
    assert len(trace.visits) == MOST_VISITS
    # set, choose, split, send, its queue; of each line run, set, filter
    assert trace.left_out == 5 + 3 * MOST_VISITS - MOST_VISITS
    assert trace.visits[0].place == "steps[0].set"
    assert trace.visits[-1].place == "steps[2].send.queue"


async def test_the_same_messages_are_traced_wherever_they_pass(tmp_path: Path) -> None:
    routes = """
    trace: {sample: 0.5}
    routes:
      a: {from: {queue: a}, steps: [{send: {queue: b}}]}
      b: {from: {queue: b}, steps: [{filter: "true"}]}
    """
    async with running(routes, tmp_path) as bus:
        store, traces = store_of(bus), tracing_of(bus).store
        sent = [Envelope(body=Body.of({}), correlation_id="all") for _ in range(60)]
        for one in sent:
            await store.put("queue:a", one)

        async def through() -> bool:
            return not await store.counts()

        await until(through)
    found: dict[str, set[str]] = {}
    for trace in await traces.traces("all", limit=1000):
        found.setdefault(trace.id, set()).add(trace.route)
    await traces.close()
    assert 10 < len(found) < 50
    assert all(routes == {"a", "b"} for routes in found.values())


async def test_a_store_of_traces_that_fails_harms_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(ROUTES, tmp_path) as bus:
        tracing = tracing_of(bus)

        async def fails(*_: Any) -> None:
            raise OSError("no disk")

        monkeypatch.setattr(tracing.store, "keep_traces", fails)
        assert (await post(bus, {"number": "1", "kind": "good", "lines": []})).status == 202
        await until(lambda: tracing.health().detail)
        assert bus.readyz()[0]
        monkeypatch.undo()
        await post(bus, {"number": "2", "kind": "good", "lines": []})
        await kept(bus, "2")
        assert tracing.health().detail == ""


async def test_what_is_written_when_the_bus_stops_is_there(tmp_path: Path) -> None:
    async with running(ROUTES, tmp_path) as bus:
        traces = tracing_of(bus).store
        await post(bus, {"number": "1", "kind": "good", "lines": []})
    assert len(await traces.traces("1")) == 1
    await traces.close()


def test_secrets_from_the_environment_are_left_out(tmp_path: Path) -> None:
    project = load_text(
        'routes: {a: {from: {queue: "${TOKEN}"}, steps: [log]}}', tmp_path,
        environ={"TOKEN": "abcdef"},
    ).check()  # fmt: skip
    assert project.routes
    shared_secrets = {"abcdef"}
    tracing = next(o for o in gc.get_objects() if isinstance(o, Tracing) and o.secrets)
    assert tracing.secrets == shared_secrets


def test_the_settings_on_the_page_load(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "traces.md"
    [block] = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    assert load_text(block, tmp_path).diagnostics == []


def test_several_may_look_on_at_once() -> None:
    watch = Watch("r")
    told: list[str] = []
    seen = Seen("p", Envelope(), Envelope(), None, 0.0, 0.0)
    watch.observe("a", lambda one: told.append("a"))
    watch.observe("b", lambda one: told.append("b"))
    assert watch.observer is not None
    watch.observer(seen)
    watch.observe("a", None)
    watch.observer(seen)
    watch.observe("b", None)
    assert told == ["a", "b", "b"]
    assert watch.observer is None


# --- bodies ---------------------------------------------------------------------------------------


def shown(body: Body, longest: int = 40) -> tuple[str, bool]:
    one = snapshot(body, Redactor(values=lambda: ["topsecret"]), longest)
    return one.text, one.cut


def test_bodies_as_they_are_shown() -> None:
    assert shown(Body(b'{"a":1}', "application/json")) == ('{"a":1}', False)
    assert shown(Body(b"x" * 50, "text/plain")) == ("x" * 40, True)
    assert shown(Body("ä".encode() * 500, "text/plain")) == ("ä" * 40, True)
    assert shown(Body(b"\xff\xfe", "image/png")) == ("(no text)", False)
    assert shown(Body.of({"a": [1, "b", None]})) == ('{"a":[1,"b",null]}', False)
    assert shown(Body.of({"n": list(range(10**6))}))[1]
    assert shown(Body.of({"s": "y" * 10**6})) == ('{"s":"' + "y" * 34, True)


def test_nothing_is_parsed_or_written_to_show_it() -> None:
    raw, data = Body(b"{}", "application/json"), Body.of({"a": 1})
    shown(raw)
    shown(data)
    assert not raw.is_parsed
    assert not data.is_written


def test_of_a_file_the_beginning_is_read(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x" * 10**6)
    body = Body.from_file(file, "text/plain", max_whole=1000)
    assert snapshot(body, Redactor(), 3) == Snapshot("text/plain", 10**6, "xxx", cut=True)
    file.unlink()
    assert snapshot(body, Redactor(), 3).text == "(cannot be shown)"


def test_a_secret_that_is_cut_in_two_is_none_that_is_shown() -> None:
    text, _ = shown(Body(b"." * 36 + b"topsecret", "text/plain"))
    assert "tops" not in text
    text, _ = shown(Body(b'{"xxxxxxxxxxxxxxxxx":1, "password": "hunter2hunter2"}', ""))
    assert "hunter" not in text


async def test_the_run_that_was_recorded_is_gone_afterwards(tmp_path: Path) -> None:
    others = runs()  # that other tests left behind, held so that no new one takes their place
    async with running(ROUTES, tmp_path) as bus:
        listener = Listener("orders", wanted=lambda *_: False, bodies=True, max_body=10)
        with tracing_of(bus).listening(listener):
            await post(bus, {"number": "1", "kind": "good", "lines": []})
        await kept(bus, "1")
        known = {id(one) for one in others}
        await until(lambda: gc.collect() >= 0 and not {id(one) for one in runs()} - known)


def runs() -> list[Run]:
    return [one for one in gc.get_objects() if isinstance(one, Run)]


async def test_who_looks_at_one_route_is_not_told_of_the_steps_of_others(tmp_path: Path) -> None:
    text = """
        routes:
          seen: {from: {http: /seen}, trace: {errors: true}, steps: [{run: sub}]}
          unseen: {from: {http: /unseen}, steps: [{run: sub}, {set: {body: "1"}}]}
          sub: {steps: [{set: {body: "2"}}]}
        """
    async with running(text, tmp_path) as bus:
        tracing: Tracing = bus.shared.objects["traces"]
        watched = {name: route.watch.observer is not None for name, route in bus.routes.items()}
        assert watched == {"seen": True, "unseen": False, "sub": True}
        with tracing.listening(
            Listener("unseen", wanted=lambda *_: True, bodies=True, max_body=99)
        ) as listener:
            assert bus.routes["unseen"].watch.observer is not None
            await bus.routes["unseen"].step(Envelope(body=Body(b"0", "application/json")))
            trace = listener.queue.get_nowait()
            assert [visit.place for visit in trace.visits] == [
                "steps[0].run", "steps[0].set", "steps[1].set"
            ]  # fmt: skip
        assert bus.routes["unseen"].watch.observer is None
        assert bus.routes["seen"].watch.observer is not None
