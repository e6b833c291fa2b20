"""REST in: a path and its methods hand each request to the route, and its answer back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.json_schema import SkipJsonSchema

from esb.adapter import Build, Health, Text, Validator
from esb.cloudevents import is_event
from esb.cloudevents import read as read_event
from esb.envelope import Envelope, parse_content_type
from esb.errors import EsbError, UnsupportedMedia
from esb.identity import Authenticator
from esb.options import Auth, Duration, Options, Size
from esb.otel import answered
from esb.outline import Passage
from esb.step import Step, beside, is_large, is_unwritten
from esb_http.idempotency import IdempotencyKey, Once
from esb_http.status import ACCEPTED, Monitor
from esb_web import Request, Response, Site, problem, rehearse, to_envelope, to_response
from esb_web.callers import callers
from esb_web.messages import Described
from esb_web.openapi import embedded_schema, operation_of
from esb_web.policies import asking, documented, telling
from esb_web.router import parameters
from esb_web.server import claim_path, web_server
from esb_web.spans import serving

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


_LONGEST_SUMMARY: Final = 120


def _error_status(value: int) -> int:
    if not 400 <= value <= 599:
        raise ValueError("the status of a fault is one from 400 to 599")
    return value


class Api(Options):
    """The API that a route is part of; it has documents of its own at `<path>/docs`."""

    __shorthand__ = "path"
    path: str = Field(description="Base path of the API, such as /partners.")
    title: str = Field("", description="Its name.")
    description: str = Field("", description="What it is for; Markdown.")


def _api(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _use(value: Any) -> Any:
    return {"use": value} if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return [str(v).upper() for v in value] if isinstance(value, list) else [str(value).upper()]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class SourceOptions(Options):
    """Take HTTP requests. The caller waits for the answer of the route.

    A route that ends in `call` answers with the reply and its status, one that ends in `send` with
    202 and the message's id, a filtered message with 204, any other with 200 and the message as
    the steps left it. Errors are answered as problem+json (RFC 9457). A client that hangs up does
    not stop the steps: they may have had effects already.

    For example:

        from: {http: {path: "/orders/:id", method: PUT, schema: order.schema.json}}
    """

    __shorthand__ = "path"

    path: str = Field(
        description="The path that is served. `/orders/:id` takes one segment as `path.id`, "
        "`/files/*name` takes the rest. A slash at the end makes no difference."
    )
    method: Annotated[
        list[Method], BeforeValidator(_upper, json_schema_input_type=Method | list[Method])
    ] = Field(["POST"], description="One method or several; GET answers HEAD too.")
    auth: Auth | None = Field(
        None,
        description="Who may call: names of the section `auth`, any of which will do, or `public` "
        "for everybody; what the listener says if left out.",
    )
    schema_: str | dict[str, Any] | None = Field(
        None,
        alias="schema",
        description="JSON Schema (a file, or written here) that the body must match, checked "
        "before the steps. It also documents the request.",
    )
    consumes: (
        Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=str | list[str])]
        | None
    ) = Field(
        None,
        description="Media types that are taken, others get 415: application/json, text/*. "
        "Any if left out; JSON if there is a schema.",
    )
    max_body: Size | None = Field(
        None,
        description="Largest body, instead of the listener's. One over 1 MB is passed on as it "
        "arrives, in the same memory whatever its size, if nothing in the route reads it or needs "
        "it twice.",
    )
    timeout: Duration | None = Field(
        None, description="Deadline of a request, instead of the listener's `request_timeout`."
    )
    status: int | None = Field(
        None, ge=200, le=299, description="Status of a good answer, instead of 200 or the reply's."
    )
    headers: dict[str, str] = Field(
        {}, description="Headers of the answer; values are text with {{ }} over the answer."
    )
    cloudevents: bool = Field(
        False,
        description="A request that is a CloudEvent (binary or structured mode) gives its "
        "attributes to the message: id, source, type, time, subject. Else they are just headers.",
    )
    idempotency_key: (
        Annotated[
            IdempotencyKey,
            BeforeValidator(_use, json_schema_input_type=str | IdempotencyKey),
        ]
        | None
    ) = Field(
        None,
        description="Heed the `Idempotency-Key` header: `optional`, `required`, or with options.",
    )
    cookies: bool = Field(False, description="Let the Set-Cookie of a reply pass to the caller.")
    faults: dict[str, Annotated[int, AfterValidator(_error_status)]] = Field(
        {}, description="Status by the name of a fault: {PartnerNotFound: 404}."
    )
    summary: str = Field("", description="One line for the API documents.")
    description: str = Field("", description="More for the API documents; Markdown.")
    tags: list[str] = Field([], description="Groups in the API documents.")
    operation: dict[str, Any] | SkipJsonSchema[Described] | None = Field(
        None, description="The whole OpenAPI 3.1 Operation Object, instead of what is made here."
    )
    schemas: dict[str, Any] = Field(
        {}, description="Schemas that `operation` refers to, as #/components/schemas/<name>."
    )
    api: Annotated[Api, BeforeValidator(_api, json_schema_input_type=str | Api)] | None = Field(
        None, description="The API this is part of: its base path, or path, title, description."
    )
    document: bool = Field(True, description="Show this in the API documents.")
    status_path: str | None = Field(
        None,
        description="With `accept: durable`: where a sender is told what became of a message, as "
        "in `/orders/status/:id`. `/accepted/<route>/:id` if left out. The answer of 202 says "
        "where, and who did not send the message gets 404.",
    )


def make_source(options: SourceOptions, build: Build) -> HttpSource:
    """The source; claims its path and methods, so that two routes cannot serve the same."""
    claim_path(build, options.path, options.method, "path")
    check: Validator | None = None
    shown: Any = None
    if options.schema_ is not None:
        check = build.json_schema(options.schema_, "schema")
        shown = options.schema_
        if isinstance(shown, str):
            shown = json.loads(build.file(shown, "schema").read_text())
    build.gives(
        params={"path": parameters(options.path)},
        faults=options.faults or None,
        methods=options.method,
    )
    if options.idempotency_key is not None and options.idempotency_key.use == "required":
        build.promises("once")
    else:
        build.promises("answered", better="`idempotency_key: required`")
    answer = build.answer()
    texts = [(n, answer.text(v, "headers", n)) for n, v in options.headers.items()]
    consumes = options.consumes
    if consumes is None and check is not None:
        consumes = ["application/json"]
    auth = callers(build, options.auth, "auth")
    monitor: Monitor | None = None
    if build.durable:
        api = options.api.path if options.api else ""
        monitor = Monitor(build, options.status_path, document=options.document, api=api, auth=auth)
    elif options.status_path is not None:
        build.problem("only a route with `accept: durable` has a status path", "status_path")
    # What is checked is read, and so is what a key or an event stands for.
    reads = check is not None or options.idempotency_key is not None or options.cloudevents
    reads = reads or "body" in auth.asks
    passage = Passage() if reads else build.body("made", "sent")
    return HttpSource(build, options, check, shown, texts, consumes, monitor, passage, auth)


class HttpSource:
    """One route's requests; see SourceOptions."""

    waits = True

    def __init__(
        self,
        build: Build,
        options: SourceOptions,
        check: Validator | None,
        schema: Mapping[str, Any] | bool | None,
        headers: list[tuple[str, Text]],
        consumes: list[str] | None,
        monitor: Monitor | None,
        passage: Passage,
        auth: Authenticator,
    ) -> None:
        self.where = f"{' '.join(options.method)} {options.path}"
        one = {"http.request.method": options.method[0]} if len(options.method) == 1 else {}
        build.span(serving(self.where, {"http.route": options.path, **one}))
        self._server = web_server(build)
        self._source = f"http:{build.route}"
        self._options = options
        self._check = check
        self._headers = headers
        self._consumes = None if consumes is None else [c.lower() for c in consumes]
        key = options.idempotency_key
        self._once = Once(key, build) if key is not None else None
        self.repeats = self._once is not None
        self._monitor = monitor
        self._status = options.status or 200
        self._cookies = options.cookies
        self._step: Step | None = None
        self._ask, self._tell = asking(build.asked), telling(build.asked)
        # What this route looks at before its steps, and nothing else.
        looks: list[tuple[bool, Callable[[Envelope], Envelope]]] = [
            (options.cloudevents, self._event),
            (consumes is not None, self._consumed),
            (check is not None, self._checked),
        ]
        self._looks = tuple(look for wanted, look in looks if wanted)
        self._site = self._described(build, schema, consumes, passage, auth)

    def _described(
        self,
        build: Build,
        schema: Any,
        consumes: list[str] | None,
        passage: Passage,
        auth: Authenticator,
    ) -> Site:
        options = self._options
        schemas = dict(options.schemas)
        operation = options.operation
        if operation is None:
            request: Any = None
            if schema is not None:
                file = options.schema_
                name = (
                    Path(file).name.split(".")[0]
                    if isinstance(file, str)
                    else f"{build.route}-body"
                )
                schemas[name] = embedded_schema(name, schema)
                request = {"$ref": f"#/components/schemas/{name}"}
            about = build.about.strip()
            short = len(about) <= _LONGEST_SUMMARY and "\n" not in about
            operation = operation_of(
                build.route,
                options.path,
                summary=options.summary or (about if short else ""),
                description=options.description or ("" if short else about),
                tags=options.tags,
                body=any(m in ("POST", "PUT", "PATCH") for m in options.method),
                consumes=consumes or ["*/*"],
                schema=request,
                status=options.status or 200,
                accepted=ACCEPTED if build.durable else None,
            )
            if (key := options.idempotency_key) is not None:
                operation.setdefault("parameters", []).append(
                    {
                        "name": "Idempotency-Key",
                        "in": "header",
                        "required": key.use == "required",
                        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
                    }
                )
        if operation is not options.operation or callable(operation):
            operation = documented(operation, build.asked, options.method)
        api = options.api
        return Site(
            path=options.path,
            methods=tuple(options.method),
            handler=self._handle,
            max_body=options.max_body or 0,
            timeout=options.timeout or 0.0,
            operation=operation if options.document else None,
            schemas=schemas,
            api=api.path if api else "",
            title=api.title if api else "",
            description=api.description if api else "",
            passage=passage,
            auth=auth,
        )

    async def start(self, step: Step) -> None:
        """Serve the path from now on."""
        self._step = step
        for site in self._sites():
            self._server.mount(site)

    async def stop(self, grace: float) -> None:
        """Serve it no longer; requests in flight get their answers within `grace` seconds, those
        left a 503."""
        await asyncio.gather(*(self._server.retire(site, grace) for site in self._sites()))

    async def pause(self, grace: float) -> None:
        """Tell callers to come back later; what became of messages is told as ever."""
        if self._monitor is not None:
            self._server.mount(self._monitor.site)
        await self._server.pause(self._site, grace)

    def health(self) -> Health:
        """That of the listener."""
        return self._server.health()

    async def rehearse(self, given: Envelope) -> Envelope:
        """As if a request had come in: see `esb.adapter.Rehearsing`."""
        return await rehearse(self._site, given)

    def _sites(self) -> list[Site]:
        return [self._site] if self._monitor is None else [self._site, self._monitor.site]

    async def _handle(self, request: Request) -> Response:
        envelope = to_envelope(request, source=self._source, type="http.request")
        if self._ask is not None:
            envelope = self._ask(request, envelope)
        try:
            if self._looks and is_large(envelope):
                envelope = await beside(self._looked, envelope)
            else:
                envelope = self._looked(envelope)
            assert self._step is not None
            if self._once is not None:
                response = await self._once.answer(
                    request, envelope, self._answered, self._refused, self._step
                )
            else:
                response = await self._answered(request, envelope)
        except EsbError as e:
            response = self._refused(request, envelope, e)
        except BaseException:
            answered(500)
            raise
        answered(response.status)
        return response

    def _looked(self, envelope: Envelope) -> Envelope:
        for look in self._looks:
            envelope = look(envelope)
        return envelope

    async def _answered(self, request: Request, envelope: Envelope) -> Response:
        assert self._step is not None
        answer = await self._step(envelope)
        if is_unwritten(answer.body):
            return await beside(self._response, request, envelope, answer)
        return self._response(request, envelope, answer)

    def _refused(self, request: Request, envelope: Envelope, error: EsbError) -> Response:
        faults = self._options.faults
        return problem(error, instance=request.raw_path, faults=faults, message_id=envelope.id)

    def _response(self, request: Request, envelope: Envelope, answer: Envelope) -> Response:
        response = to_response(
            envelope,
            answer,
            request.headers.get("accept"),
            status=self._status,
            cookies=self._cookies,
            status_url=self._monitor.url(request, envelope.id) if self._monitor else "",
        )
        for name, text in self._headers:
            response.headers.append((name, text(answer)))
        if self._tell is not None:
            response = self._tell(request, answer, response)
        return response

    def _event(self, envelope: Envelope) -> Envelope:
        return read_event(envelope) if is_event(envelope) else envelope

    def _checked(self, envelope: Envelope) -> Envelope:
        assert self._check is not None
        self._check(envelope)
        return envelope

    def _consumed(self, envelope: Envelope) -> Envelope:
        assert self._consumes is not None
        given = parse_content_type(envelope.content_type).essence
        if given.endswith("+json") and "application/json" in self._consumes:
            return envelope
        if given not in self._consumes and given.partition("/")[0] + "/*" not in self._consumes:
            raise UnsupportedMedia(f"this takes {', '.join(self._consumes)}, not {given or 'that'}")
        return envelope
