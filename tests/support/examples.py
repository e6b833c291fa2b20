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
    admin: str

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
    stop cleanly. An example that says itself where it listens takes PORT and ADMIN_PORT."""
    port, admin = free_ports(2)
    sections = {
        "listen": f"{{port: {port}}}",
        "admin": f"{{port: {admin}}}",
        "store": f"{{path: '{folder}/{name}.db'}}",
    }
    said = (PROJECT / "examples" / name / "routes.yaml").read_text()
    ports = folder / f"{name}.yaml"
    ports.write_text(
        "".join(f"{key}: {one}\n" for key, one in sections.items() if f"\n{key}:" not in said)
    )
    environ = {"PORT": str(port), "ADMIN_PORT": str(admin), **environ}
    command = [BIN / "esb", "run", f"examples/{name}", ports, *more]
    with Process(command, cwd=PROJECT, environ=environ) as process:
        process.wait_for(f"http://127.0.0.1:{admin}/readyz")
        yield Bus(process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}")
        assert process.stop() == 0, process.output
