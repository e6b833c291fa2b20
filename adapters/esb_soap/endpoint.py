"""What every SOAP endpoint is told about its service: the WSDL, and which part of it is meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, ParamSpec, TypeVar

from pydantic import AfterValidator, Field

from esb.adapter import Build
from esb.errors import RouteFailure
from esb.options import Options
from esb.step import LARGE, beside
from esb_soap.documents import check_repairs
from esb_soap.repairs import REPAIRS
from esb_soap.wsdl import Operation, Port, Service, Wsdl, WsdlError, load_wsdl

P = ParamSpec("P")
T = TypeVar("T")


def _repairs(value: list[str]) -> list[str]:
    return list(check_repairs(value))


class WsdlOptions(Options):
    """A service, described by a WSDL 1.1 file."""

    wsdl: str = Field(
        description="The WSDL file. What it imports is read from the project; nothing is fetched."
    )
    service: str | None = Field(
        None, description="The service in the WSDL, needed where it could be several."
    )
    port: str | None = Field(
        None, description="The port of the service; the first SOAP port if left out."
    )
    soap: Literal["1.1", "1.2"] | None = Field(
        None, description="Only ports of this SOAP version; else whichever comes first."
    )
    repair: Annotated[list[str], AfterValidator(_repairs)] = Field(
        [],
        description="Common defects of the WSDL to repair when it is read, the file stays as it "
        f"is: {', '.join(REPAIRS)}.",
    )
    int64: Literal["number", "string"] = Field(
        "number",
        description="What integers are in JSON that a double cannot hold exactly (xs:long, "
        "xs:integer and the like): numbers, or strings for callers that would round them. Both are "
        "taken.",
    )


class Found(NamedTuple):
    """An operation and where in the WSDL it is."""

    service: Service
    port: Port
    operation: Operation


class Schemas(NamedTuple):
    """JSON Schemas of what an operation takes and gives; they refer to `Loaded.components`."""

    input: Mapping[str, Any]
    output: Mapping[str, Any] | None
    faults: Mapping[str, Mapping[str, Any]]


class Loaded:
    """A WSDL and what all endpoints that use it share.

    components: the named JSON Schemas of its types, as far as somebody asked for them.
    """

    def __init__(self, wsdl: Wsdl) -> None:
        self.wsdl = wsdl
        self.components: dict[str, Any] = {}
        self._schemas: dict[Operation, Schemas] = {}
        self._seen = _modified(wsdl.files)

    def schemas(self, operation: Operation) -> Schemas:
        """The JSON Schemas of an operation. Raises WsdlError if one of its types is not there."""
        found = self._schemas.get(operation)
        if found is None:
            found = self._schemas[operation] = Schemas(
                operation.input.schema(self.components),
                operation.output.schema(self.components) if operation.output else None,
                {name: f.schema(self.components) for name, f in operation.faults.items()},
            )
        return found

    @property
    def is_current(self) -> bool:
        """Whether its files are still what they were."""
        return self._seen == _modified(self._seen)


class _Latest:
    """The WSDL of a file as it is now: read again when one of its files has changed."""

    def __init__(self, path: Path, root: Path, options: WsdlOptions) -> None:
        self._path = path
        self._root = root
        self._repairs = options.repair
        self._int64 = options.int64
        self._loaded: Loaded | None = None

    def get(self) -> Loaded:
        if self._loaded is None or not self._loaded.is_current:
            wsdl = load_wsdl(self._path, self._root, self._repairs, self._int64)
            self._loaded = Loaded(wsdl)
        return self._loaded


def _modified(files: Iterable[Path]) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns if file.exists() else 0 for file in files}


def load(build: Build, options: WsdlOptions, *path: str | int) -> Loaded:
    """The WSDL of the options, whose name lies at `path`; read once for all routes that use it.
    Raises BuildFailed."""
    file = build.file(options.wsdl, *path)
    latest = build.shared(
        ("wsdl", str(file), options.int64, *options.repair),
        lambda: _Latest(file, build.root(file), options),
    )
    try:
        loaded = latest.get()
    except WsdlError as e:
        raise build.problem(str(e), *path, code="wsdl", hint=e.hint) from e
    for imported in loaded.wsdl.files[1:]:
        build.file(
            str(imported), *path
        )  # counts as the route's: a change of it is one of the route
    return loaded


def ports(
    build: Build, wsdl: Wsdl, options: WsdlOptions, *at: str | int, other_versions: bool = False
) -> list[tuple[Service, Port]]:
    """The ports that the options, which lie `at`, leave open; in the WSDL's order, never none.

    other_versions: where no port is of the SOAP version asked for, those of the other will do: a
        client can speak a version that the WSDL does not mention.

    Raises BuildFailed, with a hint, for a service, port or version that the WSDL lacks.
    """
    services = list(wsdl.services.values())
    if not any(service.ports for service in services):
        raise build.problem(
            f"{options.wsdl} describes no service over SOAP and HTTP", *at, "wsdl", code="wsdl"
        )
    if options.service is not None:
        services = [s for s in services if s.name == options.service]
        if not services:
            raise build.problem(
                f"the WSDL has no service '{options.service}'", *at, "service", code="wsdl",
                hint=did_you_mean(options.service, wsdl.services),
            )  # fmt: skip
    found = [(service, port) for service in services for port in service.ports.values()]
    if options.port is not None:
        names = [port.name for _, port in found]
        found = [(service, port) for service, port in found if port.name == options.port]
        if not found:
            raise build.problem(
                f"the WSDL has no SOAP port '{options.port}'", *at, "port", code="wsdl",
                hint=did_you_mean(options.port, names),
            )  # fmt: skip
    if options.soap is not None:
        versions = sorted({port.soap_version for _, port in found})
        every = found
        found = [(service, port) for service, port in found if port.soap_version == options.soap]
        if not found and other_versions:
            return every
        if not found:
            raise build.problem(
                f"the WSDL has no port for SOAP {options.soap}", *at, "soap", code="wsdl",
                hint=f"there is one for SOAP {' and '.join(versions)}",
            )  # fmt: skip
    return found


def operation(build: Build, wsdl: Wsdl, options: WsdlOptions, name: str) -> Found:
    """The operation `name` at the first port that has it.

    Raises BuildFailed, with a hint, if there is none or if several services have it.
    """
    candidates = ports(build, wsdl, options, other_versions=True)
    found = [
        Found(service, port, port.operations[name])
        for service, port in candidates
        if name in port.operations
    ]
    if not found:
        names = {known for _, port in candidates for known in port.operations}
        for reason in wsdl.skipped:
            if f"'{name}'" in reason:
                raise build.problem(reason, "operation", code="wsdl")
        raise build.problem(
            f"the WSDL has no operation '{name}'", "operation", code="wsdl",
            hint=did_you_mean(name, names),
        )  # fmt: skip
    services = {one.service.name for one in found}
    if len(services) > 1:
        raise build.problem(
            f"several services have an operation '{name}'", "operation", code="wsdl",
            hint=f"say which with `service`: {' or '.join(sorted(services))}",
        )  # fmt: skip
    return found[0]


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """The hint that names the nearest of `names`, or all of them if they are few."""
    known: Sequence[str] = sorted(names)
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), lower, n=1)
    if close:
        return f"did you mean '{lower[close[0]]}'?"
    return f"there are: {', '.join(known)}" if 0 < len(known) <= 12 else ""


class usable:  # noqa: N801 - reads like a verb; a class, since a generator would cost each message
    """What is wrong with types is found at load; what still comes up later is the route's fault."""

    __slots__ = ("_operation",)

    def __init__(self, operation: str) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        return None

    def __exit__(self, type_: object, e: BaseException | None, traceback: object) -> None:
        if isinstance(e, WsdlError):
            error = RouteFailure(f"the WSDL is wrong where it describes '{self._operation}'")
            error.add_note(str(e))
            raise error from e


async def offload(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do work on `size` bytes of XML; much of it in a thread, where lxml lets go of the
    interpreter, so that other messages do not wait."""
    if size > LARGE:
        return await beside(work, *args, **kwargs)
    return work(*args, **kwargs)
