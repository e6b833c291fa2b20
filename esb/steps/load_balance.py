"""Load balancer (no pattern of the EIP book): each message goes one of several equal ways.

For example:

    load_balance:
      to:
        a: {steps: [{call: {http: https://a.example}}], weight: 3}
        b: {steps: [{call: {http: https://b.example}}]}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from pydantic import Field

from esb.adapter import Build, Resource, Role
from esb.durable import part
from esb.envelope import Envelope
from esb.errors import Transient
from esb.options import Options, RawSteps
from esb.step import Step, asked


class Way(Options):
    steps: RawSteps = Field(description="What is done with a message that goes this way.")
    weight: int = Field(
        1, ge=0, le=1000, description="Its share, beside those of others; 0: only if others fail."
    )


class LoadBalanceOptions(Options):
    """Share messages between several ways. One with an endpoint that is ill, by its `health`, is
    tried last, and has its share again once it is well."""

    to: dict[str, Way] = Field(description="Name: a way, `{a: {steps: [call: ...], weight: 3}}`.")
    strategy: Literal["round_robin", "in_order", "sticky"] = Field(
        "round_robin",
        description="`round_robin`: each in its turn, by weight. `in_order`: the first, the others "
        "only if it fails (failover). `sticky`: what has the same `by` goes the same way.",
    )
    by: str | None = Field(None, description="With `sticky`: an expression, `body.customer`.")
    failover: bool = Field(
        True,
        description="Whether the next is tried where one fails with an error that may pass: it was "
        "not reached, is overloaded, its circuit is open. Never after an unknown outcome.",
    )


@dataclass
class _Way:
    name: str
    weight: int
    step: Step
    checks: Sequence[Resource] = ()  # what asks its far sides how they are
    credit: int = 0

    @property
    def well(self) -> bool:
        return all(check.health().up for check in self.checks)


def make(options: LoadBalanceOptions, build: Build) -> Step:
    """The result of the way that took the message. Raises the last one's error if none did. What a
    way that failed has sent to the bus's own queues is not sent.
    """
    if not options.to:
        raise build.problem("there is no way to go", hint="to: {name: {steps: [...]}}")
    ways: list[_Way] = []
    for name, way in options.to.items():
        others = len(build.checks)
        step = build.steps(way.steps, "to", name, "steps")
        ways.append(_Way(name, way.weight, step, build.checks[others:]))
    if not any(way.weight for way in ways):
        build.problem("no way has a weight above 0", "to", key=True)
    order: Callable[[Sequence[_Way], Envelope], Sequence[_Way]]
    if (options.strategy == "sticky") != (options.by is not None):
        raise build.problem("'by' belongs to 'strategy: sticky', and that needs it")
    key_of = None if options.by is None else build.expression(options.by, "by")
    if key_of is not None:
        order = lambda ways, envelope: ranked(ways, str(key_of(envelope)))  # noqa: E731
    elif options.strategy == "in_order":
        order = lambda ways, envelope: ways  # noqa: E731
    else:
        order = lambda ways, envelope: in_turn(ways)  # noqa: E731
    if any(way.checks for way in ways):
        order = well_first(order)

    async def load_balance(envelope: Envelope) -> Envelope:
        last: Transient | None = None
        if key_of is not None:
            await asked(key_of, envelope)  # reads what is large; the order then finds it read
        for way in order(ways, envelope):
            try:
                async with part():
                    return await way.step(envelope)
            except Transient as e:
                if not options.failover:
                    raise
                last = e.noted(f"by way of {way.name}")
        assert last is not None
        raise last

    return load_balance


def well_first(
    order: Callable[[Sequence[_Way], Envelope], Sequence[_Way]],
) -> Callable[[Sequence[_Way], Envelope], Sequence[_Way]]:
    """The order of those that are well, then of those that are ill: better than none at all."""

    def ordered(ways: Sequence[_Way], envelope: Envelope) -> Sequence[_Way]:
        well = [way for way in ways if way.well]
        if not well or len(well) == len(ways):
            return order(ways, envelope)
        return [*order(well, envelope), *(way for way in ways if not way.well)]

    return ordered


def in_turn(ways: Sequence[_Way]) -> list[_Way]:
    """The way whose turn it is, then the others in the order of theirs (smooth weighted round
    robin: turns of a heavy one are spread evenly)."""
    total = sum(way.weight for way in ways)
    for way in ways:
        way.credit += way.weight
    found = sorted(ways, key=lambda way: (way.weight > 0, way.credit), reverse=True)
    found[0].credit -= total
    return found


def ranked(ways: Sequence[_Way], key: str) -> list[_Way]:
    """The ways as a key prefers them (weighted rendezvous hashing): the same in every process, and
    if one goes only its own keys move."""

    def score(way: _Way) -> float:
        digest = blake2b(f"{way.name}\0{key}".encode(), digest_size=8).digest()
        share = (int.from_bytes(digest) + 1) / (2**64 + 1)
        return way.weight / -math.log(share)

    return sorted(ways, key=score, reverse=True)


step = Role(LoadBalanceOptions, make)
