"""`expose:`, a REST API in front of a SOAP service, as sugar: it expands to ordinary routes.

    partners:
      wsdl: wsdl/partner.wsdl
      at: /partners
      operations: {getPartner: GET /:id, createPartner: POST /}
      faults: {PartnerNotFound: 404}

becomes a route `partners.<operation>` each, from `http` to `call: soap`. An operation can have
options of its own: `createPartner: {at: POST /, timeout: 60s}`. An operation that is not
listed is `POST <at>/<operation>`: always right, whatever it does. The service's name is put
before the operation's where two services have one of the same name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final

import structlog
from pydantic import AfterValidator, BeforeValidator, RootModel
from pydantic import Field as Option

from esb.adapter import Build, BuildFailed, Expanded, Section
from esb.options import Auth
from esb_soap.call import SoapClientOptions, SoapRequestOptions
from esb_soap.described import Described
from esb_soap.endpoint import Found, did_you_mean, load, ports
from esb_soap.wsdl import WsdlError

log = structlog.get_logger("esb.soap")

_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")


def _status(value: int) -> int:
    if not 400 <= value <= 599:
        raise ValueError("the status of a fault is one from 400 to 599")
    return value


def _base(value: str) -> str:
    if not value.startswith("/") or "//" in value or ":" in value:
        raise ValueError("a path starts with a slash and has no parameters: /partners")
    return value.rstrip("/")


class ExposedOperation(SoapRequestOptions):
    """One operation of an API: what is said here counts instead of what the API says."""

    at: str = Option("", description="Method and path, GET /:id; POST /<operation> if left out.")
    allow: str | dict[str, Any] | list[str | dict[str, Any]] | None = Option(
        None, description="Who may, as `allow` of a route says: `{roles: [clerk]}`."
    )
    cache: str | dict[str, Any] | None = Option(
        None, description="Keep its good answers, as `cache` of a route does: `60s`."
    )
    rate_limit: str | dict[str, Any] | list[str | dict[str, Any]] | None = Option(
        None, description="How often it may be asked, as `rate_limit` of a route says: `100/1m`."
    )


def _operation(value: Any) -> Any:
    return {"at": value} if isinstance(value, str) else value


class ExposeApi(SoapClientOptions):
    """A SOAP service as a REST API: JSON, documented by OpenAPI, faults as problem+json."""

    at: Annotated[str, AfterValidator(_base)] = Option(
        description="The path of the API, such as /partners."
    )
    operations: dict[
        str,
        Annotated[
            ExposedOperation,
            BeforeValidator(_operation, json_schema_input_type=str | ExposedOperation),
        ],
    ] = Option(
        {},
        description="Method and path of operations: {getPartner: GET /:id}. Path parameters, and "
        "with GET and DELETE all that is asked for in the query, are the input's fields of that "
        "name. An operation that is not listed is POST /<operation>. One with options of its own "
        "has its method and path under `at`.",
    )
    only_listed: bool = Option(
        False, description="Leave out the operations that are not listed under `operations`."
    )
    faults: dict[str, Annotated[int, AfterValidator(_status)]] = Option(
        {},
        description="Status by the name of a fault: {PartnerNotFound: 404}. Else a fault "
        "that the WSDL declares is 422; of the others one that blames the sender is 400, any other "
        "502.",
    )
    callers: Auth | None = Option(
        None,
        description="Who may call, as `auth` of an http source says (`auth` here is what the bus "
        "shows the service): names of the section `auth`, any of which will do, or `public`; "
        "what the listener says if left out.",
    )
    allow: str | dict[str, Any] | list[str | dict[str, Any]] | None = Option(
        None,
        description="Who may, as `allow` of a route says: of operations that say nothing "
        "themselves.",
    )
    title: str = Option("", description="Name of the API; the service's if left out.")
    description: str = Option(
        "", description="What the API is for, in Markdown; the WSDL's documentation if left out."
    )
    connection: str | None = Option(
        None, description="A named connection of soap whose options are used."
    )


class ExposeOptions(RootModel[dict[str, ExposeApi]]):
    """APIs by name."""


def expand(options: ExposeOptions, build: Build) -> list[Expanded]:
    """The routes of every API. A wrong WSDL, operation or fault is a problem at its line."""
    routes: list[Expanded] = []
    for name, api in options.root.items():
        try:
            routes += _Api(name, api, build).routes()
        except BuildFailed:
            continue
    return routes


class _Api:
    """One entry of the section."""

    def __init__(self, name: str, options: ExposeApi, build: Build) -> None:
        self._name = name
        self._options = options
        self._build = build
        self._loaded = load(build, options, name, "wsdl")
        wsdl = self._loaded.wsdl
        self._operations: dict[str, Found] = {}
        self._paths: dict[str, str] = {}
        found: dict[tuple[str, str], Found] = {}
        for service, port in ports(build, wsdl, options, name, other_versions=True):
            for operation in port.operations.values():
                one = Found(service, port, operation)
                found.setdefault((service.name, operation.name), one)
        count = Counter(operation for _, operation in found)
        for (service_name, operation_name), one in found.items():
            clashes = count[operation_name] > 1
            key = f"{service_name}.{operation_name}" if clashes else operation_name
            path = f"/{service_name}/{operation_name}" if clashes else f"/{operation_name}"
            self._operations[key], self._paths[key] = one, path
        services = {one.service.name for one in self._operations.values()}
        self._title = options.title or (next(iter(services)) if len(services) == 1 else name)
        self._about = options.description or wsdl.documentation
        self._client = _given(options)
        for said in {"repair", "int64"} & options.model_fields_set:
            self._client[said] = getattr(options, said)
        if options.connection is not None:
            self._client["connection"] = options.connection

    def routes(self) -> Iterator[Expanded]:
        """An ordinary route for each operation."""
        options, name = self._options, self._name
        for unknown in options.operations.keys() - self._operations.keys():
            self._build.problem(
                    f"the WSDL has no operation '{unknown}'", name, "operations", unknown,
                    code="wsdl", key=True, hint=did_you_mean(unknown, self._operations),
                )  # fmt: skip
        declared = {f for one in self._operations.values() for f in one.operation.faults}
        for fault in options.faults:
            if fault not in declared:
                self._build.problem(
                    f"the WSDL declares no fault '{fault}'", name, "faults", fault,
                    code="wsdl", key=True, hint=did_you_mean(fault, declared),
                )  # fmt: skip
        exposed = 0
        reason = ""
        for key, found in self._operations.items():
            listed = options.operations.get(key)
            if listed is None and options.only_listed:
                continue
            at: tuple[str, ...] = (name,) if listed is None else (name, "operations", key)
            try:
                yield self._route(key, found, listed, at)
                exposed += 1
            except BuildFailed as e:
                reason = reason or str(e)
        if reason and not exposed and not options.operations:
            self._build.problem(f"no operation can be exposed: {reason}", name, "wsdl", code="wsdl")

    def _route(
        self, key: str, found: Found, listed: ExposedOperation | None, at: tuple[str, ...]
    ) -> Expanded:
        options = self._options
        try:
            self._loaded.schemas(found.operation)
        except WsdlError as e:
            if listed is None:
                log.warning("not exposed", api=self._name, operation=key, reason=str(e))
                raise BuildFailed(str(e)) from e
            raise self._build.problem(str(e), *at, code="wsdl", hint=e.hint) from e
        method, path = "POST", self._paths[key]
        if listed is not None and listed.at:
            method, path = self._spelled(listed.at, at)
        described = Described(
            key, found, self._loaded, method, path, options.faults,
            options.soap or found.port.soap_version,
        )  # fmt: skip
        parameters = described.path_parameters
        if listed is not None:
            self._check(described, at)
        soap: dict[str, Any] = {
            **self._client,
            **(_given(listed) if listed is not None else {}),
            "wsdl": options.wsdl,
            "service": found.service.name,
            "port": found.port.name,
            "operation": found.operation.name,
        }
        if listed is not None and listed.headers:
            soap["headers"] = _merged(options.headers, listed.headers)
        if options.soap not in (None, found.port.soap_version):
            soap["soap"] = options.soap
        if method in ("GET", "PUT", "DELETE"):
            # Whoever chose the method has said so (RFC 9110, section 9.2.2).
            soap.setdefault("idempotent", True)
        if method in ("GET", "DELETE"):
            soap["bind"] = True
        elif parameters:
            soap["bind"] = parameters
        if found.operation.input.headers:
            soap["bind_headers"] = True
        http: dict[str, Any] = {
            "path": (options.at + path).rstrip("/") or "/",
            "method": method,
            "faults": {f: s for f, s in options.faults.items() if f in found.operation.faults},
            "operation": described,
            "api": {"path": options.at, "title": self._title, "description": self._about},
        }
        route: dict[str, Any] = {"from": {"http": http}, "steps": [{"call": {"soap": soap}}]}
        allow = listed.allow if listed is not None and listed.allow is not None else options.allow
        if allow is not None:
            route["allow"] = allow
        if options.callers is not None:
            http["auth"] = options.callers
        if listed is not None and listed.cache is not None:
            route["cache"] = _keyed(listed.cache, described.inputs.headers())
        if listed is not None and listed.rate_limit is not None:
            route["rate_limit"] = listed.rate_limit
        return Expanded(f"{self._name}.{key}", route, at)

    def _spelled(self, spelled: str, at: tuple[str, ...]) -> tuple[str, str]:
        """Method and path of "GET /:id"."""
        method, _, path = spelled.strip().partition(" ")
        path = path.strip()
        if method.upper() not in _METHODS:
            raise self._build.problem(
                f"'{method}' is no method", *at, hint=f"{', '.join(_METHODS)}: GET /:id"
            )
        if not path.startswith("/"):
            raise self._build.problem("a path starts with a slash", *at, hint="GET /:id")
        if "{" in path:
            hint = re.sub(r"\{(\w+)\}", r":\1", path)
            raise self._build.problem("a path parameter is spelled :name", *at,
                                      hint=f"{method} {hint}")  # fmt: skip
        return method.upper(), path

    def _check(self, described: Described, at: tuple[str, ...]) -> None:
        """Whether the parameters can carry the input."""
        for parameter in described.path_parameters:
            if described.inputs.find(parameter) is None:
                names = [f.name for f in described.inputs.top if described.inputs.is_simple(f)]
                raise self._build.problem(
                    f"the input has no field '{parameter}' that a path parameter can fill", *at,
                    hint=did_you_mean(parameter, names),
                )  # fmt: skip
        if described.has_body:
            return
        bound = {f.path[0] for f in described.bound.values()}
        for field in described.inputs.top:
            if (
                field.required
                and field.path[0] not in bound
                and not described.inputs.is_simple(field)
            ):
                raise self._build.problem(
                    f"the input needs '{field.name}', which no query parameter can carry", *at,
                    hint="use POST, whose body is JSON",
                )  # fmt: skip


def _given(options: SoapRequestOptions) -> dict[str, Any]:
    """The options for a call that were said."""
    return {
        key: getattr(options, key)
        for key in options.model_fields_set
        if key in SoapRequestOptions.model_fields
    }


def _keyed(cache: str | dict[str, Any], headers: Iterable[str]) -> dict[str, Any]:
    """Options of a cache; headers of a request that become part of the input tell it apart."""
    options: dict[str, Any] = {"ttl": cache} if isinstance(cache, str) else dict(cache)
    vary = options.get("vary", [])
    return {**options, "vary": [*vary, *headers]} if isinstance(vary, list) else options


def _merged(headers: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    names = {name.lower() for name in own}
    return {**{n: v for n, v in headers.items() if n.lower() not in names}, **own}


section = Section(ExposeOptions, expand)

__all__ = ["ExposeApi", "ExposeOptions", "expand", "section"]
