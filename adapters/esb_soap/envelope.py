"""SOAP envelopes and faults, read and written: SOAP 1.1 (W3C note) and 1.2 (part 1, section 5).

A fault is told by what it says and never by its HTTP status: servers send faults with 200, 400,
500 and whatever else. Reading is generous where peers are sloppy (a fault's children in the
envelope's namespace, codes without a prefix), writing is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal, NamedTuple

from lxml import etree

from esb.errors import BadMessage
from esb.xml import parse_xml

Version = Literal["1.1", "1.2"]

NS: Final[dict[Version, str]] = {
    "1.1": "http://schemas.xmlsoap.org/soap/envelope/",
    "1.2": "http://www.w3.org/2003/05/soap-envelope",
}
MEDIA_TYPE: Final[dict[Version, str]] = {"1.1": "text/xml", "1.2": "application/soap+xml"}
ENVELOPES: Final = {f"{{{ns}}}Envelope": version for version, ns in NS.items()}
_PARTS: Final = {version: (f"{{{ns}}}Header", f"{{{ns}}}Body") for version, ns in NS.items()}

_NEXT: Final = frozenset(
    {
        "",
        "http://schemas.xmlsoap.org/soap/actor/next",
        "http://www.w3.org/2003/05/soap-envelope/role/next",
        "http://www.w3.org/2003/05/soap-envelope/role/ultimateReceiver",
    }
)
"""Actors and roles that mean whoever gets the message."""

_SENDER: Final = frozenset({"Client", "Sender"})
_XML_LANG: Final = "{http://www.w3.org/XML/1998/namespace}lang"
_ROOT: Final = "{http://schemas.xmlsoap.org/soap/encoding/}root"


class VersionMismatch(BadMessage):
    """An envelope of neither SOAP version, or of a `version` that is not served."""

    code = "soap-version"

    def __init__(self, detail: str, version: Version | None = None) -> None:
        super().__init__(detail)
        self.version = version


class MustUnderstand(BadMessage):
    """Header blocks that must be understood and are not; `names` are their qualified names."""

    code = "soap-must-understand"

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"the SOAP header {', '.join(names)} must be understood and is not")
        self.names = tuple(names)


class HeaderFault(BadMessage):
    """A header block of the sender's is wrong, or one is missing.

    subcodes: what the block's specification calls that, qualified names from the general to the
        special; block: an element, serialized, that its specification adds as the detail.
    """

    code = "soap-header"

    def __init__(self, detail: str, *subcodes: str, block: bytes = b"") -> None:
        super().__init__(detail)
        self.subcodes = subcodes
        self.block = block


class EncodingUnknown(BadMessage):
    """The message says that it is encoded in a way nobody here reads."""

    code = "soap-encoding"


class SoapMessage(NamedTuple):
    """An envelope that was read; `header` and `body` are the elements of that name.

    content: what the body carries, its first child that is no multi-reference value of the SOAP
        encoding (SOAP 1.1, section 5.6); None if it is empty.
    """

    version: Version
    header: etree._Element | None
    body: etree._Element
    content: etree._Element | None

    @property
    def fault(self) -> etree._Element | None:
        """The Fault element, if it is one."""
        content = self.content
        return content if content is not None and content.tag in _FAULTS else None


def _content(body: etree._Element) -> etree._Element | None:
    children = list(body.iterchildren("*"))
    for child in children:
        if child.get(_ROOT) != "0" and (len(children) == 1 or child.get("id") is None):
            return child
    return children[0] if children else None


_FAULTS: Final = frozenset(f"{{{ns}}}Fault" for ns in NS.values())


def read_envelope(
    raw: bytes, *, charset: str | None = None, what: str = "the SOAP message"
) -> SoapMessage:
    """Parse an envelope.

    Raises BadMessage for what is no XML or no envelope or has a DOCTYPE, VersionMismatch for an
    envelope of another namespace (SOAP 1.1, section 4.1.2; SOAP 1.2 part 1, section 5.4.7).
    """
    return as_envelope(parse_xml(raw, what=what, charset=charset), what=what)


def as_envelope(root: etree._Element, *, what: str = "the SOAP message") -> SoapMessage:
    """The envelope whose root element is at hand; raises as `read_envelope` does."""
    version = ENVELOPES.get(str(root.tag))
    if version is None:
        name = etree.QName(root)
        if name.localname == "Envelope":
            raise VersionMismatch(
                f"{what} is an envelope in the namespace '{name.namespace or ''}', which is "
                "neither SOAP 1.1 nor 1.2"
            )
        raise BadMessage(f"{what} is no SOAP envelope but an element '{name.localname}'")
    header_name, body_name = _PARTS[version]
    header: etree._Element | None = None
    body: etree._Element | None = None
    for child in root.iterchildren("*"):
        if child.tag == header_name and header is None and body is None:
            header = child
        elif child.tag == body_name and body is None:
            body = child
        elif body is None or version == "1.2" or etree.QName(child).namespace in NS.values():
            # SOAP 1.1 lets elements of other namespaces follow the Body.
            raise BadMessage(f"{what} has an element '{etree.QName(child).localname}' out of place")
    if body is None:
        raise BadMessage(f"{what} has no Body")
    return SoapMessage(version, header, body, _content(body))


def blocks_for_us(message: SoapMessage) -> Iterator[etree._Element]:
    """The header blocks that are meant for whoever gets the message, not for a node in between
    (SOAP 1.1, section 4.2.2; SOAP 1.2 part 1, section 2.2)."""
    if message.header is None:
        return
    role = f"{{{NS[message.version]}}}" + ("actor" if message.version == "1.1" else "role")
    for block in message.header.iterchildren("*"):
        if (block.get(role) or "").strip() in _NEXT:
            yield block


def must_understand(message: SoapMessage) -> Iterator[etree._Element]:
    """The header blocks that ask whoever gets the message to understand them
    (SOAP 1.1, section 4.2.3; SOAP 1.2 part 1, section 5.2.3)."""
    wants = f"{{{NS[message.version]}}}mustUnderstand"
    for block in blocks_for_us(message):
        if (block.get(wants) or "").strip() in ("1", "true"):
            yield block


def check_understood(message: SoapMessage, understood: frozenset[str]) -> None:
    """Raises MustUnderstand for blocks whose qualified name ("{ns}name") and whose namespace are
    both not among `understood`."""
    if message.header is None:
        return
    missing = {
        name.text: None
        for name in map(etree.QName, must_understand(message))
        if name.text not in understood and (name.namespace or "") not in understood
    }
    if missing:
        raise MustUnderstand(list(missing)[:20])


def check_form(message: SoapMessage) -> None:
    """Raises BadMessage for processing instructions, which SOAP forbids anywhere (SOAP 1.1,
    section 3; SOAP 1.2 part 1, section 5), EncodingUnknown for an encodingStyle that is not SOAP's
    own (SOAP 1.1, section 4.1.1; SOAP 1.2 part 1, sections 5.1.1 and 5.4.6)."""
    root = message.body.getparent()
    assert root is not None
    around = (root.itersiblings(etree.PI), root.itersiblings(etree.PI, preceding=True))
    if any(True for nodes in (root.iter(etree.PI), *around) for _ in nodes):
        raise BadMessage("a SOAP message has no processing instructions")
    styles = _STYLES[message.version](root)
    for style in styles if isinstance(styles, list) else ():
        if str(style).strip() and not _ENCODINGS & set(str(style).split()):
            raise EncodingUnknown(f"the encodingStyle '{str(style)[:200]}' is not known")


def strip_soap_attributes(message: SoapMessage) -> None:
    """Take out of header blocks and content what SOAP and WS-Security themselves put there
    (mustUnderstand, actor, role, encodingStyle, wsu:Id): no WSDL declares it."""
    blocks = [message.content] if message.content is not None else []
    if message.header is not None:
        blocks += message.header.iterchildren("*")
    for block in blocks:
        for name in block.keys():  # noqa: SIM118 - an element is no mapping
            if str(name).startswith(_ATTRIBUTES):
                del block.attrib[name]


_ATTRIBUTES: Final = (
    *(f"{{{ns}}}" for ns in NS.values()),
    "{http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd}Id",
)


_STYLES: Final = {
    version: etree.XPath("descendant-or-self::*/@s:encodingStyle", namespaces={"s": ns})
    for version, ns in NS.items()
}
_ENCODINGS: Final = {
    "http://schemas.xmlsoap.org/soap/encoding/",
    "http://www.w3.org/2003/05/soap-encoding",
    "http://www.w3.org/2003/05/soap-envelope/encoding/none",
}


def write_envelope(version: Version, body: bytes, headers: Sequence[bytes] = ()) -> bytes:
    """An envelope in UTF-8 around serialized header blocks and body content."""
    head = b"<soap:Header>" + b"".join(headers) + b"</soap:Header>" if headers else b""
    return b"%b%b<soap:Body>%b</soap:Body></soap:Envelope>" % (_OPEN[version], head, body)


_OPEN: Final[dict[Version, bytes]] = {
    version: f'<?xml version="1.0" encoding="utf-8"?>\n<soap:Envelope xmlns:soap="{ns}">'.encode()
    for version, ns in NS.items()
}


def content_type(version: Version, action: str | None = None) -> str:
    """The Content-Type of an envelope. SOAP 1.2 carries the action in it (RFC 3902), 1.1 has a
    header of its own for that."""
    value = f"{MEDIA_TYPE[version]}; charset=utf-8"
    if version == "1.2" and action:
        value += f'; action="{_quoted(action)}"'
    return value


def soap_action(action: str) -> str:
    """The value of SOAP 1.1's SOAPAction header: always quoted (SOAP 1.1, section 6.1.1)."""
    return f'"{_quoted(action)}"'


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


# --- faults --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SoapFault:
    """A fault as it was sent.

    code: the local name where it is one of SOAP's own ("Client.Authentication", "Sender"), else
        "{ns}name", or the text itself where its prefix is unknown.
    subcodes: as `code`, from the outer to the inner (SOAP 1.2).
    actor: faultactor or Role; node: SOAP 1.2's Node; detail: the elements inside detail.
    """

    code: str
    reason: str
    subcodes: tuple[str, ...] = ()
    actor: str = ""
    node: str = ""
    detail: tuple[etree._Element, ...] = ()

    @property
    def party(self) -> Literal["sender", "receiver"]:
        """Whom the fault blames."""
        return "sender" if self.code.partition(".")[0] in _SENDER else "receiver"


def read_fault(fault: etree._Element) -> SoapFault:
    """Read a Fault element of either version (SOAP 1.1, section 4.4; 1.2 part 1, section 5.4)."""
    parts = {etree.QName(child).localname: child for child in fault.iterchildren("*")}
    detail = parts.get("detail", parts.get("Detail"))
    content = tuple(detail.iterchildren("*")) if detail is not None else ()
    code = parts.get("Code")
    if code is None:
        return SoapFault(
            code=_code(parts.get("faultcode")),
            reason=_text(parts.get("faultstring")) or _text(detail)[:500],
            actor=_text(parts.get("faultactor")),
            detail=content,
        )
    subcodes: list[str] = []
    value, subcode = _value_and_subcode(code)
    while subcode is not None and len(subcodes) < 10:
        inner, subcode = _value_and_subcode(subcode)
        subcodes.append(_code(inner))
    return SoapFault(
        code=_code(value),
        reason=_reason(parts.get("Reason")),
        subcodes=tuple(subcodes),
        actor=_text(parts.get("Role")),
        node=_text(parts.get("Node")),
        detail=content,
    )


def _value_and_subcode(
    code: etree._Element,
) -> tuple[etree._Element | None, etree._Element | None]:
    parts = {etree.QName(child).localname: child for child in code.iterchildren("*")}
    return parts.get("Value"), parts.get("Subcode")


def _reason(reason: etree._Element | None) -> str:
    """The English text of a Reason if there is one, else the first."""
    texts = list(reason.iterchildren("*")) if reason is not None else []
    for text in texts:
        if (text.get(_XML_LANG) or "").lower().startswith("en"):
            return _text(text)
    return _text(texts[0]) if texts else _text(reason)


def _code(element: etree._Element | None) -> str:
    text = _text(element)
    if element is None or not text:
        return ""
    prefix, colon, local = text.rpartition(":")
    ns = element.nsmap.get(prefix or None) if colon else None
    if ns in NS.values():
        return local
    return f"{{{ns}}}{local}" if ns else text


def _text(element: etree._Element | None) -> str:
    if element is None:
        return ""
    return " ".join(str(_STRING(element)).split())


_STRING: Final = etree.XPath("string()")  # text alone: comments do not cut it in two


_CODES: Final[dict[str, dict[Version, str]]] = {
    "sender": {"1.1": "Client", "1.2": "Sender"},
    "receiver": {"1.1": "Server", "1.2": "Receiver"},
}


def write_fault(
    version: Version,
    code: str,
    reason: str,
    *,
    detail: bytes = b"",
    subcodes: Sequence[str] = (),
    actor: str = "",
    not_understood: Sequence[str] = (),
    headers: Sequence[bytes] = (),
    served: Sequence[Version] = ("1.2", "1.1"),
    lang: str = "en",
) -> bytes:
    """A whole envelope with a fault.

    code: "sender", "receiver", or a code that has the same name in both versions
    ("MustUnderstand", "VersionMismatch"). subcodes: qualified names "{ns}name", from the outer to
    the inner; in SOAP 1.1 the inner one is the code, as WS-Security (1.1, section 12) and
    WS-Addressing (1.0 SOAP binding, section 6) want it. detail: serialized elements.
    not_understood: names of the header blocks of a MustUnderstand fault, told in NotUnderstood
    headers (SOAP 1.2 part 1, section 5.4.8). headers: more header blocks. A VersionMismatch fault
    says which versions are `served` (section 5.4.7).
    """
    value = _CODES.get(code, {}).get(version, code)
    text = xml_text(reason)
    headers = list(headers)
    if code == "VersionMismatch":
        headers.append(_upgrade(served))
    if version == "1.1":
        told = f"<faultcode>soap:{value}</faultcode>"
        if subcodes:
            ns, _, local = subcodes[-1].rpartition("}")
            told = f'<faultcode xmlns:c="{escape(ns[1:])}">c:{escape(local)}</faultcode>'
        parts = f"{told}<faultstring>{text}</faultstring>"
        if actor:
            parts += f"<faultactor>{xml_text(actor)}</faultactor>"
        body = parts.encode()
        if detail:
            body += b"<detail>" + detail + b"</detail>"
        return write_envelope(version, b"<soap:Fault>" + body + b"</soap:Fault>", headers)
    for name in not_understood:
        ns, _, local = name.rpartition("}")
        qname = f'xmlns:h="{escape(ns[1:])}" qname="h:{local}"' if ns else f'qname="{local}"'
        headers.append(f"<soap:NotUnderstood {qname}/>".encode())
    inner = ""
    for name in reversed(subcodes):
        ns, _, local = name.rpartition("}")
        inner = (
            f'<soap:Subcode><soap:Value xmlns:c="{escape(ns[1:])}">c:{escape(local)}'
            f"</soap:Value>{inner}</soap:Subcode>"
        )
    parts = (
        f"<soap:Code><soap:Value>soap:{value}</soap:Value>{inner}</soap:Code>"
        f'<soap:Reason><soap:Text xml:lang="{lang}">{text}</soap:Text></soap:Reason>'
    )
    if actor:
        parts += f"<soap:Role>{xml_text(actor)}</soap:Role>"
    body = parts.encode()
    if detail:
        body += b"<soap:Detail>" + detail + b"</soap:Detail>"
    return write_envelope(version, b"<soap:Fault>" + body + b"</soap:Fault>", headers)


def _upgrade(served: Sequence[Version]) -> bytes:
    told = "".join(
        f'<v:SupportedEnvelope qname="e:Envelope" xmlns:e="{NS[version]}"/>' for version in served
    )
    return f'<v:Upgrade xmlns:v="{NS["1.2"]}">{told}</v:Upgrade>'.encode()


def xml_text(text: str) -> str:
    """`text` escaped, for content and attributes, without what XML 1.0 cannot carry
    (section 2.2)."""
    return escape("".join(c if _is_xml_char(ord(c)) else "\ufffd" for c in text))


def _is_xml_char(c: int) -> bool:
    return 0x20 <= c <= 0xD7FF or c in (9, 10, 13) or 0xE000 <= c <= 0xFFFD or c >= 0x10000


def serialize(element: etree._Element) -> bytes:
    """An element as it goes into another document: UTF-8, its namespaces declared, no tail."""
    written: bytes = etree.tostring(
        element, encoding="utf-8", xml_declaration=False, with_tail=False
    )
    return written
