"""What a message costs between its source and its far side: microseconds a message in one process.

    bench/engine.py [--quick]

A source hands messages to a route, and a far side in the same process answers at once, so what is
left is the engine: middleware, steps, expressions, guards, metrics. The last column is that less
what the far side's own answer takes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import esb.loading
from esb import logs
from esb.adapter import Adapter, Build, Health, Role
from esb.config import load
from esb.envelope import Body, Envelope, Headers
from esb.options import Options
from esb.step import Step

CONTENT = b'{"order": {"kind": "partner", "number": 17}, "notes": "' + b"x" * 440 + b'"}'
CALL = "steps: [{call: {here: {}}}]"
ROUTES = {
    "nothing": "steps: []",
    "call": CALL,
    "send": "steps: [{send: {here: {}}}]",
    "call, `timeout` of the route": f"timeout: 5s\n    {CALL}",
    "call, `concurrency` of the route": f"concurrency: 100\n    {CALL}",
    "call, `retry`": f"retry: {{attempts: 3}}\n    {CALL}",
    "call, `concurrency` and `circuit_breaker` of the endpoint": (
        "steps: [{call: {here: {concurrency: 100, circuit_breaker: {}}}}]"
    ),
    "call, `trace` of errors": f"trace: {{errors: true}}\n    {CALL}",
    "`choose` by a header, call": (
        "steps: [{choose: [{when: \"headers['x-kind'] == 'partner'\","
        " steps: [{call: {here: {}}}]}]}]"
    ),
    "`choose` by a field of JSON, call": (
        "steps: [{choose: [{when: body.order.kind == 'partner', steps: [{call: {here: {}}}]}]}]"
    ),
    "`set` of a header, call": (
        "steps: [{set: {headers: {x-a: \"headers['x-kind']\"}}}, {call: {here: {}}}]"
    ),
    "`run` of a sub-route that calls": "steps: [{run: sub}]",
    "send, nobody waits: with the default `retry` and dead letters": (
        "from: {here: {waits: false}}\n    steps: [{send: {here: {}}}]"
    ),
}


class Place(Options):
    """Here, in this process."""

    waits: bool = True


class Here:
    """An endpoint in every direction."""

    where = "here"

    def __init__(self, options: Place, build: Build) -> None:
        self.waits = options.waits

    async def call(self, envelope: Envelope) -> Envelope:
        """Answers at once."""
        return envelope.reply(Body(CONTENT, "application/json"), facts={"status": 200})

    async def send(self, envelope: Envelope) -> None:
        """Takes it."""

    async def start(self, step: Step) -> None:
        """The bench calls the step itself."""

    async def stop(self, grace: float) -> None:
        """Nothing is in flight."""

    def health(self) -> Health:
        """Well."""
        return Health(True)


_role = Role(Place, Here)
adapter = Adapter(source=_role, sink=_role, caller=_role)


def message() -> Envelope:
    """What a source makes of a request."""
    headers = [("host", "here"), ("content-type", "application/json"), ("x-kind", "partner")]
    return Envelope(
        source="here",
        type="http.request",
        headers=Headers.trusted([*headers, ("accept", "*/*"), ("user-agent", "bench")]),
        body=Body(CONTENT, "application/json"),
        params={"path": {}, "query": {}},
        deadline=time.monotonic() + 30,
    )


@contextmanager
def _routes() -> Iterator[dict[str, Step]]:
    installed = esb.loading.entry_points_by_name
    here = EntryPoint("here", f"{__name__}:adapter", "esb.adapters")

    def with_here(group: str) -> dict[str, Any]:
        found = installed(group)
        return {**found, "here": here} if group == "esb.adapters" else found

    esb.loading.entry_points_by_name = with_here  # type: ignore[assignment]
    try:
        with tempfile.TemporaryDirectory() as name:
            lines = [f"store: {{path: {name}/bus.db}}", "routes:"]
            for number, route in enumerate(ROUTES.values()):
                source = "" if route.startswith("from:") else "from: {here: {}}\n    "
                lines.append(f"  r{number}:\n    {source}{route}")
            lines.append(f"  sub: {{{CALL}}}")
            file = Path(name) / "routes.yaml"
            file.write_text("\n".join(lines))
            project = load([file], root=Path(name)).check()
            yield {name: route.step for name, route in zip(ROUTES, project.routes, strict=False)}
    finally:
        esb.loading.entry_points_by_name = installed


async def run(*, quick: bool = False) -> list[tuple[str, float]]:
    """The making of a message, the far side's answer, and each route: its microseconds."""
    count, rounds = (200, 2) if quick else (20_000, 7)

    async def microseconds(step: Callable[[Envelope], Any]) -> float:
        best = float("inf")
        for _ in range(rounds):
            messages = [message() for _ in range(count)]
            began = time.process_time()
            for one in messages:
                await step(one)
            best = min(best, time.process_time() - began)
        return best / count * 1e6

    def making() -> float:
        began = time.process_time()
        for _ in range(count):
            message()
        return (time.process_time() - began) / count * 1e6

    with _routes() as routes:
        gc.collect()
        gc.freeze()  # as `esb run` does once it is up
        try:
            made = min(making() for _ in range(rounds))
            answered = await microseconds(Here(Place(), None).call)  # type: ignore[arg-type]
            rows = [("(a message is made)", made), ("(the far side answers)", answered)]
            return rows + [(name, await microseconds(step)) for name, step in routes.items()]
        finally:
            gc.unfreeze()


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description="Measure the engine.")
    parser.add_argument("--quick", action="store_true", help="short; no figures to quote")
    quick = parser.parse_args().quick
    logs.configure(json=True)
    (_, made), (_, answered), *rows = asyncio.run(run(quick=quick))
    print(f"To make a message takes {made:.2f} µs, the far side's answer {answered:.2f} µs.\n")
    print("| route | µs | without the answer |\n| --- | ---: | ---: |")
    for name, took in rows:
        alone = took - answered if "call" in name else took
        print(f"| {name} | {took:.2f} | {alone:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
