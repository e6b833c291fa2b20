"""`esb expose WSDL`: a REST API in front of a SOAP service, with no file written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

if TYPE_CHECKING:
    from esb.adapter import Build, BuildFailed
    from esb_soap.wsdl import Wsdl

T = TypeVar("T")

app = typer.Typer(add_completion=False)


@app.command()
def expose(
    ctx: typer.Context,
    wsdl: Annotated[Path, typer.Argument(help="The WSDL, a file.")],
    at: Annotated[
        str, typer.Option(help="The path to serve it at; made from the file's name if left out.")
    ] = "",
    url: Annotated[
        str, typer.Option(help="The address of the service, if not the one in the WSDL.")
    ] = "",
    repair: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A common defect to repair when the WSDL is read."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8080,
    show: Annotated[
        bool, typer.Option("--print", help="Write the YAML that does the same, and end.")
    ] = False,
) -> None:
    """Serve the operations of a WSDL as a JSON API with documentation."""
    from esb_soap.wsdl import WsdlError, load_wsdl

    try:
        loaded = load_wsdl(wsdl, repairs=repair or ())
    except ValueError as e:
        raise typer.BadParameter(str(e), param_hint="--repair") from e
    except WsdlError as e:
        typer.secho(str(e), fg="red", err=True)
        if e.hint:
            typer.echo(f"  {e.hint}", err=True)
        raise typer.Exit(1) from e
    api = Api.of(wsdl, loaded, at=at, url=url)
    if show:
        # As it was named, for a file of routes that is written here.
        options = {**api.options, "wsdl": wsdl.as_posix()}
        typer.echo(_yaml(api.name, options, loaded), nl=False)
        return
    typer.echo(f"documentation: http://{host}:{port}{api.options['at'].rstrip('/')}/docs", err=True)
    ctx.obj(
        [],
        extra={
            "expose": {api.name: api.options},
            "listen": {"host": host, "port": port},
            "admin": {"enabled": False},  # another bus may be running beside it
        },
        root=api.root,
    )


@dataclass(frozen=True)
class Api:
    """An entry of `expose:` for a bare file. root: the folder that all of its files are in, from
    which `options` names the WSDL."""

    name: str
    options: dict[str, Any]
    root: Path

    @classmethod
    def of(cls, file: Path, wsdl: Wsdl, *, at: str = "", url: str = "") -> Api:
        """The API of a WSDL that was loaded from a file, repairs included."""
        name = re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-") or "service"
        root = Path(os.path.commonpath([path.parent for path in wsdl.files]))
        relative = wsdl.files[0].relative_to(root).as_posix()
        options: dict[str, Any] = {"wsdl": relative, "at": at or f"/{name}"}
        if url:
            options["url"] = url
        if wsdl.documents.repairs:
            options["repair"] = list(wsdl.documents.repairs)
        return cls(name, options, root)

    def document(self) -> dict[str, Any]:
        """The OpenAPI document that a bus serves for it. Raises ValueError for options that it
        refuses, WsdlError where no operation can be exposed."""
        from pydantic import ValidationError

        from esb_soap.documents import WsdlError
        from esb_soap.expose import ExposeOptions, expand
        from esb_web import Site
        from esb_web.openapi import document

        build = _Bare(self.root)
        try:
            options = ExposeOptions.model_validate({self.name: self.options})
        except ValidationError as e:
            raise ValueError(e.errors()[0]["msg"].removeprefix("Value error, ")) from None
        routes = [one.route["from"]["http"] for one in expand(options, cast("Build", build))]
        if build.problems:
            raise WsdlError(build.problems[0], self.root / self.options["wsdl"])
        sites = [
            Site(
                path=http["path"],
                methods=(http["method"],),
                handler=_nothing,
                operation=http["operation"],
            )
            for http in routes
        ]
        told = routes[0]["api"]
        return document(sites, url="", title=told["title"], description=told["description"])


class _Bare:
    """As much of a Build as `expand` needs, with a folder for a project."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.problems: list[str] = []

    def problem(self, message: str, *path: str | int, hint: str = "", **_: Any) -> BuildFailed:
        from esb.adapter import BuildFailed

        self.problems.append(f"{message} ({hint})" if hint else message)
        return BuildFailed(message)

    def file(self, name: str, *path: str | int) -> Path:
        return self._root / name

    def root(self, file: Path) -> Path:
        return self._root

    def shared(self, key: object, make: Callable[[], T]) -> T:
        return make()


async def _nothing(_request: object) -> Any:
    raise AssertionError("this site is never mounted")


def _yaml(name: str, options: Mapping[str, Any], loaded: Wsdl) -> str:
    lines = ["expose:", f"  {name}:"]
    lines += [f"    {key}: {_plain(value)}" for key, value in options.items()]
    lines.append("    operations:  # verb and path of each; take out what should not be changed")
    seen: set[str] = set()
    for service in loaded.services.values():
        for port in service.ports.values():
            for operation in port.operations:
                if operation not in seen:
                    seen.add(operation)
                    lines.append(f"      {operation}: POST /{operation}")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    return f"[{', '.join(value)}]" if isinstance(value, list) else value
