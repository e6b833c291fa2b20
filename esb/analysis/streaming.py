"""Which bodies may pass as they arrive: those that nothing on their way reads or needs twice.

What does not say what it does to a body (`Build.body`) is taken to read it. So a part that nobody
thought of here costs memory, and never a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from jinja2 import nodes

from esb.expressions.compiler import QUERIES, syntax
from esb.outline import Part, Use

_KEEPING: Final = frozenset(("retry", "cache"))
_READING: Final = frozenset(("body", "text", *QUERIES))


class _Held(NamedTuple):
    """A body that a message may have at a place: which part it came out of, and whether it was sent
    on the way, so that it is gone."""

    of: int
    sent: bool = False


_Bodies = frozenset[_Held]
_NONE: Final[_Bodies] = frozenset()


def open_passages(route: Part, named: Mapping[str, Part]) -> None:
    """Let bodies pass as they arrive where that can do no harm: out of the route's source, and out
    of endpoints that are called. Only for a route around which nothing keeps or repeats messages.
    named: the sub-routes that it may run.
    """
    parts = {part.kind: part for part in route.parts}
    source, steps = parts["source"], parts["steps"]
    flow = _Flow(named)
    came = flow.made(source) if "made" in source.fates else _NONE
    if _read(route.uses):
        flow.read(came)
    left = flow.steps(steps, came)
    # What came in goes out again only once all of it is there: its sender may not listen before.
    flow.read(held for held in left if held.of == id(source) and not held.sent)
    if "sent" not in source.fates:
        flow.read(held for held in left if not held.sent)
    if _read(source.uses, answer=True):
        flow.read(left)
    for part in flow.makers:
        part.passage.open = id(part) not in flow.whole


class _Flow:
    """Follows bodies through the parts of a route.

    makers: parts that bodies may come out of as they arrive, if the way is open. whole: those that
    it is not open for.
    """

    def __init__(self, named: Mapping[str, Part]) -> None:
        self.makers: list[Part] = []
        self.whole: set[int] = set()
        self._named = named
        self._inside: list[str] = []  # the sub-routes

    def made(self, part: Part) -> _Bodies:
        """A body comes out of a part: of one in a sub-route as a whole, since others run it too."""
        if self._inside:
            return _NONE
        self.makers.append(part)
        return frozenset((_Held(id(part)),))

    def read(self, bodies: Iterable[_Held]) -> None:
        """Something needs these as a whole."""
        self.whole.update(held.of for held in bodies)

    def steps(self, part: Part, held: _Bodies) -> _Bodies:
        """What a message may have behind a list of steps."""
        for step in part.parts:
            held = self._part(step, held)
        return held

    def _part(self, part: Part, held: _Bodies) -> _Bodies:
        if part.kind == "steps":
            return self.steps(part, held)
        if part.kind == "subroute":
            return self._subroute(part.name, held)
        keeps = not part.fates or bool(_KEEPING & part.policies.keys())
        if keeps or _read(part.uses):
            self.read(held)
        if keeps:
            return _NONE
        behind = _NONE
        if "kept" in part.fates:
            behind |= held
        if "inside" in part.fates:
            for inner in part.parts:
                behind |= self._part(inner, held)
        if "sent" in part.fates:
            self.read(one for one in held if one.sent)
        if part.direction == "sink" and "sent" in part.fates:
            behind |= {one._replace(sent=True) for one in held}
        if part.direction == "caller" and "made" in part.fates:
            behind |= self.made(part)
        return behind

    def _subroute(self, name: str, held: _Bodies) -> _Bodies:
        route = self._named[name]
        options = route.options
        if name in self._inside or options is None or options.retry or options.concurrency:
            self.read(held)
            return _NONE
        self._inside.append(name)
        for steps in route.parts:
            held = self.steps(steps, held)
        self._inside.pop()
        return held


def _read(uses: Iterable[Use], *, answer: bool = False) -> bool:
    """Whether an expression or a template reads the body: of the message, or of the answer."""
    return any(_reads(use) for use in uses if use.answer is answer)


def _reads(use: Use) -> bool:
    if use.what == "template":
        return True
    return any(
        name.name in _READING
        for tree in syntax(str(use.source), text=use.what == "text")
        for name in ([tree] if isinstance(tree, nodes.Name) else tree.find_all(nodes.Name))
    )
