"""A project's folder, run as its users run it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.processes import Answer, Process, free_ports, request

PROJECT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Bus:
    """A bus in a process of its own."""

    process: Process
    url: str

    def get(self, path: str) -> Answer:
        """GET a path."""
        return request("GET", self.url + path)

    def post(self, path: str, body: object) -> Answer:
        """POST JSON to a path."""
        return request("POST", self.url + path, body)


Start = Callable[..., Bus]
"""Starts an example by its name, with further files; the keywords are its environment."""


@contextmanager
def running(
    name: str, environ: dict[str, str], folder: Path, more: Sequence[Path] = ()
) -> Iterator[Bus]:
    """`esb run examples/<name>` and `more` files on free ports, with its store in `folder`; it must
    stop cleanly."""
    port, admin = free_ports(2)
    ports = folder / f"{name}.yaml"
    ports.write_text(
        f"listen: {{port: {port}}}\n"
        f"admin: {{port: {admin}}}\n"
        f"store: {{path: '{folder}/{name}.db'}}\n"
    )
    command = [BIN / "esb", "run", f"examples/{name}", ports, *more]
    with Process(command, cwd=PROJECT, environ=environ) as process:
        process.wait_for(f"http://127.0.0.1:{admin}/readyz")
        yield Bus(process, f"http://127.0.0.1:{port}")
        assert process.stop() == 0, process.output
