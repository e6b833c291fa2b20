"""The fuzzing of `hostile.fuzz`, in short; and that it would see what breaks."""

from __future__ import annotations

import pytest
from hostile.fuzz import Target, attempt, fuzz, targets

from esb.errors import BadMessage

TARGETS = targets()


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_nothing_breaks(target: Target) -> None:
    for seed in target.seeds:
        outcome, broken = attempt(target, seed)
        assert not broken, (seed, broken)
        assert outcome.startswith("ok"), (seed, outcome)
    found = fuzz(target, tries=100)
    assert found.broken == []
    assert found.tried == 100
    assert found.kept > 1


BROKE: dict[str, list[bytes]] = {
    "amqp": [
        b"\1\0\0\0\0\0\0\xce\0",
        b"\1\0\0\0\0\0\x14\0<\xff\xff\3esb" + b"\0" * 8 + b"\1\0\1q\xce",
        b"\1\0\0\0\0\0\x14\0<\0<\3esb" + b"\0" * 7 + b"\1\0\xff\xffq\xce",
    ],
    "expressions": [b"1 + 1e" + b"9" * 40],
    "texts": [b"{{ 1e" + b"9" * 40 + b" }}"],
    "templates": [b"{{ \r\r\rfa }}", b"{{" + b"{" * 90 + b"1", b"{{" + b"(" * 900 + b"1"],
    "soap": [
        b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Header><a:MessageID>1'
        b'</a:MessageID></s:Header><s:Body><a xmlns="relative"/></s:Body></s:Envelope>',
    ],
}
"""What broke once: by target, the shortest of each kind."""


@pytest.mark.parametrize("name", BROKE)
def test_what_broke_once_breaks_no_more(name: str) -> None:
    target = next(target for target in TARGETS if target.name == name)
    for raw in BROKE[name]:
        outcome, broken = attempt(target, raw)
        assert not broken, (raw, broken)
        # What is no AMQP ends the connection, without an exception.
        assert outcome == "ok str 'True 0 []'" if name == "amqp" else outcome[:2] != "ok", raw


def test_what_breaks_is_seen() -> None:
    def fragile(raw: bytes) -> None:
        if b"((" in raw:
            raise IndexError(raw)
        while raw == b"hang":
            pass
        raise BadMessage("no")

    target = Target("fragile", fragile, [b"()"], [b"(", b")"])
    ((raw, how),) = fuzz(target, tries=40).broken
    assert b"((" in raw
    assert "IndexError" in how
    assert attempt(target, b"hang") == ("hang", "more than 1 s")
