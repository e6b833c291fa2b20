"""The commands that show what there is: `esb graph` and `esb explain` the project's routes, `esb
list` and `esb docs` what routes can be made of."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esb.commands.asking import AsJson, Files
from esb.commands.terminal import fail, fail_with, route_files, table

if TYPE_CHECKING:
    from esb.catalogue import Entry
    from esb.config import Project

Paths = Annotated[
    list[Path] | None,
    typer.Argument(help="YAML files or folders of them; routes/ if left out.", show_default=False),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="A file; standard output if left out.")
]


def _loaded(paths: Sequence[Path] | None) -> tuple[Project, dict[str, str]]:
    """The project, and what its references were resolved to; without the environment's values if
    it lacks some. Ends the command because of any other mistake."""
    from esb.config import load
    from esb.secrets import References

    files = route_files(paths)
    references = References(os.environ)
    project = load(files, environ=references)
    if any(found.code == "reference" for found in project.diagnostics):
        references = References(None)
        project = load(files, environ=references)
    if project.diagnostics:
        fail_with(project.diagnostics)
    return project, references.resolved


# --- routes ---------------------------------------------------------------------------------------


def graph(
    paths: Paths = None,
    svg: Annotated[bool, typer.Option("--svg", help="A picture.")] = False,
    mermaid: Annotated[
        bool, typer.Option("--mermaid", help="A Mermaid flowchart (the default).")
    ] = False,
    output: Output = None,
) -> None:
    """Draw the routes, their steps, and the queues and far sides between them."""
    from esb import graph as drawing

    if svg and mermaid:
        fail("--svg or --mermaid, not both", 2)
    kind = output.suffix.lower() if output is not None else ""
    if kind in (".png", ".pdf", ".jpg", ".jpeg", ".gif", ".webp"):
        fail(f"there is no drawing of {kind}: -o routes.svg, or a Mermaid flowchart", 2)
    project, _ = _loaded(paths)
    found = drawing.read(project.routes)
    as_svg = svg or (not mermaid and kind == ".svg")
    text = drawing.svg(found) if as_svg else drawing.mermaid(found)
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


def explain(
    route: Annotated[str, typer.Argument(help="The route.")],
    project: Files = None,
) -> None:
    """Show a route as it runs: sections, templates and connections put in, all defaults written
    out. Secrets are shown as the references to them."""
    from esb.explain import explain as explained
    from esb.mistakes import did_you_mean

    loaded, resolved = _loaded(project)
    routes = {one.name: one for one in loaded.routes}
    if route not in routes:
        fail(f"there is no route '{route}': {did_you_mean(route, list(routes))}".rstrip(": "))
    typer.echo(explained(routes[route], resolved), nl=False)


# --- what routes can be made of -------------------------------------------------------------------


class What(StrEnum):
    """What can be listed."""

    ADAPTERS = "adapters"
    STEPS = "steps"
    FORMATS = "formats"
    SECTIONS = "sections"
    OPTIONS = "options"


def list_(
    what: Annotated[
        What | None, typer.Argument(help="All but options if left out.", show_default=False)
    ] = None,
    name: Annotated[
        str,
        typer.Argument(
            help="Of options: whose, a step's, an adapter's, a section's; `route` for a route's.",
            show_default=False,
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List what routes can be made of, or the options of one thing."""
    from esb.catalogue import Catalogue

    entries = Catalogue().entries
    if what is What.OPTIONS:
        _list_options(entries, name, as_json)
        return
    if name:
        fail(f"'list {what}' takes no name: esb list options {name}", 2)
    pages = [page for page in What if page is not What.OPTIONS and what in (None, page)]
    found = {page.value: _subjects(entries, page.value.capitalize()) for page in pages}
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for page, subjects in found.items():
        rows = [(one["name"], one["used_in"], one["summary"]) for one in subjects]
        titles = (page.upper(), "USED IN" if page == "adapters" else "", "")
        typer.echo(table([titles, *rows], _width()) + "\n")


def _subjects(entries: Sequence[Entry], page: str) -> list[dict[str, str]]:
    """The steps, adapters, formats or sections, each with what it is."""
    from esb.catalogue import WORDS

    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.page == page and entry.subject:
            found.setdefault(entry.subject, []).append(entry)
    subjects = []
    for name, those in found.items():
        summary = those[0].summary
        titles = [one.title for one in those]
        used = ", ".join(word for word in WORDS.values() if f"{word}: {name}" in titles)
        subjects.append({"name": name, "used_in": used, "summary": summary})
    return subjects


def _list_options(entries: Sequence[Entry], name: str, as_json: bool) -> None:
    from esb.mistakes import did_you_mean

    wanted = [one for one in entries if name and name in (one.subject, one.title)]
    if name == "route":
        wanted = [one for one in entries if one.page == "A route"]
    if not wanted:
        names = sorted({one.subject for one in entries if one.subject} | {"route"})
        why = f"there is no '{name}'" if name else "say whose options"
        fail(f"{why}: {did_you_mean(name or '-', names)}".rstrip(": "), 2)
    told = [
        {
            "of": f"{one.title}{f', {caption}' if caption else ''}",
            "options": [_option(option) for option in options],
            "also": [home.__name__ for home in one.also],
        }
        for one in wanted
        for caption, _, options in one.tables
    ]
    if as_json:
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    for one in wanted:
        typer.secho(one.title, bold=True)
        typer.echo("".join(f"  {line}\n" for line in one.text.splitlines()), nl=False)
        for caption, _, options in one.tables:
            rows: list[Sequence[object]] = [(f"  {caption or 'OPTION'}", "TYPE", "DEFAULT", "")]
            for option in options:
                default = "required" if option.required else option.default
                kind = option.kind.replace("`", "")
                rows.append((f"  {option.name}", kind, default, option.meaning))
            typer.echo(table(rows, _width()))
        typer.echo("")


def _option(option: Any) -> dict[str, Any]:
    return {
        "name": option.name,
        "type": option.kind.replace("`", ""),
        "default": option.default,
        "required": option.required,
        "meaning": option.meaning,
    }


def docs(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder, made if it is not there.")
    ] = Path("reference"),
    asyncapi: Annotated[
        bool,
        typer.Option(
            "--asyncapi", help="AsyncAPI 3.0 of the project's channels, in asyncapi.json."
        ),
    ] = False,
    project: Files = None,
) -> None:
    """Write the reference: a page of Markdown for each step, adapter, format and section; or what
    the project's routes read and feed."""
    if asyncapi:
        from esb.asyncapi import document

        file = output if output.suffix == ".json" else output / "asyncapi.json"
        described = document(_loaded(project)[0].routes)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(described, indent=2, default=str) + "\n", encoding="utf-8")
        typer.echo(f"{len(described['channels'])} channels: {file}")
        return
    from esb.catalogue import pages

    made = pages()
    for name, text in made.items():
        file = output / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    typer.echo(f"{len(made)} pages: {output / 'index.md'}")


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
