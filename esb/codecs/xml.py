"""XML (application/xml, text/xml, +xml): an lxml element and back."""

from __future__ import annotations

import re
from typing import Any

from lxml import etree

from esb.envelope import ContentType
from esb.errors import BadMessage, RouteFailure
from esb.xml import parse_xml

_DECLARATION = re.compile(r"\A\ufeff?\s*<\?xml\b[^>]*\?>")


class XmlCodec:
    """XML to its root element and back; the element is shared, never change it in place."""

    def decode(self, raw: bytes, content_type: ContentType) -> etree._Element:
        """The root element. A charset of the content type wins over the document's declaration
        (RFC 7303, section 3). Raises BadMessage with line and column."""
        return parse_xml(raw, charset=content_type.params.get("charset"))

    def encode(self, data: Any, content_type: ContentType) -> bytes:
        """Write an element, or text that is XML, with a declaration, in the charset of the content
        type or in UTF-8. Raises RouteFailure for what is not XML."""
        if isinstance(data, bytes):
            return data
        if isinstance(data, str):
            try:
                data = parse_xml(_DECLARATION.sub("", data).encode(), what="the text")
            except (BadMessage, UnicodeEncodeError) as e:
                raise RouteFailure(f"the body cannot be written as XML: {e}") from e
        if isinstance(data, etree._ElementTree):
            data = data.getroot()
        if not isinstance(data, etree._Element):
            raise RouteFailure(
                f"{type(data).__name__} data cannot be written as XML: use a template or `call`"
            )
        try:
            raw: bytes = etree.tostring(  # type: ignore[assignment]
                data, xml_declaration=True, encoding=content_type.charset, with_tail=False
            )
        except LookupError as e:
            raise RouteFailure(f"XML cannot be written in {content_type.charset}") from e
        return raw
