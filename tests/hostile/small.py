"""Targets of `hostile.fuzz` that are short texts, and the promise of the SOAP codec: what it writes
from JSON is valid by the schema, and comes back."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from cronsim import CronSimError
from lxml import etree

from esb.envelope import Body, Headers
from esb.errors import EsbError
from esb.options import parse_duration, parse_size
from esb_schedule.when import Cron
from esb_soap.validator import errors_of
from esb_soap.wsdl import Wsdl, load_wsdl
from esb_web.forwarded import Forwarded
from esb_web.query import parse_query
from hostile.fuzz import Target

_PARTNER: Final = Path(__file__).parents[1] / "support" / "peers" / "partner.wsdl"
_FORWARDED: Final = Forwarded(["10.0.0.0/8", "::1/128"])


def _forwarded(raw: bytes) -> object:
    told = [line.partition(":") for line in raw.decode("latin-1").splitlines()]
    headers = Headers([(f"x-forwarded-{name}", value) for name, _, value in told])
    return _FORWARDED.told(headers, "10.0.0.1", "http", "a")


def _cron(raw: bytes) -> object:
    return Cron(raw.decode("latin-1"), ZoneInfo("Europe/Berlin")).after(1.7e9)


@functools.cache
def _partner() -> Wsdl:
    return load_wsdl(_PARTNER)


def _valid(raw: bytes) -> object:
    data = Body(raw, "application/json").data
    wsdl, told = _partner(), []
    assert wsdl.validator is not None
    (service,) = wsdl.services.values()
    for operation in next(iter(service.ports.values())).operations.values():
        try:
            body = operation.input.write(data).body
        except EsbError as e:
            told.append(e.detail[:20])
            continue
        root = etree.fromstring(b"<Body>%b</Body>" % body)
        errors = [error for child in root for error in errors_of(wsdl.validator, child)]
        assert not errors, (operation.name, errors)
        again = operation.input.read(root)
        assert operation.input.write(again).body == body, operation.name
        told.append("valid")
    return told


def _same_json(raw: bytes) -> object:
    data = Body(raw, "application/json").data
    written = Body.of(data, "application/json").raw
    again = Body(written, "application/json").data
    assert Body.of(again, "application/json").raw == written
    return again


def targets() -> list[Target]:
    """All of them."""
    partner: dict[str, Any] = {
        "partner": {
            "name": "a",
            "kind": "person",
            "since": "2020-01-01",
            "balance": 1.50,
            "tag": ["x"],
        }
    }
    words = [b'"id"', b'"partner"', b'"name"', b'"kind"', b"null", b"1e9", b'"\\u0000"', b"[", b"{",
             b'"\\ufffe"', b'"\\t"', b'" "', b"true", b"-0.0"]  # fmt: skip
    return [
        Target("json again", _same_json, [b'{"a": [1.50, "x", null, 1e5, -0]}'], words),
        Target("valid soap", _valid, [b'{"id": 1}', json.dumps(partner).encode()], words),
        Target("queries", lambda raw: parse_query(raw.decode("latin-1")), [b"a=1&b=%41&a=x+y"],
               [b"%", b"&", b"=", b"+", b"%00", b"%ff", b";"]),
        Target("forwarded", _forwarded, [b"for:10.0.0.2, 192.0.2.7\nproto:https\nhost:b:1"],
               [b"for:", b"proto:", b"host:", b"prefix:/", b"[::1]", b"::ffff:10.0.0.1", b","]),
        Target("durations", lambda raw: parse_duration(raw.decode("latin-1")), [b"1.5h"],
               [b"ms", b"s", b"d", b".", b"e9", b"-", b"inf", b"nan"], (ValueError,)),
        Target("sizes", lambda raw: parse_size(raw.decode("latin-1")), [b"10MB"],
               [b"kB", b"KiB", b"GB", b".", b"e9", b"-", b"inf", b"nan"], (ValueError,)),
        Target("cron", _cron, [b"*/5 0 1,15 * MON-FRI"],
               [b"*", b"/", b"-", b",", b"L", b"#", b"W", b"@daily", b"SUN", b"JAN"],
               (CronSimError,)),
    ]  # fmt: skip
