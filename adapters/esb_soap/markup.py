"""XML and errors in small: what the codec and those beside it share."""

from __future__ import annotations

import difflib
from typing import Any, Final

from lxml import etree

from esb.errors import BadMessage
from esb_soap.components import XSI, clark, local_name, namespace_of
from esb_soap.scalars import NCNAME, kind

NIL: Final = f"{{{XSI}}}nil"
XSI_TYPE: Final = f"{{{XSI}}}type"
MAX_ERRORS: Final = 20
"""Errors told of one message."""

XSI_NAMES: Final = frozenset(
    {NIL, XSI_TYPE, f"{{{XSI}}}schemaLocation", f"{{{XSI}}}noNamespaceSchemaLocation"}
)
TRUE: Final = frozenset({"true", "1"})
CONTROLS: Final = bytes(c for c in range(32) if c not in (9, 10, 13))
MISSING: Final = object()


class Unfit(Exception):
    """Something does not fit its type. element: where it was read; key: which part of it."""

    def __init__(self, detail: str, element: etree._Element | None = None, key: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.element = element
        self.key = key


def pointer_of(*parts: str | int) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(p).replace("~", "~0").replace("/", "~1") for p in parts)


def bad_message(what: str, errors: list[dict[str, str]]) -> BadMessage:
    """The error that tells `errors`, the first of them in its text."""
    first = errors[0]
    at = f" at {first['pointer']}" if first["pointer"] else ""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return BadMessage(f"{what} does not fit{at}: {first['detail']}{more}", errors)


def text_escaped(text: str) -> str:
    """Text as it is written between tags."""
    if text.isalnum():
        return text
    if "&" in text:
        text = text.replace("&", "&amp;")
    if "<" in text:
        text = text.replace("<", "&lt;")
    if ">" in text:
        text = text.replace(">", "&gt;")
    if "\r" in text:
        text = text.replace("\r", "&#13;")
    return text


def attribute_escaped(text: str) -> str:
    """Text as it is written between double quotes."""
    text = text_escaped(text)
    for character, written in (('"', "&quot;"), ("\n", "&#10;"), ("\t", "&#9;")):
        if character in text:
            text = text.replace(character, written)
    return text


def missing(e: etree._Element, c: etree._Element | None, key: str, wanted: str = "it") -> None:
    found = ""
    if c is not None:
        local, of = local_name(str(c.tag)), namespace_of(str(c.tag))
        # The name alone would say that it is missing and there.
        where = f" of {f'the namespace {of!r}' if of else 'no namespace'}" if local == key else ""
        found = f"; '{local}'{where} stands in its place"
    if not key:
        raise Unfit(f"{wanted} is missing{found}", e)
    raise Unfit(f"is missing{found}", e, key)


def no_attributes(e: etree._Element) -> None:
    for name, text in e.items():
        if name == NIL and text.strip() in TRUE:
            raise Unfit("must not be nil", e)
    only_xsi(e)


def only_xsi(e: etree._Element) -> None:
    for name in e.keys():  # noqa: SIM118 - an element is no mapping
        if name not in XSI_NAMES:
            raise Unfit(f"has the attribute '{name!s}', which is not known", e)


def counted(count: int) -> str:
    return "1 item" if count == 1 else f"{count} items"


def single_key(data: Any) -> tuple[str, Any]:
    if not isinstance(data, dict) or len(data) != 1:
        raise Unfit("must be an object with one key, the element's name")
    [(name, inner)] = data.items()
    if not isinstance(name, str):
        raise Unfit("has a key that is no text")
    return name, inner


def is_nil(c: etree._Element) -> bool:
    return (c.get(NIL) or "").strip() in TRUE


def resolved(text: str, c: etree._Element) -> str:
    """The qualified name that `text` is at an element. Raises Unfit."""
    prefix, colon, local = text.strip().rpartition(":")
    namespace = c.nsmap.get(prefix if colon else None)
    if namespace is None and colon:
        raise Unfit(f"has the type '{text[:60]}', whose prefix is not declared", c)
    if not NCNAME.match(local):
        raise Unfit(f"has the type '{text[:60]}', which is no qualified name", c)
    return clark(namespace or "", local)


def without_comments(node: etree._Element) -> etree._Element:
    """The element, or a copy that has no comments and processing instructions in it."""
    if next(node.iter(etree.Comment, etree.PI), None) is None:
        return node
    copied = etree.fromstring(
        etree.tostring(node, with_tail=False, encoding="UTF-8"),
        etree.XMLParser(remove_comments=True, remove_pis=True, resolve_entities=False),
    )
    return copied


def clean(text: str) -> str:
    if "\0" in text:
        raise Unfit("has a character that XML does not allow")
    return text


def any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise Unfit(f"must be a string, not {kind(value)}")
    return text_escaped(clean(value))


def listed(names: Any) -> str:
    known = list(dict.fromkeys(f"'{name}'" for name in names))
    return ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")


def did_you_mean(word: str, names: Any) -> str:
    close = difflib.get_close_matches(word, list(names), n=1)
    return f": did you mean '{close[0]}'?" if close else ""
