"""What an expression costs: microseconds of CPU a message, beside Jinja2's own compiled code.

    bench/expressions.py [--quick]

A body that is parsed already is looked at as `when`, `filter` and `set` do it. The last column is
the same expression compiled by Jinja2 in its sandbox, which a fast path of ours stands in for.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

import esb.codecs  # noqa: F401 - registers what bodies are read with
from esb.envelope import Body, Envelope, Headers
from esb.expressions import compile_expression

MESSAGE = Envelope(
    body=Body(
        b'{"amount": 10000.50, "type": "order", "customer": {"country": "AT"},'
        b' "lines": [{"sku": "a", "qty": 2}, {"sku": "b", "qty": 3}]}',
        "application/json",
    ),
    headers=Headers([("x-priority", "high"), ("content-type", "application/json")]),
    params={"path": {"id": "7"}},
)
EXPRESSIONS = (
    "body.amount > 10000",
    "body.type == 'order'",
    "body.customer.country in ['AT', 'DE']",
    "headers['x-priority'] == 'high' and body.amount > 10000",
    "body.lines | length > 1",
    "body.customer.region | default('none')",
    "path.id ~ '-' ~ body.type",
)


def run(*, quick: bool = False) -> list[tuple[str, float, float]]:
    """Each expression with the microseconds that it takes, ours and Jinja2's."""
    assert MESSAGE.body.data, "the body is parsed before anything is measured"
    environment = ImmutableSandboxedEnvironment()
    found: list[tuple[str, float, float]] = []
    for source in EXPRESSIONS:
        ours = compile_expression(source)
        theirs = environment.compile_expression(source)
        names: dict[str, Any] = {
            "body": MESSAGE.body.data,
            "headers": dict(MESSAGE.headers),
            **MESSAGE.params,
        }
        took = _microseconds(partial(ours, MESSAGE), quick=quick)
        found.append((source, took, _microseconds(partial(theirs, **names), quick=quick)))
    return found


def _microseconds(job: Callable[[], Any], *, quick: bool) -> float:
    count, rounds = (200, 3) if quick else (20_000, 7)
    times = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(count):
            job()
        times.append((time.process_time() - began) / count * 1e6)
    return median(times)


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description="Measure expressions.")
    parser.add_argument("--quick", action="store_true", help="short; no figures to quote")
    print("| expression | µs | Jinja2's own, µs |\n| --- | --- | --- |")
    for source, ours, theirs in run(quick=parser.parse_args().quick):
        shown = source.replace("|", "\\|")
        print(f"| `{shown}` | {ours:.2f} | {theirs:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
