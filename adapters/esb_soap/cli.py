"""`esb expose WSDL`: a REST API in front of a SOAP service, with no file written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)


@app.command()
def expose(
    ctx: typer.Context,
    wsdl: Annotated[Path, typer.Argument(help="The WSDL, a file.", exists=True, dir_okay=False)],
    at: Annotated[
        str, typer.Option(help="The path to serve it at; made from the file's name if left out.")
    ] = "",
    url: Annotated[
        str, typer.Option(help="The address of the service, if not the one in the WSDL.")
    ] = "",
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8080,
    show: Annotated[
        bool, typer.Option("--print", help="Write the YAML that does the same, and end.")
    ] = False,
) -> None:
    """Serve the operations of a WSDL as a JSON API with documentation."""
    name = re.sub(r"[^a-z0-9]+", "-", wsdl.stem.lower()).strip("-") or "service"
    options: dict[str, Any] = {"wsdl": wsdl.name, "at": at or f"/{name}"}
    if url:
        options["url"] = url
    if show:
        typer.echo(_yaml(name, options, wsdl), nl=False)
        return
    typer.echo(f"documentation: http://{host}:{port}{options['at']}/docs", err=True)
    ctx.obj(
        [],
        extra={
            "expose": {name: options},
            "listen": {"host": host, "port": port},
            "admin": {"enabled": False},  # another bus may be running beside it
        },
        root=wsdl.resolve().parent,
    )


def _yaml(name: str, options: dict[str, Any], wsdl: Path) -> str:
    from esb_soap.wsdl import WsdlError, load_wsdl

    try:
        loaded = load_wsdl(wsdl)
    except WsdlError as e:
        typer.secho(str(e), fg="red", err=True)
        raise typer.Exit(1) from e
    lines = ["expose:", f"  {name}:"]
    lines += [f"    {key}: {value}" for key, value in options.items()]
    lines.append("    operations:  # verb and path of each; take out what should not be changed")
    seen: set[str] = set()
    for service in loaded.services.values():
        for port in service.ports.values():
            for operation in port.operations:
                if operation not in seen:
                    seen.add(operation)
                    lines.append(f"      {operation}: POST /{operation}")
    return "\n".join(lines) + "\n"
