"""Sub-routes that a message may name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from esb.adapter import Build
from esb.envelope import Outcome
from esb.errors import BadMessage
from esb.step import Step

STOPPED: Final = (Outcome.FILTERED, Outcome.DEAD)


def hops(names: Sequence[str], build: Build) -> dict[str, Step]:
    """The sub-routes of the option `among`, by name."""
    if not names:
        raise build.problem("no sub-route may be named", "among", hint="among: [name, ...]")
    return {name: build.subroute(name, "among", i) for i, name in enumerate(names)}


def hop(routes: Mapping[str, Step], name: object) -> Step:
    """The sub-route that a message named. Raises BadMessage if it may not be."""
    found = routes.get(name) if isinstance(name, str) else None
    if found is None:
        raise BadMessage(f"{str(name)[:60]!r} is none of the routes that may be named")
    return found
