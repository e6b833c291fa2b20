"""Requests to envelopes, envelopes to responses, errors to problems."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

import esb.codecs  # noqa: F401 - what a bus has
from esb.envelope import NO_BODY, Body, Envelope, Headers, Outcome
from esb.errors import (
    BadMessage,
    BadReply,
    Denied,
    EsbError,
    Fault,
    NoSuchOperation,
    OutcomeUnknown,
    Overloaded,
    Permanent,
    Rejected,
    RouteFailure,
    TimedOut,
    TooLarge,
    Transient,
    Unreachable,
    UnsupportedMedia,
)
from esb.tracecontext import valid_traceparent
from esb_web import ReplyBody, Request, Response, problem, to_envelope, to_response
from esb_web.messages import preferred

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def request(**options: Any) -> Request:
    headers = Headers(options.pop("headers", {}).items())
    return Request(**{"method": "POST", "path": "/a", "headers": headers, **options})


def envelope(**headers: str) -> Envelope:
    return to_envelope(request(headers=headers), source="s", type="t")


# --- in ------------------------------------------------------------------------------------------


def test_a_request_is_data() -> None:
    got = to_envelope(
        request(
            headers={"content-type": "application/json", "X-Reply-To": "evil", "traceparent": TRACE,
                     "tracestate": "a=1"},
            body=b'{"a": 1.10}', path_params={"id": "7"}, query={"x": ["1", "2"]}, deadline=12.5,
        ),
        source="s", type="t",
    )  # fmt: skip
    assert got.body.data == {"a": Decimal("1.10")}
    assert got.params == {"path": {"id": "7"}, "query": {"x": ["1", "2"]}}
    assert (got.source, got.type, got.subject, got.deadline) == ("s", "t", "/a", 12.5)
    assert (got.traceparent, got.tracestate) == (TRACE, "a=1")
    assert (got.reply_to, got.principal, got.attempt, got.correlation_id) == ("", "", 1, "")


def test_every_request_has_an_id_of_its_own() -> None:
    assert envelope(**{"ce-id": "x", "idempotency-key": "x"}).id != envelope().id != "x"


@pytest.mark.parametrize(
    "value",
    ["", "x", TRACE.upper(), TRACE[:-1], TRACE + "0", "ff" + TRACE[2:], TRACE + "\n",
     "00-" + "0" * 32 + "-00f067aa0ba902b7-01", TRACE.replace("00f067aa0ba902b7", "0" * 16)],
)  # fmt: skip
def test_a_broken_trace_is_ignored(value: str) -> None:
    assert not valid_traceparent(value)
    if "\n" not in value:
        got = envelope(traceparent=value, tracestate="a=1")
        assert (got.traceparent, got.tracestate) == ("", "")


# --- out -----------------------------------------------------------------------------------------


def test_a_message_does_not_echo_its_request() -> None:
    asked = envelope(**{"x-a": "1", "authorization": "Bearer x", "content-type": "text/plain"})
    answer = to_response(asked, asked.replace(body=Body(b"hi", "text/plain")))
    assert answer == Response(200, [("content-type", "text/plain")], b"hi")
    changed = asked.replace(headers=asked.headers.replace({"x-b": "2", "x-a": "3"}))
    assert to_response(asked, changed, status=201) == Response(
        201, [("x-b", "2"), ("x-a", "3")], b""
    )


def test_a_reply_passes_with_its_status_and_end_to_end_headers() -> None:
    headers = Headers(
        [("ETag", "x"), ("Location", "/7"), ("Set-Cookie", "a=b"), ("Connection", "close"),
         ("Transfer-Encoding", "chunked"), ("Server", "x"), ("Content-Length", "9"),
         ("X-Amqp", {"a": 1}), ("X-Number", 7)]
    )  # fmt: skip
    asked = envelope()
    reply = asked.reply(Body(b"{}", "application/json"), headers, {"status": 201})
    expected = [("ETag", "x"), ("Location", "/7"), ("X-Number", "7")]
    content = ("content-type", "application/json")
    assert to_response(asked, reply) == Response(201, [*expected, content], b"{}")
    assert to_response(asked, reply, status=202).status == 202
    passed = to_response(asked, reply, cookies=True).headers
    assert ("Set-Cookie", "a=b") in passed
    # A later reply tells its own status, or none.
    assert to_response(asked, reply.reply(NO_BODY)).status == 200


def test_the_other_outcomes() -> None:
    asked = envelope()
    taken = to_response(asked, asked.replace(outcome=Outcome.ACCEPTED, id="part"))
    assert (taken.status, json.loads(taken.body)) == (202, {"id": asked.id})
    assert to_response(asked, asked.replace(outcome=Outcome.FILTERED)) == Response(204)
    dead = to_response(asked, asked.replace(outcome=Outcome.DEAD))
    assert dead.status == 500
    assert json.loads(dead.body)["id"] == asked.id


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("accept", "written"),
    [
        (None, FORM), ("*/*", FORM), ("application/json", "application/json"), (FORM, FORM),
        ("text/html, application/json;q=0.9, */*;q=0.1", "application/json"), ("text/csv", FORM),
        ("application/*", FORM), ("application/json;q=0, */*", FORM), ("", FORM),
        ("application/json;q=x", FORM), ("text/html", FORM),
        ("application/xml", FORM),  # no codec makes XML of plain data
    ],
)  # fmt: skip
def test_data_is_written_as_the_caller_asked(accept: str | None, written: str) -> None:
    asked = envelope()
    answer = to_response(asked, asked.reply(Body.of({"a": "b"}, FORM)), accept)
    assert answer.headers == [("content-type", written)]
    assert answer.body == (b"a=b" if written == FORM else b'{"a":"b"}')


def test_bytes_stay_as_they_are() -> None:
    asked = envelope()
    raw = b'{"a":  1.10}'
    for body in (Body(raw, "application/json"), Body(raw, "application/vnd.x+json")):
        answer = to_response(asked, asked.reply(body), "application/xml")
        assert answer.body is raw
    both = Body(raw, "application/json")
    assert both.data
    assert to_response(asked, asked.reply(both), "application/xml").body is raw


def test_preference() -> None:
    assert preferred("application/json", "application/problem+json") == "application/json"
    assert preferred("*/*", "text/csv") == "text/csv"
    assert preferred("text/*;q=0.5, application/json", "text/xml") == "application/json"
    assert preferred("text/xml", "application/json") == "text/xml"


def test_a_reply_that_cannot_be_read_is_not_the_senders_fault() -> None:
    for raw, content_type in ((b"{", "application/json"), (b"<html>", "text/html; charset=x")):
        body = ReplyBody(raw, content_type)
        with pytest.raises(BadReply):
            body.data  # noqa: B018
    with pytest.raises(BadReply):
        ReplyBody(b"\xff", "text/plain").text  # noqa: B018
    assert ReplyBody(b"[1]", "application/json").data == [1]


# --- errors --------------------------------------------------------------------------------------

TABLE: list[tuple[EsbError, int]] = [
    (BadMessage("x"), 400), (TooLarge("x"), 413), (UnsupportedMedia("x"), 415),
    (NoSuchOperation("x"), 404), (NoSuchOperation("x", ["GET"]), 405), (Denied("x"), 401),
    (Denied("x", authenticated=True), 403), (RouteFailure("x"), 500), (Fault("x"), 502),
    (Fault("x", name="A"), 422), (Fault("x", party="sender"), 400),
    (Fault("x", party="sender", name="A"), 422), (Fault("x", party="sender", name="Known"), 404),
    (Fault("x", name="Known"), 404), (Rejected("x"), 502), (Rejected("x", status=404), 502),
    (BadReply("x"), 502), (OutcomeUnknown("x"), 504), (Unreachable("x"), 503), (TimedOut("x"), 504),
    (Overloaded("x"), 503), (Transient("x"), 502), (Permanent("x"), 500), (EsbError("x"), 500),
]  # fmt: skip


@pytest.mark.parametrize(("error", "status"), TABLE)
def test_errors_have_a_status(error: EsbError, status: int) -> None:
    answer = problem(error, instance="/a?b", faults={"Known": 404}, message_id="m1")
    members = json.loads(answer.body)
    assert (answer.status, members["status"]) == (status, status)
    assert ("content-type", "application/problem+json") in answer.headers
    assert members["title"]
    assert (members["instance"], members["id"]) == ("/a?b", "m1")
    # An error of no known kind was not written for the sender.
    assert members.get("detail") == (None if type(error) in (EsbError, Permanent) else "x")


def test_what_problems_tell() -> None:
    def told(error: EsbError) -> tuple[dict[str, str], dict[str, Any]]:
        answer = problem(error, instance="/a")
        return dict(answer.headers), json.loads(answer.body)

    where = [{"pointer": "/a", "detail": "is missing"}]
    assert told(BadMessage("x", where))[1]["errors"] == where
    assert told(NoSuchOperation("x", ["GET", "PUT"]))[0]["allow"] == "GET, PUT"
    assert told(Denied("x", challenge="Basic"))[0]["www-authenticate"] == "Basic"
    assert told(Overloaded("x", retry_after=0.2))[0]["retry-after"] == "1"
    assert told(Overloaded("x", retry_after=61.0))[0]["retry-after"] == "61"
    assert told(Rejected("x", status=418, reply="internal"))[1]["upstream_status"] == 418
    assert "internal" not in str(told(Rejected("x", reply="internal")))
    _, members = told(
        Fault(
            "no such partner", name="PartnerNotFound", party="sender", type="urn:p:NotFound",
            data={"id": Decimal("7.10")}, info={"soap": {"code": "Client"}, "status": 1},
        )
    )  # fmt: skip
    assert members == {
        "type": "urn:p:NotFound", "title": "PartnerNotFound", "status": 422, "instance": "/a",
        "detail": "no such partner", "fault": {"id": 7.1}, "soap": {"code": "Client"},
    }  # fmt: skip


def test_an_answer_that_an_endpoint_passes_on_is_given_as_it_is() -> None:
    answer = Response(404, [("x", "y")], b"gone")
    assert problem(Rejected("x", status=404, reply=answer), instance="/a") is answer
