"""The one XML parser of the bus, for everything that came over a wire.

A DOCTYPE is refused in any encoding: without it there are no entities, external or internal, and
none can be passed on to a backend (SOAP forbids it anyhow: SOAP 1.2 part 1, section 5).
"""

from __future__ import annotations

from lxml import etree

from esb.errors import BadMessage

_OPTIONS = {
    "resolve_entities": False,
    "no_network": True,
    "load_dtd": False,
    "huge_tree": False,  # keeps libxml2's own limits: depth 256, text 10 MB
}


def parse_xml(raw: bytes, *, what: str = "the body") -> etree._Element:
    """The root element of `raw`. Raises BadMessage, naming line and column, if it is not XML."""
    if not raw.strip():
        raise BadMessage(f"{what} is empty, XML was expected")
    # A parser holds state while it feeds, so each call has its own (2 µs).
    parser = etree.XMLParser(**_OPTIONS)  # type: ignore[arg-type]
    try:
        root = etree.fromstring(raw, parser)
    except (etree.XMLSyntaxError, ValueError) as e:
        line, column = getattr(e, "position", (0, 0))
        where = f" at line {line}, column {column}" if line else ""
        reason = str(getattr(e, "msg", e)).split(", line ")[0]
        raise BadMessage(f"{what} is not well-formed XML{where}: {reason[:200]}") from e
    if root is None:
        raise BadMessage(f"{what} is not well-formed XML")
    docinfo = root.getroottree().docinfo
    if docinfo.internalDTD is not None or docinfo.externalDTD is not None:
        raise BadMessage(f"{what} has a DOCTYPE, which is not allowed")
    return root
