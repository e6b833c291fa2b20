"""SOAP in: a route hosts the service that a WSDL describes (SOAP 1.1, section 6; SOAP 1.2 part 2,
section 7).

A request is dispatched by the element in its Body, checked against the WSDL and handed to the
route as data; what the route answers is written by the WSDL's types. Errors become faults:

    Fault with a name the WSDL declares   that fault, with its typed detail
    Fault otherwise                       blamed on whom the far side blamed
    BadMessage, Denied                    Client, Sender
    VersionMismatch, MustUnderstand       the faults of that name
    HeaderFault                           Client, Sender, with the code of the header's own standard
    anything else                         Server, Receiver
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import structlog
from lxml import etree
from pydantic import AfterValidator, Field

from esb.adapter import Build, Health
from esb.audit import refusals
from esb.envelope import NO_BODY, Body, Envelope, Headers, Outcome, parse_content_type
from esb.errors import (
    BadMessage,
    Denied,
    EsbError,
    Fault,
    NoSuchOperation,
    OutcomeUnknown,
    RouteFailure,
    Throttled,
    Transient,
    UnsupportedMedia,
)
from esb.guessing import Failures
from esb.identity import PUBLIC, Principal, network_of
from esb.options import Auth, Duration, Size
from esb.otel import answered
from esb.step import Step
from esb_soap.addressing import (
    NONE,
    WSA,
    Addressed,
    Allowed,
    detail_header,
    is_addressing,
    read_addressing,
)
from esb_soap.call import Form, is_xml, len_of
from esb_soap.endpoint import WsdlOptions, did_you_mean, load, offload, ports, usable
from esb_soap.envelope import (
    ENVELOPES,
    EncodingUnknown,
    HeaderFault,
    MustUnderstand,
    SoapMessage,
    Version,
    VersionMismatch,
    as_envelope,
    check_form,
    check_understood,
    content_type,
    read_envelope,
    serialize,
    soap_action,
    strip_soap_attributes,
    write_envelope,
    write_fault,
    xml_text,
)
from esb_soap.publish import Published
from esb_soap.rehearsal import as_data, as_request
from esb_soap.security import (
    SECURITY,
    XMLENC,
    Guard,
    HostSecurity,
    Nonces,
    security_header,
    timestamp,
)
from esb_soap.wsdl import Operation, Port
from esb_web import (
    ClientOptions,
    Request,
    Response,
    Site,
    WebServer,
    error_of,
    problem,
    rehearse,
    status_of,
    to_envelope,
    web_client,
    web_server,
)
from esb_web.callers import callers
from esb_web.policies import asking, limit_headers, seconds, telling
from esb_web.problems import challenges
from esb_web.server import claim_path
from esb_web.spans import serving

log = structlog.get_logger("esb.soap")

_XOP: Final = "{http://www.w3.org/2004/08/xop/include}Include"
_LIFETIME: Final = 300.0  # seconds that the Timestamp of an answer is good for
_MEDIA_TYPES: Final = ("text/xml", "application/soap+xml", "application/xml", "")


def _addresses(value: list[str]) -> list[str]:
    Allowed(value)
    return value


class HostOptions(WsdlOptions):
    """Host the service of a WSDL. The message is the request's data; `soap.operation` is the
    operation's name, for `choose`. The WSDL is served at `<path>?wsdl`, with our own address.

    For example:

        from: {soap: {wsdl: partner.wsdl, path: /partner}}
    """

    path: str = Field(description="The path to serve the service at, such as /claims.")
    body: Form = Field(
        "data",
        description="What the route gets: data; xml, the element in the Body; or the whole "
        "envelope. It is checked against the WSDL in any case.",
    )
    understood: list[str] = Field(
        [],
        description="Names ({namespace}name) or namespaces of SOAP headers that may be marked "
        "mustUnderstand though the WSDL does not declare them.",
    )
    auth: Auth | None = Field(
        None,
        description="Who may call, and read the WSDL: names of the section `auth`, any of which "
        "will do, or `public`. If left out, what the listener says; with `security` that alone.",
    )
    security: HostSecurity | None = Field(
        None, description="WS-Security: who may ask. Everybody if left out."
    )
    addressing: Literal["accept", "require", "ignore"] = Field(
        "accept",
        description="WS-Addressing headers: accept checks and answers them where a request has "
        "them, require refuses requests without.",
    )
    reply_to: Annotated[list[str], AfterValidator(_addresses)] = Field(
        [],
        description="URLs at or below which WS-Addressing's ReplyTo and FaultTo may be; answers "
        "are then sent there, and the request is answered 202 once they have been taken.",
    )
    max_body: Size | None = Field(None, description="Largest request, instead of the listener's.")
    timeout: Duration | None = Field(
        None, description="Deadline of a request, instead of the listener's `request_timeout`."
    )


class Dispatch:
    """Finds the operation of a request among those of the ports of one SOAP version."""

    def __init__(self, served: Iterable[Port]) -> None:
        self.operations: dict[str, Operation] = {}
        for port in served:
            for name, operation in port.operations.items():
                self.operations.setdefault(name, operation)
        self._by_element: dict[str | None, list[Operation]] = {}
        self._by_action: dict[str, Operation] = {}
        for operation in self.operations.values():
            self._by_element.setdefault(operation.input.element, []).append(operation)
            if operation.soap_action:
                self._by_action.setdefault(operation.soap_action, operation)

    def find(
        self, message: SoapMessage, action: str, addressed: Addressed | None = None
    ) -> Operation:
        """The operation whose input is in the Body; neither the action (SOAPAction) nor that of
        WS-Addressing may name another one.

        Raises NoSuchOperation, or BadMessage where an action contradicts the Body.
        """
        content = message.content
        element = str(content.tag) if content is not None else None
        found = self._by_element.get(element, [])
        if len(found) > 1:
            # Several operations take the same element: only the action tells them apart.
            said = addressed.action if addressed is not None else action
            by_action = [op for op in found if said in (op.soap_action, op.actions.input)]
            if not by_action:
                names = ", ".join(operation.name for operation in found)
                raise BadMessage(f"the action must say which operation is meant: {names}")
            found = by_action
        if not found:
            raise NoSuchOperation(self._unknown(content))
        operation = found[0]
        own = {operation.soap_action, operation.actions.input}
        if addressed is not None and addressed.action not in own:
            shown = addressed.action[:200]
            raise addressed.not_supported(
                f"the action '{shown}' is not that of '{operation.name}', which the Body is for"
            )
        if action and action not in own:
            named = self._by_action.get(action)
            if named is not None or operation.soap_action:
                other = f"means '{named.name}'" if named is not None else "is not known"
                text = f"the action '{action[:200]}' {other}, the Body is for '{operation.name}'"
                raise addressed.mismatch(text) if addressed is not None else BadMessage(text)
            if addressed is not None:
                text = "SOAPAction is neither empty nor the action of the addressing header"
                raise addressed.mismatch(text)
        return operation

    def _unknown(self, content: etree._Element | None) -> str:
        if content is None:
            return "the Body is empty, which no operation takes"
        name = etree.QName(content)
        if (name.namespace or "").startswith(XMLENC):
            return "the Body is encrypted (XML Encryption), which is not supported"
        known = {
            etree.QName(element).localname: etree.QName(element).namespace or ""
            for element in self._by_element
            if element is not None
        }
        if name.localname in known:
            return (
                f"the element '{name.localname}' is in the namespace '{name.namespace or ''}', it "
                f"must be '{known[name.localname]}'"
            )
        hint = did_you_mean(name.localname, known)
        return f"no operation takes the element '{name.localname}'" + (f": {hint}" if hint else "")


@dataclass(slots=True)
class _Exchange:
    """What is known of a request so far; an error is told accordingly."""

    version: Version
    operation: Operation | None = None
    addressed: Addressed | None = None
    checked: bool = False  # whether answers may go where `addressed` says


class SoapHost:
    """A hosted service as Source; see HostOptions."""

    waits = True

    def __init__(self, options: HostOptions, build: Build) -> None:
        claim_path(build, options.path, ["POST", "GET"], "path")
        build.promises("answered")
        loaded = load(build, options, "wsdl")
        wsdl = loaded.wsdl
        candidates = ports(build, wsdl, options)
        services = {service.name: service for service, _ in candidates}
        if len(services) > 1:
            raise build.problem(
                "the WSDL has several services", "wsdl", code="wsdl",
                hint=f"say which with `service`: {' or '.join(services)}",
            )  # fmt: skip
        served = [port for _, port in candidates]
        self._service = next(iter(services))
        self.where = f"SOAP {options.path}"
        facts = {"rpc.system": "soap", "rpc.service": self._service, "http.route": options.path}
        build.span(serving(self.where, facts))
        self._dispatch: dict[Version, Dispatch] = {
            version: Dispatch(port for port in served if port.soap_version == version)
            for version in dict.fromkeys(port.soap_version for port in served)
        }
        if not any(dispatch.operations for dispatch in self._dispatch.values()):
            raise build.problem(f"the service '{self._service}' has no operations", "wsdl",
                                code="wsdl")  # fmt: skip
        self._published = Published(wsdl.documents, self._service, [p.name for p in served])
        self._server: WebServer = web_server(build)
        self._source = f"soap:{build.route}"
        self._form = options.body
        self._understood = frozenset(options.understood)
        self._addressing = options.addressing
        if self._addressing != "ignore":
            self._understood |= set(WSA.values())
        self._allowed = Allowed(options.reply_to)
        self._client = web_client(build, ClientOptions()) if options.reply_to else None
        self._guard: Guard | None = None
        if options.security is not None and not build.rehearsal:  # tests say who it is
            nonces = Nonces(build.store, f"soap nonces of {build.route}")
            self._guard = Guard(options.security, nonces)
        self._failures: Failures = build.shared("failed logins", Failures)
        self._refusals, self._place = refusals(build), f"route {build.route}"
        self._step: Step | None = None
        self._ask, self._tell = asking(build.asked), telling(build.asked)
        # Whoever has to show a UsernameToken has said who he is.
        alone = options.security is not None and options.auth in (None, ["public"])
        build.gives(methods=["POST"])
        self._site = Site(
            auth=PUBLIC if alone else callers(build, options.auth, "auth"),
            path=options.path,
            methods=("POST", "GET"),
            handler=self._handle,
            max_body=options.max_body or 0,
            timeout=options.timeout or 0.0,
            refused=self._refused,
        )

    async def start(self, step: Step) -> None:
        """Serve the path from now on."""
        self._step = step
        self._server.mount(self._site)

    async def stop(self, grace: float) -> None:
        """Serve it no longer; requests in flight get their answers within `grace` seconds."""
        await self._server.retire(self._site, grace)

    async def pause(self, grace: float) -> None:
        """Tell callers to come back later."""
        await self._server.pause(self._site, grace)

    def health(self) -> Health:
        """That of the listener."""
        return self._server.health()

    async def rehearse(self, given: Envelope) -> Envelope:
        """As if a request had come in: see `esb.adapter.Rehearsing`. Data for the operation in the
        params "soap" becomes its request, and the answer data as well; XML is the whole envelope.
        """
        name = given.params.get("soap", {}).get("operation")
        if name is None or is_xml(given.body, parse_content_type(given.content_type).essence):
            return await rehearse(self._site, given)
        version, dispatch = next(iter(self._dispatch.items()))
        operation = dispatch.operations.get(name)
        if operation is None:
            hint = did_you_mean(name, dispatch.operations)
            raise ValueError(f"the service has no operation '{name}'; {hint}")
        reply = await rehearse(self._site, as_request(given, operation, version))
        return as_data(reply, operation)

    # --- one request

    async def _handle(self, request: Request) -> Response:
        if request.method in ("GET", "HEAD"):
            return self._get(request)
        status = 500  # of one that hangs up while his answer is written
        try:
            response = await self._answer(request)
            status = response.status
            return response
        finally:
            answered(status)

    async def _answer(self, request: Request) -> Response:
        known = _Exchange(self._version(request.headers))
        try:
            message = await offload(len(request.body), self._parse, request)
            known.version = message.version
            user = await self._user(message, request) if self._guard is not None else None
            action = _action(request, message.version)
            operation = self._operation(message, action, known)
            body = await offload(len(request.body), self._read, operation, message, request)
            envelope = to_envelope(request, source=self._source, type="soap.request")
            facts = {"operation": operation.name, "action": action, "service": self._service}
            if known.addressed is not None:
                facts |= {
                    "action": known.addressed.action,
                    "message_id": known.addressed.message_id,
                }
            params = {**envelope.params, "soap": facts}
            if user is not None:
                params["principal"] = user.facts()
            envelope = envelope.replace(
                body=body,
                subject=operation.name,
                params=params,
                principal=user.name if user is not None else envelope.principal,
            )
            if self._ask is not None:
                envelope = self._ask(request, envelope)
            assert self._step is not None
            answer = await self._step(envelope)
            if operation.one_way or operation.output is None:
                return Response(202)
            raw = await offload(len_of(answer.body), self._write, known, envelope, answer)
            if known.addressed is not None and known.addressed.reply_to:
                await self._send(known, known.addressed.reply_to, raw, request.deadline)
                return Response(202)
        except EsbError as e:
            return await self._refuse(e, known, request.deadline)
        except Exception:
            log.exception("handler failed", path=request.path)
            return await self._refuse(EsbError(""), known, request.deadline)
        response = Response(200, [("content-type", content_type(known.version))], raw)
        return response if self._tell is None else self._tell(request, answer, response)

    async def _user(self, message: SoapMessage, request: Request) -> Principal:
        """Who sent a message. Raises HeaderFault; Throttled for who guesses at passwords."""
        assert self._guard is not None
        address = f"address {network_of(request.client)}"
        try:
            self._failures.check(address)
            return await self._guard.admit(message)
        except (HeaderFault, Throttled) as e:
            why = "locked out" if isinstance(e, Throttled) else "unauthenticated"
            if self._refusals is not None:
                self._refusals.tell(self._place, why, address=request.client)
            if isinstance(e, HeaderFault) and any(
                code.endswith("}FailedAuthentication") for code in e.subcodes
            ):
                self._failures.failed(address)
            raise

    async def _refuse(self, error: EsbError, known: _Exchange, deadline: float | None) -> Response:
        """Tell an error where that is wanted; to whoever asked, if it cannot be told there."""
        response = self._failed(error, known)
        address = known.addressed.fault_to if known.addressed is not None else ""
        if address == NONE:
            # Nobody wants to read it, but whoever asked must know that it was not done.
            return Response(response.status)
        if address and known.checked:
            try:
                await self._send(known, address, response.body, deadline)
            except EsbError:
                return response
            return Response(202)
        return response

    async def _send(
        self, known: _Exchange, address: str, raw: bytes, deadline: float | None
    ) -> None:
        """Send an answer to an address that was allowed; return once it has been taken.

        Raises OutcomeUnknown: the request was done, only its answer is lost.
        """
        if address == NONE:
            return
        assert self._client is not None
        headers = [("Content-Type", content_type(known.version))]
        if known.version == "1.1":
            headers.append(("SOAPAction", soap_action("")))
        try:
            reply = await self._client.request(
                "POST", address, headers=headers, body=raw, deadline=deadline, want_body=False
            )
            error = error_of(reply, idempotent=False)
            if error is not None:
                raise error
        except EsbError as e:
            log.warning("an answer could not be sent where it was wanted", route=self._source,
                        address=address, reason=str(e))  # fmt: skip
            known.checked = False  # so that this at least is told
            raise OutcomeUnknown("the answer could not be sent where it was wanted") from e

    def _operation(self, message: SoapMessage, action: str, known: _Exchange) -> Operation:
        """The operation that is asked for, by everything that says so."""
        addressed = read_addressing(message) if self._addressing != "ignore" else None
        known.addressed = addressed
        if addressed is not None:
            addressed.check(self._allowed)
            known.checked = True
        elif self._addressing == "require":
            code = f"{{{WSA['2005/08']}}}MessageAddressingHeaderRequired"
            raise HeaderFault("the addressing header 'Action' is required", code)
        operation = self._dispatch[message.version].find(message, action, addressed)
        known.operation = operation
        if (
            addressed is not None
            and not addressed.message_id
            and operation.output is not None
            and addressed.version == "2005/08"
        ):
            # Without it no answer can say what it answers (WS-Addressing 1.0 Metadata, 5.1.1).
            raise addressed.missing("MessageID")
        return operation

    def _get(self, request: Request) -> Response:
        url = f"{request.scheme}://{request.host}{request.base_path}{request.raw_path}"
        document = self._published.get(request.query, url)
        if document is not None:
            return Response(200, [("content-type", "text/xml; charset=utf-8")], document)
        error = NoSuchOperation(
            f"this is a SOAP service: POST to it; its WSDL is at {url}?wsdl", ["POST"]
        )
        return problem(error, instance=request.path)

    def _version(self, headers: Headers) -> Version:
        """The version to answer in as long as nothing is known but the content type."""
        essence = parse_content_type(headers.get("content-type", "")).essence
        told: Version = "1.2" if essence == "application/soap+xml" else "1.1"
        return told if told in self._dispatch else next(iter(self._dispatch))

    def _parse(self, request: Request) -> SoapMessage:
        kind = parse_content_type(request.headers.get("content-type", ""))
        if kind.essence.startswith("multipart/"):
            raise UnsupportedMedia("SOAP with attachments is not supported here")
        if kind.essence not in _MEDIA_TYPES:
            raise UnsupportedMedia(f"SOAP is text/xml or application/soap+xml, not {kind.essence}")
        message = read_envelope(request.body, charset=kind.params.get("charset"))
        check_form(message)
        if message.version not in self._dispatch:
            served = " and ".join(self._dispatch)
            raise VersionMismatch(
                f"the message is SOAP {message.version}, this service speaks SOAP {served}",
                message.version,
            )
        return message

    def _read(self, operation: Operation, message: SoapMessage, request: Request) -> Body:
        if message.header is not None:
            declared = set(operation.input.header_elements)
            check_understood(message, self._understood | declared)
        envelope = NO_BODY
        if self._form == "envelope":
            envelope = Body(request.body, request.headers.get("content-type", "text/xml"))
            if self._guard is not None:
                # Without the credentials, which were in it.
                root = message.body.getroottree().getroot()
                envelope = Body(serialize(root), content_type(message.version))
        strip_soap_attributes(message)
        try:
            with usable(operation.name):
                data = operation.input.read(message.body, message.header)
        except BadMessage as e:
            if next(message.body.iter(_XOP), None) is not None:
                text = "the message refers to attachments (xop:Include), which are not supported"
                raise UnsupportedMedia(text) from e
            raise
        if self._form == "data":
            return Body.of(data)
        if self._form == "envelope":
            return envelope
        content = message.content
        return Body(serialize(content) if content is not None else b"", "application/xml")

    # --- the answer

    def _write(self, known: _Exchange, request: Envelope, answer: Envelope) -> bytes:
        """The envelope of an answer. Raises RouteFailure for one that does not fit the WSDL."""
        operation = known.operation
        assert operation is not None
        output = operation.output
        assert output is not None
        blocks = self._blocks(known, operation.actions.output)
        if answer.outcome is Outcome.DEAD:
            raise RouteFailure("the message could not be processed; it was set aside")
        body = answer.body
        if answer.outcome in (Outcome.ACCEPTED, Outcome.FILTERED):
            body = Body.of({})
        try:
            kind = parse_content_type(body.content_type).essence
            if is_xml(body, kind):
                return self._as_it_is(operation, known.version, body, blocks)
            data = {} if body.is_empty else body.data
            with usable(operation.name):
                written = output.write(data)
        except BadMessage as e:
            reason = f"the answer does not fit the output of '{operation.name}'"
            if body is request.body:
                reason = f"the route gives no answer for '{operation.name}'"
            elif answer.outcome is not Outcome.MESSAGE and body is not answer.body:
                reason = f"the message was taken, but '{operation.name}' promises an answer"
            error = RouteFailure(reason)
            log.error(reason, route=self._source, reason=str(e), errors=e.errors[:5])
            raise error from e
        return write_envelope(known.version, written.body, [*written.headers, *blocks])

    def _blocks(self, known: _Exchange, action: str, *, fault: bool = False) -> list[bytes]:
        """The header blocks of an answer that follow from those of the request."""
        blocks = []
        if known.addressed is not None:
            blocks = known.addressed.answer(action, fault=fault, elsewhere=known.checked)
        if self._guard is not None and self._guard.timestamp:
            blocks.append(security_header(timestamp(datetime.now(UTC), _LIFETIME)))
        return blocks

    def _as_it_is(
        self, operation: Operation, version: Version, body: Body, blocks: list[bytes]
    ) -> bytes:
        """An answer that is XML: the output's element, or a whole envelope."""
        root = body.data
        expected = operation.output.element if operation.output is not None else None
        if root.tag not in ENVELOPES:
            if root.tag != expected:
                raise BadMessage(f"the root element is {root.tag}, not {expected}")
            return write_envelope(version, serialize(root), blocks)
        message = as_envelope(root, what="the answer")
        content = message.content
        if message.fault is None and (content.tag if content is not None else None) != expected:
            raise BadMessage(f"the Body does not hold {expected}")
        if message.version != version or blocks:
            children = [serialize(child) for child in message.body.iterchildren("*")]
            if message.version == version and message.header is not None:
                own = [
                    block
                    for block in message.header.iterchildren("*")
                    if not is_addressing(block.tag) and block.tag != SECURITY
                ]
                blocks = [*map(serialize, own), *blocks]
            return write_envelope(version, b"".join(children), blocks)
        written: bytes = etree.tostring(root, encoding="utf-8", xml_declaration=True)
        return written

    def _failed(self, error: EsbError, known: _Exchange) -> Response:
        """The fault that an error is told as."""
        version = known.version
        blocks = self._blocks(known, self._fault_action(error, known), fault=True)
        code, status = "receiver", 500
        detail = b""
        subcodes: Sequence[str] = ()
        not_understood: Sequence[str] = ()
        reason = error.detail or "the service failed"
        if isinstance(error, VersionMismatch):
            code = "VersionMismatch"
            # Both versions say that a node tells it in SOAP 1.1 (SOAP 1.2 part 1, appendix A).
            version = "1.1" if error.version else version
        elif isinstance(error, MustUnderstand):
            code, not_understood = "MustUnderstand", error.names
        elif isinstance(error, EncodingUnknown) and version == "1.2":
            code = "DataEncodingUnknown"
        elif isinstance(error, Fault):
            code = error.party
            detail = self._detail(error, known.operation)
        elif isinstance(error, HeaderFault):
            code, subcodes = "sender", error.subcodes
            if version == "1.2":
                detail = error.block
            elif error.block:
                blocks.append(detail_header(error.block))
        elif isinstance(error, BadMessage | Denied):
            code = "sender"
            if isinstance(error, BadMessage):
                detail = _errors(error.errors)
        if version == "1.2" and code == "sender":
            status = 400
        if isinstance(error, UnsupportedMedia):
            status = 415
        raw = write_fault(
            version, code, reason, detail=detail, subcodes=subcodes, not_understood=not_understood,
            headers=blocks, served=sorted(self._dispatch, reverse=True),
        )  # fmt: skip
        headers = [("content-type", content_type(version))]
        if isinstance(error, Denied) and error.challenge:
            headers += challenges(error)
        if isinstance(error, Transient) and error.retry_after is not None:
            headers.append(("retry-after", seconds(error.retry_after)))
        if isinstance(error, Throttled):
            headers += limit_headers(error.quotas)
        return Response(status, headers, raw)

    def _refused(self, error: EsbError, headers: Headers) -> Response:
        """What the listener has against a request: a fault, with the status of HTTP's own."""
        response = self._failed(error, _Exchange(self._version(headers)))
        return Response(status_of(error), response.headers, response.body)

    def _fault_action(self, error: EsbError, known: _Exchange) -> str:
        if known.addressed is None:
            return ""
        if isinstance(error, Fault) and known.operation is not None:
            declared = known.operation.actions.faults.get(error.name)
            if declared is not None:
                return declared
        of_addressing = isinstance(error, HeaderFault) and is_addressing(error.subcodes[0])
        return known.addressed.fault_action(of_addressing=of_addressing)

    def _detail(self, error: Fault, operation: Operation | None) -> bytes:
        """The typed detail of a fault that the WSDL declares."""
        declared = operation.faults.get(error.name) if operation is not None else None
        if declared is None or error.data is None:
            return b""
        try:
            with usable(error.name):
                return declared.write(error.data)
        except (BadMessage, RouteFailure) as e:
            log.error("the data of a fault does not fit the WSDL", route=self._source,
                      fault=error.name, reason=str(e))  # fmt: skip
            return b""


def _action(request: Request, version: Version) -> str:
    if version == "1.1":
        value: str = request.headers.get("soapaction", "")
        return value.strip().strip('"')
    return parse_content_type(request.headers.get("content-type", "")).params.get("action", "")


def _errors(errors: Sequence[dict[str, Any]]) -> bytes:
    """What is wrong with a message and where, as a detail."""
    items = "".join(
        f'<e:error pointer="{xml_text(e.get("pointer", ""))}">{xml_text(e.get("detail", ""))}'
        "</e:error>"
        for e in errors[:50]
    )
    return f'<e:errors xmlns:e="urn:esb:problem">{items}</e:errors>'.encode() if items else b""
