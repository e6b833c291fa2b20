"""WS-Addressing: what a message is for, which one it answers, where its answer goes (W3C 1.0 of
2005/08 with its SOAP and WSDL bindings, and the submission of 2004/08).

Answers go back on the connection that asked: the addresses `anonymous` and `none` are all that is
taken, and what an operator allows. A bus that sends to wherever a message says is a way into its
network.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from lxml import etree

from esb.errors import BadReply
from esb_soap.envelope import HeaderFault, SoapMessage, blocks_for_us, serialize, xml_text

Addressing = Literal["2005/08", "2004/08"]
"""A version of WS-Addressing, by the month in its namespace."""

WSA: Final[dict[Addressing, str]] = {
    "2005/08": "http://www.w3.org/2005/08/addressing",
    "2004/08": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
}
_VERSIONS: Final[dict[str, Addressing]] = {ns: version for version, ns in WSA.items()}
_ANONYMOUS: Final[dict[Addressing, str]] = {
    "2005/08": WSA["2005/08"] + "/anonymous",
    "2004/08": WSA["2004/08"] + "/role/anonymous",
}
NONE: Final = WSA["2005/08"] + "/none"
_WSDL: Final = "http://schemas.xmlsoap.org/wsdl/"
_METADATA: Final = (
    "http://www.w3.org/2007/05/addressing/metadata",
    "http://www.w3.org/2006/05/addressing/wsdl",
    WSA["2004/08"],
)
_LONGEST: Final = 2048  # characters of a URI
_ONCE: Final = ("Action", "MessageID", "To", "From", "ReplyTo", "FaultTo")
_TEXT: Final = etree.XPath("string()")


# --- what a WSDL says ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Actions:
    """The actions of an operation's messages; those of faults by the fault's name."""

    input: str = ""
    output: str = ""
    faults: Mapping[str, str] = field(default_factory=dict)


def actions_of(operation: etree._Element, soap_action: str) -> Actions:
    """The actions of a port type's operation: what the WSDL says, else SOAPAction for the input,
    else the pattern of the specification (WS-Addressing 1.0 Metadata, section 4.4)."""
    port_type = operation.getparent()
    assert port_type is not None
    namespace = operation.getroottree().getroot().get("targetNamespace", "")
    joint = ":" if namespace.lower().startswith("urn:") else "/"
    base = f"{namespace.removesuffix('/')}{joint}{port_type.get('name', '')}"
    name = operation.get("name", "")
    one_way = operation.find(f"{{{_WSDL}}}output") is None

    def said(node: etree._Element) -> str:
        values = (node.get(f"{{{ns}}}Action") for ns in _METADATA)
        return next((value.strip() for value in values if value), "")

    def pattern(*parts: str) -> str:
        return joint.join((base, *parts))

    found = {"input": "", "output": ""}
    faults: dict[str, str] = {}
    for node in operation.iterchildren("*"):
        kind = etree.QName(node).localname
        if kind == "fault":
            fault = node.get("name") or ""
            faults[fault] = said(node) or pattern(name, "Fault", fault)
        elif kind in found:
            suffix = "" if one_way else {"input": "Request", "output": "Response"}[kind]
            default = pattern(node.get("name") or name + suffix)
            found[kind] = said(node) or (soap_action if kind == "input" else "") or default
    return Actions(found["input"], found["output"], faults)


def asked_for(*nodes: etree._Element) -> Addressing | None:
    """The version that a binding or port asks for, by an extension or a policy; None if none."""
    for node in nodes:
        for element in [*node.iterchildren("*"), *_policies(node)]:
            for found in element.iter(*_ASSERTIONS):
                optional = [v.strip() for k, v in found.attrib.items() if k in _OPTIONAL]
                if not any(value in ("true", "1") for value in optional):
                    return _ASSERTIONS[str(found.tag)]
    return None


_ASSERTIONS: Final[dict[str, Addressing]] = {
    f"{{{_METADATA[0]}}}Addressing": "2005/08",
    f"{{{_METADATA[1]}}}UsingAddressing": "2005/08",
    "{http://schemas.xmlsoap.org/ws/2004/08/addressing/policy}UsingAddressing": "2004/08",
}
_POLICIES: Final = (
    "http://www.w3.org/ns/ws-policy",
    "http://schemas.xmlsoap.org/ws/2004/09/policy",
)
_OPTIONAL: Final = tuple(f"{{{ns}}}Optional" for ns in _POLICIES)
_ID: Final = (
    "{http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd}Id"
)


def _policies(node: etree._Element) -> list[etree._Element]:
    """The policies in the same document that a node refers to."""
    wanted = {
        (reference.get("URI") or "").removeprefix("#")
        for ns in _POLICIES
        for reference in node.iterchildren(f"{{{ns}}}PolicyReference")
    }
    root = node.getroottree().getroot()
    tags = [f"{{{ns}}}Policy" for ns in _POLICIES]
    return [policy for policy in root.iterchildren(*tags) if policy.get(_ID) in wanted]


# --- out -----------------------------------------------------------------------------------------


def request_headers(version: Addressing, action: str, to: str, *, replies: bool) -> Sent:
    """The header blocks of a request."""
    message_id = _new_id()
    blocks = [("Action", action), ("MessageID", message_id), ("To", to)]
    written = [_block(version, *block) for block in blocks]
    if replies:
        address = f"<a:Address>{_ANONYMOUS[version]}</a:Address>"
        written.append(f'<a:ReplyTo xmlns:a="{WSA[version]}">{address}</a:ReplyTo>'.encode())
    return Sent(message_id, written)


class Sent(NamedTuple):
    """The headers of a request and the id that its reply will refer to."""

    message_id: str
    blocks: list[bytes]


def check_related(message: SoapMessage, message_id: str) -> None:
    """Whether a reply answers that request. One that does not say passes: it came on the
    connection that asked. Raises BadReply."""
    if message.header is None:
        return
    tags = [f"{{{ns}}}RelatesTo" for ns in WSA.values()]
    said = [_text(block) for block in message.header.iterchildren(*tags) if _is_reply(block)]
    if said and message_id not in said:
        raise BadReply("the service answered another message than the one it was asked (RelatesTo)")


def _is_reply(block: etree._Element) -> bool:
    kind = (block.get("RelationshipType") or "").strip()
    return not kind or kind.endswith(("/reply", "wsa:Reply", ":Reply"))


# --- in ------------------------------------------------------------------------------------------


class Addressed(NamedTuple):
    """What the addressing headers of a request say; `action` is "" where it is missing."""

    version: Addressing
    action: str
    message_id: str
    blocks: Mapping[str, etree._Element]
    twice: str = ""

    @property
    def reply_to(self) -> str:
        """Where the reply is wanted: an URL, "" for the connection that asked, or NONE."""
        return self._wanted("ReplyTo")

    @property
    def fault_to(self) -> str:
        """Where a fault is wanted: as FaultTo says or, without it, ReplyTo."""
        return self._wanted(self._fault_block)

    @property
    def _fault_block(self) -> str:
        return "FaultTo" if "FaultTo" in self.blocks else "ReplyTo"

    def _wanted(self, name: str) -> str:
        address = self._address(name)
        return "" if address == _ANONYMOUS[self.version] else address

    def _address(self, name: str) -> str:
        block = self.blocks.get(name)
        found = block.find(f"{{{WSA[self.version]}}}Address") if block is not None else None
        return _text(found) if found is not None else ""

    def check(self, allowed: Callable[[str], bool]) -> None:
        """Raises HeaderFault for headers that are not as the specification says, or that send
        answers where it is not `allowed` (WS-Addressing 1.0 SOAP Binding, section 6.4)."""
        if self.twice:
            raise self._invalid(self.twice, "InvalidCardinality", f"there are two '{self.twice}'")
        for name in ("ReplyTo", "FaultTo"):
            if name not in self.blocks:
                continue
            address = self._address(name)
            if not address:
                raise self._invalid(name, "MissingAddressInEPR", f"'{name}' has no Address")
            if address not in (_ANONYMOUS[self.version], NONE) and not allowed(address):
                text = f"'{name}' must be anonymous or none: answers go back where they came from"
                raise self._invalid(name, "OnlyAnonymousAddressSupported", text)
        if not self.action:
            raise self.missing("Action")
        for name, value in (("Action", self.action), ("MessageID", self.message_id)):
            if len(value) > _LONGEST:
                raise self._invalid(name, "InvalidAddress", f"the '{name}' is too long")
        if not self.message_id and {"ReplyTo", "FaultTo"} & self.blocks.keys():
            raise self.missing("MessageID")

    def missing(self, name: str) -> HeaderFault:
        """The fault for a header that must be there."""
        code = {
            "2005/08": "MessageAddressingHeaderRequired",
            "2004/08": "MessageInformationHeaderRequired",
        }[self.version]
        return self._fault(
            f"the addressing header '{name}' is required", code, block=self._qname(name)
        )

    def mismatch(self, text: str) -> HeaderFault:
        """The fault for an Action that contradicts SOAPAction."""
        return self._invalid("Action", "ActionMismatch", text)

    def not_supported(self, text: str) -> HeaderFault:
        """The fault for an Action that the Body is not for."""
        ns = WSA[self.version]
        block = ""
        if self.version == "2005/08":
            action = f"<a:Action>{xml_text(self.action[:_LONGEST])}</a:Action>"
            block = f'<a:ProblemAction xmlns:a="{ns}">{action}</a:ProblemAction>'
        return self._fault(text, "ActionNotSupported", block=block)

    def _invalid(self, name: str, special: str, text: str) -> HeaderFault:
        if self.version == "2004/08":
            return self._fault(text, "InvalidMessageInformationHeader")
        return self._fault(text, "InvalidAddressingHeader", special, block=self._qname(name))

    def _qname(self, name: str) -> str:
        if self.version == "2004/08":
            return ""
        ns = WSA[self.version]
        return f'<a:ProblemHeaderQName xmlns:a="{ns}">a:{name}</a:ProblemHeaderQName>'

    def _fault(self, text: str, *codes: str, block: str = "") -> HeaderFault:
        ns = WSA[self.version]
        return HeaderFault(text, *(f"{{{ns}}}{code}" for code in codes), block=block.encode())

    def answer(self, action: str, *, fault: bool, elsewhere: bool) -> list[bytes]:
        """The header blocks of the reply or fault. elsewhere: whether it may be sent where the
        request says."""
        version, name = self.version, self._fault_block if fault else "ReplyTo"
        to = self._wanted(name) if elsewhere else ""
        written = [
            _block(version, "Action", action),
            _block(version, "MessageID", _new_id()),
            _block(version, "To", to or _ANONYMOUS[version]),
        ]
        if 0 < len(self.message_id) <= _LONGEST:
            written.append(_block(version, "RelatesTo", self.message_id))
        return written + (self._parameters(name) if to not in ("", NONE) else [])

    def _parameters(self, name: str) -> list[bytes]:
        """What the address wants to see again (WS-Addressing 1.0 SOAP Binding, section 2.2); never
        headers that would mean something to SOAP, WS-Addressing or WS-Security."""
        ns = WSA[self.version]
        holders = (f"{{{ns}}}ReferenceParameters", f"{{{ns}}}ReferenceProperties")
        wanted = [
            one
            for holder in self.blocks[name].iterchildren(*holders)
            for one in holder.iterchildren("*")
        ]
        if self.version == "2005/08":
            for one in wanted:
                one.set(f"{{{ns}}}IsReferenceParameter", "true")
        return [serialize(one) for one in wanted if not _MEANT.match(str(one.tag))]

    def fault_action(self, *, of_addressing: bool = False) -> str:
        """The action of a fault that no WSDL declares."""
        if self.version == "2004/08" or of_addressing:
            return WSA[self.version] + "/fault"
        return WSA[self.version] + "/soap/fault"


_MEANT: Final = re.compile(r"\{http://(schemas\.xmlsoap\.org|www\.w3\.org|docs\.oasis-open\.org)/")


class Allowed:
    """The addresses below some URLs. Raises ValueError for what is no such URL."""

    def __init__(self, urls: Iterable[str]) -> None:
        self._places = [_place(url) for url in urls]

    def __call__(self, address: str) -> bool:
        """Whether `address` is one: same scheme, host and port, and a path at or below."""
        try:
            origin, path = _place(address)
        except ValueError:
            return False
        return any(
            origin == known and (path == base or path.startswith(base.rstrip("/") + "/"))
            for known, base in self._places
        )


def _place(url: str) -> tuple[tuple[str, str, int], str]:
    """The origin and path of an URL, if all who read it read the same."""
    parts: SplitResult = urlsplit(url)
    if (
        not re.fullmatch(r"https?://[!-~]+", url)
        or not parts.hostname
        or re.search(r"[@\\#]", url)
        or {".", ".."} & set(unquote(parts.path).replace("\\", "/").split("/"))
    ):
        raise ValueError("an address is a URL like https://partner.example/answers")
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return (parts.scheme, parts.hostname, port), parts.path or "/"


def detail_header(block: bytes) -> bytes:
    """The header block that carries the detail of a header's fault in SOAP 1.1, where the Body's
    has no place for it (WS-Addressing 1.0 SOAP Binding, section 6.2)."""
    return b'<a:FaultDetail xmlns:a="%b">%b</a:FaultDetail>' % (WSA["2005/08"].encode(), block)


def read_addressing(message: SoapMessage) -> Addressed | None:
    """What a request's headers say, unchecked; None if there are none.

    Raises HeaderFault for a message that speaks both versions.
    """
    found: dict[str, dict[str, etree._Element]] = {}
    twice = ""
    for block in blocks_for_us(message):
        name = etree.QName(block)
        if name.namespace in _VERSIONS and name.localname in (*_ONCE, "RelatesTo"):
            blocks = found.setdefault(name.namespace, {})
            if name.localname in blocks and name.localname in _ONCE:
                twice = name.localname
            blocks.setdefault(name.localname, block)
    if not found:
        return None
    if len(found) > 1:
        ns = WSA["2005/08"]
        raise HeaderFault(
            "the message has addressing headers of two versions", f"{{{ns}}}InvalidAddressingHeader"
        )
    ((ns, blocks),) = found.items()
    action, message_id = (
        _text(blocks[name]) if name in blocks else "" for name in ("Action", "MessageID")
    )
    return Addressed(_VERSIONS[ns], action, message_id, blocks, twice)


# --- helpers -------------------------------------------------------------------------------------


def is_addressing(tag: object) -> bool:
    """Whether a header block of that name is one of WS-Addressing."""
    return str(tag).startswith(_TAGS)


_TAGS: Final = tuple(f"{{{ns}}}" for ns in WSA.values())


def _block(version: Addressing, name: str, value: str) -> bytes:
    return f'<a:{name} xmlns:a="{WSA[version]}">{xml_text(value)}</a:{name}>'.encode()


def _text(element: etree._Element) -> str:
    return str(_TEXT(element)).strip()


def _new_id() -> str:
    return f"urn:uuid:{uuid.uuid4()}"
