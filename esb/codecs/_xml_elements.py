"""Elements of a large XML document, one by one, in constant memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

from lxml import etree
from pydantic import Field

from esb.codecs._format import MAX_PIECE, Piece, shown
from esb.envelope import Body, ContentType
from esb.errors import TooLarge
from esb.options import Options
from esb.xml import MAX_ELEMENTS, StreamedXml

_CHUNK: Final = 64 * 1024
_NAMES = re.compile(r"(?:\{[^{}]*\})?[^/{}]+")


class ElementsOptions(Options):
    """Elements of an XML document."""

    __shorthand__ = "element"

    element: str = Field(
        pattern=r"^/?((\{[^{}]*\})?[^/{}\s]+/)*(\{[^{}]*\})?[^/{}\s]+$",
        description="Which elements: a name at any depth (`order`), the last names of a path "
        "(`orders/order`), or a whole path (`/export/orders/order`). A name stands for its element "
        "in every namespace, `{urn:example}order` for one of that.",
    )


def read_elements(
    stream: BinaryIO, options: ElementsOptions, content_type: ContentType
) -> Iterator[Piece]:
    """The outermost elements that match, each a document of its own that declares the namespaces
    that hold there. Raises BadMessage, naming line and column, where the XML is not well-formed or
    has a DOCTYPE, TooLarge for an element over MAX_PIECE."""
    names = _NAMES.findall(options.element)
    document = StreamedXml(names[-1].rpartition("}")[2], content_type.params.get("charset"))
    whole = options.element.startswith("/")
    name = shown(options.element)
    inside: etree._Element | None = None
    begun = position = elements = 0
    while True:
        chunk = stream.read(_CHUNK)
        for event, element in document.feed(chunk):
            if inside is None:
                if event == "start" and _matches(element, names, whole):
                    inside, begun, elements = element, position, 0
            elif event == "end" and element is inside:
                inside = None
                raw = etree.tostring(element, encoding="utf-8", with_tail=False)
                element.clear(keep_tail=True)  # type: ignore[call-arg]
                yield Piece(Body(raw, "application/xml; charset=utf-8"))
        document.forget(but=inside)
        position += len(chunk)
        if inside is not None:
            elements += chunk.count(b"<") - chunk.count(b"</")
            if position - begun > MAX_PIECE + _CHUNK:
                raise TooLarge(f"an element {name} is over {MAX_PIECE} bytes")
            if elements > MAX_ELEMENTS:
                raise TooLarge(f"an element {name} holds over {MAX_ELEMENTS} others")
        if not chunk:
            return


def _matches(element: etree._Element, names: Sequence[str], whole: bool) -> bool:
    path = [element, *element.iterancestors()]
    if len(path) < len(names) or (whole and len(path) != len(names)):
        return False
    return all(
        name in (one.tag, etree.QName(one).localname)
        for name, one in zip(reversed(names), path, strict=False)
    )
