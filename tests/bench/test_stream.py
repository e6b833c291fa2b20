"""A file is split in constant memory; what `bench/stream.py` measures, on small files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"


def test_a_large_file_takes_no_more_memory_than_a_batch() -> None:
    command = [sys.executable, BENCH / "stream.py", "--size", "48MB", "--longer", "16KB"]
    done = subprocess.run(
        [*command, "json", "xml"], capture_output=True, text=True, check=True, timeout=100
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["format"] for one in found] == ["json", "xml"]
    for one in found:
        assert one["bytes"] > 45_000_000
        assert one["parts"] > 2_500
        # A batch is 8 MB at most, and a piece of XML is there as a tree and as bytes.
        assert one["memory_mb"] - one["memory_before_mb"] < 30
