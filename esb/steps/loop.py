"""Loop (no pattern of the EIP book): run inner steps again and again on their own result.

For example:

    loop:
      while: body.next is not none
      steps: [{call: {http: {url: "https://shop.example/pages/{{ body.next }}", method: GET}}}]
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, Final

from pydantic import Field

from esb.adapter import Build, Expression, Role
from esb.envelope import Envelope, Outcome
from esb.errors import RouteFailure
from esb.options import Options, RawSteps
from esb.step import Step, asked, in_turn
from esb.steps._scope import told, untold

TURN: Final = "turn"
"""The params in which the steps see which turn it is."""


class LoopOptions(Options):
    """One of `while`, `times` and `each`. The steps see `turn.number`, from 1, and `turn.item`."""

    while_: str | None = Field(
        None,
        alias="while",
        description="An expression, asked before each turn: goes on as long as it is true.",
    )
    times: int | str | None = Field(
        None, description="So many turns: a number, or an expression that gives it."
    )
    each: str | None = Field(
        None,
        description="An expression that gives a list: a turn for each item, `turn.item`. Unlike "
        "with `split`, each turn gets the message that the one before has left.",
    )
    steps: RawSteps = Field(description="What to do in each turn.")
    most: int = Field(
        1000, ge=1, le=1_000_000, description="The bound: a loop with more turns is an error."
    )


def make(options: LoopOptions, build: Build) -> Step:
    """The result of the last turn; a filtered message ends the loop and goes no further.

    Raises RouteFailure if it does not end within `most` turns, before the first of them where that
    can be known.
    """
    given = [name for name in ("while_", "times", "each") if getattr(options, name) is not None]
    if len(given) != 1:
        raise build.problem(
            "a loop has one of 'while', 'times' and 'each'",
            *(name.strip("_") for name in given[1:2]),
        )
    steps = build.steps(options.steps, "steps")
    most = options.most
    goes_on: Expression | None = None
    items: Expression | None = None
    if options.while_ is not None:
        goes_on = build.expression(options.while_, "while")
    elif options.each is not None:
        items = build.expression(options.each, "each")
    elif isinstance(options.times, str):
        items = _counted(build.expression(options.times, "times"))
    else:
        times = options.times or 0
        if not 0 <= times <= most:
            build.problem(f"a loop has from 0 to {most} turns", "times", hint="most: ...")
        items = lambda envelope: range(times)  # noqa: E731 - what an expression gives, too

    async def turns(envelope: Envelope) -> Iterator[dict[str, Any]]:
        found = range(most) if items is None else await asked(items, envelope)
        if not isinstance(found, list | tuple | range):
            raise RouteFailure(f"loop needs a list, '{options.each}' gave something else")
        if len(found) > most:
            raise RouteFailure(f"a loop of {len(found)} turns: at most {most} are allowed")
        return numbered(found)

    def numbered(found: Iterable[Any]) -> Iterator[dict[str, Any]]:
        counts = not options.each
        for number, item in enumerate(found, start=1):
            yield {"number": number} if counts else {"number": number, "item": item}
        if goes_on is not None:
            yield {"number": most + 1}

    async def loop(envelope: Envelope) -> Envelope:
        current = envelope
        for turn in await turns(envelope):
            current = told(current, TURN, turn)
            if goes_on is not None:
                if not await asked(goes_on, current):
                    break
                if turn["number"] > most:
                    raise RouteFailure(f"the loop did not end within {most} turns")
            with in_turn(turn["number"]):
                current = await steps(current)
            if current.outcome in (Outcome.FILTERED, Outcome.DEAD):
                break
            await asyncio.sleep(0)  # steps that wait for nothing must not stop everybody else
        return untold(current, envelope, TURN)

    return loop


def _counted(times: Expression) -> Expression:
    def turns(envelope: Envelope) -> range:
        count = times(envelope)
        if type(count) is not int or count < 0:
            raise RouteFailure("the number of turns is a whole number, 0 or more")
        return range(count)

    return turns


step = Role(LoopOptions, make)
