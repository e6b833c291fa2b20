"""XML (application/xml, text/xml, +xml): an lxml element and back; as data for `convert`.

What `convert` makes of an element is written down at `XmlDataCodec`. It is meant for documents that
are data; what it leaves out (namespaces, comments, the order among children of several names) a
stylesheet or a template keeps.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any

from lxml import etree
from pydantic import Field

from esb.codecs._format import Format, Stream
from esb.codecs._xml_elements import ElementsOptions, read_elements
from esb.envelope import ContentType
from esb.errors import BadMessage, RouteFailure
from esb.options import Options
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


class XmlOptions(Options):
    """How XML is data, and data XML."""

    __shorthand__ = "root"

    root: str = Field(
        "",
        description="The name of the root element, if it is no part of the data. Left out, the "
        "data is an object with one key: `{order: {...}}`.",
    )
    lists: list[str] = Field(
        default_factory=list,
        description="Names of elements that are always lists, also where there is only one.",
    )
    item: str = Field(
        "item", description="The name of an element that is written for an item without a name."
    )
    namespace: str = Field("", description="The namespace of all elements that are written.")


class XmlDataCodec:
    """XML as plain data, for `convert`: the usual mapping.

    An element with attributes or children is an object: `"@name"` holds an attribute, the name of
    a child its value (a list if there are several of that name, or if `lists` has it), `"#text"`
    the text, if there is any beside blanks. Any other element is its text, an empty one `""`.
    Names are local. Written, null and `""` are an empty element, a list one element for each item.
    """

    def __init__(self, options: XmlOptions) -> None:
        self._options = options

    def decode(self, raw: bytes, content_type: ContentType) -> Any:
        """The data. Raises BadMessage with line and column."""
        root = parse_xml(raw, charset=content_type.params.get("charset"))
        data = _data(root, frozenset(self._options.lists))
        name = etree.QName(root).localname
        if not self._options.root:
            return {name: data}
        if name != self._options.root:
            raise BadMessage(f"the root element is {name!r}, not {self._options.root!r}")
        return data

    def encode(self, data: Any, content_type: ContentType) -> bytes:
        """Write data, or XML as it is. Raises RouteFailure, naming the place, for what has no
        form."""
        if isinstance(data, etree._Element):
            return XmlCodec().encode(data, content_type)
        name = self._options.root
        if not name:
            if not isinstance(data, Mapping) or len(data) != 1:
                raise RouteFailure(
                    "XML has one root element, and the data is no object with one key: "
                    "`root` says what to call it"
                )
            [(name, data)] = data.items()
        if isinstance(data, list | tuple):
            data = {self._options.item: data}
        root = self._element(str(name), data, str(name))
        return XmlCodec().encode(root, content_type)

    def _element(self, name: str, data: Any, place: str) -> etree._Element:
        namespace = self._options.namespace
        try:
            tag = etree.QName(namespace or None, name)
            declared: Any = {None: namespace} if namespace else None
            element = etree.Element(tag, nsmap=declared)
        except ValueError as e:
            raise RouteFailure(f"{place}: {name[:60]!r} is no name of an element") from e
        if not isinstance(data, Mapping):
            self._set_text(element, data, place)
            return element
        for key, value in data.items():
            here = f"{place}.{key}"
            if key == "#text":
                self._set_text(element, value, here)
            elif key.startswith("@"):
                try:
                    element.set(key[1:], _text(value, here))
                except ValueError as e:
                    raise RouteFailure(f"{here} is no attribute of XML") from e
            else:
                items = value if isinstance(value, list | tuple) else (value,)
                for item in items:
                    if isinstance(item, list | tuple):
                        item = {self._options.item: item}
                    element.append(self._element(key, item, here))
        return element

    @staticmethod
    def _set_text(element: etree._Element, value: Any, place: str) -> None:
        try:
            element.text = _text(value, place) or None
        except ValueError as e:
            raise RouteFailure(f"{place} has a character that XML cannot hold") from e


def _data(element: etree._Element, lists: Collection[str]) -> Any:
    found: dict[str, Any] = {
        f"@{etree.QName(name).localname}": value for name, value in element.attrib.items()
    }
    for child in element.iterchildren("*"):
        name, value = etree.QName(child).localname, _data(child, lists)
        if name not in found:
            found[name] = [value] if name in lists else value
        elif isinstance(found[name], list):
            found[name].append(value)
        else:
            found[name] = [found[name], value]
    text = "".join([element.text or "", *(child.tail or "" for child in element)])
    if not found:
        return text
    if text.strip():
        found["#text"] = text.strip()
    return found


def _text(value: Any, place: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, str | int | float | Decimal):
        return str(value)
    raise RouteFailure(f"{place} is neither a text nor a number")


format = Format(
    XmlDataCodec,
    lambda options: "application/xml; charset=utf-8",
    XmlOptions,
    types=("application/xml", "text/xml", "+xml"),
    body=XmlCodec(),
    stream=Stream(read_elements, ElementsOptions, joins=False),
)
