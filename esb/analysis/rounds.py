"""Messages that go round for ever, or wait for themselves: sub-routes that run each other, queues
that feed each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from esb.analysis.findings import Findings
from esb.outline import Part

_MAY_END: Final = frozenset({"filter", "skip_seen", "expire", "sample", "fail", "throttle", "run"})
"""Steps behind which a message need not be there any more."""


def check(routes: Sequence[Part], found: Findings) -> None:
    """Cycles in which nothing decides whether to go on."""
    runs: dict[str, dict[str, Part]] = {}
    feeds: dict[str, dict[str, Part]] = {}
    reads: dict[str, set[str]] = {}
    for route in routes:
        for part in _always(route):
            if part.kind == "subroute":
                runs.setdefault(route.name, {}).setdefault(part.name, part)
            for channel in part.channels:
                if not channel.is_open:
                    feeds.setdefault(route.name, {}).setdefault(channel.name, part)
        for part in route.parts:
            if part.kind == "source":
                for channel in part.channels:
                    reads.setdefault(channel.name, set()).add(route.name)
    goes = {
        name: {reader: part for fed, part in fed_by.items() for reader in reads.get(fed, ())}
        for name, fed_by in feeds.items()
    }
    for way in _cycles(runs):
        part = runs[way[0]][way[1]]
        found.add(
            part, "endless", f"this runs without an end: {' -> '.join(way)}",
            "a `choose` around it that ends it some time", severity="error",
        )  # fmt: skip
    _check_turns(routes, found)
    for way in _cycles(goes):
        part = goes[way[0]][way[1]]
        found.add(
            part, "endless", f"messages go round without an end: {' -> '.join(way)}",
            "a `filter` or a `choose` that ends it some time",
        )  # fmt: skip


def _check_turns(routes: Sequence[Part], found: Findings) -> None:
    """Sub-routes that run themselves, and in which a message would wait for its own end."""
    named = {route.name: route for route in routes}
    runs = {
        route.name: {part.name: part for part in route.walk() if part.kind == "subroute"}
        for route in routes
    }
    for way in _cycles(runs):
        for name in way[1:]:
            if named[name].options.concurrency is not None:
                found.add(
                    named[name], "endless",
                    f"with 'concurrency' a message may wait here for itself: {' -> '.join(way)}",
                    "put 'concurrency' on the route that runs it first", severity="error",
                )  # fmt: skip


def _always(route: Part) -> Iterator[Part]:
    """The sub-routes and endpoints that every message gets to."""
    for steps in route.parts:
        if steps.kind != "steps":
            continue
        for step in steps.parts:
            yield from (part for part in step.parts if part.kind in ("subroute", "endpoint"))
            if step.name in _MAY_END and step.name != "run":
                return
            if any(part.kind == "steps" for part in step.parts):
                return  # what is inside may end it


def _cycles(goes: Mapping[str, Mapping[str, Part]]) -> Iterator[list[str]]:
    """Each cycle once, as names that begin and end with the same."""
    seen: set[frozenset[str]] = set()
    for first in goes:
        way, at = [first], first
        # What every message passes is followed as far as it goes: the first way back is enough.
        todo = [(first, [first])]
        visited: set[str] = set()
        while todo:
            at, way = todo.pop()
            for to in goes.get(at, ()):
                if to == first:
                    if frozenset(way) not in seen:
                        seen.add(frozenset(way))
                        yield [*way, first]
                elif to not in visited:
                    visited.add(to)
                    todo.append((to, [*way, to]))
