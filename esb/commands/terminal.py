"""What the commands have in common: where the files are, and how mistakes are told."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import typer

from esb.errors import Diagnostic

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def route_files(
    paths: Sequence[Path] | None,
    otherwise: str = "name a file or a folder, or start a project with 'esb init'",
) -> Sequence[Path]:
    """The files that were named, or routes/; ends the command if there is neither, and says what to
    do otherwise."""
    if paths:
        return paths
    if Path("routes").is_dir():
        return [Path("routes")]
    fail(f"there is no routes/ here: {otherwise}", 2)


def show(found: Sequence[Diagnostic]) -> None:
    """Tell mistakes in files, each with its place, and how many there are."""
    counts = {"mistake": 0, "warning": 0}
    for one in found:
        where = f"{one.file}:{one.line}:{one.column}" if one.line else one.file
        typer.secho(f"{where}: ", bold=True, nl=False, err=True)
        warning = one.severity == "warning"
        counts["warning" if warning else "mistake"] += 1
        text = f"warning: {one.message}" if warning else one.message
        typer.secho(text, fg="yellow" if warning else "red", nl=not one.hint, err=True)
        if one.hint:
            typer.echo(f"  ({one.hint})", err=True)
    told = [f"{count} {what}{'s' * (count != 1)}" for what, count in counts.items() if count]
    if told:
        typer.echo(", ".join(told), err=True)


def fail(why: str, status: int = 1) -> NoReturn:
    """End the command."""
    typer.secho(why, fg="red", err=True)
    raise typer.Exit(status)


def fail_with(found: Sequence[Diagnostic]) -> NoReturn:
    """End the command because of mistakes in files."""
    show(found)
    raise typer.Exit(1)


def plain(text: object) -> str:
    """A text that came with a message, without what would steer a terminal."""
    visible = _CONTROL.sub(" ", str(text))
    return "".join(c for c in visible if unicodedata.category(c) != "Cf")


def table(rows: Sequence[Sequence[object]], width: int) -> str:
    """Rows, the first of which has the titles, in columns; the last column is cut to `width`."""
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(_cut(line.rstrip(), width) for line in lines)


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: max(1, width - 3)] + "..."
