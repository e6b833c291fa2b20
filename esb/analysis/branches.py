"""Branches that no message takes, and steps that none reaches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Final

from esb.analysis.conditions import constant, implies, terms
from esb.analysis.findings import Findings, place_of
from esb.outline import Part


def check(route: Part, found: Findings) -> None:
    """Dead branches, and steps behind one that ends every message, in one route."""
    for part in route.walk():
        if part.kind == "steps":
            _behind_the_end(part, found)
        elif part.kind == "step" and part.options is not None and part.name in _QUESTIONS:
            _QUESTIONS[part.name](part, found)


def ends(step: Part) -> bool:
    """Whether no message gets past a step."""
    if step.name == "fail":
        return True
    if step.name == "filter":
        return any(constant(str(use.source)) is False for use in step.uses)
    if step.name == "choose":
        lists = [part for part in step.parts if part.kind == "steps"]
        every = len(lists) == len(step.uses) + 1  # one has no condition
        return every and all(any(ends(one) for one in part.parts) for part in lists)
    return False


def _behind_the_end(steps: Part, found: Findings) -> None:
    for step, behind in pairwise(steps.parts):
        if ends(step):
            found.add(
                behind, "dead", f"no message gets here: '{step.name}' above ends every one",
                f"in line {step.line}",
            )  # fmt: skip
            return


def _filter(step: Part, found: Findings) -> None:
    for use in step.uses:
        always = constant(str(use.source))
        if always is not None:
            says = "lets every message through" if always else "lets no message through"
            found.add(step, "constant", f"this {says}: it asks nothing about it", at=place_of(use))


def _branches(step: Part, found: Findings) -> None:
    before: list[tuple[int, str]] = []
    taken = 0  # the line of a condition that is always true
    for use in step.uses:
        source = str(use.source)
        at = place_of(use)
        known = terms(source)
        if taken:
            found.add(step, "dead", f"never tried: the condition in line {taken} is always true",
                      at=at)  # fmt: skip
        elif (always := constant(source)) is not None:
            says = "always true, so `otherwise` says it better" if always else "never true"
            found.add(step, "constant", f"this condition is {says}", at=at)
            taken = use.spot.line if always else 0
        for line, other in before:
            if implies(known, terms(other)):
                same = "is the same" if other == source else "is true whenever this one is"
                found.add(
                    step, "dead", f"never true here: the condition in line {line} {same}",
                    "put the narrower condition first" if other != source else "", at=at,
                )  # fmt: skip
                break
        before.append((use.spot.line, source))


def _turns(step: Part, found: Findings) -> None:
    condition = step.options.while_
    for use in step.uses:
        if condition is None or use.source != condition:
            continue
        always = constant(condition)
        if always:
            found.add(
                step, "endless", "this loop has no end: every message fails after "
                f"{step.options.most} turns", "a condition that the steps make false",
                at=place_of(use),
            )  # fmt: skip
        elif always is False:
            found.add(step, "dead", "this condition is never true: the steps never run",
                      at=place_of(use))  # fmt: skip


_QUESTIONS: Final[Mapping[str, Callable[[Part, Findings], None]]] = {
    "choose": _branches,
    "filter": _filter,
    "loop": _turns,
}
