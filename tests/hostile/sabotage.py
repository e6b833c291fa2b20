"""Buses that are broken on purpose, in the process of the bus alone: the corpus must see it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from lxml import etree

from esb import step, xml
from esb.codecs import json
from esb.envelope import ContentType


def _doctype() -> None:
    """A parser that reads entities from files, as Python's were long: it must show in an answer."""
    xml._PARSERS.of = lambda charset: etree.XMLParser(  # type: ignore[method-assign]
        resolve_entities=True, load_dtd=True, no_network=False, huge_tree=True
    )
    xml._refuse_doctype = lambda element, what: None


def _blocking() -> None:
    """A codec that takes its time with what is large, in the event loop."""
    step.LARGE = sys.maxsize  # type: ignore[misc]
    decode = json.JsonCodec.decode

    def slow(self: Any, raw: bytes, content_type: ContentType) -> Any:
        end = time.process_time() + (0.5 if len(raw) > 100_000 else 0)
        while time.process_time() < end:
            pass
        return decode(self, raw, content_type)

    json.JsonCodec.decode = slow  # type: ignore[method-assign]


def _crash() -> None:
    """A codec whose errors nobody translates."""

    def decode(self: Any, raw: bytes, content_type: ContentType) -> Any:
        import json as plain

        return plain.loads(raw)

    json.JsonCodec.decode = decode  # type: ignore[method-assign]


def _hoard() -> None:
    """A bus that keeps what was sent."""
    kept: list[bytes] = []
    decode = json.JsonCodec.decode

    def hoarding(self: Any, raw: bytes, content_type: ContentType) -> Any:
        kept.append(bytes(raw) * 200 if len(raw) > 1_000_000 else b"")
        return decode(self, raw, content_type)

    json.JsonCodec.decode = hoarding  # type: ignore[method-assign]


def _answering() -> None:
    """A source that answers to whatever queue a sender names."""
    from esb_amqp import answers

    answers.Answers.address = (  # type: ignore[method-assign]
        lambda self, delivery: delivery.properties.reply_to
    )


SABOTAGE: dict[str, Callable[[], None]] = {
    "doctype": _doctype,
    "blocking": _blocking,
    "crash": _crash,
    "hoard": _hoard,
    "answering": _answering,
}
