"""What each route promises of a message: that it has its effects at most once, at least once, or in
effect once, and which lines keep it from more.

A route is as good as the weakest of its parts. What these promise they say themselves
(`Build.promises`); what is asked here is how they go together. See docs/check.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from esb.outline import Part

Level = Literal["at most once", "at least once", "effectively once"]
LEVELS: Final[tuple[Level, ...]] = ("at most once", "at least once", "effectively once")


class Weakness(NamedTuple):
    """A line that keeps a route from promising more. level: what is left of the promise."""

    level: Level
    file: str
    line: int
    because: str
    hint: str = ""


@dataclass
class Guarantee:
    """What a route promises; what weakens it, the worst first; what it depends on."""

    route: str
    weakened: list[Weakness] = field(default_factory=list)
    provided: list[Weakness] = field(default_factory=list)

    @property
    def level(self) -> Level:
        """The promise as a whole."""
        return min((one.level for one in self.weakened), key=LEVELS.index, default=LEVELS[-1])


def guarantees(routes: Sequence[Part]) -> list[Guarantee]:
    """What each route that has a source promises, in their order."""
    named = {route.name: route for route in routes}
    return [
        _Judge(route, source, named).guarantee()
        for route in routes
        for source in route.parts
        if source.kind == "source"
    ]


class _Effect(NamedTuple):
    """An endpoint that the steps get to. claimed: whether a `skip_seen` comes before it."""

    part: Part
    claimed: bool


class _Judge:
    """One route."""

    def __init__(self, route: Part, source: Part, named: Mapping[str, Part]) -> None:
        self.route = route
        self.source = source
        self.named = named
        self.found: list[Weakness] = []
        self.provided: list[Weakness] = []

    def guarantee(self) -> Guarantee:
        """Ask all parts."""
        if self.source.promise == "lost":
            self._add("at most once", self.source, "what is not through when the bus dies is gone",
                      self.source.better)  # fmt: skip
        for effect in self._effects(self.route, claimed=False, inside=(self.route.name,)):
            self._effect(effect)
        if _again(self.route.options) and any(one.level == LEVELS[1] for one in self.found):
            self._add("at least once", self.route, "an unknown outcome is tried again",
                      "leave 'outcome-unknown' out of `retry.on`")  # fmt: skip
        self.found.sort(key=lambda one: LEVELS.index(one.level))
        weakened, provided = (list(dict.fromkeys(one)) for one in (self.found, self.provided))
        return Guarantee(self.route.name, weakened, provided)

    def _add(self, level: Level, part: Part, because: str, hint: str = "") -> None:
        self.found.append(Weakness(level, part.file, part.line, because, hint))

    def _effect(self, effect: _Effect) -> None:
        part = effect.part
        if part.provided:
            self.provided.append(Weakness(LEVELS[-1], part.file, part.line, part.provided))
        if part.promise == "lost":
            self._add("at most once", part, f"'{part.name}' may lose what it took", part.better)
        elif part.promise == "once":
            # The commit is one with the end of a message from the store; any other may come again.
            if self.source.promise == "answered":
                self._add("at least once", self.source, "who got no answer asks again",
                          self.source.better)  # fmt: skip
            elif self.source.promise != "once" and not effect.claimed:
                self._add("at least once", self.source, "a message may be handed out again",
                          self.source.better or "`skip_seen` as the first step")  # fmt: skip
        elif part.promise != "harmless":
            self._add("at least once", part, "a try that is repeated does it again", part.better)

    def _effects(self, part: Part, *, claimed: bool, inside: tuple[str, ...]) -> Iterator[_Effect]:
        for steps in part.parts:
            if steps.kind != "steps":
                continue
            behind = claimed
            for step in steps.parts:
                yield from self._of_step(step, behind, inside)
                behind = behind or step.name == "skip_seen"

    def _of_step(self, step: Part, claimed: bool, inside: tuple[str, ...]) -> Iterator[_Effect]:
        if step.name == "copy_to":
            return  # a wire tap promises nothing, and the route nothing of it
        if step.name == "python":
            yield _Effect(step, claimed)
        if step.name == "try" and step.options is not None:
            self._swallowed(step)
        if _again(step.policies):
            self._add("at least once", step, "an unknown outcome is tried again",
                      "leave 'outcome-unknown' out of `retry.on`")  # fmt: skip
        for part in step.parts:
            if part.kind == "endpoint":
                yield _Effect(part, claimed)
            elif part.kind == "subroute" and part.name not in inside and part.name in self.named:
                sub = self.named[part.name]
                yield from self._effects(sub, claimed=claimed, inside=(*inside, part.name))
        yield from self._effects(step, claimed=claimed, inside=inside)

    def _swallowed(self, step: Part) -> None:
        for branch in step.options.catch:
            if not branch.steps and not branch.rethrow:
                self._add("at most once", step, "an error that is caught here is forgotten",
                          "steps that keep the message, or `rethrow: true`")  # fmt: skip
                return


def _again(policies: Any) -> bool:
    """Whether a `retry` tries again what may have been done: one as it is written beside a step,
    or one of a route's options."""
    written = isinstance(policies, Mapping)
    retry = policies.get("retry") if written else getattr(policies, "retry", None)
    on = retry.get("on") if isinstance(retry, Mapping) else getattr(retry, "on", ())
    return "outcome-unknown" in (on if isinstance(on, list | tuple) else (on,))
