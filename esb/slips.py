"""Policies of a route that its source makes nothing of."""

from __future__ import annotations

import re
from typing import Final

from esb.build import Builder
from esb.errors import Diagnostic
from esb.outline import NOTHING_GIVEN
from esb.route import RouteOptions

_PRINCIPAL: Final = re.compile(r"\bprincipal\b")


def slips(place: Builder, options: RouteOptions) -> list[Diagnostic]:
    """What most likely is a slip in the policies of a route, whose source has been built. Records
    a problem for a rule about requests that never come."""
    given = next((part.given for part in place.part.parts if part.kind == "source"), NOTHING_GIVEN)
    served = {*given.methods, "HEAD"} if "GET" in given.methods else {*given.methods}
    # What many routes have may well be about what others of them serve.
    own = not place.fixed and "allow" not in place.part.origins
    for index, rule in enumerate(options.allow or () if own and served else ()):
        for at, method in enumerate(rule.methods):
            if method not in served:
                place.problem(
                    f"this route is not asked with {method}", *_rule(place, index), "methods", at,
                    hint=f"it serves {', '.join(given.methods)}",
                )  # fmt: skip
    if not given.anonymous:
        return []
    cached = options.cache.key if options.cache is not None else None
    limited = [one.per for one in options.rate_limit or ()]
    found = []
    for key, texts, so in (
        ("rate_limit", limited, "all of them share one limit"),
        ("cache", [cached or ""], "answers are not told apart"),
    ):
        if any(_PRINCIPAL.search(text) for text in texts):
            document, (line, column) = place.spot((key,), key=True)
            message = f"nobody is asked who he is, so {so}"
            hint = "say with `auth` how callers prove it"
            if key == "rate_limit":
                hint += ", or `per: address`"
            found.append(Diagnostic(document.file, line, column, key, message, hint, "warning"))
    return found


def _rule(place: Builder, index: int) -> tuple[str | int, ...]:
    """Where a rule stands; one may stand without a list."""
    return ("allow", index) if isinstance(place.raw["allow"], list) else ("allow",)
