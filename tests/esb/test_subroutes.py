"""Sub-routes, continuations, the outline of a route, and whoever looks at its steps."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from support.bus import load_text, running, store_of

from esb.config import Project
from esb.envelope import Body, Envelope, Outcome
from esb.errors import RouteFailure
from esb.step import Seen

TWO = """
    routes:
      orders:
        from: {http: {path: /orders}}
        steps:
          - run: priced
          - set: {fields: {after: "'yes'"}}
      priced:
        steps:
          - filter: body.amount > 0
          - set: {fields: {price: body.amount * 2}}
"""


def project(text: str, folder: Path) -> Project:
    return load_text(textwrap.dedent(text), folder)


def message(data: Any) -> Envelope:
    return Envelope(body=Body.of(data))


async def test_its_steps_run_as_if_they_stood_there(tmp_path: Path) -> None:
    loaded = project(TWO, tmp_path).check()
    step = loaded.routes[0].step
    result = await step(message({"amount": 3}))
    assert result.body.data == {"amount": 3, "price": 6, "after": "yes"}
    filtered = await step(message({"amount": 0}))
    assert filtered.outcome is Outcome.FILTERED
    assert [route.source.where for route in loaded.routes] == ["POST /orders", "called by name"]


async def test_an_error_says_in_which_of_them_it_was(tmp_path: Path) -> None:
    step = project(TWO, tmp_path).check().routes[0].step
    with pytest.raises(RouteFailure) as caught:
        await step(message({}))
    assert caught.value.step == "priced/steps[0].filter"


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("run: prised", "did you mean 'priced'?"),
        ("run: orders", "it has its own messages: only a route without `from` is called by name"),
    ],
)
def test_a_name_that_is_none(step: str, says: str, tmp_path: Path) -> None:
    text = textwrap.dedent(TWO).replace("set: {fields: {after: \"'yes'\"}}", step)
    [found] = load_text(text, tmp_path).diagnostics
    assert (found.line, found.code) == (7, "unknown-route")
    assert found.hint == says


def test_what_belongs_to_its_callers(tmp_path: Path) -> None:
    text = textwrap.dedent(TWO).replace("  priced:", "  priced:\n    accept: durable")
    [found] = load_text(text, tmp_path).diagnostics
    assert "a sub-route has no 'accept'" in found.message


async def test_one_that_runs_itself_ends_with_an_error_before_the_stack_does(
    tmp_path: Path,
) -> None:
    text = """
        routes:
          a:
            from: {http: {path: /a}}
            steps: [{run: down}]
          down:
            steps:
              - set: {body: body - 1}
              - choose:
                  - when: body != 0
                    steps: [{run: down}]
    """
    step = project(text, tmp_path).check().routes[0].step
    assert (await step(message(50))).body.data == 0
    with pytest.raises(RouteFailure, match="runs itself without an end"):
        await step(message(-1))


def test_a_change_of_what_it_runs_changes_a_route(tmp_path: Path) -> None:
    before = project(TWO, tmp_path).check().routes
    after = project(TWO.replace("amount * 2", "amount * 3"), tmp_path).check().routes
    same = project(TWO, tmp_path).check().routes
    assert [r.fingerprint for r in before] == [r.fingerprint for r in same]
    assert before[0].fingerprint != after[0].fingerprint


def test_the_outline_says_what_a_route_is_made_of(tmp_path: Path) -> None:
    text = """
        routes:
          a:
            from: {queue: in}
            steps:
              - choose:
                  - when: body.x == 1
                    steps: [{send: {queue: one}}]
                  - otherwise:
                    steps: [{run: b}]
                retry: {attempts: 2}
          b:
            steps: [{send: {queue: "{{ body.name }}"}}]
    """
    root = project(text, tmp_path).check().routes[0].outline
    told = [(part.kind, part.name, part.place, part.line) for part in root.walk()]
    assert told == [
        ("route", "a", "", 3),
        ("source", "queue", "from.queue", 4),
        ("steps", "steps", "steps", 5),
        ("step", "choose", "steps[0].choose", 6),
        ("steps", "[0].steps", "steps[0].choose[0].steps", 8),
        ("step", "send", "steps[0].choose[0].steps[0].send", 8),
        ("endpoint", "queue", "steps[0].choose[0].steps[0].send.queue", 8),
        ("steps", "[1].steps", "steps[0].choose[1].steps", 10),
        ("step", "run", "steps[0].choose[1].steps[0].run", 10),
        ("subroute", "b", "steps[0].choose[1].steps[0].run.route", 10),
    ]
    parts = list(root.walk())
    assert [channel.name for channel in parts[1].channels] == ["queue in"]
    assert [channel.name for channel in parts[6].channels] == ["queue one"]
    assert parts[3].policies == {"retry": {"attempts": 2}}
    assert parts[6].options.name == "one"


async def test_who_looks_sees_every_step(tmp_path: Path) -> None:
    loaded = project(TWO, tmp_path).check()
    orders, priced = loaded.routes
    seen: list[tuple[str, str]] = []

    def note(of: str, one: Seen) -> None:
        seen.append((of, one.place))
        assert (one.after is None) == (one.error is not None)
        assert one.seconds >= 0

    orders.watch.observer = lambda one: note("orders", one)
    priced.watch.observer = lambda one: note("priced", one)
    await orders.step(message({"amount": 3}))
    assert seen == [
        ("priced", "steps[0].filter"),
        ("priced", "steps[1].set"),
        ("orders", "steps[0].run"),
        ("orders", "steps[1].set"),
    ]
    seen.clear()
    orders.watch.observer = None
    with pytest.raises(RouteFailure):
        await orders.step(message({}))
    assert seen == [("priced", "steps[0].filter")]


async def test_copies_of_one_message_made_at_several_places_have_ids_of_their_own(
    tmp_path: Path,
) -> None:
    text = """
        routes:
          a:
            from: {queue: in}
            steps:
              - split: {each: body, steps: [{send: {queue: out}}]}
              - split: {each: body, steps: [{send: {queue: out}}]}
              - multicast: {branches: {x: [{send: {queue: out}}]}}
              - run: b
              - run: b
              - routing_slip: {slip: "['b', 'b']", among: [b]}
              - loop: {times: 2, steps: [{run: b}]}
          b:
            steps:
              - split: {each: body, steps: [{send: {queue: out}}]}
    """
    async with running(text, tmp_path) as bus:
        await bus.routes["a"].step(Envelope(body=Body.of([1]), id="m"))
        found = [one.envelope.id for one in await store_of(bus).browse("queue:out")]
        assert found == [
            *("m.0", "m.2:0", "m.3:x", "m.b-0", "m.b2-0"),
            *("m.1-b3-0", "m.2-b3-0", "m.1-b4-0", "m.2-b4-0"),
        ]
        # They are the same when it runs again.
        await bus.routes["a"].step(Envelope(body=Body.of([1]), id="m"))
        again = [one.envelope.id for one in await store_of(bus).browse("queue:out")]
        assert again == [*found, *found]
