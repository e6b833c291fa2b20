"""Where the questions put what they find."""

from __future__ import annotations

from typing import Literal

from esb.errors import Diagnostic
from esb.outline import Part, Spot, Use

Severity = Literal["error", "warning"]


class Findings:
    """What was found, each thing once."""

    def __init__(self) -> None:
        self._found: set[Diagnostic] = set()

    def add(
        self,
        part: Part,
        code: str,
        message: str,
        hint: str = "",
        *,
        severity: Severity = "warning",
        at: Spot | None = None,
    ) -> None:
        """Something about `part`; at: the place, if not that of the part."""
        spot = at or Spot(part.file, part.line, part.column)
        self._found.add(Diagnostic(*spot, code, message, hint, severity))

    def sorted(self) -> list[Diagnostic]:
        """All of it, in the order of the files."""
        return sorted(self._found)


def place_of(use: Use, offset: int = 0) -> Spot:
    """Where a character of an expression stands."""
    file, line, column = use.spot
    return Spot(file, line, column + (offset if use.exact else 0))
