"""`call: mock`, a SOAP service made up from its WSDL, in the place of the real one.

    routes:
      partners:
        from: {soap: {wsdl: partner.wsdl, path: /partners}}
        steps:
          - call: {mock: {wsdl: partner.wsdl, replies: replies/replies.yaml, delay: 50ms..200ms}}

The hosted service checks requests and writes answers, as it does for any route; this endpoint says
what to answer. In this order:

    X-Mock-Fault: PartnerNotFound    the caller asks for this fault, in a header of HTTP
    a rule of `replies`              the first whose operation, `request` and `when` match
    `operations`                     what the operation answers else
    a sample                         made up from the WSDL's types, and valid by its schema

The same WSDL and seed give the same samples each time, in every process. For tests there is
`mock_routes`, the routes of a whole WSDL as plain data; `esb mock` serves these.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import structlog
from lxml import etree
from pydantic import BeforeValidator, Field, RootModel, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from esb.adapter import Adapter, Build, BuildFailed, Expression, Role, Section
from esb.envelope import NO_BODY, Body, Envelope, Outcome, parse_content_type
from esb.errors import BadMessage, Fault, RouteFailure
from esb.options import Backoff, Options, Range
from esb_soap.call import CallOptions, SoapCaller, is_xml
from esb_soap.endpoint import WsdlOptions, did_you_mean, load, ports, usable
from esb_soap.envelope import ENVELOPES, as_envelope
from esb_soap.message import Message
from esb_soap.samples import Amount, NoSample, Sampler
from esb_soap.validator import errors_of
from esb_soap.wsdl import Operation, Port, Service, Version, Wsdl, WsdlError, load_wsdl
from esb_web import ClientOptions

log = structlog.get_logger("esb.soap")

HEADER: Final = "x-mock-fault"
"""The HTTP header in which a caller asks for a fault."""

Party = Literal["sender", "receiver"]

UNDECLARED: Final[Mapping[str, Party]] = {
    "Client": "sender", "Sender": "sender", "Server": "receiver", "Receiver": "receiver"
}  # fmt: skip
"""Faults that every service has, by whom they blame."""

_FILE: Final = re.compile(r"[^\n<]+\.(json|xml)\Z")
_NAMES: Final[Mapping[str, str]] = {"sender": "Client", "receiver": "Server"}

PASSED_ON: Final = (
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd",
    "http://www.w3.org/2005/08/addressing",
)
"""Headers between the caller and the real service, which a recording passes on as they are."""


# --- options -------------------------------------------------------------------------------------


def parse_percent(value: Any) -> float:
    """A part of one from "10%". Raises ValueError with the spelling that would do."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value.strip()) if isinstance(value, str) else None
    if found is None or float(found[1]) > 100:
        raise ValueError("a rate is a percentage: 10%")
    return float(found[1]) / 100


Percent = Annotated[
    float,
    BeforeValidator(lambda v: v if isinstance(v, float) and v <= 1 else parse_percent(v)),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*%$"}),
]


class Behaviour(Options):
    """What an operation answers, how fast and how surely."""

    reply: Any = Field(
        None,
        description="The answer's data, or a file's name: *.json holds the data, *.xml the "
        "output's element or a whole SOAP envelope.",
    )
    fault: str = Field(
        "",
        description="Answer this fault: one that the WSDL declares, or Client or Server for one "
        "that it does not.",
    )
    data: Any = Field(
        None, description="The data in the fault's detail, or a *.json file; a sample if left out."
    )
    detail: str = Field("", description="The fault's text.")
    party: Party = Field("sender", description="Whom a declared fault blames.")
    delay: Backoff | None = Field(
        None, description="How long an answer takes: 200ms, or something between 200ms..2s."
    )
    fail: Percent | None = Field(
        None, description="How many requests get a Server fault instead: 10%."
    )


class Rule(Behaviour):
    """What is answered to certain requests."""

    operation: str = Field(description="The operation.")
    request: Any = Field(
        None,
        description="What the request's data must hold, more may be there: {id: 7}. Lists are "
        "compared as a whole. Or a file's name, *.json.",
    )
    when: str = Field("", description="An expression that must be true: body.id > 100.")


class Rules(RootModel[list[Rule]]):
    """What mocks answer to certain requests: the first rule that matches. It is used by the
    `call: mock` whose `replies` names the file, and does nothing by itself."""


class RulesFile(Options):
    """A file with rules and nothing else."""

    replies: Rules = Field(description="Rules, tried in their order.")


class RecordOptions(ClientOptions):
    """Ask the real service, and keep what it answers."""

    url: str = Field(pattern=r"^https?://[^/\s]", description="Where the real service is.")
    folder: str = Field(
        description="A folder, relative to the working directory, for replies.yaml and the files "
        "it names. It holds the bodies of requests and replies; no header of HTTP or SOAP."
    )


class MockOptions(WsdlOptions):
    """Answer as the service of a WSDL would, without it: with samples, replies from files, faults.

    The message is the request of a hosted SOAP service, or any data with `operation`.

    For example:

        call: {mock: {wsdl: partner.wsdl}}
    """

    operation: str | None = Field(
        None, description="The operation to answer; the one that a hosted SOAP service was asked "
        "for if left out.",
    )  # fmt: skip
    seed: int | None = Field(
        None, description="Other samples for each number; if left out, all that may be there is."
    )
    delay: Backoff | None = Field(None, description="As for an operation, for all that have none.")
    fail: Percent | None = Field(None, description="As for an operation, for all that have none.")
    operations: dict[str, Behaviour] = Field({}, description="What operations answer, by name.")
    replies: str = Field(
        "",
        description="A YAML file with rules for certain requests, in its section `replies`.",
    )
    record: RecordOptions | None = Field(
        None, description="Ask the real service instead, and write what it answers as `replies`."
    )
    heard: SkipJsonSchema[Callable[[str, Any], None] | None] = Field(
        None, description="For tests: called with the operation and the data of each request."
    )


# --- what is answered ----------------------------------------------------------------------------

Answer = Callable[[], Body]
"""Makes the body of an answer. Raises Fault."""


class _Compiled(NamedTuple):
    """A behaviour, ready; `answer` is None where a sample is meant."""

    answer: Answer | None = None
    delay: Range | None = None
    fail: float | None = None

    def over(self, base: _Compiled) -> _Compiled:
        """This one, with what it leaves open from `base`."""
        return _Compiled(
            self.answer or base.answer,
            self.delay or base.delay,
            base.fail if self.fail is None else self.fail,
        )


class _CompiledRule(NamedTuple):
    operation: str
    wanted: Any
    when: Expression | None
    behaviour: _Compiled

    def matches(self, operation: str, envelope: Envelope) -> bool:
        return (
            self.operation == operation
            and (self.wanted is None or covers(self.wanted, envelope.body.data))
            and (self.when is None or bool(self.when(envelope)))
        )


class Mock:
    """Samples and faults for the operations of a WSDL. The same `seed` gives the same ones."""

    def __init__(self, wsdl: Wsdl, seed: int | None = None) -> None:
        self._wsdl = wsdl
        self._seed = seed
        self._replies: dict[Operation, Any] = {}

    def reply(self, operation: Operation) -> Any:
        """Data of the operation's output, valid by the WSDL's schema; None if it is one-way.

        Raises RouteFailure if none can be made up.
        """
        if operation not in self._replies:
            output = operation.output
            made = None
            if output is not None:
                make = partial(_data, output)
                made = self._sample(operation.name, make, partial(self._problem, operation))
            self._replies[operation] = made
        return self._replies[operation]

    def fault(
        self, operation: Operation, name: str, *, detail: str = "", party: Party = "sender"
    ) -> Fault:
        """A fault that the operation declares, with data made up; or one of `UNDECLARED`.

        Raises BadMessage for any other name.
        """
        if name in UNDECLARED:
            return Fault(detail or f"the mock answers the fault {name}", party=UNDECLARED[name])
        declared = operation.faults.get(name)
        if declared is None:
            hint = did_you_mean(name, [*operation.faults, "Client", "Server"])
            raise BadMessage(f"'{operation.name}' declares no fault '{name}'; {hint}")
        data = self._sample(name, lambda sampler: sampler.element(declared.declared),
                            lambda data: self._invalid(declared.write(data)))  # fmt: skip
        return Fault(detail or name, name=name, party=party, data=data)

    def _sample(
        self, what: str, make: Callable[[Sampler], Any], problem: Callable[[Any], str]
    ) -> Any:
        # A random instance may need what cannot be made up; there is mostly some other.
        amounts: Sequence[Amount] = ("full", "minimal")
        if self._seed is not None:
            amounts = ("random", "random", "random", *amounts)
        rng = random.Random(f"{self._seed} {what}")  # noqa: S311 - examples, not secrets
        reason = ""
        for amount in amounts:
            try:
                data = make(Sampler(self._wsdl.mapping, amount, rng))
                reason = problem(data)
            except NoSample as e:
                reason = str(e)
            except BadMessage as e:
                reason = "; ".join(f"{x['pointer']} {x['detail']}" for x in e.errors) or e.detail
            if not reason:
                return data
        raise RouteFailure(f"no sample can be made up for '{what}' ({reason}): give it a reply")

    def _problem(self, operation: Operation, data: Any) -> str:
        assert operation.output is not None
        written = operation.output.write(data)
        return self._invalid(written.body) if operation.use == "literal" else ""

    def _invalid(self, written: bytes) -> str:
        """What libxml2 has against elements that were written, as far as the schema has them."""
        validator = self._wsdl.validator
        for node in etree.fromstring(b"<Body>" + written + b"</Body>"):
            if validator is not None and self._wsdl.schemas.has_element(str(node.tag)):
                for _, problem in errors_of(validator, node):
                    return problem
        return ""


def _data(message: Message, sampler: Sampler) -> Any:
    """Data for a message, with the headers that the WSDL declares."""
    made = {name: sampler.element(element) for name, element in message.parts.items()}
    data: Any = made[next(iter(made))] if message.single else made
    headers = {header.name: sampler.element(header.element) for header in message.headers}
    if not headers:
        return data
    return {**(data if isinstance(data, dict) else {"$body": data}), "$headers": headers}


def covers(wanted: Any, found: Any) -> bool:
    """Whether `found` holds all that `wanted` does: objects may hold more, numbers are compared by
    value (1.10 is 1.1)."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            key in found and covers(value, found[key]) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(wanted) == len(found)
            and all(covers(a, b) for a, b in zip(wanted, found, strict=True))
        )
    return bool(_comparable(wanted) == _comparable(found))


def _comparable(value: Any) -> Any:
    if isinstance(value, bool):
        return bool, value  # else True would be 1
    return Decimal(repr(value)) if isinstance(value, float) else value


# --- the endpoint --------------------------------------------------------------------------------


class MockCaller:
    """The service as RequestReply; see MockOptions."""

    def __init__(self, options: MockOptions, build: Build) -> None:
        loaded = load(build, options, "wsdl")
        found = ports(build, loaded.wsdl, options)
        if len({service.name for service, _ in found}) > 1:
            raise build.problem(
                "the WSDL has several services", "wsdl", code="wsdl",
                hint=f"say which with `service`: {' or '.join({s.name: 0 for s, _ in found})}",
            )  # fmt: skip
        self._mock = Mock(loaded.wsdl, options.seed)
        self._operations: dict[str, Operation] = {}
        self._everywhere = {operation.name for _, _, operation in loaded.wsdl.operations()}
        for _, port in found:
            for name, operation in port.operations.items():
                self._operations.setdefault(name, operation)
        self._name = options.operation
        if self._name is not None:
            self._known(build, self._name, "operation")
        self._general = _Compiled(None, options.delay, options.fail)
        self._own: dict[str, _Compiled] = {}
        for name, behaviour in options.operations.items():
            if self._known(build, name, "operations", name, key=True):
                place = _Place(build, "operations", name)
                own = self._compiled(self._operations[name], behaviour, place)
                self._own[name] = own.over(self._general)
        self._rules: list[_CompiledRule] = []
        if options.replies:
            self._read(build, options.replies)
        self._heard = options.heard
        self._recorder: _Recorder | None = None
        if options.record is not None:
            self._recorder = _Recorder(build, options, options.record, found)
        self._random = random.Random(options.seed)  # noqa: S311 - delays, not secrets

    async def call(self, envelope: Envelope) -> Envelope:
        """The answer to a request. Raises Fault for a fault; BadMessage for a request of a fault
        that the operation lacks; RouteFailure where there is nothing to answer."""
        name = self._name or envelope.params.get("soap", {}).get("operation")
        operation = self._operations.get(str(name))
        if operation is None:
            raise RouteFailure("a mock answers hosted SOAP requests, or needs `operation`")
        if self._recorder is not None:
            return await self._recorder.call(operation, envelope)
        if self._heard is not None:
            self._heard(operation.name, envelope.body.data)
        chosen = self._own.get(operation.name, self._general)
        rule = next((r for r in self._rules if r.matches(operation.name, envelope)), None)
        if rule is not None:
            chosen = rule.behaviour.over(chosen)
        if chosen.delay is not None:
            await asyncio.sleep(self._random.uniform(chosen.delay.first, chosen.delay.longest))
        if chosen.fail and self._random.random() < chosen.fail:
            raise Fault("the mock was told to fail now and then", party="receiver")
        with usable(operation.name):
            if asked_for := envelope.headers.get(HEADER):
                raise self._mock.fault(operation, str(asked_for))
            if operation.output is None:
                if chosen.answer is not None:
                    chosen.answer()
                return envelope.reply(NO_BODY).replace(outcome=Outcome.ACCEPTED)
            body = chosen.answer() if chosen.answer else Body.of(self._mock.reply(operation))
        return envelope.reply(body, facts={"operation": operation.name})

    # --- at load

    def _known(self, build: Build, name: str, *path: str | int, key: bool = False) -> bool:
        if name in self._operations:
            return True
        build.problem(
            f"the WSDL has no operation '{name}'", *path, code="wsdl", key=key,
            hint=did_you_mean(name, self._operations),
        )  # fmt: skip
        return False

    def _read(self, build: Build, name: str) -> None:
        try:
            file, inner = build.include(name, RulesFile, "replies")
        except BuildFailed:
            return
        for index, rule in enumerate(file.replies.root):
            operation = self._operations.get(rule.operation)
            place = _Place(inner, "replies", index)
            if operation is None:
                # A file of rules may be for all services of the WSDL.
                if rule.operation not in self._everywhere:
                    place.problem(
                        f"the WSDL has no operation '{rule.operation}'", "operation", code="wsdl",
                        hint=did_you_mean(rule.operation, self._everywhere),
                    )  # fmt: skip
                continue
            wanted = place.content(rule.request, "request")
            self._rules.append(
                _CompiledRule(
                    rule.operation,
                    None if wanted is None else wanted.data,
                    inner.expression(rule.when, "replies", index, "when") if rule.when else None,
                    self._compiled(operation, rule, place),
                )
            )

    def _compiled(self, operation: Operation, told: Behaviour, place: _Place) -> _Compiled:
        answer: Answer | None = None
        if told.fault and "reply" in told.model_fields_set:
            place.problem("there is a fault and a reply: only one can be answered", "fault")
        elif told.fault:
            answer = self._faulty(operation, told, place)
        elif "reply" in told.model_fields_set:
            answer = _replied(operation, told.reply, place)
        return _Compiled(answer, told.delay, told.fail)

    def _faulty(self, operation: Operation, told: Behaviour, place: _Place) -> Answer | None:
        declared = operation.faults.get(told.fault)
        if declared is None:
            if told.fault not in UNDECLARED:
                place.problem(
                    f"'{operation.name}' declares no fault '{told.fault}'", "fault", code="wsdl",
                    hint=did_you_mean(told.fault, [*operation.faults, "Client", "Server"]),
                )  # fmt: skip
            return partial(self._raise, operation, told, None)
        given = place.content(told.data, "data")
        if given is not None:
            place.check(lambda: declared.write(given.data), "data")
        return partial(self._raise, operation, told, given)

    def _raise(self, operation: Operation, told: Behaviour, given: Body | None) -> Body:
        if given is None:
            raise self._mock.fault(operation, told.fault, detail=told.detail, party=told.party)
        raise Fault(told.detail or told.fault, name=told.fault, party=told.party, data=given.data)


class _Place:
    """A behaviour's place in the document that it is read from."""

    def __init__(self, build: Build, *path: str | int) -> None:
        self._build = build
        self._path = path

    def problem(self, message: str, *path: str | int, code: str = "value", hint: str = "") -> None:
        self._build.problem(message, *self._path, *path, code=code, hint=hint)

    def content(self, value: Any, key: str) -> Body | None:
        """Data, or the content of the file it names; None if there is none, or (a problem) if it
        cannot be read."""
        if not (isinstance(value, str) and _FILE.match(value)):
            return None if value is None else Body.of(value)
        try:
            path = self._build.file(value, *self._path, key)
        except BuildFailed:
            return None
        kind = "application/xml" if path.suffix == ".xml" else "application/json"
        body = Body(path.read_bytes(), kind)
        return body if self.check(lambda: body.data, key, f"{path.name}: ") else None

    def check(self, work: Callable[[], object], key: str, prefix: str = "") -> bool:
        """Whether `work` raises no BadMessage; it is a problem at `key` if it does."""
        try:
            work()
        except BadMessage as e:
            what = "; ".join(f"{one['pointer'] or '/'} {one['detail']}" for one in e.errors[:5])
            self.problem(prefix + e.detail + (f": {what}" if what else ""), key)
            return False
        return True


def _replied(operation: Operation, reply: Any, place: _Place) -> Answer | None:
    """What answers data, or a file's content, that fits the operation's output."""
    output = operation.output
    if output is None:
        place.problem(f"'{operation.name}' is one-way: there is no reply", "reply", code="wsdl")
        return None
    body = Body.of(None) if reply is None else place.content(reply, "reply")
    if body is None:
        return None
    made = body

    def check() -> None:
        if not is_xml(made, parse_content_type(made.content_type).essence):
            output.write(made.data)
            return
        root = made.data
        if root.tag in ENVELOPES:
            message = as_envelope(root, what="the reply")
            if message.fault is None:
                output.read(message.body, message.header)
            return
        if root.tag != output.element:
            raise BadMessage(f"the root element is {root.tag}, '{output.element}' is the output's")
        holder = etree.Element("Body")
        holder.append(etree.fromstring(etree.tostring(root, encoding="UTF-8")))
        output.read(holder)

    return (lambda: made) if place.check(check, "reply") else None


# --- recording -----------------------------------------------------------------------------------


class _Recorder:
    """Asks the real service and keeps what it answered last to each request, as rules."""

    def __init__(
        self,
        build: Build,
        options: MockOptions,
        record: RecordOptions,
        found: Sequence[tuple[Service, Port]],
    ) -> None:
        self._folder = Path(record.folder)
        self._file = self._folder / "replies.yaml"
        if self._file.exists():
            build.problem(
                "there is a replies.yaml already", "record", "folder",
                hint="record into another folder, or remove it",
            )  # fmt: skip
        client = {key: getattr(record, key) for key in record.model_fields_set if key != "folder"}
        self._callers: dict[tuple[Version, str], SoapCaller] = {}
        for service, port in found:
            soap = {"wsdl": options.wsdl, "repair": options.repair, "service": service.name,
                    "port": port.name}  # fmt: skip
            for name in port.operations:
                told = {
                    "forward_headers": ["authorization"], "understood": list(PASSED_ON), **client,
                    **soap, "operation": name,
                }  # fmt: skip
                self._callers.setdefault(
                    (port.soap_version, name), SoapCaller(CallOptions.model_validate(told), build)
                )
        self._rules: dict[tuple[str, bytes], str] = {}
        self._lock = threading.Lock()

    async def call(self, operation: Operation, envelope: Envelope) -> Envelope:
        """What the real service answers; raises what asking it raises."""
        caller = self._caller(operation, envelope.body)
        try:
            answer = await caller.call(envelope)
        except Fault as e:
            await asyncio.to_thread(self._keep, operation, envelope.body, e)
            raise
        if operation.output is not None:
            await asyncio.to_thread(self._keep, operation, envelope.body, answer.body)
        return answer

    def _caller(self, operation: Operation, body: Body) -> SoapCaller:
        versions = ["1.1", "1.2"]
        if is_xml(body, parse_content_type(body.content_type).essence):
            versions.insert(0, ENVELOPES.get(str(body.data.tag), "1.1"))
        keys: list[Any] = [(version, operation.name) for version in versions]
        return next(self._callers[key] for key in keys if key in self._callers)

    def _keep(self, operation: Operation, request: Body, answer: Body | Fault) -> None:
        try:
            asked = Body.of(_bare(operation.input, request)).raw
            if isinstance(answer, Fault):
                kept = answer.data if answer.name else None
            else:
                assert operation.output is not None
                kept = _bare(operation.output, answer)
        except BadMessage as e:
            log.warning("not recorded: it does not fit the WSDL", operation=operation.name,
                        reason=e.detail)  # fmt: skip
            return
        with self._lock:
            key = (operation.name, asked)
            number = [*self._rules, key].index(key) + 1
            # The name comes out of the WSDL: it must not lead anywhere else.
            name = f"{re.sub(r'[^A-Za-z0-9_-]', '_', operation.name)}.{number}"
            rule = {"operation": operation.name, "request": f"{name}.request.json"}
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / rule["request"]).write_bytes(asked)
            if isinstance(answer, Fault):
                rule |= {"fault": answer.name or _NAMES[answer.party], "detail": answer.detail}
                rule |= {"party": answer.party} if answer.name else {}
            content = "data" if isinstance(answer, Fault) else "reply"
            if kept is not None or content == "reply":
                rule[content] = f"{name}.{content}.json"
                (self._folder / rule[content]).write_bytes(Body.of(kept).raw)
            lines = [f"{key}: {_quoted(value)}\n" for key, value in rule.items()]
            self._rules[key] = "- " + "  ".join(lines)
            new = self._file.with_suffix(".new")
            new.write_text("replies:\n" + "".join(self._rules.values()), encoding="utf-8")
            new.replace(self._file)


def _bare(message: Message, body: Body) -> Any:
    """The data of a request or a reply without its headers, which may hold credentials."""
    if is_xml(body, parse_content_type(body.content_type).essence):
        data = message.read(as_envelope(body.data).body)
    else:
        data = body.data
    if isinstance(data, dict) and message.headers:
        data = {key: value for key, value in data.items() if key != "$headers"}
    return data


def _quoted(text: str) -> str:
    """Text in YAML, which takes what JSON does, and no reference."""
    return json.dumps(text).replace("${", "$${")


# --- a whole WSDL --------------------------------------------------------------------------------


class Served(NamedTuple):
    """A route that mocks a service, or one of its ports where these contradict each other."""

    name: str
    path: str
    service: Service
    ports: tuple[Port, ...]

    @property
    def operations(self) -> list[str]:
        """Names of the operations."""
        return list(dict.fromkeys(name for port in self.ports for name in port.operations))


def layout(wsdl: Wsdl, at: str) -> list[Served]:
    """The routes that mock each operation of each SOAP port, below the path `at`.

    Raises WsdlError if there is no operation.
    """
    services = [s for s in wsdl.services.values() if any(p.operations for p in s.ports.values())]
    if not services:
        raise WsdlError("there is no operation over SOAP and HTTP", wsdl.path)
    base, made = at.rstrip("/"), []
    for service in services:
        path = f"{base}/{service.name}" if len(services) > 1 else base or "/"
        served = tuple(port for port in service.ports.values() if port.operations)
        if _agree(served):
            made.append(Served(service.name, path, service, served))
        else:
            made += [
                Served(f"{service.name}.{p.name}", f"{path.rstrip('/')}/{p.name}", service, (p,))
                for p in served
            ]
    return made


def _agree(served: Sequence[Port]) -> bool:
    """Whether ports can be served at one path: an operation's name means one thing there."""
    meant: dict[str, str | None] = {}
    return all(
        meant.setdefault(name, operation.input.element) == operation.input.element
        for port in served
        for name, operation in port.operations.items()
    )


def mock_routes(
    wsdl: Path,
    at: str = "",
    *,
    understood: Sequence[str] = (),
    repair: Sequence[str] = (),
    loaded: Wsdl | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Routes, in the shape of a route file, that mock each operation of a WSDL.

    at: the path of the service, made of the file's name if left out; below it, services by name if
    there are several. understood, repair: as for a hosted service. loaded: what is in the file,
    where that is at hand. options: those of `call: mock`. Raises WsdlError for a file that cannot
    be used.
    """
    served = layout(loaded or load_wsdl(wsdl, repairs=repair), at or default_path(wsdl))
    everywhere = {name for one in served for name in one.operations}
    operations = options.pop("operations", {})
    host: dict[str, Any] = {"understood": list(understood)} if understood else {}
    if "record" in options:
        # The real service gets the envelope as it is, with the headers that are its business.
        host = {"body": "envelope", "understood": [*understood, *PASSED_ON]}
    routes: dict[str, Any] = {}
    for one in served:
        which: dict[str, Any] = {"wsdl": str(wsdl), "service": one.service.name}
        if repair:
            which["repair"] = list(repair)
        if len(one.ports) == 1 < len(one.service.ports):
            which["port"] = one.ports[0].name
        mock = {**which, **options}
        # What no service has goes to all, to be told as the mistake it is.
        own = {k: v for k, v in operations.items() if k in one.operations or k not in everywhere}
        if own:
            mock["operations"] = own
        source = {**which, "path": one.path, **host}
        routes[f"mock-{one.name}"] = {"from": {"soap": source}, "steps": [{"call": {"mock": mock}}]}
    return routes


def default_path(wsdl: Path) -> str:
    """The path that a WSDL is served at if nothing else is said."""
    return "/" + (re.sub(r"[^a-z0-9]+", "-", wsdl.stem.lower()).strip("-") or "service")


adapter = Adapter(caller=Role(MockOptions, MockCaller))

# A file of rules may lie among the route files, and editors know what stands in it.
section = Section(Rules, lambda options, build: ())

__all__ = ["Mock", "MockOptions", "Rule", "Served", "adapter", "layout", "mock_routes", "section"]
