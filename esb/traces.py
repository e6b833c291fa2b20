"""A trace: one run of a message through a route, written out (EIP: Message History)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import msgspec


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """A body as it is shown. size: in bytes, if it was written; text: its beginning, or why there
    is none; cut: whether there is more."""

    content_type: str = ""
    size: int | None = None
    text: str = ""
    cut: bool = False


class Visit(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one step did to a message.

    place: as in `Seen`. route: the sub-route it is in; "" for the run's own. id: of another message
        than the run's, such as a part of it. begun: in seconds since the run began.
    outcome: of what it returned; "" if it raised, with `code` and `detail` of the error.
    given, returned: where in `Trace.bodies` the bodies are; -1 if not there. headers: those it
        changed, None for one it removed.
    """

    place: str
    begun: float
    seconds: float
    route: str = ""
    id: str = ""
    attempt: int = 1
    outcome: str = ""
    code: str = ""
    detail: str = ""
    notes: tuple[str, ...] = ()
    given: int = -1
    returned: int = -1
    headers: dict[str, str | None] = {}


class Trace(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run of a message through a route, written out.

    begun: a Unix time. where: what the message came from, for people. came_from: its source, as it
    says itself. outcome, code, detail: as in `Visit`, of the whole run; step: where it failed.
    left_out: so many visits are not told.
    """

    id: str
    route: str
    begun: float
    seconds: float
    where: str = ""
    outcome: str = ""
    code: str = ""
    detail: str = ""
    step: str = ""
    notes: tuple[str, ...] = ()
    business_key: str = ""
    correlation_id: str = ""
    came_from: str = ""
    principal: str = ""
    traceparent: str = ""
    attempt: int = 1
    headers: list[tuple[str, str]] = []
    params: dict[str, dict[str, str]] = {}
    visits: list[Visit] = []
    left_out: int = 0
    bodies: list[Snapshot] = []
    given: int = -1
    returned: int = -1

    @property
    def failed(self) -> bool:
        """Whether it is one of those that `errors` is about."""
        return self.outcome in ("", "dead")

    def tree(self) -> Iterator[tuple[int, Visit]]:
        """Each visit with how deep it is in others, those within it behind it."""
        within: dict[int, list[int]] = {}
        for number, visit in enumerate(self.visits):
            around = (n for n in range(number - 1, -1, -1) if _contains(self.visits[n], visit))
            within.setdefault(next(around, -1), []).append(number)

        def walk(of: int, depth: int) -> Iterator[tuple[int, Visit]]:
            for number in within.get(of, ()):
                yield depth, self.visits[number]
                yield from walk(number, depth + 1)

        yield from walk(-1, 0)

    def changed(self, visit: Visit) -> bool:
        """Whether the step itself made a new body, and none within it did."""
        if visit.returned in (-1, visit.given):
            return False
        return not any(
            other.returned == visit.returned and other is not visit and _contains(visit, other)
            for other in self.visits
        )

    def told(self) -> dict[str, Any]:
        """As plain data: visits in the order of `tree`, with their `depth`; bodies where they came
        up first and where a step changed them."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        bodies = plain.pop("bodies", [])
        known: set[int] = set()

        def with_bodies(one: dict[str, Any], given: int, returned: int) -> dict[str, Any]:
            numbers = {"given": -1 if given in known else given, "returned": returned}
            known.update(numbers.values())
            one = {name: value for name, value in one.items() if name not in numbers}
            return one | {name: bodies[number] for name, number in numbers.items() if number >= 0}

        head = with_bodies(plain, self.given, -1)
        head["visits"] = [
            {"depth": depth, **with_bodies(
                msgspec.to_builtins(one), one.given, one.returned if self.changed(one) else -1
            )}
            for depth, one in self.tree()
        ]  # fmt: skip
        return head if self.returned < 0 else {**head, "returned": bodies[self.returned]}


def _contains(outer: Visit, inner: Visit) -> bool:
    """Whether one visit was part of the other, as far as place, time and message tell."""
    if inner.begun + inner.seconds > outer.begun + outer.seconds + _SLACK:
        return False
    if outer.id and inner.id != outer.id and not inner.id.startswith(f"{outer.id}."):
        return False
    # Of another route it is if a sub-route was run meanwhile.
    within = inner.place.startswith((f"{outer.place}.", f"{outer.place}["))
    return within or inner.route != outer.route


_SLACK: Final = 1e-6


class TraceStore(Protocol):
    """Where traces are kept for a while. They are not messages: losing one is no harm."""

    async def keep_traces(self, traces: Sequence[Trace], keep: float, max_size: int) -> None:
        """Add traces; forget those older than `keep` seconds, and the oldest beyond `max_size`
        bytes. Raises Transient."""
        ...

    async def traces(self, text: str, *, limit: int = 100) -> list[Trace]:
        """Traces in the order of time: of the message with the id `text`, of its parts and of what
        it is a part of (`text.3` of `text`), and of those whose business key or correlation id it
        is. The newest, if there are more. Raises Transient."""
        ...

    async def close(self) -> None:
        """Let go of what is open; it opens again by itself."""
        ...
