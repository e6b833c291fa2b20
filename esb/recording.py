"""Makes tests of live traffic: what a route was given, what far sides answered, what became of it.

Secrets are left out as in traces (see `esb.redaction`). A message is not recorded if one of its
bodies is too large, or no text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from lxml import etree

from esb.envelope import NO_BODY, Body, Envelope, Outcome, parse_content_type
from esb.errors import KINDS, EsbError
from esb.outline import Part
from esb.redaction import Redactor
from esb.step import Seen
from esb.tracing import Failed, Listener, Run, Tracing, snapshot

MOST_CALLS: Final = 100
"""A run with more calls makes no test that anybody would read."""

_OF_CONNECTIONS: Final = frozenset(
    {
        *("accept-encoding", "connection", "content-length", "content-type", "date", "host"),
        *("keep-alive", "traceparent", "tracestate", "transfer-encoding", "user-agent", "via"),
    }
)
"""Headers that say nothing about what is to be done."""
_JSON: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=str)


class _NotRecorded(Exception):
    """Why a message makes no test."""


@dataclass(frozen=True)
class Recorded:
    """A test, as it is written in a file, with its name; or why there is none."""

    name: str
    test: Mapping[str, Any] | None = None
    reason: str = ""


class Recording(Listener):
    """A Listener that makes a test of each run of a route.

    outlines: what the routes of the bus are made of, by their names.
    """

    def __init__(self, route: str, outlines: Mapping[str, Part], *, max_body: int) -> None:
        super().__init__(route, wanted=lambda trace, envelope: True, bodies=True, max_body=max_body)
        self._endpoints = {
            (name, part.place): part
            for name, outline in outlines.items()
            for part in outline.walk()
            if part.kind == "endpoint"
        }

    def over(self, run: Run, tracing: Tracing) -> None:
        """A run has ended: make a test of it."""
        begun = datetime.fromtimestamp(run.begun, UTC)
        what = run.result.outcome.value if run.result is not None else "error"
        name = f"{what}, recorded at {begun.isoformat(timespec='milliseconds')}"
        try:
            test = _Writer(self, run, tracing.redact).test(begun)
            self.tell(Recorded(name, test))
        except _NotRecorded as e:
            self.tell(Recorded(name, reason=str(e)))

    def line(self, one: Any) -> bytes:
        """One of them as a line of JSON."""
        return _JSON.encode({"name": one.name, "test": one.test, "reason": one.reason})

    def endpoint(self, route: str, place: str) -> Part | None:
        """The endpoint at a place of a route."""
        return self._endpoints.get((route, place))


class _Writer:
    """Writes one run as a test. Raises _NotRecorded."""

    def __init__(self, of: Recording, run: Run, redact: Redactor) -> None:
        self._of = of
        self._run = run
        self._redact = redact

    def test(self, begun: datetime) -> dict[str, Any]:
        run = self._run
        if run.failed is not None and run.failed.code in ("cancelled", "broken"):
            raise _NotRecorded(run.failed.detail)
        if run.envelope.attempt > 1:
            raise _NotRecorded("it is another try of a message that came before")
        mocks: dict[str, list[Any]] = {}
        calls: list[Any] = []
        channels: dict[str, list[Any]] = {}
        visits = self._calls()
        accepted = run.result is not None and run.result.outcome is Outcome.ACCEPTED
        if accepted and visits and visits[-1][2] is not None:
            raise _NotRecorded("it failed and is tried again later")
        for route, seen, failed in visits:
            part = self._of.endpoint(route, seen.place)
            assert part is not None
            if part.channels and not any(channel.outside for channel in part.channels):
                if failed is None:
                    name = part.channels[0].name.partition(" ")[2]
                    channels.setdefault(name, []).append(self._message(seen.before))
                continue
            if failed is not None and failed.code == "circuit-open":
                continue  # nobody was asked
            place = seen.place.removesuffix(f".{part.name}")
            if route != run.of.watch.route:
                place = f"{route}/{place}"
            mocks.setdefault(place, []).append(self._reply(part, seen, failed))
            calls.append({"to": place, **self._message(seen.before)})
        test: dict[str, Any] = {"route": run.of.name, "now": begun.isoformat()}
        if given := self._given(run.envelope):
            test["given"] = given
        if mocks:
            test["mocks"] = {key: one[0] if len(one) == 1 else one for key, one in mocks.items()}
        test["expect"] = self._expect() | {"calls": calls}
        if channels:
            test["expect"]["channels"] = channels
        return test

    def _calls(self) -> list[tuple[str, Seen, Failed | None]]:
        run = self._run
        if run.last is not None:
            raise _NotRecorded("it passed too many steps")
        found = [one for one in run.first if self._of.endpoint(one[0], one[1].place) is not None]
        if len(found) > MOST_CALLS:
            raise _NotRecorded("it made too many calls")
        return sorted(found, key=lambda one: one[1].begun)

    def _given(self, envelope: Envelope) -> dict[str, Any]:
        given: dict[str, Any] = {}
        params = self._redact.data(
            {
                group: {name: value for name, value in of.items() if _is_plain(value)}
                for group, of in envelope.params.items()
                if group != "reply"
            }
        )
        for group in ("path", "query"):
            if of := params.pop(group, None):
                given[group] = of
        if others := {group: of for group, of in params.items() if of}:
            given["params"] = others
        pairs = [
            (name, value)
            for name, value in self._redact.headers(envelope.headers)
            if name.lower() not in _OF_CONNECTIONS
        ]
        if pairs:
            headers: dict[str, Any] = {}
            for name, value in pairs:
                headers.setdefault(name, []).append(value)
            given["headers"] = {n: v[0] if len(v) == 1 else v for n, v in headers.items()}
        if envelope.principal:
            given["principal"] = envelope.principal
        if (known := envelope.params.get("principal")) is not None:
            given["params"] = {**given.get("params", {}), "principal": {
                name: known[name] for name in ("roles", "scopes") if known.get(name)
            }}  # fmt: skip
        return given | self._content(envelope.body)

    def _reply(self, part: Part, seen: Seen, failed: Failed | None) -> dict[str, Any]:
        if failed is not None:
            fault = failed.told.get("fault")
            if fault is not None:
                name, data = fault
                told = {"fault": name or "Server", "detail": self._redact.value(failed.detail)}
                return told | ({"data": self._redact.data(data)} if data is not None else {})
            if (status := failed.told.get("status")) is not None:
                return {"status": status}
            # An adapter may have kinds of its own.
            code = failed.code if failed.code in KINDS else failed.told.get("kind", "permanent")
            return {"error": code, "detail": self._redact.value(failed.detail)}
        if part.direction == "sink" or seen.after is None:
            return {}
        status = seen.after.params.get("reply", {}).get("status")
        reply = {} if status in (None, 200) else {"status": status}
        return reply | self._content(seen.after.body)

    def _message(self, envelope: Envelope) -> dict[str, Any]:
        content = self._content(envelope.body)
        content.pop("content_type", None)
        return content

    def _expect(self) -> dict[str, Any]:
        result, failed = self._run.result, self._run.failed
        if result is None:
            assert failed is not None
            return {"error": {"code": failed.code}}
        expect: dict[str, Any] = {"outcome": result.outcome.value}
        if result.outcome in (Outcome.MESSAGE, Outcome.REPLY):
            expect |= self._message(result)
        return expect

    def _content(self, body: Body) -> dict[str, Any]:
        """A body as a test has it, without secrets."""
        if body.is_empty or body is NO_BODY:
            return {}
        kind = parse_content_type(body.content_type).essence
        is_json = kind == "application/json" or kind.endswith("+json")
        text, data = self._text(body)
        if data is None and is_json:
            try:
                data = Body(text.encode(), "application/json").data
            except EsbError:
                data = None
        if isinstance(data, dict | list) and _is_exact(data):
            said = {} if kind == "application/json" else {"content_type": body.content_type}
            return {"body": data, **said}
        return {"body": text, "content_type": body.content_type}

    def _text(self, body: Body) -> tuple[str, Any]:
        """Its text; and its data, if that is what it is."""
        longest = self._of.max_body
        if body.is_stream:
            raise _NotRecorded("a body passed as it arrived")
        if not body.is_written:
            data = body.data
            if isinstance(data, etree._Element):
                text = self._redact.text(etree.tostring(data, encoding="unicode", with_tail=False))
                data = None
            else:
                data = self._redact.data(data)
                text = _JSON.encode(data).decode()
            if len(text) > longest:
                raise _NotRecorded(f"a body is larger than {longest} bytes")
            return text, data
        shown = snapshot(body, self._redact, longest)
        if shown.cut:
            raise _NotRecorded(f"a body is larger than {longest} bytes")
        if shown.size and shown.text.startswith("(") and shown.text in _NO_TEXT:
            raise _NotRecorded("a body is no text")
        return shown.text, None


_NO_TEXT: Final = ("(no text)", "(cannot be shown)")


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool) or (
        isinstance(value, list) and all(isinstance(one, str) for one in value)
    )


def _is_exact(data: Any) -> bool:
    """Whether YAML, whose numbers are read as floats, holds the data without loss."""
    if isinstance(data, Decimal):
        return Decimal(repr(float(data))) == data
    if isinstance(data, dict):
        return all(map(_is_exact, data.values()))
    return all(map(_is_exact, data)) if isinstance(data, list) else True
