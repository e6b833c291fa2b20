"""What holds for any tree of steps and any messages, whatever fails and wherever it is cut off.

Hypothesis draws trees, messages and a script of errors. The routes are compiled from YAML and run
on a bus with a real store; beside it runs a model of what each step means, one message after the
other and in memory. The store must then hold what the model says, and nothing else:

* Each message has one end: it went through, was filtered, or lies in the dead letters, with the
  code and the place of its error and the number of tries.
* What a run that went through has sent to queues is there exactly once; of a run that failed, and
  of a part that was tried again or caught, nothing. What is copied aside is there each time.
* Where one thing is done after the other, the order is that in which it was done.
* No part of a split is lost: it was delivered, filtered, or its error is that of the message.
* A run that is cut off leaves nothing, and the message goes through once it is run again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import pytest
import structlog
from hypothesis import event, given, settings
from hypothesis import strategies as st
from support.scripted import Far, Script, World, install
from support.waiting import until

from esb.bus import Bus, Shared
from esb.config import Project, load
from esb.durable import DEAD, Store
from esb.envelope import Body, Envelope
from esb.errors import KINDS, Transient

T = TypeVar("T")
Data = dict[str, Any]
"""A body: {"n": a number, "items": [more such]}."""

QUEUES = ("p", "q")
TAPS = ("t",)
FARS = ("a", "b", "c")
CODES = ("transient", "unreachable", "timed-out", "rejected", "outcome-unknown", "bad-reply")


# --- steps, as they are written ------------------------------------------------------------------


class Node:
    """A step of a drawn tree."""

    verb: str

    def options(self, names: Names) -> Any:
        """What is written behind the verb."""
        raise NotImplementedError

    def run(self, model: Model, place: str, message: Message) -> Message:
        """What it means. Raises Failed."""
        raise NotImplementedError

    @property
    def inner(self) -> Sequence[Sequence[Node]]:
        """The lists of steps in it."""
        return ()

    side_by_side = False


@dataclass
class Names:
    """What one example calls its routes and queues, and the sub-routes that it needs."""

    prefix: str
    subroutes: dict[str, Any] = field(default_factory=dict)

    def steps(self, nodes: Sequence[Node]) -> list[Any]:
        """Steps as in YAML."""
        return [self.step(node) for node in nodes]

    def step(self, node: Node) -> dict[str, Any]:
        if isinstance(node, Retried):
            return {
                **self.step(node.step),
                "retry": {"attempts": node.attempts, "backoff": "1ms"},
            }
        return {node.verb: node.options(self)}


@dataclass(frozen=True)
class Message:
    id: str
    body: Data
    outcome: str = "message"
    turns: str = ""  # of the loops and sub-routes around
    route: str = ""  # or sub-route that it is in

    def in_turn(self, number: int) -> Message:
        return replace(self, turns=f"{self.turns}{number}-")

    def with_body(self, body: Data) -> Message:
        return replace(self, body=body, outcome="message" if self.accepted else self.outcome)

    @property
    def accepted(self) -> bool:
        return self.outcome == "accepted"

    @property
    def filtered(self) -> bool:
        return self.outcome == "filtered"


def all_accepted(results: Sequence[Message]) -> bool:
    """Whether somebody has taken all that was not left out."""
    kept = [result for result in results if not result.filtered]
    return bool(kept) and all(result.accepted for result in kept)


class Failed(Exception):
    """A step raised an error."""

    def __init__(self, code: str, place: str) -> None:
        super().__init__(code, place)
        self.code = code

    def is_one_of(self, names: Sequence[str]) -> bool:
        return issubclass(KINDS[self.code], tuple(KINDS[name] for name in names))


@dataclass
class Model:
    """The engine in memory. sent: what the run would send, in order. claims: who has what in it.
    seen, taps, calls: what lasts, whatever becomes of the run."""

    script: Script
    prefix: str
    places: Places
    sent: list[tuple[str, str, int]] = field(default_factory=list)
    claims: dict[int, str] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    taps: list[tuple[str, str, int]] = field(default_factory=list)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)

    def steps(self, nodes: Sequence[Node], place: str, message: Message) -> Message:
        """Run a list of steps."""
        for i, node in enumerate(nodes):
            verb = node.step.verb if isinstance(node, Retried) else node.verb
            message = node.run(self, f"{place}[{i}].{verb}", message)
            if message.filtered:
                break
        return message

    def copy(self, message: Message, place: str, name: str | int) -> Message:
        """The copy for a branch or part that the step at this place makes."""
        number = self.places[message.route, place]
        before = "" if number == 1 else f"{number}:"
        return replace(message, id=f"{message.id}.{message.turns}{before}{name}")

    def meet(self, name: str, place: str, message: Message) -> None:
        """Call a far side."""
        number = self.calls[name, message.id]
        self.calls[name, message.id] += 1
        code = (*self.script.get(name, ()), *[""] * (number + 1))[number]
        if code:
            raise Failed(code, place)

    @contextmanager
    def part(self) -> Iterator[None]:
        """What fails in here leaves nothing."""
        sent, claims = len(self.sent), dict(self.claims)
        try:
            yield
        except Failed:
            del self.sent[sent:]
            self.claims = claims
            raise

    def tries(self, attempts: int, step: Any) -> Message:
        """Try something so often. The Failed of the last try knows its number."""
        for attempt in range(1, attempts + 1):
            try:
                with self.part():
                    return step()
            except Failed as e:
                if attempt == attempts or not e.is_one_of(["transient"]):
                    e.args = (*e.args[:2], attempt)
                    raise
        raise AssertionError


@dataclass(frozen=True)
class Send(Node):
    to: str
    verb = "send"

    def options(self, names: Names) -> Any:
        return {"queue": names.prefix + self.to}

    def run(self, model: Model, place: str, message: Message) -> Message:
        model.sent.append((self.to, message.id, message.body["n"]))
        return replace(message, outcome="accepted")


@dataclass(frozen=True)
class Deliver(Node):
    to: str
    verb = "send"

    def options(self, names: Names) -> Any:
        return {"far": self.to}

    def run(self, model: Model, place: str, message: Message) -> Message:
        model.meet(self.to, place, message)
        return replace(message, outcome="accepted")


@dataclass(frozen=True)
class Ask(Node):
    to: str
    verb = "call"

    def options(self, names: Names) -> Any:
        return {"far": self.to}

    def run(self, model: Model, place: str, message: Message) -> Message:
        model.meet(self.to, place, message)
        body = {**message.body, "n": message.body["n"] + 100}
        return replace(message, body=body, outcome="reply")


@dataclass(frozen=True)
class Tap(Node):
    to: str
    verb = "copy_to"

    def options(self, names: Names) -> Any:
        return {"queue": names.prefix + self.to}

    def run(self, model: Model, place: str, message: Message) -> Message:
        model.taps.append((self.to, message.id, message.body["n"]))
        return message


@dataclass(frozen=True)
class Add(Node):
    number: int
    verb = "set"

    def options(self, names: Names) -> Any:
        return {"fields": {"n": f"body.n + {self.number}"}}

    def run(self, model: Model, place: str, message: Message) -> Message:
        return message.with_body({**message.body, "n": message.body["n"] + self.number})


@dataclass(frozen=True)
class Filter(Node):
    rest: int
    verb = "filter"

    def options(self, names: Names) -> Any:
        return f"body.n % 3 != {self.rest}"

    def run(self, model: Model, place: str, message: Message) -> Message:
        passes = message.body["n"] % 3 != self.rest
        return message if passes else replace(message, outcome="filtered")


@dataclass(frozen=True)
class Once(Node):
    verb = "skip_seen"

    def options(self, names: Names) -> Any:
        return {"by": "body.n", "scope": names.prefix}

    def run(self, model: Model, place: str, message: Message) -> Message:
        value = message.body["n"]
        if value in model.seen or model.claims.setdefault(value, message.id) != message.id:
            return replace(message, outcome="filtered")
        return message


@dataclass(frozen=True)
class Choose(Node):
    even: Sequence[Node]
    odd: Sequence[Node]
    verb = "choose"

    def options(self, names: Names) -> Any:
        return [
            {"when": "body.n % 2 == 0", "steps": names.steps(self.even)},
            {"otherwise": None, "steps": names.steps(self.odd)},
        ]

    def run(self, model: Model, place: str, message: Message) -> Message:
        branch = message.body["n"] % 2
        steps = self.odd if branch else self.even
        return model.steps(steps, f"{place}[{branch}].steps", message)

    @property
    def inner(self) -> Sequence[Sequence[Node]]:
        return (self.even, self.odd)


@dataclass(frozen=True)
class Split(Node):
    steps: Sequence[Node]
    concurrency: int
    verb = "split"

    def options(self, names: Names) -> Any:
        steps = names.steps(self.steps)
        return {"each": "body.items", "steps": steps, "concurrency": self.concurrency}

    def run(self, model: Model, place: str, message: Message) -> Message:
        results = self.parts(model, place, message)
        accepted = all_accepted(results)
        return replace(message, outcome="accepted") if accepted else message

    def parts(self, model: Model, place: str, message: Message) -> list[Message]:
        return together(
            model,
            [
                (self.steps, f"{place}.steps", replace(model.copy(message, place, i), body=item))
                for i, item in enumerate(message.body["items"])
            ],
            self.concurrency,
        )

    @property
    def inner(self) -> Sequence[Sequence[Node]]:
        return (self.steps,)

    @property
    def side_by_side(self) -> bool:  # type: ignore[override]
        return self.concurrency > 1


@dataclass(frozen=True)
class Gather(Split):
    """A split whose results are the new body, and a step that makes one of our bodies of it."""

    verb = "loop"

    def options(self, names: Names) -> Any:
        remade = {"body": {"n": "body | length", "items": "body"}}
        split = {**super().options(names), "gather": True}
        return {"times": 1, "steps": [{"split": split}, {"set": remade}]}

    def run(self, model: Model, place: str, message: Message) -> Message:
        results = self.parts(model, f"{place}.steps[0].split", message.in_turn(1))
        bodies = [result.body for result in results if not result.filtered]
        return message.with_body({"n": len(bodies), "items": bodies})


@dataclass(frozen=True)
class Multicast(Node):
    one: Sequence[Node]
    two: Sequence[Node]
    concurrency: int
    verb = "multicast"

    def options(self, names: Names) -> Any:
        branches = {"x": names.steps(self.one), "y": names.steps(self.two)}
        return {"branches": branches, "concurrency": self.concurrency}

    def run(self, model: Model, place: str, message: Message) -> Message:
        jobs = self.jobs(model, place, message)
        results = together(model, jobs, self.concurrency)
        accepted = all_accepted(results)
        return replace(message, outcome="accepted") if accepted else message

    def jobs(self, model: Model, place: str, message: Message) -> list[Job]:
        return [
            (steps, f"{place}.branches.{name}", model.copy(message, place, name))
            for name, steps in (("x", self.one), ("y", self.two))
        ]

    @property
    def inner(self) -> Sequence[Sequence[Node]]:
        return (self.one, self.two)

    @property
    def side_by_side(self) -> bool:  # type: ignore[override]
        return self.concurrency > 1


@dataclass(frozen=True)
class Scatter(Multicast):
    """One answer is enough; and a step that makes one of our bodies of the answers."""

    verb = "loop"

    def options(self, names: Names) -> Any:
        scatter = {**super().options(names), "need": 1}
        total = "(body.x.n | default(0)) + (body.y.n | default(0))"
        remade = {"body": {"n": total, "items": "[]"}}
        return {"times": 1, "steps": [{"scatter_gather": scatter}, {"set": remade}]}

    def run(self, model: Model, place: str, message: Message) -> Message:
        place = f"{place}.steps[0].scatter_gather"
        answers, errors = [], []
        for job in self.jobs(model, place, message.in_turn(1)):
            try:
                with model.part():
                    result = model.steps(*job)
                if not result.filtered:
                    answers.append(result.body["n"])
            except Failed as e:
                errors.append(e)
        if not answers:
            raise errors[0] if errors else Failed("unavailable", place)
        return message.with_body({"n": sum(answers), "items": []})


Job = tuple[Sequence[Node], str, Message]


def together(model: Model, jobs: Sequence[Job], concurrency: int) -> list[Message]:
    """One after the other the first error ends it; side by side all get to their ends."""
    results, errors = [], []
    for job in jobs:
        try:
            results.append(model.steps(*job))
        except Failed as e:
            errors.append(e)
            if concurrency == 1:
                break
    if errors:
        raise errors[0]
    return results


@dataclass(frozen=True)
class Try(Node):
    steps: Sequence[Node]
    on: Sequence[str]
    handler: Sequence[Node]
    rethrow: bool
    last: Sequence[Node]
    verb = "try"

    def options(self, names: Names) -> Any:
        catch = {"on": [*self.on], "steps": names.steps(self.handler), "rethrow": self.rethrow}
        last = {"finally": names.steps(self.last)} if self.last else {}
        return {"steps": names.steps(self.steps), "catch": [catch], **last}

    def run(self, model: Model, place: str, message: Message) -> Message:
        try:
            result = self.caught(model, place, message)
        except Failed:
            with suppress(Failed):
                model.steps(self.last, f"{place}.finally", message)
            raise
        model.steps(self.last, f"{place}.finally", replace(result, outcome="message"))
        return result

    def caught(self, model: Model, place: str, message: Message) -> Message:
        try:
            with model.part():
                return model.steps(self.steps, f"{place}.steps", message)
        except Failed as e:
            error = e
        if self.on and not error.is_one_of(self.on):
            raise error
        result = model.steps(self.handler, f"{place}.catch[0].steps", message)
        if self.rethrow:
            raise error
        return result

    @property
    def inner(self) -> Sequence[Sequence[Node]]:
        return (self.steps, self.handler, self.last)


@dataclass(frozen=True)
class Loop(Node):
    times: int
    steps: Sequence[Node]
    verb = "loop"

    def options(self, names: Names) -> Any:
        return {"times": self.times, "steps": names.steps(self.steps)}

    def run(self, model: Model, place: str, message: Message) -> Message:
        outside = message.turns
        for number in range(1, self.times + 1):
            message = model.steps(self.steps, f"{place}.steps", message.in_turn(number))
            message = replace(message, turns=outside)
            if message.filtered:
                break
        return message

    @property
    def inner(self) -> Sequence[Sequence[Node]]:
        return (self.steps,)


@dataclass(frozen=True)
class Failover(Node):
    one: Sequence[Node]
    two: Sequence[Node]
    verb = "load_balance"

    def options(self, names: Names) -> Any:
        to = {"x": {"steps": names.steps(self.one)}, "y": {"steps": names.steps(self.two)}}
        return {"to": to, "strategy": "in_order"}

    def run(self, model: Model, place: str, message: Message) -> Message:
        try:
            with model.part():
                return model.steps(self.one, f"{place}.to.x.steps", message)
        except Failed as e:
            if not e.is_one_of(["transient"]):
                raise
        with model.part():
            return model.steps(self.two, f"{place}.to.y.steps", message)

    @property
    def inner(self) -> Sequence[Sequence[Node]]:
        return (self.one, self.two)


@dataclass(frozen=True)
class Enrich(Node):
    steps: Sequence[Node]
    verb = "enrich"

    def options(self, names: Names) -> Any:
        return {"steps": names.steps(self.steps), "into": "extra"}

    def run(self, model: Model, place: str, message: Message) -> Message:
        answer = model.steps(self.steps, f"{place}.steps", message)
        if answer.filtered:
            return message
        return message.with_body({**message.body, "extra": answer.body})

    @property
    def inner(self) -> Sequence[Sequence[Node]]:
        return (self.steps,)


@dataclass(frozen=True)
class Run(Node):
    """A sub-route with a retry of its own."""

    steps: Sequence[Node]
    attempts: int
    verb = "run"

    def options(self, names: Names) -> Any:
        name = self.name(names.prefix)
        retry = {"attempts": self.attempts, "backoff": "1ms"}
        names.subroutes[name] = {"steps": names.steps(self.steps), "retry": retry}
        return name

    def name(self, prefix: str) -> str:
        """The same for what is the same."""
        return f"{prefix}sub-{crc32(repr(self).encode()):x}"

    def run(self, model: Model, place: str, message: Message) -> Message:
        name = self.name(model.prefix)
        number = model.places[message.route, f"{place}.route"]
        turns = f"{message.turns}{name if number == 1 else f'{name}{number}'}-"
        inside = replace(message, route=name, turns=turns)
        try:
            result = model.tries(self.attempts, lambda: model.steps(self.steps, "steps", inside))
            return replace(result, route=message.route, turns=message.turns)
        except Failed as e:
            e.args = (e.code, f"{self.name(model.prefix)}/{e.args[1]}", *e.args[2:])
            raise

    @property
    def inner(self) -> Sequence[Sequence[Node]]:
        return (self.steps,)


@dataclass(frozen=True)
class Retried(Node):
    """A step with a retry beside it."""

    step: Node
    attempts: int
    verb = ""

    def run(self, model: Model, place: str, message: Message) -> Message:
        return model.tries(self.attempts, lambda: self.step.run(model, place, message))

    @property
    def inner(self) -> Sequence[Sequence[Node]]:
        return ((self.step,),)


# --- what is drawn -------------------------------------------------------------------------------

SIDE_BY_SIDE = st.sampled_from([1, 1, 3])
ATTEMPTS = st.integers(1, 3)
ON: st.SearchStrategy[Sequence[str]] = st.sampled_from(
    [(), (), ("transient",), ("permanent",), ("rejected", "unreachable")]
)
LEAVES: st.SearchStrategy[Node] = st.one_of(
    st.builds(Send, st.sampled_from(QUEUES)),
    st.builds(Deliver, st.sampled_from(FARS)),
    st.builds(Deliver, st.sampled_from(FARS)),
    st.builds(Ask, st.sampled_from(FARS)),
    st.builds(Tap, st.sampled_from(TAPS)),
    st.builds(Add, st.integers(1, 3)),
    st.builds(Filter, st.integers(0, 2)),
    st.builds(Once),
)


def lists(depth: int) -> st.SearchStrategy[Sequence[Node]]:
    """Steps with others in them, and these with others, so deep."""
    return st.lists(nodes(depth), min_size=1, max_size=3).map(tuple)


def nodes(depth: int) -> st.SearchStrategy[Node]:
    if depth == 0:
        return LEAVES
    steps, node = lists(depth - 1), nodes(depth - 1)
    # Where errors are caught, there is something to take back.
    risky = st.builds(
        lambda steps, to, far: (*steps, Send(to), Deliver(far)),
        steps, st.sampled_from(QUEUES), st.sampled_from(FARS),
    )  # fmt: skip
    return st.one_of(
        LEAVES,
        st.builds(Choose, steps, steps),
        st.builds(Split, steps, SIDE_BY_SIDE),
        st.builds(Gather, steps, SIDE_BY_SIDE),
        st.builds(Multicast, steps, steps, SIDE_BY_SIDE),
        st.builds(Scatter, risky, steps, SIDE_BY_SIDE),
        st.builds(Try, risky, ON, steps, st.booleans(), st.just(()) | steps),
        st.builds(Loop, st.integers(0, 3), steps),
        st.builds(Failover, risky, steps),
        st.builds(Enrich, steps),
        st.builds(Run, risky, ATTEMPTS),
        st.builds(Retried, node.filter(lambda n: not isinstance(n, Retried)), ATTEMPTS),
    )


def bodies(depth: int) -> st.SearchStrategy[Data]:
    items = st.lists(bodies(depth - 1), min_size=1, max_size=3) if depth else st.just([])
    return st.builds(lambda n, items: {"n": n, "items": items}, st.integers(0, 5), items)


SCRIPTS: st.SearchStrategy[Script] = st.fixed_dictionaries(
    {name: st.lists(st.sampled_from(["", "", *CODES]), min_size=1, max_size=4) for name in FARS}
)


def walk(nodes: Sequence[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        for inner in node.inner:
            yield from walk(inner)


def orderly(nodes: Sequence[Node]) -> bool:
    """Whether in this tree one thing is done after the other."""
    return not any(node.side_by_side for node in walk(nodes))


def tells_copies_apart(nodes: Sequence[Node]) -> bool:
    """Of copies side by side nobody can say which one is the first."""
    return orderly(nodes) or not any(isinstance(node, Once) for node in walk(nodes))


# --- an example on the bus, and in the model -----------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A route with these steps, and messages for it."""

    steps: Sequence[Node]
    bodies: Sequence[Data]
    script: Script
    attempts: int

    def messages(self, prefix: str) -> list[Message]:
        return [Message(f"{prefix}m{i}", body) for i, body in enumerate(self.bodies)]

    def document(self, prefix: str) -> dict[str, Any]:
        """The routes as in YAML."""
        names = Names(prefix)
        route = {
            "from": {"queue": {"name": prefix + "in", "concurrency": 1, "backoff": "1ms"}},
            "business_key": "message.id",
            "steps": names.steps(self.steps),
            "retry": {"attempts": self.attempts, "backoff": "1ms"},
        }
        return {"routes": {prefix + "route": route, **names.subroutes}}


Examples = st.builds(
    Example,
    st.one_of(lists(2), lists(2).map(lambda steps: (Once(), *steps))).filter(tells_copies_apart),
    st.lists(bodies(2), min_size=1, max_size=3),
    SCRIPTS,
    ATTEMPTS,
)


@dataclass
class Ends:
    """What became of the messages of an example. of: outcome, or code, place and tries of an error,
    by id. lying: what lies in each queue, in order."""

    of: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    lying: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    def compare(self, other: Ends, *, in_order: bool) -> None:
        """Fails if they differ."""
        assert self.of == other.of
        for name in (*QUEUES, *TAPS):
            mine, theirs = self.lying.get(name, []), other.lying.get(name, [])
            if in_order:
                assert mine == theirs
            else:
                assert Counter(mine) == Counter(theirs)


Places = Mapping[tuple[str, str], int]


def places_of(project: Project) -> Places:
    """Which one it is in its route, of each step that makes copies and each call of a sub-route:
    by the route and the place."""
    found: dict[tuple[str, str], int] = {}
    for route in project.routes:
        numbers: Counter[str] = Counter()
        for part in route.outline.walk():
            copies = part.kind == "step" and part.name in ("split", "multicast", "scatter_gather")
            if copies or part.kind == "subroute":
                what = "copies" if copies else part.name
                numbers[what] += 1
                found[route.name, part.place] = numbers[what]
    return found


def modelled(example: Example, prefix: str, places: Places) -> Ends:
    """What must become of them."""
    ends, model = Ends(), Model(example.script, prefix, places)
    sent: list[tuple[str, str, int]] = []
    for one in example.messages(prefix):
        message = replace(one, route=f"{prefix}route")
        model.sent, model.claims = [], {}
        try:
            result = model.tries(
                example.attempts,
                lambda message=message: model.steps(example.steps, "steps", message),
            )
        except Failed as e:
            ends.of[message.id] = e.args
        else:
            ends.of[message.id] = (result.outcome,)
            sent += model.sent
            model.seen |= model.claims.keys()
    for name, ident, number in [*sent, *model.taps]:
        ends.lying.setdefault(name, []).append((ident, number))
    return ends


async def found(store: Store, messages: Sequence[Message], prefix: str) -> Ends:
    """What has become of them."""
    ends = Ends()
    for message in messages:
        stored, receipts = await store.find(message.id)
        dead = [
            (f.code, f.step, f.attempts)
            for one in stored
            if one.channel == DEAD and (f := one.failure) is not None
        ]
        ways = [*dead, *((receipt.outcome,) for receipt in receipts)]
        if ways:
            [ends.of[message.id]] = ways
    for name in (*QUEUES, *TAPS):
        lying = await store.browse(f"queue:{prefix}{name}", limit=1000)
        ends.lying[name] = [(one.envelope.id, one.envelope.body.data["n"]) for one in lying]
    return ends


class Arena:
    """A bus that lives through the examples of a test, in a loop of its own."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder = folder
        self.world = world
        self.numbers = count()
        self.loop = asyncio.new_event_loop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def places(self, document: dict[str, Any]) -> Places:
        """Where these routes make copies and call sub-routes."""
        file = self.folder / "places.yaml"
        file.write_text(json.dumps(document))
        return places_of(load([file], environ={}, root=self.folder).check())

    @asynccontextmanager
    async def bus(self, document: dict[str, Any]) -> AsyncIterator[tuple[Bus, Store]]:
        """A bus with these routes."""
        file = self.folder / "routes.yaml"
        text = {**document, "store": {"path": str(self.folder / "bus.db")}}
        file.write_text(json.dumps(text))
        shared = Shared()
        project = load([file], environ={}, root=self.folder, shared=shared).check()
        bus = Bus(project.routes, shared, grace=0)
        await bus.start()
        try:
            assert bus.store is not None
            yield bus, bus.store
        finally:
            await bus.stop()


@pytest.fixture
def arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arena]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    arena = Arena(tmp_path, install(monkeypatch))
    yield arena
    arena.loop.close()


async def put(store: Store, messages: Sequence[Message], prefix: str) -> None:
    for message in messages:
        body = Body.of(message.body)
        await store.put(f"queue:{prefix}in", Envelope(id=message.id, body=body))


async def taken(store: Store, prefix: str) -> bool:
    return f"queue:{prefix}in" not in await store.counts()


def test_the_store_holds_what_the_model_says(arena: Arena) -> None:
    async def run(example: Example) -> None:
        prefix = f"e{next(arena.numbers)}"
        arena.world.far = Far(example.script)
        messages = example.messages(prefix)
        async with arena.bus(example.document(prefix)) as (_, store):
            await put(store, messages, prefix)
            await until(lambda: taken(store, prefix))
            ends = await found(store, messages, prefix)
        expected = modelled(example, prefix, arena.places(example.document(prefix)))
        for end in expected.of.values():
            event(str(end[0]))
        ends.compare(expected, in_order=orderly(example.steps))

    @given(Examples)
    @settings(max_examples=100, deadline=None)
    def check(example: Example) -> None:
        arena.run(run(example))

    check()


def test_a_run_that_is_cut_off_leaves_nothing_and_is_run_again(arena: Arena) -> None:
    async def run(example: Example, hang_at: int) -> None:
        prefix = f"e{next(arena.numbers)}"
        messages = example.messages(prefix)
        places = arena.places(example.document(prefix))
        expected = modelled(example, prefix, places)
        far = arena.world.far = Far(hang_at=hang_at)
        async with arena.bus(example.document(prefix)) as (_, store):
            await put(store, messages, prefix)

            async def done_or_hangs() -> bool:
                return far.hangs or await taken(store, prefix)

            await until(done_or_hangs)
        event("cut off" if far.hangs else "went through")
        arena.world.far = Far()
        document = example.document(prefix)
        idle = {**document["routes"], prefix + "route": {"from": {"queue": prefix + "other"}}}
        async with arena.bus({"routes": {prefix + "route": idle[prefix + "route"]}}) as (_, store):
            ends = await found(store, messages, prefix)
            left = await store.browse(f"queue:{prefix}in")
            through = messages[: len(messages) - len(left)]
            assert [one.envelope.id for one in left] == [m.id for m in messages[len(through) :]]
            assert set(ends.of) == {message.id for message in through}
            begun = replace(example, bodies=example.bodies[: len(through)])
            so_far = modelled(begun, prefix, places)
            without_taps(ends).compare(without_taps(so_far), in_order=orderly(example.steps))
        async with arena.bus(document) as (_, store):
            await until(lambda: taken(store, prefix))
            ends = await found(store, messages, prefix)
        without_taps(ends).compare(without_taps(expected), in_order=orderly(example.steps))

    @given(Examples.map(lambda e: replace(e, script={})), st.integers(1, 4))
    @settings(max_examples=30, deadline=None)
    def check(example: Example, hang_at: int) -> None:
        arena.run(run(example, hang_at))

    check()


def without_taps(ends: Ends) -> Ends:
    """What was copied aside by a run that was cut off is there as well."""
    return replace(ends, lying={n: lying for n, lying in ends.lying.items() if n not in TAPS})


def test_the_model_knows_what_transient_means() -> None:
    assert Failed("unreachable", "").is_one_of(["transient"])
    assert not Failed("outcome-unknown", "").is_one_of(["transient"])
    assert issubclass(KINDS["timed-out"], Transient)
