"""`esb test`: run the tests beside the routes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esb.commands.terminal import fail, plain, route_files, show

if TYPE_CHECKING:
    from esb.testing.report import Row
    from esb.testing.suite import Result

Paths = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Files of tests, or folders that have some; routes/ if left out.", show_default=False
    ),
]


def command(
    paths: Paths = None,
    only: Annotated[
        str,
        typer.Option(
            "--filter", "-f", help="Only tests whose name contains this, or of this route."
        ),
    ] = "",
    junit: Annotated[
        Path | None, typer.Option("--junit", help="Write a report in JUnit's XML to this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")] = False,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Show which steps and branches no test ran.")
    ] = False,
    min_coverage: Annotated[
        float, typer.Option(min=0, max=100, help="Fail if less of the steps ran, in percent.")
    ] = 0.0,
    watch: Annotated[
        bool, typer.Option("--watch", help="Run the tests again when a file changes.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the tests that pass, too.")
    ] = False,
) -> None:
    """Run the tests of routes: *.test.yaml. Nothing is called that is not mocked."""
    named = list(route_files(paths))
    run = partial(_run, named, only, junit, as_json, coverage, min_coverage, verbose)
    if not watch:
        raise typer.Exit(0 if run()[0] else 1)
    files: set[Path] = {*named}
    changes, watched = _changes(files)
    while True:
        with contextlib.suppress(typer.Exit):
            files = {*named, *run()[1]}
        if _folders(files) != watched:
            changes, watched = _changes(files)  # and what changed before that is not missed
        else:
            while not next(changes):
                pass
        typer.echo()


def _folders(files: set[Path]) -> set[Path]:
    folders = {path if path.is_dir() else path.parent for path in (*files, Path("transforms"))}
    return {folder.resolve() for folder in folders if folder.is_dir()}


def _changes(files: set[Path]) -> tuple[Iterator[set[Any]], set[Path]]:
    """What changes in the folders of files, from now on: nothing, again and again, or something.
    And the folders."""
    import watchfiles

    folders = _folders(files)
    changes = watchfiles.watch(*folders, rust_timeout=200, yield_on_timeout=True)
    next(changes)
    return changes, folders


def _run(
    paths: list[Path],
    only: str,
    junit: Path | None,
    as_json: bool,
    coverage: bool,
    min_coverage: float,
    verbose: bool,
) -> tuple[bool, set[Path]]:
    """Run them and tell about it; whether all is well, and which files it takes."""
    from esb.testing import report as reports

    def told(result: Result) -> None:
        if not result.passed:
            typer.secho(f"FAILED {result.file}:{result.line}: {result.name}", fg="red", bold=True)
            for line in reports.details(result):
                typer.echo(f"  {plain(line)}")
        elif verbose:
            typer.echo(f"passed {result.file}:{result.line}: {result.name}")

    begun = perf_counter()
    report = reports.run_tests(paths, only=only, told=_silent if as_json else told)
    if junit is not None:
        junit.write_bytes(reports.as_junit(report))
    if not report.results and not report.mistakes:
        what = f"no test goes by '{only}'" if only else "there are no tests here"
        fail(f"{what}: they are in *.test.yaml, beside the routes", 2)
    rows = reports.covered(report.coverage)
    share = reports.percentage(rows)
    enough = share >= min_coverage
    if as_json:
        typer.echo(json.dumps(reports.as_json(report), indent=2, default=str))
    else:
        for found in report.mistakes.values():
            show(found)
        if coverage:
            _show_coverage(rows)
        count, failed = len(report.results), len(report.failed)
        text = f"{count} test{'s' * (count != 1)}, {failed or 'none'} failed"
        if report.mistakes:
            text += f"; {len(report.mistakes)} of the files cannot be run"
        text += f"; {share:.0f}% of the steps ran; {perf_counter() - begun:.1f} s"
        typer.secho(text, fg="green" if report.passed else "red")
    if not enough:
        typer.secho(f"at least {min_coverage:g}% of the steps should run", fg="red", err=True)
    return report.passed and enough, report.files


def _silent(result: Result) -> None:
    """All is told in the end."""


def _show_coverage(rows: list[Row]) -> None:
    for row in rows:
        typer.echo(f"{row.percent:4.0f}%  {row.ran:3} of {row.steps:<3} {row.route}  ({row.file})")
        for place in row.missed:
            typer.secho(f"       never ran: {place}", fg="yellow")
