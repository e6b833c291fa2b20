"""Faults that a source has an answer for, and that no call in its route can raise."""

from __future__ import annotations

import difflib

from esb.analysis.findings import Findings
from esb.outline import Part


def check(route: Part, found: Findings) -> None:
    """Names of faults that are most likely misspelt. Nothing is said of a route in which faults may
    come from where their names are not known: a sub-route, a function."""
    source = next((part for part in route.parts if part.kind == "source"), None)
    if source is None or not source.given.faults:
        return
    raised: set[str] = set()
    for part in route.walk():
        if part.kind == "subroute" or (part.kind == "step" and part.name == "python"):
            return
        if part.direction == "caller" and part.given.faults is not None:
            raised |= part.given.faults.keys()
    if not raised:
        return
    for name, at in source.given.faults.items():
        if name not in raised:
            close = difflib.get_close_matches(name, raised, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(raised)}"
            found.add(source, "fault", f"no call of this route has a fault '{name}'", hint, at=at)
