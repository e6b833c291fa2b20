"""`esb wsdl`: what is in a WSDL, what REST API it makes, whether nothing is lost, what changed.

Nothing but `fetch` touches the network; files need no project around them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import structlog
import typer

if TYPE_CHECKING:
    from esb_soap.certify import Report
    from esb_soap.diff import Change
    from esb_soap.message import Message
    from esb_soap.wsdl import Operation, Port, Service, Wsdl

app = typer.Typer(
    name="wsdl",
    add_completion=False,
    no_args_is_help=True,
    help="Look into WSDLs: what is in them, what REST API they make, what changed.",
)

File = Annotated[Path, typer.Argument(help="The WSDL, a file.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]
Repair = Annotated[
    list[str] | None,
    typer.Option(
        "--repair", metavar="NAME", help="A common defect to repair when the WSDL is read."
    ),
]


@app.callback()
def _group() -> None:
    # Standard output is for what was asked for.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


# --- inspect -------------------------------------------------------------------------------------


@app.command()
def inspect(file: File, as_json: AsJson = False, repair: Repair = None) -> None:
    """Show services, ports, operations and types, and what cannot be used and why."""
    wsdl = _loaded(file, repair)
    if as_json:
        _write_json(_inspected(wsdl, file))
        return
    typer.secho(f"{file.name}  {wsdl.target_namespace}", bold=True)
    _say(wsdl.documentation, "  ")
    for service in wsdl.services.values():
        typer.secho(f"\nservice {service.name}", bold=True)
        _say(service.documentation, "  ")
        for port in service.ports.values():
            address = port.address or "no address"
            typer.echo(f"  port {port.name}  SOAP {port.soap_version}  {address}")
            for operation in port.operations.values():
                typer.echo("    " + _line(operation))
    typer.secho("\ntypes", bold=True)
    for namespace, kinds in _types(wsdl).items():
        counted = ", ".join(f"{count} {_plural(kind, count)}" for kind, count in kinds.items())
        typer.echo(f"  {namespace or 'no namespace'}: {counted or 'none'}")
    if len(wsdl.files) > 1:
        typer.secho("\nfiles", bold=True)
        for path in wsdl.files:
            typer.echo(f"  {_relative(path, file)}")
    missing = [f"'{location}' is imported and not there" for location in _missing(wsdl)]
    if wsdl.skipped or missing:
        typer.secho("\nnot used", bold=True)
        for reason in dict.fromkeys([*missing, *wsdl.skipped]):
            typer.secho(f"  {reason}", fg="yellow")
    if wsdl.validator_problem:
        typer.secho("\nnot validated", bold=True)
        typer.secho(f"  libxml2 refuses the schemas: {wsdl.validator_problem}", fg="yellow")


def _line(operation: Operation) -> str:
    style = operation.style + ("/encoded" if operation.use == "encoded" else "")
    output = _names(operation.output) if operation.output else "nothing, it is one-way"
    faults = f", or the fault {' or '.join(operation.faults)}" if operation.faults else ""
    return f"{operation.name}  ({style})  {_names(operation.input)} -> {output}{faults}"


def _names(message: Message) -> str:
    headers = [f"header {header.name}" for header in message.headers]
    return ", ".join([*(element.local for element in message.parts.values()), *headers]) or "empty"


def _inspected(wsdl: Wsdl, file: Path) -> dict[str, Any]:
    return {
        "file": str(file),
        "target_namespace": wsdl.target_namespace,
        "documentation": wsdl.documentation,
        "files": [_relative(path, file) for path in wsdl.files],
        "services": [_service(service) for service in wsdl.services.values()],
        "types": _types(wsdl),
        "missing": _missing(wsdl),
        "skipped": list(dict.fromkeys(wsdl.skipped)),
        "not_validated": wsdl.validator_problem,
    }


def _missing(wsdl: Wsdl) -> list[str]:
    """Locations that lead nowhere; what needs nothing from there works all the same."""
    return list(dict.fromkeys(wsdl.documents.missing))


def _service(service: Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "documentation": service.documentation,
        "ports": [
            {
                "name": port.name,
                "documentation": port.documentation,
                "address": port.address,
                "soap": port.soap_version,
                "operations": [_operation(one) for one in port.operations.values()],
            }
            for port in service.ports.values()
        ],
    }


def _operation(operation: Operation) -> dict[str, Any]:
    def message(one: Message | None) -> dict[str, Any] | None:
        if one is None:
            return None
        return {
            "elements": [element.name for element in one.parts.values()],
            "headers": [header.element.name for header in one.headers],
        }

    return {
        "name": operation.name,
        "documentation": operation.documentation,
        "style": operation.style,
        "use": operation.use,
        "soap_action": operation.soap_action,
        "one_way": operation.one_way,
        "input": message(operation.input),
        "output": message(operation.output),
        "faults": {name: fault.element for name, fault in operation.faults.items()},
    }


def _types(wsdl: Wsdl) -> dict[str, dict[str, int]]:
    """How many global components of each kind the WSDL's own schemas have, by namespace."""
    counted: dict[str, Counter[str]] = {}
    for schema in wsdl.schemas.all:
        if not schema.document.catalogued:
            kinds = counted.setdefault(schema.target, Counter())
            for node in schema.node.iterchildren("{*}element", "{*}complexType", "{*}simpleType"):
                kinds[_KINDS[str(node.tag).rpartition("}")[2]]] += 1
    return {namespace: dict(sorted(kinds.items())) for namespace, kinds in counted.items()}


_KINDS = {"element": "element", "complexType": "complex type", "simpleType": "simple type"}


# --- openapi -------------------------------------------------------------------------------------


@app.command()
def openapi(
    file: File,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file; standard output if left out.")
    ] = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Write YAML instead of JSON.")] = False,
    at: Annotated[
        str, typer.Option(help="The path of the API; made from the file's name if left out.")
    ] = "",
    repair: Repair = None,
) -> None:
    """Write the OpenAPI 3.1 document of the REST API that `esb expose FILE` serves."""
    made = _document(file, at, repair)
    text = _as_yaml(made) if as_yaml else json.dumps(made, indent=2, ensure_ascii=False) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


def _document(file: Path, at: str, repair: Sequence[str] | None, status: int = 1) -> dict[str, Any]:
    """The OpenAPI document of a WSDL; ends with `status` if there can be none."""
    from esb_soap.cli import Api
    from esb_soap.documents import WsdlError

    try:
        return Api.of(file, _loaded(file, repair, status), at=at).document()
    except WsdlError as e:
        _fail(str(e), status=status)
    except ValueError as e:
        raise typer.BadParameter(str(e), param_hint="--at") from e


def _as_yaml(document: dict[str, Any]) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True  # the same schema twice is no alias

    text: str = yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


# --- sample --------------------------------------------------------------------------------------


class Direction(StrEnum):
    """What to show of an operation."""

    REQUEST = "request"
    RESPONSE = "response"
    FAULT = "fault"


class Format(StrEnum):
    """How to show it."""

    JSON = "json"
    XML = "xml"


@app.command()
def sample(
    file: File,
    operation: Annotated[
        str,
        typer.Argument(
            help="The operation; Service.operation or Port.operation if several have it."
        ),
    ],
    direction: Annotated[
        Direction | None, typer.Option(help="Only this.", show_default="all")
    ] = None,
    format_: Annotated[
        Format | None, typer.Option("--format", help="Only this.", show_default="both")
    ] = None,
    repair: Repair = None,
) -> None:
    """Show made-up messages of an operation: as JSON and as SOAP envelopes, with its faults."""
    from esb_soap.samples import NoSample

    wsdl = _loaded(file, repair)
    port, found = _found(wsdl, operation)
    try:
        shown = [
            one
            for one in _samples(wsdl, port, found)
            if (direction is None or one.direction is direction)
            and (format_ is None or one.format is format_)
        ]
    except NoSample as e:
        _fail(f"no sample of '{operation}' can be made up: {e}")
    if not shown:
        _fail(f"'{operation}' has no {direction}")
    for number, one in enumerate(shown):
        if len(shown) > 1:  # what is alone can be piped on
            typer.secho(("\n" if number else "") + f"# {one.title}", bold=True)
        typer.echo(one.text)


@dataclasses.dataclass(frozen=True)
class _Sample:
    direction: Direction
    format: Format
    title: str
    text: str


def _found(wsdl: Wsdl, name: str) -> tuple[Port, Operation]:
    """The operation of that name, at the first port that has it."""
    from esb_soap.endpoint import did_you_mean

    names: list[str] = []
    for service, port, operation in wsdl.operations():
        spelled = (operation.name, f"{port.name}.{operation.name}",
                   f"{service.name}.{operation.name}")  # fmt: skip
        if name in spelled:
            return port, operation
        names.append(operation.name)
    _fail(f"the WSDL has no operation '{name}'", did_you_mean(name, set(names)))


def _samples(wsdl: Wsdl, port: Port, operation: Operation) -> Iterator[_Sample]:
    from esb.errors import Fault
    from esb_soap.envelope import write_envelope, write_fault
    from esb_soap.samples import example
    from esb_web import problem

    for direction, message in (
        (Direction.REQUEST, operation.input), (Direction.RESPONSE, operation.output)
    ):  # fmt: skip
        if message is None:
            continue
        data = example(wsdl.mapping, message)
        yield _Sample(direction, Format.JSON, f"{direction} as JSON", _json(data))
        written = message.write(data)
        envelope = write_envelope(port.soap_version, written.body, written.headers)
        title = f"{direction} as SOAP {port.soap_version}"
        yield _Sample(direction, Format.XML, title, _indented(envelope))
    for fault in operation.faults.values():
        data = example(wsdl.mapping, fault)
        # As the caller of an exposed API gets it.
        error = Fault(fault.name, name=fault.name, party="sender", data=data)
        raw = problem(error, instance=f"/{operation.name}").body
        yield _Sample(Direction.FAULT, Format.JSON, f"fault {fault.name} as JSON", _formatted(raw))
        envelope = write_fault(port.soap_version, "sender", fault.name, detail=fault.write(data))
        title = f"fault {fault.name} as SOAP {port.soap_version}"
        yield _Sample(Direction.FAULT, Format.XML, title, _indented(envelope))


def _json(data: Any) -> str:
    import msgspec

    return _formatted(msgspec.json.Encoder(decimal_format="number").encode(data))


def _formatted(raw: bytes) -> str:
    import msgspec

    return msgspec.json.format(raw, indent=2).decode()


def _indented(envelope: bytes) -> str:
    from lxml import etree

    text: str = etree.tostring(etree.fromstring(envelope), pretty_print=True, encoding="unicode")
    return text.rstrip()


# --- certify -------------------------------------------------------------------------------------


@app.command()
def certify(
    files: Annotated[list[Path], typer.Argument(help="WSDLs, files.", show_default=False)],
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON object a file, each on a line.")
    ] = False,
    repair: Repair = None,
) -> None:
    """Prove that no operation loses anything between JSON and XML, on instances made up from the
    types. Ends with 1 if a WSDL does not load, or an operation cannot be certified."""
    good = True
    _checked(repair)
    for file in files:
        report = _certified(file, repair or ())
        good = good and report.loaded and not report.exceptions
        if as_json:
            _write_json({**dataclasses.asdict(report), "error": report.error or None}, indent=None)
        else:
            _show_report(report)
    raise typer.Exit(0 if good else 1)


def _certified(file: Path, repair: Sequence[str]) -> Report:
    from esb_soap.certify import Report, certify

    try:
        return certify(file, repair)
    except Exception as e:  # noqa: BLE001 - the other files are still to be told of
        return Report(str(file), error=f"certifying it failed ({type(e).__name__}): a bug of esb")


def _show_report(report: Report) -> None:
    if not report.loaded:
        error = report.error.removeprefix(f"{Path(report.file).name}: ")
        typer.secho(f"{report.file}: {error}", fg="red")
        return
    lossless = f"{report.certified}/{report.operations} lossless"
    colour = "red" if report.exceptions else "green"
    typer.secho(f"{report.file}: {lossless} ({report.load_ms:.0f} ms to load)", fg=colour)
    for exception in report.exceptions:
        typer.echo(f"  {exception}")


# --- diff ----------------------------------------------------------------------------------------


@app.command()
def diff(
    old: File,
    new: Annotated[
        Path,
        typer.Argument(help="Its new edition.", exists=True, dir_okay=False, show_default=False),
    ],
    as_json: AsJson = False,
    repair: Repair = None,
) -> None:
    """Tell which callers of the REST API a new edition of a WSDL breaks, and where.

    Ends with 0 if none, 1 if some, 2 if a WSDL does not load.
    """
    from esb_soap.diff import compare

    # Both as one API: the names of the files do not matter.
    before, after = (_document(file, "/", repair, 2) for file in (old, new))
    changes = compare(before, after)
    breaking = [change for change in changes if change.breaking]
    compatible = [change for change in changes if not change.breaking]
    if as_json:
        listed = {"breaking": breaking, "compatible": compatible}
        _write_json({name: [_told(one) for one in found] for name, found in listed.items()})
    else:
        _show_changes("breaking", breaking, "red")
        _show_changes("compatible", compatible, "green")
        typer.echo(f"{len(breaking)} breaking, {len(compatible)} compatible")
    raise typer.Exit(1 if breaking else 0)


def _told(change: Change) -> dict[str, Any]:
    told = dataclasses.asdict(change)
    del told["breaking"]
    return told


def _show_changes(title: str, changes: Sequence[Change], colour: str) -> None:
    """Those of a type that many operations use are shown once."""
    grouped: dict[tuple[str, ...], list[Change]] = {}
    for change in changes:
        kind = change.direction.partition(" ")[0]
        where = change.pointer if change.pointer.startswith("/components/") else change.operation
        grouped.setdefault((kind, where, change.what), []).append(change)
    if grouped:
        typer.secho(title, fg=colour, bold=True)
    for same in grouped.values():
        first = same[0]
        place = " ".join(filter(None, (first.operation, first.direction, first.field)))
        more = len({one.operation for one in same}) - 1
        also = f"  (and in {more} other {_plural('operation', more)})" if more else ""
        typer.echo(f"  {place}: {first.what}{also}")
        typer.secho(f"    {first.pointer}", dim=True)


# --- fetch ---------------------------------------------------------------------------------------


@app.command()
def fetch(
    url: Annotated[str, typer.Argument(help="Where the WSDL is: http://host/service?wsdl.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The folder for it; named after it if left out."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Another host that may be asked for what it imports."),
    ] = None,
    user: Annotated[
        str,
        typer.Option(envvar="ESB_FETCH_USER", help="User name for the WSDL's own host."),
    ] = "",
    password: Annotated[
        str,
        typer.Option(
            envvar="ESB_FETCH_PASSWORD",
            help="The password; better in the environment, where no list of processes shows it.",
            show_default=False,
        ),
    ] = "",
    ca: Annotated[
        Path | None,
        typer.Option(help="PEM file: trust these authorities.", exists=True, dir_okay=False),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for all of it.")] = 60.0,
    force: Annotated[bool, typer.Option("--force", help="Write over files of that name.")] = False,
) -> None:
    """Bring a WSDL with all that it imports into a folder. Nothing else uses the network.

    Ends with 1 if something is missing or the WSDL does not load.
    """
    from esb.errors import EsbError
    from esb_soap.fetch import fetch
    from esb_soap.wsdl import WsdlError, load_wsdl

    try:
        brought = asyncio.run(
            fetch(url, allow=allow or (), user=user, password=password, ca=ca, timeout=timeout)
        )
        folder = output or Path(Path(brought.main).stem)
        written = brought.write(folder, force=force)
    except EsbError as e:
        _fail(e.detail, *getattr(e, "__notes__", ())[:1])
    for path, source in written.items():
        typer.echo(f"{path}  {source}")
    for problem in brought.missing:
        typer.secho(problem, fg="yellow", err=True)
    main = folder / brought.main
    try:
        count = sum(1 for _ in load_wsdl(main).operations())
    except WsdlError as e:
        _fail(f"it was fetched but cannot be used: {e}", e.hint)
    typer.secho(
        f"{count} {_plural('operation', count)}; next: esb wsdl inspect {main}",
        fg="green",
        err=True,
    )
    raise typer.Exit(1 if brought.missing else 0)


# --- what the commands stand on ------------------------------------------------------------------


def _loaded(file: Path, repair: Sequence[str] | None, status: int = 1) -> Wsdl:
    """The WSDL; ends with `status` if it cannot be used."""
    from esb_soap.wsdl import WsdlError, load_wsdl

    _checked(repair)
    try:
        return load_wsdl(file, repairs=repair or ())
    except WsdlError as e:
        _fail(str(e), e.hint, status=status)


def _checked(repair: Sequence[str] | None) -> None:
    from esb_soap.documents import check_repairs

    try:
        check_repairs(repair or ())
    except ValueError as e:
        raise typer.BadParameter(str(e), param_hint="--repair") from e


def _fail(text: str, hint: str = "", *, status: int = 1) -> NoReturn:
    typer.secho(text, fg="red", err=True)
    if hint:
        typer.echo(f"  {hint}", err=True)
    raise typer.Exit(status)


def _write_json(data: Any, indent: int | None = 2) -> None:
    typer.echo(json.dumps(data, indent=indent, ensure_ascii=False))


def _say(text: str, indent: str) -> None:
    for line in text.splitlines()[:3]:
        typer.echo(indent + line[:120])


def _relative(path: Path, file: Path) -> str:
    """A path as seen from the WSDL's folder."""
    return os.path.relpath(path, file.resolve().parent)


def _plural(word: str, count: int) -> str:
    return word + "s" * (count != 1)
