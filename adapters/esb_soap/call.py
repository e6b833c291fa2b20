"""SOAP out: one operation of a WSDL, asked over HTTP (SOAP 1.1, section 6; SOAP 1.2 part 2,
section 7).

What is sent is told by the message's content type and root:

    data (JSON, a form, ...)    the operation's input, written by the WSDL's types and checked
    XML, the input's element    put into an envelope as it is
    XML, a SOAP envelope        sent as it is, if it is one for this operation

What comes back is data, which the route's source writes as its caller asked (JSON, or the element
for one who prefers XML); or, with `reply`, the element or the envelope. Whoever sent an envelope
gets one back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

from lxml import etree
from pydantic import AfterValidator, Field

from esb.adapter import Build, Renderer
from esb.envelope import NO_BODY, Body, Envelope, Outcome, parse_content_type
from esb.errors import (
    BadMessage,
    BadReply,
    Denied,
    EsbError,
    Fault,
    OutcomeUnknown,
    Transient,
    UnsupportedMedia,
)
from esb.options import Duration
from esb.redaction import heard, shown
from esb.xml import parse_xml
from esb_soap.addressing import WSA, Addressing, check_related, is_addressing, request_headers
from esb_soap.bind import Binder, HeaderBinder, InputFields
from esb_soap.endpoint import Found, WsdlOptions, did_you_mean, load, offload, operation, usable
from esb_soap.envelope import (
    ENVELOPES,
    MEDIA_TYPE,
    MustUnderstand,
    SoapMessage,
    Version,
    as_envelope,
    check_understood,
    content_type,
    read_envelope,
    read_fault,
    serialize,
    soap_action,
    strip_soap_attributes,
    write_envelope,
)
from esb_soap.rehearsal import PlayedService
from esb_soap.security import SECURITY, ClientSecurity, check_reply, refused_credentials
from esb_soap.wsdl import FaultMessage, WsdlError
from esb_web import (
    CheckedOptions,
    ClientReply,
    OutboundHeaders,
    check_health,
    error_of,
    web_client,
)
from esb_web.spans import requested

Form = Literal["data", "xml", "envelope"]
"""How a payload is handed on: as plain data, as the element in the Body, or as it came."""

_XML_TYPES: Final = ("text/xml", "application/xml", "application/soap+xml")
_UNTYPED: Final = ("", "application/octet-stream", "text/plain")
_FORM: Final = "application/x-www-form-urlencoded"
_TRACES: Final = (
    "{http://jax-ws.dev.java.net/}",
    "{http://xml.apache.org/axis/}",
    "{http://schemas.datacontract.org/2004/07/System.ServiceModel}",
)
"""Details in which SOAP stacks tell their own insides: shown to operators, never to callers."""


def _address(value: str) -> str:
    if value and not re.match(r"https?://[^/\s]", value):
        raise ValueError("a URL starts with http:// or https://")
    return value


class SoapConnection(CheckedOptions):
    """What a connection to SOAP services holds: the options of every HTTP endpoint, and SOAP's."""

    security: ClientSecurity | None = Field(
        None, description="WS-Security to send: user name and password, a time."
    )
    addressing: Addressing | Literal["none"] | None = Field(
        None,
        description="The version of WS-Addressing whose headers are sent, or none; what the WSDL "
        "asks for if left out.",
    )


class SoapRequestOptions(SoapConnection):
    """How a SOAP service is asked."""

    url: Annotated[str, AfterValidator(_address)] = Field(
        "", description="Where the service is, instead of the address in the WSDL."
    )
    timeout: Duration = Field(30.0, description="Time for one attempt, from first to last byte.")
    forward_headers: bool | list[str] = Field(
        False, description="HTTP headers of the message to send on: true, false, or their names."
    )
    soap_headers: str = Field(
        "",
        description="SOAP header to send: a Jinja2 template in XML, as a file's name or (with a "
        "line break) as the text itself. It writes one header block, or several inside an element "
        "without a namespace. Headers that the WSDL declares are part of the data and need none.",
    )
    understood: list[str] = Field(
        [],
        description="Names ({namespace}name) or namespaces of SOAP headers in replies that may be "
        "marked mustUnderstand though the WSDL does not declare them.",
    )


class SoapClientOptions(WsdlOptions, SoapRequestOptions):
    """How a SOAP service is reached: its WSDL, and the options of every HTTP endpoint."""

    soap: Version | None = Field(
        None,
        description="The SOAP version to speak: at a port of that version or, where the WSDL has "
        "none, at any. Else that of the port.",
    )


class SendOptions(SoapClientOptions):
    """Ask one operation of a SOAP service and leave out its reply, if it has one.

    The message is data, which becomes the operation's input by the WSDL's types; or XML, the
    input's element or a whole SOAP envelope. A fault is an error.

    For example:

        send: {soap: {wsdl: partner.wsdl, operation: Notify}}
    """

    operation: str = Field(description="The operation of the WSDL.")
    bind: bool | list[str] = Field(
        False,
        description="Path and query parameters to merge into the data, by name: true for all "
        "(then a query parameter that the input lacks is an error), or a list of names.",
    )
    bind_headers: bool = Field(
        False,
        description="Whether HTTP headers fill SOAP headers that the WSDL declares: "
        "`SOAP-<block>` one that holds text, `SOAP-<block>-<field>` a field of another.",
    )


class CallOptions(SendOptions):
    """Ask one operation of a SOAP service and go on with its reply.

    The message is data, which becomes the operation's input by the WSDL's types; or XML, the
    input's element or a whole SOAP envelope. A fault is an error, with a name if the WSDL declares
    it. A one-way operation answers 202.

    For example:

        call: {soap: {wsdl: partner.wsdl, operation: getPartner, bind: [id]}}
    """

    reply: Form | None = Field(
        None,
        description="The reply as data (the default), as xml (the element in the Body), or as the "
        "whole SOAP envelope (the default when one was sent).",
    )


def _with_components(schema: Mapping[str, Any], components: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema that finds what it refers to."""
    return {**schema, "components": {"schemas": components}}


class _Request(NamedTuple):
    """What was sent. reply: the form in which its reply is wanted; message_id: what the reply must
    relate to, if it says so; forwarded: whether it has credentials that came with the message."""

    raw: bytes
    reply: Form = "data"
    message_id: str = ""
    forwarded: bool = False


class SoapCaller:
    """A SOAP operation as RequestReply and as Sink; see CallOptions."""

    def __init__(self, options: SendOptions, build: Build) -> None:
        loaded = load(build, options, "wsdl")
        self._found: Found = operation(build, loaded.wsdl, options, options.operation)
        self._operation = self._found.operation
        try:
            self._inputs = InputFields(loaded.schemas(self._operation).input, loaded.components)
        except WsdlError as e:
            raise build.problem(str(e), "operation", code="wsdl", hint=e.hint) from e
        self._version = options.soap or self._found.port.soap_version
        if self._version != self._found.port.soap_version and self._operation.use == "encoded":
            build.problem(
                f"the WSDL describes '{self._operation.name}' for SOAP "
                f"{self._found.port.soap_version} only", "soap", code="wsdl",
                hint="its encoding differs between the versions",
            )  # fmt: skip
        self._url = options.url or self._found.port.address or ""
        if not re.match(r"https?://[^/\s]", self._url):
            build.problem(
                f"the WSDL gives no HTTP address for '{self._found.port.name}'", "wsdl",
                code="wsdl", hint="add `url`",
            )  # fmt: skip
        service, name = self._found.service.name, self._operation.name
        rpc = {"rpc.system": "soap", "rpc.service": service, "rpc.method": name}
        build.span(requested("POST", self._url, f"{service}/{name}", rpc))
        self._reply = options.reply if isinstance(options, CallOptions) else None
        self._understood = frozenset(options.understood)
        self._security = options.security
        self._check_security = self._security is not None and SECURITY not in self._understood
        if self._security is not None:
            self._understood |= {SECURITY}
        asked = options.addressing or self._found.port.addressing
        self._addressing: Addressing | None = None if asked == "none" else asked
        if self._addressing is not None:
            self._understood |= {WSA[self._addressing]}
        self._bind = self._binder(options, build)
        self._bind_headers = HeaderBinder(self._inputs) if options.bind_headers else None
        self._own_headers: Renderer | None = None
        if options.soap_headers:
            self._own_headers = build.jinja(options.soap_headers, "application/xml", "soap_headers")
        self._client = web_client(
            build,
            options,
            played=lambda far: PlayedService(far, self._operation, self._version),
        )
        check_health(build, options, self._url, "?wsdl")
        self._idempotent = self._client.is_idempotent("POST")
        self._client.promise(build, "POST")
        # In replies, the headers that the WSDL declares are read with the data.
        if self._operation.output is not None:
            self._understood |= set(self._operation.output.header_elements)
        output = loaded.schemas(self._operation).output
        is_data = isinstance(options, CallOptions) and options.reply in (None, "data")
        build.gives(
            body=_with_components(output, loaded.components) if is_data and output else None,
            faults=self._operation.faults,
        )
        action = self._operation.soap_action
        self._wire_headers = [
            ("Content-Type", content_type(self._version, action)),
            ("Accept", f"{MEDIA_TYPE[self._version]}, */*;q=0.1"),
        ]
        if self._version == "1.1":
            self._wire_headers.append(("SOAPAction", soap_action(action)))
        self._http_headers = OutboundHeaders(
            build, options, taken=[name for name, _ in self._wire_headers]
        )
        self._faults: dict[str, FaultMessage] = {
            fault.element: fault for fault in self._operation.faults.values() if fault.element
        }

    def _binder(self, options: SendOptions, build: Build) -> Binder | None:
        if not options.bind:
            return None
        inputs = self._inputs
        fields = {}
        for index, name in enumerate(options.bind if isinstance(options.bind, list) else ()):
            field = inputs.find(name)
            if field is None:
                known = [f.name for f in inputs.top if inputs.is_simple(f)]
                build.problem(
                    f"'{options.operation}' has no input '{name}' that a parameter can fill",
                    "bind", index, hint=did_you_mean(name, known),
                )  # fmt: skip
            else:
                fields[name] = field
        return Binder(inputs, fields, strict=options.bind is True)

    # --- the endpoint

    async def call(self, envelope: Envelope) -> Envelope:
        """Ask the operation; a one-way operation leaves nothing to answer but that it was taken.

        Raises Fault for a fault, typed if the WSDL declares it; BadMessage if the message does not
        fit the operation; BadReply if the reply does not; else what the HTTP client raises.
        """
        request = await offload(len_of(envelope.body), self._write, envelope)
        reply = await self._exchange(envelope, request.raw)
        if self._operation.output is None:
            await offload(len(reply.body), self._check_taken, reply, request)
            return envelope.reply(NO_BODY).replace(outcome=Outcome.ACCEPTED)
        body = await offload(len(reply.body), self._read, reply, request)
        return envelope.reply(body, facts={"operation": self._operation.name})

    async def send(self, envelope: Envelope) -> None:
        """Ask the operation and leave out its reply; raises as `call` does."""
        request = await offload(len_of(envelope.body), self._write, envelope)
        reply = await self._exchange(envelope, request.raw)
        await offload(len(reply.body), self._check_taken, reply, request)

    async def _exchange(self, envelope: Envelope, sent: bytes) -> ClientReply:
        return await self._client.request(
            "POST",
            self._url,
            headers=[*self._wire_headers, *self._http_headers(envelope, "POST")],
            body=sent,
            deadline=envelope.deadline,
        )

    # --- the request

    def _write(self, envelope: Envelope) -> _Request:
        headers, message_id = self._template_headers(envelope), ""
        if self._addressing is not None:
            message_id, blocks = request_headers(
                self._addressing,
                self._operation.actions.input,
                self._url,
                replies=self._operation.output is not None,
            )
            headers += blocks
        if self._security is not None:
            headers.append(self._security.header())
        with usable(self._operation.name):
            return self._written(envelope, headers, message_id)

    def _written(self, envelope: Envelope, headers: list[bytes], message_id: str) -> _Request:
        body = envelope.body
        kind = parse_content_type(body.content_type).essence
        if kind.startswith("multipart/"):
            raise UnsupportedMedia("SOAP with attachments is not supported")
        if is_xml(body, kind):
            root = body.data if kind not in _UNTYPED else parse_xml(body.raw)
            if isinstance(root, etree._Element):
                if root.tag in ENVELOPES or etree.QName(root).localname == "Envelope":
                    message = as_envelope(root, what="the body")
                    return self._pass_on(message, body, headers, message_id)
                self._check_element(root, "the body")
                raw = write_envelope(self._version, serialize(root), headers)
                return _Request(raw, message_id=message_id)
        data = {} if body.is_empty else _data(body, kind)
        if kind == _FORM and isinstance(data, dict):
            # Form fields are text, as parameters are.
            data = Binder(self._inputs, {}, strict=True)(None, {"form": data})
        if self._bind is not None:
            data = self._bind(data, envelope.params)
        if self._bind_headers is not None:
            data = self._bind_headers(data, envelope.headers)
        written = self._operation.input.write(data)
        raw = write_envelope(self._version, written.body, [*written.headers, *headers])
        return _Request(raw, message_id=message_id)

    def _pass_on(
        self, message: SoapMessage, body: Body, headers: list[bytes], message_id: str
    ) -> _Request:
        content = message.content
        if content is not None or self._operation.input.element is not None:
            self._check_element(content, "the Body of the envelope")
        if message.version == self._version and not headers and body.is_written:
            charset = parse_content_type(body.content_type).params.get("charset", "utf-8")
            if charset.lower() in ("utf-8", "utf8", "us-ascii") and _declares_utf8(body.raw):
                return _Request(body.raw, "envelope", message_id, _has_security(message))
        blocks = list(message.header.iterchildren("*")) if message.header is not None else []
        if self._security is not None:  # the bus's own credentials, in the place of the caller's
            blocks = [block for block in blocks if block.tag != SECURITY]
        if self._addressing is not None:
            blocks = [block for block in blocks if not is_addressing(block.tag)]
        if message.version != self._version and blocks:
            raise BadMessage(
                f"the envelope is SOAP {message.version} and the service takes {self._version}"
            )
        children = b"".join(serialize(child) for child in message.body.iterchildren("*"))
        kept = [serialize(block) for block in blocks]
        raw = write_envelope(self._version, children, [*kept, *headers])
        forwarded = SECURITY in (block.tag for block in blocks)
        return _Request(raw, "envelope", message_id, forwarded)

    def _check_element(self, element: etree._Element | None, what: str) -> None:
        expected = self._operation.input.element
        if element is not None and element.tag == expected:
            return
        if element is None:
            raise BadMessage(f"{what} is empty, '{self._operation.name}' was expected")
        found, wanted = etree.QName(element), etree.QName(expected) if expected else None
        if wanted is None:
            raise BadMessage(f"{what} must be empty for '{self._operation.name}'")
        if found.localname == wanted.localname:
            raise BadMessage(
                f"{what} has the element '{found.localname}' in the namespace "
                f"'{found.namespace or ''}', it must be '{wanted.namespace or ''}'"
            )
        raise BadMessage(
            f"{what} has the element '{found.localname}', '{self._operation.name}' takes "
            f"'{wanted.localname}'"
        )

    def _template_headers(self, envelope: Envelope) -> list[bytes]:
        if self._own_headers is None:
            return []
        root = self._own_headers(envelope).data
        # A header block has a namespace (SOAP 1.1, section 4.2); what has none holds several.
        wrapped = etree.QName(root).namespace is None
        return [serialize(block) for block in (root.iterchildren("*") if wrapped else [root])]

    # --- the reply

    def _message(self, reply: ClientReply, request: _Request) -> SoapMessage | None:
        """The envelope of a reply that is no fault, None for an answer without content.

        Raises Fault for a fault whatever the status, else what the status says, else BadReply for
        what is no SOAP.
        """
        said = error_of(reply, idempotent=self._idempotent)
        kind = parse_content_type(reply.headers.get("content-type", ""))
        essence = kind.essence
        if not reply.body or reply.body.isspace():
            if said is not None:
                raise said
            return None
        if essence.startswith("multipart/"):
            raise said or _bad("the service answered with attachments, which are not supported")
        try:
            message = read_envelope(
                reply.body, charset=kind.params.get("charset"), what="the reply"
            )
        except BadMessage as e:
            raise said or _no_soap(reply, essence, str(e)) from e
        fault = message.fault
        if fault is not None:
            error = self._fault(fault, message, reply.status, forwarded=request.forwarded)
            if (
                isinstance(said, Transient | OutcomeUnknown)
                and not (isinstance(error, Fault) and error.name)
                and (reply.status in (429, 503, 504))
            ):
                # A gateway in front of the service speaks SOAP too; try again as it says.
                raise said from error
            raise error
        if said is not None:
            raise said
        try:
            check_understood(message, self._understood)
        except MustUnderstand as e:
            raise _bad(f"in the reply, {e}") from e
        if self._check_security:
            check_reply(message)
        if request.message_id:
            check_related(message, request.message_id)
        return message

    def _check_taken(self, reply: ClientReply, request: _Request) -> None:
        if self._operation.output is None and 200 <= reply.status < 300:
            # Only a fault would matter: what else servers put there is of no interest.
            if b"Fault" not in reply.body:
                return
            try:
                message = read_envelope(reply.body)
            except BadMessage:
                return
            if message.fault is not None:
                raise self._fault(message.fault, message, reply.status, forwarded=request.forwarded)
            return
        self._message(reply, request)

    def _read(self, reply: ClientReply, request: _Request) -> Body:
        message, form = self._message(reply, request), self._reply or request.reply
        output = self._operation.output
        assert output is not None
        if message is None:
            raise _bad(f"the service answered nothing (status {reply.status})")
        if form == "envelope":
            return Body(reply.body, reply.headers.get("content-type", "text/xml"))
        content = message.content
        if (content.tag if content is not None else None) != output.element:
            wanted = etree.QName(output.element).localname if output.element else "nothing"
            got = f"'{etree.QName(content).localname}'" if content is not None else "nothing"
            raise _bad(f"the service answered {got}, '{wanted}' was expected")
        if form == "xml":
            return Body(serialize(content) if content is not None else b"", "application/xml")
        strip_soap_attributes(message)
        try:
            with usable(self._operation.name):
                data = output.read(message.body, message.header)
        except BadMessage as e:
            raise _bad(f"the reply does not fit the WSDL: {e}") from e
        return _ReplyBody(data, content)

    def _fault(
        self, element: etree._Element, message: SoapMessage, status: int, *, forwarded: bool
    ) -> EsbError:
        """The error that a fault stands for: named if the WSDL declares it, by the element in its
        detail or, where that is empty, by its code. One about credentials is the caller's fault
        only if they are the caller's."""
        fault = read_fault(element)
        refused = refused_credentials(fault.code, *fault.subcodes)
        if refused and forwarded:
            denied = Denied("the service refused the WS-Security header of the message")
            denied.add_note(heard(serialize(element).decode("utf-8", "replace"))[:2000])
            return denied
        name, type_, data = "", "", None
        for detail in fault.detail:
            declared = self._faults.get(str(detail.tag))
            if declared is None:
                continue
            try:
                with usable(self._operation.name):
                    data = declared.read(detail)
            except BadMessage:
                if not len(detail) and not detail.attrib and not (detail.text or "").strip():
                    continue  # PHP puts the only declared fault there, empty, for any other
                data = generic(detail)
            name, type_ = declared.name, fault_type(declared.element)
            break
        if not name:
            codes = [code.rpartition("}")[2] for code in (*fault.subcodes, fault.code)]
            names = {part for code in codes for part in (code, code.rpartition(".")[2])}
            for declared in self._operation.faults.values():
                if declared.name in names and not fault.detail:
                    name, type_ = declared.name, fault_type(declared.element)
            told = [
                d
                for d in fault.detail
                if not str(d.tag).startswith(_TRACES) and d.tag not in self._faults
            ]
            if told and not name:
                data = {etree.QName(d).localname: generic(d) for d in told}
        soap = {
            "version": message.version,
            "code": fault.code,
            "subcodes": list(fault.subcodes),
            "actor": fault.actor,
            "node": fault.node,
        }
        error = Fault(
            "the service refused the WS-Security header of the bus"
            if refused  # what it says may name the bus's user
            else shown(fault.reason)[:1000]
            or f"the service answered with a fault {fault.code}".rstrip(),
            name=name,
            party="receiver" if refused else fault.party,
            type=type_,
            data=data,
            info={"soap": {k: v for k, v in soap.items() if v}, "upstream_status": status},
        )
        error.add_note(heard(serialize(element).decode("utf-8", "replace"))[:2000])
        return error


class _ReplyBody(Body):
    """A reply as data, which was XML: a receiver who asks for XML gets the element it was."""

    __slots__ = ("_element",)

    def __init__(self, data: Any, element: etree._Element | None) -> None:
        super().__init__(None, "application/json", data)
        self._element = element

    def written_as(self, content_type: str) -> Body:
        """The element for XML, else whatever a codec makes of the data."""
        if self._element is not None and parse_content_type(content_type).essence in _XML_TYPES:
            return Body(serialize(self._element), f"{content_type}; charset=utf-8")
        return super().written_as(content_type)


def _has_security(message: SoapMessage) -> bool:
    return message.header is not None and message.header.find(SECURITY) is not None


def generic(element: etree._Element) -> Any:
    """An element that no schema describes, as data: text, or an object of attributes ("@name"),
    children by local name (a list where there are several) and, beside these, "#text"."""
    result: dict[str, Any] = {f"@{etree.QName(k).localname}": v for k, v in element.attrib.items()}
    for child in element.iterchildren("*"):
        name, value = etree.QName(child).localname, generic(child)
        if name not in result:
            result[name] = value
        elif isinstance(result[name], list):
            result[name].append(value)
        else:
            result[name] = [result[name], value]
    text = "".join([element.text or "", *(child.tail or "" for child in element)]).strip()
    if not result:
        return text
    return {**result, "#text": text} if text else result


def is_xml(body: Body, kind: str) -> bool:
    """Whether a body is XML, by its content type or, if that says nothing, by its first byte."""
    if kind in _XML_TYPES or kind.endswith("+xml"):
        return True
    return kind in _UNTYPED and body.is_written and body.raw.lstrip()[:1] == b"<"


def _data(body: Body, kind: str) -> Any:
    if kind in _UNTYPED and body.is_written and body.raw.lstrip()[:1] in (b"{", b"["):
        return Body(body.raw, "application/json").data
    return body.data


def len_of(body: Body) -> int:
    """The size of a body as far as it is known without writing it."""
    return len(body.raw) if body.is_written else 0


def _declares_utf8(raw: bytes) -> bool:
    found = re.match(rb"""\s*<\?xml[^>]*encoding\s*=\s*["']([^"']*)["']""", raw[:200])
    return not raw.startswith((b"\xff\xfe", b"\xfe\xff")) and (
        found is None or found[1].lower() in (b"utf-8", b"us-ascii")
    )


def _no_soap(reply: ClientReply, essence: str, why: str) -> BadReply:
    """The error for what cannot be read as an envelope: what else it seems to be, or why not."""
    start = reply.body[:500].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")) or (
        essence == "text/html" and b"envelope" not in start
    ):
        return _bad("the service answered with a web page, not with SOAP", reply)
    if not start.startswith((b"<", b"\xff\xfe", b"\xfe\xff")):
        return _bad(f"the service answered {essence or 'text'}, not SOAP", reply)
    return _bad(why, reply)


def _bad(text: str, reply: ClientReply | None = None) -> BadReply:
    error = BadReply(text)
    if reply is not None:
        # For operators: what the far side said, cut and on one line.
        told = heard(reply.body[:2000].decode("utf-8", "replace"))
        error.add_note(" ".join(told[:500].split()))
    return error


def fault_type(element: str | None) -> str:
    """A URI for a fault's type, made of its element's namespace and name."""
    if not element:
        return ""
    name = etree.QName(element)
    if not name.namespace:
        return f"urn:esb:fault:{name.localname}"
    joint = "" if name.namespace.endswith(("/", "#", ":", "?", "=")) else "#"
    return f"{name.namespace}{joint}{name.localname}"
