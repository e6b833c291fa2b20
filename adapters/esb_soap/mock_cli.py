"""`esb mock WSDL`: the service that a WSDL describes, made up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)

_EACH = "Several may be given; OP=... is for one operation."


@app.command()
def mock(
    ctx: typer.Context,
    wsdl: Annotated[Path, typer.Argument(help="The WSDL, a file.")],
    at: Annotated[
        str, typer.Option(help="The path to serve it at; made from the file's name if left out.")
    ] = "",
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8080,
    seed: Annotated[
        int | None, typer.Option(help="Other samples for each number.", show_default=False)
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="OP=FAULT: answer this fault, one that is declared, Client or Server."),
    ] = None,
    delay: Annotated[
        list[str] | None, typer.Option(help=f"How long answers take: 200ms, 200ms..2s. {_EACH}")
    ] = None,
    fail: Annotated[
        list[str] | None, typer.Option(help=f"How many get a Server fault: 10%. {_EACH}")
    ] = None,
    replies: Annotated[
        Path | None,
        typer.Option(
            help="A folder of replies: OP.json or OP.xml for all requests to an operation, and "
            "replies.yaml with rules.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    record: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Ask the real service, and write what it answers to a folder for --replies.",
            metavar="FOLDER URL",
        ),
    ] = None,
    understood: Annotated[
        list[str] | None,
        typer.Option(help="Namespaces of SOAP headers that may be marked mustUnderstand."),
    ] = None,
    repair: Annotated[
        list[str] | None, typer.Option(help="Common defects of the WSDL to repair, by name.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--print", help="Write the YAML that does the same, and end.")
    ] = False,
) -> None:
    """Serve every operation of a WSDL: valid samples, faults, delays, recorded replies.

    A caller gets a fault for one request with the HTTP header X-Mock-Fault: FAULT.
    """
    from esb_soap.mock import default_path, layout, mock_routes
    from esb_soap.wsdl import WsdlError, load_wsdl

    options: dict[str, Any] = {"seed": seed} if seed is not None else {}
    operations: dict[str, dict[str, Any]] = {}
    for key, values in (("fault", fault), ("delay", delay), ("fail", fail)):
        for value in values or []:
            name, equals, told = value.rpartition("=")
            if equals:
                operations.setdefault(name, {})[key] = told
            elif key == "fault":
                raise typer.BadParameter(f"'{value}' is not OP=FAULT", param_hint="--fault")
            else:
                options[key] = told
    try:
        loaded = load_wsdl(wsdl, repairs=repair or ())
        served = layout(loaded, at or default_path(wsdl))
    except ValueError as e:
        raise typer.BadParameter(str(e), param_hint="--repair") from e
    except WsdlError as e:
        typer.secho(str(e) + (f" ({e.hint})" if e.hint else ""), fg="red", err=True)
        raise typer.Exit(1) from e
    folders = [file.parent for file in loaded.files]
    if replies is not None:
        folders.append(replies.resolve())
        known = {name for one in served for name in one.operations}
        for file in sorted(replies.iterdir() if show else folders[-1].iterdir()):
            if file.name == "replies.yaml":
                options["replies"] = str(file)
            elif file.suffix in (".json", ".xml") and file.stem in known:
                own = operations.setdefault(file.stem, {})
                if "fault" not in own:  # what was asked for by hand counts
                    own["reply"] = str(file)
            elif "." not in file.stem:
                typer.echo(f"{file.name} has the name of no operation: it is for rules", err=True)
    if record is not None:
        options["record"] = {"folder": record[0], "url": record[1]}
    if operations:
        options["operations"] = operations
    routes = mock_routes(
        wsdl if show else wsdl.resolve(),
        at,
        understood=understood or (),
        repair=repair or (),
        loaded=loaded,
        **options,
    )
    if show:
        import yaml

        typer.echo(yaml.safe_dump({"routes": routes}, sort_keys=False, width=100), nl=False)
        return
    for one in served:
        versions = " and ".join(sorted({p.soap_version for p in one.ports}))
        typer.echo(
            f"{one.name}  http://{host}:{port}{one.path}  (SOAP {versions}, ?wsdl)", err=True
        )
        typer.echo(f"  {_listed(one.operations)}", err=True)
    ctx.obj(
        [],
        extra={
            "routes": routes,
            "listen": {"host": host, "port": port},
            "admin": {"enabled": False},  # another bus may be running beside it
        },
        root=Path(os.path.commonpath(folders)),
        grace=5.0,
    )


def _listed(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
