"""The SOAP encoding (SOAP 1.1, section 5; SOAP 1.2 part 2, section 3) of rpc/encoded services."""

from __future__ import annotations

from typing import Any

from lxml import etree

from esb_soap.codec import Codec
from esb_soap.xsd import Element


class EncodedCodec:
    """Reads and writes elements by the SOAP encoding."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def read(self, element: Element, node: etree._Element, what: str) -> Any:
        """The data of `node`. Raises BadMessage."""
        return self._codec.read(element, node, what)

    def write(self, element: Element, data: Any, what: str) -> bytes:
        """The XML of `data`. Raises BadMessage."""
        return self._codec.write(element, data, what)
