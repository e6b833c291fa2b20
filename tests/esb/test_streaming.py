"""Which bodies may pass as they arrive, and that those that may are never missed by anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support import piped
from support.bus import load_text
from support.piped import arriving

from esb.bus import Shared
from esb.config import load
from esb.envelope import Body, Envelope, Headers, Outcome
from esb.explain import explain
from esb.route import Route

FROM, FIRST, SECOND = "from.pipe", "steps[0].call.pipe", "steps[1].call.pipe"

# By what a route has: the places out of which bodies may come as they arrive.
OPEN = {
    "a proxy": ("steps: [{call: {pipe: {}}}]", {FROM, FIRST}),
    "one way": ("steps: [{send: {pipe: {}}}]", {FROM}),
    "two calls": ("steps: [{call: {pipe: {}}}, {call: {pipe: {}}}]", {FROM, FIRST, SECOND}),
    "a call that sends no body": ("steps: [{call: {pipe: {sends: false}}}]", {FROM, FIRST}),
    "by a header": (
        "steps: [{choose: [{when: headers.a == 'x', steps: [{call: {pipe: {}}}]},"
        " {otherwise: , steps: [{send: {pipe: {}}}]}]}]",
        {FROM, "steps[0].choose[0].steps[0].call.pipe"},
    ),
    "steps that touch no body": (
        "steps: [{set: {headers: {a: headers.b}}}, {log: 'got {{ message.id }}'}, {filter: 'true'},"
        " {call: {pipe: {}}}, {set: {headers: {a: reply.status | default(1)}}}]",
        {FROM, "steps[3].call.pipe"},
    ),
    "a time limit": (
        "timeout: 5s\nsteps: [{call: {pipe: {}}, timeout: 1s}]",
        {FROM, FIRST},
    ),
    "a sub-route": ("steps: [{run: sends}]", {FROM}),
    "a sub-route and a call": ("steps: [{run: touches}, {call: {pipe: {}}}]", {FROM, SECOND}),
    "an answer and a sub-route": ("steps: [{call: {pipe: {}}}, {run: sends}]", {FROM, FIRST}),
    "the answer of a sub-route": ("steps: [{run: calls}]", {FROM}),  # others run it, too
    "a sub-route that reads": ("steps: [{call: {pipe: {}}}, {run: reads}]", {FROM}),
    "a sub-route that tries again": ("steps: [{run: retries}]", set()),
    "a sub-route with few at a time": ("steps: [{run: limits}]", set()),
    "a sub-route that runs itself": ("steps: [{run: itself}]", set()),
    # What came in goes out again: a sender may send all of it before it listens.
    "nothing is done": ("steps: []", set()),
    "a branch in which nothing is done": (
        "steps: [{choose: [{when: headers.a == 'x', steps: [{call: {pipe: {}}}]}]}]",
        {"steps[0].choose[0].steps[0].call.pipe"},
    ),
    # Somebody reads it.
    "by the body": (
        "steps: [{filter: body.a > 1}, {call: {pipe: {}}}]",
        {SECOND},
    ),
    "by the text": ("steps: [{log: '{{ text }}'}, {call: {pipe: {}}}]", {SECOND}),
    "a query": ("steps: [{filter: xpath('//a') | length}, {call: {pipe: {}}}]", {SECOND}),
    "an address with the body": ("steps: [{call: {pipe: {name: '{{ body.a }}'}}}]", {FIRST}),
    "a field is set": ("steps: [{set: {fields: {a: 1}}}, {call: {pipe: {}}}]", {SECOND}),
    "a template": (
        'steps: [{transform: {jinja: "{{ body }}\\n"}}, {call: {pipe: {}}}]',
        {SECOND},
    ),
    "the answer is read": ("steps: [{call: {pipe: {}}}, {log: '{{ body.a }}'}]", {FROM}),
    "the source reads the answer": (
        "from: {pipe: {answer: '{{ body.a }}'}}\nsteps: [{call: {pipe: {}}}]",
        {FROM},
    ),
    "a business key": ("business_key: body.a\nsteps: [{call: {pipe: {}}}]", {FIRST}),
    "a business key in a header": (
        "business_key: headers.a\nsteps: [{call: {pipe: {}}}]",
        {FROM, FIRST},
    ),
    # Somebody needs it again, or keeps it.
    "two sends": ("steps: [{send: {pipe: {}}}, {send: {pipe: {}}}]", set()),
    "the answer is sent twice": (
        "steps: [{call: {pipe: {}}}, {send: {pipe: {}}}, {send: {pipe: {}}}]",
        {FROM},
    ),
    "a step is tried again": ("steps: [{call: {pipe: {}}, retry: {attempts: 2}}]", set()),
    "the route is tried again": ("retry: {attempts: 2}\nsteps: [{call: {pipe: {}}}]", set()),
    "dead letters": ("dead_letter: {queue: dead}\nsteps: [{call: {pipe: {}}}]", set()),
    "accepted": ("accept: durable\nsteps: [{call: {pipe: {}}}]", set()),
    "traces with bodies": ("trace: {errors: true}\nsteps: [{call: {pipe: {}}}]", set()),
    "traces without": (
        "trace: {errors: true, bodies: false}\nsteps: [{call: {pipe: {}}}]",
        {FROM, FIRST},
    ),
    "stored": ("steps: [{send: {queue: a}}]", set()),
    "an answer stored": ("steps: [{call: {pipe: {}}}, {send: {queue: a}}]", {FROM}),
    "something else": ("steps: [{copy_to: {pipe: {}}}, {call: {pipe: {}}}]", {SECOND}),
    "copies": ("steps: [{multicast: {branches: {a: [{call: {pipe: {}}}]}}}]", set()),
    # A sender who is slow would be in the way of others.
    "few at a time": ("concurrency: 2\nsteps: [{call: {pipe: {}}}]", set()),
    "few at the far side": ("steps: [{call: {pipe: {concurrency: 2}}}]", set()),
    "few at any": ("endpoints: {concurrency: 2}\nsteps: [{call: {pipe: {}}}]", set()),
    "a circuit": ("steps: [{call: {pipe: {circuit_breaker: {}}}}]", set()),
}


SUBROUTES = """
  sends: {steps: [{set: {headers: {a: "'x'"}}}, {send: {pipe: {}}}]}
  touches: {steps: [{set: {headers: {a: "'x'"}}}]}
  calls: {steps: [{call: {pipe: {}}}]}
  reads: {steps: [{log: "{{ text }}"}]}
  retries: {retry: {attempts: 2}, steps: [{send: {pipe: {}}}]}
  limits: {concurrency: 2, steps: [{send: {pipe: {}}}]}
  itself:
    steps:
      - choose: [{when: headers.a == 'x', steps: [{run: itself}]}, {otherwise: , steps: [log]}]
      - send: {pipe: {}}
  unused:
    from: {pipe: {}}
    steps: [{run: sends}, {run: touches}, {run: calls}, {run: reads}, {run: retries},
            {run: limits}, {run: itself}]
"""


@pytest.fixture(autouse=True)
def pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    piped.install(monkeypatch)


def open_places(route: Route) -> set[str]:
    return {part.place for part in route.outline.walk() if part.passage.open}


@pytest.mark.parametrize("what", OPEN)
def test_the_load_says_what_may_pass_as_it_arrives(what: str, tmp_path: Path) -> None:
    route, places = OPEN[what]
    text = route if "from:" in route else f"from: {{pipe: {{}}}}\n{route}"
    lines = "".join(f"\n    {line}" for line in text.splitlines())
    text = f"store: {{path: bus.db}}\nroutes:\n  r:{lines}{SUBROUTES}"
    project = load_text(text, tmp_path).check()
    assert open_places(project.routes[0]) == places
    said = "large bodies pass as they arrive" in explain(project.routes[0], {})
    assert said == (FROM in places)


# --- what the load says holds ---------------------------------------------------------------------

plain = st.sampled_from(
    [
        {"set": {"headers": {"a": "'x'"}}},
        {"set": {"headers": {"a": "'y'"}}},
        {"set": {"headers": {"a": "text"}}},
        {"set": {"body": "'new'", "content_type": "text/plain"}},
        {"set": {"content_type": "text/html"}},
        {"log": "{{ headers.a | default('') }}"},
        {"log": "{{ text }}"},
        {"filter": "headers.a | default('') == 'x'"},
        {"call": {"pipe": {}}},
        {"call": {"pipe": {"sends": False}}},
        {"call": {"pipe": {"name": "{{ text }}"}}},
        {"call": {"pipe": {}}, "retry": {"attempts": 2}},
        {"send": {"pipe": {}}},
        {"send": {"pipe": {"sends": False}}},
        {"copy_to": {"pipe": {}}},
        {"run": "sub"},
    ]
)


def choices(steps: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(steps, max_size=3)
    when = st.fixed_dictionaries({"when": st.just("headers.a | default('') == 'x'"), "steps": some})
    otherwise = st.fixed_dictionaries({"otherwise": st.none(), "steps": some})
    branches = st.one_of(st.tuples(when), st.tuples(when, otherwise)).map(list)
    return st.fixed_dictionaries({"choose": branches})


routes = st.fixed_dictionaries(
    {
        "from": st.sampled_from([{"pipe": {}}, {"pipe": {"answer": "{{ text }}"}}]),
        "steps": st.lists(st.recursive(plain, choices, max_leaves=6), max_size=5),
    }
)
subroutes = st.fixed_dictionaries({"steps": st.lists(plain, max_size=3)}).filter(
    lambda sub: {"run": "sub"} not in sub["steps"]
)


@settings(deadline=None, max_examples=300)
@given(routes, subroutes, st.sampled_from("xy"))
async def test_no_step_misses_a_body_that_passes_as_it_arrives(
    route: dict[str, Any], sub: dict[str, Any], header: str
) -> None:
    shared = Shared()
    other = {"from": {"pipe": {}}, "steps": [{"run": "sub"}]}
    named = {"r": route, "sub": sub, "other": other}
    extra = {"routes": named, "store": {"path": "unused.db"}}
    project = load([], shared=shared, extra=yaml.safe_load(yaml.safe_dump(extra))).check()
    [built] = [one for one in project.routes if one.name == "r"]
    [source] = [part for part in built.outline.parts if part.kind == "source"]
    body = Body(b"whole", "text/plain")
    if source.passage.open:
        body = Body.from_stream(arriving(b"in ", b"pieces"), "text/plain")
    answer = await built.step(Envelope(body=body, headers=Headers([("a", header)])))
    if answer.outcome in (Outcome.MESSAGE, Outcome.REPLY):
        assert answer.body is not body or not body.is_stream
        if "answer" in route["from"]["pipe"]:
            assert answer.body.text is not None
        assert b"".join([piece async for piece in answer.body.chunks()]) is not None
