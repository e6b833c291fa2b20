"""The one XML parser of the bus, for everything that came over a wire.

A DOCTYPE is refused in any encoding: without it there are no entities, external or internal, and
none can be passed on to a backend (SOAP forbids it anyhow: SOAP 1.2 part 1, section 5). libxml2
itself limits depth (256) and the length of a text (10 MB); what it lets pass, many elements and
many attributes on one element, is counted here before it is parsed.
"""

from __future__ import annotations

import re

from lxml import etree

from esb.errors import BadMessage, TooLarge

MAX_ELEMENTS = 500_000
"""Elements of one document."""

MAX_ATTRIBUTES = 1_000
"""Attributes and namespace declarations of one element."""

_OPTIONS = {
    "resolve_entities": False,
    "no_network": True,
    "load_dtd": False,
    "huge_tree": False,  # keeps libxml2's own limits: depth 256, text 10 MB
}
_SMALL = 64 * 1024  # fewer bytes hold nothing that takes longer than a few milliseconds
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_WINDOW = MAX_ATTRIBUTES * 5 // 2  # the shortest attribute takes five bytes: `a="" `
_QUOTED = re.compile(rb"\"[^\"]*\"|'[^']*'")


def parse_xml(raw: bytes, *, what: str = "the body", charset: str | None = None) -> etree._Element:
    """The root element of `raw`.

    `charset` is the one that the transport declared: it wins over the document's declaration, a
    byte order mark wins over both (RFC 7303, section 3). Raises BadMessage, naming line and column,
    if it is not XML or has a DOCTYPE; TooLarge over `MAX_ELEMENTS` or `MAX_ATTRIBUTES`.
    """
    if not raw.strip():
        raise BadMessage(f"{what} is empty, XML was expected")
    if len(raw) > _SMALL:
        _check_counts(raw, what)
    if charset and raw.startswith(_BYTE_ORDER_MARKS):
        charset = None
    try:
        # A parser holds state while it feeds, so each call has its own (2 µs).
        parser = etree.XMLParser(encoding=charset, **_OPTIONS)  # type: ignore[arg-type]
    except LookupError as e:
        raise BadMessage(f"{what} is in an unknown charset") from e
    try:
        root = etree.fromstring(raw, parser)
    except (etree.XMLSyntaxError, ValueError) as e:
        line, column = getattr(e, "position", (0, 0))
        where = f" at line {line}, column {column}" if line else ""
        reason = str(getattr(e, "msg", e)).split(", line ")[0].strip()
        raise BadMessage(f"{what} is not well-formed XML{where}: {reason[:200]}") from e
    if root is None:
        raise BadMessage(f"{what} is not well-formed XML")
    docinfo = root.getroottree().docinfo
    if docinfo.internalDTD is not None or docinfo.externalDTD is not None:
        raise BadMessage(f"{what} has a DOCTYPE, which is not allowed")
    return root


def _check_counts(raw: bytes, what: str) -> None:
    # Counted on the bytes: no encoding that libxml2 reads writes "<" or "=" without their bytes,
    # save UTF-7, where an element takes so many bytes that the size limit alone bounds them.
    if raw.count(b"<") - raw.count(b"</") > MAX_ELEMENTS:
        raise TooLarge(f"{what} has more than {MAX_ELEMENTS} elements")
    if raw.count(b"=") <= MAX_ATTRIBUTES:
        return
    # A tag with that many attributes is longer than two windows, so one window has no "<" in it.
    position = 0
    while position < len(raw):
        if raw.find(b"<", position, position + _WINDOW) >= 0:
            position += _WINDOW
            continue
        start = raw.rfind(b"<", 0, position) + 1
        end = raw.find(b"<", position)
        tag = raw[start : end if end >= 0 else None]
        if (
            tag.count(b"=") > MAX_ATTRIBUTES
            and not tag.startswith((b"!", b"?"))
            and _QUOTED.sub(b"", tag).partition(b">")[0].count(b"=") > MAX_ATTRIBUTES
        ):
            raise TooLarge(f"{what} has an element with more than {MAX_ATTRIBUTES} attributes")
        if end < 0:
            return
        position = end
