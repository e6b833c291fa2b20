"""The bench of the engine, in short: it measures each of its routes. How fast they are depends on
who else is at work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_it_measures_routes_of_every_kind() -> None:
    bench = PROJECT / "bench" / "engine.py"
    done = subprocess.run(
        [sys.executable, bench, "--quick"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 8
    for name, took, _ in rows:
        assert float(took) > 0, name
