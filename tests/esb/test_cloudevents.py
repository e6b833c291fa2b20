"""Envelopes to CloudEvents 1.0 and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import esb.codecs  # noqa: F401 - registers JSON
from esb import cloudevents
from esb.envelope import NO_BODY, Body, Envelope, Headers
from esb.errors import BadMessage

EVENT_FIELDS = (
    "id",
    "source",
    "type",
    "time",
    "subject",
    "correlation_id",
    "traceparent",
    "tracestate",
)
WHEN = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)

text = st.text(st.characters(exclude_categories=["Cs", "Cc"]))
some_text = text.filter(bool)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=10,
)
bodies = st.one_of(
    st.just(NO_BODY),
    json_values.map(lambda data: Body(Body.of(data).raw, "application/json")),
    st.binary(min_size=1).map(lambda raw: Body(raw, "application/pdf")),
    st.binary(min_size=1).map(lambda raw: Body(raw, "text/plain")),
    st.binary(min_size=1).map(lambda raw: Body(raw, "application/json")),
    text.filter(bool).map(lambda t: Body(t.encode("utf-16"), "text/plain; charset=utf-16")),
)
extension_names = st.from_regex(r"\Ax[a-z0-9]{1,10}\Z")


@st.composite
def envelopes(draw: st.DrawFn, extension_values: Any = text) -> Envelope:
    extensions = draw(st.dictionaries(extension_names, extension_values, max_size=3))
    return Envelope(
        id=draw(some_text),
        source=draw(some_text),
        type=draw(some_text),
        time=draw(st.datetimes(timezones=st.just(UTC) | st.just(timezone(timedelta(hours=-5))))),
        subject=draw(text),
        correlation_id=draw(text),
        traceparent=draw(text),
        tracestate=draw(text),
        body=draw(bodies),
        params={"path": {"id": "7"}, **({"cloudevents": extensions} if extensions else {})},
        headers=Headers([("x-own", "1")]),
    )


def same_event(a: Envelope, b: Envelope) -> None:
    for name in EVENT_FIELDS:
        assert getattr(a, name) == getattr(b, name), name
    assert a.params == b.params
    assert list(a.headers) == list(b.headers)
    assert a.content_type == b.content_type


def blank(envelope: Envelope) -> Envelope:
    """What an adapter has before it looks for an event: its own id, no attributes."""
    return Envelope(body=envelope.body, headers=envelope.headers, params={"path": {"id": "7"}})


@given(envelopes(text | st.booleans() | st.integers()))
def test_structured_mode_comes_back(envelope: Envelope) -> None:
    wire = cloudevents.structured(envelope)
    assert wire.content_type == "application/cloudevents+json"
    read = cloudevents.read(blank(wire))
    same_event(read, envelope)
    if envelope.body.content_type != "application/json":
        assert read.body.raw == envelope.body.raw
    else:
        try:
            assert read.body.data == envelope.body.data
        except BadMessage:  # the original's, whose bytes pass all the same
            assert read.body.raw == envelope.body.raw


@given(envelopes())
def test_binary_mode_comes_back(envelope: Envelope) -> None:
    wire = cloudevents.binary(envelope)
    assert wire.body is envelope.body
    for name, value in wire.headers:
        if name.startswith("ce-"):
            assert isinstance(value, str)
            assert value.isascii()
            assert value.isprintable()
            assert not set(value) & {" ", '"'}
    read = cloudevents.read(blank(wire))
    same_event(read, envelope)
    assert read.body is envelope.body


@given(envelopes(text | st.integers()))
def test_amqp_names_come_back_with_their_types(envelope: Envelope) -> None:
    wire = cloudevents.binary(envelope, prefix="cloudEvents_", percent=False)
    read = cloudevents.read(blank(wire), prefix="cloudEvents_", percent=False)
    same_event(read, envelope)


def test_what_structured_mode_looks_like() -> None:
    envelope = Envelope(
        id="1",
        source="/orders",
        type="order.created",
        time=WHEN,
        correlation_id="c",
        body=Body(b'{"amount": 1.10}', "application/json"),
        params={"cloudevents": {"dataschema": "https://example.com/s", "shard": 7}},
    )
    raw = cloudevents.structured(envelope).body.raw
    assert json.loads(raw) == {
        "specversion": "1.0",
        "id": "1",
        "source": "/orders",
        "type": "order.created",
        "time": "2025-01-02T03:04:05Z",
        "correlationid": "c",
        "dataschema": "https://example.com/s",
        "shard": 7,
        "datacontenttype": "application/json",
        "data": {"amount": 1.1},
    }
    assert b'"amount":1.10' in raw
    xml = envelope.replace(body=Body(b"<a>\xc3\xa9</a>", "application/xml"))
    assert json.loads(cloudevents.structured(xml).body.raw)["data"] == "<a>é</a>"
    pdf = envelope.replace(body=Body(b"\xff", "application/pdf"))
    assert json.loads(cloudevents.structured(pdf).body.raw)["data_base64"] == "/w=="


def event(**members: Any) -> Envelope:
    document = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", **members}
    document = {k: v for k, v in document.items() if v is not ...}
    return Envelope(body=Body(json.dumps(document).encode(), "application/cloudevents+json"))


def test_numbers_in_an_event_stay_exact() -> None:
    raw = b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"n":1.10}}'
    read = cloudevents.read(Envelope(body=Body(raw, "application/cloudevents+json; charset=utf-8")))
    assert read.body.data == {"n": Decimal("1.10")}
    assert read.body.raw == b'{"n":1.10}'
    assert read.content_type == "application/json"


def test_null_data_is_data_and_none_is_none() -> None:
    assert cloudevents.read(event(data=None)).body.raw == b"null"
    assert cloudevents.read(event()).body.is_empty
    assert cloudevents.read(event(subject=None)).subject == ""


@pytest.mark.parametrize(
    "members",
    [
        {"specversion": ...},
        {"specversion": "0.3"},
        {"id": ...},
        {"id": ""},
        {"source": 7},
        {"type": ...},
        {"time": "yesterday"},
        {"time": "2025-01-01"},
        {"time": "2025-13-01T00:00:00Z"},
        {"Upper": "x"},
        {"with-dash": "x"},
        {"ext": {"a": 1}},
        {"subject": "a\r\nX-Evil: b"},
        {"ext": "\0"},
        {"data": "x", "data_base64": "eA=="},
        {"data_base64": "?"},
        {"data_base64": 7},
        {"data": {"a": 1}, "datacontenttype": "text/xml"},
        {"data": "€", "datacontenttype": "text/plain; charset=us-ascii"},
        {"datacontenttype": 7},
    ],
)
def test_a_wrong_event_is_a_bad_message(members: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        cloudevents.read(event(**members))


def test_a_message_that_is_no_event_is_told_so() -> None:
    assert not cloudevents.is_event(Envelope())
    assert cloudevents.is_event(event())
    assert cloudevents.is_event(Envelope(headers=Headers([("Ce-SpecVersion", "1.0")])))
    with pytest.raises(BadMessage, match="no CloudEvent"):
        cloudevents.read(Envelope())
    with pytest.raises(BadMessage, match="JSON object"):
        cloudevents.read(Envelope(body=Body(b"[]", "application/cloudevents+json")))


def test_no_attribute_reaches_a_field_that_controls_delivery() -> None:
    wire = event(attempt="9", principal="root", deadline="1", replyto="q", outcome="dead")
    read = cloudevents.read(wire.replace(principal="ann"))
    assert (read.attempt, read.principal, read.deadline, read.reply_to) == (1, "ann", None, "")
    assert read.params["cloudevents"]["principal"] == "root"
