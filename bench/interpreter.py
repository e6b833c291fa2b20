"""Which Python the bus, and whatever else is in Python, is measured under: the fastest one here.

Interpreters that were built without their optimisations (as version managers build them) take a
quarter more time for everything; that says nothing about a bus. Distributions and images ship
optimised ones.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / ".tools" / "bench-python"
_MARGIN = 0.9
"""Another interpreter is taken if it needs less than this share of our own time."""

_PROBE = """
import sys, time
assert getattr(sys, "_is_gil_enabled", lambda: True)(), "packages are not made for this one"
class Message:
    __slots__ = ("body", "id")
    def __init__(self, body, id): self.body = body; self.id = id
async def inner(message): return message.body + message.id
async def outer(message): return await inner(message)
def run(count):
    seen = {}
    for at in range(count):
        try: outer(Message(at, at + 1)).send(None)
        except StopIteration as done: seen[str(at % 100)] = done.value
best = 9.0
for _ in range(5):
    began = time.process_time(); run(60_000); best = min(best, time.process_time() - began)
print(best)
"""


def fastest() -> str:
    """The interpreter to measure under; the running one unless another is clearly faster."""
    found = {sys.executable: _takes(sys.executable)}
    for minor in (11, 12, 13, 14):
        for folder in ("/usr/bin", "/usr/local/bin"):
            if other := shutil.which(f"python3.{minor}", path=folder):
                found[other] = _takes(other)
    best = min(found, key=lambda python: found[python])
    return best if found[best] < _MARGIN * found[sys.executable] else sys.executable


def environment(interpreter: str) -> Path:
    """The python of an environment that has this project and its locked packages, made if it is
    not there. Raises setup.SetupFailed."""
    if interpreter == sys.executable:
        return Path(interpreter)
    sys.path.insert(0, str(PROJECT / "tools"))
    import setup

    setup.sync(setup.find_uv() or setup.fetch_uv(), FOLDER, interpreter)
    return FOLDER / "bin" / "python"


def run_again_under_the_fastest() -> None:
    """Replace this process by the same command under the fastest interpreter, if that is not what
    it is. What an environment without it would mean is told, and nothing is changed."""
    if os.environ.get("BENCH_PYTHON"):
        return
    python = environment(fastest())
    os.environ["BENCH_PYTHON"] = str(python)
    if str(python) != sys.executable:
        os.execv(python, [str(python), *sys.argv])


def _takes(python: str) -> float:
    done = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else float("inf")
