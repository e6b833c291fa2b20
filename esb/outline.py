"""What a route is made of, as data: the tree of its parts, recorded while they are built.

Whoever wants to show a route, to check it or to say which of its parts a message passed reads this;
nothing that runs does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

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


Promise = Literal["once", "again", "answered", "lost", "repeats", "harmless"]
"""What an endpoint promises of delivery.

of a source: "once": the end of a message is one commit with what its route does in the store;
    "again": one that was not acknowledged comes again; "answered": a caller hears what became of
    it, and asks again; "lost": what is not through when the bus dies does not come again.
of a sink or a caller: "once": what is sent is one commit with the end of the message; "harmless": a
    repeat has no further effect; "repeats": a repeat does it again; "lost": it may return before
    the far side has taken the message.
"""


Fate = Literal["kept", "sent", "made", "inside"]
"""What becomes of a message's body in a part that does not read it.

"kept": the message goes on with it. "sent": its bytes are taken once, piece by piece. "made": the
message goes on with another one; out of an endpoint this may come as it arrives. "inside": what
the parts within do, to each message one of them.
"""


class Passage:
    """Whether bodies may come out of an endpoint as they arrive (`Body.from_stream`). It is opened
    at the end of a load that proved it."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open = False


class Spot(NamedTuple):
    """A place in a file; lines and columns count from 1."""

    file: str
    line: int
    column: int


class Use(NamedTuple):
    """Something written in the language of expressions.

    what: "expression", "text" (with `{{ }}`) or "template". source: it, or the file it is in.
    spot: of its first character. exact: whether an offset into it is one of columns.
    answer: whether it is about the answer of the route.
    """

    what: Literal["expression", "text", "template"]
    source: str | Path
    spot: Spot
    exact: bool = False
    answer: bool = False


class Given(NamedTuple):
    """What is known of the messages that come out of an endpoint.

    body: a JSON Schema. params: the names in groups like "path", where all are known. faults: the
    names of the faults that it may raise (caller) or has an answer for (source), with their places.
    methods: those of HTTP that a source serves, where it is one of HTTP. anonymous: nobody is asked
    who he is.
    """

    body: Mapping[str, Any] | None = None
    params: Mapping[str, Collection[str]] = {}
    faults: Mapping[str, Spot] | None = None
    methods: Collection[str] = ()
    anonymous: bool = False


NOTHING_GIVEN: Final = Given()


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
    uses: the expressions, texts and templates in its options. schema: a JSON Schema, or its file,
        that a body matches which got past this part. given: what an endpoint tells of what comes
        out of it. promise: what it promises; "" if it does not say. provided: what that depends
        on. better: what in its options would promise more.
    fates: what may become of a body there; none if the part may read it, or keep it. passage:
        whether bodies come out of it as they arrive.
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
    uses: list[Use] = field(default_factory=list)
    schema: Mapping[str, Any] | Path | None = None
    given: Given = NOTHING_GIVEN
    promise: Promise | Literal[""] = ""
    provided: str = ""
    better: str = ""
    fates: tuple[Fate, ...] = ()
    passage: Passage = field(default_factory=Passage)

    def walk(self) -> Iterator[Part]:
        """This part and all within it, in the order in which they are written."""
        yield self
        for part in self.parts:
            yield from part.walk()
