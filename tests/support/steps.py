"""One step or a few, compiled from YAML as in a real route."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from esb.clock import REAL, Clock
from esb.config import Project, load
from esb.envelope import Body, Envelope
from esb.step import Step


def project(steps: str, folder: Path, *, clock: Clock = REAL) -> Project:
    """The route `r`, whose callers wait, with these steps; see `Project.diagnostics`."""
    file = folder / "routes.yaml"
    text = "routes:\n  r:\n    from: {http: {path: /r}}\n    steps:\n"
    file.write_text(text + textwrap.indent(textwrap.dedent(steps), " " * 6))
    return load([file], environ={}, root=folder, clock=clock)


def compiled(steps: str, folder: Path, *, clock: Clock = REAL) -> Step:
    """The step of that route."""
    return project(steps, folder, clock=clock).check().routes[0].step


def mistakes(steps: str, folder: Path) -> list[str]:
    """What is wrong with these steps, in the order of their lines: the message and the hint."""
    found = project(steps, folder).diagnostics
    return [f"{d.line}: {d.message}" + (f" ({d.hint})" if d.hint else "") for d in found]


def data(value: Any = None, **fields: Any) -> Envelope:
    """A message with this data as its body."""
    return Envelope(body=Body.of(value), **fields)
