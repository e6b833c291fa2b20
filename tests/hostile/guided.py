"""The targets of `hostile.fuzz` guided by coverage: `make fuzz ARGS=--atheris`.

Each target runs in a process of its own under atheris (libFuzzer): the code of the bus, of its
adapters and of the parsers in Python is instrumented as it is imported, and an input that reaches
something new is kept to make more of. What was kept lies in `.fuzz/` and is where the next run goes
on. Judged is as without it, and besides what ends the process: a crash in C, a hang in C, more
memory than a bus may have. What breaks is written down and the run goes on.
"""

from __future__ import annotations

import gc
import hashlib
import os
import re
import subprocess
import sys
import types
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PROJECT: Final = Path(__file__).resolve().parents[2]
CORPUS: Final = PROJECT / ".fuzz"

INSTRUMENTED: Final = (
    *("esb", "esb_web", "esb_http", "esb_soap", "esb_amqp", "esb_queue", "esb_file"),
    *("esb_schedule", "hostile", "python_multipart", "jinja2", "jmespath", "cronsim", "joserfc"),
)
"""Packages whose Python leads the way."""

_MEMORY: Final = 1024
"""Megabytes of one process, the instrumented bus included."""

_GENERATED: Final = re.compile("<(?!frozen )")

_DONE: Final = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)/")


@dataclass(frozen=True)
class Run:
    """What came of one target.

    tried: inputs. edges, features: what libFuzzer counted as reached. kept: inputs in its corpus.
    broken: inputs and how each broke, in files. ended: why the process ended before its time.
    """

    name: str
    tried: int
    edges: int
    features: int
    kept: int
    broken: Sequence[Path]
    ended: str

    def __str__(self) -> str:
        told = (
            f"{self.name:18} {self.tried:9} inputs {self.edges:6} edges {self.features:6} features "
            f"{self.kept:5} kept {len(self.broken):2} broken {self.ended}"
        )
        return "\n".join((told.rstrip(), *(f"    {path}" for path in self.broken)))


def run(names: Sequence[str], *, seconds: float, seed: int, jobs: int = 1) -> list[Run]:
    """Feed the named targets for so long each, `jobs` at a time; tell of each as it ends."""
    from setup import locked

    tools = locked("fuzz")
    with ThreadPoolExecutor(jobs) as pool:
        runs = []
        for done in pool.map(lambda name: _run(name, seconds, seed, tools), names):
            print(done, flush=True)
            runs.append(done)
    return runs


def _run(name: str, seconds: float, seed: int, tools: Path) -> Run:
    folder = CORPUS / name.replace(" ", "-")
    for part in ("corpus", "seeds", "broken"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    before = set((folder / "broken").iterdir())
    paths = [str(tools), *filter(None, sys.path)]
    with (folder / "log").open("w+", errors="replace") as log:
        ended = subprocess.run(
            [sys.executable, "-m", "hostile.guided", name, str(folder), str(seconds), str(seed)],
            stdout=log, stderr=log, cwd=folder, env={**os.environ, "PYTHONPATH": ":".join(paths)},
        ).returncode  # fmt: skip
        log.seek(0)
        text = log.read()
    told = _DONE.findall(text)
    counts = map(int, told[-1]) if told else (0, 0, 0, 0)
    broken = sorted(p for p in set((folder / "broken").iterdir()) - before if p.suffix != ".txt")
    why = f"ended with status {ended}, see {folder / 'log'}" if ended else ""
    return Run(name, *counts, broken, why)


# --- in the process of one target -----------------------------------------------------------------


def _feed(name: str, folder: Path, seconds: str, seed: str) -> None:
    import atheris  # type: ignore[import-not-found]

    # It stays for what is imported late.
    atheris.instrument_imports(include=list(INSTRUMENTED)).__enter__()
    from hostile.fuzz import LONGEST, Target, attempt, targets

    target: Target = next(one for one in targets() if one.name == name)
    for raw in target.seeds:
        attempt(target, raw)
        (folder / "seeds" / hashlib.sha256(raw).hexdigest()[:16]).write_bytes(raw)
    _instrument_generated(atheris)
    words = folder / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words if word))
    ways: set[str] = set()

    def one(raw: bytes) -> None:
        outcome, how = attempt(target, raw)
        if how and outcome not in ways and len(ways) < 10:
            ways.add(outcome)
            path = folder / "broken" / hashlib.sha256(raw).hexdigest()[:16]
            path.write_bytes(raw)
            path.with_suffix(".txt").write_text(f"{raw!r}\n{how}")

    options = {
        "max_total_time": int(float(seconds)), "seed": int(seed) + 1, "max_len": LONGEST,
        "timeout": 20, "rss_limit_mb": _MEMORY, "dict": words, "print_final_stats": 1,
        "artifact_prefix": f"{folder / 'broken'}/", "use_value_profile": 1,
    }  # fmt: skip
    given = [f"-{key}={value}" for key, value in options.items()]
    atheris.Setup([sys.argv[0], *given, str(folder / "corpus"), str(folder / "seeds")], one)
    atheris.Fuzz()


def _instrument_generated(atheris: Any) -> None:
    """Code that was made at load (the codecs of WSDLs) was not imported."""
    for one in gc.get_objects():
        if isinstance(one, types.FunctionType) and _GENERATED.match(one.__code__.co_filename):
            atheris.instrument_func(one)


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word[:60])


if __name__ == "__main__":
    _feed(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
