"""What `check_in` and `check_out` have in common: where content is kept, and its ticket is."""

from __future__ import annotations

from typing import Any, Final, Self

from pydantic import Field, model_validator

from esb.adapter import Build
from esb.durable import KEPT
from esb.envelope import Envelope
from esb.errors import BadMessage
from esb.options import Name, Options

TICKET: Final = "claim"
"""The key of an object that stands for what was checked in."""


class ClaimOptions(Options):
    """Which content, and where its ticket is."""

    __shorthand__ = "scope"

    scope: Name | None = Field(
        None,
        description="A ticket opens what was checked in under the same name, in whichever route, "
        "and nothing else. The route's own name if left out.",
    )
    field: str | None = Field(
        None,
        description="A dotted field of the body, `customer.photo`: it alone is checked in, and "
        '`{"claim": ticket}` stands in its place. Without it that is the whole body.',
    )
    header: str | None = Field(
        None,
        description="A header that holds the ticket instead; then the body stays as it is when it "
        "is checked in, for the next steps to make it small.",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.field is not None and self.header is not None:
            raise ValueError("a ticket is in a field or in a header, not in both")
        return self


def channel_of(options: ClaimOptions, build: Build) -> str:
    """Where in the store the content is kept: a group for each ticket."""
    return f"{KEPT}claims:{options.scope or build.route}"


def at_field(envelope: Envelope, path: list[str]) -> Any:
    """What is at a field of the body. Raises BadMessage if there is no such field."""
    data = envelope.body.data
    for key in path:
        if not isinstance(data, dict) or key not in data:
            raise BadMessage(f"the body has no field '{'.'.join(path)}'")
        data = data[key]
    return data
