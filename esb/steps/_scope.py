"""What a step tells those within it and nobody else, as a group of the message's params."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from esb.envelope import Envelope


def told(envelope: Envelope, group: str, facts: Mapping[str, Any] | None) -> Envelope:
    """The message with `facts` as its params `group`; None takes them away."""
    if envelope.params.get(group) is facts:
        return envelope
    others = {name: value for name, value in envelope.params.items() if name != group}
    return envelope.replace(params=others if facts is None else {**others, group: facts})


def untold(result: Envelope, before: Envelope, group: str) -> Envelope:
    """The result of the steps within, where the group is again what it was before them."""
    return told(result, group, before.params.get(group))
