"""What the figures were measured on and with: kinds and versions, nothing that names a machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import nginx

_PACKAGES = ("esb", "uvloop", "httptools", "lxml", "msgspec", "apsw", "aio-pika",
             "zeep")  # fmt: skip
_PROJECT = Path(__file__).resolve().parent.parent


def kind() -> dict[str, Any]:
    """Processor, cores, memory, kernel, and what an fsync takes where the bus keeps its data."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if not os.cpu_count() else os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "fsync_us": round(_fsync() * 1e6),
    }


def versions() -> dict[str, str]:
    """Versions of what took part."""
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout
    found = {name: version(name) for name in _PACKAGES}
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=_PROJECT, capture_output=True, text=True
    ).stdout.strip()
    if commit:
        found["esb"] += f" ({commit})"
    return {
        "python": platform.python_version(),
        **found,
        "nginx": nginx.version(),
        "wrk": m[1] if (m := re.search(r"wrk (?:debian/)?([\d.]+)", wrk)) else "?",
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _fsync() -> float:
    with tempfile.TemporaryFile(dir=_PROJECT / ".tools") as file:
        took = []
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return median(took)
