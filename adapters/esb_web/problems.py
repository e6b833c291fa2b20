"""Errors as HTTP answers: one table, written as problem+json (RFC 9457).

`error.detail` is written for the sender of the message; nothing else of an error is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from esb.envelope import Envelope
from esb.errors import (
    BadMessage,
    BadReply,
    Denied,
    EsbError,
    Expired,
    Fault,
    InProgress,
    NoSuchOperation,
    NotUndone,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    RouteFailure,
    Throttled,
    TimedOut,
    TooLarge,
    Transient,
    Unavailable,
    Unreachable,
    UnsupportedMedia,
)
from esb_web.messages import Headerlist, Response
from esb_web.policies import limit_headers, seconds

_JSON: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=str)

PROBLEM: Final = "application/problem+json"


class KeyReused(BadMessage):
    """Another request had this Idempotency-Key."""

    code = "idempotency-key-reused"


_STATUS: Final[tuple[tuple[type[EsbError], int, str], ...]] = (
    # The most special first: the first that matches counts.
    (TooLarge, 413, "The message is too large"),
    (UnsupportedMedia, 415, "Unsupported media type"),
    (NoSuchOperation, 404, "Nothing is served here"),
    (KeyReused, 422, "The key was used for something else"),
    (BadMessage, 400, "The message is not valid"),
    (Denied, 401, "Not allowed"),
    (RouteFailure, 500, "The route failed on this message"),
    (Fault, 502, "The service answered with a fault"),
    (Rejected, 502, "The service refused the message"),
    (BadReply, 502, "The service answered something unreadable"),
    (OutcomeUnknown, 504, "The service did not answer; what it did is unknown"),
    (NotUndone, 500, "Part of it is done and could not be undone"),
    (Expired, 400, "The message came too late"),
    (Unreachable, 503, "The service cannot be reached"),
    (TimedOut, 504, "The service did not answer in time"),
    (Unavailable, 503, "Not available now"),
    (InProgress, 409, "The same is being worked on"),
    (Throttled, 429, "Too many requests"),
    (Overloaded, 503, "Overloaded"),
    (Transient, 502, "The service failed"),
)


def status_of(error: EsbError, faults: Mapping[str, int] | None = None) -> int:
    """The HTTP status of an error; `faults` overrides it for faults by their declared name."""
    if isinstance(error, Fault):
        if faults and error.name in faults:
            return faults[error.name]
        if error.name:
            # Whom it blames says nothing: stacks of Java and .NET blame the server for all of them.
            return 422
        return 400 if error.party == "sender" else 502
    if isinstance(error, NoSuchOperation) and error.allowed:
        return 405
    if isinstance(error, Denied) and error.authenticated:
        return 403
    return next((status for kind, status, _ in _STATUS if isinstance(error, kind)), 500)


def challenges(error: Denied) -> Headerlist:
    """What a 401 says of the credentials that would help (RFC 9110, section 11.6.1)."""
    return [("www-authenticate", one) for one in error.challenge or ("Bearer",)]


def problem(
    error: EsbError,
    *,
    instance: str,
    faults: Mapping[str, int] | None = None,
    message_id: str = "",
) -> Response:
    """The answer to a request that failed with `error`.

    An answer of the far side that an endpoint wants passed on as it is (`Rejected.reply` is a
    Response) is returned unchanged.
    """
    if isinstance(error, Rejected) and isinstance(error.reply, Response):
        return error.reply
    status = status_of(error, faults)
    title = next((title for kind, _, title in _STATUS if isinstance(error, kind)), "")
    members: dict[str, Any] = {
        "type": f"urn:esb:problem:{error.code}",
        "title": title or "Something went wrong inside the bus",
        "status": status,
        # An EsbError of no known kind was not written for the sender.
        "detail": error.detail if title else "",
        "instance": instance,
    }
    headers: Headerlist = [("content-type", PROBLEM)]
    if isinstance(error, Fault):
        members["type"] = error.type or members["type"]
        if error.name:
            members["title"] = error.name
        members.update({k: v for k, v in error.info.items() if k not in members})
        if error.data is not None:
            members["fault"] = error.data
    elif isinstance(error, BadMessage):
        if error.errors:
            members["errors"] = error.errors
        if isinstance(error, NoSuchOperation) and error.allowed:
            members["title"] = "Method not allowed"
            headers.append(("allow", ", ".join(error.allowed)))
    elif isinstance(error, Denied):
        if status == 401:
            headers += challenges(error)
    elif isinstance(error, Rejected):
        if error.status is not None:
            members["upstream_status"] = error.status
    elif isinstance(error, Transient) and error.retry_after is not None:
        headers.append(("retry-after", seconds(error.retry_after)))
    if isinstance(error, Throttled):
        headers += limit_headers(error.quotas)
        broken = [quota.name for quota in error.quotas if quota.broken]
        members["violated-policies"] = broken
    return _written(status, members, headers, message_id)


def dead(message: Envelope) -> Response:
    """The answer for a message that was set aside in the dead letters."""
    members = {
        "type": "urn:esb:problem:dead-letter",
        "title": "The message could not be processed",
        "status": 500,
        "detail": "the message was set aside with the reason; it is not lost",
        "instance": message.subject,
    }
    return _written(500, members, [("content-type", PROBLEM)], message.id)


def unexpected(instance: str, message_id: str = "") -> Response:
    """The answer when the bus itself failed; it says nothing about why."""
    return problem(EsbError(""), instance=instance, message_id=message_id)


def _written(
    status: int, members: dict[str, Any], headers: Headerlist, message_id: str
) -> Response:
    members = {name: value for name, value in members.items() if value != ""}
    if message_id:
        members["id"] = message_id
    return Response(status, headers, _JSON.encode(members))
