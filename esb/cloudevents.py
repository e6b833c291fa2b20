"""Envelopes as CloudEvents 1.0 and back, without loss.

Structured content mode is one JSON document (JSON Event Format 1.0.2) as the body, binary content
mode is attributes as headers beside the body as it is (HTTP Protocol Binding 1.0.2, section 3.1;
AMQP's with `prefix="cloudEvents_"` and `percent=False`).

    envelope                              event
    id, source, type, time, subject       the same
    content_type                          datacontenttype
    correlation_id                        correlationid (extension)
    traceparent, tracestate               the same (Distributed Tracing extension)
    params["cloudevents"]                 dataschema and every other extension

What belongs to one delivery (headers, other params, attempt, deadline, principal, reply address)
is no part of an event. Attributes from the wire are data: an adapter adopts them with `read` only
where its options say `cloudevents: true`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from esb.envelope import Body, Envelope, HeaderValue, parse_content_type
from esb.errors import BadMessage

STRUCTURED: Final = "application/cloudevents+json"
EXTENSIONS: Final = "cloudevents"
"""The group of `Envelope.params` with the attributes that an envelope has no field for."""

_FIELDS: Final = {
    "id": "id",
    "source": "source",
    "type": "type",
    "subject": "subject",
    "correlationid": "correlation_id",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
}
_REQUIRED: Final = ("id", "source", "type")
_NAME: Final = re.compile(r"[a-z0-9]+\Z")
_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)\Z"
)  # RFC 3339
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # no text has those ("Type System")
_SAFE: Final = "".join(map(chr, range(0x21, 0x7F))).replace('"', "").replace("%", "")


def is_event(envelope: Envelope, prefix: str = "ce-") -> bool:
    """Whether a message is a CloudEvent, in either mode."""
    essence = parse_content_type(envelope.content_type).essence
    return essence == STRUCTURED or f"{prefix}specversion" in envelope.headers


def read(envelope: Envelope, *, prefix: str = "ce-", percent: bool = True) -> Envelope:
    """The message with the attributes and the data of the event that it carries, in either mode.

    Raises BadMessage if it carries none, or a wrong one.
    """
    if parse_content_type(envelope.content_type).essence == STRUCTURED:
        event = envelope.body.data
        if not isinstance(event, dict):
            raise BadMessage("a CloudEvent is a JSON object")
        attributes = {
            name: value
            for name, value in event.items()
            if name not in ("data", "data_base64") and value is not None
        }
        return _adopt(envelope.replace(body=_data_of(event)), attributes)
    prefix = prefix.lower()
    attributes = {
        name.lower().removeprefix(prefix): _unescape(value) if percent else value
        for name, value in envelope.headers
        if name.lower().startswith(prefix)
    }
    headers = envelope.headers.keep(lambda name: not name.startswith(prefix))
    return _adopt(envelope.replace(headers=headers), attributes)


def structured(envelope: Envelope) -> Envelope:
    """The message as one JSON document. Raises EsbError if its body has no form there."""
    event: dict[str, Any] = {"specversion": "1.0", **_attributes(envelope)}
    body = envelope.body
    content_type = parse_content_type(body.content_type)
    if not body.is_empty and not body.content_type:
        # An event without a type is JSON.
        event["datacontenttype"] = "application/octet-stream"
    elif body.content_type:
        event["datacontenttype"] = body.content_type
    if not body.is_empty:
        name, value = _event_data(body, content_type.essence, content_type.charset)
        event[name] = value
    return envelope.replace(body=Body(Body.of(event, STRUCTURED).raw, STRUCTURED))


def binary(envelope: Envelope, *, prefix: str = "ce-", percent: bool = True) -> Envelope:
    """The message with the event's attributes as headers; its body stays as it is."""
    headers: dict[str, HeaderValue] = {f"{prefix}specversion": "1.0"}
    for name, value in _attributes(envelope).items():
        headers[prefix + name] = _escape(value) if percent else value
    return envelope.replace(headers=envelope.headers.replace(headers))


def _attributes(envelope: Envelope) -> dict[str, Any]:
    time = envelope.time if envelope.time.tzinfo else envelope.time.replace(tzinfo=UTC)
    attributes: dict[str, Any] = {"time": time.isoformat().replace("+00:00", "Z")}
    for name, field in _FIELDS.items():
        if value := getattr(envelope, field):
            attributes[name] = value
    for name, value in envelope.params.get(EXTENSIONS, {}).items():
        attributes.setdefault(name, value)
    return attributes


def _adopt(envelope: Envelope, attributes: Mapping[str, Any]) -> Envelope:
    version = attributes.get("specversion")
    if version != "1.0":
        raise BadMessage(
            f"CloudEvents {str(version)[:20]!r} is not read, 1.0 is"
            if version
            else "the message is no CloudEvent: specversion is missing"
        )
    changes: dict[str, Any] = {"subject": "", "traceparent": "", "tracestate": ""}
    extensions: dict[str, Any] = {}
    for name, value in attributes.items():
        if not _NAME.match(name):
            raise BadMessage(f"{name[:40]!r} is no name of a CloudEvents attribute")
        if isinstance(value, str) and _CONTROL.search(value):
            raise BadMessage(f"the CloudEvents attribute {name[:40]} has control characters")
        if name in _FIELDS or name == "time":
            if not isinstance(value, str) or not value:
                raise BadMessage(f"the CloudEvents attribute {name} is no text, or empty")
            changes["time" if name == "time" else _FIELDS[name]] = (
                _time(value) if name == "time" else value
            )
        elif name not in ("specversion", "datacontenttype"):
            if not isinstance(value, str | int | bool | bytes):
                raise BadMessage(f"the CloudEvents attribute {name[:40]} is no single value")
            extensions[name] = value
    for name in _REQUIRED:
        if name not in changes:
            raise BadMessage(f"the CloudEvents attribute {name} is missing")
    others = {name: group for name, group in envelope.params.items() if name != EXTENSIONS}
    changes["params"] = {**others, EXTENSIONS: extensions} if extensions else others
    return envelope.replace(**changes)


def _time(value: str) -> datetime:
    try:
        if _TIME.match(value):
            return datetime.fromisoformat(value.upper())
    except ValueError:
        pass
    raise BadMessage("the CloudEvents attribute time is no time of RFC 3339")


def _is_json(essence: str) -> bool:
    return essence.rpartition("/")[2].rpartition("+")[2] == "json"


def _event_data(body: Body, essence: str, charset: str) -> tuple[str, Any]:
    if _is_json(essence):
        try:
            return "data", body.data
        except BadMessage:  # not JSON after all: as bytes it still passes
            return "data_base64", base64.b64encode(body.raw).decode("ascii")
    is_text = essence.startswith("text/") or essence.rpartition("/")[2].endswith("xml")
    if is_text and charset == "utf-8":
        try:
            return "data", body.raw.decode()
        except UnicodeDecodeError:
            pass
    return "data_base64", base64.b64encode(body.raw).decode("ascii")


def _data_of(event: Mapping[str, Any]) -> Body:
    declared = event.get("datacontenttype")
    if declared is not None and not isinstance(declared, str):
        raise BadMessage("the CloudEvents attribute datacontenttype is no text")
    if "data_base64" in event:
        if "data" in event:
            raise BadMessage("a CloudEvent has either data or data_base64")
        try:
            raw = base64.b64decode(event["data_base64"], validate=True)
        except (TypeError, ValueError, binascii.Error) as e:
            raise BadMessage("data_base64 of the CloudEvent is no base64") from e
        return Body(raw, declared or "application/json")
    if "data" not in event:
        return Body(b"", declared or "")
    content_type = declared or "application/json"
    if _is_json(parse_content_type(content_type).essence):
        body = Body.of(event["data"], content_type)
        return Body(body.raw, content_type, event["data"])
    if not isinstance(event["data"], str):
        raise BadMessage(f"data of the CloudEvent is to be the text of {content_type[:60]}")
    try:
        raw = event["data"].encode(parse_content_type(content_type).charset)
    except (LookupError, UnicodeEncodeError) as e:
        raise BadMessage("data of the CloudEvent has no form in its charset") from e
    return Body(raw, content_type)


def _escape(value: Any) -> str:
    # Section 3.1.3.2: what is no printable ASCII, and space, quote and percent.
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, bytes):
        value = base64.b64encode(value).decode("ascii")
    return quote(str(value), safe=_SAFE)


def _unescape(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if len(value) > 1 and value.startswith('"') and value.endswith('"'):
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError as e:
        raise BadMessage("a CloudEvents header is no UTF-8") from e
