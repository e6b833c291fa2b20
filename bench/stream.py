"""How fast, and in how much memory, a split reads a file of any size piece by piece.

    bench/stream.py [--size 1GB] [--longer 8KB] [FORMAT ...]

Each format has a process of its own, which runs a route that splits a file and looks at each part
with an expression; one of a thousand goes to a queue of the bus, so that batches are committed. The
figure for memory is the process's largest (`ru_maxrss`), beside what it had before it began.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from esb.bus import Bus, Shared
from esb.config import load
from esb.envelope import Body, Envelope
from esb.options import parse_size

ROUTE = """
store: {{path: bus.db, max_size: 10GB}}
routes:
  r:
    from: {{queue: in}}
    steps:
      - split:
          stream: {stream}
          steps:
            - filter: split.index % 1000 == 0
            - send: {{queue: out}}
"""
Made = Callable[[int, bytes], Iterator[bytes]]


def _repeated(head: bytes, one: bytes, tail: bytes) -> Made:
    """Makes files of about a size; `%b` in each part is filled up with what makes it longer."""

    def made(size: int, more: bytes) -> Iterator[bytes]:
        part = one % more
        block = part * (1024 * 1024 // len(part))
        yield head
        for _ in range(max(1, size // len(block))):
            yield block
        yield tail % more if b"%b" in tail else tail

    return made


ITEM = b'{"id": 123456, "name": "Somebody %b", "price": 12.5, "tags": ["a", "b"], "n": null}'
XML = b'<order id="123456"><name>Somebody %b</name><price>12.50</price><t>a</t><t>b</t></order>\n'
FORMATS: dict[str, tuple[str, Made]] = {
    "lines": ("lines", _repeated(b"", b"x" * 99 + b"%b\n", b"")),
    "csv": ("csv", _repeated(b"a,b,c,d\n", b'123456,"Somebody, %b",12.50,x\n', b"")),
    "ndjson": ("ndjson", _repeated(b"", ITEM + b"\n", b"")),
    "json": (
        "{json: data.orders}",
        _repeated(b'{"data": {"orders": [', ITEM + b",\n", ITEM + b"]}}"),
    ),
    "xml": ("{xml: order}", _repeated(b"<orders>", XML, b"</orders>")),
}


def measure(name: str, size: int, longer: int = 0) -> dict[str, Any]:
    """The figures of one format, from a process of its own. longer: bytes that are added to each
    part."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measured, (name, size, longer))


def _measured(name: str, size: int, longer: int) -> dict[str, Any]:
    stream, made = FORMATS[name]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large"
        with file.open("wb") as out:
            out.writelines(made(size, b"y" * longer))
        return asyncio.run(_run(Path(folder), file, stream, name))


async def _run(folder: Path, file: Path, stream: str, name: str) -> dict[str, Any]:
    routes = folder / "routes.yaml"
    routes.write_text(ROUTE.format(stream=stream))
    shared = Shared()
    project = load([routes], root=folder, shared=shared).check()
    bus = Bus(project.routes, shared)
    await bus.start()
    before = _memory()
    began, busy = time.perf_counter(), time.process_time()
    result = await bus.routes["r"].step(
        Envelope(body=Body.from_file(file, "application/octet-stream"))
    )
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    memory = _memory()
    await bus.stop()
    parts = result.params["split"]["count"]
    return {
        "format": name,
        "bytes": file.stat().st_size,
        "parts": parts,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(busy, 2),
        "cpu_microseconds_per_part": round(busy / parts * 1e6, 1),
        "megabytes_per_cpu_second": round(file.stat().st_size / busy / 1e6, 1),
        "memory_before_mb": round(before, 1),
        "memory_mb": round(memory, 1),
    }


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description="Measure a split of large files.")
    parser.add_argument("--size", default="1GB", help="of each file (1GB)")
    parser.add_argument("--longer", default="0", help="by how much each part is longer (0)")
    parser.add_argument("formats", nargs="*", default=list(FORMATS), metavar="FORMAT")
    options = parser.parse_args()
    for name in options.formats:
        print(
            json.dumps(measure(name, parse_size(options.size), parse_size(options.longer))),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
