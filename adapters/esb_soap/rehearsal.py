"""A SOAP service that is played, for tests of routes: what goes out and what comes back are data,
and both are checked against the WSDL as between real parties."""

from __future__ import annotations

from esb.adapter import RequestReply
from esb.envelope import NO_BODY, Body, Envelope, parse_content_type
from esb.errors import BadMessage, Fault, RouteFailure
from esb_soap.endpoint import did_you_mean, usable
from esb_soap.envelope import (
    content_type,
    read_envelope,
    read_fault,
    write_envelope,
    write_fault,
)
from esb_soap.wsdl import Operation, Version


class PlayedService:
    """Speaks SOAP for whoever plays one operation of a service: gets HTTP requests, hands on the
    data in them, and answers as HTTP does."""

    def __init__(self, stand_in: RequestReply, operation: Operation, version: Version) -> None:
        self._stand_in = stand_in
        self._operation = operation
        self._version = version

    async def call(self, envelope: Envelope) -> Envelope:
        """The answer to an HTTP request. Raises what the stand-in raises, but for a Fault, which is
        answered; RouteFailure if what it says does not fit the WSDL."""
        operation = self._operation
        kind = parse_content_type(envelope.content_type)
        message = read_envelope(envelope.body.raw, charset=kind.params.get("charset"))
        with usable(operation.name):
            data = operation.input.read(message.body, message.header)
        facts = {**envelope.params["sent"], "operation": operation.name}
        asked = envelope.replace(body=Body.of(data), params={"sent": facts})
        try:
            reply = await self._stand_in.call(asked)
        except Fault as e:
            return self._fault(envelope, e)
        status = reply.params["reply"].get("status", 200)
        if status >= 300 or reply.content_type not in ("", "application/json"):
            return reply  # whoever plays it knows better: a page of a gateway, a whole envelope
        if operation.output is None:
            return envelope.reply(NO_BODY, facts={"status": 202})
        try:
            with usable(operation.name):
                written = operation.output.write({} if reply.body.is_empty else reply.body.data)
        except BadMessage as e:
            raise RouteFailure(
                f"the mock's answer does not fit the WSDL's '{operation.name}': {_reasons(e)}"
            ) from e
        return self._answered(
            envelope, write_envelope(self._version, written.body, written.headers), 200
        )

    def _fault(self, envelope: Envelope, error: Fault) -> Envelope:
        detail = b""
        declared = self._operation.faults.get(error.name)
        if declared is not None:
            try:
                with usable(error.name):
                    detail = declared.write(error.data)
            except BadMessage as e:
                raise RouteFailure(
                    f"the mock's data does not fit the WSDL's fault '{error.name}': {_reasons(e)}"
                ) from e
        elif error.name not in ("Client", "Sender", "Server", "Receiver"):
            hint = did_you_mean(error.name, [*self._operation.faults, "Client", "Server"])
            raise RouteFailure(
                f"the WSDL's '{self._operation.name}' declares no fault '{error.name}' ({hint})"
            )
        code = "receiver" if error.name in ("Server", "Receiver") else error.party
        raw = write_fault(self._version, code, error.detail, detail=detail)
        return self._answered(envelope, raw, 500)

    def _answered(self, envelope: Envelope, raw: bytes, status: int) -> Envelope:
        return envelope.reply(Body(raw, content_type(self._version)), facts={"status": status})


def as_request(given: Envelope, operation: Operation, version: Version) -> Envelope:
    """A message with the data of an operation's input, as the SOAP request that brings it. Raises
    ValueError for data that does not fit."""
    try:
        with usable(operation.name):
            written = operation.input.write({} if given.body.is_empty else given.body.data)
    except BadMessage as e:
        raise ValueError(f"it does not fit the WSDL's '{operation.name}': {_reasons(e)}") from e
    raw = write_envelope(version, written.body, written.headers)
    return given.with_body(Body(raw, content_type(version, operation.soap_action)))


def as_data(reply: Envelope, operation: Operation) -> Envelope:
    """The answer to such a request with the data in it, unless it is a fault or none."""
    if reply.body.is_empty or operation.output is None:
        return reply
    message = read_envelope(reply.body.raw)
    if message.fault is not None:
        fault = read_fault(message.fault)
        facts = {**reply.params["reply"], "code": "fault", "detail": fault.reason}
        return reply.replace(params={**reply.params, "reply": facts})
    return reply.replace(body=Body.of(operation.output.read(message.body, message.header)))


def _reasons(error: BadMessage) -> str:
    found = [f"{one['pointer'] or '/'} {one['detail']}" for one in error.errors[:5]]
    return "; ".join(found) or error.detail
