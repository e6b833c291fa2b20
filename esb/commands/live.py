"""The commands for a bus that runs: `esb reload`, `esb routes`, `esb versions`."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from esb import logs
from esb.commands.asking import AsJson, Files, Url, told
from esb.commands.asking import running as bus_of
from esb.commands.terminal import plain, table
from esb.errors import EsbError

routes = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Routes of a running bus: list, stop, start, restart.",
)
versions = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="The configurations that a bus ran: list, show, diff, and the way back.",
)
Name = Annotated[str, typer.Argument(help="The route's name.", show_default=False)]
Number = Annotated[int, typer.Argument(help="The version's number.", show_default=False)]


def _ask(url: str, files: list[Path] | None, method: str, path: str, body: Any = None) -> Any:
    """What the bus of the project answers; ends the command with what it says instead."""

    async def asked() -> Any:
        bus = bus_of(url, files)
        if not url:
            await _is_ours(bus)
        return (await bus.ask(method, path, body)).json

    logs.configure(json=False, level="error")
    with told():
        return asyncio.run(asked())


async def _is_ours(bus: Any) -> None:
    """Raises EsbError if another project's bus is there: its routes may have the same names."""
    project = (await bus.ask("GET", "/configuration")).json["project"]
    if project != str(Path.cwd()):
        raise EsbError(
            f"the bus at {bus.url} runs the project in {project}; if you mean that: --url {bus.url}"
        )


def reload(url: Url = "", project: Files = None, as_json: AsJson = False) -> None:
    """Let a running bus read its files again. With mistakes its routes run on as they were."""
    found = _ask(url, project, "POST", "/reload", {"by": _user()})
    _tell_loaded(found, as_json)


@routes.command("list")
def list_routes(url: Url = "", project: Files = None, as_json: AsJson = False) -> None:
    """List the routes and whether they run."""
    found = _ask(url, project, "GET", "/routes")
    if as_json:
        _print(found)
        return
    rows = [(one["name"], one["state"], one["takes"], one["detail"]) for one in found]
    typer.echo(table([("ROUTE", "STATE", "TAKES", ""), *rows], _width()))


@routes.command()
def stop(name: Name, url: Url = "", project: Files = None) -> None:
    """Stop a route until it is started, over reloads and restarts; what is in it is finished."""
    _act(name, "stop", url, project)


@routes.command()
def start(name: Name, url: Url = "", project: Files = None) -> None:
    """Start a route that was stopped."""
    _act(name, "start", url, project)


@routes.command()
def restart(name: Name, url: Url = "", project: Files = None) -> None:
    """Stop a route and start it."""
    _act(name, "restart", url, project)


def _act(name: str, what: str, url: str, files: list[Path] | None) -> None:
    state = _ask(url, files, "POST", f"/routes/{quote(name)}/{what}")
    typer.echo(f"{plain(state['name'])}: {state['state']}")


@versions.command("list")
def list_versions(url: Url = "", project: Files = None, as_json: AsJson = False) -> None:
    """List the versions that are kept, the newest first."""
    found = _ask(url, project, "GET", "/versions")
    if as_json:
        _print(found)
        return
    rows = [
        (
            f"{one['version']}{' *' if one['runs'] else ''}",
            one["time"][:19].replace("T", " "), one["cause"], one["by"], _changes(one),
        )
        for one in found
    ]  # fmt: skip
    typer.echo(table([("VERSION", "TIME (UTC)", "CAUSE", "BY", "ROUTES"), *rows], _width()))


@versions.command()
def show(
    number: Number,
    file: Annotated[
        str, typer.Argument(help="One of its files, whole; their names if left out.")
    ] = "",
    url: Url = "",
    project: Files = None,
) -> None:
    """Show a version's files, or one of them as it was."""
    if not file:
        for name in _ask(url, project, "GET", f"/versions/{number}")["files"]:
            typer.echo(plain(name))
        return

    async def asked() -> bytes:
        bus = bus_of(url, project)
        return (await bus.ask("GET", f"/versions/{number}/files/{quote(file)}")).body

    with told():
        sys.stdout.buffer.write(asyncio.run(asked()))


@versions.command()
def diff(
    number: Number,
    to: Annotated[
        int | None, typer.Argument(help="The other version; the one that runs if left out.")
    ] = None,
    url: Url = "",
    project: Files = None,
) -> None:
    """Show what became of the files from one version to another."""
    query = "" if to is None else f"?to={to}"
    found = _ask(url, project, "GET", f"/versions/{number}/diff{query}")
    for change in found:
        if change["diff"]:
            for line in change["diff"].splitlines():
                typer.echo(plain(line))
        else:
            typer.echo(f"{plain(change['path'])}: {change['kind']}")
    if not found:
        typer.echo("no file differs", err=True)


@versions.command("roll-back")
def roll_back(
    number: Number, url: Url = "", project: Files = None, as_json: AsJson = False
) -> None:
    """Make the project's files what they were in a version, and load them. What lies there now is
    kept as a version, too."""
    found = _ask(url, project, "POST", f"/versions/{number}/roll-back", {"by": _user()})
    _tell_loaded(found, as_json)


def _tell_loaded(found: Any, as_json: bool) -> None:
    if as_json:
        _print(found)
        return
    version = f"version {found['version']}: " if found["version"] else ""
    typer.echo(f"{version}{_changes(found) or 'no route changed'}")


def _changes(one: Any) -> str:
    kinds = (("added", "+"), ("changed", "~"), ("removed", "-"))
    return " ".join(f"{sign}{plain(name)}" for kind, sign in kinds for name in one.get(kind, ()))


def _print(what: Any) -> None:
    typer.echo(json.dumps(what, indent=2))


def _width() -> int:
    return shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 10_000


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())
