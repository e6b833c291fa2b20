"""`esb check`: what is wrong with route files, and what the routes in them promise."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from esb.analysis.guarantees import Guarantee, guarantees
from esb.commands.asking import AsJson
from esb.commands.terminal import route_files, show
from esb.config import Project, load
from esb.secrets import References

Paths = Annotated[
    list[Path] | None,
    typer.Argument(help="YAML files or folders of them; routes/ if left out.", show_default=False),
]


def check(
    paths: Paths = None,
    as_json: AsJson = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    promises: Annotated[
        bool,
        typer.Option(
            "--guarantees", help="Show what each route promises of delivery, and what weakens it."
        ),
    ] = False,
    no_env: Annotated[
        bool, typer.Option("--no-env", help="Do not resolve ${NAME}: check without the secrets.")
    ] = False,
    vault: Annotated[
        bool, typer.Option("--vault", help="Ask the vault for the secrets of ${vault:...}.")
    ] = False,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile", help="The profile that counts; or ESB_PROFILE.", show_default=False
        ),
    ] = None,
) -> None:
    """Find what is wrong in the route files, without starting anything."""
    references = References(None if no_env else os.environ, asks=vault)
    project = load(route_files(paths), environ=references, profile=profile)
    found = sorted([*project.diagnostics, *project.warnings])
    failed = bool(found if strict else project.diagnostics)
    if promises and not project.diagnostics:
        told = guarantees([route.outline for route in project.routes])
        typer.echo(_as_json(told) if as_json else "\n".join(_table(told)))
        show(found)
    elif as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2))
    else:
        show(found)
        if not failed:
            typer.secho(f"{_counted(project)}: no mistakes", fg="green")
    raise typer.Exit(1 if failed else 0)


def _counted(project: Project) -> str:
    routes, files = len(project.routes), len(project.files)
    return f"{routes} route{'s' * (routes != 1)} in {files} file{'s' * (files != 1)}"


def _as_json(told: Sequence[Guarantee]) -> str:
    every = [
        {
            "route": one.route,
            "guarantee": one.level,
            "weakened": [weakness._asdict() for weakness in one.weakened],
            "provided": [weakness._asdict() for weakness in one.provided],
        }
        for one in told
    ]
    return json.dumps(every, indent=2)


def _table(told: Sequence[Guarantee]) -> list[str]:
    """A line a route; below it the lines that weaken it, and what it depends on."""
    wide = max((len(one.route) for one in told), default=0)
    lines = []
    for one in told:
        lines.append(f"{one.route:{wide}}  {one.level}")
        for weakness in one.weakened:
            hint = f" ({weakness.hint})" if weakness.hint else ""
            lines.append(f"  {weakness.file}:{weakness.line}: {weakness.because}{hint}")
        for weakness in one.provided:
            lines.append(f"  {weakness.file}:{weakness.line}: provided that {weakness.because}")
    return lines
