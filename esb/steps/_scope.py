"""What a step tells those within it and nobody else, as a group of the message's params."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from esb.envelope import Envelope
from esb.errors import BadMessage, EsbError, Fault, RouteFailure

ERROR: Final = "error"
"""The params in which steps see the error that they are there for."""


def told(envelope: Envelope, group: str, facts: Mapping[str, Any] | None) -> Envelope:
    """The message with `facts` as its params `group`; None takes them away."""
    if envelope.params.get(group) is facts:
        return envelope
    others = {name: value for name, value in envelope.params.items() if name != group}
    return envelope.replace(params=others if facts is None else {**others, group: facts})


def untold(result: Envelope, before: Envelope, group: str) -> Envelope:
    """The result of the steps within, where the group is again what it was before them."""
    return told(result, group, before.params.get(group))


def facts(cause: BaseException) -> dict[str, Any]:
    """What expressions may know of an error: what its sender might, as plain data."""
    if isinstance(cause, asyncio.CancelledError):
        return {**facts(EsbError("the run was ended from outside")), "code": "cancelled"}
    error = cause if isinstance(cause, EsbError) else RouteFailure("internal error")
    return {
        "code": error.code,
        "detail": error.detail,
        "step": error.step,
        "status": error.status,
        "attempts": error.attempts,
        "fault": error.name if isinstance(error, Fault) else None,
        "data": error.data if isinstance(error, Fault) else None,
        "errors": error.errors if isinstance(error, BadMessage) else [],
    }
