"""CloudEvents in AMQP messages (CloudEvents AMQP Protocol Binding 1.0.2, sections 3.1 and 3.2)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal

from esb.cloudevents import binary, is_event, read, structured
from esb.envelope import NO_HEADERS, Envelope, Headers

_PREFIX: Final = "cloudEvents_"
_ANY: Final = ("cloudevents_", "cloudevents:")
"""Section 3.1.3.1: receivers take either, senders write the first, which JMS can read too."""


def adopt(envelope: Envelope) -> Envelope:
    """The message with the attributes and the data of the event that it carries; any other message
    as it is. Raises BadMessage for a wrong event."""
    odd = {n: value for n, value in _odd_headers(envelope).items() if n.lower().startswith(_ANY)}
    named = [(_PREFIX + name[len(_PREFIX) :], value) for name, value in odd.items()]
    headers = [*envelope.headers, *named]
    event = envelope.replace(
        headers=Headers.trusted((name, _plain(name, value)) for name, value in headers)
    )
    if not is_event(event, _PREFIX):
        return envelope
    return read(_without_odd(event, odd), prefix=_PREFIX, percent=False)


def as_event(
    envelope: Envelope, mode: Literal["binary", "structured"]
) -> tuple[Envelope, dict[str, Any]]:
    """The message as an event, and the headers that make it one: in binary mode its attributes, in
    structured mode none. Raises EsbError for a body that has no form there."""
    odd = _odd_headers(envelope)
    plain = _without_odd(envelope, [n for n in odd if n.lower().startswith(_ANY)]).replace(
        headers=envelope.headers.keep(lambda name: not name.startswith(_ANY))
    )
    if mode == "binary":
        event = binary(envelope.replace(headers=NO_HEADERS), prefix=_PREFIX, percent=False)
        return plain, dict(event.headers)
    facts = {**plain.params.get("amqp", {}), "content_encoding": None}
    return structured(plain).replace(params={**plain.params, "amqp": facts}), {}


def _odd_headers(envelope: Envelope) -> dict[str, Any]:
    """Headers whose name no other protocol could carry: one with a colon is among them."""
    odd: dict[str, Any] = envelope.params.get("amqp", {}).get("headers", {})
    return odd


def _without_odd(envelope: Envelope, names: Any) -> Envelope:
    if not names:
        return envelope
    odd = {n: value for n, value in _odd_headers(envelope).items() if n not in names}
    facts = {**envelope.params["amqp"], "headers": odd}
    return envelope.replace(params={**envelope.params, "amqp": facts})


def _plain(name: str, value: Any) -> Any:
    """An attribute that AMQP has as a timestamp is text in an event (section 2.2)."""
    if isinstance(value, datetime) and name.lower().startswith(_PREFIX.lower()):
        return value.isoformat().replace("+00:00", "Z")
    return value
