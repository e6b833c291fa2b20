"""What a route is made of, as data: the tree of its parts, recorded while they are built.

Whoever wants to show a route, to check it or to say which of its parts a message passed reads this;
nothing that runs does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Kind = Literal["route", "source", "steps", "step", "endpoint", "subroute"]


class Channel(NamedTuple):
    """A channel that an endpoint reads or feeds.

    name: with what it is, "queue orders"; where messages decide, with the text that they fill in
        ("queue {{ path.kind }}"). outside: others may read and feed it as well, so nobody here can
        say who does.
    """

    name: str
    outside: bool = False

    @property
    def is_open(self) -> bool:
        """Whether messages decide which channel it is."""
        return "{{" in self.name


class Origin(NamedTuple):
    """Where an option is written. path: keys from the top of the file."""

    file: str
    line: int
    path: tuple[str | int, ...]


@dataclass(slots=True)
class Part:
    """One part of a route.

    kind: the route; its source; a list of steps (of the route, or of a branch); a step; an endpoint
        of a step; a sub-route that is run.
    name: of a route, a verb, an adapter, a sub-route; of steps the place in the step they are in.
    place: in the route, "steps[1].choose[0].steps".
    options: the validated model; of an endpoint with those of its connection. policies: what stands
        beside a verb (`retry`, `timeout`), and of an endpoint what guards it, as written.
    direction: of an endpoint: "source", "sink" or "caller".
    file, line, column: where it is written.
    channels: what an endpoint reads (source) or feeds (sink, caller).
    connection: what an endpoint names; connected: the options that it has from there.
    origins: options that are written in another place than the rest: in defaults, a policy, a
        template, a profile.
    """

    kind: Kind
    name: str
    place: str = ""
    options: Any = None
    policies: dict[str, Any] = field(default_factory=dict)
    direction: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    channels: list[Channel] = field(default_factory=list)
    connection: str = ""
    connected: tuple[str, ...] = ()
    origins: dict[str, Origin] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)

    def walk(self) -> Iterator[Part]:
        """This part and all within it, in the order in which they are written."""
        yield self
        for part in self.parts:
            yield from part.walk()
