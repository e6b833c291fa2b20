"""Reload under load, in short: nothing that `bench/reload.py` looks for may be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_who_calls_sees_nothing_of_a_reload_and_nothing_is_lost(broker_url: str) -> None:
    done = subprocess.run(
        [
            sys.executable, PROJECT / "bench" / "reload.py", "--json", "--amqp", broker_url,
            "--reloads", "20", "--rate", "150", "--every", "0.1",
        ],
        capture_output=True, text=True, env=os.environ, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["messages"] > 20 * 0.1 * 150 / 2
    counts = {name: found[name] for name in ("errors", "lost", "stale", "exit")}
    assert counts == {"errors": 0, "lost": 0, "stale": 0, "exit": 0}
